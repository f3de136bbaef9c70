//! What a labelled pod gets.

use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::*;

#[test]
fn a_pod_of_a_deployment_gets_the_sidecar_as_documented() {
    let shop = cluster().namespace("documented").ready();
    let pod = shop.create(&pod_of_deployment("web"));
    let mut sidecar = sidecar(&pod).expect("the sidecar").clone();
    // What the API server adds to any container.
    for key in ["terminationMessagePath", "terminationMessagePolicy"] {
        sidecar.as_object_mut().expect("an object").remove(key);
    }
    let field = |path: &str| json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}});
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": "leasehold", "scheme": "HTTP"},
            "periodSeconds": period, "failureThreshold": failures, "successThreshold": 1, "timeoutSeconds": 1,
        })
    };
    assert_eq!(
        sidecar,
        json!({
            "name": "leasehold",
            "image": concat!("leasehold/leasehold:", env!("CARGO_PKG_VERSION")),
            "imagePullPolicy": "IfNotPresent",
            "restartPolicy": "Always",
            "args": ["run", "--lease=web", "--lease-duration=15s"],
            "env": [
                {"name": "POD_NAME", "valueFrom": field("metadata.name")},
                {"name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace")},
                {"name": "POD_UID", "valueFrom": field("metadata.uid")},
            ],
            "ports": [{"name": "leasehold", "containerPort": 4041, "protocol": "TCP"}],
            "startupProbe": probe("/livez", 1, 60),
            "readinessProbe": probe("/readyz", 5, 3),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}},
            "volumeMounts": [
                {"name": "leasehold", "mountPath": "/run"},
                {"name": "leasehold-state", "mountPath": "/var/lib/leasehold"},
                {"name": "leasehold-token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
            ],
        })
    );
    let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
    let ours: Vec<_> =
        volumes.iter().filter(|v| v["name"].as_str().expect("a name").starts_with("leasehold")).collect();
    assert_eq!(
        json!(ours),
        json!([
            {"name": "leasehold", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "leasehold-state", "emptyDir": {"sizeLimit": "16Mi"}},
            {"name": "leasehold-token", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                ]}},
            ]}},
        ])
    );
    assert_eq!(
        env(container(&pod, "app")),
        [("LEASEHOLD_FILE", "/run/leasehold/status.json"), ("LEASEHOLD_URL", "http://127.0.0.1:4040")]
    );
    assert!(mounts_the_report(container(&pod, "app")), "{pod:#}");
    assert_eq!(pod["metadata"]["annotations"]["leasehold.dev/injected"], env!("CARGO_PKG_VERSION"));
    assert_eq!(pod["metadata"]["annotations"]["team"], "a");
}

/// The variables of a container that have a plain value.
fn env(container: &Value) -> Vec<(&str, &str)> {
    let env = container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    env.iter().filter_map(|e| Some((e["name"].as_str()?, e["value"].as_str()?))).collect()
}

fn mounts_the_report(container: &Value) -> bool {
    let mounts = container["volumeMounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let report = json!({"name": "leasehold", "mountPath": "/run/leasehold", "subPath": "leasehold", "readOnly": true});
    mounts.contains(&report)
}

fn names(containers: &Value) -> Vec<&str> {
    containers.as_array().expect("containers").iter().map(|c| c["name"].as_str().expect("a name")).collect()
}

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn token_volume(container: &Value) -> Option<&str> {
    let mounts = container["volumeMounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    mounts.iter().find(|mount| mount["mountPath"] == TOKEN_PATH)?["name"].as_str()
}

#[test]
fn the_sidecar_has_a_token_of_its_own_and_the_apps_is_the_apps_business() {
    let shop = cluster().namespace("token").ready();
    let pod = shop.create(&pod_of_deployment("web"));
    assert_eq!(token_volume(sidecar(&pod).expect("the sidecar")), Some("leasehold-token"));
    let own = token_volume(container(&pod, "app")).expect("the app keeps its account's token");
    assert!(own.starts_with("kube-api-access-"), "{own}");

    let without = with(pod_of_deployment("web"), json!({"spec": {"automountServiceAccountToken": false}}));
    let pod = shop.create(&without);
    assert_eq!(token_volume(sidecar(&pod).expect("the sidecar")), Some("leasehold-token"));
    assert_eq!(token_volume(container(&pod, "app")), None);
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
}

#[test]
fn old_and_new_pods_of_a_rollout_contend_for_the_same_lease() {
    let shop = cluster().namespace("rollout").ready();
    let lease = |pod: &Value| args(&shop.create(pod))[1].to_owned();
    assert_eq!(lease(&pod_of_template("web", "5d8f7c9b4", "pod-template-hash")), "--lease=web");
    assert_eq!(lease(&pod_of_template("web", "66b7d9c5f8", "pod-template-hash")), "--lease=web");
    // A name that looks as if it had a hash already.
    assert_eq!(lease(&pod_of_template("web-66b7d9c5f8", "5d8f7c9b4", "pod-template-hash")), "--lease=web-66b7d9c5f8");
    assert_eq!(lease(&pod_of_template("web", "75cd6bcb8f", "rollouts-pod-template-hash")), "--lease=web");
    assert_eq!(lease(&pod(Some(("apps/v1", "StatefulSet", "db")))), "--lease=db");
}

#[test]
fn each_annotation_does_what_the_table_says() {
    let shop = cluster().namespace("annotations").ready();
    let web = |annotation: &str, value: &str| {
        let pod = shop.create(&annotated(pod_of_deployment("web"), annotation, value));
        the_sidecar_accepts(&args(&pod));
        pod
    };
    let has = |pod: &Value, arg: &str| assert!(args(pod).contains(&arg), "{arg}: {:?}", args(pod));

    has(&web("lease", "shop-web"), "--lease=shop-web");
    has(&web("lease", "web, reports"), "--lease=web,reports");
    has(&web("timing", "calm"), "--lease-duration=60s");
    has(&web("timing", "fast"), "--lease-duration=5s");
    has(&web("lease-duration", "30s"), "--lease-duration=30s");
    has(&web("role-label", "true"), "--role-label");
    assert!(!args(&web("alive", "none")).iter().any(|arg| arg.starts_with("--app-alive")));
    let pod = web("alive", "lock,http://127.0.0.1:8080/healthz?deep=1");
    has(&pod, "--app-alive=lock");
    has(&pod, "--app-alive=http://127.0.0.1:8080/healthz?deep=1");
    for alive in ["session", "asking", "tcp://localhost:5432", "http://[::1]:8080/"] {
        has(&web("alive", alive), &format!("--app-alive={alive}"));
    }
    let pod = web("args", "--answer-ttl=500ms  --trust-unheld");
    assert!(args(&pod).ends_with(&["--answer-ttl=500ms", "--trust-unheld"]), "{:?}", args(&pod));

    let pod = web("listen", "localhost:5050");
    has(&pod, "--listen=localhost:5050");
    assert!(env(container(&pod, "app")).contains(&("LEASEHOLD_URL", "http://127.0.0.1:5050")));
    let pod = web("probe-port", "5051");
    has(&pod, "--probe-listen=[::]:5051");
    assert_eq!(sidecar(&pod).expect("the sidecar")["ports"][0]["containerPort"], 5051);
    let pod = web("probes", "exec");
    let sidecar_ = sidecar(&pod).expect("the sidecar");
    assert_eq!(sidecar_["startupProbe"]["exec"]["command"], json!(["/leasehold", "probe", "startup"]));
    assert_eq!(sidecar_["readinessProbe"]["exec"]["command"], json!(["/leasehold", "probe", "ready"]));
    assert_eq!(sidecar_["startupProbe"]["httpGet"], Value::Null);

    let pod = web("compat", "nais");
    let env = env(container(&pod, "app"));
    for variable in [
        ("ELECTOR_PATH", "localhost:4040"),
        ("ELECTOR_GET_URL", "http://localhost:4040/"),
        ("ELECTOR_SSE_URL", "http://localhost:4040/sse"),
    ] {
        assert!(env.contains(&variable), "{env:?}");
    }
}

#[test]
fn a_pod_joins_the_group_that_it_names_and_says_of_which_template_it_is() {
    let shop = cluster().namespace("joins").ready();
    let joined = |pod: Value, more: &[(&str, &str)]| {
        let pod = more.iter().fold(pod, |pod, (annotation, value)| annotated(pod, annotation, value));
        let pod = shop.create(&annotated(pod, "member-of", "shop"));
        the_sidecar_accepts(&args(&pod));
        pod
    };
    let plain = joined(pod_of_deployment("web"), &[]);
    assert_eq!(args(&plain), ["run", "--lease=web", "--lease-duration=15s", "--member-of=shop"]);
    let more = [
        ("member-lease-duration", "20s"),
        ("member-renew-interval", "10s"),
        ("member-annotations", "zone=a, example.com/Slot_1=b=c d"),
        ("alive", "lock"),
    ];
    assert_eq!(
        args(&joined(pod_of_deployment("web"), &more))[3..],
        [
            "--member-of=shop",
            "--member-lease-duration=20s",
            "--member-renew-interval=10s",
            "--member-annotation=zone=a",
            "--member-annotation=example.com/Slot_1=b=c d",
            "--app-alive=lock"
        ]
    );
    for (annotation, value) in [("member-lease-duration", "4s"), ("member-lease-duration", "86400s")] {
        joined(pod_of_deployment("web"), &[(annotation, value)]);
    }
    joined(pod_of_deployment("web"), &[("member-lease-duration", "3s"), ("member-renew-interval", "1s")]);
    let longest = annotated(pod_of_deployment("web"), "member-of", &"a".repeat(63));
    the_sidecar_accepts(&args(&shop.create(&longest)));

    let label = |pod: &Value| {
        let env = sidecar(pod).expect("the sidecar")["env"].as_array().expect("variables").clone();
        let revision = env.iter().find(|one| one["name"] == "POD_TEMPLATE_HASH");
        revision.map(|one| one["valueFrom"]["fieldRef"]["fieldPath"].as_str().expect("a path").to_owned())
    };
    assert_eq!(label(&shop.create(&pod_of_deployment("web"))), None);
    assert_eq!(label(&plain).as_deref(), Some("metadata.labels['pod-template-hash']"));
    let rollout = pod_of_template("web", "75cd6bcb8f", "rollouts-pod-template-hash");
    assert_eq!(label(&joined(rollout, &[])).as_deref(), Some("metadata.labels['rollouts-pod-template-hash']"));
    for (kind, lease) in [("StatefulSet", None), ("DaemonSet", Some(("lease", "")))] {
        let made = joined(pod(Some(("apps/v1", kind, "db"))), lease.as_slice());
        assert_eq!(label(&made).as_deref(), Some("metadata.labels['controller-revision-hash']"));
    }
}

#[test]
fn a_pod_that_names_an_empty_lease_is_a_member_alone() {
    let shop = cluster().namespace("alone").ready();
    for owner in [Some(("apps/v1", "ReplicaSet", "web-5d8f7c9b4")), Some(("batch/v1", "Job", "report-29")), None] {
        for empty in ["", " "] {
            let pod = annotated(annotated(pod(owner), "lease", empty), "member-of", "shop");
            let made = shop.create(&annotated(pod, "timing", "fast"));
            assert_eq!(args(&made), ["run", "--member-of=shop"]);
            the_sidecar_accepts(&args(&made));
        }
    }
}

/// `leasehold run` judges its configuration before it looks for a kubeconfig, which is not there.
#[track_caller]
fn the_sidecar_accepts(args: &[&str]) {
    let missing = "/nonexistent/kubeconfig";
    let output = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args(args.iter().filter(|arg| **arg != "--role-label"))
        .args(["--pod-name=web-0", "--kubeconfig", missing])
        .env_clear()
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(64) && said.contains(missing) && said.lines().count() == 1,
        "{args:?}: {said}"
    );
}

#[test]
fn requests_and_limits_are_set_each_and_may_be_equal() {
    let shop = cluster().namespace("resources").ready();
    let mut pod = pod_of_deployment("web");
    for (annotation, value) in [("cpu-request", "50m"), ("cpu-limit", "50m"), ("memory-request", "32Mi")] {
        pod = annotated(pod, annotation, value);
    }
    let resources = json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "50m", "memory": "32Mi"}});
    assert_eq!(sidecar(&shop.create(&pod)).expect("the sidecar")["resources"], resources);
    let pod = annotated(pod_of_deployment("web"), "memory-limit", "");
    let resources = json!({"requests": {"cpu": "10m", "memory": "16Mi"}});
    assert_eq!(sidecar(&shop.create(&pod)).expect("the sidecar")["resources"], resources);
}

#[test]
fn it_is_the_last_init_container_or_the_first() {
    let shop = cluster().namespace("position").ready();
    let pod = with(
        pod_of_deployment("web"),
        json!({"spec": {"initContainers": [{"name": "migrate", "image": "i"}, {"name": "warm", "image": "i"}]}}),
    );
    assert_eq!(names(&shop.create(&pod)["spec"]["initContainers"]), ["migrate", "warm", "leasehold"]);
    let first = annotated(pod, "position", "first");
    assert_eq!(names(&shop.create(&first)["spec"]["initContainers"]), ["leasehold", "migrate", "warm"]);
}

#[test]
fn every_app_container_is_told_unless_some_are_named() {
    let shop = cluster().namespace("containers").ready();
    let pod = with(
        pod_of_deployment("web"),
        json!({"spec": {
            "initContainers": [{"name": "migrate", "image": "i"}],
            "containers": [
                {"name": "app", "image": "a", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
                {"name": "proxy", "image": "p", "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
            ],
            "volumes": [{"name": "data", "emptyDir": {}}],
        }}),
    );
    let told = |pod: &Value| {
        let containers = ["containers", "initContainers"].map(|list| pod["spec"][list].as_array().expect("containers"));
        let told = containers.into_iter().flatten().filter(|c| c["name"] != "leasehold" && mounts_the_report(c));
        let told: Vec<_> = told.inspect(|c| assert!(env(c).iter().any(|e| e.0 == "LEASEHOLD_URL"), "{c:#}")).collect();
        names(&json!(told)).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = shop.create(&pod);
    assert_eq!(told(&all), ["app", "proxy"]);
    // What was there before, with a variable given twice, is there still and first.
    assert_eq!(env(container(&all, "app"))[..2], [("A", "1"), ("A", "2")]);
    assert_eq!(container(&all, "proxy")["volumeMounts"][0], json!({"name": "data", "mountPath": "/data"}));
    assert_eq!(told(&shop.create(&annotated(pod.clone(), "containers", "app"))), ["app"]);
    let first = annotated(pod, "position", "first");
    assert_eq!(told(&shop.create(&annotated(first, "containers", "proxy, migrate"))), ["proxy", "migrate"]);
}

#[test]
fn what_is_injected_already_is_left_alone() {
    let shop = cluster().namespace("again").ready();
    let mut once = shop.create(&pod_of_deployment("web"));
    for key in ["uid", "creationTimestamp", "generation", "name"] {
        once["metadata"].as_object_mut().expect("an object").remove(key);
    }
    once.as_object_mut().expect("an object").remove("status");
    let twice = shop.create(&once);
    assert_eq!(twice["spec"], once["spec"]);

    // A sidecar that somebody wrote is theirs, and so are its volumes and what the annotations say.
    let own = json!({"name": "leasehold", "image": "mine", "restartPolicy": "Always"});
    let own = with(pod_of_deployment("web"), json!({"spec": {"initContainers": [own]}}));
    for pod in [own.clone(), annotated(own, "lease", "Not Valid")] {
        let pod = shop.create(&pod);
        assert_eq!(names(&pod["spec"]["initContainers"]), ["leasehold"]);
        assert_eq!(sidecar(&pod).expect("the sidecar")["image"], "mine");
        assert!(!mounts_the_report(container(&pod, "app")));
    }
}

#[test]
fn nobody_else_is_touched() {
    let shop = cluster().namespace("others").ready();
    let is_untouched = |namespace: &Namespace, pod: &Value| {
        let made = namespace.create(pod);
        assert!(sidecar(&made).is_none() && !mounts_the_report(container(&made, "app")), "{made:#}");
    };
    let mut unlabelled = pod_of_deployment("web");
    unlabelled["metadata"]["labels"] = json!({"pod-template-hash": "5d8f7c9b4"});
    is_untouched(&shop, &unlabelled);
    let off = with(pod_of_deployment("web"), json!({"metadata": {"labels": {"leasehold.dev/inject": "false"}}}));
    // Its annotations are nobody's business then.
    is_untouched(&shop, &annotated(off, "timing", "none-such"));
    // The kubelet's image of a static pod.
    let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "abc", "kubernetes.io/config.source": "file"}},
        "spec": {"nodeName": "node1", "automountServiceAccountToken": false}});
    let mirror = with(pod_of_deployment("web"), mirror);
    is_untouched(&shop, &mirror);

    let out = cluster().labelled_namespace("out", &[("leasehold.dev/injection", "disabled")]);
    out.wait_created("the namespace's label", &pod_of_deployment("web"), |answer| sidecar(&answer.json()).is_none());
    is_untouched(&out, &annotated(pod_of_deployment("web"), "timing", "none-such"));
    let system = Namespace { cluster: cluster(), name: "kube-system".into() };
    system.account("default");
    is_untouched(&system, &pod_of_deployment("web"));
}

#[test]
fn with_hostnetwork_everything_goes_by_sockets() {
    let shop = cluster().namespace("host").ready();
    let pod = with(pod_of_deployment("web"), json!({"spec": {"hostNetwork": true}}));
    let pod = shop.create(&annotated(pod, "listen", "unix"));
    for arg in ["--listen=unix:/run/leasehold/leasehold.sock", "--probe-listen=unix:/var/lib/leasehold/probe.sock"] {
        assert!(args(&pod).contains(&arg), "{:?}", args(&pod));
    }
    let sidecar = sidecar(&pod).expect("the sidecar");
    assert_eq!(sidecar["ports"], Value::Null);
    let probe =
        |which: &str| json!(["/leasehold", "probe", which, "--probe-listen=unix:/var/lib/leasehold/probe.sock"]);
    assert_eq!(sidecar["startupProbe"]["exec"]["command"], probe("startup"));
    assert_eq!(sidecar["readinessProbe"]["exec"]["command"], probe("ready"));
    let env = env(container(&pod, "app"));
    assert!(env.contains(&("LEASEHOLD_SOCKET", "/run/leasehold/leasehold.sock")), "{env:?}");
    assert!(!env.iter().any(|e| e.0 == "LEASEHOLD_URL"), "{env:?}");
}

#[test]
fn a_pod_that_runs_as_root_has_a_sidecar_that_does_not() {
    let shop = cluster().namespace("root").ready();
    let user = |user: u32| {
        let pod = with(pod_of_deployment("web"), json!({"spec": {"securityContext": {"runAsUser": user}}}));
        let pod = shop.create(&pod);
        let security = &sidecar(&pod).expect("the sidecar")["securityContext"];
        (security["runAsUser"].as_u64(), security["runAsGroup"].as_u64())
    };
    assert_eq!(user(0), (Some(65532), Some(65532)));
    assert_eq!(user(1000), (None, None));
}

#[test]
fn the_sidecars_end_fits_into_the_pods() {
    let shop = cluster().namespace("grace").ready();
    let grace = |seconds: u32| {
        let pod = with(pod_of_deployment("web"), json!({"spec": {"terminationGracePeriodSeconds": seconds}}));
        let pod = shop.create(&pod);
        args(&pod).into_iter().find(|arg| arg.starts_with("--shutdown-grace")).map(str::to_owned)
    };
    assert_eq!(grace(30), None);
    assert_eq!(grace(10).as_deref(), Some("--shutdown-grace=8s"));
    assert_eq!(grace(1).as_deref(), Some("--shutdown-grace=3s"));
    let pod = with(pod_of_deployment("web"), json!({"spec": {"terminationGracePeriodSeconds": 10}}));
    let pod = shop.create(&annotated(pod, "args", "--shutdown-grace=5s"));
    assert!(args(&pod).ends_with(&["--lease-duration=15s", "--shutdown-grace=5s"]), "{:?}", args(&pod));
}

#[test]
fn pod_security_restricted_accepts_it() {
    let labels = [("pod-security.kubernetes.io/enforce", "restricted")];
    let strict = cluster().labelled_namespace("restricted", &labels);
    let app = json!({
        "name": "app", "image": "a", "securityContext": {
            "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    // The namespace is strict: without the app's own part the pod is refused.
    strict.wait_created("the namespace to be strict", &pod_of_deployment("web"), |answer| {
        answer.status == 403 && answer.text().contains("PodSecurity") && !answer.text().contains("\\\"leasehold\\\"")
    });
    let pod = strict.create(&with(pod_of_deployment("web"), json!({"spec": {"containers": [app]}})));
    assert!(sidecar(&pod).is_some());
}

#[test]
fn the_charts_values_are_what_pods_get_unless_they_say_otherwise() {
    let shop = cluster().labelled_namespace("values", &OTHER);
    let web = pod_of_deployment("web");
    shop.wait_created("the second release", &web, |answer| sidecar(&answer.json()).is_some());
    let pod = with(
        web,
        json!({"spec": {"initContainers": [{"name": "migrate", "image": "i"}], "imagePullSecrets": [{"name": "pull"}]}}),
    );
    let made = shop.create(&pod);
    assert_eq!(names(&made["spec"]["initContainers"]), ["leasehold", "migrate"]);
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "pull"}, {"name": "more"}]));
    let sidecar = sidecar(&made).expect("the sidecar");
    assert_eq!(sidecar["image"], format!("registry.example/infra/leasehold@sha256:{}", "1".repeat(64)));
    assert_eq!(sidecar["imagePullPolicy"], "Always");
    assert!(sidecar["startupProbe"]["exec"].is_object());
    let equal = json!({"cpu": "20m", "memory": "24Mi"});
    assert_eq!(sidecar["resources"], json!({"requests": equal, "limits": equal}));
    let expected = [
        "run",
        "--lease=web",
        "--lease-duration=60s",
        "--app-alive=lock",
        "--role-label",
        "--log-level=debug",
        "--events=off",
    ];
    assert_eq!(args(&made), expected);
    assert!(env(container(&made, "app")).contains(&("ELECTOR_PATH", "localhost:4040")));

    let own =
        [("timing", "standard"), ("alive", "none"), ("position", "last"), ("probes", "http"), ("role-label", "false")];
    let own = own.into_iter().chain([("compat", "none"), ("args", ""), ("image", "registry.example/lab/leasehold:2")]);
    let made = shop.create(&own.fold(pod.clone(), |pod, (annotation, value)| annotated(pod, annotation, value)));
    assert_eq!(names(&made["spec"]["initContainers"]), ["migrate", "leasehold"]);
    assert_eq!(args(&made), ["run", "--lease=web", "--lease-duration=15s"]);
    assert_eq!(crate::cluster::sidecar(&made).expect("the sidecar")["image"], "registry.example/lab/leasehold:2");

    let refusal = shop.refusal(&annotated(pod, "image", "registry.example/evil/leasehold:2"));
    assert!(
        refusal.contains("it must begin with one of registry.example/infra/leasehold:,registry.example/lab/"),
        "{refusal}"
    );
}
