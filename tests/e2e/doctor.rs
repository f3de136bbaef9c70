//! The doctor in real pods: by `kubectl exec` beside each sidecar, which notices nothing.

use serde_json::Value;

use crate::cluster::wait_for;
use crate::stage::{Pod, SOON, Stage};
use crate::workload::{Alive, Workload};

const DOCTOR: [&str; 4] = ["/leasehold", "doctor", "-o", "json"];

/// What it says in a pod, whatever its exit code is.
fn examine(stage: &Stage, pod: &Pod) -> Value {
    let exec = ["--namespace", &stage.namespace, "exec", pod.name(), "--container=leasehold", "--"];
    let output = stage.cluster.kubectl(exec.iter().chain(&DOCTOR)).output().expect("kubectl can be started");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn check<'a>(examined: &'a Value, name: &str) -> &'a Value {
    let mut checks = examined["checks"].as_array().expect("a list").iter();
    checks.find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name}: {examined:#}"))
}

#[test]
fn the_doctor_finds_nothing_wrong_beside_any_sidecar_of_a_deployment() {
    let stage = Stage::new("doctor");
    stage.deploy(&Workload::new().alive(Alive::Lock));
    let leader = stage.leader().name().to_owned();
    for pod in stage.pods("app=web") {
        let examined = examine(&stage, &pod);
        assert_eq!(examined["ok"], true, "{examined:#}");
        assert_eq!(check(&examined, "sidecar")["status"], "ok", "{examined:#}");
        let said = |name: &str| check(&examined, name)["message"].as_str().unwrap_or_default().to_owned();
        assert!(said("credentials").contains(":web, with a token that ends in"), "{}", said("credentials"));
        assert!(said("lease web").starts_with(&format!("{leader} holds it (token ")), "{}", said("lease web"));
        assert_eq!(check(&examined, "admission")["status"], "skipped", "{examined:#}");
        let own = format!("taken by the sidecar of this pod ({})", pod.name());
        assert_eq!((said("listen localhost:4040"), said("probe-listen [::]:4041")), (own, "taken by a sidecar".into()));
        let leads = if pod.name() == leader { "this pod leads" } else { "this pod does not lead" };
        assert!(said("report web").starts_with(leads), "{}", said("report web"));
    }
    assert_eq!(stage.records.moves(), 0);
    assert!(stage.pods("app=web").iter().all(|pod| pod.restarts("leasehold") == 0));
}

#[test]
fn what_the_doctor_says_is_missing_can_be_applied_and_is_the_cure() {
    let stage = Stage::new("doctor-cures");
    let mut workload = Workload::new().replicas(1);
    workload.role = false;
    stage.apply(&workload.manifest(&stage));
    let fix = wait_for("the doctor to say what is missing", SOON, || {
        let pods = stage.pods("app=web");
        let pod = pods.iter().find(|pod| pod.container("leasehold")["state"]["running"].is_object())?;
        let examined = examine(&stage, pod);
        assert_eq!(examined["ok"], false, "{examined:#}");
        Some(check(&examined, "permissions leases/web")["fix"].as_str().expect("what to do").to_owned())
    });
    stage.apply(&fix);
    let leader = stage.leader();
    assert_eq!(examine(&stage, &leader)["ok"], true);
}
