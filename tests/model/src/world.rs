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

    /// The app asks, as it does whenever it can: what it is told is a promise (S1).
    fn ask(&mut self, pod: usize) {
        let (at, now, ttl) = (self.world.at, self.boot(pod), self.config(pod).answer_ttl);
        let this = &self.world.pods[pod];
        let Some(process) = this.process.as_ref().filter(|process| !process.paused && this.app != App::Dead) else {
            return;
        };
        let Some(promise) = Promise::of(process.election.status(), now, ttl) else { return };
        let end = self.clock(pod).when(promise.until);
        let limit = process.committed.1 + self.config(pod).renew_deadline;
        let stop_by = process.committed.1 + self.config(pod).hold_time();
        if process.committed.0 != promise.token || promise.valid_until > limit || promise.stop_by > stop_by {
            let committed = process.committed;
            self.fail("S2", || format!("pod {pod} promises by {promise:?}, and {committed:?} is what was committed"));
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
        if end > at
            && let Some(other) = (0..self.world.pods.len()).find(in_force)
        {
            self.fail("S1", || format!("pod {pod} promises, and a promise of pod {other} is in force"));
        }
    }

    // ---- A process ----

    pub fn start(&mut self, pod: usize) {
        let now = self.boot(pod);
        let config = self.config(pod).clone();
        let (ttl, hold_time) = (config.answer_ttl, config.hold_time());
        let broken = self.setup.broken;
        let this = &mut *self.world.pods[pod];
        if std::mem::take(&mut this.replaced) {
            this.state = StateDirectory::default();
            this.app = App::Alive;
        }
        this.lives += 1;
        let identity = format!("pod-{pod}_{}", this.lives);
        let mut election =
            Election::new(Config { identity: identity.clone(), ..config }, this.state.seen.clone(), SEED);
        if !this.state.identities.is_empty() {
            let promised_until =
                if broken == Some(BrokenRule::FormerPromiseForgotten) { Moment::BOOT } else { now + ttl };
            election = election.succeed(this.state.identities.clone(), promised_until);
        }
        #[cfg(debug_assertions)]
        if let Some(rule) = broken {
            election.break_rule(rule);
        }
        #[cfg(not(debug_assertions))]
        assert!(broken.is_none(), "a release build has no rules to break");
        let remembered = !this.state.identities.is_empty() && broken != Some(BrokenRule::FormerEnforcerForgotten);
        let enforced_until = Some(now + hold_time).filter(|_| this.works.is_some() && remembered);
        this.state.identities.push(identity.clone());
        this.process = Some(Process {
            life: this.lives,
            identity,
            election,
            promised_until: Moment::BOOT,
            wake_at: Moment::NEVER,
            paused: false,
            writing: None,
            reading: None,
            listing: None,
            relist_at: None,
            watch: Watch::Off,
            ended: 0,
            token: 0,
            committed: (0, Moment::BOOT),
            shutdown: None,
            release_conflicted: false,
            enforced_until,
            ticks: 0,
        });
        self.list(pod);
        if self.world.pods[pod].app != App::Alive {
            self.input(pod, Input::AppGone { proved: false, why: "not seen".into() });
        }
    }

    /// One call of the real code, what is told to it at once in answer, and the app's next question.
    pub fn input(&mut self, pod: usize, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            next = self.handle(pod, input);
        }
        if self.setup.enforced {
            self.heed_foreign_change(pod);
        }
        self.ask(pod);
    }

    fn handle(&mut self, pod: usize, input: Input) -> Option<Input> {
        let now = self.clock(pod).now(self.world.at);
        let by_request = matches!(input, Input::StepDown { .. });
        let process = self.process(pod)?;
        let before = process.election.status().leading;
        if let Some(leading) = before.filter(|leading| now.boot >= leading.valid_until) {
            process.ended = process.ended.max(leading.token);
        }
        let outputs = process.election.handle(now, input);
        #[cfg(debug_assertions)]
        process.election.reseed(SEED);
        let holder = process.election.seen().record().and_then(Record::holder);
        if process.election.status().leading.is_some() && holder != Some(&process.identity) {
            let holder = holder.map(str::to_owned);
            self.fail("holder rule 6", || format!("pod {pod} leads on, having seen that {holder:?} holds the Lease"));
        }
        let mut next = None;
        for output in outputs {
            match output {
                Output::Remember(seen) => self.world.pods[pod].state.seen = Some(*seen),
                Output::Publish(status) => {
                    self.judge_status(pod, &status, before.map(|leading| leading.token), by_request);
                    self.note_enforcers(pod, before.filter(|_| status.leading.is_none()), status.leading.is_some());
                    next = self.withdrawn(pod, &status);
                }
                Output::Write(write) => self.write(pod, write, now.boot),
                Output::Read { timeout, .. } => {
                    if let Some(process) = self.process(pod) {
                        process.reading = Some(now.boot + timeout);
                    }
                    self.send(pod, What::Get { list: false });
                }
                Output::RestartWatch => self.list(pod),
                Output::WakeAt(moment) => {
                    if let Some(process) = self.process(pod) {
                        process.wake_at = moment;
                    }
                }
                Output::Done => {
                    self.end_process(pod);
                    self.world.pods[pod].replaced = true;
                    return None;
                }
            }
        }
        next
    }

    fn withdrawn(&self, pod: usize, status: &Status) -> Option<Input> {
        let process = self.world.process(pod).filter(|_| status.leading.is_none())?;
        Some(Input::Withdrawn {
            version: status.version,
            promised_until: process.promised_until,
            enforced_until: process.enforced_until.unwrap_or(Moment::BOOT),
        })
    }

    /// As the sidecar looks for who may still work in a term that is over.
    fn note_enforcers(&mut self, pod: usize, ended: Option<Leading>, leads: bool) {
        let works = self.world.pods[pod].works.is_some();
        let now = self.boot(pod);
        let Some(process) = self.process(pod) else { return };
        let until = ended.map(|leading| leading.stop_by).or(process.enforced_until);
        process.enforced_until = until.filter(|until| !leads && works && now < *until);
    }

    /// Holder rule 6: once it is told that the Lease is another's, what is worked on ends with the promise.
    fn heed_foreign_change(&mut self, pod: usize) {
        let clock = self.clock(pod);
        let Some(process) = self.world.process(pod) else { return };
        let seen = process.election.seen();
        let ours = seen.record().and_then(Record::holder).is_some_and(|holder| pod_of(holder) == format!("pod-{pod}"));
        let until = clock.when(process.promised_until);
        if seen.is_known() && !ours && self.world.pods[pod].works.is_some_and(|works| until < works) {
            self.world.pods[pod].works = Some(until).filter(|until| *until > self.world.at);
        }
    }

    /// Who worked has ended, and the sidecar notices.
    pub fn work_ends(&mut self, pod: usize) {
        self.world.pods[pod].works = None;
        self.note_enforcers(pod, None, false);
        let status = self.world.process(pod).map(|process| process.election.status().clone());
        if let Some(input) = status.and_then(|status| self.withdrawn(pod, &status)) {
            self.input(pod, input);
        }
    }

    fn judge_status(&mut self, pod: usize, status: &Status, led: Option<u64>, by_request: bool) {
        self.counts.told(status);
        let now = self.boot(pod);
        let Some(process) = self.process(pod) else { return };
        let token = status.leading.map(|leading| leading.token);
        if let Some(led) = led.filter(|led| token != Some(*led)) {
            process.ended = process.ended.max(led);
            let message = status.message.clone();
            let shutdown = process.shutdown;
            let asked = process.election.seen().record().and_then(Record::step_down).is_some_and(|request| {
                request.token == led && request.to.as_deref() != Some(pod_of(&process.identity))
            });
            if status.reason == Reason::SteppedDown && !by_request && !asked {
                self.fail("step-down", || format!("pod {pod} steps down from term {led}, and nobody asked it to"));
            }
            if status.reason == Reason::ShuttingDown
                && shutdown.is_some_and(|shutdown| !shutdown.app_ended && now < shutdown.leave_at)
            {
                self.fail("wait-for-app", || format!("pod {pod} ends term {led}, and its app lives"));
            }
            if self.setup.outlasts_brief_outages && self.world.outages <= 1 {
                self.fail("L3", || format!("pod {pod} ends term {led} for a brief outage: {message}"));
            }
        } else if let Some(token) = token.filter(|_| status.leading_at(now).is_some())
            && token <= process.ended
        {
            self.fail("S8", || format!("pod {pod} leads again in term {token}, which had ended"));
        }
    }

    fn write(&mut self, pod: usize, write: Write, handed_out: Moment) {
        let Some(process) = self.process(pod) else { return };
        let judged = process.election.seen().record().map(|record| (&record.uid, record.version));
        let right = write.base.as_ref().map(|base| (&base.uid, base.version)) == judged;
        if let Kind::Acquire { token } = write.kind {
            process.token = token;
        }
        let token = process.token;
        process.writing = Some((write.attempt, handed_out + write.timeout));
        let leads = process.election.status().leading.is_some();
        if !right {
            let write = write.clone();
            self.fail("S5", || format!("pod {pod} writes on another version than the newest judged: {write:?}"));
        }
        if write.kind == Kind::Release {
            self.counts.releases.add();
            if self.process(pod).is_some_and(|process| process.release_conflicted) {
                self.counts.released_after_conflict.add();
            }
            let at = self.world.at;
            if leads || self.world.pods[pod].is_in_force(at) {
                self.fail("S7", || format!("pod {pod} releases, and what it promised is in force"));
            }
        }
        let sent = self.world.at;
        let former = self.is_formers_record(pod);
        self.send(pod, What::Put { write: Arc::new(write), token, handed_out, sent, former });
    }

    /// What this pod judged last is an earlier sidecar's of it, under the state directory that it found.
    fn is_formers_record(&self, pod: usize) -> bool {
        let this = &self.world.pods[pod];
        this.process.as_ref().is_some_and(|process| {
            let holder = process.election.seen().record().and_then(Record::holder);
            let known = |holder: &str| this.state.identities.iter().any(|known| known == holder);
            holder.is_some_and(|holder| holder != process.identity && known(holder))
        })
    }

    pub fn tick(&mut self, pod: usize) {
        let now = self.boot(pod);
        if let Some(process) = self.process(pod) {
            process.ticks += 1;
            // A timer goes off once.
            process.wake_at = Moment::NEVER;
        }
        self.input(pod, Input::Tick);
        let busy = |process: &Process| process.ticks > MOST_TICKS && process.wake_at <= now;
        if self.world.process(pod).is_some_and(busy) {
            self.fail("busy", || format!("pod {pod} is called again and again at one instant"));
        }
    }

    pub fn end_process(&mut self, pod: usize) {
        self.world.pods[pod].process = None;
        for awaited in [Awaited::Write, Awaited::Read, Awaited::List] {
            self.forget(pod, awaited);
        }
    }

    /// What must be so when nothing is left to be done at this instant.
    pub fn judge_rest(&mut self) {
        for pod in 0..self.world.pods.len() {
            let now = self.boot(pod);
            let Some(process) = self.world.process(pod).filter(|process| !process.paused) else { continue };
            let Some(shutdown) = process.shutdown else { continue };
            if now >= shutdown.leave_at && process.election.status().leading.is_some() {
                self.fail("grace", || format!("pod {pod} leads on, and its process has to end soon"));
            } else if now >= shutdown.end_by {
                self.fail("in time", || format!("pod {pod} goes on, and its grace is over"));
            }
        }
    }

    // ---- The network ----

    fn send(&mut self, pod: usize, what: What) {
        let Some(process) = self.world.process(pod) else { return };
        let message = Message { pod, life: process.life, late: false, what };
        self.put_under_way(message);
    }

    fn put_under_way(&mut self, message: Message) {
        let order = message.order();
        let place = self.world.under_way.partition_point(|other| other.order() <= order);
        self.world.under_way.insert(place, Hashed::new(message));
    }

    /// Nobody waits for it any more.
    fn forget(&mut self, pod: usize, awaited: Awaited) {
        self.world.under_way.retain(|message| !message.is_for(pod, awaited));
        self.drop_hopeless();
    }

    /// Writes that can never be committed, and that nobody waits for: whether they arrive changes nothing.
    fn drop_hopeless(&mut self) {
        let (object, pods, setup) = (&self.world.server.api.object, &self.world.pods, self.setup);
        self.world.under_way.retain(|message| {
            let What::Put { write, .. } = &message.what else { return true };
            let awaited = pods[message.pod]
                .process
                .as_ref()
                .is_some_and(|process| process.life == message.life && process.is_waiting_for(write.attempt));
            awaited
                || match (&write.base, object) {
                    (Some(base), Some(object)) => {
                        base.uid == object.record.uid && base.version == object.record.version
                    }
                    (Some(_), None) => false,
                    (None, Some(_)) => setup.allows(Fault::Deleted),
                    (None, None) => true,
                }
        });
    }

    /// A request reaches the API server.
    pub fn serve(&mut self, index: usize) {
        let message = self.world.under_way.remove(index);
        let Message { pod, life, .. } = *message;
        match &message.what {
            What::Put { .. } => self.put(&message),
            What::Get { list } => {
                let Some(process) = self.world.process(pod).filter(|process| process.life == life) else { return };
                let sent_at = process.listing.filter(|_| *list).map_or(Moment::BOOT, |listing| listing.sent_at);
                if *list && let Some(process) = self.process(pod) {
                    // The watch goes on from the list's version.
                    process.watch = Watch::On { events: VecDeque::new(), silent: false };
                }
                let version = self.newest();
                self.send(pod, What::Got { list: *list, sent_at, version });
            }
            What::Wrote { .. } | What::Got { .. } => {}
        }
    }

    fn newest(&self) -> Version {
        let (record, version) = self.world.server.api.read();
        (record.map(Arc::new), version)
    }

    fn put(&mut self, message: &Message) {
        let What::Put { write, token, handed_out, sent, former } = &message.what else { return };
        let (pod, life, token, handed_out) = (message.pod, message.life, *token, *handed_out);
        let (at, before) = (self.world.at, self.newest());
        let base = self.world.server.api.object.clone();
        let outcome = match self.world.server.api.put(at, pod, write) {
            Ok(record) => {
                if matches!(write.kind, Kind::Acquire { .. } | Kind::Renew)
                    && let Some(process) = self.process(pod).filter(|process| process.life == life)
                {
                    process.committed = match process.committed {
                        (known, newest) if known == token => (token, newest.max(handed_out)),
                        known => known.max((token, handed_out)),
                    };
                }
                if let (Kind::Acquire { .. }, Some(base)) = (write.kind, base) {
                    self.judge_taking(pod, *sent, *former, &base, &record);
                }
                self.changed(before);
                Outcome::Committed(Box::new(record))
            }
            Err(_) => {
                if let Some(process) = self.process(pod).filter(|process| process.life == life) {
                    process.release_conflicted = write.kind == Kind::Release;
                }
                Outcome::Conflict
            }
        };
        if self.world.process(pod).is_some_and(|process| process.life == life && process.is_waiting_for(write.attempt))
        {
            self.send(pod, What::Wrote { attempt: write.attempt, outcome });
        } else if matches!(outcome, Outcome::Committed(_)) {
            self.counts.landed_late.add();
        }
        self.drop_hopeless();
    }

    /// S3, S4, S9, and who goes first after a step-down.
    fn judge_taking(&mut self, pod: usize, sent: Time, former: bool, base: &crate::api::Object, now: &Record) {
        let config = self.config(pod);
        let taking = Taking {
            at: self.world.at,
            sent,
            pod,
            base,
            now,
            own_duration: config.lease_duration,
            created_wait: config.answer_ttl + DELETION_NOTICE,
            former,
            trusting: config.trust_unheld,
            on_one_machine: false,
        };
        match taking.right() {
            Some(right) => self.counts.taken(right),
            None => self.fail("S3", || format!("pod {pod} took {:?}, to which it had no right", base.record)),
        }
        let token = now.token.value().unwrap_or(0);
        let floor = self.world.highest_token.max(base.record.token.value().unwrap_or(0));
        if token <= floor {
            self.fail("S4", || format!("pod {pod}'s token {token} is not above {floor}"));
        }
        self.world.highest_token = self.world.highest_token.max(token);
        if now.spec.transitions != base.record.spec.transitions + 1 {
            self.fail("S9", || format!("pod {pod} took {:?} and made {:?} of it", base.record.spec, now.spec));
        }
        if let Some((from, to)) = self.world.stepped_down.take()
            && self.world.faults == 1
        {
            match to {
                Some(to) if to != pod => self.fail("L2 named", || format!("pod {to} was named, and pod {pod} leads")),
                None if from == pod => self.fail("L2", || format!("pod {pod} stepped down, and takes the Lease again")),
                _ => {}
            }
        }
    }

    /// The Lease is another than `before`: every watch hears of it.
    fn changed(&mut self, before: Version) {
        let newest = self.newest();
        self.world.server.api.forget_history();
        self.world.server.previous = self.setup.allows(Fault::WatchReplays).then_some(before);
        for pod in 0..self.world.pods.len() {
            let on = |process: &Process| matches!(process.watch, Watch::On { .. });
            if self.world.process(pod).is_some_and(on)
                && let Some(process) = self.process(pod)
                && let Watch::On { events, .. } = &mut process.watch
            {
                events.push_back(newest.clone());
            }
        }
    }

    /// The API server refuses a write, for now.
    pub fn refuse(&mut self, index: usize) {
        let message = self.world.under_way.remove(index);
        if let What::Put { write, .. } = &message.what
            && self.world.process(message.pod).is_some_and(|process| process.is_waiting_for(write.attempt))
        {
            let retry_after = Some(Duration::from_secs(30));
            let outcome = Outcome::Refused { advice: "too many requests".into(), retry_after };
            self.send(message.pod, What::Wrote { attempt: write.attempt, outcome });
        }
    }

    /// An answer reaches its process.
    pub fn deliver(&mut self, index: usize) {
        let message = self.world.under_way.remove(index);
        let pod = message.pod;
        let Some(process) = self.process(pod) else { return };
        match &message.what {
            What::Wrote { attempt, outcome } => {
                process.writing = None;
                if matches!(outcome, Outcome::Conflict) && process.election.status().leading.is_none() {
                    self.counts.conflicts.add();
                }
                self.input(pod, Input::Wrote { attempt: *attempt, outcome: outcome.clone() });
            }
            What::Got { list: false, version: (record, version), .. } => {
                process.reading = None;
                self.input(pod, Input::Read(Some((record.as_deref().cloned(), *version))));
            }
            What::Got { list: true, sent_at, version: (record, version) } => {
                process.listing = None;
                let via = Via::Read { sent_at: *sent_at };
                let record = record.as_deref().cloned();
                self.input(pod, Input::Observed { record, version: *version, via });
            }
            What::Put { .. } | What::Get { .. } => {}
        }
    }

    pub fn give_up(&mut self, pod: usize, awaited: Awaited) {
        let pause = self.config(pod).renew_interval;
        let now = self.boot(pod);
        let Some(process) = self.process(pod) else { return };
        let input = match awaited {
            Awaited::Write => {
                let Some((attempt, _)) = process.writing.take() else { return };
                Input::Wrote { attempt, outcome: Outcome::Unknown }
            }
            Awaited::Read => {
                process.reading = None;
                Input::Read(None)
            }
            Awaited::List => {
                process.listing = None;
                process.watch = Watch::Off;
                process.relist_at = Some(now + pause);
                Input::WatchFailed { advice: "the list was not answered".into() }
            }
        };
        self.forget(pod, awaited);
        self.input(pod, input);
    }

    // ---- Watches ----

    pub fn list(&mut self, pod: usize) {
        let sent_at = self.boot(pod);
        self.forget(pod, Awaited::List);
        let Some(process) = self.process(pod) else { return };
        process.relist_at = None;
        process.watch = Watch::Off;
        process.listing = Some(Listing { sent_at, until: sent_at + ATTEMPT_TIMEOUT });
        self.send(pod, What::Get { list: true });
    }

    pub fn watch_breaks(&mut self, pod: usize) {
        self.list(pod);
        self.input(pod, Input::WatchFailed { advice: "the watch broke".into() });
    }

    pub fn silence(&mut self, pod: usize) {
        if let Some(process) = self.process(pod)
            && let Watch::On { silent, .. } = &mut process.watch
        {
            *silent = true;
        }
    }

    /// It goes on where it was, or says nothing for good.
    pub fn watch_is_well(&mut self, pod: usize, well: bool) {
        if let Some(process) = self.process(pod)
            && let Watch::On { events, silent } = &mut process.watch
        {
            if well {
                *silent = false;
            } else {
                events.clear();
            }
        }
    }

    pub fn replay(&mut self, pod: usize) {
        let Some(previous) = self.world.server.previous.clone() else { return };
        if let Some(process) = self.process(pod)
            && let Watch::On { events, .. } = &mut process.watch
        {
            events.push_back(previous);
        }
    }

    pub fn event(&mut self, pod: usize) {
        if let Some(process) = self.process(pod)
            && let Watch::On { events, .. } = &mut process.watch
            && let Some((record, version)) = events.pop_front()
        {
            let record = record.as_deref().cloned();
            self.input(pod, Input::Observed { record, version, via: Via::Event });
        }
    }

    // ---- What strikes a pod ----

    pub fn pause(&mut self, pod: usize, paused: bool) {
        if let Some(process) = self.process(pod) {
            process.paused = paused;
        }
        self.ask(pod);
    }

    pub fn crash(&mut self, pod: usize, state_lost: bool) {
        self.end_process(pod);
        if state_lost {
            self.world.pods[pod].state = StateDirectory::default();
        }
    }

    pub fn app_is(&mut self, pod: usize, app: App) {
        let this = &mut *self.world.pods[pod];
        this.app = app;
        if app == App::Dead {
            (this.promise, this.works) = (None, None);
        }
        let why = || "it ended".into();
        self.input(
            pod,
            match app {
                App::Alive => Input::AppAlive,
                App::Unwell => Input::AppGone { proved: false, why: why() },
                App::Dead => Input::AppGone { proved: true, why: why() },
            },
        );
    }

    pub fn terminate(&mut self, pod: usize, how: Fault) {
        let now = self.boot(pod);
        let app_ended = how == Fault::TerminatedAppFirst;
        let waits = if how == Fault::TerminatedWaiting { WAITS_FOR_APP } else { Duration::ZERO };
        let leave_at = now + waits;
        let shutdown = Shutdown { app_ended, leave_at, end_by: leave_at + GRACE };
        let this = &mut *self.world.pods[pod];
        if app_ended {
            this.app = App::Dead;
            (this.promise, this.works) = (None, None);
        }
        if let Some(process) = &mut this.process {
            process.shutdown = Some(shutdown);
        }
        self.input(pod, Input::Shutdown(shutdown));
    }

    pub fn step_down(&mut self, pod: usize, to: Option<usize>) {
        self.world.stepped_down = Some((pod, to));
        self.input(pod, Input::StepDown { to: to.map(|to| format!("pod-{to}")) });
    }

    // ---- What is done by hand ----

    pub fn edit(&mut self, edit: &Edit) {
        let (at, before, (named, _)) = (self.world.at, self.newest(), self.world.named());
        let api = &mut self.world.server.api;
        let done = match edit {
            Edit::Label => api.edit(at, |_| {}),
            Edit::Blank => api.edit(at, |record| record.spec.holder = None),
            Edit::Delete => api.delete(at),
            Edit::Holder => api.edit(at, |record| {
                record.spec.holder = Some("somebody".into());
                record.spec.renew_time = Some(some_time(at.0 as i64));
            }),
            Edit::HolderTo(identity) => api.edit(at, |record| record.spec.holder = Some(identity.clone())),
            Edit::RaiseToken => {
                api.edit(at, |record| record.token = Token::Value(record.token.value().unwrap_or(0) + 1000))
            }
            Edit::CutDuration => api.edit(at, |record| record.spec.duration_seconds = Some(1)),
            Edit::AskToStepDown { token, to } => {
                api.edit(at, |record| record.step_down = Some(StepDown { token: *token, to: to.clone() }))
            }
        };
        if !done {
            return;
        }
        self.changed(before);
        self.drop_hopeless();
        // A3: at once. What only asks may be heard of late.
        let only_asks = matches!(edit, Edit::Label | Edit::RaiseToken | Edit::AskToStepDown { .. } | Edit::CutDuration);
        if let Some(pod) = named.filter(|_| !only_asks) {
            while self.world.process(pod).is_some_and(Process::has_event) {
                self.event(pod);
            }
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
