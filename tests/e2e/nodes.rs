//! Pods on several nodes, of which one is cut off or gone.

use std::time::Duration;

use crate::cluster::wait_for;
use crate::stage::{SOON, Stage};
use crate::support::clock;
use crate::workload::{Alive, Workload};

/// The default renew deadline, and a little: past it nobody who cannot renew leads.
const RENEW_DEADLINE: Duration = Duration::from_millis(12_500);

#[test]
fn a_leaders_node_is_cut_off_and_healed_and_gone() {
    let stage = Stage::new("node-cut");
    let (worker, first) = (stage.cluster.worker(), stage.cluster.node("node1"));
    stage.apply(&Workload::new().alive(Alive::Lock).on_each(&[&first, &worker.node]).manifest(&stage));
    stage.wait_rolled_out("deployments/web", SOON);
    let pods = stage.pods("app=web");
    let on = |node: &str| pods.iter().find(|pod| pod.object["spec"]["nodeName"] == node).expect("a pod on each").name();
    let (here, there) = (on("node1"), on(&worker.node.name));
    stage.make_leader("web", there);

    let at = clock::now();
    worker.cut();
    let cut = clock::now();
    let next = stage.wait_other_leader(there, at, SOON);
    stage.report("leader's node cut off to another pod's yes", next.from - at);
    assert_eq!(next.pod_name(), here);
    let terms = stage.records.terms();
    let lost = terms.iter().rev().find(|term| term.pod_name() == there).expect("it led");
    assert!(lost.until < cut + RENEW_DEADLINE, "it could not renew and led on: {lost}");

    worker.heal();
    let healed = clock::now();
    wait_for("the node's pod to hear who leads", SOON, || {
        let said = stage.records.said();
        let heard = |reason: &Option<String>| reason.as_deref() == Some("held_by_other");
        said.iter().any(|said| said.pod == there && said.answered > healed && heard(&said.reason)).then_some(())
    });

    stage.make_leader("web", there);
    let at = clock::now();
    worker.kill();
    let next = stage.wait_other_leader(there, at, SOON);
    stage.report("leader's node gone to another pod's yes", next.from - at);
}
