//! client-go's own elector as a process (`tests/clientgo`): a rival for the same Lease, or what
//! leasehold is measured beside.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::clock::{self, BootTime};
use super::control_plane::tool_folder;
use super::process::Process;

/// One elector; killed when dropped.
pub struct ClientGo {
    process: Process,
    events: Arc<Mutex<Vec<Value>>>,
}

impl ClientGo {
    /// Campaigns for `lease` as `id`. `flags` as `-lease-duration=15s` or `-release-on-cancel`.
    pub fn start(lease: &str, namespace: &str, kubeconfig: &Path, id: &str, flags: &[&str]) -> Self {
        static FOLDER: LazyLock<std::path::PathBuf> = LazyLock::new(|| tool_folder(&["clientgo"]));
        let mut command = Command::new(FOLDER.join("clientgo"));
        command
            .args(["-lease", lease, "-namespace", namespace, "-id", id])
            .arg("-kubeconfig")
            .arg(kubeconfig)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = Process::start(command).expect("clientgo can be started");
        let stdout = process.streams().stdout.take().expect("asked for as a pipe");
        let events = Arc::<Mutex<Vec<Value>>>::default();
        let written = events.clone();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_default();
                let mut events = written.lock().unwrap_or_else(PoisonError::into_inner);
                events.push(event);
            }
        });
        Self { process, events }
    }

    /// All events so far: see the head of `tests/clientgo/main.go`.
    pub fn events(&self) -> Vec<Value> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.clone()
    }

    /// When an event of this name first came at or after `since`.
    pub fn first(&self, event: &str, since: BootTime) -> Option<BootTime> {
        let events = self.events();
        let mut times = events
            .iter()
            .filter(|line| line["event"] == event)
            .filter_map(|line| Some(Duration::from_nanos(line["boottime_ns"].as_u64()?)));
        times.find(|time| *time >= since)
    }

    /// Waits for [`Self::first`].
    #[track_caller]
    pub fn wait_event(&self, event: &str, since: BootTime, within: Duration) -> BootTime {
        clock::wait_for(&format!("client-go: {event}"), within, || self.first(event, since))
    }

    /// When its callbacks led, from "started" to "stopped"; the last may be open.
    pub fn led(&self) -> Vec<(BootTime, Option<BootTime>)> {
        let mut led: Vec<(BootTime, Option<BootTime>)> = Vec::new();
        for event in self.events() {
            let at = Duration::from_nanos(event["boottime_ns"].as_u64().unwrap_or_default());
            match (event["event"].as_str(), led.last_mut()) {
                (Some("started"), _) => led.push((at, None)),
                (Some("stopped"), Some(last)) => last.1 = Some(at),
                _ => {}
            }
        }
        led
    }

    /// When it believed to lead, with `-watch-belief`: by `callbacks` or by `is_leader`. A belief ends where the process
    /// did not run.
    pub fn believed(&self, by: &str) -> Vec<(BootTime, BootTime)> {
        let mut believed: Vec<(BootTime, BootTime)> = Vec::new();
        for event in self.events() {
            let time = |name: &str| Duration::from_nanos(event[name].as_u64().unwrap_or_default());
            if event["event"] == "believes" && event["by"] == by {
                let (from, until) = (time("from_ns"), time("until_ns"));
                match believed.last_mut() {
                    Some(last) if last.0 == from => last.1 = until,
                    _ => believed.push((from, until)),
                }
            }
        }
        believed
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        self.process.wait(within)
    }
}
