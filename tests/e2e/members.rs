//! Members on real pods: who leads next in a rolling update, and what becomes of a member's Lease without its sidecar.

use std::collections::BTreeSet;
use std::env;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::wait_for;
use crate::stage::{BEFORE_EXPIRY, Pod, SOON, Stage};
use crate::support::clock;
use crate::workload::{Alive, Workload};

/// More of them are a measurement.
fn updates() -> usize {
    env::var("LEASEHOLD_E2E_UPDATES").map_or(2, |number| number.parse().expect("LEASEHOLD_E2E_UPDATES is a number"))
}

/// How often the lead moved in each of some rolling updates of a StatefulSet of five, and the longest time without a
/// leader. Its pods are replaced one after the other, the highest number first; so that one leads at the beginning.
fn updates_of_five(stage: &Stage, workload: &Workload) -> (Vec<usize>, Duration) {
    stage.apply(&workload.stateful_set(stage));
    stage.wait_rolled_out("statefulsets/web", SOON);
    let (mut moves, mut longest) = (vec![], Duration::ZERO);
    for update in 0..updates() {
        stage.make_leader("web", "web-4");
        let (at, before) = (clock::now(), stage.records.moves());
        let turn = json!({"spec": {"template": {"metadata": {"annotations": {"turn": update.to_string()}}}}});
        stage.patch("statefulsets/web", &turn);
        stage.wait_rolled_out("statefulsets/web", SOON);
        stage.records.wait_leader(clock::now(), SOON, |_| true);
        moves.push(stage.records.moves() - before);
        longest = longest.max(stage.records.longest_without(at));
    }
    (moves, longest)
}

#[test]
fn a_rolling_update_of_five_with_members_and_without() {
    for (members, name) in [(false, "update-alone"), (true, "update-members")] {
        let stage = Stage::new(name);
        let mut workload = Workload::new().alive(Alive::Lock).replicas(5);
        workload.members = members;
        let (moves, longest) = updates_of_five(&stage, &workload);
        stage.report(&format!("{name}: moves of the lead in each update of 5: {moves:?}; longest without"), longest);
        assert!(longest < BEFORE_EXPIRY, "{longest:?}");
        // Twice where each one that is named is there within its head start of 20 ms, which a busy machine may not give.
        assert!(moves.iter().all(|moves| (1..=5).contains(moves)), "{moves:?}: {}", stage.records.timeline());
    }
}

fn lease_of<'a>(leases: &'a [Value], pod: &Pod) -> Option<&'a Value> {
    leases.iter().find(|lease| {
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        holder.starts_with(&format!("{}_", pod.name()))
    })
}

#[test]
fn a_members_lease_is_its_pods_and_collected_with_it() {
    let stage = Stage::new("members");
    let mut workload = Workload::new().pod(json!({"terminationGracePeriodSeconds": 5}));
    workload.members = true;
    workload.sidecar = vec!["--member-lease-duration=9s", "--member-renew-interval=3s"];
    stage.deploy(&workload);
    stage.leader();
    let leases = || {
        let list = stage.kubectl(&["get", "leases", "-l", "leasehold.dev/member-of=web", "-o", "json"]);
        let list: Value = serde_json::from_str(&list).expect("a list");
        list["items"].as_array().cloned().unwrap_or_default()
    };
    let told_by = |pod: &Pod| -> BTreeSet<String> {
        pod.exec("app", &["cat", "/run/leasehold/members"]).lines().map(str::to_owned).collect()
    };
    let pods = stage.pods("app=web");
    let names: BTreeSet<String> = pods.iter().map(|pod| pod.name().to_owned()).collect();
    for pod in &pods {
        wait_for("each is told of all", SOON, || (told_by(pod) == names).then_some(()));
        let leases = leases();
        let lease = lease_of(&leases, pod).expect("a Lease of each");
        let metadata = &lease["metadata"];
        assert_eq!(metadata["ownerReferences"][0]["uid"], pod.uid());
        let (annotations, labels) = (&metadata["annotations"], &pod.object["metadata"]["labels"]);
        assert_eq!(annotations["leasehold.dev/revision"], labels["pod-template-hash"]);
        assert_eq!(annotations["leasehold.dev/stands-for"], "web");
    }

    let frozen = pods.iter().find(|pod| pod.name() != stage.leader().name()).expect("three, of which one leads");
    let other = pods.iter().find(|pod| pod.name() != frozen.name()).expect("three");
    let freeze = frozen.freeze("leasehold");
    let at = clock::now();
    let rest = |told: BTreeSet<String>| !told.contains(frozen.name()) && told.len() == 2;
    wait_for("it is told dead", SOON, || rest(told_by(other)).then_some(()));
    stage.report("a member's sidecar frozen to dead (duration 9 s)", clock::now() - at);
    assert!(lease_of(&leases(), frozen).is_some(), "who is dead has not left");
    frozen.delete();
    let at = clock::now();
    wait_for("its Lease is collected", SOON, || lease_of(&leases(), frozen).is_none().then_some(()));
    stage.report("its pod deleted (grace 5 s) to its Lease collected", clock::now() - at);
    drop(freeze);
    wait_for("another pod has joined", SOON, || {
        let told = told_by(other);
        (told.len() == 3 && !told.contains(frozen.name())).then_some(())
    });
}
