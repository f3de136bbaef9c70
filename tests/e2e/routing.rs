//! A Service that selects the pod labelled leader, and a client that asks it all the time.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::cluster::wait_for;
use crate::records::Term;
use crate::stage::{SOON, Stage};
use crate::support::clock::{self, BootTime};
use crate::support::http::Http;
use crate::workload::{Alive, Workload, list};

/// Who answered a client of the Service, when, and under which token it took itself for the leader, if it did.
struct Reached {
    asked: BootTime,
    answered: BootTime,
    pod: String,
    token: Option<u64>,
}

fn ask(address: SocketAddr) -> Option<Reached> {
    let asked = clock::now();
    // A new connection each time: an old one stays with the pod that it reached.
    let mut http = Http::connect(address).ok()?.with_timeout(Duration::from_secs(1)).ok()?;
    let answer = http.get("/").ok()?.json();
    Some(Reached {
        asked,
        answered: Duration::from_nanos(answer["now"].as_u64()?),
        pod: answer["pod"].as_str()?.to_owned(),
        token: answer["token"].as_u64(),
    })
}

#[test]
fn a_client_of_the_leaders_service_is_with_the_new_leader_soon_and_told_by_the_old_one_until_then() {
    let stage = Stage::new("routing");
    let mut workload = Workload::new().alive(Alive::Lock);
    workload.sidecar.push("--role-label");
    let rbac = "rbac.authorization.k8s.io";
    stage.apply(&list(vec![
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": {"name": "label"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}],
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": {"name": "label"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "label"},
            "subjects": [{"kind": "ServiceAccount", "name": "web"}],
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web-leader"},
            "spec": {"selector": {"app": "web", "leasehold.dev/role": "leader"}, "ports": [{"port": 8080}]},
        }),
    ]));
    stage.deploy(&workload);
    let first = stage.leader().name().to_owned();
    let service = stage.get("services/web-leader").expect("the Service");
    let address = format!("{}:8080", service["spec"]["clusterIP"].as_str().expect("an address"));
    let address: SocketAddr = address.parse().expect("an address");
    wait_for("the Service to reach the leader", SOON, || ask(address).filter(|reached| reached.pod == first));

    let (stop, reached) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let mut changes = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                if let Some(answer) = ask(address) {
                    reached.lock().expect("nobody panics with it").push(answer);
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        for round in 0..6 {
            let former = stage.leader().name().to_owned();
            let at = clock::now();
            match round % 3 {
                0 => {
                    let token = stage.records.terms().last().expect("a term").token.to_string();
                    let wish = json!({"metadata": {"annotations": {"leasehold.dev/step-down": token}}});
                    stage.patch("leases/web", &wish);
                }
                1 => stage.pod(&former).signal("app", Signal::KILL),
                _ => stage.pod(&former).delete(),
            }
            let next = stage.wait_other_leader(&former, at, SOON);
            let new = next.pod_name().to_owned();
            wait_for("the Service to reach the new leader", SOON, || {
                let reached = reached.lock().expect("nobody panics with it");
                reached.iter().any(|answer| answer.asked > at && answer.pod == new).then_some(())
            });
            changes.push((at, former));
            stage.wait_rolled_out("deployments/web", SOON);
        }
        stop.store(true, Ordering::SeqCst);
    });

    let reached = reached.into_inner().expect("nobody panics with it");
    let terms = stage.records.terms();
    // Whoever takes itself for the leader then is: the label is routing, the answer is the right.
    for answer in reached.iter().filter(|answer| answer.token.is_some()) {
        let (pod, at) = (&answer.pod, answer.answered);
        let of_it = |term: &Term| term.pod_name() == pod;
        assert!(terms.iter().any(|term| of_it(term) && Some(term.token) == answer.token), "{pod} was never told so");
        let another = terms.iter().find(|term| !of_it(term) && (term.from..term.until).contains(&at));
        assert!(another.is_none(), "{pod} took itself for the leader at {at:?}, and so could {another:?}");
    }
    let of = |pod: &str| terms.iter().filter(|term| term.pod_name() == pod).collect::<Vec<_>>();
    let mut longest = Duration::ZERO;
    let mut astray = 0;
    for (at, former) in &changes {
        let lost = of(former).into_iter().filter(|term| term.from < *at).map(|term| term.until).max().unwrap_or(*at);
        // Until it leads again, if it does.
        let again = of(former).into_iter().map(|term| term.from).find(|from| *from > lost).unwrap_or(BootTime::MAX);
        let late = reached.iter().filter(|answer| answer.pod == *former && answer.token.is_none());
        let late: Vec<_> = late.filter(|answer| (lost..again).contains(&answer.asked)).collect();
        astray += late.len();
        longest = late.iter().map(|answer| answer.asked.saturating_sub(lost)).max().unwrap_or_default().max(longest);
    }
    let total = reached.len();
    stage
        .cluster
        .report(&format!("routing: {astray} of {total} questions reached a pod after it had lost, and were told no"));
    stage.report("routing: the last of them, after the loss", longest);
    assert!(longest < Duration::from_secs(10), "the label does not follow");
}
