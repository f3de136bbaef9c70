//! The Lease is everybody's: people, jobs and other tools edit, wipe and delete it, and write what makes no sense. A
//! running leader's term ends at once, no two pods lead, and somebody leads again within a lease duration of the last
//! doubt.

mod support;

use std::time::Duration;

use serde_json::{Value, json};

use support::clock::{self, wait_until};
use support::control_plane::{ControlPlane, shared};
use support::front::{Act, Front};
use support::recorder::Recorder;
use support::sidecar::Sidecar;
use support::stage::{DURATION, LEASE, SOON, Stage, token};

/// D + 0.3 s, the jitter's pause for a conflict, and what a busy machine adds.
const WITHIN_A_LEASE: Duration = Duration::from_millis(5000 + 300 + 1700);
/// A far-away edit is known "at once" when no timer could have told.
const AT_ONCE: Duration = Duration::from_millis(900);

/// Edits the Lease of a leader with a standby: the term ends at once, and within `again` somebody leads under a higher
/// token.
fn ends_the_term(name: &str, again: Duration, edit: impl FnOnce(&Stage)) -> (Duration, Recorder) {
    let stage = Stage::released(shared(), name);
    let (first, second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    let before = token(&first.status());
    edit(&stage);
    let edited = clock::now();
    wait_until("the term to end", AT_ONCE, || {
        let status = first.status();
        status["leader"] == false || token(&status) > before
    });
    let turn = recorder.wait_leader(edited, again, |_| true);
    assert!(turn.token.is_some_and(|token| token > before), "{turn}");
    // And goes on to.
    let renewed = stage.spec()["renewTime"].clone();
    wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
    assert_ne!(first.status()["leader"], second.status()["leader"]);
    recorder.assert_no_overlap();
    (turn.received - edited, recorder)
}

#[test]
fn another_holder_written_under_a_leader_ends_its_term_and_is_respected_for_a_lease() {
    let (after, _) = ends_the_term("holder", WITHIN_A_LEASE, |stage| {
        stage.patch_spec(json!({"holderIdentity": "intruder"}));
    });
    assert!(after > DURATION - Duration::from_millis(100), "taken after {after:?}");
}

/// A pod that comes then and never saw the Lease held waits an answer TTL and a quarter of a second, no longer.
#[test]
fn a_leader_whose_watch_broke_and_cannot_be_begun_anew_hears_of_a_deletion_as_well() {
    let stage = Stage::released(shared(), "blind");
    let front = Front::open(shared());
    // The next renewal, which would tell it too, is 20 s away.
    let pod = Sidecar::of(LEASE, &stage.namespace, &front.kubeconfig(), "a");
    let leader = pod.times("60s", "50s", "20s", "1s").start();
    leader.wait_leader(SOON);
    front.set(|request| match request.is_watch() {
        true => Act::status(503, "ServiceUnavailable", "nobody may watch just now"),
        false => Act::Pass,
    });
    front.break_connections();
    let read = |request: &support::front::Request| request.method == "GET" && !request.path.contains("fieldSelector");
    wait_until("it reads instead", SOON, || front.count(read) > 2);
    stage.delete();
    wait_until("the term to end", AT_ONCE, || leader.status()["leader"] == false);
}

/// What a leader promises from here on it has to take back itself, when its Lease is gone.
#[test]
fn a_leader_whose_connection_is_given_up_watches_over_the_next_one() {
    let stage = Stage::released(shared(), "given-up");
    let front = Front::open(shared());
    let leader = Sidecar::of(LEASE, &stage.namespace, &front.kubeconfig(), "a").start();
    leader.wait_leader(SOON);
    // The open watch says nothing more, and its connection stands; the next write is not answered.
    front.hush_watches();
    let watches = front.count(support::front::Request::is_watch);
    front.set(|request| if request.is_write() { Act::Silence } else { Act::Pass });
    wait_until("a new watch", SOON, || front.count(support::front::Request::is_watch) > watches);
    front.pass();
    let renewed = stage.spec()["renewTime"].clone();
    wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
    stage.delete();
    wait_until("the term to end", AT_ONCE, || leader.status()["leader"] == false);
}

#[test]
fn another_duration_written_under_a_leader_ends_its_term() {
    ends_the_term("duration", WITHIN_A_LEASE, |stage| {
        stage.patch_spec(json!({"leaseDurationSeconds": 7}));
    });
}

#[test]
fn a_longer_duration_written_by_another_holder_is_waited_for() {
    let again = Duration::from_secs(7 + 2);
    let (after, _) = ends_the_term("longer", again, |stage| {
        stage.patch_spec(json!({"holderIdentity": "intruder", "leaseDurationSeconds": 7}));
    });
    assert!(after > Duration::from_millis(6900), "taken after {after:?}");
}

#[test]
fn a_lease_wiped_by_a_manifest_without_a_spec_is_waited_for() {
    let (after, _) = ends_the_term("wiped", WITHIN_A_LEASE, |stage| {
        let manifest = tempfile::NamedTempFile::new().expect("a temporary file");
        let text = format!("apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata:\n  name: {LEASE}\n");
        std::fs::write(manifest.path(), text).expect("writes it");
        let path = manifest.path().to_string_lossy();
        stage.control_plane.run_kubectl(&["replace", "-n", &stage.namespace, "-f", &path]);
    });
    // Nothing proves that the wiped term's holder knows: kubectl itself takes some of the time.
    assert!(after > DURATION - Duration::from_secs(1), "taken after {after:?}");
}

#[test]
fn a_deleted_lease_ends_the_term_and_is_created_anew() {
    ends_the_term("deleted", WITHIN_A_LEASE + Duration::from_millis(1250), |stage| stage.delete());
}

#[test]
fn a_lease_deleted_and_created_again_with_the_same_spec_is_another_lease() {
    let (after, _) = ends_the_term("recreated", WITHIN_A_LEASE, |stage| {
        let lease = stage.lease().expect("is there");
        stage.delete();
        stage.create(json!({"annotations": lease["metadata"]["annotations"]}), lease["spec"].clone());
    });
    // Nobody renews it, not even the pod that it names... unless that pod knows the name for its own and releases it.
    assert!(after < WITHIN_A_LEASE, "{after:?}");
}

#[test]
fn a_deleted_lease_whose_only_pod_led_is_led_again() {
    let stage = Stage::released(shared(), "deleted-alone");
    let pod = stage.pod("a").start();
    let before = token(&pod.wait_leader(SOON));
    let recorder = Recorder::start([&pod]);
    stage.delete();
    let deleted = clock::now();
    pod.wait_not_leader(AT_ONCE);
    let turn = recorder.wait_leader(deleted, WITHIN_A_LEASE + Duration::from_millis(1250), |_| true);
    assert!(turn.token.is_some_and(|token| token > before), "{turn}");
    recorder.assert_no_overlap();
}

#[test]
fn a_newcomer_to_a_deleted_lease_waits_for_what_its_leader_promised() {
    let stage = Stage::released(shared(), "newcomer");
    let leader = stage.slow_pod("a").start();
    leader.wait_leader(SOON);
    let mut recorder = Recorder::start([&leader]);
    recorder.wait_leader(Duration::ZERO, SOON, |_| true);
    stage.delete();
    let deleted = clock::now();
    // It has never seen the Lease; the former leader has, and waits for a minute.
    let newcomer = stage.slow_pod("b").start();
    recorder.watch(&newcomer);
    recorder.wait_leader(deleted, SOON, |pod| pod == "b");
    recorder.assert_no_overlap();
}

#[test]
fn labels_and_annotations_of_others_survive_and_do_not_end_a_term() {
    let stage = Stage::released(shared(), "labels");
    let (first, second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    let before = token(&first.status());
    for number in 0..20 {
        let renewed = stage.spec()["renewTime"].clone();
        stage.patch(json!({"metadata": {"labels": {"round": number.to_string()}, "annotations": {"note": "kept"}}}));
        if number % 5 == 0 {
            wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
        }
    }
    let renewed = stage.spec()["renewTime"].clone();
    wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
    let metadata = stage.lease().expect("is there")["metadata"].take();
    assert_eq!((&metadata["labels"]["round"], &metadata["annotations"]["note"]), (&json!("19"), &json!("kept")));
    assert_eq!(token(&first.status()), before);
    assert!(recorder.transitions().iter().all(|turn| turn.leader == (turn.pod == "a")), "{:?}", recorder.transitions());
    drop(second);
    recorder.assert_no_overlap();
}

#[test]
fn a_dead_leaders_lease_ages_although_its_labels_are_edited_all_the_time() {
    let stage = Stage::released(shared(), "busy-labels");
    let (mut first, _second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    first.kill9();
    let killed = clock::now();
    let mut edited = killed;
    let taken = clock::wait_for("b to lead", SOON, || {
        if clock::now() - edited > Duration::from_millis(500) {
            edited = clock::now();
            stage.patch(json!({"metadata": {"labels": {"edited": format!("{edited:?}")}}}));
        }
        recorder.first_leader(killed, |pod| pod == "b")
    });
    assert!(taken.received - killed < WITHIN_A_LEASE, "after {:?}", taken.received - killed);
    recorder.assert_no_overlap();
}

// --- Records that make no sense ---

/// A pod comes to a Lease that says this, with the held lease's holder never renewing: it leads after its own D.
fn taken_after_a_lease(name: &str, metadata: Value, spec: Value) {
    let stage = Stage::new(shared(), name);
    let created = stage.create(metadata, spec);
    let began = clock::now();
    let pod = stage.pod("a").start();
    let turn = pod.wait_leader(WITHIN_A_LEASE + Duration::from_secs(1));
    let after = clock::now() - began;
    assert!(after > DURATION, "taken after {after:?}");
    let version: u64 = created["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).expect("a version");
    assert!(token(&turn) > version);
}

#[test]
fn a_holder_without_a_duration_is_given_our_own() {
    let spec = json!({"holderIdentity": "somebody", "renewTime": "2026-01-02T03:04:05.000000Z"});
    taken_after_a_lease("no-duration", json!({}), spec);
}

#[test]
fn a_renew_time_in_the_year_9999_changes_nothing() {
    let spec = json!({
        "holderIdentity": "somebody", "leaseDurationSeconds": 1,
        "acquireTime": "9999-12-31T23:59:59.999999Z", "renewTime": "9999-12-31T23:59:59.999999Z",
    });
    taken_after_a_lease("year-9999", json!({}), spec);
}

#[test]
fn a_holder_of_a_megabyte_is_waited_out_and_never_logged_whole() {
    let stage = Stage::new(shared(), "megabyte");
    stage.create(json!({}), json!({"holderIdentity": "h".repeat(1_000_000), "leaseDurationSeconds": 5}));
    let pod = stage.pod("a").start();
    let status = pod.wait_status("a standby", SOON, |status| status["reason"] == "held_by_other");
    assert!(status["message"].as_str().is_some_and(|message| message.len() < 200));
    pod.wait_leader(SOON);
    assert!(pod.log().iter().all(|line| line.len() < 4096));
}

#[test]
fn the_largest_transitions_that_fit_are_no_end() {
    let spec = json!({
        "holderIdentity": "somebody", "leaseDurationSeconds": 5, "leaseTransitions": i32::MAX,
        "renewTime": "2026-01-02T03:04:05.000000Z",
    });
    taken_after_a_lease("transitions", json!({}), spec);
}

#[test]
fn a_token_that_is_no_number_is_led_by_nobody_until_it_is_removed() {
    let stage = Stage::released(shared(), "token");
    stage.patch(json!({"metadata": {"annotations": {"leasehold.dev/token": "9".repeat(30)}}}));
    let pod = stage.pod("a").start();
    let status = pod.wait_status("stuck", SOON, |status| status["reason"] == "token_unusable");
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.contains("leasehold.dev/token") && message.contains("remove it"), "{message}");
    // Longer than its lease: it is not merely waiting.
    let mut http = pod.connect();
    let seen = clock::now();
    wait_until("a lease duration to pass", SOON, || {
        assert_eq!(http.get("/leader").expect("answers").status, 503);
        clock::now() - seen > DURATION + Duration::from_millis(500)
    });
    stage.patch(json!({"metadata": {"annotations": {"leasehold.dev/token": null}}}));
    pod.wait_leader(SOON);
}

#[test]
fn an_operator_raises_the_tokens_floor_by_annotating() {
    let stage = Stage::released(shared(), "floor");
    let floor = 7_000_000_000_u64;
    stage.patch(json!({"metadata": {"annotations": {"leasehold.dev/token": floor.to_string()}}}));
    let pod = stage.pod("a").start();
    assert_eq!(token(&pod.wait_leader(SOON)), floor + 1);
}

#[test]
fn a_pod_that_owns_its_lease_in_the_old_format_keeps_it_until_it_is_deleted() {
    let stage = Stage::new(shared(), "old-format");
    let owner =
        json!({"apiVersion": "v1", "kind": "Pod", "name": "old", "uid": "6f1d7a1e-0000-4000-8000-000000000001"});
    stage.create(json!({"ownerReferences": [owner]}), json!({"holderIdentity": "old"}));
    let pod = stage.pod("a").start();
    let status = pod.wait_status("a standby", SOON, |status| status["reason"] == "held_by_other");
    assert_eq!(status["holder"], "old");
    let mut http = pod.connect();
    let seen = clock::now();
    wait_until("a lease duration to pass", SOON, || {
        assert_eq!(http.get("/leader").expect("answers").status, 503);
        clock::now() - seen > DURATION + Duration::from_millis(500)
    });
    stage.delete();
    pod.wait_leader(WITHIN_A_LEASE + Duration::from_millis(1250));
}

#[test]
fn an_empty_holder_without_proof_is_waited_for_and_one_that_is_trusted_is_taken() {
    let spec = json!({"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": "2026-01-02T03:04:05.000000Z"});
    taken_after_a_lease("unproved", json!({}), spec.clone());

    let stage = Stage::new(shared(), "trusted");
    stage.create(json!({}), spec);
    stage.slow_pod("a").argument("--trust-unheld").start().wait_leader(SOON);
}

#[test]
fn a_lease_under_coordinated_election_is_left_alone() {
    let control_plane = ControlPlane::start_with(&[
        "--feature-gates=CoordinatedLeaderElection=true",
        "--runtime-config=coordination.k8s.io/v1beta1=true",
    ]);
    let stage = Stage::new(&control_plane, "coordinated");
    let created = stage.create(json!({}), json!({"strategy": "OldestEmulationVersion"}));
    assert_eq!(created["spec"]["strategy"], "OldestEmulationVersion", "the API server drops it: nothing is tested");
    let pod = stage.pod("a").start();
    let status = pod.wait_status("out", SOON, |status| status["reason"] == "coordinated_election");
    assert!(status["message"].as_str().is_some_and(|message| message.contains("spec.strategy")), "{status}");
    let before = stage.lease();
    let mut http = pod.connect();
    let seen = clock::now();
    wait_until("a lease duration to pass", SOON, || {
        assert_eq!(http.get("/leader").expect("answers").status, 503);
        clock::now() - seen > DURATION + Duration::from_millis(500)
    });
    assert_eq!(stage.lease(), before);
    stage.patch_spec(json!({"strategy": null}));
    pod.wait_leader(WITHIN_A_LEASE);
}

/// `kubectl edit` and friends go through the same door: kubectl can read what was written.
#[test]
fn kubectl_shows_the_holder_and_the_token() {
    let stage = Stage::released(shared(), "kubectl");
    let pod = stage.pod("a").start();
    let term = token(&pod.wait_leader(SOON));
    let template = "-o=jsonpath={.spec.holderIdentity} {.metadata.annotations.leasehold\\.dev/token}";
    let text = shared().run_kubectl(&["get", "lease", LEASE, "-n", &stage.namespace, template]);
    assert!(text.starts_with("a_") && text.ends_with(&format!(" {term}")), "{text}");
}
