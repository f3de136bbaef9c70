//! The same sidecar by other ways: the Kustomize component is built by kubectl here, Kyverno's policies are held against
//! the definitions of their kinds (no Kyverno runs), and the chart refuses values that mean nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::*;
use crate::support::control_plane::tool_folder;
use crate::support::helm;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The values files that anybody can try.
fn ci_values() -> Vec<String> {
    let folder = Path::new(ROOT).join("charts").join(CHART).join("ci");
    let files = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = files.map(|path| path.to_string_lossy().into_owned()).collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

#[test]
fn every_values_file_is_accepted_by_helm_and_the_api_server() {
    let cluster = cluster();
    for values in ci_values() {
        let lint = helm::helm(&["lint", "--strict", "--quiet", "--values", &values, &format!("charts/{CHART}")]);
        assert!(lint.status.success(), "{values}: {}", String::from_utf8_lossy(&lint.stdout));
        let rendered = helm::template("ci", CHART, &["-n", "default", "--values", &values]).expect("it renders");
        if values.contains("kustomize") {
            build_component(&rendered, &fs::read_to_string(workloads()).expect("can be read"));
            continue;
        }
        if values.contains("kyverno") {
            kyverno_definitions();
        }
        let file = cluster.control_plane.write_file("ci.yaml", &rendered);
        // Nothing of it may be unknown to the API server.
        let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", &file.to_string_lossy()];
        cluster.control_plane.run_kubectl(&apply);
    }
}

/// A cluster that has Kyverno's kinds, though nobody who acts on them.
fn kyverno_definitions() {
    let folder = tool_folder(&["kyverno"]).join("kyverno");
    let cluster = cluster();
    cluster.control_plane.run_kubectl(&["apply", "--server-side", "-f", &folder.to_string_lossy()]);
    let wait = ["wait", "--for=condition=Established", "--timeout=60s", "-f", &folder.to_string_lossy()];
    cluster.control_plane.run_kubectl(&wait);
}

#[test]
fn values_that_cannot_work_are_refused_with_a_sentence() {
    let refused = |arguments: &[&str], sentence: &str| {
        let refusal = helm::template("bad", CHART, arguments).expect_err(sentence);
        assert!(refusal.contains(sentence), "{sentence:?}: {refusal}");
    };
    refused(&["--kube-version=1.35.0"], "MutatingAdmissionPolicy is on from Kubernetes 1.36: this is v1.35.0");
    refused(&["--set=policies.leaseName=false"], "rbac.create needs policies.leaseName");
    refused(&["--set=policies.memberLease=false"], "rbac.create needs policies.memberLease");
    refused(&["--set=sidecar.args={--member-of=web}"], "/sidecar/args/0");
    refused(&["--set=sidecar.timing=slow"], "/sidecar/timing");
    refused(&["--set=sidecar.alive=http://db:5432/"], "/sidecar/alive");
    refused(&["--set=sidecar.alive=tcp://127.0.0.1:99999"], "/sidecar/alive");
    refused(&["--set=sidecar.alive=http://127.0.0.1:80/<"], "/sidecar/alive");
    refused(&["--set=sidecar.args={--lease=web}"], "/sidecar/args/0");
    refused(&["--set=sidecar.args={--ttl=5s}"], "/sidecar/args/0");
    refused(&["--set=sidecar.image.digest=sha256:1"], "/sidecar/image/digest");
    refused(&["--set=sidecar.resources.limits.memory=32 Mi"], "/sidecar/resources/limits");
    refused(&["--set=rbac.namespaces={Shop}"], "/rbac/namespaces/0");
    refused(&["--set=rbac.namespaces={kube-system}"], "/rbac/namespaces/0");
    refused(&["--set=injection.engine=webhook"], "/injection/engine");
    refused(&["--set=no.such=value"], "additional properties 'no' not allowed");
    refused(&["--set=injection.engine=kustomize,sidecar.position=first"], "sidecar.position");
    // The guards are for older clusters as well.
    let guards = helm::template("old", CHART, &["--kube-version=1.30.0", "--set=injection.enabled=false"]);
    assert!(!guards.expect("it renders").contains("kind: Mutating"));
}

/// A map's values that are no strings: `1234` without quotes is a number, and the API server refuses it.
fn no_strings(map: &Value) -> Vec<&Value> {
    map.as_object().into_iter().flatten().map(|(_, value)| value).filter(|value| !value.is_string()).collect()
}

#[test]
fn names_that_look_like_numbers_stay_names() {
    for engine in ["policy", "kyverno"] {
        let engine = format!("--set=injection.engine={engine}");
        let names = ["-n", "1234", "--set-string=rbac.namespaces={1234}", "--set-string=nameOverride=1234", &engine];
        let labels = "--set-string=commonLabels.team=1234";
        let rendered = helm::template("1234", CHART, &[&names[..], &[labels]].concat()).expect("it renders");
        let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered).expect("YAML");
        for object in objects.iter().filter(|object| !object.is_null()) {
            let (kind, metadata, spec) = (&object["kind"], &object["metadata"], &object["spec"]);
            assert_eq!(metadata["labels"]["app.kubernetes.io/instance"], "1234", "{kind}");
            assert_eq!(no_strings(&metadata["labels"]), [&Value::Null; 0], "{kind}");
            assert!(metadata["name"].as_str().is_some_and(|name| name.starts_with("1234-")), "{kind}");
            assert_eq!(no_strings(&spec["paramRef"]), [&Value::Null; 0], "{kind}");
            if matches!(kind.as_str(), Some("ConfigMap" | "RoleBinding")) {
                assert_eq!(metadata["namespace"], "1234", "{kind}");
            }
            if kind == "RoleBinding" {
                assert_eq!(object["roleRef"]["name"], "1234-candidate");
            }
        }
    }
}

// --- Kustomize ---

fn workloads() -> std::path::PathBuf {
    Path::new(ROOT).join("tests/injection/workloads.yaml")
}

#[test]
fn the_component_is_what_the_chart_renders() {
    let rendered = helm::template("leasehold", CHART, &["--set=injection.engine=kustomize"]).expect("it renders");
    let committed = fs::read_to_string(Path::new(ROOT).join("deploy/kustomize/kustomization.yaml"));
    assert_eq!(committed.expect("is there"), rendered, "run deploy/render.sh");
}

/// What `kubectl kustomize` makes of these workloads with the component.
fn build_component(component: &str, workloads: &str) -> Vec<Value> {
    build_component_with(component, workloads, "")
}

fn build_component_with(component: &str, workloads: &str, more: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("makes a folder");
        fs::write(path, text).expect("writes a file");
    };
    write("component/kustomization.yaml", component);
    write("app/workloads.yaml", workloads);
    write("app/kustomization.yaml", &format!("resources: [workloads.yaml]\ncomponents: [../component]\n{more}"));
    let built = Command::new(tool_folder(&[]).join("kubectl")).arg("kustomize").arg(folder.path().join("app")).output();
    let built = built.expect("kubectl can be started");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    serde_saphyr::from_multiple(&String::from_utf8_lossy(&built.stdout)).expect("YAML")
}

#[test]
fn the_component_gives_what_the_policy_gives() {
    let shop = cluster().namespace("kustomize").ready();
    let component = fs::read_to_string(Path::new(ROOT).join("deploy/kustomize/kustomization.yaml")).expect("is there");
    let workloads_text = fs::read_to_string(workloads()).expect("is there");
    let before: Vec<Value> = serde_saphyr::from_multiple(&workloads_text).expect("YAML");
    let built = build_component(&component, &workloads_text);
    assert_eq!(built.len(), before.len(), "{built:#?}");
    for workload in before {
        let name = &workload["metadata"]["name"];
        let built = built.iter().find(|built| built["metadata"]["name"] == *name).expect("it is there");
        let mut pod = workload["spec"]["template"].clone();
        if workload["metadata"]["labels"]["leasehold.dev/inject"] != "true" {
            assert_eq!(*built, workload);
            continue;
        }
        pod["metadata"]["labels"]["leasehold.dev/inject"] = "true".into();
        let injected = shop.create(&as_pod(&pod));
        let patched = shop.create(&as_pod(&built["spec"]["template"]));
        let (mut theirs, mut ours) =
            (sidecar(&patched).expect("a sidecar").clone(), sidecar(&injected).expect("one").clone());
        // Who names the Lease differs: the policy knows it when the pod comes.
        let lease = json!({"name": "LEASEHOLD_LEASE", "valueFrom": {"fieldRef": {
            "apiVersion": "v1", "fieldPath": "metadata.annotations['leasehold.dev/lease']",
        }}});
        assert_eq!(theirs["env"].as_array_mut().expect("variables").pop(), Some(lease));
        assert_eq!(ours["args"].as_array_mut().expect("arguments").remove(1), "--lease=named");
        assert_eq!(theirs, ours);
        assert_eq!(names_of_ours(&patched), names_of_ours(&injected));
        for container in injected["spec"]["containers"].as_array().expect("containers") {
            let theirs = crate::cluster::container(&patched, container["name"].as_str().expect("a name"));
            for list in ["env", "volumeMounts"] {
                assert_eq!(sorted(&theirs[list]), sorted(&container[list]), "{list}");
            }
        }
    }
}

/// As docs/injection.md has it.
#[test]
fn the_component_is_patched_into_a_member() {
    let documented = fs::read_to_string(Path::new(ROOT).join("docs/injection.md")).expect("can be read");
    let patch = documented.split("```yaml\n").find(|block| block.starts_with("patches:")).expect("there is a patch");
    let patch = patch.split("```").next().expect("it ends");
    let component = fs::read_to_string(Path::new(ROOT).join("deploy/kustomize/kustomization.yaml")).expect("is there");
    let workloads = fs::read_to_string(workloads()).expect("is there");
    let built = build_component_with(&component, &workloads, patch);
    let web = built.iter().find(|built| built["metadata"]["name"] == "web").expect("it is there");
    let container = &web["spec"]["template"]["spec"]["initContainers"];
    let sidecar = container.as_array().expect("a list").iter().find(|one| one["name"] == "leasehold").expect("one");
    let env = sidecar["env"].as_array().expect("variables");
    assert!(env.contains(&json!({"name": "LEASEHOLD_MEMBER_OF", "value": "web"})), "{env:?}");
    let hash = json!({"fieldRef": {"fieldPath": "metadata.labels['pod-template-hash']"}});
    assert!(env.contains(&json!({"name": "POD_TEMPLATE_HASH", "valueFrom": hash})), "{env:?}");
    assert!(env.iter().any(|one| one["name"] == "POD_UID") && sidecar["image"].is_string(), "{env:?}");
}

fn as_pod(template: &Value) -> Value {
    let mut pod = template.clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "web".into();
    // Its token's volume has a random name.
    pod["spec"]["automountServiceAccountToken"] = false.into();
    pod
}

fn names_of_ours(pod: &Value) -> Vec<String> {
    let volumes = pod["spec"]["volumes"].as_array().expect("volumes").iter();
    let ours = volumes.filter(|volume| volume["name"].as_str().is_some_and(|name| name.starts_with("leasehold")));
    let mut ours: Vec<_> = ours.map(Value::to_string).collect();
    ours.sort();
    ours
}

fn sorted(list: &Value) -> Vec<String> {
    let mut sorted: Vec<_> = list.as_array().into_iter().flatten().map(Value::to_string).collect();
    sorted.sort();
    sorted
}

// --- The chart for workloads ---

#[test]
fn it_is_the_sidecar_that_charts_leasehold_has() {
    let shop = cluster().namespace("same").ready();
    let rendered = helm::template("web", "leasehold", &["--set=lease.name=web"]).expect("it renders");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered).expect("YAML");
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").expect("a Deployment");
    let mut pod = as_pod(&deployment["spec"]["template"]);
    pod["spec"]["serviceAccountName"] = "default".into();
    let theirs = shop.create(&pod);
    let ours = shop.create(&pod_of_deployment("web"));
    assert_eq!(sidecar(&theirs), sidecar(&ours));
    assert_eq!(names_of_ours(&theirs), names_of_ours(&ours));
}
