//! What disturbs every pod at once: these scenarios run alone.

use std::thread;
use std::time::Duration;

use crate::stage::{SOON, Stage};
use crate::support::clock;
use crate::workload::{Alive, Workload};

#[test]
fn an_api_server_that_stood_still_for_a_minute_costs_one_change_of_leader_at_most() {
    let stage = Stage::alone("freeze-api");
    stage.deploy(&Workload::new().alive(Alive::Lock));
    stage.leader();
    let frozen = stage.cluster.node("node1").freeze("kube-apiserver");
    let at = clock::now();
    // The length of the outage is what is tested.
    thread::sleep(Duration::from_secs(60));
    let healed = clock::now();
    let promises = stage.records.promises();
    let last = promises.iter().map(|promise| promise.until).max().expect("somebody led");
    assert!(last < at + Duration::from_secs(15), "somebody leads on without an API server");
    drop(frozen);
    let next = stage.records.wait_leader(healed, SOON, |_| true);
    stage.report("API server back to the next yes", next.from - healed);
    assert!(stage.records.moves() <= 1, "{}", stage.records.timeline());
}

#[test]
fn a_kubelet_that_is_restarted_changes_nothing() {
    let stage = Stage::alone("kubelet");
    stage.deploy(&Workload::new().alive(Alive::Lock));
    let leader = stage.leader();
    let at = clock::now();
    stage.cluster.node("node1").signal("kubelet", "KILL");
    // It is back when it says so again, by its Lease.
    let node = || stage.cluster.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node1");
    let renewed = || node().expect("the node's Lease")["spec"]["renewTime"].clone();
    let before = renewed();
    crate::cluster::wait_for("the kubelet to renew its node's Lease", SOON, || (renewed() != before).then_some(()));
    let next = stage.records.wait_leader(clock::now(), SOON, |_| true);
    assert_eq!((next.pod_name(), stage.records.moves()), (leader.name(), 0));
    assert_eq!(stage.records.longest_without(at), Duration::ZERO);
    let pod = stage.pod(leader.name());
    assert_eq!((pod.restarts("leasehold"), pod.restarts("app")), (0, 0));
}
