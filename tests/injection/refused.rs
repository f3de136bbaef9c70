//! A pod that cannot be injected is refused, with a sentence.

use serde_json::{Value, json};

use crate::cluster::*;

#[track_caller]
fn says(refusal: &str, sentence: &str) {
    assert!(refusal.contains(sentence), "{sentence:?} is not in: {refusal}");
}

#[test]
fn a_bad_value_is_refused_with_what_it_must_be() {
    let shop = cluster().namespace("bad").ready();
    let long = "a".repeat(231);
    let cases = [
        ("lease", "", "name one by the annotation leasehold.dev/lease"),
        ("lease", "Web", "\"Web\" is no name of a Lease"),
        ("lease", "web_1", "is no name of a Lease"),
        ("lease", "-web", "is no name of a Lease"),
        ("lease", "web..a", "is no name of a Lease"),
        ("lease", "web,", "is no name of a Lease"),
        ("lease", "web,web", "several are separated by a comma and differ"),
        ("lease", "web,status", "a Lease named status must be the first"),
        ("lease", &long, "at most 230 characters"),
        ("timing", "slow", "leasehold.dev/timing is \"slow\": it must be standard, calm or fast"),
        ("lease-duration", "500ms", "it must be whole seconds from 2s to 3600s"),
        ("lease-duration", "0s", "it must be whole seconds from 2s to 3600s"),
        ("lease-duration", "1s", "it must be whole seconds from 2s to 3600s"),
        ("lease-duration", "3601s", "it must be whole seconds from 2s to 3600s"),
        ("alive", "yes", "leasehold.dev/alive is \"yes\": it must be none, or one or more of lock, session"),
        ("alive", "http://db.example:5432/", "leasehold.dev/alive is"),
        ("alive", "https://127.0.0.1:8080/", "leasehold.dev/alive is"),
        ("alive", "http://127.0.0.1/", "leasehold.dev/alive is"),
        ("alive", "lock,", "leasehold.dev/alive is"),
        ("alive", "http://127.0.0.256:8080/", "it must be none, or one or more of"),
        ("alive", "http://127.0.0.1:0/", "it must be none, or one or more of"),
        ("alive", "http://127.0.0.1:65536/", "it must be none, or one or more of"),
        ("alive", "tcp://127.0.0.1:99999", "it must be none, or one or more of"),
        ("alive", "tcp://127.0.0.1:80/path", "it must be none, or one or more of"),
        ("alive", "http://127.0.0.1:80/\"", "it must be none, or one or more of"),
        ("alive", "http://127.0.0.1:80/<", "it must be none, or one or more of"),
        ("alive", "http://127.0.0.1:80/{a}", "it must be none, or one or more of"),
        ("alive", "http://127.0.0.1:80/#a", "it must be none, or one or more of"),
        ("alive", "http://", "it must be none, or one or more of"),
        ("alive", "lock,lock", "\"lock,lock\": each may be given once"),
        ("alive", "http://[::1]:80/?a,http://[::1]:80/?b", "each may be given once"),
        ("alive", "http://127.0.0.1:4040/", "port 4040 or 4041 is the sidecar's own"),
        ("alive", "lock,tcp://[::1]:4041", "port 4040 or 4041 is the sidecar's own"),
        ("position", "middle", "it must be first or last"),
        ("probes", "tcp", "it must be http or exec"),
        ("role-label", "yes", "it must be \"true\" or \"false\""),
        ("compat", "contrib", "it must be none or nais"),
        ("image", "registry.example/other:1", "pods may not choose the image here"),
        ("cpu-request", "ten", "leasehold.dev/cpu-request is \"ten\": it must be a quantity"),
        ("cpu-limit", "-1", "it must be a quantity"),
        ("memory-request", "16 Mi", "it must be a quantity"),
        ("memory-limit", "0", "it must be a quantity"),
        ("listen", "0.0.0.0:4040", "leasehold.dev/listen is \"0.0.0.0:4040\": it must be localhost:PORT or unix"),
        ("listen", "localhost:70000", "it must be localhost:PORT or unix"),
        ("listen", "localhost:4041", "another than the app asks on"),
        ("probe-port", "0", "it must be a port"),
        ("probe-port", "99999999999999999999", "it must be a port"),
        ("containers", "app,worker", "leasehold.dev/containers names worker, and the pod has no such container"),
        ("args", "run", "flags of leasehold run, separated by spaces"),
        ("args", "--lease=other", "none of --lease, "),
        ("args", "--election=other", "none of --lease, --election, "),
        ("args", "--help", "none of --lease, "),
        ("args", "-n=other", "flags of leasehold run"),
        ("args", "--report-dir=/tmp", "none of --lease, "),
        ("timming", "fast", "leasehold.dev/timming is no annotation of leasehold"),
    ];
    for (annotation, value, sentence) in cases {
        let refusal = shop.refusal(&annotated(pod_of_deployment("web"), annotation, value));
        says(&refusal, "the leasehold sidecar cannot be injected: ");
        says(&refusal, sentence);
    }
}

#[test]
fn a_bad_value_of_a_member_is_refused_with_what_it_must_be() {
    let shop = cluster().namespace("member").ready();
    let long = "a".repeat(64);
    let domain = [&long[1..], &long[1..], &long[1..], &long[2..]].join(".");
    let pairs = [(format!("{long}=a"), "it must be KEY=VALUE"), (format!("{domain}/a=a"), "it must be KEY=VALUE")];
    let huge = format!("a={}", "b".repeat(64 << 10));
    let mut cases = vec![
        ("member-of", "", "leasehold.dev/member-of is \"\": it must be the name of a group"),
        ("member-of", "Shop", "it must be the name of a group"),
        ("member-of", "shop_1", "it must be the name of a group"),
        ("member-of", "shop-", "it must be the name of a group"),
        ("member-of", "a..b", "it must be the name of a group"),
        ("member-of", &long, "at most 63 lower-case letters"),
        ("member-lease-duration", "2s", "it must be whole seconds from 3s to 86400s"),
        ("member-lease-duration", "86401s", "it must be whole seconds from 3s to 86400s"),
        ("member-lease-duration", "4500ms", "it must be whole seconds from 3s to 86400s"),
        ("member-lease-duration", "3s", "which is 4s at least then"),
        ("member-renew-interval", "0s", "it must be whole seconds, from 1s to half of the member lease duration"),
        ("member-renew-interval", "21s", "it must be whole seconds, from 1s to half of the member lease duration"),
        ("member-renew-interval", "1.5s", "it must be whole seconds, from 1s to half of the member lease duration"),
        ("member-annotations", "", "it must be KEY=VALUE"),
        ("member-annotations", "zone", "it must be KEY=VALUE"),
        ("member-annotations", "=a", "it must be KEY=VALUE"),
        ("member-annotations", "zone_=a", "it must be KEY=VALUE"),
        ("member-annotations", "a/b/c=a", "it must be KEY=VALUE"),
        ("member-annotations", "-a/b=a", "it must be KEY=VALUE"),
        ("member-annotations", "zone=a,", "it must be KEY=VALUE"),
        ("member-annotations", "zone=a,zone=b", "each once"),
        ("member-annotations", "leasehold.dev/zone=a", "has keys that begin with leasehold.dev/"),
        ("member-annotations", &huge, "is longer than 64 KiB"),
        ("lease", "web,members", "no Lease of a member may be named members"),
        ("lease", ",web", "is no name of a Lease"),
    ];
    cases.extend(pairs.iter().map(|(pair, sentence)| ("member-annotations", pair.as_str(), *sentence)));
    for (annotation, value, sentence) in cases {
        let refusal =
            shop.refusal(&annotated(annotated(pod_of_deployment("web"), "member-of", "shop"), annotation, value));
        says(&refusal, "the leasehold sidecar cannot be injected: ");
        says(&refusal, sentence);
    }
    for annotation in ["member-lease-duration", "member-renew-interval", "member-annotations"] {
        let refusal = shop.refusal(&annotated(pod_of_deployment("web"), annotation, "10s"));
        says(&refusal, "annotations leasehold.dev/member-... need leasehold.dev/member-of");
    }
    let alone = annotated(annotated(pod_of_deployment("web"), "member-of", "shop"), "lease", "");
    says(&shop.refusal(&annotated(alone, "role-label", "true")), "no pod is leader or standby");
    says(&shop.refusal(&annotated(pod_of_deployment("web"), "args", "--member-of=shop")), "none of --lease, ");
    // The domain, and the whole, that just fit.
    let fits = [format!("{}/a=a", &domain[1..]), format!("a={}", "b".repeat((64 << 10) - 2))];
    for pairs in fits {
        shop.create(&annotated(annotated(pod_of_deployment("web"), "member-of", "shop"), "member-annotations", &pairs));
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let shop = cluster().namespace("all").ready();
    let pod = annotated(annotated(pod_of_deployment("web"), "timing", "slow"), "position", "middle");
    let refusal = shop.refusal(&pod);
    says(&refusal, "it must be standard, calm or fast; ");
    says(&refusal, "it must be first or last");
}

#[test]
fn a_pod_whose_workload_has_no_lasting_name_must_name_its_lease() {
    let shop = cluster().namespace("nameless").ready();
    let sentence = "only a pod of a Deployment or a StatefulSet has a Lease of its name";
    let refused = |pod: &Value, whose: &str| {
        let refusal = shop.refusal(pod);
        says(&refusal, &format!("this pod belongs to {whose}"));
        says(&refusal, sentence);
        let named = shop.create(&annotated(pod.clone(), "lease", "named"));
        assert_eq!(args(&named)[1], "--lease=named");
    };
    refused(&pod(None), "no workload");
    refused(&pod(Some(("batch/v1", "Job", "report-29"))), "the Job report-29");
    refused(&pod(Some(("apps/v1", "DaemonSet", "agent"))), "the DaemonSet agent");
    // Of another group, or not by a template: its name may change with each rollout.
    refused(&pod(Some(("apps.example.com/v1", "StatefulSet", "db"))), "the StatefulSet db");
    refused(&pod(Some(("apps/v1", "ReplicaSet", "web-5d8f7c9b4"))), "the ReplicaSet web-5d8f7c9b4");
    let other_hash = pod_of_template("web", "5d8f7c9b4", "pod-template-hash");
    let other_hash = with(other_hash, json!({"metadata": {"labels": {"pod-template-hash": "1"}}}));
    refused(&other_hash, "the ReplicaSet web-5d8f7c9b4");
}

#[test]
fn a_label_that_is_neither_true_nor_false_is_a_mistake() {
    let shop = cluster().namespace("label").ready();
    for label in ["yes", "True", "enabled", ""] {
        let pod = with(pod_of_deployment("web"), json!({"metadata": {"labels": {"leasehold.dev/inject": label}}}));
        says(
            &shop.refusal(&pod),
            &format!("the label leasehold.dev/inject is \"{label}\": it must be \"true\" or \"false\""),
        );
    }
}

#[test]
fn what_the_pod_has_is_not_overwritten() {
    let shop = cluster().namespace("clash").ready();
    let refused = |patch: Value, sentence: &str| says(&shop.refusal(&with(pod_of_deployment("web"), patch)), sentence);
    for volume in ["leasehold", "leasehold-state", "leasehold-token"] {
        let volumes = json!({"spec": {"volumes": [{"name": volume, "emptyDir": {}}]}});
        refused(volumes, &format!("the pod has a volume {volume} of its own"));
    }
    let app = |more: Value| json!({"spec": {"containers": [with(json!({"name": "app", "image": "a"}), more)]}});
    refused(app(json!({"env": [{"name": "LEASEHOLD_URL", "value": "x"}]})), "has LEASEHOLD_URL in its env");
    refused(app(json!({"ports": [{"containerPort": 4040}]})), "the app has port 4040 or 4041");
    for path in ["/run/leasehold", "/run/leasehold/more"] {
        let more = json!({"volumeMounts": [{"name": "v", "mountPath": path}]});
        refused(
            with(app(more), json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}})),
            "mounts something at /run/leasehold",
        );
    }
    let labelled = json!({"metadata": {"labels": {"leasehold.dev/role": "standby"}}});
    let labelled = annotated(with(pod_of_deployment("web"), labelled), "role-label", "true");
    says(&shop.refusal(&labelled), "the pod template has the label leasehold.dev/role");
    let sentence = "a container of this pod is called leasehold and is no native sidecar";
    refused(json!({"spec": {"containers": [{"name": "leasehold", "image": "a"}]}}), sentence);
    refused(json!({"spec": {"initContainers": [{"name": "leasehold", "image": "a"}]}}), sentence);
    let migrate = json!({"spec": {"initContainers": [{"name": "migrate", "image": "i"}]}});
    let early = annotated(with(pod_of_deployment("web"), migrate), "containers", "migrate");
    says(&shop.refusal(&early), "an init container, which would run before the sidecar");
    refused(json!({"spec": {"os": {"name": "windows"}}}), "this pod is for Windows");
}

#[test]
fn a_health_url_is_not_one_of_the_sidecars_chosen_ports() {
    let shop = cluster().namespace("ports").ready();
    let listening = |alive: &str| {
        let pod = annotated(annotated(pod_of_deployment("web"), "listen", "localhost:5050"), "probe-port", "5051");
        annotated(pod, "alive", alive)
    };
    for own in ["http://localhost:5050?a", "tcp://127.0.0.1:5051"] {
        says(&shop.refusal(&listening(own)), "port 5050 or 5051 is the sidecar's own");
    }
    // The others' ports are free then, and a path may look like a port.
    shop.create(&listening("http://127.0.0.2:4040/,tcp://localhost:4041,http://127.0.0.1:80/:5050"));
    let by_socket = annotated(pod_of_deployment("web"), "listen", "unix");
    shop.create(&annotated(by_socket, "alive", "http://127.0.0.1:4040/"));
}

#[test]
fn a_host_network_pod_must_ask_by_a_socket() {
    let shop = cluster().namespace("hostnet").ready();
    let pod = with(pod_of_deployment("web"), json!({"spec": {"hostNetwork": true}}));
    says(&shop.refusal(&pod), "set the annotation leasehold.dev/listen to unix");
    let pod = annotated(annotated(pod, "listen", "unix"), "compat", "nais");
    says(&shop.refusal(&pod), "leasehold.dev/listen cannot be unix");
}
