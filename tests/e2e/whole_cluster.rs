//! What disturbs every pod at once: these scenarios run alone.

use std::thread;
use std::time::Duration;

use crate::stage::{SOON, Stage};
use crate::support::clock;
use crate::workload::{Alive, Workload};

#[test]
fn an_api_server_that_stood_still_for_a_minute_costs_one_change_of_leader_at_most() {
    let stage = Stage::alone("freeze-api");
    stage.apply(&Workload::new().alive(Alive::Lock).manifest(&stage));
    stage.wait_rolled_out("deployments/web", SOON);
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
