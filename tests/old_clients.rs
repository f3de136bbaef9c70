//! Apps that were written for an older sidecar keep their code: what they ask, how they read it and what they make of
//! it is here as its documentation has it, and they follow the leader.
//!
//! nais/elector: the app has `ELECTOR_PATH=localhost:4040`, `ELECTOR_GET_URL=http://localhost:4040/` and
//! `ELECTOR_SSE_URL=http://localhost:4040/sse`; an answer is `{"name": POD, "last_update": TIME}`, which a typed client
//! reads into two fields that must be there; it leads if `name` is its host name. kubernetes/contrib's leader-elector:
//! `{"name": ID}` at `/`, asked every few seconds.

mod support;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::civil::DateTime;
use serde::Deserialize;
use serde_json::{Value, json};

use support::clock::{self, BootTime, wait_until};
use support::control_plane::{ControlPlane, Port, shared, tool_folder};
use support::http::{Answer, Http};
use support::process::Folder;
use support::sidecar::Sidecar;
use support::stage::{DURATION, SOON, Stage, token};

/// As the documented Kotlin client declares it; Jackson reads a time that ends with Z into a `LocalDateTime`.
#[derive(Deserialize)]
struct Elected {
    name: String,
    last_update: String,
}

fn read(text: &str) -> Result<String, String> {
    let elected: Elected = serde_json::from_str(text).map_err(|error| format!("{error} in {text:?}"))?;
    let local = elected.last_update.strip_suffix('Z').filter(|local| local.len() == "2022-10-18T10:59:58".len());
    match local.and_then(|local| local.parse::<DateTime>().ok()) {
        Some(_) => Ok(elected.name),
        None => Err(format!("no LocalDateTime in {text:?}")),
    }
}

/// `GET` of a URL as an app has it in its environment, also without the `http://`.
fn get(url: &str) -> std::io::Result<Answer> {
    let (http, path) = connect(url)?;
    http.with_timeout(SOON)?.get(&path)
}

fn connect(url: &str) -> std::io::Result<(Http, String)> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let port = host.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok()).expect("localhost:PORT");
    let http = Http::connect(([127, 0, 0, 1], port).into())?.with_header("Host", host);
    Ok((http, format!("/{path}")))
}

/// Whether it leads, or what it could not read.
type Belief = Result<bool, String>;

/// What the app beside a sidecar came to believe, and when. Ends when dropped.
struct App {
    beliefs: Arc<Mutex<Vec<(BootTime, Belief)>>>,
    over: Arc<AtomicBool>,
}

impl App {
    /// Polls, as `isLeader()` of the documentation does: any answer but a 200 is a fault, and so is what it cannot read.
    fn polling(pod: &Sidecar) -> Self {
        let elector_get_url = format!("http://localhost:{}/", pod.address().port());
        let hostname = pod.pod().to_owned();
        Self::start(move |believe| {
            // A sidecar that has ended is no answer: the app goes on with what it does without one.
            if let Ok(answer) = get(&elector_get_url) {
                // A shell greps for its host name in the whole of it, headers too.
                let whole = format!("{answer:?}");
                let is_leader = match answer.status {
                    200 => read(&answer.text()).map(|name| name == hostname),
                    _ => Err(whole.clone()),
                };
                believe(match is_leader {
                    Ok(false) if whole.contains(&hostname) => Err(whole),
                    other => other,
                });
            }
            thread::sleep(Duration::from_millis(5));
        })
    }

    /// Listens, and connects again when the stream has ended. An event that it cannot read ends it for ever, and it
    /// believes what it believed.
    fn listening(pod: &Sidecar) -> Self {
        let elector_sse_url = format!("http://localhost:{}/sse", pod.address().port());
        let hostname = pod.pod().to_owned();
        Self::start(move |believe| {
            let stream = connect(&elector_sse_url).and_then(|(http, path)| http.stream(&path));
            if let Ok(mut stream) = stream
                && stream.status == 200
                && stream.header("Content-Type") == Some("text/event-stream")
            {
                while let Ok(Some(event)) = stream.next_event() {
                    assert_eq!((event.event.as_str(), event.id.as_str()), ("", ""), "a message without a name");
                    believe(read(&event.data).map(|name| name == hostname));
                }
            }
            thread::sleep(Duration::from_millis(50));
        })
    }

    fn start(mut ask: impl FnMut(&mut dyn FnMut(Belief)) + Send + 'static) -> Self {
        let app = App { beliefs: Arc::default(), over: Arc::default() };
        let (beliefs, over) = (app.beliefs.clone(), app.over.clone());
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                ask(&mut |belief| {
                    let mut beliefs = beliefs.lock().unwrap_or_else(PoisonError::into_inner);
                    beliefs.push((clock::now(), belief));
                });
            }
        });
        app
    }

    /// When it first came to believe this, after `since`. Panics if it could not read an answer.
    #[track_caller]
    fn first(&self, leads: bool, since: BootTime) -> Option<BootTime> {
        let beliefs = self.beliefs.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, belief) in beliefs.iter() {
            assert!(belief.is_ok(), "the app cannot read this: {belief:?}");
        }
        beliefs.iter().find(|(at, belief)| *at >= since && *belief == Ok(leads)).map(|(at, _)| *at)
    }

    #[track_caller]
    fn wait(&self, leads: bool, since: BootTime) -> BootTime {
        clock::wait_for(&format!("the app to believe {leads}"), SOON, || self.first(leads, since))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_app_of_nais_that_polls_follows_the_leader_and_can_read_every_answer() {
    // The Lease does not exist yet: for a second and a half there is nobody to name.
    let stage = Stage::new(shared(), "nais-polls");
    let first = stage.pod("web-7f8-a").start();
    let app = App::polling(&first);
    app.wait(false, Duration::ZERO);
    app.wait(true, Duration::ZERO);
    let second = stage.pod("web-7f8-b").start();
    let other = App::polling(&second);
    other.wait(false, Duration::ZERO);

    let asked = clock::now();
    first.sigterm();
    let left = app.wait(false, asked);
    let taken = other.wait(true, asked);
    assert!(left < taken, "{left:?} {taken:?}");
    assert_eq!(app.first(true, left), None);
    assert_eq!(other.first(true, Duration::ZERO), Some(taken));
}

#[test]
fn an_app_of_nais_that_listens_follows_the_leader_over_a_step_down_and_a_restarted_sidecar() {
    let stage = Stage::new(shared(), "nais-listens");
    // An app knows one address, also of a sidecar that was restarted.
    let port = Port::reserve();
    let mut first = stage.slow_pod("a").flag("--listen", &port.address().to_string()).start();
    let app = App::listening(&first);
    app.wait(true, Duration::ZERO);
    let second = stage.slow_pod("b").start();
    let other = App::listening(&second);
    other.wait(false, Duration::ZERO);

    let asked = clock::now();
    first.connect().post("/v1/leases/it/stepdown", &json!({})).expect("answers");
    let left = app.wait(false, asked);
    let taken = other.wait(true, asked);
    assert!(left < taken, "{left:?} {taken:?}");

    let restarted = clock::now();
    first.restart();
    app.wait(false, restarted);
    second.sigterm();
    other.wait(false, restarted);
    app.wait(true, restarted);
}

/// The client of contrib's README keeps the whole answer and shows its `name`; an app compares it with the `--id` that
/// it gave the sidecar.
#[test]
fn an_app_of_the_contrib_sidecar_is_told_the_id_of_the_leader_under_the_old_flags() {
    let stage = Stage::released(shared(), "contrib");
    let pod = |name: &str| {
        let old = [("--lease", "--election"), ("--namespace", "--election-namespace"), ("--listen", "--http")];
        let pod = old.iter().fold(stage.pod(name), |pod, (name, old)| pod.renamed(name, old));
        pod.renamed("--lease-duration", "--ttl").argument(&format!("--id=id-of-{name}")).start()
    };
    let master = |pod: &Sidecar| -> Value {
        let answer = get(&format!("localhost:{}", pod.address().port())).expect("answers");
        answer.json()["name"].clone()
    };
    let (first, second) = (pod("a"), pod("b"));
    wait_until("one leader for both", SOON, || master(&first) == master(&second) && master(&first) != "");
    let leader = master(&first);
    let (leads, follows) = if leader == "id-of-a" { (&first, &second) } else { (&second, &first) };
    assert_eq!(leader, format!("id-of-{}", leads.pod()));
    assert_eq!(leads.get("/leader").status, 200);

    leads.connect().post("/v1/leases/it/stepdown", &json!({})).expect("answers");
    wait_until("it not to name itself", SOON, || master(leads) != leader);
    let next = format!("id-of-{}", follows.pod());
    wait_until("the other one to be named", SOON, || master(leads) == next && master(follows) == next);
}

/// As nais/elector creates it: owned by the leader's Pod, no duration, no renewals.
fn lease_of_nais(stage: &Stage) {
    let owner = |kind: &str, version: &str| json!({"apiVersion": version, "kind": kind, "name": "old", "uid": "6f1d7a1e-0000-4000-8000-000000000001"});
    stage.create(
        json!({"ownerReferences": [owner("Pod", "v1"), owner("Deployment", "apps/v1")]}),
        json!({"holderIdentity": "old", "acquireTime": "2026-01-02T03:04:05.000000Z"}),
    );
}

#[test]
fn the_leader_that_nais_elected_is_named_and_respected_until_its_lease_is_deleted() {
    let stage = Stage::new(shared(), "nais-lease");
    lease_of_nais(&stage);
    let pod = stage.pod("web-7f8-a").start();
    let app = App::polling(&pod);
    wait_until("the old leader to be named", SOON, || pod.get("/").json()["name"] == "old");
    let seen = clock::now();
    wait_until("a lease duration to pass", SOON, || clock::now() - seen > DURATION + Duration::from_millis(500));
    assert_eq!(app.first(true, Duration::ZERO), None);
    // As the garbage collector does when the Pod is gone.
    stage.delete();
    app.wait(true, seen);
    assert_eq!(stage.lease().expect("is there")["metadata"].get("ownerReferences"), None);
}

#[test]
fn a_lease_of_nais_that_is_emptied_by_hand_is_taken_and_not_owned_by_the_old_pod_any_more() {
    let stage = Stage::new(shared(), "nais-emptied");
    lease_of_nais(&stage);
    let pod = stage.pod("a").start();
    pod.wait_status("a standby", SOON, |status| status["reason"] == "held_by_other");
    stage.patch_spec(json!({"holderIdentity": ""}));
    pod.wait_leader(SOON);
    // Else the garbage collector would delete the Lease under its new holder.
    let owners = stage.lease().expect("is there")["metadata"]["ownerReferences"].take();
    let kinds: Vec<&Value> = owners.as_array().expect("a list").iter().map(|owner| &owner["kind"]).collect();
    assert_eq!(kinds, ["Deployment"]);
}

#[test]
fn where_owners_are_enforced_an_emptied_lease_of_nais_is_to_be_deleted_and_that_is_said() {
    let control_plane = ControlPlane::start_with(&["--enable-admission-plugins=OwnerReferencesPermissionEnforcement"]);
    let stage = Stage::new(&control_plane, "owners");
    lease_of_nais(&stage);
    let pod = stage.pod("a").start();
    pod.wait_status("a standby", SOON, |status| status["reason"] == "held_by_other");
    stage.patch_spec(json!({"holderIdentity": ""}));
    let refused = pod.wait_status("refused", SOON, |status| status["reason"] == "refused");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.contains("delete the Lease") && !message.contains("kind: Role"), "{message}");
    stage.delete();
    pod.wait_leader(SOON);
}

/// The blocks of a page that are fenced as this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect()
}

#[test]
fn the_migration_page_is_followed_word_by_word_and_its_role_is_enough() {
    let control_plane = shared();
    let namespace = control_plane.namespace("migration");
    let folder = Folder::new("migration");
    let manifests = blocks(include_str!("../README.md"), "yaml");
    let whole = manifests.iter().find(|manifest| manifest.contains("kind: Deployment")).expect("the README has one");
    std::fs::write(folder.join("web.yaml"), whole).expect("writes the manifest");
    let kubeconfig = control_plane.kubeconfig_edited(|config| {
        config["contexts"][0]["context"]["namespace"] = json!(namespace);
    });
    let follow = |commands: &str| {
        let output = Command::new("sh")
            .args(["-euxc", commands])
            .current_dir(folder.path())
            .env("PATH", format!("{}:/usr/bin:/bin", tool_folder(&[]).display()))
            .env("KUBECONFIG", &kubeconfig)
            .env("HOME", folder.path())
            .output()
            .expect("a shell");
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{commands}\n{complaints}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };

    // What was there before: both kinds of lock, and the permissions.
    follow(
        "kubectl create deployment web --image=old --replicas=3
        kubectl create rolebinding elector-web --clusterrole=elector --user=old
        kubectl create -f - <<END
{apiVersion: v1, kind: Endpoints, metadata: {name: web, annotations: {control-plane.alpha.kubernetes.io/leader: old}}}
END
        kubectl create -f - <<END
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: web}, spec: {holderIdentity: old}}
END",
    );
    let page = include_str!("../docs/migration.md");
    let commands = blocks(page, "sh");
    let [stop, remove, grant, start, look] = &commands[..] else { panic!("{commands:?}") };
    follow(stop);
    assert_eq!(follow("kubectl get deployment web -o jsonpath={.spec.replicas}"), "0");
    follow(remove);
    assert_eq!(follow("kubectl get endpoints,leases,rolebindings -o name"), "");
    follow(grant);
    // No controller makes pods of the manifest: this is one of them, under its service account.
    let account = control_plane.kubeconfig_for_service_account(&namespace, "web", None);
    let pod = Sidecar::of("web", &namespace, &account, "web-0").start();
    let leads = pod.wait_leader(SOON);
    assert_eq!(pod.warnings(), Vec::<String>::new());
    follow(start);
    assert_eq!(follow("kubectl get deployment web -o jsonpath={.spec.replicas}"), "3");
    let shown = follow(look);
    assert!(shown.contains("web-0_") && shown.contains(&token(&leads).to_string()), "{shown}");
}
