//! Processes of a leader's pod are killed and frozen.

use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::{signal_all, wait_for};
use crate::stage::{BEFORE_EXPIRY, LEASE, SOON, Stage};
use crate::support::clock::{self, BootTime};
use crate::workload::{Alive, App, Workload};

/// Kills these containers of the leader's pod, all at once; gives its name and when that was.
fn kill_the_leaders(stage: &Stage, containers: &[&str]) -> (String, BootTime) {
    let leader = stage.leader();
    let processes: Vec<_> = containers.iter().flat_map(|container| leader.processes(container)).collect();
    let at = clock::now();
    signal_all(&processes, Signal::KILL);
    (leader.name().to_owned(), at)
}

#[test]
fn a_killed_apps_lease_is_another_pods_at_once() {
    let stage = Stage::new("kill-app");
    stage.deploy(&Workload::new().alive(Alive::Lock).app(App::Go));
    let (former, at) = kill_the_leaders(&stage, &["app"]);
    let next = stage.wait_other_leader(&former, at, SOON);
    stage.report("app killed (lock) to another pod's yes", next.from - at);
    assert!(next.from - at < BEFORE_EXPIRY, "the lock's end is a proof: nobody waits for the lease to run out");
    stage.wait_rolled_out("deployments/web", SOON);
}

#[test]
fn a_killed_sidecar_comes_back_and_leads_on() {
    let stage = Stage::new("kill-sidecar");
    stage.deploy(&Workload::new().alive(Alive::Lock));
    let (former, at) = kill_the_leaders(&stage, &["leasehold"]);
    let next = stage.records.wait_leader(at + Duration::from_secs(2), SOON, |_| true);
    stage.report("sidecar killed to the next yes after its last promise", stage.records.longest_without(at));
    assert_eq!(next.pod_name(), former, "the same pod takes its own term over, sooner than the lease runs out");
    // The kubelet tells a moment after it happened.
    wait_for("the sidecar's restart to be told", SOON, || {
        (stage.pod(&former).restarts("leasehold") == 1).then_some(())
    });
    assert_eq!(stage.pod(&former).restarts("app"), 0);
}

#[test]
fn app_and_sidecar_killed_at_once() {
    let stage = Stage::new("kill-both");
    stage.deploy(&Workload::new().alive(Alive::Lock));
    let (_, at) = kill_the_leaders(&stage, &["leasehold", "app"]);
    let next = stage.records.wait_leader(at + Duration::from_secs(1), SOON, |_| true);
    stage.report("both killed to the next yes", next.from - at);
    assert!(next.from - at < LEASE + Duration::from_secs(5), "nobody waits longer than the lease");
    stage.wait_rolled_out("deployments/web", SOON);
}

#[test]
fn a_sidecar_that_stood_still_for_longer_than_the_lease_does_not_lead() {
    let stage = Stage::new("freeze-sidecar");
    stage.deploy(&Workload::new());
    let leader = stage.leader();
    let at = clock::now();
    let frozen = leader.freeze("leasehold");
    let next = stage.wait_other_leader(leader.name(), at, SOON);
    stage.report("sidecar frozen to another pod's yes", next.from - at);
    assert!(next.from - at > BEFORE_EXPIRY, "nobody may take what has not run out");
    // It wakes beside a leader, with its app asking all the time: the recorder's check at the end is the test.
    drop(frozen);
    let woke = clock::now();
    let leader = leader.name().to_owned();
    wait_for("the woken sidecar to say no", SOON, || {
        let said = stage.records.said();
        said.iter().any(|said| said.pod == leader && said.answered > woke && said.reason.is_some()).then_some(())
    });
}

#[test]
fn a_leader_that_is_cut_off_from_the_api_server_stops_before_another_begins() {
    let stage = Stage::new("cut-pod");
    stage.deploy(&Workload::new().app(App::Go));
    let leader = stage.leader();
    let at = clock::now();
    let cut = leader.cut();
    let next = stage.wait_other_leader(leader.name(), at, SOON);
    stage.report("leader's pod cut off to another pod's yes", next.from - at);
    drop(cut);
    let healed = clock::now();
    let leader = leader.name().to_owned();
    wait_for("the healed pod to hear who leads", SOON, || {
        let said = stage.records.said();
        let heard = |reason: &Option<String>| reason.as_deref() == Some("held_by_other");
        said.iter().any(|said| said.pod == leader && said.answered > healed && heard(&said.reason)).then_some(())
    });
}

/// Ten workloads at once, twice each.
#[test]
fn twenty_leaders_are_cut_off_for_a_minute_and_healed_at_a_random_moment() {
    std::thread::scope(|scope| {
        for number in 0..10 {
            scope.spawn(move || {
                let stage = Stage::new(&format!("cut-{number}"));
                stage.apply(&Workload::new().app(App::Go).replicas(2).manifest(&stage));
                stage.wait_rolled_out("deployments/web", 2 * SOON);
                for _ in 0..2 {
                    cut_off_for_a_minute(&stage);
                }
            });
        }
    });
}

fn cut_off_for_a_minute(stage: &Stage) {
    let leader = stage.leader();
    let at = clock::now();
    let cut = leader.cut();
    let next = stage.wait_other_leader(leader.name(), at, SOON);
    stage.report("leader's pod cut off for a minute: to another's yes", next.from - at);
    let random = u64::from(clock::now().subsec_nanos()) % 15_000;
    std::thread::sleep((at + Duration::from_millis(60_000 + random)).saturating_sub(clock::now()));
    drop(cut);
    let healed = clock::now();
    wait_for("the healed pod to hear who leads", SOON, || {
        let said = stage.records.said();
        let heard = |reason: &Option<String>| reason.as_deref() == Some("held_by_other");
        said.iter().any(|said| said.pod == leader.name() && said.answered > healed && heard(&said.reason)).then_some(())
    });
}
