//! A Deployment lives its life: one pod leads, it is deleted, another leads.

use std::time::Duration;

use crate::cluster::wait_for;
use crate::stage::{BEFORE_EXPIRY, SOON, Stage};
use crate::support::clock;
use crate::workload::{Alive, App, Workload};

#[test]
fn a_deployment_has_one_leader() {
    let stage = Stage::new("one-leader");
    stage.deploy(&Workload::new());
    let leader = stage.leader();
    let lease = stage.get("leases/web").expect("the sidecar makes the Lease");
    let holder = lease["spec"]["holderIdentity"].as_str().expect("a holder");
    assert!(holder.starts_with(&format!("{}_", leader.name())), "{holder} and {}", leader.name());
    // The others were asked as well, and said no.
    wait_for("every pod's app to be answered", SOON, || {
        let said = stage.records.said();
        let told = |pod: &str| said.iter().any(|said| said.pod == pod && said.via == "http");
        stage.pods("app=web").iter().all(|pod| told(pod.name())).then_some(())
    });
    assert_eq!(stage.records.moves(), 0);
}

/// Deletes the leader's pod and gives the time from its app's SIGTERM to the other's first yes.
fn delete_the_leader(stage: &Stage, workload: &Workload) -> Duration {
    stage.apply(&workload.manifest(stage));
    stage.wait_rolled_out("deployments/web", SOON);
    let leader = stage.leader();
    let asked = clock::now();
    leader.delete();
    let next = stage.wait_other_leader(leader.name(), asked, SOON);
    // Another pod's yes may be read before what this one's app wrote last.
    let told = wait_for("the app's own record of its end", SOON, || stage.records.told_to_end(leader.name()));
    next.from - told
}

#[test]
fn the_leaders_pod_is_deleted_and_its_lock_proves_its_end() {
    let stage = Stage::new("deleted-lock");
    let took = delete_the_leader(&stage, &Workload::new().alive(Alive::Lock));
    stage.report("SIGTERM by a deletion (lock, Python) to another's yes", took);
    assert!(took < BEFORE_EXPIRY, "{took:?}: nobody waits for a released lease to run out");
}

#[test]
fn the_leaders_pod_is_deleted_and_its_session_proves_its_end() {
    let stage = Stage::new("deleted-session");
    let took = delete_the_leader(&stage, &Workload::new().alive(Alive::Session).app(App::Go));
    stage.report("SIGTERM by a deletion (session, Go) to another's yes", took);
    assert!(took < BEFORE_EXPIRY, "{took:?}: nobody waits for a released lease to run out");
}
