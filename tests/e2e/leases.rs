//! `leasehold leases` on a real cluster: everybody's Leases, and a node's beside what the node controller makes of it.

use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, wait_for};
use crate::stage::{SOON, Stage};
use crate::support::clock::{self, BootTime};
use crate::support::process::Process;
use crate::support::sidecar::binary;

/// What a kubelet claims, by default.
const NODE_LEASE: Duration = Duration::from_secs(40);

/// As an admin would run it, at a workstation.
fn leases(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = cluster.at_a_workstation(&binary());
    command.arg("leases").args(arguments);
    command
}

#[test]
fn the_cluster_s_own_leases_are_told_from_each_other_and_all_are_held() {
    let stage = Stage::new("kinds").without_promises();
    // A kubelet is ready before it makes its Lease.
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node1";
    wait_for("the first node's Lease", SOON, || stage.cluster.get(path));
    let output = leases(stage.cluster, &["-A"]).output().expect("the binary runs");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    eprintln!("{table}");
    let row = |namespace: &str, name: &str| -> Vec<String> {
        let rows = table.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()));
        let mut rows = rows.map(|row| row.map(str::to_owned).collect::<Vec<_>>());
        let found = rows.find(|row| row[0] == namespace && row[1].starts_with(name));
        found.unwrap_or_else(|| panic!("no row {namespace} {name}: {table}"))
    };
    for (namespace, name, kind) in [
        ("kube-node-lease", "node1", "node"),
        ("kube-system", "apiserver-", "API server"),
        ("kube-system", "kube-controller-manager", "component"),
        ("kube-system", "kube-scheduler", "component"),
    ] {
        let row = row(namespace, name);
        assert_eq!((row[2].as_str(), row[4].as_str()), (kind, "held"), "{table}");
    }
    let count = leases(stage.cluster, &["-n", "kube-system", "--count", "-l", "apiserver.kubernetes.io/identity"]);
    let count = { count }.output().expect("the binary runs");
    assert_eq!((&count.stdout[..], count.status.code()), (&b"1\n"[..], Some(0)), "{count:?}");
}

#[test]
fn a_frozen_kubelets_lease_is_late_then_expired_and_the_node_controller_judges_after_its_grace() {
    let stage = Stage::new("kubelet-frozen").without_promises();
    let worker = stage.cluster.worker();
    let node = worker.node.name.clone();
    let mut command = leases(stage.cluster, &["-n", "kube-node-lease", "--watch", "-o", "json"]);
    command.stdout(Stdio::piped());
    let mut process = Process::start(command).expect("the binary runs");
    let lines = process.lines();
    wait_state(&lines, &node, "held");
    let path = format!("/api/v1/nodes/{node}");
    let ready = || {
        let object = stage.cluster.get(&path).expect("the node");
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").cloned();
        ready.and_then(|ready| Some(ready["status"].as_str()?.to_owned())).unwrap_or_default()
    };
    wait_for("the node to be ready", SOON, || (ready() == "True").then_some(()));

    let frozen = worker.node.freeze("kubelet");
    let at = clock::now();
    let late = wait_state(&lines, &node, "late");
    let expired = wait_state(&lines, &node, "expired");
    assert_eq!(ready(), "True", "the node controller's grace is longer than the lease");
    let unknown = wait_for("the node controller to judge", SOON, || (ready() == "Unknown").then(clock::now));
    stage.report("kubelet frozen to its Lease late", late - at);
    stage.report("kubelet frozen to its Lease expired", expired - at);
    stage.report("kubelet frozen to its node's Ready Unknown", unknown - at);
    // The last renewal may have been up to a renew interval before.
    assert!(late - at >= NODE_LEASE / 2 - Duration::from_secs(12), "{:?}", late - at);
    assert!(expired - late >= NODE_LEASE / 2 - Duration::from_secs(1), "{:?}", expired - late);

    drop(frozen);
    wait_state(&lines, &node, "held");
    wait_for("the node to be ready again", SOON, || (ready() == "True").then_some(()));
}

/// Waits for the line that says this of the Lease of that name, and of no other state before.
#[track_caller]
fn wait_state(lines: &Receiver<String>, name: &str, state: &str) -> BootTime {
    wait_for(&format!("{name} to be {state}"), SOON, || {
        let line = lines.try_recv().ok()?;
        let lease: Value = serde_json::from_str(&line).unwrap_or_else(|wrong| panic!("{wrong}: {line}"));
        if lease["name"] != name || lease["state"] == "observing" {
            return None;
        }
        assert_eq!(lease["state"], state, "{line}");
        Some(clock::now())
    })
}
