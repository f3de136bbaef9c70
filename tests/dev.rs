//! `leasehold dev`, the README's first command: a leader within seconds, a fail-over when it is killed, and nothing
//! left behind.

mod support;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use support::clock::{wait_for, wait_until};
use support::http::Http;
use support::process::{Folder, Process};

const SOON: Duration = Duration::from_secs(20);

/// The command with its temporary folder and what it printed.
struct Dev {
    process: Process,
    lines: mpsc::Receiver<String>,
    temporary: Folder,
}

fn dev(arguments: &[&str]) -> Dev {
    let temporary = Folder::new("dev");
    let mut command = Command::new(support::sidecar::binary());
    command.arg("dev").args(arguments).env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start(command).expect("dev starts");
    let output = process.streams().stdout.take().expect("a pipe");
    let (tell, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
    });
    Dev { process, lines, temporary }
}

impl Dev {
    /// The next line that holds `what`.
    #[track_caller]
    fn line(&self, what: &str) -> String {
        wait_for(what, SOON, || self.lines.try_recv().ok().filter(|line| line.contains(what)))
    }

    fn leftovers(&self) -> usize {
        std::fs::read_dir(self.temporary.path()).expect("the temporary folder").count()
    }
}

/// A port that is free, and the two after it.
fn three_ports() -> u16 {
    wait_for("three free ports in a row", SOON, || {
        let first = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        (0..3).all(|n| TcpListener::bind(("127.0.0.1", first.checked_add(n).unwrap_or(0))).is_ok()).then_some(first)
    })
}

fn ask(port: u16) -> Option<Value> {
    let answer = Http::connect(SocketAddr::from(([127, 0, 0, 1], port))).ok()?.get("/v1/leader").ok()?;
    Some(answer.json())
}

fn leader(first: u16) -> Option<(u16, Value)> {
    (first..first + 3).find_map(|port| Some((port, ask(port).filter(|answer| answer["leader"] == true)?)))
}

fn pid_in(line: &str) -> Pid {
    let pid = line.split("(pid ").nth(1).and_then(|rest| rest.strip_suffix(')')).expect("a pid").parse();
    Pid::from_raw(pid.expect("a number")).expect("a process id")
}

#[test]
fn a_killed_leader_is_followed_by_another_and_nothing_is_left_behind() {
    let first = three_ports();
    let mut dev = dev(&["--listen", &format!("127.0.0.1:{first}"), "--lease-duration=3s"]);
    let pids: Vec<Pid> = (1..=3).map(|n| pid_in(&dev.line(&format!("dev-{n} answers")))).collect();
    let (port, before) = wait_for("a leader", SOON, || leader(first));
    let victim = pids[usize::from(port - first)];
    kill_process(victim, Signal::KILL).expect("the leader is there");
    dev.line("nobody leads");
    dev.line("answers");
    let (_, after) = wait_for("another leader", SOON, || leader(first));
    assert!(after["fencing_token"].as_u64() > before["fencing_token"].as_u64(), "{before} {after}");
    dev.line("leads under token");

    dev.process.signal(Signal::INT);
    assert!(dev.process.wait(SOON).success());
    for pid in pids {
        wait_until("a sidecar to be gone", SOON, || test_kill_process(pid).is_err());
    }
    assert_eq!(dev.leftovers(), 0);
    assert!((first..first + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()), "a port is still taken");
}

#[test]
fn sidecars_end_when_dev_is_killed() {
    let first = three_ports();
    let mut dev = dev(&["--listen", &format!("127.0.0.1:{first}"), "--replicas=1"]);
    let pid = pid_in(&dev.line("dev-1 answers"));
    kill_process(Pid::from_raw(dev.process.id().cast_signed()).expect("a pid"), Signal::KILL).expect("dev is there");
    dev.process.wait(SOON);
    wait_until("the sidecar to be gone", SOON, || test_kill_process(pid).is_err());
}

#[test]
fn one_replica_always_leads() {
    let first = three_ports();
    let mut dev = dev(&["--listen", &format!("127.0.0.1:{first}"), "--replicas=1"]);
    dev.line("dev-1 leads under token");
    assert_eq!(ask(first).expect("an answer")["leader"], true);
    dev.process.signal(Signal::TERM);
    assert!(dev.process.wait(SOON).success());
    assert_eq!(dev.leftovers(), 0);
}

#[test]
fn a_port_in_use_is_said_and_ends_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut dev = dev(&["--listen", &address, "--replicas=1"]);
    assert_eq!(dev.process.wait(SOON).code(), Some(64));
    let errors = std::io::read_to_string(dev.process.streams().stderr.take().expect("a pipe")).expect("text");
    assert!(errors.contains(&address) && errors.contains("in use"), "{errors}");
    assert_eq!(dev.leftovers(), 0);
}

#[test]
fn the_api_alone_serves_a_kubeconfig_and_leases() {
    let mut dev = dev(&["--api-only"]);
    let address: SocketAddr =
        dev.line("Lease API").rsplit("http://").next().expect("an address").parse().expect("an address");
    let line = dev.line("--kubeconfig");
    let kubeconfig = line.split("--kubeconfig ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a path");
    assert!(std::fs::read_to_string(Path::new(kubeconfig)).expect("a kubeconfig").contains(&address.to_string()));
    let mut http = Http::connect(address).expect("the API answers");
    let list = http.get("/apis/coordination.k8s.io/v1/namespaces/default/leases").expect("a list").json();
    assert_eq!(list["kind"], "LeaseList");
    dev.process.signal(Signal::INT);
    assert!(dev.process.wait(SOON).success());
    assert_eq!(dev.leftovers(), 0);
}
