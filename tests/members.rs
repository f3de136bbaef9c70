//! Members of a group: each has a Lease of its own on the real API server, and every reader makes the same of them.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use leasehold::membership::name::{api_server_lease, lease_name};
use serde_json::{Value, json};

use support::clock::{self, wait_for, wait_until};
use support::control_plane::{SIDECAR, shared};
use support::front::{Front, Request};
use support::http::Http;
use support::proxy::Proxy;
use support::sidecar::{Builder, Sidecar};
use support::stage::SOON;

const GROUP: &str = "web";
const MEMBER_OF: &str = "leasehold.dev/member-of";
const UID: &str = "11111111-2222-3333-4444-555555555555";

/// A pod that is a member and contends for nothing; its Lease lasts so many seconds, and is renewed each of them.
fn member(namespace: &str, pod: &str, lasts: u64) -> Builder {
    member_by(&shared().kubeconfig(), namespace, pod, lasts)
}

fn member_by(kubeconfig: &Path, namespace: &str, pod: &str, lasts: u64) -> Builder {
    Sidecar::of("", namespace, kubeconfig, pod)
        .without("--lease")
        .flag("--member-of", GROUP)
        .flag("--member-lease-duration", &format!("{lasts}s"))
        .flag("--member-renew-interval", "1s")
        .env("POD_NAMESPACE", namespace)
}

/// The Lease of a pod.
fn lease_of(namespace: &str, pod: &str) -> Option<Value> {
    shared().lease(namespace, &lease_name(GROUP, pod))
}

#[track_caller]
fn wait_lease(namespace: &str, pod: &str, what: &str, accept: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("the Lease of {pod}: {what}"), SOON, || lease_of(namespace, pod).filter(&accept))
}

fn members(sidecar: &Sidecar) -> Value {
    sidecar.get("/v1/members").json()
}

/// Pod and state of each.
fn states(view: &Value) -> BTreeMap<String, String> {
    let of = |member: &Value| (text(&member["pod"]).to_owned(), text(&member["state"]).to_owned());
    view["members"].as_array().expect("a list").iter().map(of).collect()
}

#[track_caller]
fn wait_states(sidecar: &Sidecar, expected: &[(&str, &str)], within: Duration) -> Value {
    let expected: BTreeMap<_, _> = expected.iter().map(|(pod, state)| ((*pod).into(), (*state).into())).collect();
    let what = format!("{} to tell {expected:?}", sidecar.pod());
    wait_for(&what, within, || Some(members(sidecar)).filter(|view| states(view) == expected))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn renew_time(lease: &Value) -> &str {
    text(&lease["spec"]["renewTime"])
}

// --- The own Lease ---

#[test]
fn a_member_makes_its_lease_renews_it_and_deletes_it() {
    let namespace = shared().namespace("members");
    let mut sidecar = member(&namespace, "web-0", 5)
        .env("POD_UID", UID)
        .env("POD_TEMPLATE_HASH", "5d")
        .argument("--member-annotation=example.com/zone=a")
        .start();
    let lease = wait_lease(&namespace, "web-0", "is there", |_| true);
    let (metadata, spec) = (&lease["metadata"], &lease["spec"]);
    assert_eq!(metadata["labels"], json!({MEMBER_OF: GROUP}));
    assert_eq!(metadata["annotations"], json!({"example.com/zone": "a", "leasehold.dev/revision": "5d"}));
    assert_eq!(metadata["ownerReferences"], json!([{"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": UID}]));
    assert!(text(&spec["holderIdentity"]).starts_with("web-0_"), "{spec}");
    assert_eq!(spec["leaseDurationSeconds"], 5);
    assert_eq!(spec["acquireTime"], spec["renewTime"]);
    let renewed = wait_lease(&namespace, "web-0", "is renewed", |next| renew_time(next) != renew_time(&lease));
    assert_eq!(renewed["spec"]["acquireTime"], spec["acquireTime"]);

    let view = wait_states(&sidecar, &[("web-0", "alive")], SOON);
    assert_eq!((&view["count"], &view["self"]["state"], &view["listed"]), (&json!(1), &json!("member"), &json!(true)));
    assert_eq!(view["members"][0]["annotations"], json!({"example.com/zone": "a"}));
    assert_eq!(view["self"]["lease"], json!(lease_name(GROUP, "web-0")));
    wait_until("the file names it", SOON, || sidecar.report("members") == "web-0\n");
    let file: Value = serde_json::from_str(&sidecar.report("members.json")).expect("JSON");
    assert_eq!((&file["count"], &file["group"]), (&json!(1), &json!(GROUP)));
    assert_eq!(sidecar.metric("leasehold_member", &["group=\"web\""]), 1.0);
    for (state, count) in [("alive", 1.0), ("late", 0.0), ("dead", 0.0), ("unknown", 0.0)] {
        assert_eq!(sidecar.metric("leasehold_members", &["group=\"web\"", state]), count);
    }
    // It has no lease to lead.
    assert_eq!(sidecar.get("/leader").status, 404);

    sidecar.sigterm();
    assert!(sidecar.wait(SOON).success());
    assert_eq!(lease_of(&namespace, "web-0"), None);
}

#[test]
fn its_name_is_made_as_api_servers_make_theirs() {
    let host = String::from_utf8_lossy(rustix::system::uname().nodename().to_bytes()).to_lowercase();
    let name = api_server_lease(&host);
    wait_until("the API server has a Lease of that name", Duration::from_secs(60), || {
        shared().lease("kube-system", &name).is_some()
    });
}

#[test]
fn a_static_pods_lease_is_owned_by_nobody() {
    let namespace = shared().namespace("members");
    let _sidecar = member(&namespace, "web-0", 5).env("POD_UID", "0123456789abcdef0123456789abcdef").start();
    let lease = wait_lease(&namespace, "web-0", "is there", |_| true);
    assert_eq!(lease["metadata"].get("ownerReferences"), None);
}

#[test]
fn whoever_takes_the_label_or_the_lease_away_finds_it_again() {
    let namespace = shared().namespace("members");
    let _sidecar = member(&namespace, "web-0", 5).start();
    wait_lease(&namespace, "web-0", "is there", |_| true);
    let name = lease_name(GROUP, "web-0");
    shared().patch_lease(&namespace, &name, &json!({"metadata": {"labels": {MEMBER_OF: null, "team": "a"}}}));
    wait_lease(&namespace, "web-0", "has both labels", |lease| {
        lease["metadata"]["labels"] == json!({MEMBER_OF: GROUP, "team": "a"})
    });
    shared().run_kubectl(&["delete", "lease", &name, "--namespace", &namespace]);
    wait_lease(&namespace, "web-0", "is there again", |_| true);
}

#[test]
fn a_restarted_sidecar_takes_its_pods_lease_over_at_once_and_a_re_created_pod_after_its_end() {
    let namespace = shared().namespace("members");
    let mut sidecar = member(&namespace, "web-0", 6).env("POD_UID", UID).start();
    let first = wait_lease(&namespace, "web-0", "is there", |_| true);
    sidecar.kill9();
    let killed = clock::now();
    sidecar.restart();
    let holder = |lease: &Value| text(&lease["spec"]["holderIdentity"]).to_owned();
    let second = wait_lease(&namespace, "web-0", "has another holder", |lease| holder(lease) != holder(&first));
    // A renewal may have been under way.
    assert!(clock::now() - killed < Duration::from_secs(6), "it waited for its own former self");
    assert_eq!(second["spec"]["leaseTransitions"], 1);

    sidecar.kill9();
    let last = lease_of(&namespace, "web-0").expect("it is there");
    let seen = clock::now();
    let other = "99999999-2222-3333-4444-555555555555";
    sidecar.restart_with_env("POD_UID", Some(other));
    let third = wait_lease(&namespace, "web-0", "has a third holder", |lease| holder(lease) != holder(&last));
    assert!(clock::now() - seen >= Duration::from_secs(6), "nobody proved that the former pod is dead");
    assert_eq!(third["metadata"]["ownerReferences"][0]["uid"], other);
    assert_eq!(third["spec"]["leaseTransitions"], 2);
}

#[test]
fn two_pods_under_one_identity_are_told_and_do_not_fight() {
    let namespace = shared().namespace("members");
    let first = member(&namespace, "web-0", 4).start();
    let lease = wait_lease(&namespace, "web-0", "is there", |_| true);
    let holder = text(&lease["spec"]["holderIdentity"]).to_owned();
    let second = member(&namespace, "web-0", 4).start();
    let view = wait_for("the second says that it is contested", SOON, || {
        Some(members(&second)).filter(|view| view["self"]["state"] == "contested")
    });
    assert_eq!(view["self"]["contested_by"], json!(holder));
    second.wait_log("says what to do", SOON, |line| line.to_string().contains("two pods have one identity"));
    // Longer than the lease lasts.
    let end = clock::now() + Duration::from_secs(6);
    while clock::now() < end {
        let lease = lease_of(&namespace, "web-0").expect("it is there");
        assert_eq!((text(&lease["spec"]["holderIdentity"]), &lease["spec"]["leaseTransitions"]), (&*holder, &json!(0)));
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(members(&first)["self"]["state"], "member");
    assert_eq!(second.count_log(&["two pods have one identity"]), 1);
    // The second takes it once the first is gone.
    drop(first);
    wait_lease(&namespace, "web-0", "is the second's", |lease| text(&lease["spec"]["holderIdentity"]) != holder);
    wait_for("it says so", SOON, || Some(members(&second)).filter(|view| view["self"]["state"] == "member"));
}

#[test]
fn a_member_that_may_not_says_which_right_is_missing_and_its_election_goes_on() {
    let namespace = shared().namespace("members");
    shared().allow_lease(&namespace, SIDECAR, "jobs");
    let kubeconfig = shared().kubeconfig_for(SIDECAR, None);
    let sidecar = Sidecar::of("jobs", &namespace, &kubeconfig, "web-0")
        .flag("--member-of", GROUP)
        .flag("--events", "off")
        .env("POD_NAMESPACE", &namespace)
        .start();
    sidecar.wait_leader(SOON);
    let message = wait_for("it says why it is no member", SOON, || {
        let view = members(&sidecar);
        Some(text(&view["message"]).to_owned()).filter(|message| !message.is_empty())
    });
    assert!(message.contains("name: leasehold-member") && message.contains("delete"), "{message}");
    assert_eq!(members(&sidecar)["self"]["state"], "joining");

    // The Role that it asks for is enough.
    let rules = json!([{
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
        "verbs": ["get", "list", "watch", "create", "update", "delete"],
    }]);
    shared().allow(&namespace, SIDECAR, rules);
    wait_states(&sidecar, &[("web-0", "alive")], Duration::from_secs(40));
    assert_eq!(members(&sidecar)["message"], "");
}

#[test]
fn a_member_costs_a_request_an_interval_and_one_watch() {
    let namespace = shared().namespace("members");
    let sidecar = member(&namespace, "web-0", 10).start();
    let peer = member(&namespace, "web-1", 10).start();
    wait_states(&sidecar, &[("web-0", "alive"), ("web-1", "alive")], SOON);
    wait_states(&peer, &[("web-0", "alive"), ("web-1", "alive")], SOON);
    let requests = |verb: &str| sidecar.metric("leasehold_api_requests_total", &[&format!("verb=\"{verb}\"")]);
    let (began, updates) = (clock::now(), requests("update"));
    thread::sleep(Duration::from_secs(10));
    let (lasted, made) = ((clock::now() - began).as_secs_f64(), requests("update") - updates);
    assert!(made <= lasted + 1.0 && made >= 5.0, "{made} renewals in {lasted} s");
    assert_eq!((requests("create"), requests("get"), requests("list"), requests("watch")), (1.0, 1.0, 1.0, 1.0));
}

// --- The others ---

/// Leases that this test renews, each half second until told otherwise.
struct Driven {
    namespace: String,
    renewed: Arc<Mutex<BTreeSet<usize>>>,
    over: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Driven {
    fn name(number: usize) -> String {
        format!("driven-{number:02}")
    }

    fn start(namespace: &str, count: usize, lasts: u64) -> Driven {
        let connect = shared().connector();
        let renewed = Arc::new(Mutex::new((0..count).collect::<BTreeSet<_>>()));
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (wanted, until, place) = (renewed.clone(), over.clone(), namespace.to_owned());
        let thread = thread::spawn(move || {
            let mut http = connect().expect("the API server is there");
            let path = format!("/apis/coordination.k8s.io/v1/namespaces/{place}/leases");
            for number in 0..count {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": Driven::name(number), "labels": {MEMBER_OF: GROUP}},
                    "spec": {"holderIdentity": format!("{}_x", Driven::name(number)), "leaseDurationSeconds": lasts,
                        "renewTime": "2001-01-01T00:00:00.000000Z"},
                });
                assert_eq!(http.post(&path, &lease).expect("an answer").status, 201);
            }
            for renewal in 1..u64::MAX {
                let wanted = wanted.lock().unwrap().clone();
                for number in wanted {
                    let time = format!("2001-01-01T00:00:00.{renewal:06}Z");
                    let patch = json!({"spec": {"renewTime": time}});
                    let path = format!("{path}/{}", Driven::name(number));
                    let kind = [("Content-Type", "application/merge-patch+json")];
                    let body = patch.to_string();
                    let answer = http.request("PATCH", &path, &kind, body.as_bytes()).expect("an answer");
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
                if until.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
                thread::sleep(Duration::from_millis(500));
            }
        });
        Driven { namespace: namespace.into(), renewed, over, thread: Some(thread) }
    }

    fn stop(&self, numbers: impl Iterator<Item = usize>) {
        let mut renewed = self.renewed.lock().unwrap();
        for number in numbers {
            renewed.remove(&number);
        }
    }

    fn delete(&self, number: usize) {
        self.stop([number].into_iter());
        // One round of renewals may be under way.
        thread::sleep(Duration::from_millis(700));
        shared().run_kubectl(&["delete", "lease", &Driven::name(number), "--namespace", &self.namespace]);
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.over.store(true, std::sync::atomic::Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// When each reader first tells so; all must within a second of the first.
#[track_caller]
fn agree(readers: &[Sidecar], what: &str, within: Duration, so: impl Fn(&Value) -> bool) {
    let mut told = vec![None; readers.len()];
    wait_until(what, within, || {
        for (reader, told) in readers.iter().zip(&mut told) {
            if told.is_none() && so(&members(reader)) {
                *told = Some(clock::now());
            }
        }
        told.iter().all(Option::is_some)
    });
    let times: Vec<_> = told.into_iter().flatten().collect();
    let apart = *times.iter().max().expect("some") - *times.iter().min().expect("some");
    assert!(apart <= Duration::from_secs(1), "{what}: {apart:?} apart");
}

#[test]
fn readers_of_fifty_members_agree_within_a_second() {
    let namespace = shared().namespace("members");
    let readers: Vec<_> = (0..4).map(|n| member(&namespace, &format!("reader-{n}"), 8).start()).collect();
    agree(&readers, "each other", SOON * 2, |view| view["count"] == 4);
    let driven = Driven::start(&namespace, 46, 8);
    agree(&readers, "all that came", SOON * 2, |view| view["count"] == 50);
    // Ten fall silent: late, then dead, and still there.
    driven.stop(0..10);
    let in_state = |state: &'static str, number: usize| {
        move |view: &Value| states(view).values().filter(|is| *is == state).count() == number
    };
    agree(&readers, "ten are late", SOON, in_state("late", 10));
    agree(&readers, "ten are dead", SOON, in_state("dead", 10));
    assert_eq!(members(&readers[0])["count"], 40);
    // One leaves in order.
    driven.delete(10);
    agree(&readers, "one has left", SOON, |view| view["count"] == 39);
    // They come back.
    driven.renewed.lock().unwrap().extend(0..10);
    agree(&readers, "ten are back", SOON, |view| view["count"] == 49);
}

/// An API server lets 256 KiB of annotations be in each, whoever writes them: a page of a hundred can have 25 MiB.
#[test]
fn leases_too_large_for_one_page_are_listed_by_smaller_ones_over_the_same_connection() {
    const HEAVY: usize = 18;
    let namespace = shared().namespace("members");
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    for number in 0..HEAVY {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": Driven::name(number), "labels": {MEMBER_OF: GROUP},
                "annotations": {"example.com/much": "x".repeat(250_000)},
            },
            "spec": {"holderIdentity": format!("{}_x", Driven::name(number)), "leaseDurationSeconds": 3600},
        });
        assert_eq!(shared().api("POST", &path, Some(&lease)).expect("an answer").status, 201);
    }
    let proxy = Proxy::start(shared().address());
    let sidecar = Sidecar::of("jobs", &namespace, &shared().kubeconfig_for("admin", Some(proxy.address())), "web-0")
        .flag("--member-of", GROUP)
        .flag("--member-lease-duration", "20s")
        .flag("--member-renew-interval", "1s")
        .flag("--events", "off")
        .env("POD_NAMESPACE", &namespace)
        .start();
    sidecar.wait_leader(SOON);
    wait_until("all are listed", SOON * 3, || {
        sidecar.get("/v1/members").json()["members"].as_array().is_some_and(|all| all.len() == HEAVY + 1)
    });
    assert_eq!(members(&sidecar)["listed"], true);
    wait_until("it is ready", SOON, || {
        Http::connect(sidecar.probe_address())
            .and_then(|mut http| http.get("/readyz"))
            .is_ok_and(|answer| answer.status == 200)
    });
    // Three ask at once at the start: the election, and the member for its own Lease and for all.
    assert!(proxy.connections() <= 3, "{} connections", proxy.connections());
    let made = proxy.connections();
    // Longer than lists are apart that fail.
    thread::sleep(Duration::from_secs(5));
    assert_eq!(proxy.connections(), made, "nothing was wrong with the connection");
    assert_eq!(sidecar.warnings(), [""; 0]);
}

#[test]
fn a_watch_that_falls_silent_is_found_out_and_begun_anew() {
    let namespace = shared().namespace("members");
    let front = Front::open(shared());
    let reader = member_by(&front.kubeconfig(), &namespace, "web-0", 4).start();
    let _peer = member(&namespace, "web-1", 4).start();
    wait_states(&reader, &[("web-0", "alive"), ("web-1", "alive")], SOON);
    front.hush_watches();
    // Nothing tells the reader of it but what it reads itself, once those that it knows seem silent.
    let _late = member(&namespace, "web-2", 4).start();
    wait_states(&reader, &[("web-0", "alive"), ("web-1", "alive"), ("web-2", "alive")], SOON);
    assert_eq!(front.count(Request::is_watch), 2, "one, and one anew");
}

#[test]
fn a_change_is_waited_for_and_pushed() {
    let namespace = shared().namespace("members");
    let sidecar = member(&namespace, "web-0", 8).start();
    let view = wait_states(&sidecar, &[("web-0", "alive")], SOON);
    let version = text(&view["version"]).to_owned();
    let asked = clock::now();
    // Renewals are no change.
    let same = sidecar.get(&format!("/v1/members?wait=2s&version={version}")).json();
    assert!(clock::now() - asked >= Duration::from_secs(2));
    assert_eq!(text(&same["version"]), version);
    let stream = support::http::Http::connect(sidecar.address()).expect("connects");
    let mut events = stream.stream("/v1/members/watch").expect("a stream");
    assert_eq!(events.next_event().expect("an answer").expect("an event").json()["count"], 1);
    let peer = member(&namespace, "web-1", 8).start();
    let next = sidecar.get(&format!("/v1/members?wait=30s&version={version}")).json();
    assert_ne!(text(&next["version"]), version);
    let pushed = wait_for("the stream says so", SOON, || {
        events.next_event().ok()?.map(|event| event.json()).filter(|view| view["count"] == 2)
    });
    assert_eq!(states(&pushed)["web-1"], "alive");
    drop(peer);
    let refused = sidecar.get("/v1/members?wait=soon&version=x");
    assert_eq!(refused.status, 400);
}

/// A thousand pods, of which this process plays all but two, join within a second or as fast as the API server takes
/// them, and renew. What a sidecar that watches them weighs is printed: give the release by LEASEHOLD_BINARY.
#[test]
#[ignore = "a measurement: make bench"]
fn a_thousand_members_join_at_once() {
    const PLAYERS: usize = 8;
    let namespace = shared().namespace("members");
    let start = |pod: &str| member(&namespace, pod, 40).flag("--member-renew-interval", "10s").start();
    let (sidecar, peer) = (start("web-0"), start("web-1"));
    wait_states(&sidecar, &[("web-0", "alive"), ("web-1", "alive")], SOON * 2);
    let before = (sidecar.rss_kb(), sidecar.memory_kb("RssAnon"));
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let began = clock::now();
    let players: Vec<_> = (0..PLAYERS)
        .map(|player| {
            let (connect, over, namespace) = (shared().connector(), over.clone(), namespace.clone());
            thread::spawn(move || {
                let mut http = connect().expect("the API server is there");
                let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
                let names: Vec<_> =
                    (0..998).filter(|n| n % PLAYERS == player).map(|n| format!("played-{n:03}")).collect();
                for name in &names {
                    let lease = json!({
                        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                        "metadata": {"name": lease_name(GROUP, name), "labels": {MEMBER_OF: GROUP}},
                        "spec": {"holderIdentity": format!("{name}_x"), "leaseDurationSeconds": 40,
                            "renewTime": "2001-01-01T00:00:00.000000Z"},
                    });
                    assert_eq!(http.post(&path, &lease).expect("an answer").status, 201);
                }
                let joined = clock::now();
                for renewal in 1.. {
                    let round = clock::now();
                    for (number, name) in names.iter().enumerate() {
                        if over.load(std::sync::atomic::Ordering::SeqCst) {
                            return joined;
                        }
                        let time = format!("2001-01-01T00:00:00.{renewal:06}Z");
                        let patch = json!({"spec": {"renewTime": time}}).to_string();
                        let kind = [("Content-Type", "application/merge-patch+json")];
                        let path = format!("{path}/{}", lease_name(GROUP, name));
                        let answer = http.request("PATCH", &path, &kind, patch.as_bytes()).expect("an answer");
                        assert_eq!(answer.status, 200, "{answer:?}");
                        // Each in its turn of ten seconds.
                        let due = round + Duration::from_secs(10) * (number as u32 + 1) / names.len() as u32;
                        thread::sleep(due.saturating_sub(clock::now()));
                    }
                }
                joined
            })
        })
        .collect();
    let count = |sidecar: &Sidecar| members(sidecar)["count"].as_u64().unwrap_or_default();
    wait_until("all are seen to live", Duration::from_secs(120), || {
        thread::sleep(Duration::from_millis(200));
        count(&sidecar) == 1000 && count(&peer) == 1000
    });
    let seen = clock::now() - began;
    thread::sleep(Duration::from_secs(20));
    let after = (sidecar.rss_kb(), sidecar.memory_kb("RssAnon"));
    assert_eq!((count(&sidecar), count(&peer)), (1000, 1000), "nobody was lost on the way");
    assert_eq!(sidecar.warnings(), [""; 0]);
    over.store(true, std::sync::atomic::Ordering::SeqCst);
    let joined = players.into_iter().map(|player| player.join().expect("it renewed")).max().expect("some");
    println!(
        "998 members joined in {:.1} s, and two sidecars told all 1000 alive after {:.1} s; VmRSS and RssAnon of one in kB: \
         {before:?} with 2 members, {after:?} with 1000",
        (joined - began).as_secs_f64(),
        seen.as_secs_f64(),
    );
}

/// A hundred sidecars: what they ask the API server for, all together.
#[test]
#[ignore = "a measurement: make bench"]
fn a_hundred_members_cost_a_request_an_interval_each_and_their_watches() {
    const MEMBERS: usize = 100;
    const INTERVAL: u64 = 5;
    const TIME: u64 = 60;
    let namespace = shared().namespace("members");
    let renews = format!("{INTERVAL}s");
    let start =
        |number| member(&namespace, &format!("web-{number}"), 40).flag("--member-renew-interval", &renews).start();
    let sidecars: Vec<_> = (0..MEMBERS).map(start).collect();
    for sidecar in &sidecars {
        wait_until("all are seen to live", SOON * 2, || members(sidecar)["count"] == MEMBERS);
    }
    let requests = |verb: &str| {
        let of = |sidecar: &Sidecar| sidecar.metric("leasehold_api_requests_total", &[&format!("verb=\"{verb}\"")]);
        sidecars.iter().map(of).sum::<f64>() as u64
    };
    let (began, updates) = (clock::now(), requests("update"));
    thread::sleep(Duration::from_secs(TIME));
    let (lasted, made) = ((clock::now() - began).as_secs_f64(), requests("update") - updates);
    let expected = (MEMBERS as f64 * lasted / INTERVAL as f64) as u64;
    let others = ["create", "get", "list", "watch", "delete", "patch"].map(|verb| (verb, requests(verb)));
    println!(
        "{MEMBERS} members, an interval of {INTERVAL} s, {lasted:.1} s: {made} renewals ({expected} expected); since the start {others:?}"
    );
    assert!((expected * 9 / 10..=expected + MEMBERS as u64).contains(&made), "{made} renewals, {expected} expected");
    let once = MEMBERS as u64;
    assert_eq!(others.map(|(_, count)| count), [once, once, once, once, 0, 0]);
    for sidecar in &sidecars {
        assert_eq!(sidecar.warnings(), [""; 0]);
    }
}

// --- The election ---

#[test]
fn a_leader_that_ends_names_the_newest_that_lives_and_that_one_leads() {
    let namespace = shared().namespace("members");
    let start = |pod: &str, revision: &str| {
        Sidecar::of("jobs", &namespace, &shared().kubeconfig(), pod)
            .flag("--member-of", GROUP)
            .flag("--member-lease-duration", "8s")
            .flag("--member-renew-interval", "1s")
            .flag("--events", "off")
            .env("POD_NAMESPACE", &namespace)
            .env("POD_TEMPLATE_HASH", revision)
            .start()
    };
    let mut leader = start("old-0", "1");
    leader.wait_leader(SOON);
    let olds: Vec<_> = ["old-1", "old-2", "old-3"].into_iter().map(|pod| start(pod, "1")).collect();
    // creationTimestamp counts seconds.
    thread::sleep(Duration::from_millis(1100));
    let new = start("new-0", "2");
    let all: Vec<_> = ["new-0", "old-0", "old-1", "old-2", "old-3"].into_iter().map(|pod| (pod, "alive")).collect();
    wait_states(&leader, &all, SOON);
    wait_for("all stand", SOON, || {
        let stands = |pod: &str| {
            lease_of(&namespace, pod)?["metadata"]["annotations"]["leasehold.dev/stands-for"]
                .as_str()
                .map(str::to_owned)
        };
        all.iter().all(|(pod, _)| stands(pod).as_deref() == Some("jobs")).then_some(())
    });
    // What the leader has seen of that.
    thread::sleep(Duration::from_secs(1));
    leader.sigterm();
    assert!(leader.wait(SOON).success());
    new.wait_leader(SOON);
    for old in &olds {
        assert_eq!(old.status()["holder"], "new-0");
    }
    let lease = shared().lease(&namespace, "jobs").expect("it is there");
    assert_eq!(lease["spec"]["leaseTransitions"], 2, "it went straight there");
    assert_eq!(lease_of(&namespace, "old-0"), None);
}
