//! How long leadership takes to pass from one pod to another on a real API server, and what a pod weighs.
//!
//! `make bench` runs it on the release build. Times are from the signal (or the start) to the first `GET /leader` of
//! the other pod that says 200, asked each 0.2 ms over one connection. LEASEHOLD_BENCH_N sets the number of rounds.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use support::app::Endpoint;
use support::clock::{self, BootTime};
use support::control_plane::{Port, SIDECAR, shared};
use support::http::{Http, Stream};
use support::process::Process;
use support::sidecar::{Builder, Sidecar, binary};
use support::stage::{LEASE, SOON, Stage};

const PAUSE: Duration = Duration::from_micros(200);

fn main() {
    let rounds = std::env::var("LEASEHOLD_BENCH_N").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    println!("{}, default times (lease duration 15 s)", binary().display());
    weigh();
    report("start to leading, released lease", start(rounds));
    report("one write on a bare connection", write(rounds));
    for replicas in [None, Some(3)] {
        println!("three pods{}:", replicas.map_or(String::new(), |n| format!(" with --replicas={n}")));
        report("app killed to another's 200, lock", app_ends("lock", replicas, rounds));
        report("app killed to another's 200, session", app_ends("session", replicas, rounds));
        report("SIGTERM to another's 200, release", hand_off("release", replicas, rounds));
    }
    for says in ["--events=off", "--events=on", "--role-label"] {
        report(&format!("SIGTERM, release, {says}"), telling(says, rounds));
    }
    report("SIGTERM to another's 200, auto", hand_off("auto", None, rounds));
    report("app unwell to another's 200, 3 x 100 ms", app_ends("health", None, rounds));
    report("SIGKILL to the other's 200", killed(rounds.min(24)));
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1000.0;
    let (n, median, p99, longest) = (times.len(), at(0.5), at(0.99), at(1.0));
    println!("{what:<38} n {n:>3}  p50 {median:>8.1} ms  p99 {p99:>8.1} ms  max {longest:>8.1} ms");
}

fn pod(stage: &Stage, name: &str) -> Builder {
    let kubeconfig = stage.control_plane.kubeconfig_for(SIDECAR, None);
    // Warnings only: a test's debug log costs time.
    Sidecar::of(LEASE, &stage.namespace, &kubeconfig, name).flag("--log-level", "info")
}

/// When one of these connections was first told 200.
fn wait_200(https: &mut [Http]) -> BootTime {
    clock::wait_for("a leader", Duration::from_secs(60), || {
        for _ in 0..1000 {
            for http in &mut *https {
                if http.get("/leader").is_ok_and(|answer| answer.status == 200) {
                    return Some(clock::now());
                }
            }
            thread::sleep(PAUSE);
        }
        None
    })
}

/// The pods of one Lease, all but the leader standing by.
struct Trio {
    pods: Vec<Sidecar>,
}

impl Trio {
    fn start(pods: impl IntoIterator<Item = Builder>) -> Self {
        Trio { pods: pods.into_iter().map(Builder::start).collect() }
    }

    /// Takes the leader out, and gives connections to the others, once all know who it is.
    fn leader(&mut self) -> (Sidecar, Vec<Http>) {
        let leads = |pod: &Sidecar| pod.get("/leader").status == 200;
        let leader = clock::wait_for("a leader", SOON, || self.pods.iter().position(leads));
        let leader = self.pods.remove(leader);
        for pod in &self.pods {
            pod.wait_status("a standby", SOON, |status| {
                status["holder"] == leader.pod() && status["reason"] == "held_by_other"
            });
        }
        (leader, self.pods.iter().map(Sidecar::connect).collect())
    }
}

/// What shows that a pod's app lives, until it is dropped.
enum LivingApp {
    Lock(Process),
    Session(Stream),
    Endpoint(Arc<AtomicBool>),
}

/// The leader's app ends (killed, its connection closed, its endpoint unwell); the next round begins when it lives
/// again.
fn app_ends(evidence: &str, replicas: Option<u32>, rounds: usize) -> Vec<Duration> {
    let stage = Stage::released(shared(), evidence);
    let names = ["a", "b", "c"];
    let endpoints: Vec<Endpoint> = names.iter().map(|_| Endpoint::start()).collect();
    let mut trio = Trio::start(names.iter().zip(&endpoints).map(|(name, endpoint)| {
        let alive = if evidence == "health" { &endpoint.url } else { evidence };
        let pod = pod(&stage, name).flag("--app-alive", alive).flag("--app-health-interval", "100ms");
        match replicas {
            Some(replicas) => pod.flag("--replicas", &replicas.to_string()),
            None => pod,
        }
    }));
    let begin = |pod: &Sidecar| match evidence {
        "lock" => {
            let alive = pod.report_dir().join("alive");
            clock::wait_until("the lock file", SOON, || alive.exists());
            let mut command = Command::new("flock");
            command.args(["--no-fork", "-s"]).arg(alive).args(["sleep", "1000"]);
            LivingApp::Lock(Process::start(command).expect("flock of util-linux"))
        }
        "session" => LivingApp::Session(pod.connect().stream("/v1/session").expect("answers")),
        _ => {
            let number = names.iter().position(|name| *name == pod.pod()).expect("one of them");
            let well = Arc::clone(&endpoints[number].well);
            well.store(true, Ordering::SeqCst);
            LivingApp::Endpoint(well)
        }
    };
    let mut apps: HashMap<String, LivingApp> = trio.pods.iter().map(|pod| (pod.pod().to_owned(), begin(pod))).collect();
    let mut times = Vec::new();
    for _ in 0..rounds {
        let (leader, mut others) = trio.leader();
        let app = apps.remove(leader.pod()).expect("it has an app");
        assert_eq!(leader.get("/leader").status, 200);
        let ended = clock::now();
        match app {
            LivingApp::Lock(app) => app.signal(Signal::KILL),
            LivingApp::Session(app) => drop(app),
            LivingApp::Endpoint(well) => well.store(false, Ordering::SeqCst),
        }
        times.push(wait_200(&mut others) - ended);
        apps.insert(leader.pod().to_owned(), begin(&leader));
        trio.pods.push(leader);
    }
    times
}

fn hand_off(on_sigterm: &str, replicas: Option<u32>, rounds: usize) -> Vec<Duration> {
    let stage = Stage::released(shared(), on_sigterm);
    let trio = Trio::start(["a", "b", "c"].map(|name| {
        let pod = pod(&stage, name).flag("--on-sigterm", on_sigterm);
        match replicas {
            Some(replicas) => pod.flag("--replicas", &replicas.to_string()),
            None => pod,
        }
    }));
    rolled(trio, rounds)
}

/// The same with what the cluster is told, which is to cost no time.
fn telling(says: &str, rounds: usize) -> Vec<Duration> {
    let stage = Stage::released(shared(), "telling");
    let rules = json!([{"apiGroups": [""], "resources": ["events", "pods"], "verbs": ["create", "patch"]}]);
    stage.control_plane.allow(&stage.namespace, SIDECAR, rules);
    let trio = Trio::start(["a", "b", "c"].map(|name| {
        let pod = pod(&stage, name).flag("--on-sigterm", "release").flag("--replicas", "3").argument(says);
        pod.env("POD_UID", &stage.create_pod(name)).env("POD_NAMESPACE", &stage.namespace)
    }));
    rolled(trio, rounds)
}

/// The leader's app has just asked, so that a promise is in force when the signal comes.
fn rolled(mut trio: Trio, rounds: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let (mut leader, mut others) = trio.leader();
        assert_eq!(leader.get("/leader").status, 200);
        let asked = clock::now();
        leader.sigterm();
        times.push(wait_200(&mut others) - asked);
        leader.wait(SOON);
        leader.restart();
        trio.pods.push(leader);
    }
    times
}

/// From the start of the process.
fn start(rounds: usize) -> Vec<Duration> {
    let stage = Stage::released(shared(), "start");
    let mut times = Vec::new();
    for _ in 0..rounds {
        let port = Port::reserve();
        let pod = pod(&stage, "a").flag("--on-sigterm", "release").flag("--listen", &port.address().to_string());
        let began = clock::now();
        let mut pod = pod.start();
        let mut http = loop {
            match Http::connect(port.address()) {
                Ok(http) => break http,
                Err(_) => thread::sleep(PAUSE),
            }
        };
        times.push(wait_200(std::slice::from_mut(&mut http)) - began);
        pod.sigterm();
        pod.wait(SOON);
    }
    times
}

/// What a hand-off needs two of: the floor of this machine and this API server.
fn write(rounds: usize) -> Vec<Duration> {
    let stage = Stage::released(shared(), "floor");
    let mut lease = stage.lease().expect("is there");
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/{LEASE}", stage.namespace);
    let mut http = shared().connect_as(SIDECAR).expect("connects");
    let mut times = Vec::new();
    for round in 0..=rounds {
        lease["spec"]["leaseTransitions"] = round.into();
        let began = clock::now();
        let headers = [("Content-Type", "application/json"), ("Accept", "application/json")];
        let answer = http.request("PUT", &path, &headers, lease.to_string().as_bytes()).expect("answers");
        let took = clock::now() - began;
        assert_eq!(answer.status, 200, "{answer:?}");
        lease = answer.json();
        // The first one shakes hands.
        if round > 0 {
            times.push(took);
        }
    }
    times
}

/// Many pairs at once, for each takes a lease duration.
fn killed(pairs: usize) -> Vec<Duration> {
    let stages: Vec<_> = (0..pairs).map(|_| Stage::released(shared(), "killed")).collect();
    let mut pods: Vec<_> = stages
        .iter()
        .map(|stage| {
            let leader = pod(stage, "a").start();
            leader.wait_leader(SOON);
            let standby = pod(stage, "b").start();
            standby.wait_status("a standby", SOON, |status| status["holder"] == "a");
            (leader, standby)
        })
        .collect();
    thread::scope(|scope| {
        let mut waiting = Vec::new();
        for (number, (leader, standby)) in pods.iter_mut().enumerate() {
            waiting.push(scope.spawn(move || {
                // Spread over a renew interval.
                thread::sleep(Duration::from_secs(3) * number as u32 / pairs as u32);
                let killed = clock::now();
                leader.kill9();
                let mut http = standby.connect();
                clock::wait_for("a leader", Duration::from_secs(60), || {
                    http.get("/leader").is_ok_and(|answer| answer.status == 200).then(|| clock::now() - killed)
                })
            }));
        }
        waiting.into_iter().map(|thread| thread.join().expect("a time")).collect()
    })
}

fn weigh() {
    let stage = Stage::released(shared(), "weight");
    let leader = pod(&stage, "a").start();
    leader.wait_leader(SOON);
    let standby = pod(&stage, "b").start();
    standby.wait_status("a standby", SOON, |status| status["holder"] == "a");
    let renewed = |n: f64| {
        clock::wait_until("renewals", Duration::from_secs(60), || {
            leader.metric("leasehold_renew_duration_seconds_count", &[]) >= n
        });
    };
    renewed(4.0);
    for (role, pod) in [("leader", &leader), ("standby", &standby)] {
        let [rss, anon] = ["VmRSS", "RssAnon"].map(|field| pod.memory_kb(field));
        println!("memory of a {role:<8} VmRSS {rss} kB, RssAnon {anon} kB");
    }
}
