//! Pods that the admission policy of charts/leasehold-injector gave the sidecar to.
//!
//! What a policy does to a pod is tested without a node (tests/injection); here such pods run.

use std::process::Output;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::cluster::{cluster, error_of, text, wait_for};
use crate::stage::{SOON, Stage};
use crate::support::clock;
use crate::workload::{Alive, Workload};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/leasehold-injector");

/// The chart with the image of this run; more `--set` values.
fn install(release: &str, values: &[&str]) -> Output {
    let image = ["sidecar.image.registry=localhost", "sidecar.image.repository=leasehold", "sidecar.image.tag=e2e"];
    let mut helm =
        cluster().helm(["upgrade", "--install", release, CHART, "-n", "leasehold-system", "--create-namespace"]);
    helm.args(image.iter().chain(values).map(|value| format!("--set={value}")));
    helm.output().expect("helm can be started")
}

/// A stage where pods are injected: the chart is there once for all scenarios, and touches labelled pods alone.
fn stage(name: &str) -> Stage {
    static INSTALLED: LazyLock<()> = LazyLock::new(|| {
        let said = install("leasehold-injector", &[]);
        assert!(said.status.success(), "{}", error_of(&said));
        assert!(text(&said.stdout).contains("leasehold.dev/inject"), "{}", text(&said.stdout));
    });
    let stage = Stage::new(name);
    LazyLock::force(&INSTALLED);
    let probe = bare_pod("probe", &[("lease", "probe")]);
    wait_for("the injection to be in force", SOON, || {
        stage.dry_run(&probe).is_some_and(|pod| has_sidecar(&pod)).then_some(())
    });
    stage
}

impl Stage {
    /// What the API server would store.
    fn dry_run(&self, pod: &Value) -> Option<Value> {
        let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", self.namespace);
        let kind = [("Content-Type", "application/json")];
        let answer = self.cluster.request("POST", &path, &kind, pod.to_string().as_bytes()).ok()?;
        (answer.status == 201).then(|| answer.json())
    }
}

fn has_sidecar(pod: &Value) -> bool {
    pod["spec"]["initContainers"].as_array().into_iter().flatten().any(|container| container["name"] == "leasehold")
}

fn annotations(of_ours: &[(&str, &str)]) -> Value {
    let annotations = of_ours.iter().map(|(name, value)| (format!("leasehold.dev/{name}"), Value::from(*value)));
    Value::Object(annotations.collect())
}

fn bare_pod(name: &str, of_ours: &[(&str, &str)]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"leasehold.dev/inject": "true"}, "annotations": annotations(of_ours)},
        "spec": {"containers": [{"name": "app", "image": "localhost/recorder:python"}]},
    })
}

/// The workload's objects, without the sidecar: the label and these annotations instead.
fn injected(stage: &Stage, workload: &Workload, of_ours: &[(&str, &str)]) -> Value {
    let mut list: Value = serde_json::from_str(&workload.manifest(stage)).expect("JSON");
    let template = template_of(&mut list);
    template["metadata"]["labels"]["leasehold.dev/inject"] = "true".into();
    template["metadata"]["annotations"] = annotations(of_ours);
    let spec = &mut template["spec"];
    spec.as_object_mut().expect("an object").remove("initContainers");
    let is_ours = |item: &Value| item["name"].as_str().is_some_and(|name| name.starts_with("leasehold"));
    spec["volumes"].as_array_mut().expect("volumes").retain(|volume| !is_ours(volume));
    spec["containers"][0]["volumeMounts"].as_array_mut().expect("mounts").retain(|mount| !is_ours(mount));
    list
}

fn workload_of(list: &mut Value) -> &mut Value {
    let items = list["items"].as_array_mut().expect("items");
    items.iter_mut().find(|item| item["kind"] == "Deployment").expect("a Deployment")
}

fn template_of(list: &mut Value) -> &mut Value {
    &mut workload_of(list)["spec"]["template"]
}

fn leases(stage: &Stage) -> Vec<String> {
    let names = stage.kubectl(&["get", "leases", "-o", "name"]);
    names.lines().map(|line| line.rsplit('/').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn an_injected_deployment_elects_and_a_rollout_keeps_its_lease() {
    let stage = stage("injected");
    let mut web = injected(&stage, &Workload::new().alive(Alive::Lock), &[("alive", "lock")]);
    stage.apply(&web.to_string());
    stage.wait_rolled_out("deployments/web", SOON);
    let old = stage.leader();
    assert!(has_sidecar(&old.object), "{:#}", old.object);

    // Old and new pods are there side by side, and contend.
    template_of(&mut web)["metadata"]["annotations"]["round"] = "2".into();
    let at = clock::now();
    stage.apply(&web.to_string());
    stage.wait_rolled_out("deployments/web", SOON);
    wait_for("the old pods to go", SOON, || (stage.pods("app=web").len() == 3).then_some(()));
    let next = stage.wait_other_leader(old.name(), at, SOON);
    assert_eq!(leases(&stage), ["web"]);
    let hashes = |pod: &str| pod.rsplit_once('-').map(|(set, _)| set.to_owned());
    let last = stage.leader();
    assert_ne!(hashes(old.name()), hashes(last.name()), "{} led first, and {next}", old.name());
    let lease = stage.get("leases/web").expect("the Lease");
    let holder = lease["spec"]["holderIdentity"].as_str().expect("a holder");
    assert!(holder.starts_with(last.name()), "{holder}");
}

#[test]
fn an_injected_statefulset_elects_by_its_own_name() {
    let stage = stage("injected-set");
    let mut db = injected(&stage, &Workload::new().replicas(2), &[]);
    let workload = workload_of(&mut db);
    workload["kind"] = "StatefulSet".into();
    workload["spec"]["serviceName"] = "web".into();
    stage.apply(&db.to_string());
    stage.wait_rolled_out("statefulsets/web", SOON);
    let leader = stage.leader();
    assert!(leader.name().starts_with("web-") && has_sidecar(&leader.object));
    assert_eq!(leases(&stage), ["web"]);
}

#[test]
fn a_pod_that_cannot_be_injected_is_refused_with_a_sentence() {
    let stage = stage("injected-not").without_promises();
    let said = stage.try_apply(&bare_pod("bare", &[]).to_string());
    let sentence =
        "this pod belongs to no workload, and only a pod of a Deployment or a StatefulSet has a Lease of its name";
    assert!(!said.status.success() && error_of(&said).contains(sentence), "{}", error_of(&said));

    // Whose pods a controller makes reads it in the Deployment's status.
    stage.apply(&injected(&stage, &Workload::new(), &[("timing", "slow")]).to_string());
    let is_told = |deployment: &Value| {
        let conditions = deployment["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|condition| {
            let message = condition["message"].as_str().unwrap_or_default();
            condition["type"] == "ReplicaFailure" && message.contains("it must be standard, calm or fast")
        })
    };
    stage.wait("the Deployment to say why it has no pods", "deployments/web", SOON, is_told);
    assert!(stage.pods("app=web").is_empty());
}

/// Ends well if the sidecar is there already, or if it is not: as `expected` says.
fn look(expected: bool) -> Value {
    let there = "import json,urllib.request,sys\n\
        try: seen = json.load(urllib.request.urlopen('http://127.0.0.1:4040/v1/leader'))['pod']\n\
        except OSError as error: seen = None\n\
        print(seen)\n";
    let file = "import os; there = os.path.exists('/run/leasehold/status.json')\n";
    let verdict = match expected {
        true => "sys.exit(0 if seen and there else 1)",
        false => "sys.exit(1 if seen or there else 0)",
    };
    json!({
        "name": "look", "image": "localhost/recorder:python",
        "command": ["/usr/bin/python3", "-c", format!("{there}{file}{verdict}")],
    })
}

#[test]
fn the_sidecar_runs_before_the_init_containers_or_after_them() {
    let stage = stage("injected-place");
    for (expected, of_ours) in [(true, &[("position", "first"), ("containers", "look,app")][..]), (false, &[])] {
        let mut web = injected(&stage, &Workload::new().replicas(1), of_ours);
        template_of(&mut web)["spec"]["initContainers"] = json!([look(expected)]);
        stage.apply(&web.to_string());
        // An init container that fails keeps the pod from getting ready.
        stage.wait_rolled_out("deployments/web", SOON);
        stage.leader();
    }
}

#[test]
fn it_is_injected_where_pods_are_restricted_and_runs_as_any_user() {
    let stage = stage("injected-strict");
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    stage.cluster.patch(&format!("/api/v1/namespaces/{}", stage.namespace), &labels);
    let mut web = injected(&stage, &Workload::new().replicas(2).alive(Alive::Lock), &[("alive", "lock")]);
    let spec = &mut template_of(&mut web)["spec"];
    // No folder of the node's: the app writes to its standard output.
    spec["volumes"] = json!([]);
    spec["securityContext"] =
        json!({"runAsUser": 1000700, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    let app = &mut spec["containers"][0];
    app["volumeMounts"] = json!([]);
    app["securityContext"] = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    app["env"].as_array_mut().expect("variables").retain(|variable| variable["name"] != "RECORDER_FOLDER");
    stage.apply(&web.to_string());
    stage.wait_rolled_out("deployments/web", SOON);
    wait_for("a leader", SOON, || {
        let holder = stage.get("leases/web")?["spec"]["holderIdentity"].as_str()?.to_owned();
        (!holder.is_empty()).then_some(())
    });
    stage.keep_logs("app");
    stage.records.wait_leader(clock::BootTime::ZERO, SOON, |_| true);
}

#[test]
fn two_injected_pods_share_a_nodes_network_and_never_meet() {
    let stage = stage("injected-host");
    let of_ours = [("listen", "unix"), ("lease", "web")];
    for (name, port) in [("web", "18080"), ("twin", "18081")] {
        let mut workload = Workload::new().replicas(1);
        workload.env = vec![("RECORDER_PORT", port)];
        let mut list = injected(&stage, &workload, &of_ours);
        let deployment = workload_of(&mut list);
        deployment["metadata"]["name"] = name.into();
        deployment["spec"]["selector"]["matchLabels"]["app"] = name.into();
        let template = &mut deployment["spec"]["template"];
        template["metadata"]["labels"]["app"] = name.into();
        template["spec"]["hostNetwork"] = true.into();
        let app = &mut template["spec"]["containers"][0];
        app["readinessProbe"]["httpGet"]["port"] = port.parse::<u16>().expect("a port").into();
        stage.apply(&list.to_string());
    }
    for name in ["web", "twin"] {
        stage.wait_rolled_out(&format!("deployments/{name}"), SOON);
    }
    // By the files: nobody listens on a port.
    let leader = stage.leader();
    let sockets = stage.cluster.node("node1").run(&["sh", "-c", "cat /proc/net/tcp /proc/net/tcp6"]);
    // "sl local_address rem_address st": 0A is listening, and 0FC8 and 0FC9 are 4040 and 4041.
    let sockets = text(&sockets.stdout);
    let listens =
        sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|line| line[3] == "0A");
    let ports: Vec<_> = listens.filter_map(|line| line[1].rsplit(':').next()).collect();
    assert!(ports.contains(&"01BB") && !ports.contains(&"0FC8") && !ports.contains(&"0FC9"), "{ports:?}");
    let asked = "import socket,os; s=socket.socket(socket.AF_UNIX); s.connect(os.environ['LEASEHOLD_SOCKET'])\n\
        s.sendall(b'GET /leader HTTP/1.0\\r\\n\\r\\n'); print(s.recv(12).decode())";
    assert_eq!(leader.exec("app", &["/usr/bin/python3", "-c", asked]).trim(), "HTTP/1.0 200");
}

// --- The guards, with tokens of real pods ---

/// Asks the API server from inside the app, with the token that the kubelet gave it; prints the status and the message.
const ASK: &str = r#"
import json, os, ssl, sys, urllib.error, urllib.request
method, path, body = sys.argv[1:]
account = "/var/run/secrets/kubernetes.io/serviceaccount/"
request = urllib.request.Request(
    "https://%s%s" % (os.environ["KUBERNETES_SERVICE_HOST"], path), body.encode(), method=method,
    headers={"Authorization": "Bearer " + open(account + "token").read(), "Content-Type": "application/merge-patch+json"
        if method == "PATCH" else "application/json"})
try:
    answer = urllib.request.urlopen(request, context=ssl.create_default_context(cafile=account + "ca.crt"))
    print(answer.status)
except urllib.error.HTTPError as error:
    print(error.code, json.load(error)["message"])
"#;

#[test]
fn a_pod_labels_itself_and_its_token_does_nothing_else() {
    let stage = stage("injected-label");
    let mut web = injected(&stage, &Workload::new().replicas(2), &[("role-label", "true")]);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "label"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "leasehold-role-label"},
        "subjects": [{"kind": "ServiceAccount", "name": "web"}],
    });
    web["items"].as_array_mut().expect("items").push(role);
    stage.apply(&web.to_string());
    stage.wait_rolled_out("deployments/web", SOON);
    let leader = stage.leader();
    wait_for("the pods to be labelled", SOON, || {
        let of_role = |role: &str| stage.pods(&format!("leasehold.dev/role={role}"));
        let (leaders, standbys) = (of_role("leader"), of_role("standby"));
        (leaders.len() == 1 && standbys.len() == 1 && leaders[0].name() == leader.name()).then_some(())
    });

    let other = stage.pods("leasehold.dev/role=standby").remove(0).name().to_owned();
    let ask = |pod: &str, patch: &Value| {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}", stage.namespace);
        leader.exec("app", &["/usr/bin/python3", "-c", ASK, "PATCH", &path, &patch.to_string()])
    };
    let label = |key: &str, value: &str| json!({"metadata": {"labels": {key: value}}});
    assert_eq!(ask(leader.name(), &label("leasehold.dev/role", "leader")).trim(), "200");
    let refused = |said: &str, sentence: &str| assert!(said.starts_with("422") && said.contains(sentence), "{said}");
    refused(&ask(&other, &label("leasehold.dev/role", "leader")), "may label itself, and this is");
    refused(&ask(leader.name(), &label("app", "db")), "may change its label leasehold.dev/role and nothing else");
    refused(&ask(leader.name(), &label("leasehold.dev/role", "primary")), "it is leader or standby");
}

#[test]
fn a_thiefs_pod_never_leads_by_anothers_lease() {
    let stage = stage("injected-thief");
    let bind = |account: &str| {
        let role = "--clusterrole=leasehold-candidate";
        let subject = format!("--serviceaccount={}:{account}", stage.namespace);
        stage.kubectl(&["create", "rolebinding", &format!("candidate-{account}"), role, &subject]);
    };
    // Without a Role of its own: the ClusterRole is all that it has.
    let candidate = |name: &'static str, of_ours: &[(&str, &str)]| {
        let mut workload = Workload::new().replicas(1);
        workload.name = name;
        let mut list = injected(&stage, &workload, of_ours);
        let items = list["items"].as_array_mut().expect("items");
        items.retain(|item| matches!(item["kind"].as_str(), Some("ServiceAccount" | "Deployment")));
        bind(name);
        stage.apply(&list.to_string());
    };
    candidate("thief", &[("lease", "web")]);
    stage.wait("the thief's pod to run", "deployments/thief", SOON, |found| found["status"]["replicas"] == 1);
    wait_for("the thief to be refused", SOON, || {
        let said = stage.records.said();
        said.iter().any(|said| said.reason.as_deref() == Some("refused")).then_some(())
    });
    assert!(stage.get("leases/web").is_none(), "the thief made it");
    candidate("web", &[]);
    stage.wait_rolled_out("deployments/web", SOON);
    let leader = stage.leader();
    assert!(leader.name().starts_with("web-"), "{} leads", leader.name());

    // By hand, with the version that is there, from inside the thief's pod.
    let thief = stage.pods("app=thief").remove(0);
    let mut lease = stage.get("leases/web").expect("the Lease");
    lease["spec"]["holderIdentity"] = "thief".into();
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/web", stage.namespace);
    for (method, body, refusal) in [
        ("PUT", lease.to_string(), "is a candidate for the Leases thief and thief-*"),
        ("PATCH", json!({"spec": {"holderIdentity": "thief"}}).to_string(), "cannot patch resource"),
        ("DELETE", String::new(), "cannot delete resource"),
    ] {
        // A version that is not the newest any more is a conflict, and nothing is shown.
        wait_for("the API server to say why", SOON, || {
            if method == "PUT" {
                lease["metadata"] = stage.get("leases/web")?["metadata"].clone();
            }
            let body = if method == "PUT" { lease.to_string() } else { body.clone() };
            let said = thief.exec("app", &["/usr/bin/python3", "-c", ASK, method, &path, &body]);
            assert!(said.starts_with('4'), "{method}: {said}");
            said.contains(refusal).then_some(())
        });
    }
    assert_eq!(stage.leader().name(), leader.name());
}

// --- The chart ---

#[test]
fn kubernetes_finds_no_fault_in_the_guards_expressions() {
    let stage = stage("injected-types").without_promises();
    for policy in ["leasehold-inject", "leasehold-lease-name", "leasehold-member-lease", "leasehold-role-label"] {
        let path = format!("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{policy}");
        let checking = wait_for("a controller to have checked the types", SOON, || {
            let checking = stage.cluster.get(&path)?["status"]["typeChecking"].take();
            checking.is_object().then_some(checking)
        });
        assert_eq!(checking["expressionWarnings"], Value::Null, "{policy}");
    }
}

#[test]
fn what_is_upgraded_holds_for_new_pods_and_after_an_uninstall_nobody_is_injected() {
    let stage = stage("injected-chart").without_promises();
    let labels = json!({"metadata": {"labels": {"leasehold.dev/injection": "disabled", "injector": stage.namespace}}});
    stage.cluster.patch(&format!("/api/v1/namespaces/{}", stage.namespace), &labels);
    let own = [
        "nameOverride=second".to_owned(),
        "rbac.create=false".into(),
        "policies.leaseName=false".into(),
        "policies.memberLease=false".into(),
        "policies.roleLabel=false".into(),
        "injection.namespaceSelector.matchExpressions[0].key=injector".into(),
        "injection.namespaceSelector.matchExpressions[0].operator=In".into(),
        format!("injection.namespaceSelector.matchExpressions[0].values[0]={}", stage.namespace),
    ];
    let release = format!("second-{}", stage.namespace);
    let upgrade = |more: &str| {
        let values: Vec<_> = own.iter().map(String::as_str).chain([more]).collect();
        let said = install(&release, &values);
        assert!(said.status.success(), "{}", error_of(&said));
    };
    let pod = bare_pod("web", &[("lease", "web")]);
    let duration = |pod: &Value| {
        let containers = pod["spec"]["initContainers"].as_array()?.iter();
        let args = containers.filter(|container| container["name"] == "leasehold").flat_map(|c| c["args"].as_array());
        let mut args = args.flatten().filter_map(Value::as_str);
        args.find(|arg| arg.starts_with("--lease-duration")).map(str::to_owned)
    };
    for (timing, expected) in [("standard", "15s"), ("fast", "5s")] {
        upgrade(&format!("sidecar.timing={timing}"));
        wait_for("the chart's value to hold", SOON, || {
            let given = stage.dry_run(&pod).and_then(|pod| duration(&pod));
            (given == Some(format!("--lease-duration={expected}"))).then_some(())
        });
    }
    let said = cluster().helm(["uninstall", &release, "-n", "leasehold-system", "--wait"]).output().expect("helm runs");
    assert!(said.status.success(), "{}", error_of(&said));
    wait_for("the policy to be gone", SOON, || stage.dry_run(&pod).is_some_and(|pod| !has_sidecar(&pod)).then_some(()));
}
