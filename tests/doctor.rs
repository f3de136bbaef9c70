//! `leasehold doctor` on a real API server: each thing that can be wrong is found and told with what to do about it,
//! what is told to be applied is applied as it stands and cures it, and a sidecar beside it notices nothing.

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leasehold::time::{Clock, SystemClock};
use serde_json::{Value, json};

use support::clock::{self, wait_for, wait_until};
use support::control_plane::{ADMIN, ControlPlane, OTHER, Port, SIDECAR, shared};
use support::front::{Act, Front};
use support::process::{Folder, Process};
use support::sidecar::{Sidecar, binary};
use support::stage::{LEASE, SOON, Stage, token};

const TOKEN: &str = "leasehold.dev/token";
const EVENTS_OFF: &str = "--events=off";

/// What a run of it with `-o json` said.
#[derive(Debug)]
struct Examined {
    code: Option<i32>,
    said: String,
    complained: String,
}

impl Examined {
    fn checks(&self) -> Vec<Value> {
        let all: Value = serde_json::from_str(&self.said).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(all.as_object().expect("an object").len(), 2, "ok and checks");
        let checks = all["checks"].as_array().expect("a list").clone();
        let failed = checks.iter().any(|check| check["status"] == "failed");
        assert_eq!((all["ok"] == false, self.code), (failed, Some(i32::from(failed))), "{self:?}");
        checks
    }

    #[track_caller]
    fn check(&self, name: &str) -> Value {
        let checks = self.checks();
        let mut of_name = checks.iter().filter(|check| check["name"] == name);
        let check = of_name.next().unwrap_or_else(|| panic!("no check {name}: {}", self.said));
        assert!(of_name.next().is_none(), "two checks {name}");
        check.clone()
    }

    /// The check `name` has this status, and its message holds `text`; gives what to do.
    #[track_caller]
    fn assert(&self, name: &str, status: &str, text: &str) -> String {
        let check = self.check(name);
        let message = check["message"].as_str().expect("a message");
        assert!(check["status"] == status && message.contains(text), "{status} {text:?}: {check:#}");
        let fix = check["fix"].as_str().unwrap_or_default().to_owned();
        let says_what_to_do = matches!(status, "warning" | "failed") && name != "configuration";
        assert_eq!(!fix.is_empty(), says_what_to_do, "{check:#}");
        fix
    }

    fn has(&self, name: &str) -> bool {
        self.checks().iter().any(|check| check["name"] == name)
    }

    /// The first word of each check that went like this.
    fn with_status(&self, status: &str) -> Vec<String> {
        let checks = self.checks();
        let names = checks.iter().filter(|check| check["status"] == status).map(|check| check["name"].as_str());
        names.flatten().map(|name| name.split(' ').next().unwrap_or(name).to_owned()).collect()
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("doctor").args(arguments).env_clear();
    command
}

fn ended(mut command: Command) -> Examined {
    let output = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Examined { code: output.status.code(), said: text(&output.stdout), complained: text(&output.stderr) }
}

fn examine(kubeconfig: &Path, namespace: &str, arguments: &[&str]) -> Examined {
    let mut command = command(&["--lease", LEASE, "-n", namespace, "-o", "json"]);
    command.arg("--kubeconfig").arg(kubeconfig).args(arguments);
    ended(command)
}

/// As who runs the sidecars.
fn as_sidecar(stage: &Stage, arguments: &[&str]) -> Examined {
    examine(&shared().kubeconfig_for(SIDECAR, None), &stage.namespace, arguments)
}

fn as_admin(stage: &Stage, arguments: &[&str]) -> Examined {
    examine(&shared().kubeconfig(), &stage.namespace, arguments)
}

/// Without any cluster, for what is looked at on this machine.
fn locally(arguments: &[&str]) -> Examined {
    let mut command = command(&["--lease", LEASE, "-o", "json", "--kubeconfig=/nonexistent/kubeconfig"]);
    command.args(arguments);
    ended(command)
}

fn flag(name: &str, value: &Path) -> String {
    format!("{name}={}", value.display())
}

/// The flags of a sidecar that matter here.
fn flags_of(pod: &Sidecar) -> [String; 5] {
    [
        format!("--pod-name={}", pod.pod()),
        format!("--listen={}", pod.address()),
        format!("--probe-listen={}", pod.probe_address()),
        flag("--report-dir", pod.report_dir()),
        flag("--state-dir", &pod.state_dir()),
    ]
}

fn strs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

// --- Where all is well ---

#[test]
fn beside_a_leader_all_is_well_with_the_rights_of_the_documentation_and_the_leader_leads_on() {
    let stage = Stage::released(shared(), "well");
    let pod = stage.slow_pod("a").start();
    let before = token(&pod.wait_leader(SOON));
    let transitions = stage.spec()["leaseTransitions"].clone();
    let examined = as_sidecar(&stage, &[&strs(&flags_of(&pod))[..], &[EVENTS_OFF]].concat());
    assert_eq!(examined.with_status("failed"), Vec::<String>::new(), "{}", examined.said);
    assert_eq!(examined.with_status("warning"), Vec::<String>::new(), "{}", examined.said);
    assert_eq!(examined.with_status("skipped"), ["sidecar", "permissions", "admission"], "{}", examined.said);
    assert_eq!(examined.complained, "");
    examined.assert("configuration", "ok", &format!("namespace {}", stage.namespace));
    examined.assert("api-server", "ok", "answers: v1.");
    examined.assert("credentials", "ok", "accepted, as sidecar");
    examined.assert("wall-clock", "ok", "within 2 s");
    examined.assert("permissions leases/it", "ok", "get, list, watch, create, update");
    examined.assert(
        "lease it",
        "ok",
        &format!("a holds it (token {before}, transitions 2, lease duration 60 s, renewed"),
    );
    examined.assert("dry-run it", "ok", "an update would be accepted");
    examined.assert("admission", "skipped", "webhooks and policies may not be listed");
    examined.assert("uptime", "ok", "agree");
    examined.assert("boot-id", "ok", "");
    let name = |flag: &str, value: String| format!("{flag} {value}");
    examined.assert(&name("listen", pod.address().to_string()), "ok", "taken by the sidecar of this pod (a)");
    examined.assert(&name("probe-listen", pod.probe_address().to_string()), "ok", "taken by a sidecar");
    examined.assert(&name("report-dir", pod.report_dir().display().to_string()), "ok", "writable");
    examined.assert(&name("state-dir", pod.state_dir().display().to_string()), "ok", "writable");

    let renewed = stage.spec()["renewTime"].clone();
    wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
    assert_eq!((token(&pod.status()), &stage.spec()["leaseTransitions"]), (before, &transitions));
    assert_eq!(pod.warnings(), Vec::<String>::new());
    for dir in [pod.report_dir().to_owned(), pod.state_dir()] {
        let left: Vec<_> = fs::read_dir(dir).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("doctor")), "{left:?}");
    }
}

#[test]
fn it_is_no_app_no_sidecar_and_no_question_to_the_sidecar_beside_it() {
    let stage = Stage::released(shared(), "undisturbed");
    let lock = stage.slow_pod("a").flag("--app-alive", "lock").start();
    let asking = stage.slow_pod("b").flag("--app-alive", "asking").start();
    for pod in [&lock, &asking] {
        pod.wait_requests("watch", "200", 1, SOON);
    }
    for _ in 0..20 {
        for pod in [&lock, &asking] {
            let examined = as_sidecar(&stage, &strs(&flags_of(pod)));
            examined.assert(&format!("listen {}", pod.address()), "ok", &format!("of this pod ({})", pod.pod()));
        }
    }
    for pod in [&lock, &asking] {
        assert_eq!(pod.metric("leasehold_app_alive", &[]), 0.0, "{}", pod.pod());
        assert_eq!(pod.metric("leasehold_leadership_changes_total", &[]), 0.0, "{}", pod.pod());
    }
    assert_eq!(stage.holder(), None);
    // Each start finds its directory's lock free, whoever looks at it meanwhile.
    let mut restarted = stage.slow_pod("d").start();
    let flags = flags_of(&restarted);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                locally(&strs(&flags[3..]));
            }
        });
        for _ in 0..5 {
            restarted.restart();
            restarted.wait_leader(SOON);
        }
        over.store(true, Ordering::SeqCst);
        looking.join().expect("does not panic");
    });
    assert_eq!(restarted.count_log(&["holds the state directory"]), 0);
}

// --- Permissions ---

const VERBS: [&str; 5] = ["get", "list", "watch", "create", "update"];

fn allow(namespace: &str, user: &str, verbs: &[&str]) {
    let rules = json!([{
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [LEASE], "verbs": verbs,
    }]);
    shared().allow(namespace, user, rules);
}

fn apply(yaml: &str) {
    let file = shared().write_file("fix.yaml", yaml);
    shared().run_kubectl(&["apply", "-f", &file.to_string_lossy()]);
}

#[test]
fn each_missing_verb_is_told_with_what_grants_it_and_that_is_the_cure() {
    for verb in VERBS {
        let stage = Stage { control_plane: shared(), namespace: shared().namespace(&format!("no-{verb}")) };
        let others: Vec<&str> = VERBS.into_iter().filter(|other| *other != verb).collect();
        allow(&stage.namespace, SIDECAR, &others);
        let arguments = [EVENTS_OFF];
        let fix =
            as_sidecar(&stage, &arguments).assert("permissions leases/it", "failed", &format!("not allowed: {verb}"));
        apply(&fix);
        wait_until("the Role to count", SOON, || {
            as_sidecar(&stage, &arguments).check("permissions leases/it")["status"] == "ok"
        });
        assert_eq!(as_sidecar(&stage, &arguments).with_status("failed"), Vec::<String>::new());
    }
}

#[test]
fn create_is_not_needed_where_the_lease_is() {
    let stage = Stage { control_plane: shared(), namespace: shared().namespace("hardened") };
    allow(&stage.namespace, SIDECAR, &["get", "list", "watch", "update"]);
    as_sidecar(&stage, &[]).assert("permissions leases/it", "failed", "not allowed: create");
    stage.create_released();
    let examined = as_sidecar(&stage, &[]);
    examined.assert("permissions leases/it", "ok", "get, list, watch, update; create is not allowed, and not needed");
    examined.assert("dry-run it", "ok", "an update would be accepted");
    assert_eq!(examined.code, Some(0));
}

#[test]
fn without_any_right_the_sidecar_runs_on_and_both_tell_the_same_role() {
    let namespace = shared().namespace("nothing");
    let stage = Stage { control_plane: shared(), namespace };
    let mut pod = stage.pod("a").start();
    pod.wait_requests("list", "403", 5, SOON);
    let warnings = pod.warnings();
    let about_lease: Vec<&String> = warnings.iter().filter(|warning| warning.contains("resources: [leases]")).collect();
    let [warning] = &about_lease[..] else { panic!("{warnings:?}") };
    assert!(pod.ended().is_none());
    let probe = support::http::Http::connect(pod.probe_address()).and_then(|mut http| http.get("/livez"));
    assert_eq!(probe.expect("answers").status, 200);
    assert!(pod.report("it.env").contains("LEASEHOLD_LEADER=0"));

    let examined = as_sidecar(&stage, &strs(&flags_of(&pod)));
    let fix = examined.assert("permissions leases/it", "failed", "not allowed: get, list, watch, create, update");
    examined.assert("lease it", "skipped", "may not be read");
    let role = &warning[warning.find("apiVersion").expect("the Role")..];
    assert_eq!(fix.split("\n---\n").next(), Some(role));
    apply(&fix);
    pod.wait_leader(SOON);
}

#[test]
fn rights_that_not_every_sidecar_needs_are_asked_for_where_it_does() {
    let stage = Stage::released(shared(), "extras");
    let examined = as_sidecar(&stage, &["--role-label", "--pod-name=web-0"]);
    let events = examined.assert("permissions events", "warning", "not allowed: create; no Events");
    let label = examined.assert("permissions pods/web-0", "failed", "not allowed: patch");
    assert!(!as_sidecar(&stage, &[EVENTS_OFF]).has("permissions pods/web-0"));
    as_sidecar(&stage, &[EVENTS_OFF]).assert("permissions events", "skipped", "off");
    // All three stand beside each other.
    apply(&events);
    apply(&label);
    wait_until("the Roles to count", SOON, || {
        let examined = as_sidecar(&stage, &["--role-label", "--pod-name=web-0"]);
        (examined.code, examined.with_status("warning").len()) == (Some(0), 0)
    });
}

#[test]
fn the_right_of_a_member_is_asked_for_where_it_is_one_and_what_is_told_cures_it() {
    let stage = Stage::released(shared(), "member");
    let joins = ["--member-of=shop", EVENTS_OFF];
    let name = "permissions members/shop";
    // The election's right says nothing of it.
    assert!(!as_sidecar(&stage, &[EVENTS_OFF]).has(name));
    let fix =
        as_sidecar(&stage, &joins).assert(name, "failed", "not allowed: get, list, watch, create, update, delete");
    apply(&fix);
    wait_until("the Role to count", SOON, || as_sidecar(&stage, &joins).code == Some(0));
    as_sidecar(&stage, &joins).assert(name, "ok", "get, list, watch, create, update, delete");
    // For one that elects nobody as well.
    let mut command = command(&["-n", &stage.namespace, "-o", "json", EVENTS_OFF, "--member-of=shop"]);
    command.arg("--kubeconfig").arg(shared().kubeconfig_for(SIDECAR, None));
    let examined = ended(command);
    examined.assert(name, "ok", "delete");
    assert_eq!(examined.code, Some(0));
    locally(&joins).assert(name, "skipped", "");
}

#[test]
fn a_service_account_is_bound_as_one() {
    let stage = Stage { control_plane: shared(), namespace: shared().namespace("account") };
    let kubeconfig = shared().kubeconfig_for_service_account(&stage.namespace, "web", None);
    let examined = examine(&kubeconfig, &stage.namespace, &[]);
    examined.assert(
        "credentials",
        "ok",
        &format!("as system:serviceaccount:{}:web, with a token that ends in", stage.namespace),
    );
    let fix = examined.assert("permissions leases/it", "failed", "not allowed");
    assert!(fix.contains("kind: ServiceAccount\n  name: web\n"), "{fix}");
    apply(&fix);
    wait_until("the Role to count", SOON, || examine(&kubeconfig, &stage.namespace, &[]).code == Some(0));
}

// --- The API server, and who asks ---

#[test]
fn an_api_server_that_cannot_be_reached_is_told_and_what_needs_it_is_left_out() {
    let nobody = Port::reserve();
    let kubeconfig = shared().kubeconfig_for(ADMIN, Some(nobody.address()));
    let examined = examine(&kubeconfig, "default", &["--holder-within=1s"]);
    examined.assert(
        "configuration",
        "ok",
        &format!("the kubeconfig {}: https://{}", kubeconfig.display(), nobody.address()),
    );
    examined.assert("api-server", "failed", "cannot be reached");
    for name in ["credentials", "permissions leases/it", "lease it", "admission"] {
        examined.assert(name, "skipped", "the API server was not reached");
    }
    examined.assert("holder it", "failed", "the API server was not reached");
    examined.assert("uptime", "ok", "");

    let none = locally(&[]);
    none.assert("configuration", "failed", "cannot read the kubeconfig /nonexistent/kubeconfig");
    assert!(!none.has("api-server"));
}

#[test]
fn an_api_server_that_falls_silent_is_not_waited_for() {
    for answered in [0, 1, 4] {
        let front = Front::open(shared());
        front.set(move |request| if request.number < answered { Act::Pass } else { Act::Silence });
        let began = clock::now();
        let examined = examine(&front.kubeconfig(), "default", &[]);
        let took = clock::now() - began;
        assert!(took < Duration::from_secs(14), "{took:?} after {answered}");
        assert_eq!(examined.code, Some(1));
        assert!(examined.said.contains("gave no answer in time"), "{}", examined.said);
    }
}

#[test]
fn what_is_no_api_server_is_told_from_one() {
    let front = Front::open(shared());
    front.set(|_| Act::Answer(200, vec![("Content-Type", "text/html".into())], "<html>".into()));
    examine(&front.kubeconfig(), "default", &[]).assert(
        "api-server",
        "failed",
        "does the address lead to an API server?",
    );
}

#[test]
fn an_api_server_older_than_native_sidecars_is_told() {
    let front = Front::open(shared());
    let version = json!({"major": "1", "minor": "28+", "gitVersion": "v1.28.4"}).to_string();
    front.set(move |request| match request.path.as_str() {
        "/version" => Act::Answer(200, vec![("Content-Type", "application/json".into())], version.clone()),
        _ => Act::Pass,
    });
    let examined = examine(&front.kubeconfig(), "default", &[]);
    let fix = examined.assert("api-server", "warning", "v1.28.4");
    assert!(fix.contains("1.29"), "{fix}");
}

/// A token that says when it ends and is signed by nobody.
fn token_ending(in_seconds: i64) -> String {
    let claims = json!({"sub": "x", "exp": SystemClock.wall().as_second() + in_seconds}).to_string();
    let base64 = |text: &str| {
        let output =
            Command::new("sh").args(["-c", "printf %s \"$0\" | base64 -w0 | tr '+/' '-_' | tr -d =", text]).output();
        String::from_utf8(output.expect("sh runs").stdout).expect("text")
    };
    format!("{}.{}.c2lnbmF0dXJl", base64(r#"{"alg":"none"}"#), base64(&claims))
}

#[test]
fn credentials_that_are_not_accepted_are_told_and_never_shown() {
    let with_token = |token: &str| {
        let kubeconfig = shared().kubeconfig_edited(|config| config["users"][0]["user"] = json!({"token": token}));
        let examined = examine(&kubeconfig, "default", &[]);
        assert!(!examined.said.contains(token.split('.').nth(1).unwrap_or(token)), "{}", examined.said);
        examined
    };
    let examined = with_token("nonsense-of-mine");
    examined.assert("api-server", "ok", "answers");
    examined.assert("credentials", "failed", "does not accept the credentials (401)");
    examined.assert("permissions leases/it", "skipped", "the credentials are not accepted");
    with_token(&token_ending(-600)).assert("credentials", "failed", "(401), which ended 10 min ago");

    let nobody = shared().kubeconfig_edited(|config| config["users"][0]["user"] = json!({}));
    examine(&nobody, "default", &[]).assert("credentials", "failed", "this is anybody");
}

#[test]
fn a_token_that_the_kubelet_should_have_renewed_is_told() {
    // It takes any token, and asks as the admin.
    let front = Front::open(shared());
    let file = shared().write_file("token", "");
    for (ends_in, status, text) in
        [(3000, "ok", "ends in 49 min"), (200, "warning", "ends in 3 min"), (-60, "warning", "ended 6")]
    {
        fs::write(&file, token_ending(ends_in)).expect("writes a token");
        let mut kubeconfig: Value =
            serde_json::from_str(&fs::read_to_string(front.kubeconfig()).expect("a file")).expect("JSON");
        kubeconfig["users"][0]["user"] = json!({"tokenFile": file});
        let kubeconfig = shared().write_file("kubeconfig", &kubeconfig.to_string());
        examine(&kubeconfig, "default", &[]).assert("credentials", status, text);
    }
}

#[test]
fn the_wall_clocks_offset_is_told_and_decides_nothing() {
    let front = Front::open(shared());
    front.set(|request| match request.path.as_str() {
        "/version" => {
            let headers = vec![("Date", "Tue, 03 Mar 2020 04:05:06 GMT".to_owned())];
            Act::Answer(200, headers, json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0"}).to_string())
        }
        _ => Act::Pass,
    });
    let examined = examine(&front.kubeconfig(), "default", &[]);
    examined.assert("wall-clock", "ok", "days ahead of the API server's (it decides nothing");
    assert_eq!(examined.code, Some(0));
}

// --- The Lease ---

/// A Lease as it is told of.
fn lease(name: &str, metadata: Value, spec: Value) -> (Stage<'static>, Examined) {
    let stage = Stage::new(shared(), name);
    stage.create(metadata, spec);
    let examined = as_admin(&stage, &[]);
    (stage, examined)
}

/// Renewed just now, and for a minute.
fn held_by(holder: &str) -> Value {
    json!({"holderIdentity": holder, "leaseDurationSeconds": 60, "leaseTransitions": 3, "renewTime": now()})
}

fn now() -> String {
    format!("{:.6}", SystemClock.wall())
}

#[test]
fn who_holds_the_lease_is_told_and_whether_that_is_one_of_ours() {
    let absent = Stage::new(shared(), "none");
    let examined = as_admin(&absent, &[]);
    examined.assert("lease it", "ok", "there is none");
    examined.assert("dry-run it", "ok", "its creation would be accepted");
    assert_eq!(absent.lease(), None, "nothing is written");
    let fix = examine(&shared().kubeconfig(), "nowhere", &[]).assert("dry-run it", "failed", "no namespace nowhere");
    assert!(fix.contains("--namespace"), "{fix}");

    let both = as_admin(&absent, &["--lease=another"]);
    for name in ["permissions leases/it", "permissions leases/another", "lease it", "lease another", "dry-run another"]
    {
        both.assert(name, "ok", "");
    }

    let ours = json!({"annotations": {TOKEN: "7"}});
    lease("ours", ours.clone(), held_by("a_1")).1.assert(
        "lease it",
        "ok",
        "a holds it (token 7, transitions 3, lease duration 60 s, renewed",
    );
    let mut overdue = held_by("a_1");
    overdue["renewTime"] = json!("2026-01-02T03:04:05.000000Z");
    lease("overdue", ours, overdue).1.assert("lease it", "warning", "has run out by the clock of who wrote it");
    let fix =
        lease("foreign", json!({}), held_by("x")).1.assert("lease it", "warning", "x holds it, and not by leasehold");
    assert!(fix.contains("mixed fleet"), "{fix}");
    // client-go keeps the annotations of a former term.
    let kept = json!({"annotations": {TOKEN: "7", "leasehold.dev/released": "2026-01-02T03:04:05.000000Z"}});
    lease("kept", kept, held_by("x")).1.assert("lease it", "warning", "x holds it, and not by leasehold");
}

#[test]
fn an_unheld_lease_is_told_by_what_proves_that() {
    as_admin(&Stage::released(shared(), "proved"), &[]).assert("lease it", "ok", "released, and that is proved");
    lease("never", json!({}), json!({})).1.assert("lease it", "ok", "nobody has held it yet");
    let emptied = json!({"holderIdentity": "", "leaseTransitions": 3, "renewTime": now()});
    lease("unproved", json!({"annotations": {TOKEN: "7"}}), emptied).1.assert("lease it", "warning", "nothing proves");
}

#[test]
fn what_keeps_sidecars_from_leading_is_told() {
    let (stage, examined) = lease("token", json!({"annotations": {TOKEN: "9007199254740992"}}), held_by("a_1"));
    let fix = examined.assert("lease-token it", "failed", "no whole number up to 2^53 - 1");
    let cure = fix.split(": ").nth(1).expect("a command").replace("NUMBER", "77").replace("kubectl ", "");
    shared().run_kubectl(&cure.split(' ').collect::<Vec<_>>());
    assert!(!as_admin(&stage, &[]).has("lease-token it"));

    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "0f8fad5b-d9cb-469f-a165-70867728950e"});
    let (_, examined) = lease("owned", json!({"ownerReferences": [owner]}), json!({"holderIdentity": "p"}));
    examined.assert("lease-owner it", "warning", "a Pod owns it");
    examined.assert("lease-duration it", "warning", "without a duration");

    // A default API server drops the field.
    let stage = Stage::released(shared(), "coordinated");
    let front = Front::open(shared());
    let mut coordinated = stage.lease().expect("a Lease");
    coordinated["spec"]["strategy"] = json!("OldestEmulationVersion");
    let path = format!("/leases/{LEASE}");
    front.set(move |request| match request.method == "GET" && request.path.ends_with(&path) {
        true => Act::Answer(200, vec![("Content-Type", "application/json".into())], coordinated.to_string()),
        false => Act::Pass,
    });
    examine(&front.kubeconfig(), &stage.namespace, &[]).assert("lease-strategy it", "failed", "OldestEmulationVersion");
}

// --- Admission: what is cluster-wide is looked at in a cluster of its own ---

fn leases_rule(operations: &[&str]) -> Value {
    json!({"apiGroups": ["coordination.k8s.io"], "apiVersions": ["v1"], "operations": operations, "resources": ["leases"]})
}

fn webhook(name: &str, rule: Value, failure_policy: &str) -> Value {
    json!({
        "name": name, "rules": [rule], "failurePolicy": failure_policy, "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 1, "clientConfig": {"url": "https://127.0.0.1:1/"},
    })
}

struct Admission {
    control_plane: ControlPlane,
}

impl Admission {
    fn create(&self, plural: &str, kind: &str, name: &str, body: Value) {
        let mut object = body;
        object["apiVersion"] = json!("admissionregistration.k8s.io/v1");
        object["kind"] = json!(kind);
        object["metadata"] = json!({"name": name});
        let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
        let answer = self.control_plane.api("POST", &path, Some(&object)).expect("the API server answers");
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    fn policy(&self, mutating: bool, name: &str, spec: Value) {
        let (plural, kind) = match mutating {
            true => ("mutatingadmissionpolicies", "MutatingAdmissionPolicy"),
            false => ("validatingadmissionpolicies", "ValidatingAdmissionPolicy"),
        };
        self.create(plural, kind, name, json!({ "spec": spec }));
    }

    fn bind(&self, mutating: bool, name: &str, spec: Value) {
        let (plural, kind) = match mutating {
            true => ("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding"),
            false => ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"),
        };
        self.create(plural, kind, name, json!({ "spec": spec }));
    }

    fn examine(&self) -> Examined {
        examine(&self.control_plane.kubeconfig(), "default", &[])
    }
}

#[test]
fn webhooks_and_policies_that_match_leases_are_told_and_no_others() {
    let admission = Admission { control_plane: ControlPlane::start() };
    admission.examine().assert("admission", "ok", "no webhook or policy matches Leases (0 looked at)");

    // Nothing of these is asked: the namespaces have no such label.
    let elsewhere = json!({"matchLabels": {"guarded": "yes"}});
    let mut guard = webhook("guard.example.com", leases_rule(&["*"]), "Fail");
    guard["namespaceSelector"] = elsewhere.clone();
    let mut pods = leases_rule(&["*"]);
    pods["resources"] = json!(["pods", "leases/status"]);
    let pods = webhook("pods.example.com", pods, "Fail");
    admission.create(
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        "guards",
        json!({"webhooks": [guard, pods]}),
    );
    let mut everything = leases_rule(&["UPDATE"]);
    everything["apiGroups"] = json!(["*"]);
    everything["resources"] = json!(["*"]);
    let mut everything = webhook("all.example.com", everything, "Ignore");
    everything["objectSelector"] = elsewhere.clone();
    admission.create(
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        "mutators",
        json!({"webhooks": [everything]}),
    );
    let constraints = |operations: &[&str]| json!({"resourceRules": [leases_rule(operations)]});
    let validations = json!([{"expression": "true"}]);
    let validating =
        |operations: &[&str]| json!({"matchConstraints": constraints(operations), "validations": validations});
    admission.policy(false, "bound", validating(&["CREATE", "UPDATE"]));
    admission.policy(false, "unbound", validating(&["UPDATE"]));
    admission.policy(false, "deletes", validating(&["DELETE"]));
    admission.bind(false, "binding", json!({"policyName": "bound", "validationActions": ["Deny", "Audit"]}));
    let mutation = json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'test', path: '/kind', value: 'Lease'}]"}});
    admission.policy(
        true,
        "mutates",
        json!({"matchConstraints": constraints(&["UPDATE"]), "mutations": [mutation], "reinvocationPolicy": "Never", "failurePolicy": "Ignore"}),
    );
    admission.bind(
        true,
        "mutates",
        json!({"policyName": "mutates", "matchResources": {"namespaceSelector": elsewhere}}),
    );

    let examined = admission.examine();
    examined.assert(
        "admission guard.example.com",
        "warning",
        "the ValidatingWebhookConfiguration guards asks it at each CREATE and UPDATE of a Lease, if the namespace has guarded=yes: while it does not answer within 1 s, no Lease can be renewed or taken (failurePolicy Fail)",
    );
    examined.assert("admission all.example.com", "warning", "at each UPDATE of a Lease, if the Lease has guarded=yes: while it does not answer, each write takes up to 1 s longer (failurePolicy Ignore)");
    examined.assert("admission bound", "ok", "the ValidatingAdmissionPolicy judges each CREATE and UPDATE of a Lease; bound by binding (Deny, Audit); failurePolicy Fail");
    examined.assert("admission unbound", "ok", "not in force: no binding");
    examined.assert("admission mutates", "warning", "the MutatingAdmissionPolicy may change a Lease at each UPDATE; bound by mutates, if the namespace has guarded=yes; failurePolicy Ignore");
    for other in ["admission", "admission pods.example.com", "admission deletes"] {
        assert!(!examined.has(other), "{}", examined.said);
    }
    assert_eq!(examined.code, Some(0), "{}", examined.said);
}

#[test]
fn what_may_not_be_listed_is_left_out_and_said() {
    let front = Front::open(shared());
    let policy = json!({
        "metadata": {"name": "hidden"}, "spec": {"matchConstraints": {"resourceRules": [leases_rule(&["*"])]}},
    });
    let policies = json!({ "items": [policy] }).to_string();
    front.set(move |request| match request.path.rsplit('/').next().unwrap_or_default() {
        "validatingwebhookconfigurations" | "validatingadmissionpolicybindings" => {
            Act::status(403, "Forbidden", "User \"x\" cannot list resource")
        }
        "validatingadmissionpolicies" => Act::Answer(200, vec![], policies.clone()),
        "mutatingadmissionpolicies" => Act::status(500, "InternalError", "etcd has no leader"),
        _ => Act::Pass,
    });
    let checks = examine(&front.kubeconfig(), "default", &[]).checks();
    let messages: Vec<&str> = checks.iter().flat_map(|check| check["message"].as_str()).collect();
    for said in [
        "judges each CREATE and UPDATE of a Lease; whether it is bound may not be seen",
        "mutatingadmissionpolicies cannot be listed: the API server fails (500): etcd has no leader",
        "validatingwebhookconfigurations, validatingadmissionpolicybindings may not be listed",
    ] {
        assert!(messages.iter().any(|message| message.contains(said)), "{said}: {messages:#?}");
    }
}

#[test]
fn what_admission_refuses_is_found_by_a_write_that_writes_nothing() {
    let admission = Admission { control_plane: ControlPlane::start() };
    admission.examine().assert("dry-run it", "ok", "its creation would be accepted");
    let spec = json!({
        "matchConstraints": {"resourceRules": [leases_rule(&["CREATE"])]},
        "validations": [{"expression": "false", "message": "no Leases here"}],
    });
    admission.policy(false, "strict", spec);
    admission.bind(false, "strict", json!({"policyName": "strict", "validationActions": ["Deny"]}));
    let refused =
        wait_for("the policy to be in force", SOON, || Some(admission.examine()).filter(|it| it.code == Some(1)));
    refused.assert("dry-run it", "failed", "no Leases here");
    refused.assert("permissions leases/it", "ok", "");

    // A webhook that cannot be called, and must be.
    let hook = webhook("down.example.com", leases_rule(&["CREATE"]), "Fail");
    admission.create(
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        "down",
        json!({"webhooks": [hook]}),
    );
    wait_until("the webhook to be in force", SOON, || {
        admission.examine().check("dry-run it")["message"]
            .as_str()
            .is_some_and(|message| message.contains("down.example.com"))
    });
}

// --- The place ---

#[test]
fn directories_that_cannot_be_used_are_told() {
    let folder = Folder::new("directories");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let fixed = folder.join("fixed");
    fs::create_dir(&fixed).expect("a folder");
    fs::set_permissions(&fixed, fs::Permissions::from_mode(0o555)).expect("a mode");
    let (report, state) = (flag("--report-dir", &fixed), flag("--state-dir", &fixed.join("state")));
    let mut unprivileged = command(&["--lease", LEASE, "-o", "json", "--kubeconfig=/nonexistent", &report, &state]);
    if rustix::process::geteuid().is_root() {
        // To root, all are writable.
        unprivileged.uid(65534);
    }
    let examined = ended(unprivileged);
    examined.assert(&format!("report-dir {}", fixed.display()), "failed", "cannot make a file there as user");
    examined.assert(
        &format!("state-dir {}", fixed.join("state").display()),
        "failed",
        "not there, and may not be made",
    );

    let report = folder.join("report");
    let flags = [flag("--report-dir", &report), flag("--state-dir", &folder.join("deep/state"))];
    let examined = locally(&strs(&flags));
    let name = format!("report-dir {}", report.display());
    examined.assert(&name, "ok", &format!("the sidecar makes it in {}", folder.path().display()));
    examined.assert(&format!("state-dir {}", folder.join("deep/state").display()), "ok", "not there yet");
    assert!(!report.exists());
    fs::create_dir_all(report.join("alive")).expect("a folder");
    locally(&strs(&flags)).assert(&name, "failed", "alive is no regular file");

    let examined = locally(&[]);
    examined.assert("report-dir /run/leasehold", "skipped", "give --report-dir");
    examined.assert("state-dir /var/lib/leasehold", "skipped", "give --state-dir");
    let examined = locally(&["--report-dir=off", "--state-dir=off"]);
    examined.assert("report-dir", "skipped", "off");
    examined.assert("state-dir", "skipped", "off");
}

#[test]
fn a_state_directory_of_another_pod_or_of_nobody_in_particular_is_told() {
    let folder = Folder::new("state");
    let owner = json!({"boot_id": "b", "pod_uid": "another", "namespace": "default"}).to_string();
    fs::write(folder.join("lock"), owner).expect("writes a file");
    let name = format!("state-dir {}", folder.path().display());
    let in_pod = |uid: Option<&str>| {
        let mut command = command(&[
            "--lease",
            LEASE,
            "-o",
            "json",
            "--kubeconfig=/nonexistent",
            "--listen=127.0.0.1:0",
            "--probe-listen=off",
        ]);
        command.arg(flag("--state-dir", folder.path())).env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
        command.envs(uid.map(|uid| ("POD_UID", uid)));
        ended(command)
    };
    in_pod(Some("mine")).assert(&name, "warning", "another pod's sidecar used it last");
    in_pod(Some("another")).assert(&name, "ok", "writable");
    let fix = in_pod(None).assert(&name, "warning", "POD_UID is not set");
    assert!(fix.contains("metadata.uid"), "{fix}");
}

/// Answers every connection with these bytes, or with nothing at all.
fn doorkeeper(answer: Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut silent = Vec::new();
        for mut stream in listener.incoming().flatten() {
            match answer {
                Some(answer) => {
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = stream.write_all(answer.as_bytes());
                }
                None => silent.push(stream),
            }
        }
    });
    address
}

#[test]
fn a_port_is_free_or_ours_or_somebody_elses() {
    let listen =
        |address: &str| locally(&[&format!("--listen={address}"), "--pod-name=a"]).check(&format!("listen {address}"));
    let is = |address: &str, status: &str, text: &str| {
        let check = listen(address);
        let message = check["message"].as_str().unwrap_or_default();
        assert!(check["status"] == status && message.contains(text), "{address}: {status} {text:?}: {check:#}");
    };
    let free = Port::reserve();
    is(&free.address().to_string(), "ok", "free");
    is(&format!("localhost:{}", free.address().port()), "ok", "free");
    is("192.0.2.1:4040", "failed", "cannot listen on 192.0.2.1:4040");
    let web = doorkeeper(Some("HTTP/1.0 200 OK\r\n\r\nhello"));
    is(&web.to_string(), "failed", "another process listens there (it answers 200 over HTTP)");
    is(&format!("[::]:{}", web.port()), "failed", "another process listens there (it answers 200");
    is(&doorkeeper(None).to_string(), "failed", "another process listens there (no answer over HTTP");
    is(&doorkeeper(Some("SSH-2.0-x\r\n")).to_string(), "failed", "the answer is not HTTP");

    let folder = Folder::new("socket");
    let socket = folder.join("app.sock");
    let unix = format!("unix:{}", socket.display());
    is(&unix, "ok", "free");
    is(&format!("unix:{}", folder.join("missing/app.sock").display()), "failed", "no socket can be made there");
    let stage = Stage::new(shared(), "ports");
    let ours = stage.slow_pod("a").argument(&format!("--listen={unix}")).start();
    let others = stage.slow_pod("b").start();
    others.wait_not_leader(SOON);
    wait_until("the socket", SOON, || socket.exists());
    is(&ours.address().to_string(), "ok", "taken by the sidecar of this pod (a)");
    is(&unix, "ok", "taken by the sidecar of this pod (a)");
    is(&others.address().to_string(), "failed", "the sidecar of the pod b listens there");
    let probes = others.probe_address();
    locally(&[&format!("--probe-listen={probes}")]).assert(
        &format!("probe-listen {probes}"),
        "ok",
        "taken by a sidecar",
    );
    others.sigstop();
    is(&others.address().to_string(), "failed", "no answer over HTTP");
    others.sigcont();
}

#[test]
fn on_a_workstation_the_default_ports_and_directories_are_nobodys_business() {
    let examined = locally(&[]);
    examined.assert("sidecar", "skipped", "this is no pod");
    examined.assert("listen localhost:4040", "skipped", "give --listen");
    examined.assert("probe-listen [::]:4041", "skipped", "give --probe-listen");
}

/// A mount namespace, where that is allowed.
fn mounts() -> Option<&'static [&'static str]> {
    allowed(&["unshare", "--mount"])
}

fn allowed(unshare: &'static [&'static str]) -> Option<&'static [&'static str]> {
    let output = Command::new(unshare[0]).args(&unshare[1..]).arg("true").output();
    let allowed = output.is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("not tested: this user may not {}", unshare.join(" "));
    }
    allowed.then_some(unshare)
}

#[test]
fn an_uptime_that_is_not_the_machines_and_a_boot_id_that_is_not_there_are_told() {
    let Some(unshare) = mounts() else { return };
    let folder = Folder::new("uptime");
    fs::write(folder.join("uptime"), "12.34 0.00\n").expect("writes a file");
    let within = |mount: &str, arguments: &str| {
        let line = format!(
            "{mount} && exec {} doctor --lease=it -o json --kubeconfig=/nonexistent {arguments}",
            binary().display()
        );
        let mut command = Command::new(unshare[0]);
        command.args(&unshare[1..]).args(["sh", "-c", &line]);
        ended(command)
    };
    let uptime = format!("mount --bind {} /proc/uptime", folder.join("uptime").display());
    within(&uptime, "").assert("uptime", "failed", "away from the boot clock");
    within(&uptime, "--report-dir=off").assert("uptime", "warning", "away from the boot clock");
    within("mount -t tmpfs none /proc/sys/kernel/random", "").assert("boot-id", "failed", "boot_id");

    // The report directory of a sidecar is for it to write, and for the app's container to read.
    let (dir, name) = (folder.path().display(), format!("report-dir {}", folder.path().display()));
    let read_only = format!("mount -t tmpfs -o ro none {dir}");
    within(&read_only, &format!("--report-dir={dir}")).assert(&name, "failed", "Read-only file system");
    let in_a_pod = format!("{read_only} && export KUBERNETES_SERVICE_HOST=127.0.0.1");
    within(&in_a_pod, &format!("--report-dir={dir}")).assert(&name, "skipped", "read-only here");
}

#[test]
fn beside_a_sidecar_that_is_process_1_its_flags_count() {
    let Some(unshare) = allowed(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]) else { return };
    let stage = Stage::released(shared(), "process-1");
    let folder = Folder::new("process-1");
    let port = Port::reserve();
    let (listen, report) = (port.address().to_string(), folder.join("report"));
    let mut command = Command::new(unshare[0]);
    command
        .args(&unshare[1..])
        .arg(binary())
        .args([
            "run",
            "--lease",
            LEASE,
            "-n",
            &stage.namespace,
            "--pod-name=a",
            "--probe-listen=off",
            "--listen",
            &listen,
        ])
        .arg(flag("--kubeconfig", &shared().kubeconfig_for(SIDECAR, None)))
        .args([flag("--report-dir", &report), flag("--state-dir", &folder.join("state")), "--events=off".into()])
        .env_clear()
        .stderr(std::process::Stdio::null());
    let outside = Process::start(command).expect("unshare can be started");
    wait_until("the sidecar to lead", SOON, || {
        fs::read_to_string(report.join("it.env")).is_ok_and(|text| text.contains("LEASEHOLD_LEADER=1"))
    });
    let children = format!("/proc/{0}/task/{0}/children", outside.id());
    let inside = fs::read_to_string(children).expect("its child").trim().to_owned();
    let within = |arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &inside, "--pid", "--mount"])
            .arg(binary())
            .args(["doctor", "-o", "json"])
            .args(arguments);
        command.env_clear().env("POD_UID", "u");
        ended(command)
    };
    let examined = within(&[]);
    examined.assert("sidecar", "ok", "process 1 of this container");
    examined.assert("configuration", "ok", &format!("namespace {}", stage.namespace));
    examined.assert("lease it", "ok", "a holds it");
    examined.assert("report it", "ok", "this pod leads (leading:");
    examined.assert(&format!("listen {listen}"), "ok", "taken by the sidecar of this pod (a)");
    examined.assert("probe-listen", "skipped", "off");
    examined.assert(&format!("report-dir {}", report.display()), "ok", "writable");
    assert_eq!(
        (examined.with_status("failed").len(), examined.with_status("warning").len()),
        (0, 1),
        "{}",
        examined.said
    );

    // What is given counts instead.
    let free = Port::reserve().address().to_string();
    let examined = within(&["--lease=another", "--listen", &free, "--pod-name=b"]);
    examined.assert("permissions leases/another", "failed", "not allowed");
    examined.assert("report another", "failed", "another.json cannot be read");
    examined.assert(&format!("listen {free}"), "warning", "process 1 does not listen there");
    assert!(!examined.has("lease it"));
}

// --- The holder, as a release's test asks ---

#[test]
fn a_holder_that_renews_lives_and_one_that_does_not_fails() {
    let stage = Stage::released(shared(), "living");
    let mut pod = stage.pod("a").start();
    pod.wait_leader(SOON);
    as_sidecar(&stage, &["--holder-within=10s"]).assert("holder it", "ok", "a holds it, and lives");
    pod.kill9();
    let began = clock::now();
    let fix = as_sidecar(&stage, &["--holder-within=2s"]).assert(
        "holder it",
        "failed",
        "a holds it, and gave no sign of life",
    );
    assert!(fix.contains("logs"), "{fix}");
    assert!(clock::now() - began >= Duration::from_secs(2));
    // To be the holder is enough where nothing else is asked for.
    assert!(!as_sidecar(&stage, &[]).has("holder it"));
}

/// Runs it while somebody holds the Lease and renews it.
fn renewed_meanwhile(stage: &Stage, holder: &str, run: impl FnOnce() -> Examined + Send) -> Examined {
    std::thread::scope(|scope| {
        let examined = scope.spawn(run);
        while !examined.is_finished() {
            stage.patch_spec(held_by(holder));
            std::thread::sleep(Duration::from_millis(100));
        }
        examined.join().expect("does not panic")
    })
}

#[test]
fn a_holder_that_comes_in_time_is_waited_for() {
    let stage = Stage::new(shared(), "late");
    let waiting = |arguments: &[&str]| as_admin(&stage, arguments);
    waiting(&["--holder-within=500ms"]).assert("holder it", "failed", "there is no such Lease");
    stage.create_released();
    waiting(&["--holder-within=500ms"]).assert("holder it", "failed", "nobody holds it");
    let examined = renewed_meanwhile(&stage, "b_1", || waiting(&["--holder-within=15s"]));
    examined.assert("holder it", "ok", "b holds it, and lives");
}

#[test]
fn the_holders_pod_runs_and_has_the_labels_or_it_is_told_which_not() {
    let stage = Stage::new(shared(), "labels");
    stage.create(json!({"annotations": {TOKEN: "7"}}), held_by("web-0_1"));
    let selected = |selector: &str| as_admin(&stage, &["--holder-selector", selector]);
    selected("app=web").assert("holder it", "failed", "there is no pod of that name");
    stage.create_pod("web-0");
    selected("app=web").assert("holder it", "failed", "its pod is Pending");
    let status = json!({"status": {"phase": "Running"}});
    let path = format!("/api/v1/namespaces/{}/pods/web-0/status", stage.namespace);
    assert_eq!(shared().api("PATCH", &path, Some(&status)).expect("answers").status, 200);
    selected("app=web").assert("holder it", "ok", "web-0 holds it; its pod runs and has the labels");
    selected("app in (web,api),!gone").assert("holder it", "ok", "has the labels");
    selected("app!=web").assert("holder it", "failed", "has not the labels of --holder-selector");
    let both = ["--holder-selector=app=web", "--holder-within=15s"];
    let renewed = renewed_meanwhile(&stage, "web-0_1", || as_admin(&stage, &both));
    renewed.assert("holder it", "ok", "web-0 holds it, and lives; its pod runs");

    let kubeconfig = shared().kubeconfig_for(OTHER, None);
    shared().allow_lease(&stage.namespace, OTHER, LEASE);
    examine(&kubeconfig, &stage.namespace, &["--holder-selector=app=web"]).assert(
        "holder it",
        "failed",
        "allow get on pods",
    );
    stage.patch_spec(held_by("../../secrets"));
    selected("app=web").assert("holder it", "failed", "no name of a pod");
}

// --- The command line ---

#[test]
fn wrong_usage_exits_64_with_a_sentence_for_each_fault() {
    let refused = |arguments: &[&str], text: &str| {
        let ended = ended(command(arguments));
        assert!(
            ended.code == Some(64) && ended.said.is_empty() && ended.complained.contains(text),
            "{text:?}: {ended:?}"
        );
    };
    refused(&[], "give --lease NAME");
    refused(&["--lease=No", "-n=a.b"], "the lease name \"No\"");
    refused(&["--lease=No", "-n=a.b"], "the namespace \"a.b\"");
    refused(&["--lease=a", "--holder-within=5"], "is no duration");
    refused(&["--lease=a", "--holder-selector=a=b=c"], "--holder-selector");
    refused(&["--lease=a", "-o", "yaml"], "yaml");
    refused(&["--lease=a", "--probe-listen=x"], "--probe-listen \"x\" is no address");
}

#[test]
fn a_table_has_a_line_for_each_check_and_obeys_nobody() {
    let stage = Stage::new(shared(), "table");
    stage.create(json!({}), held_by("\u{1b}[31mx"));
    let mut command = command(&["--lease", LEASE, "-n", &stage.namespace]);
    command.arg("--kubeconfig").arg(shared().kubeconfig());
    let table = ended(command);
    assert_eq!(table.code, Some(0), "{table:?}");
    let lines: Vec<&str> = table.said.lines().collect();
    assert!(lines[0].starts_with("skipped  sidecar "), "{}", table.said);
    let about = lines.iter().position(|line| line.starts_with("warning  lease it ")).expect("a line");
    assert!(lines[about].contains(r"\u{1b}[31mx holds it"), "{}", lines[about]);
    assert!(lines[about + 1].starts_with("         -> let one kind of elector contend"), "{}", lines[about + 1]);
    assert!(!table.said.contains('\u{1b}'));
    let checks = as_admin(&stage, &[]).checks();
    let shown = lines.iter().filter(|line| !line.starts_with(' ')).count();
    assert_eq!(shown, checks.len(), "{}", table.said);
    for check in &checks {
        let keys: Vec<&String> = check.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["fix", "message", "name", "status"], "{check}");
    }
}
