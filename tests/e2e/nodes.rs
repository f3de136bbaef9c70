//! Pods on several nodes, of which one is cut off or gone.

use std::time::Duration;

use serde_json::json;

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
    stage.deploy(&Workload::new().alive(Alive::Lock).on_each(&[&first, &worker.node]));
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

#[test]
fn a_statefulsets_pod_is_made_anew_while_the_old_one_runs_on_cut_off() {
    let stage = Stage::new("same-name");
    let (a, b) = (stage.cluster.worker(), stage.cluster.worker());
    let cordon = |node: &str, closed: bool| {
        let node = format!("/api/v1/nodes/{node}");
        stage.cluster.patch(&node, &json!({"spec": {"unschedulable": closed}}));
    };
    cordon(&b.node.name, true);
    let mut workload = Workload::new().on_each(&[&a.node, &b.node]);
    workload.replicas = 1;
    stage.apply(&workload.stateful_set(&stage));
    stage.wait_rolled_out("statefulsets/web", SOON);
    let old = stage.leader();
    assert_eq!(old.object["spec"]["nodeName"], *a.node.name);
    let of_old = stage.records.terms().pop().expect("it leads").pod;
    cordon(&b.node.name, false);
    cordon(&a.node.name, true);

    let at = clock::now();
    a.cut();
    stage.kubectl(&["delete", "pod", old.name(), "--force", "--grace-period=0"]);
    let next = wait_for("the pod that was made anew to lead", SOON, || {
        stage.records.terms().into_iter().find(|term| term.pod != of_old)
    });
    stage.report("its pod forced away from a cut-off node to its namesake's yes", next.from - at);
    assert_eq!(next.pod_name(), old.name(), "of the same name");
    // It may not end before it was told no, or nothing was tested.
    wait_for("the old one to be told no", SOON, || {
        let said = stage.records.said();
        let told = |said: &crate::records::Said| said.answered > at && said.reason.as_deref() == Some("renew_deadline");
        said.iter().any(told).then_some(())
    });
    a.heal();
    stage.wait_rolled_out("statefulsets/web", SOON);
}
