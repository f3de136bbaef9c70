//! The charts, held against what they speak of: the sidecar's own judgement of its flags, a real API server, the
//! metrics that there are, and each other. What a template renders is in the charts' own unit tests.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};

use support::clock::wait_until;
use support::control_plane::{ControlPlane, shared, tool_folder};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const DEMO: &str = "charts/leasehold";
const LIBRARY: &str = "charts/leasehold-lib";
const CONSUMER: &str = "tests/charts/consumer";

// --- Helm ---

fn helm(arguments: &[&str]) -> Output {
    static HELM: LazyLock<PathBuf> = LazyLock::new(|| tool_folder(&["helm"]).join("helm"));
    static HOME: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));
    Command::new(&*HELM)
        .args(arguments)
        .current_dir(ROOT)
        .env_clear()
        .env("HOME", HOME.path())
        .stdin(Stdio::null())
        .output()
        .expect("helm can be started")
}

/// What `helm template demo` renders, or why it does not.
fn render(chart: &str, arguments: &[&str]) -> Result<Vec<Value>, String> {
    render_release("demo", chart, arguments)
}

fn render_release(release: &str, chart: &str, arguments: &[&str]) -> Result<Vec<Value>, String> {
    let mut all = vec!["template", release, chart, "--namespace=shop", "--kube-version=1.36"];
    all.extend(arguments);
    let output = helm(&all);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).expect("YAML is text");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("what Helm renders is YAML");
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("there is a {kind}"))
}

/// The consumer in a folder of its own, with the library as it is now.
fn consumer() -> (tempfile::TempDir, String) {
    consumer_edited(str::to_owned)
}

/// The same with another Chart.yaml.
fn consumer_edited(edit: impl FnOnce(&str) -> String) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&Path::new(ROOT).join(CONSUMER), &folder.path().join(CONSUMER));
    copy(&Path::new(ROOT).join(LIBRARY), &folder.path().join(LIBRARY));
    let chart = folder.path().join(CONSUMER).to_string_lossy().into_owned();
    let definition = format!("{chart}/Chart.yaml");
    fs::write(&definition, edit(&read(&format!("{CONSUMER}/Chart.yaml")))).expect("writes a file");
    let output = helm(&["dependency", "build", &chart]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (folder, chart)
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().expect("is in a folder")).expect("makes a folder");
        fs::write(path, bytes).expect("writes a file");
    }
}

/// All files below `folder`, without what `helm dependency build` leaves.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display())) {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(folder).expect("is below it").to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !name.ends_with(".tgz") && name != "Chart.lock" {
                found.insert(name, fs::read(&path).expect("can be read"));
            }
        }
    }
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn schema(chart: &str) -> Value {
    serde_json::from_str(&read(&format!("{chart}/values.schema.json"))).expect("is JSON")
}

// --- The sidecar's own judgement ---

/// A kubeconfig is looked for once the whole configuration has been judged, and before anything is opened.
const NO_KUBECONFIG: &str = "/nonexistent/kubeconfig";

/// Whether `leasehold run` accepts these arguments.
fn run_accepts(arguments: &[String]) -> Result<(), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args(arguments)
        .arg(format!("--kubeconfig={NO_KUBECONFIG}"))
        .env_clear()
        .env("POD_NAME", "demo-0")
        .output()
        .expect("the binary runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{arguments:?}: {errors}");
    if errors.contains(NO_KUBECONFIG) { Ok(()) } else { Err(errors) }
}

/// As a value of the chart and as a flag.
const FLAGS: [(&str, &str); 17] = [
    ("lease.name", "--lease"),
    ("lease.duration", "--lease-duration"),
    ("lease.renewDeadline", "--renew-deadline"),
    ("lease.renewInterval", "--renew-interval"),
    ("lease.retryPeriod", "--retry-period"),
    ("lease.answerTTL", "--answer-ttl"),
    ("members.group", "--member-of"),
    ("members.leaseDuration", "--member-lease-duration"),
    ("members.renewInterval", "--member-renew-interval"),
    ("members.annotations", "--member-annotation"),
    ("app.alive", "--app-alive"),
    ("onSigterm", "--on-sigterm"),
    ("shutdownGrace", "--shutdown-grace"),
    ("logLevel", "--log-level"),
    ("ports.app", "--listen"),
    ("ports.probes", "--probe-listen"),
    ("extraArgs", ""),
];

/// The arguments that these values stand for, without the chart's help.
fn arguments_for(values: &[(&str, Value)]) -> Vec<String> {
    let mut arguments = vec!["run".to_owned()];
    let given = |wanted: &str| values.iter().find(|(path, _)| *path == wanted).map(|(_, value)| value);
    if given("lease.name").is_none() && given("lease.enabled") != Some(&json!(false)) {
        arguments.push("--lease=demo-leasehold".into());
    }
    if given("members.group").is_none() && given("members.enabled") == Some(&json!(true)) {
        let lease = given("lease.name").and_then(Value::as_str).unwrap_or("demo-leasehold");
        arguments.push(format!("--member-of={lease}"));
    }
    for (path, value) in values.iter().filter(|(path, _)| !path.ends_with(".enabled") && !path.starts_with("app.image"))
    {
        let flag = FLAGS.iter().find(|(known, _)| known == path).expect("a value that is a flag").1;
        let several = match value {
            Value::Array(list) => list.clone(),
            Value::Object(map) => map.iter().map(|(key, value)| json!(format!("{key}={}", text(value)))).collect(),
            one => vec![one.clone()],
        };
        for value in several {
            let text = text(&value);
            arguments.push(match flag {
                "" => text,
                "--listen" => format!("{flag}=localhost:{text}"),
                "--probe-listen" => format!("{flag}=[::]:{text}"),
                // As the kubelet expands it; a loopback address is this machine's own as well.
                _ => format!("{flag}={}", text.replace("$(POD_IP)", "127.0.0.1")),
            });
        }
    }
    arguments
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Values as one JSON object: `lease.duration` is a key in `lease`.
fn nested(values: &[(&str, Value)]) -> Value {
    let mut all = json!({});
    for (path, value) in values {
        let mut place = &mut all;
        for key in path.split('.') {
            place = &mut place[key];
        }
        *place = value.clone();
    }
    all
}

/// What the chart says of values, and who of the two that judge in it.
#[derive(Debug, PartialEq)]
enum Verdict {
    Accepted,
    /// By a value's own form.
    BySchema,
    /// By what values are to each other.
    ByTemplates,
}

use Verdict::{Accepted, BySchema, ByTemplates};

/// The chart and the sidecar say the same of these values, the templates alone as well; what the chart makes of them is
/// accepted, and what it refuses it refuses by the path of one of them.
#[track_caller]
fn judged_alike(values: &[(&str, Value)]) -> Verdict {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("values.yaml");
    fs::write(&file, nested(values).to_string()).expect("writes the values");
    let file = format!("--values={}", file.display());
    let rendered = render(DEMO, &[&file, "--show-only=templates/deployment.yaml"]);
    let judged = run_accepts(&arguments_for(values));
    assert_eq!(rendered.is_ok(), judged.is_ok(), "{values:?}: the chart: {:?}; run: {judged:?}", rendered.err());
    match rendered {
        Ok(objects) => {
            let sidecar = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"]["initContainers"][0];
            let arguments = sidecar["args"].as_array().expect("has arguments").iter();
            let arguments: Vec<String> =
                arguments.map(|one| one.as_str().expect("a string").replace("$(POD_IP)", "127.0.0.1")).collect();
            assert_eq!(run_accepts(&arguments), Ok(()), "{values:?} became {arguments:?}");
        }
        Err(said) => {
            // For a chart that has the library without its schema.
            let alone = render(DEMO, &[&file, "--show-only=templates/deployment.yaml", "--skip-schema-validation"]);
            assert!(alone.is_err(), "{values:?}: the templates alone accept them; run: {judged:?}");
            if values.iter().any(|(path, _)| said.contains(&format!("at '/{}", path.replace('.', "/")))) {
                return BySchema;
            }
            let by_path = values.iter().any(|(path, _)| said.contains(path));
            assert!(by_path, "{values:?} should be refused by a path, and are by:\n{said}");
            return ByTemplates;
        }
    }
    Accepted
}

#[test]
fn the_chart_accepts_the_times_that_run_accepts() {
    let duration = |time: &str| judged_alike(&[("lease.duration", json!(time))]);
    for time in ["2s", "5s", "15s", "0015s", "15000ms", "60s", "1m", "60m", "3600s", "3600000ms", "1h", "01h"] {
        assert_eq!(duration(time), Accepted, "{time}");
    }
    assert_eq!(duration("1s"), ByTemplates);
    for time in ["0s", "1500ms", "999ms", "3601s", "61m", "2h", "15", "15 s", "-15s", "1.5s", "s", "15S", "1d"] {
        assert_eq!(duration(time), BySchema, "{time}");
    }
    let fifteen = |path: &'static str, time: &str| judged_alike(&[(path, json!(time))]);
    // D less 0.2 % is 14.97 s.
    for (path, good, bad) in [
        ("lease.renewDeadline", ["14969ms", "4001ms"], ["14970ms", "4s"]),
        ("lease.renewInterval", ["1s", "10999ms"], ["999ms", "11s"]),
        ("lease.retryPeriod", ["100ms", "8999ms"], ["99ms", "9s"]),
        ("lease.answerTTL", ["100ms", "12s"], ["99ms", "12001ms"]),
        ("shutdownGrace", ["3s", "2h"], ["2999ms", "0s"]),
    ] {
        for time in good {
            assert_eq!(fifteen(path, time), Accepted, "{path}={time}");
        }
        for time in bad {
            assert_eq!(fifteen(path, time), ByTemplates, "{path}={time}");
        }
        for time in ["x", "1", "1.5s"] {
            assert_eq!(fifteen(path, time), BySchema, "{path}={time}");
        }
    }
}

#[test]
fn the_chart_accepts_the_times_together_that_run_accepts() {
    let mut accepted = 0;
    let mut cases = 0;
    for duration in ["2s", "5s", "30s"] {
        for deadline in ["1998ms", "1500ms", "4s", "4991ms"] {
            for interval in ["1s", "1399ms", "1400ms"] {
                let values = [
                    ("lease.duration", json!(duration)),
                    ("lease.renewInterval", json!(interval)),
                    ("lease.renewDeadline", json!(deadline)),
                ];
                cases += 1;
                accepted += usize::from(judged_alike(&values) == Accepted);
            }
        }
    }
    assert!(accepted > 5 && accepted < cases - 5, "{accepted} of {cases}: the table has both");
    for (path, bad) in [("lease.answerTTL", "1999ms"), ("lease.answerTTL", "1501ms")] {
        let values = [("lease.duration", json!("2s")), ("lease.renewDeadline", json!("1500ms")), (path, json!(bad))];
        assert_eq!(judged_alike(&values), ByTemplates, "{values:?}");
    }
    let with_grace = |grace: &str| judged_alike(&[("lease.answerTTL", json!("10s")), ("shutdownGrace", json!(grace))]);
    assert_eq!(with_grace("12s"), Accepted);
    assert_eq!(with_grace("11999ms"), ByTemplates);
}

#[test]
fn the_chart_accepts_the_names_that_run_accepts() {
    let name = |name: &str| judged_alike(&[("lease.name", json!(name))]);
    for good in ["a", "web", "web-1", "0", "jobs.example.com", "a--b", "status", &"a".repeat(230)] {
        assert_eq!(name(good), Accepted, "{good}");
    }
    for bad in ["Web", "web_1", "-web", "web-", "a..b", ".a", "a.", "a b", "ä", &"a".repeat(231)] {
        assert_eq!(name(bad), BySchema, "{bad}");
    }
}

#[test]
fn the_chart_accepts_the_evidence_that_run_accepts() {
    let alive = |evidence: Value| judged_alike(&[("app.alive", evidence)]);
    for good in [
        json!("lock"),
        json!(["session"]),
        json!(["asking", "lock"]),
        json!("http://127.0.0.1:8080/healthz"),
        json!("http://127.0.0.1:8080"),
        json!("http://127.0.0.1:8080?a=b"),
        json!("http://localhost:80/a/b-c?d=e&f=%2C"),
        json!("http://[::1]:65535/"),
        json!("http://$(POD_IP):8080/"),
        json!("http://127.8.9.255:1/"),
        json!("http://127.0.0.1:00080/"),
        json!("tcp://127.0.0.1:5432"),
        json!("tcp://localhost:5432"),
        json!(["lock", "http://127.0.0.1:8080/a", "http://127.0.0.1:8080/b"]),
    ] {
        assert_eq!(alive(good.clone()), Accepted, "{good}");
    }
    for bad in [
        json!("sure"),
        json!("Lock"),
        json!(["lock", "lock"]),
        json!("https://127.0.0.1:8443/"),
        json!("http://127.0.0.1/"),
        json!("http://127.0.0.1:0/"),
        json!("http://127.0.0.1:65536/"),
        json!("http://127.0.0.256:80/"),
        json!("http://10.255.255.1:80/"),
        json!("http://example.com:80/"),
        json!("http://user@127.0.0.1:80/"),
        json!("http://127.0.0.1:80/#a"),
        json!("http://127.0.0.1:80/a b"),
        json!("http://127.0.0.1:80/é"),
        json!("http://127.0.0.1:80/a,b"),
        json!("http://::1:80/"),
        json!("tcp://127.0.0.1:80/path"),
        json!("tcp://127.0.0.1"),
        json!("unix:/run/app.sock"),
        json!(format!("http://127.0.0.1:80/{}", "a".repeat(1000))),
    ] {
        assert_eq!(alive(bad.clone()), BySchema, "{bad}");
    }
    for bad in [
        json!("http://127.0.0.1:4040/leader"),
        json!("http://localhost:04041/livez"),
        json!("tcp://[::1]:4041"),
        json!(["http://127.0.0.1:80/?a", "http://127.0.0.1:80/?b"]),
    ] {
        assert_eq!(alive(bad.clone()), ByTemplates, "{bad}");
    }
}

/// A member's values.
fn of_member(path: &'static str, value: Value) -> [(&'static str, Value); 2] {
    [("members.enabled", json!(true)), (path, value)]
}

#[test]
fn the_chart_accepts_the_groups_that_run_accepts() {
    let group = |group: &str| judged_alike(&of_member("members.group", json!(group)));
    for good in ["a", "web", "web-1", "0", "jobs.example.com", "a--b", "members", &"a".repeat(63)] {
        assert_eq!(group(good), Accepted, "{good}");
    }
    for bad in ["Web", "web_1", "-web", "web-", "a..b", "a b", "ä", &"a".repeat(64)] {
        assert_eq!(group(bad), BySchema, "{bad}");
    }
    // That of the Lease, where no other is given.
    let of_lease = |lease: &str| judged_alike(&of_member("lease.name", json!(lease)));
    assert_eq!(of_lease(&"a".repeat(63)), Accepted);
    assert_eq!(of_lease("status"), Accepted);
    assert_eq!(of_lease("members"), ByTemplates);
    let long = [("lease.name", json!("a".repeat(64))), ("members.enabled", json!(true))];
    assert_eq!(judged_alike(&long), ByTemplates);
    let other = [&long[..], &[("members.group", json!("web"))]].concat();
    assert_eq!(judged_alike(&other), Accepted);
}

#[test]
fn the_chart_accepts_the_members_times_that_run_accepts() {
    let duration = |time: &str| judged_alike(&of_member("members.leaseDuration", json!(time)));
    for time in ["4s", "40s", "4000ms", "1m", "24h", "86400s"] {
        assert_eq!(duration(time), Accepted, "{time}");
    }
    // A quarter of three seconds is too short an interval.
    for time in ["0s", "2s", "3s", "4500ms", "86401s", "25h"] {
        assert_eq!(duration(time), ByTemplates, "{time}");
    }
    let interval = |time: &str| judged_alike(&of_member("members.renewInterval", json!(time)));
    for time in ["1s", "1500ms", "20s"] {
        assert_eq!(interval(time), Accepted, "{time}");
    }
    for time in ["999ms", "20001ms", "21s"] {
        assert_eq!(interval(time), ByTemplates, "{time}");
    }
    for path in ["members.leaseDuration", "members.renewInterval"] {
        for time in ["x", "1", "1.5s"] {
            assert_eq!(judged_alike(&of_member(path, json!(time))), BySchema, "{path}={time}");
        }
    }
    let three = [&of_member("members.leaseDuration", json!("3s"))[..], &[("members.renewInterval", json!("1s"))]];
    assert_eq!(judged_alike(&three.concat()), Accepted);
}

#[test]
fn the_chart_accepts_the_members_annotations_that_run_accepts() {
    let annotations = |all: Value| judged_alike(&of_member("members.annotations", all));
    let long = |size: usize| "a".repeat(size);
    for good in [
        json!({"zone": "a", "Zone_2.x": "", "example.com/zone": "a=b c/d"}),
        json!({ long(63): "a" }),
        json!({ format!("{}/a", [long(63), long(63), long(63), long(61)].join(".")): "a" }),
        json!({"a": long((64 << 10) - 1)}),
        json!({"leasehold.example/zone": "a"}),
    ] {
        assert_eq!(annotations(good.clone()), Accepted, "{good}");
    }
    for bad in [
        json!({"": "a"}),
        json!({"-zone": "a"}),
        json!({"zone_": "a"}),
        json!({"zo ne": "a"}),
        json!({"Example.com/zone": "a"}),
        json!({"a/b/c": "a"}),
        json!({"/zone": "a"}),
        json!({"example.com/": "a"}),
        json!({ long(64): "a" }),
        json!({"zone": "a,b"}),
    ] {
        assert_eq!(annotations(bad.clone()), BySchema, "{bad}");
    }
    for bad in [
        json!({"leasehold.dev/zone": "a"}),
        json!({ format!("{}/a", [long(63), long(63), long(63), long(62)].join(".")): "a" }),
        json!({"a": long(64 << 10)}),
    ] {
        assert_eq!(annotations(bad.clone()), ByTemplates, "{}", &bad.to_string()[..30]);
    }
}

#[test]
fn the_chart_accepts_a_member_that_elects_nobody() {
    let values = [
        ("lease.enabled", json!(false)),
        ("members.enabled", json!(true)),
        ("members.group", json!("shop")),
        ("app.image.repository", json!("shop/worker")),
    ];
    assert_eq!(judged_alike(&values), Accepted);
    assert_eq!(judged_alike(&values[..1]), ByTemplates);
}

#[test]
fn the_chart_accepts_the_rest_that_run_accepts() {
    for good in ["auto", "release"] {
        assert_eq!(judged_alike(&[("onSigterm", json!(good))]), Accepted, "{good}");
    }
    assert_eq!(judged_alike(&[("app.alive", json!("lock")), ("onSigterm", json!("wait-for-app"))]), Accepted);
    assert_eq!(judged_alike(&[("onSigterm", json!("wait-for-app"))]), ByTemplates);
    assert_eq!(judged_alike(&[("onSigterm", json!("never"))]), BySchema);
    for level in ["error", "warn", "info", "debug", "trace"] {
        assert_eq!(judged_alike(&[("logLevel", json!(level))]), Accepted, "{level}");
    }
    assert_eq!(judged_alike(&[("logLevel", json!("loud"))]), BySchema);
    for path in ["ports.app", "ports.probes"] {
        assert_eq!(judged_alike(&[(path, json!(4050))]), Accepted, "{path}");
        assert_eq!(judged_alike(&[(path, json!(65536))]), BySchema, "{path}");
    }
    let own_port = [("ports.app", json!(8080)), ("app.alive", json!("http://127.0.0.1:8080/"))];
    assert_eq!(judged_alike(&own_port), ByTemplates);
    assert_eq!(judged_alike(&[("extraArgs", json!(["--replicas=3", "--allowed-host=web"]))]), Accepted);
    // Given twice, by the chart and by hand.
    for flag in ["--lease-duration=15s", "--log-level=info"] {
        let values = [("lease.duration", json!("15s")), ("logLevel", json!("debug")), ("extraArgs", json!([flag]))];
        assert_eq!(judged_alike(&values), ByTemplates, "{flag}");
    }
}

// --- The charts among themselves ---

#[test]
fn the_demo_has_the_library_as_it_is() {
    let copy = files(&Path::new(ROOT).join(DEMO).join("charts/leasehold-lib"));
    let mut library = files(&Path::new(ROOT).join(LIBRARY));
    library.retain(|name, _| copy.contains_key(name) || name.starts_with("templates/") || name.starts_with("values"));
    assert!(library.len() > 5, "{:?}", library.keys());
    assert_eq!(
        copy.keys().collect::<Vec<_>>(),
        library.keys().collect::<Vec<_>>(),
        "renew it: tests/charts/check.sh vendor"
    );
    for (name, bytes) in &library {
        assert!(copy[name] == *bytes, "{name} differs; renew it: tests/charts/check.sh vendor");
    }
}

#[test]
fn the_versions_are_the_programs() {
    for chart in [DEMO, LIBRARY] {
        let chart = yaml(&format!("{chart}/Chart.yaml"));
        assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"), "{}", chart["name"]);
    }
    let version = format!("{{{{- define \"leasehold.version\" -}}}}{}{{{{- end -}}}}", env!("CARGO_PKG_VERSION"));
    assert!(read(&format!("{LIBRARY}/templates/_values.tpl")).contains(&version));
    let library = yaml(&format!("{LIBRARY}/Chart.yaml"));
    for chart in [DEMO, CONSUMER] {
        let dependency = &yaml(&format!("{chart}/Chart.yaml"))["dependencies"][0];
        assert_eq!(dependency["version"], library["version"], "{chart}");
    }
}

#[test]
fn what_both_charts_have_is_the_same_in_both() {
    let (demo, library) = (schema(DEMO), schema(LIBRARY));
    for (name, definition) in library["definitions"].as_object().expect("an object") {
        if name != "lease" {
            assert_eq!(demo["definitions"][name], *definition, "the definition {name}");
        }
    }
    let lease = |schema: &Value| schema["properties"].clone();
    let mut with_name = lease(&demo["properties"]["lease"]);
    with_name.as_object_mut().expect("an object").remove("name").expect("the demo's lease has a name");
    assert_eq!(with_name, lease(&library["definitions"]["lease"]));

    let (demo, library) = (yaml(&format!("{DEMO}/values.yaml")), yaml(&format!("{LIBRARY}/values.yaml")));
    for (path, value) in leaves(&library) {
        let pointer = format!("/{}", path.replace('.', "/"));
        // The name is the pods', and the demo's own is serviceAccount.name.
        if path != "serviceAccountName" {
            assert_eq!(demo.pointer(&pointer), Some(&value), "the default of {path}");
        }
    }
}

#[test]
fn a_chart_without_the_alias_has_the_defaults_and_is_judged_by_the_templates() {
    let (folder, chart) = consumer_edited(|yaml| yaml.replace("    alias: leasehold\n", ""));
    let rendered = render(&chart, &["--set=leasehold.lease.timing=fast"]).expect("renders");
    let sidecar = &of_kind(&rendered, "Deployment")["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!(sidecar["args"], json!(["run", "--lease=demo", "--lease-duration=5s"]));
    assert_eq!(sidecar["resources"]["limits"]["memory"], "32Mi");
    let refused = render(&chart, &["--set=leasehold.lease.duration=1500ms"]).expect_err("is refused");
    assert!(refused.contains("lease.duration: 1500ms: it must be whole seconds"), "{refused}");
    drop(folder);
}

/// Every value that is no map with keys of its own, by its path.
fn leaves(values: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (key, value) in values.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(map) if !map.is_empty() => {
                found.extend(leaves(value).into_iter().map(|(path, leaf)| (format!("{key}.{path}"), leaf)));
            }
            _ => found.push((key.clone(), value.clone())),
        }
    }
    found
}

#[test]
fn every_value_is_in_the_readme_with_its_default_and_in_the_schema() {
    for chart in [DEMO, LIBRARY] {
        let values = yaml(&format!("{chart}/values.yaml"));
        let readme = read(&format!("{chart}/README.md"));
        let rows: BTreeMap<&str, &str> = readme
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
            .filter_map(|(path, rest)| Some((path, rest.split_once(" | ")?.0)))
            .collect();
        let mut known = BTreeSet::new();
        for (path, value) in leaves(&values) {
            // What is passed on as it is stands in one row.
            let row = ancestors(&path).find_map(|path| rows.get_key_value(path));
            let (row, default) = row.unwrap_or_else(|| panic!("{chart}/README.md has no row for {path}"));
            known.insert(*row);
            if *row == path {
                let shown = match &value {
                    Value::String(text) if text.is_empty() => "`\"\"`".into(),
                    Value::String(text) => format!("`{text}`"),
                    other => format!("`{other}`"),
                };
                assert_eq!(*default, shown, "{chart}/README.md: the default of {path}");
            }
        }
        let unknown: Vec<_> = rows.keys().filter(|row| !known.contains(*row)).collect();
        assert!(unknown.is_empty(), "{chart}/README.md has rows for what is no value: {unknown:?}");
        let schema = schema(chart);
        for key in values.as_object().expect("a map").keys() {
            assert!(schema["properties"][key].is_object(), "{chart}: the schema does not know {key}");
        }
    }
}

fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rsplit_once('.').map(|(parent, _)| parent))
}

#[test]
fn alerts_and_dashboard_speak_of_metrics_that_there_are() {
    let values = format!("--values={DEMO}/ci/everything-values.yaml");
    let objects = render(DEMO, &[&values]).expect("renders");
    let rules = of_kind(&objects, "PrometheusRule").to_string();
    let dashboard = read(&format!("{DEMO}/dashboards/leasehold.json"));
    let _: Value = serde_json::from_str(&dashboard).expect("the dashboard is JSON");
    let documented = read("docs/operations.md");
    for (of, text) in [("rules", &rules), ("dashboard", &dashboard)] {
        let mut seen = BTreeSet::new();
        for (start, _) in text.match_indices("leasehold_") {
            let end = text[start..].find(|c: char| !c.is_ascii_lowercase() && c != '_').expect("the text goes on");
            let name = &text[start..start + end];
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            if seen.insert(name.to_owned()) {
                assert!(documented.contains(&format!("| `{name}")), "{of}: there is no metric {name}");
            }
        }
        assert!(seen.len() > 3, "{of}: {seen:?}");
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let objects = render(DEMO, &["--set=prometheusRule.enabled=true"]).expect("renders");
    let rules = of_kind(&objects, "PrometheusRule")["spec"]["groups"][0]["rules"].as_array().expect("rules").clone();
    assert!(rules.len() > 4);
    for rule in &rules {
        let runbook = rule["annotations"]["runbook"].as_str().unwrap_or_default();
        assert!(runbook.len() > 40 && !runbook.contains('\n'), "{}: {runbook:?}", rule["alert"]);
    }
}

#[test]
fn the_pods_of_helm_test_are_nobody_elses() {
    let values = format!("--values={DEMO}/ci/everything-values.yaml");
    let objects = render(DEMO, &[&values]).expect("renders");
    let pods: Vec<_> = objects.iter().filter(|object| object["kind"] == "Pod").collect();
    assert_eq!(pods.len(), 2, "doctor and stepdown");
    let selectors = objects.iter().filter_map(|object| match object["kind"].as_str()? {
        "Service" => object["spec"]["selector"].as_object(),
        "Deployment" | "NetworkPolicy" | "PodMonitor" | "PodDisruptionBudget" => {
            let spec = &object["spec"];
            spec["selector"]["matchLabels"].as_object().or(spec["podSelector"]["matchLabels"].as_object())
        }
        _ => None,
    });
    let selectors: Vec<_> = selectors.collect();
    assert_eq!(selectors.len(), 6, "{selectors:?}");
    for pod in pods {
        for selector in &selectors {
            let selected = selector.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value);
            assert!(!selected, "{selector:?} selects {}", pod["metadata"]["name"]);
        }
        // No sidecar: no candidate.
        assert!(pod["spec"]["initContainers"].is_null() && pod["spec"]["containers"].as_array().unwrap().len() == 1);
        assert!(pod["spec"]["containers"][0]["args"][0] != "run");
    }
}

// --- A real API server ---

/// Every object of every ci/ values file, as an API server judges it: unknown fields are errors, and what Pod Security
/// `restricted` has against a pod is a warning, of which there is none.
#[test]
fn an_api_server_accepts_every_ci_values_file() {
    let cluster = shared();
    let definitions = tool_folder(&["prometheus-operator"]).join("prometheus-operator");
    cluster.run_kubectl(&["create", "-f", &definitions.to_string_lossy()]);
    cluster.run_kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]);
    wait_until("the Prometheus operator's kinds to be served", Duration::from_secs(30), || {
        let path = "/apis/monitoring.coreos.com/v1/namespaces/default/podmonitors";
        cluster.api("GET", path, None).is_ok_and(|answer| answer.status == 200)
    });
    let namespace = cluster.namespace("charts");
    for mode in ["enforce", "warn"] {
        let label = format!("pod-security.kubernetes.io/{mode}=restricted");
        cluster.run_kubectl(&["label", "namespace", &namespace, &label]);
    }
    let (_folder, consumer) = consumer();
    let in_namespace = format!("--namespace={namespace}");
    for (chart, folder) in [(DEMO, Path::new(ROOT).join(DEMO)), (&consumer, Path::new(ROOT).join(CONSUMER))] {
        let mut count = 0;
        for name in files(&folder.join("ci")).keys() {
            let values = format!("--values={}", folder.join("ci").join(name).display());
            for object in &render(chart, &[&values, &in_namespace]).expect("renders") {
                dry_run(cluster, &namespace, object, name);
            }
            count += 1;
        }
        assert!(count >= 3, "{chart}: {count}");
    }
    // Names that are numbers where a template does not quote them. A Service's begins with a letter.
    let everything = format!("--values={DEMO}/ci/everything-values.yaml");
    let names = "--set-string=fullnameOverride=99,nameOverride=88,lease.name=77";
    let numbers = [&*everything, names, "--set=lease.create=true,service.enabled=false", &in_namespace];
    let tuned = format!("--values={CONSUMER}/ci/tuned-values.yaml");
    for (chart, arguments) in [(DEMO, &numbers[..]), (&consumer, &[&*tuned, &in_namespace])] {
        for object in &render_release("1234", chart, arguments).expect("renders") {
            dry_run(cluster, &namespace, object, "names that are numbers");
        }
    }
}

#[track_caller]
fn dry_run(cluster: &ControlPlane, namespace: &str, object: &Value, values: &str) {
    let file = cluster.write_file("manifest.json", &object.to_string());
    let file = file.to_string_lossy();
    let arguments = ["create", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", &file];
    let output = cluster.kubectl(&arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{values}: {said}\n{object:#}");
}
