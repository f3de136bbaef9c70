//! How long leadership takes to pass from one pod to another on a real API server, and what a pod weighs.
//!
//! `make bench` runs it on the release build. Times are from the signal (or the start) to the first `GET /leader` of
//! the other pod that says 200, asked each 0.2 ms over one connection. LEASEHOLD_BENCH_N sets the number of rounds.

#[path = "../tests/support/mod.rs"]
mod support;

use std::thread;
use std::time::Duration;

use support::clock::{self, BootTime};
use support::control_plane::{Port, SIDECAR, shared};
use support::http::Http;
use support::sidecar::{Builder, Sidecar, binary};
use support::stage::{LEASE, SOON, Stage};

const PAUSE: Duration = Duration::from_micros(200);

fn main() {
    let rounds = std::env::var("LEASEHOLD_BENCH_N").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    println!("{}, default times (lease duration 15 s)", binary().display());
    weigh();
    report("start to leading, released lease", start(rounds));
    report("one write on a bare connection", write(rounds));
    report("SIGTERM to the other's 200, release", hand_off("release", None, rounds));
    report("  the same with --replicas=2", hand_off("release", Some(2), rounds));
    report("SIGTERM to the other's 200, auto", hand_off("auto", None, rounds));
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

/// When this connection was first told 200.
fn wait_200(http: &mut Http) -> BootTime {
    clock::wait_for("a leader", Duration::from_secs(60), || {
        for _ in 0..1000 {
            if http.get("/leader").is_ok_and(|answer| answer.status == 200) {
                return Some(clock::now());
            }
            thread::sleep(PAUSE);
        }
        None
    })
}

/// The leader's app has just asked, so that a promise is in force when the signal comes.
fn hand_off(on_sigterm: &str, replicas: Option<u32>, rounds: usize) -> Vec<Duration> {
    let stage = Stage::released(shared(), on_sigterm);
    let pod = |name| {
        let pod = pod(&stage, name).flag("--on-sigterm", on_sigterm);
        match replicas {
            Some(replicas) => pod.flag("--replicas", &replicas.to_string()).start(),
            None => pod.start(),
        }
    };
    let mut leader = pod("a");
    leader.wait_leader(SOON);
    let mut standby = pod("b");
    let mut times = Vec::new();
    for _ in 0..rounds {
        let name = leader.pod().to_owned();
        standby.wait_status("a standby", SOON, |status| status["holder"] == name.as_str());
        let mut http = standby.connect();
        assert_eq!(leader.get("/leader").status, 200);
        let asked = clock::now();
        leader.sigterm();
        times.push(wait_200(&mut http) - asked);
        leader.wait(SOON);
        leader.restart();
        std::mem::swap(&mut leader, &mut standby);
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
        times.push(wait_200(&mut http) - began);
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
