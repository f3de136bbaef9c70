//! The kernel kills what takes more memory than it may.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cluster::wait_for;
use crate::stage::{Pod, SOON, Stage};
use crate::support::clock;
use crate::support::sidecar::image_environment;
use crate::workload::{Alive, Workload};

/// Eats memory in the cgroup of another process until that is gone: FOLDER PID
///
/// In many small bites, for the kernel kills who has most, of what a process has and by what its `oom_score_adj` says.
const HOGS: &str = r#"
import os, sys, time
folder, victim = sys.argv[1:]
with open(f"/proc/{victim}/oom_score_adj", "w") as file:
    file.write("1000")
for _ in range(20):
    if os.fork() == 0:
        # Only the eaters: with cgroup v2 the kernel kills all of a container at once.
        with open(f"{folder}/cgroup.procs", "w") as file:
            file.write("0")
        eaten = os.urandom(4 << 20)
        while os.path.exists(f"/proc/{victim}"):
            time.sleep(0.01)
        os._exit(0)
    time.sleep(0.05)
while os.path.exists(f"/proc/{victim}"):
    time.sleep(0.01)
"#;

/// The cgroup that counts a process's memory.
fn memory_cgroup(process: rustix::process::Pid) -> PathBuf {
    let path = format!("/proc/{}/cgroup", process.as_raw_nonzero());
    let text = fs::read_to_string(path).expect("the process runs");
    let of = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some(PathBuf::from("/sys/fs/cgroup").join(path)),
            _ if controllers.split(',').any(|name| name == "memory") => {
                Some(PathBuf::from("/sys/fs/cgroup/memory").join(path))
            }
            _ => None,
        }
    };
    let mut found: Vec<_> = text.lines().filter_map(of).filter(|path| path.join("cgroup.procs").exists()).collect();
    // v1 has a line for the controller, before the one of the unified hierarchy.
    found.swap_remove(0)
}

fn wait_oom_killed(stage: &Stage, pod: &str, container: &str) {
    wait_for(&format!("{container} to be killed for its memory"), SOON, || {
        let pod = stage.pod(pod);
        let ended: Vec<Value> =
            ["lastState", "state"].iter().map(|key| pod.container(container)[key].clone()).collect();
        ended.iter().any(|state| state["terminated"]["reason"] == "OOMKilled").then_some(())
    });
}

fn eat(leader: &Pod<'_>) {
    let victim = leader.processes("leasehold")[0];
    let folder = memory_cgroup(victim);
    let mut hogs = Command::new("python3")
        .args(["-c", HOGS, folder.to_str().expect("a path"), &victim.as_raw_nonzero().to_string()])
        .stdin(Stdio::null())
        .spawn()
        .expect("python3 can be started");
    let ended = hogs.wait().expect("it ends");
    assert!(ended.success(), "the sidecar is not the one that was killed: {ended}");
}

#[test]
fn a_sidecar_runs_with_the_environment_that_its_image_names() {
    let stage = Stage::new("image-environment");
    stage.deploy(&Workload::new().alive(Alive::Lock));
    let sidecar = stage.leader().processes("leasehold")[0];
    let environment = fs::read(format!("/proc/{}/environ", sidecar.as_raw_nonzero())).expect("the sidecar runs");
    // glibc writes an end behind each tunable when it has read it.
    let one_a_line = |text: &[u8]| String::from_utf8_lossy(text).replace([':', '\0'], "\n");
    let environment = one_a_line(&environment);
    let wanted: Vec<_> = image_environment().collect();
    assert!(!wanted.is_empty(), "the Dockerfile has no line `ENV NAME=VALUE`");
    for (name, value) in wanted {
        let wanted = one_a_line(format!("{name}={value}\0").as_bytes());
        assert!(environment.contains(&wanted), "{wanted} is not in {environment}");
    }
}

#[test]
fn an_app_that_eats_all_its_memory_loses_the_lease_at_once() {
    let stage = Stage::new("oom-app");
    stage.deploy(&Workload::new().alive(Alive::Lock));
    let leader = stage.leader();
    let at = clock::now();
    let said = Command::new("curl").args(["-s", "-m", "20", &format!("http://{}:8080/eat", leader.ip())]).output();
    assert!(said.is_ok(), "curl runs");
    let next = stage.wait_other_leader(leader.name(), at, SOON);
    wait_oom_killed(&stage, leader.name(), "app");
    stage.report("app told to eat all its memory, to another's yes", next.from - at);
}

#[test]
fn a_sidecar_killed_for_its_memory_comes_back() {
    let stage = Stage::new("oom-sidecar");
    stage.deploy(&Workload::new().alive(Alive::Lock));
    let leader = stage.leader();
    let at = clock::now();
    eat(&leader);
    wait_oom_killed(&stage, leader.name(), "leasehold");
    let next = stage.records.wait_leader(clock::now(), SOON, |_| true);
    stage.report("sidecar killed for its memory: longest without a leader", stage.records.longest_without(at));
    eprintln!("led by {} before, by {} after", leader.name(), next.pod_name());
    assert_eq!(stage.pod(leader.name()).restarts("app"), 0);
}
