//! What a sidecar keeps does not grow with what happened to it.

mod support;

use std::thread;
use std::time::Duration;

use serde_json::json;
use support::control_plane::shared;
use support::proxy::Proxy;
use support::sidecar::Sidecar;
use support::stage::SOON;

/// Each is a new connection, with its handshake, watch and lists.
const RECONNECTIONS: usize = 20;
/// Of the Lease, each an event of the watch.
const EDITS: usize = 400;
/// Pages of the allocator, which are few whatever it holds.
const SLACK_KB: u64 = 256;

#[test]
fn a_sidecar_that_reconnects_again_and_again_does_not_grow() {
    let namespace = shared().namespace("memory");
    let link = Proxy::start(shared().address());
    let kubeconfig = shared().kubeconfig_for(support::control_plane::ADMIN, Some(link.address()));
    let sidecar = Sidecar::of("web", &namespace, &kubeconfig, "web-0").times("6s", "5s", "1s", "100ms").start();
    sidecar.wait_leader(SOON);
    let reconnect = |times: usize| {
        for _ in 0..times {
            let before = link.connections();
            link.cut();
            thread::sleep(Duration::from_millis(20));
            link.heal();
            support::clock::wait_until("it connects again", SOON, || link.connections() > before);
            sidecar.wait_leader(SOON);
            thread::sleep(Duration::from_millis(30));
        }
        sidecar.memory_kb("RssAnon")
    };
    // What is used once by each is there by then.
    let first = reconnect(RECONNECTIONS);
    let after: Vec<u64> = (0..rounds()).map(|_| reconnect(RECONNECTIONS)).collect();
    println!("RssAnon in kB after {RECONNECTIONS} connections: {first}, and after as many each time: {after:?}");
    let last = after.last().copied().unwrap_or(first);
    assert!(last <= first + SLACK_KB, "{first} kB, then {after:?}");
}

#[test]
fn a_sidecar_that_hears_of_edit_after_edit_does_not_grow() {
    let namespace = shared().namespace("memory");
    let kubeconfig = shared().kubeconfig();
    let sidecars: Vec<_> = ["web-0", "web-1"]
        .map(|pod| Sidecar::of("web", &namespace, &kubeconfig, pod).times("6s", "5s", "1s", "100ms").start())
        .into();
    support::clock::wait_until("one leads", SOON, || sidecars.iter().any(|sidecar| sidecar.status()["leader"] == true));
    let mut number = 0;
    let mut edit = || {
        for _ in 0..EDITS {
            number += 1;
            shared().patch_lease(&namespace, "web", &json!({"metadata": {"labels": {"edit": number.to_string()}}}));
        }
        sidecars.iter().map(|sidecar| sidecar.memory_kb("RssAnon")).collect::<Vec<_>>()
    };
    let first = edit();
    let after: Vec<_> = (0..rounds()).map(|_| edit()).collect();
    println!("RssAnon in kB after {EDITS} edits: {first:?}, and after as many each time: {after:?}");
    for (pod, first) in first.iter().enumerate() {
        let last = after.last().map_or(*first, |after| after[pod]);
        assert!(last <= first + SLACK_KB, "{first} kB, then {after:?}");
    }
}

/// How often what is to leave no trace is done again.
fn rounds() -> usize {
    std::env::var("LEASEHOLD_MEMORY_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2)
}
