//! What a workload goes through without any fault: rolled over, scaled, changed, ended, given no rights.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::json;

use crate::cluster::wait_for;
use crate::records::Records;
use crate::stage::{BEFORE_EXPIRY, LEASE, SOON, Stage};
use crate::support::clock;
use crate::workload::{Alive, App, Workload, list};

#[test]
fn a_rolling_update_hands_the_lease_on() {
    for (alive, name) in [(Alive::Nothing, "rolling-none"), (Alive::Lock, "rolling-lock")] {
        let stage = Stage::new(name);
        stage.deploy(&Workload::new().alive(alive));
        stage.leader();
        let old: Vec<_> = stage.pods("app=web").iter().map(|pod| pod.name().to_owned()).collect();
        let at = clock::now();
        stage.patch("deployments/web", &json!({"spec": {"template": {"metadata": {"annotations": {"turn": "2"}}}}}));
        stage.wait_rolled_out("deployments/web", SOON);
        stage.records.wait_leader(clock::now(), SOON, |pod| !old.contains(&pod.to_owned()));
        let without = stage.records.longest_without(at);
        let moves = stage.records.moves();
        stage.report(&format!("{name}, update of 3, {moves} moves: longest without a leader"), without);
        assert!(without < BEFORE_EXPIRY, "each of the old ones releases: nobody waits for a lease to run out");
        assert!((1..=3).contains(&moves), "{}", stage.records.timeline());
    }
}

#[test]
fn the_leaders_pod_is_deleted_and_nothing_proves_its_end() {
    let stage = Stage::new("deleted-none");
    stage.deploy(&Workload::new().app(App::Go));
    let leader = stage.leader();
    let asked = clock::now();
    leader.delete();
    let next = stage.wait_other_leader(leader.name(), asked, SOON);
    stage.report("pod deleted (nothing proved, Go) to another's yes", next.from - asked);
    assert!(next.from - asked < BEFORE_EXPIRY, "what was promised is waited out, not the lease");
}

#[test]
fn a_grace_period_that_runs_out_under_an_app_that_stays() {
    let stage = Stage::new("grace");
    let stays = Workload::new().alive(Alive::Lock).env("RECORDER_LINGER_MS", "60000");
    stage.deploy(&stays.pod(json!({"terminationGracePeriodSeconds": 5})));
    let leader = stage.leader();
    let asked = clock::now();
    leader.delete();
    let next = stage.wait_other_leader(leader.name(), asked, SOON);
    let took = next.from - asked;
    stage.report("pod deleted, its app killed after a grace of 5 s, to another's yes", took);
    assert!(took > Duration::from_secs(4), "the app was alive and led");
    assert!(took < Duration::from_secs(5) + LEASE + Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_sidecars_image_is_changed_while_its_app_runs() {
    let stage = Stage::new("image");
    stage.deploy(&Workload::new());
    let leader = stage.leader();
    let at = clock::now();
    let next =
        json!([{"op": "replace", "path": "/spec/initContainers/0/image", "value": "localhost/leasehold:e2e-next"}]);
    stage.kubectl(&["patch", "pod", leader.name(), "--type=json", "--patch", &next.to_string()]);
    // The status names the image as it likes: both names are of the same bytes.
    wait_for("the sidecar to be another", SOON, || {
        let pod = stage.pod(leader.name());
        (pod.restarts("leasehold") == 1 && pod.container("leasehold")["ready"] == true).then_some(())
    });
    stage.records.wait_leader(clock::now(), SOON, |_| true);
    stage.report("sidecar's image changed: longest without a leader", stage.records.longest_without(at));
    assert_eq!(stage.pod(leader.name()).restarts("app"), 0, "the app runs on");
}

#[test]
fn from_one_replica_to_twenty_and_back() {
    let stage = Stage::new("scale");
    stage.deploy(&Workload::new().replicas(1).app(App::Go));
    let first = stage.leader().name().to_owned();
    stage.patch("deployments/web", &json!({"spec": {"replicas": 20}}));
    stage.wait_rolled_out("deployments/web", 2 * SOON);
    let told = |pod: &str| stage.records.said().iter().any(|said| said.pod == pod && said.via == "http");
    wait_for("all twenty to be answered", SOON, || {
        stage.pods("app=web").iter().all(|pod| told(pod.name())).then_some(())
    });
    assert_eq!(stage.records.moves(), 0, "nineteen more are no reason to move:\n{}", stage.records.timeline());
    let at = clock::now();
    stage.patch("deployments/web", &json!({"spec": {"replicas": 1}}));
    stage.wait_rolled_out("deployments/web", SOON);
    let last = stage.records.wait_leader(clock::now(), SOON, |_| true);
    stage.report("scaled from 20 to 1: longest without a leader", stage.records.longest_without(at));
    eprintln!("scaled 1, 20, 1: {first} led first, {} last, {} moves", last.pod_name(), stage.records.moves());
}

#[test]
fn a_job_with_the_sidecar_completes() {
    let stage = Stage::new("job");
    stage.apply(&Workload::new().alive(Alive::Lock).env("RECORDER_RUN_MS", "10000").job(&stage));
    stage.wait("the job to complete", "jobs/web", SOON, |job| job["status"]["succeeded"] == 1);
    let lease = stage.get("leases/web").expect("the sidecar made it");
    assert_eq!(lease["spec"]["holderIdentity"].as_str().unwrap_or_default(), "", "it was released: {lease}");
    assert_eq!(lease["metadata"]["annotations"]["leasehold.dev/released"], lease["spec"]["renewTime"], "with proof");
}

#[test]
fn without_its_role_a_sidecar_says_the_rule_and_the_app_runs() {
    let stage = Stage::new("no-role");
    let mut workload = Workload::new().replicas(1);
    workload.role = false;
    stage.apply(&workload.manifest(&stage));
    let pod = wait_for("the app to run beside a sidecar that may do nothing", SOON, || {
        let pods = stage.pods("app=web");
        let running = pods.iter().find(|pod| pod.container("app")["state"]["running"].is_object());
        running.map(|pod| pod.name().to_owned())
    });
    wait_for("the log to say which rule is missing", SOON, || {
        let log = stage.kubectl(&["logs", &pod, "--container=leasehold"]);
        let says = ["resourceNames", "coordination.k8s.io", "leases", "update"].iter().all(|word| log.contains(word));
        says.then_some(())
    });
    let told = wait_for("the app to be answered", SOON, || Some(stage.records.said()).filter(|told| !told.is_empty()));
    assert!(told.iter().all(|said| said.reason.is_some()), "nobody leads without a Lease: {told:?}");
    workload.role = true;
    stage.apply(&list(workload.rbac()));
    stage.leader();
    let pod = stage.pod(&pod);
    assert_eq!((pod.restarts("leasehold"), pod.restarts("app")), (0, 0));
}

#[test]
fn two_workloads_of_one_namespace_each_have_a_leader() {
    let stage = Stage::new("two-workloads").without_promises();
    let records: Vec<_> = ["web", "api"]
        .into_iter()
        .map(|name| {
            let folder = stage.cluster.records(&stage.namespace).join(name);
            fs::create_dir(&folder).expect("a folder for records");
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).expect("the folder's mode");
            let inside: &'static str = if name == "web" { "/records/web" } else { "/records/api" };
            let mut workload = Workload::new().replicas(2).app(App::Go).env("RECORDER_FOLDER", inside);
            workload.name = name;
            stage.apply(&workload.manifest(&stage));
            (name, Records::of(folder))
        })
        .collect();
    for (name, records) in &records {
        stage.wait_rolled_out(&format!("deployments/{name}"), SOON);
        let leader = records.wait_leader(clock::now(), SOON, |_| true);
        assert!(leader.pod_name().starts_with(name), "{leader} leads {name}");
    }
    // One's end is nothing to the other.
    let web = records[0].1.wait_leader(clock::now(), SOON, |_| true);
    let at = clock::now();
    stage.pod(web.pod_name()).delete();
    records[0].1.wait_leader(at, SOON, |pod| pod != web.pod_name());
    assert_eq!(records[1].1.moves(), 0);
    for (_, records) in &records {
        assert_eq!(records.fault(), None);
    }
}
