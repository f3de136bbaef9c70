//! Two candidates of one elector, and all that is recorded of them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::fault::Fault;
use crate::measure::{Belief, Outcome, judge};
use crate::support::clientgo::ClientGo;
use crate::support::clock::{self, BootTime};
use crate::support::control_plane::{ControlPlane, SIDECAR};
use crate::support::http::Http;
use crate::support::proxy::Proxy;
use crate::support::recorder::Recorder;
use crate::support::sidecar::Sidecar;
use crate::support::stage::{LEASE, Stage};

/// The first leads when the fault comes.
pub const LEADER: &str = "a";
pub const STANDBY: &str = "b";
/// For what has no time of its own, on a machine that is at work.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is compared.
pub struct Elector {
    pub name: &'static str,
    /// Flags of tests/clientgo, beside the times; none for leasehold.
    client_go: Option<&'static [&'static str]>,
}

pub const LEASEHOLD: Elector = Elector { name: "leasehold", client_go: None };
/// As controllers commonly have it: a request may take half the renew deadline, and nothing is released.
pub const CLIENT_GO: Elector = Elector { name: "client-go", client_go: Some(&[]) };
/// As its example has it.
pub const CLIENT_GO_RELEASING: Elector =
    Elector { name: "client-go, releasing", client_go: Some(&["-release-on-cancel", "-request-timeout=0s"]) };

#[derive(Clone, Copy)]
pub struct Times {
    /// D, of both.
    pub lease: Duration,
    /// Renew deadline and retry period.
    client_go: [&'static str; 2],
    /// Renew deadline, renew interval and retry period.
    leasehold: [&'static str; 3],
}

impl Times {
    /// Each one's defaults.
    pub const DEFAULT: Times =
        Times { lease: Duration::from_secs(15), client_go: ["10s", "2s"], leasehold: ["12s", "3s", "1s"] };
    /// The same in about a third, as far as whole seconds go.
    pub const SHORT: Times =
        Times { lease: Duration::from_secs(5), client_go: ["3333ms", "667ms"], leasehold: ["4s", "1s", "300ms"] };

    /// So much of a lease duration.
    pub fn part(self, share: f64) -> Duration {
        self.lease.mul_f64(share)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease duration {:?}", self.lease)
    }
}

impl Elector {
    pub fn settings(&self, times: Times) -> String {
        match self.client_go {
            None => {
                let [deadline, interval, retry] = times.leasehold;
                format!("renew deadline {deadline}, renew interval {interval}, retry period {retry}, answer TTL 1s")
            }
            Some(flags) => {
                let [deadline, retry] = times.client_go;
                let request = if flags.is_empty() { "half of that" } else { "unlimited" };
                let releasing = if flags.is_empty() { "off" } else { "on" };
                format!(
                    "renew deadline {deadline}, a request's time {request}, retry period {retry}, ReleaseOnCancel {releasing}"
                )
            }
        }
    }

    fn start(&self, stage: &Stage, times: Times, name: &str, link: Option<&Proxy>) -> Candidate {
        let kubeconfig = stage.control_plane.kubeconfig_for(SIDECAR, link.map(Proxy::address));
        let lease = format!("{}s", times.lease.as_secs());
        match self.client_go {
            None => {
                let [deadline, interval, retry] = times.leasehold;
                let sidecar = Sidecar::of(LEASE, &stage.namespace, &kubeconfig, name)
                    .times(&lease, deadline, interval, retry)
                    .flag("--log-level", "info")
                    .env("POD_UID", &format!("uid-of-{name}"));
                Candidate::Leasehold(sidecar.start())
            }
            Some(more) => {
                let [deadline, retry] = times.client_go;
                let flags = [
                    format!("-lease-duration={lease}"),
                    format!("-renew-deadline={deadline}"),
                    format!("-retry-period={retry}"),
                    "-watch-belief".into(),
                ];
                let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
                Candidate::ClientGo(ClientGo::start(LEASE, &stage.namespace, &kubeconfig, name, &flags))
            }
        }
    }
}

enum Candidate {
    Leasehold(Sidecar),
    ClientGo(ClientGo),
}

impl Candidate {
    fn signal(&self, signal: Signal) {
        match self {
            Candidate::Leasehold(sidecar) => sidecar.signal(signal),
            Candidate::ClientGo(elector) => elector.signal(signal),
        }
    }
}

pub struct Round {
    pub times: Times,
    /// The leader's.
    pub link: Proxy,
    pub ledger: Ledger,
    candidates: Vec<(&'static str, Candidate)>,
    recorder: Recorder,
}

impl Round {
    /// Starts the leader to be.
    pub fn start(control_plane: &ControlPlane, elector: &Elector, times: Times) -> Self {
        let stage = Stage::released(control_plane, "compare");
        let link = Proxy::start(control_plane.address());
        let ledger = Ledger::start(&stage);
        let leader = elector.start(&stage, times, LEADER, Some(&link));
        let mut recorder = Recorder::start([]);
        if let Candidate::Leasehold(sidecar) = &leader {
            recorder.watch(sidecar);
        }
        let mut round = Round { times, link, ledger, candidates: vec![(LEADER, leader)], recorder };
        round.wait_belief(LEADER, Duration::ZERO, PATIENCE);
        let standby = elector.start(&stage, times, STANDBY, None);
        if let Candidate::Leasehold(sidecar) = &standby {
            round.recorder.watch(sidecar);
        }
        round.candidates.push((STANDBY, standby));
        round
    }

    /// Waits until the other stands by and the first has renewed since.
    pub fn ready(&mut self) {
        match self.candidate(STANDBY) {
            Candidate::Leasehold(sidecar) => {
                sidecar.wait_status("a standby", PATIENCE, |status| status["holder"] == LEADER);
            }
            Candidate::ClientGo(elector) => {
                elector.wait_event("new_leader", Duration::ZERO, PATIENCE);
            }
        }
        self.ledger.wait_renewal(LEADER, clock::now(), PATIENCE);
    }

    fn candidate(&self, name: &str) -> &Candidate {
        &self.candidates.iter().find(|(known, _)| *known == name).expect("it was started").1
    }

    pub fn signal(&self, name: &str, signal: Signal) {
        self.candidate(name).signal(signal);
        if signal == Signal::KILL {
            // The pod is gone, and the app with it, as an app of client-go's is.
            self.recorder.app_ended(name);
        }
    }

    /// Waits for another belief of this candidate than it had then.
    pub fn wait_belief(&self, name: &str, since: BootTime, within: Duration) -> BootTime {
        clock::wait_for(&format!("{name} to believe that it leads"), within, || {
            let beliefs = self.beliefs("callbacks");
            let later = beliefs.iter().filter(|belief| belief.who == name && belief.until > since);
            later.map(|belief| belief.from.max(since)).min()
        })
    }

    /// What each candidate told; of client-go's, by its callbacks or by IsLeader.
    fn beliefs(&self, by: &str) -> Vec<Belief> {
        let mut beliefs = Vec::new();
        for promise in self.recorder.promises() {
            let who = if promise.pod == LEADER { LEADER } else { STANDBY };
            beliefs.push(Belief { who, from: promise.from, until: promise.until });
        }
        for (who, candidate) in &self.candidates {
            if let Candidate::ClientGo(elector) = candidate {
                let believed = elector.believed(by).into_iter();
                beliefs.extend(believed.map(|(from, until)| Belief { who, from, until }));
            }
        }
        beliefs
    }

    /// Ends it all, and says what came of it since `began`.
    pub fn outcome(mut self, fault: Fault, began: BootTime) -> Outcome {
        let now = clock::now();
        self.recorder.stop();
        let (told, is_leader) = (self.beliefs("callbacks"), self.beliefs("is_leader"));
        judge(&told, &is_leader, &self.ledger.renewals(), self.times.lease, (began, now), fault.is_hand_off())
    }
}

/// Who renewed the Lease, as its watch tells somebody whom no fault concerns.
pub struct Ledger {
    renewals: Arc<Mutex<Vec<(BootTime, String)>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ledger {
    fn start(stage: &Stage) -> Self {
        let renewals = Arc::<Mutex<Vec<_>>>::default();
        let stopping = Arc::new(AtomicBool::new(false));
        let base = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", stage.namespace);
        let path = format!("{base}?watch=1&fieldSelector=metadata.name%3D{LEASE}");
        let connections = stage.control_plane.connector();
        let (written, stop) = (Arc::clone(&renewals), Arc::clone(&stopping));
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                if let Ok(http) = connections() {
                    follow(http, &path, &written, &stop);
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        Ledger { renewals, stopping, thread: Some(thread) }
    }

    /// When each version was seen, and whom it names.
    pub fn renewals(&self) -> Vec<(BootTime, String)> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn wait_renewal(&self, holder: &str, since: BootTime, within: Duration) -> BootTime {
        clock::wait_for(&format!("a renewal of {holder}"), within, || {
            self.renewals().into_iter().find(|(at, by)| *at >= since && by == holder).map(|(at, _)| at)
        })
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Until the watch breaks, or nothing came for a second and it is to stop.
fn follow(http: Http, path: &str, written: &Mutex<Vec<(BootTime, String)>>, stop: &AtomicBool) {
    let Ok(mut stream) = http.with_timeout(Duration::from_secs(1)).and_then(|http| http.stream(path)) else { return };
    while !stop.load(Ordering::SeqCst) {
        match stream.next_line() {
            Ok(Some(line)) => {
                let at = clock::now();
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                let holder = event["object"]["spec"]["holderIdentity"].as_str().unwrap_or_default();
                // leasehold adds a random part to the pod's name.
                let holder = holder.split('_').next().unwrap_or_default().to_owned();
                written.lock().unwrap_or_else(PoisonError::into_inner).push((at, holder));
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Ok(None) | Err(_) => return,
        }
    }
}
