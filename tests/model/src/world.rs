//! One state, and what an event makes of it: the processes around the real elections, their apps, the API server, and
//! the messages between them.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use leasehold::election::{
    ATTEMPT_TIMEOUT, BrokenRule, Config, Election, Input, Kind, Leading, Outcome, Output, Reason, Record, Seen,
    Shutdown, Status, StepDown, Token, Via, Write, pod_of,
};
use leasehold::report::Promise;
use leasehold::time::Moment;

use crate::api::{Api, By, some_time};
use crate::checks::Taking;
use crate::clock::Clock;
use crate::hashed::Hashed;
use crate::report::Counts;
use crate::setup::{Beginning, Fault, Setup};
use crate::trace::Time;

/// Creating a Lease and taking it are this far apart, beyond the answer TTL (challenger rule 5).
const DELETION_NOTICE: Duration = Duration::from_millis(250);
/// Ticks at one instant beyond which a process is called busy without end.
const MOST_TICKS: u8 = 20;
/// What a process has after SIGTERM, and how much longer an app is waited for.
const GRACE: Duration = Duration::from_secs(2);
const WAITS_FOR_APP: Duration = Duration::from_secs(2);
/// Every draw of a jitter is this seed's first: how often it was drawn before makes no states.
const SEED: u64 = 1;

#[derive(Clone, Debug)]
pub struct World {
    pub at: Time,
    pub server: Hashed<Server>,
    pub pods: Vec<Hashed<Pod>>,
    /// Sorted, for in which order messages were sent says nothing of when they arrive.
    pub under_way: Vec<Hashed<Message>>,
    /// How many happened.
    pub faults: u8,
    pub highest_token: u64,
    /// Who stepped down last, and for whom, until somebody takes the Lease.
    pub stepped_down: Option<(usize, Option<usize>)>,
    /// Requests that failed; an edit of labels and a watch that breaks are none, and every other fault is two.
    pub outages: u8,
    pub violation: Option<(&'static str, String)>,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.at, &self.server, &self.pods, &self.under_way).hash(state);
        (self.faults, self.outages, self.highest_token, self.stepped_down, &self.violation).hash(state);
    }
}

/// By their digests, like everything that compares states here.
impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        (self.at, &self.server, &self.pods, &self.under_way) == (other.at, &other.server, &other.pods, &other.under_way)
            && (self.faults, self.outages, self.highest_token, self.stepped_down, &self.violation)
                == (other.faults, other.outages, other.highest_token, other.stepped_down, &other.violation)
    }
}

#[derive(Clone, Debug, Hash)]
pub struct Server {
    pub api: Api,
    /// The version before the newest, for watches that replay it.
    pub previous: Option<Version>,
}

/// A version of the Lease, or its absence.
pub type Version = (Option<Arc<Record>>, u64);

#[derive(Clone, Debug, Hash)]
pub struct Pod {
    pub process: Option<Process>,
    pub app: App,
    /// Until when its app acts on what it was told.
    pub promise: Option<Time>,
    /// Until when `leasehold exec` works at most, which has begun to.
    pub works: Option<Time>,
    pub state: StateDirectory,
    pub lives: u32,
    /// Its process has ended by itself: another pod takes this one's place when its app has ended as well.
    pub replaced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum App {
    Alive,
    /// It does not count as alive, and acts.
    Unwell,
    Dead,
}

#[derive(Clone, Debug, Default, Hash)]
pub struct StateDirectory {
    seen: Option<Seen>,
    identities: Vec<String>,
}

#[derive(Clone, Debug, Hash)]
pub struct Process {
    pub life: u32,
    pub identity: String,
    pub election: Election,
    /// The end of the last promise that it made.
    promised_until: Moment,
    pub wake_at: Moment,
    pub paused: bool,
    /// The attempt under way, and when it is given up.
    writing: Option<(u64, Moment)>,
    reading: Option<Moment>,
    listing: Option<Listing>,
    relist_at: Option<Moment>,
    pub watch: Watch,
    /// The largest token of a term that ended.
    ended: u64,
    /// Of the newest acquiring write: renewals are of its term.
    token: u64,
    /// The newest term of which a write was committed, and when the newest of those was handed out (S2).
    committed: (u64, Moment),
    shutdown: Option<Shutdown>,
    /// Its newest release met a conflict.
    release_conflicted: bool,
    /// Somebody works in a term that is over, and may until then.
    enforced_until: Option<Moment>,
    /// At this instant.
    ticks: u8,
}

#[derive(Clone, Copy, Debug, Hash)]
pub struct Listing {
    sent_at: Moment,
    until: Moment,
}

#[derive(Clone, Debug, Hash)]
pub enum Watch {
    Off,
    On { events: VecDeque<Version>, silent: bool },
}

/// On its way between a process and the API server.
#[derive(Clone, Debug, Hash)]
pub struct Message {
    pub pod: usize,
    pub life: u32,
    /// It arrives later than the others, or never.
    pub late: bool,
    pub what: What,
}

#[derive(Clone, Debug, Hash)]
pub enum What {
    Put {
        write: Arc<Write>,
        token: u64,
        handed_out: Moment,
        sent: Time,
        /// What it takes, if it takes, is this pod's own, by an earlier sidecar under this state directory.
        former: bool,
    },
    Get {
        list: bool,
    },
    Wrote {
        attempt: u64,
        outcome: Outcome,
    },
    Got {
        list: bool,
        sent_at: Moment,
        version: Version,
    },
}

/// What a process gave up waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    Write,
    Read,
    List,
}

/// Something done to the Lease by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    Label,
    Blank,
    Delete,
    Holder,
    HolderTo(String),
    RaiseToken,
    CutDuration,
    AskToStepDown { token: u64, to: Option<String> },
}

impl Message {
    pub fn is_request(&self) -> bool {
        matches!(self.what, What::Put { .. } | What::Get { .. })
    }

    /// A read, a list, or an answer: nothing without the process that waits for it.
    fn is_for(&self, pod: usize, awaited: Awaited) -> bool {
        self.pod == pod
            && match self.what {
                What::Put { .. } => false,
                What::Wrote { .. } => awaited == Awaited::Write,
                What::Get { list } | What::Got { list, .. } => {
                    awaited == if list { Awaited::List } else { Awaited::Read }
                }
            }
    }

    fn order(&self) -> (usize, u32, u8, u64) {
        let (rank, attempt) = match &self.what {
            What::Put { write, .. } => (0, write.attempt),
            What::Get { list } => (1, u64::from(*list)),
            What::Wrote { attempt, .. } => (2, *attempt),
            What::Got { list, .. } => (3, u64::from(*list)),
        };
        (self.pod, self.life, rank, attempt)
    }
}

impl Pod {
    /// Nobody acts on anything that it told.
    pub fn is_over(&self) -> bool {
        self.promise.is_none() && self.works.is_none()
    }

    /// Somebody acts on what this pod told.
    fn is_in_force(&self, at: Time) -> bool {
        self.promise.max(self.works).is_some_and(|end| end > at)
    }
}

impl Process {
    fn is_waiting_for(&self, attempt: u64) -> bool {
        self.writing.is_some_and(|(id, _)| id == attempt)
    }

    /// Every moment at which something is due by its own clock.
    fn due(&self) -> impl Iterator<Item = Moment> {
        let timeouts = [
            self.writing.map(|(_, until)| until),
            self.reading,
            self.listing.map(|listing| listing.until),
            self.relist_at,
        ];
        timeouts.into_iter().flatten().chain(Some(self.wake_at).filter(|at| *at != Moment::NEVER))
    }

    pub fn is_due(&self, awaited: Awaited, now: Moment) -> bool {
        let until = match awaited {
            Awaited::Write => self.writing.map(|(_, until)| until),
            Awaited::Read => self.reading,
            Awaited::List => self.listing.map(|listing| listing.until),
        };
        until.is_some_and(|until| now >= until)
    }

    pub fn is_to_relist(&self, now: Moment) -> bool {
        self.relist_at.is_some_and(|at| now >= at)
    }

    /// The next event of its watch can come.
    pub fn has_event(&self) -> bool {
        self.listing.is_none() && matches!(&self.watch, Watch::On { events, .. } if !events.is_empty())
    }

    pub fn watch_is_on(&self) -> bool {
        matches!(self.watch, Watch::On { .. }) && self.listing.is_none()
    }

    pub fn watch_is_silent(&self) -> bool {
        matches!(self.watch, Watch::On { silent: true, .. })
    }

    pub fn is_ending(&self) -> bool {
        self.shutdown.is_some()
    }
}

impl World {
    pub fn at_start(setup: &Setup) -> World {
        let pod = Pod {
            process: None,
            app: App::Alive,
            promise: None,
            works: None,
            state: StateDirectory::default(),
            lives: 0,
            replaced: false,
        };
        World {
            at: Time::START,
            server: Hashed::new(Server { api: Api::new(100), previous: None }),
            pods: setup.configs.iter().map(|_| Hashed::new(pod.clone())).collect(),
            under_way: Vec::new(),
            faults: 0,
            highest_token: 0,
            stepped_down: None,
            outages: 0,
            violation: None,
        }
    }

    pub fn process(&self, pod: usize) -> Option<&Process> {
        self.pods[pod].process.as_ref()
    }

    /// When something is next due, in true time.
    pub fn next_moment(&self, setup: &Setup) -> Time {
        let at = self.at;
        let due = self.pods.iter().enumerate().flat_map(|(pod, this)| {
            let clock = setup.clock(pod);
            this.process.iter().flat_map(Process::due).map(move |moment| clock.when(moment))
        });
        // What a process that does not run has missed is no reason to stop at.
        let next = due.filter(|due| *due > at).min().unwrap_or_else(|| at.plus(Duration::from_secs(1)));
        let grid = setup.grid.as_nanos() as u64;
        Time(next.0.div_ceil(grid) * grid)
    }

    /// An app that may act on it was told, or would be, that this pod leads, and the process goes on.
    pub fn leads(&self, setup: &Setup, pod: usize) -> bool {
        let this = &self.pods[pod];
        let now = setup.clock(pod).boot(self.at);
        this.app == App::Alive
            && this
                .process
                .as_ref()
                .is_some_and(|process| !process.paused && process.election.status().leading_at(now).is_some())
    }

    /// The pod that the Lease names, and whether it hears at once of what is done to the Lease (A3).
    pub fn named(&self) -> (Option<usize>, bool) {
        let holder = self.server.api.object.as_ref().and_then(|object| object.record.holder());
        let Some(holder) = holder else { return (None, true) };
        let pod = (0..self.pods.len()).find(|pod| pod_of(holder) == format!("pod-{pod}"));
        let hears = pod.is_none_or(|pod| {
            self.process(pod).is_some_and(|process| {
                !process.paused
                    && process.listing.is_none()
                    && matches!(&process.watch, Watch::On { events, silent: false } if events.is_empty())
            })
        });
        (pod, hears)
    }

    pub fn record_token(&self) -> Option<u64> {
        match self.server.api.object.as_ref()?.record.token {
            Token::Value(token) => Some(token),
            _ => None,
        }
    }
}

/// A state that something happens to.
pub struct Happening<'a> {
    pub setup: &'a Setup,
    pub counts: &'a Counts,
    pub world: World,
}

impl Happening<'_> {
    fn clock(&self, pod: usize) -> Clock {
        self.setup.clock(pod)
    }

    fn boot(&self, pod: usize) -> Moment {
        self.clock(pod).boot(self.world.at)
    }

    fn config(&self, pod: usize) -> &Config {
        &self.setup.configs[pod]
    }

    fn fail(&mut self, invariant: &'static str, what: impl FnOnce() -> String) {
        if self.world.violation.is_none() {
            self.world.violation = Some((invariant, what()));
        }
    }

    fn process(&mut self, pod: usize) -> Option<&mut Process> {
        // Not to be copied for nothing.
        self.world.pods[pod].process.as_ref()?;
        self.world.pods[pod].process.as_mut()
    }

    /// The states that everything begins with, and a first candidate that leads where that is asked for.
    pub fn begin(&mut self) {
        let at = self.world.at;
        if self.setup.beginning == Beginning::Orphaned {
            let seconds = self.setup.configs.iter().map(|config| config.lease_duration.as_secs() as i32).max();
            let spec = leasehold::election::Spec {
                holder: Some("gone".into()),
                duration_seconds: seconds,
                renew_time: Some(some_time(1)),
                transitions: 7,
                ..Default::default()
            };
            self.world.server.api.create(at, By::Hand, spec);
            self.world.server.api.forget_history();
        }
        let first = if self.setup.beginning == Beginning::Led { 1 } else { self.world.pods.len() };
        for pod in 0..first {
            self.start(pod);
        }
        while first < self.world.pods.len() && !self.world.leads(self.setup, 0) && self.world.violation.is_none() {
            self.settle();
            self.advance_to(self.world.next_moment(self.setup));
        }
        for pod in first..self.world.pods.len() {
            self.start(pod);
        }
        if first < self.world.pods.len() {
            self.settle();
        }
    }

    // ---- Time ----

    pub fn advance_to(&mut self, at: Time) {
        self.world.at = at;
        for pod in 0..self.world.pods.len() {
            let over = |end: Option<Time>| end.is_some_and(|end| end <= at);
            if over(self.world.pods[pod].promise) {
                self.world.pods[pod].promise = None;
            }
            if over(self.world.pods[pod].works) {
                self.world.pods[pod].works = None;
            }
            if self.world.pods[pod].process.as_ref().is_some_and(|process| process.ticks > 0)
                && let Some(process) = self.process(pod)
            {
                process.ticks = 0;
            }
            self.ask(pod);
        }
    }

    // ---- Promises ----

    /// The app asks, as it does whenever it can: what it is told is a promise (S1, S2, S6).
    fn ask(&mut self, pod: usize) {
        let (at, now, ttl) = (self.world.at, self.boot(pod), self.config(pod).answer_ttl);
        let this = &self.world.pods[pod];
        let Some(process) = this.process.as_ref().filter(|process| !process.paused && this.app != App::Dead) else {
            return;
        };
        let broken = self.setup.broken;
        let ttl = if broken == Some(BrokenRule::PromiseWithoutTtl) { self.config(pod).renew_deadline } else { ttl };
        let Some(mut promise) = Promise::of(process.election.status(), now, ttl) else { return };
        if broken == Some(BrokenRule::PromisePastDeadline) {
            promise.until = now + ttl;
        }
        let end = self.clock(pod).when(promise.until);
        let limit = process.committed.1 + self.config(pod).renew_deadline;
        let stop_by = process.committed.1 + self.config(pod).hold_time();
        // What the election published, not what the promise made of it.
        let published = process.election.status().leading.map_or(Moment::BOOT, |leading| leading.valid_until);
        if process.committed.0 != promise.token || promise.valid_until > limit || promise.stop_by > stop_by {
            let committed = process.committed;
            self.fail("S2", || format!("pod {pod} promises by {promise:?}, and {committed:?} is what was committed"));
        }
        let deadline = limit.min(published);
        if now >= deadline || promise.until > deadline {
            self.fail("S6", || {
                format!("pod {pod} promises at {now} until {}, and its renew deadline is {deadline}", promise.until)
            });
        }
        let this = &self.world.pods[pod];
        if this.promise.is_none_or(|old| old < end)
            || this.process.as_ref().is_some_and(|process| process.promised_until < promise.until)
        {
            let this = &mut *self.world.pods[pod];
            this.promise = this.promise.max(Some(end));
            if let Some(process) = &mut this.process {
                process.promised_until = process.promised_until.max(promise.until);
            }
        }
        if self.setup.enforced {
            let until = self.clock(pod).when(promise.stop_by);
            if self.world.pods[pod].works.is_none_or(|old| old < until) {
                self.world.pods[pod].works = Some(until);
            }
        }
        let in_force = |other: &usize| *other != pod && self.world.pods[*other].is_in_force(at);
        // Who trusts an unheld Lease does not wait for what was promised under it: its own risk.
        if end > at
            && !self.config(pod).trust_unheld
            && let Some(other) = (0..self.world.pods.len()).find(in_force)
        {
            self.fail("S1", || format!("pod {pod} promises, and a promise of pod {other} is in force"));
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lease = match &self.server.api.object {
            None => "no Lease".into(),
            Some(object) => {
                let record = &object.record;
                let holder = record.holder().unwrap_or(if record.is_proved_release() { "released" } else { "empty" });
                format!("version {} {holder}, token {:?}", record.version, record.token.value().unwrap_or(0))
            }
        };
        write!(f, "{} [{lease}]", self.at)?;
        for (pod, this) in self.pods.iter().enumerate() {
            let promise = this.promise.map_or_else(String::new, |end| format!(", promises until {end}"));
            match &this.process {
                None => write!(f, " pod {pod}: gone{promise}")?,
                Some(process) => {
                    let paused = if process.paused { ", paused" } else { "" };
                    let status = process.election.status();
                    write!(f, " pod {pod}: {}{promise}{paused}", status.reason)?;
                }
            }
        }
        Ok(())
    }
}

mod network;
mod process;
mod strikes;
