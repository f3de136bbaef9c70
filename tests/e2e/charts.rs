//! charts/leasehold as its users meet it: installed, tested, upgraded, rolled back, uninstalled.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{error_of, text, wait_for};
use crate::stage::{BEFORE_EXPIRY, SOON, Stage};
use crate::support::clock;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/leasehold");

/// The chart's values in a file: the images of this run, and a recorder that holds the lock as its app.
struct Values {
    folder: tempfile::TempDir,
}

impl Values {
    fn new(stage: &Stage, more: &Value) -> Self {
        let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let own = json!({
            "fullnameOverride": "web",
            "replicaCount": 3,
            "image": {"registry": "localhost", "repository": "leasehold", "tag": "e2e"},
            "app": {
                "image": {"registry": "localhost", "repository": "recorder", "tag": "python"},
                "alive": "lock",
                "env": [
                    field("POD_NAME", "metadata.name"),
                    field("POD_UID", "metadata.uid"),
                    {"name": "RECORDER_ALIVE", "value": "lock"},
                    {"name": "RECORDER_FOLDER", "value": "/records"},
                ],
                "volumeMounts": [{"name": "records", "mountPath": "/records"}],
            },
            "extraVolumes": [{
                "name": "records",
                "hostPath": {"path": stage.cluster.records(&stage.namespace), "type": "Directory"},
            }],
        });
        let values = Self { folder: tempfile::tempdir().expect("a folder") };
        fs::write(values.path("own"), own.to_string()).expect("a file of values");
        fs::write(values.path("more"), more.to_string()).expect("a file of values");
        values
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a path").to_owned()
    }

    /// `helm install` or `upgrade` of `web`; waits as helm does, and gives what it printed.
    fn helm(&self, stage: &Stage, verb: &str, set: &[&str]) -> String {
        let (own, more) = (self.path("own"), self.path("more"));
        let mut arguments =
            vec![verb, "web", CHART, "--values", &own, "--values", &more, "--wait", "--timeout", "120s"];
        for value in set {
            arguments.extend(["--set-string", value]);
        }
        stage.helm(&arguments)
    }
}

#[test]
fn the_chart_is_installed_tested_upgraded_rolled_back_and_uninstalled() {
    let stage = Stage::new("chart");
    let values = Values::new(&stage, &json!({"tests": {"stepdown": true}}));
    let notes = values.helm(&stage, "install", &[]);
    assert!(notes.contains("kubectl"), "the notes say how to look: {notes}");
    stage.leader();
    let tested = stage.helm(&["test", "web", "--timeout", "120s"]);
    assert!(tested.matches("Succeeded").count() >= 2, "the doctor, and a hand-over: {tested}");
    assert!(stage.records.moves() >= 1, "the test had the lease change hands");

    for (how, step) in [("upgrade", "2"), ("rollback", "")] {
        let at = clock::now();
        if how == "upgrade" {
            values.helm(&stage, "upgrade", &[&format!("podAnnotations.step={step}")]);
        } else {
            stage.helm(&["rollback", "web", "1", "--wait", "--timeout", "120s"]);
        }
        stage.records.wait_leader(clock::now(), SOON, |_| true);
        let without = stage.records.longest_without(at);
        stage.report(&format!("helm {how} of 3 replicas: longest without a leader"), without);
        assert!(without < BEFORE_EXPIRY, "each old pod releases: {without:?}");
    }

    stage.helm(&["uninstall", "web", "--wait", "--timeout", "120s"]);
    wait_for("nothing of the release to be left", SOON, || {
        let left = stage.kubectl(&["get", "pods,roles,rolebindings,deployments", "-o", "name"]);
        // The pods of helm test stay for their logs, as Helm has it: hooks are nobody's.
        left.lines().all(|name| name.starts_with("pod/web-test-")).then_some(())
    });
    // Helm takes the Role away while the pods are still ending, so the last release may be refused: it runs out then.
    assert!(stage.get("leases/web").is_some(), "the Lease is the sidecars', and stays: tokens grow from it");
}

#[test]
fn a_lease_that_the_chart_makes_is_nobodys_to_create_and_survives_an_upgrade() {
    let stage = Stage::new("chart-hardened");
    let values = Values::new(&stage, &json!({"lease": {"create": true}}));
    values.helm(&stage, "install", &[]);
    stage.leader();
    let account = format!("--as=system:serviceaccount:{}:web", stage.namespace);
    let mut may = stage.cluster.kubectl(["auth", "can-i", "create", "leases/web", &account, "-n", &stage.namespace]);
    let may = may.output().expect("kubectl can be started");
    assert_eq!(text(&may.stdout).trim(), "no", "whether the sidecar may make Leases: {}", error_of(&may));
    let before = stage.get("leases/web").expect("the Lease");
    let token = |lease: &Value| {
        let token = lease["metadata"]["annotations"]["leasehold.dev/token"].as_str();
        token.and_then(|token| token.parse::<u64>().ok()).unwrap_or_else(|| panic!("no token on {lease}"))
    };
    // Nothing of the pods changes: whoever holds the lease goes on holding it.
    values.helm(&stage, "upgrade", &["serviceAccount.annotations.team=shop"]);
    let account = stage.get("serviceaccounts/web").expect("the account");
    assert_eq!(account["metadata"]["annotations"]["team"], "shop", "the upgrade was made");
    stage.records.wait_leader(clock::now(), SOON, |_| true);
    assert_eq!(stage.records.moves(), 0, "an upgrade that changes no pod moves no lease");
    let kept = stage.get("leases/web").expect("the Lease");
    assert_eq!(token(&kept), token(&before), "the token is kept");

    // The Lease's own labels change, and the pods' with them, so the lease moves; its record goes on.
    values.helm(&stage, "upgrade", &["commonLabels.team=shop"]);
    stage.records.wait_leader(clock::now(), SOON, |_| true);
    let after = stage.get("leases/web").expect("the Lease");
    assert_eq!(after["metadata"]["labels"]["team"], "shop", "the chart's own part is upgraded");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert!(token(&after) > token(&kept), "the tokens go on growing: {after}");
}

#[test]
fn it_runs_where_pods_are_restricted_under_any_user() {
    // No folder of the node may be mounted there, so the recorders write to their logs.
    let stage = Stage::new("chart-restricted").without_promises();
    for mode in ["enforce", "warn"] {
        let label = format!("pod-security.kubernetes.io/{mode}=restricted");
        stage.kubectl(&["label", "namespace", &stage.namespace, &label]);
    }
    let user = json!({"runAsUser": 1_000_650_000, "runAsGroup": 0, "fsGroup": 1_000_650_000});
    let logs = json!({
        "podSecurityContext": user,
        "extraVolumes": [],
        "app": {"volumeMounts": []},
    });
    let values = Values::new(&stage, &logs);
    values.helm(&stage, "install", &["app.env[3].value="]);
    let leads = |pod: &str| {
        let log = stage.kubectl(&["logs", pod, "--container=app"]);
        log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).any(|line| line["leader"] == true)
    };
    let pods: Vec<_> = stage.pods("").iter().map(|pod| pod.name().to_owned()).collect();
    assert_eq!(pods.len(), 3);
    let leader = wait_for("a recorder to be told yes", SOON, || pods.iter().find(|pod| leads(pod)));
    assert_eq!(pods.iter().filter(|pod| leads(pod)).count(), 1, "one of three");
    let who = stage.pod(leader).exec("app", &["/usr/bin/python3", "-c", "import os; print(os.getuid())"]);
    assert_eq!(who.trim(), "1000650000");
}

/// A chart of somebody else's with the library in it, as `helm create` makes one: nothing of it is known to leasehold.
#[test]
fn somebody_elses_chart_elects_by_the_library() {
    let stage = Stage::new("chart-library");
    // A copy, for the library becomes a part of it.
    let folder = tempfile::tempdir().expect("a folder");
    for part in ["tests/charts/consumer", "charts/leasehold-lib"] {
        let to = folder.path().join(part);
        let parent = to.parent().expect("is in a folder");
        fs::create_dir_all(parent).expect("makes a folder");
        let copied = Command::new("cp").args(["-r", part]).arg(parent).current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(copied.expect("cp can be started").success(), "{part} could not be copied");
    }
    // Of an earlier build of it.
    let chart = folder.path().join("tests/charts/consumer");
    let _ = fs::remove_dir_all(chart.join("charts"));
    let _ = fs::remove_file(chart.join("Chart.lock"));
    let chart = chart.to_str().expect("a path");
    stage.helm(&["dependency", "build", chart]);
    let images = "image=localhost/recorder:python,leasehold.image.registry=localhost,\
                  leasehold.image.repository=leasehold,leasehold.image.tag=e2e";
    stage.helm(&["install", "web", chart, "--set-string", images, "--wait", "--timeout", "120s"]);

    let holder_but = |former: &str| {
        wait_for("a holder", SOON, || {
            let holder = stage.get("leases/web")?["spec"]["holderIdentity"].as_str()?.to_owned();
            let pod = stage.pods("").iter().map(|pod| pod.name().to_owned()).find(|name| holder.contains(name))?;
            (pod != former).then_some(pod)
        })
    };
    // The chart gives its app no folder, so the recorders write to their logs.
    let first = holder_but("");
    let led = |pod: &str| {
        wait_for("the holder's app to be told yes", SOON, || {
            stage.keep_logs("consumer");
            stage.records.terms().into_iter().find(|term| term.pod_name() == pod).map(drop)
        });
    };
    led(&first);
    stage.pod(&first).delete();
    wait_for("the pod to be gone, whose log nobody can read then", SOON, || {
        stage.get(&format!("pods/{first}")).is_none().then_some(())
    });
    led(&holder_but(&first));
    assert_eq!(stage.records.moves(), 1, "from the pod that was deleted to the other one");
}
