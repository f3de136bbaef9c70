//! The world of one schedule: true time, a queue of events, the network between pods and the API server, and what
//! strikes them. Everything is decided by the seed, so that a schedule runs the same again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use leasehold::election::{
    BrokenRule, Config, Input, Kind, Outcome, Output, Reason, Record, Shutdown, Spec, Status, StepDown, Token, Via,
    Write, pod_of,
};
use leasehold::time::{Moment, Now};

use crate::api::{Api, By, Object, some_time};
use crate::app::{App, Exec, ExecState, Run, Worker};
use crate::candidate::{
    Clock, Ending, File, LockThread, Pod, Process, Step, Waiting, Work, Yes, gone, outcome_word, some_wall,
};
use crate::checks::{Checks, Holder, Right, Taking, Violation, hold_time};
use crate::faults::{Beginning, Class, Evidence, Fault, Odds, Plan, Strike, WorkerPlan};
use crate::foreign::{Ask, Foreign, Next, Told};
use crate::queue::Queue;
use crate::rng::Rng;
use crate::trace::{Time, Trace};

/// Creating a Lease and taking it are this far apart, beyond the answer TTL (challenger rule 5).
const DELETION_NOTICE: Duration = Duration::from_millis(250);
/// Inputs at one instant of a process's clock beyond which it is called busy without end.
const MOST_AT_ONE_INSTANT: u32 = 60;
const MOST_EVENTS: u64 = 400_000;

#[derive(Debug)]
enum Event {
    Run {
        pod: usize,
        life: u32,
    },
    Timer {
        pod: usize,
        life: u32,
        timer: u32,
    },
    Arrives {
        pod: usize,
        life: u32,
        id: u64,
        request: Box<Request>,
    },
    Answered {
        pod: usize,
        life: u32,
        id: u64,
        answer: Box<Answer>,
    },
    TimedOut {
        pod: usize,
        life: u32,
        id: u64,
    },
    Watched {
        pod: usize,
        life: u32,
        watch: u32,
        record: Option<Box<Record>>,
        version: u64,
    },
    Bookmark {
        pod: usize,
        life: u32,
    },
    HearsOfRivals {
        pod: usize,
        life: u32,
    },
    Deliver {
        pod: usize,
        life: u32,
        work: Work,
    },
    Ask {
        pod: usize,
    },
    Refresh {
        pod: usize,
        life: u32,
    },
    AppStarts {
        pod: usize,
        emptied: u32,
    },
    AppDies {
        pod: usize,
        run: u32,
    },
    AppGoesOn {
        pod: usize,
        run: u32,
    },
    WorkerStarts {
        pod: usize,
        run: u32,
        plan: WorkerPlan,
    },
    Connects {
        pod: usize,
        worker: u32,
    },
    Disconnected {
        pod: usize,
        worker: u32,
    },
    LockTried {
        pod: usize,
        life: u32,
    },
    LockFree {
        pod: usize,
        life: u32,
    },
    Exec {
        pod: usize,
        run: u32,
        what: ExecEvent,
    },
    ExecStarts {
        pod: usize,
        emptied: u32,
    },
    ExecDies {
        pod: usize,
    },
    Starts {
        pod: usize,
        state: StartState,
    },
    Killed {
        pod: usize,
        life: u32,
    },
    Terminated {
        pod: usize,
    },
    DeletedByHand,
    DeletedUnderABlindHolder {
        pod: usize,
        newcomer: usize,
    },
    /// What `exec` began under an earlier yes is over by now: somebody else has changed the Lease.
    ExecMustHaveEnded {
        pod: usize,
        run: u32,
        until: Moment,
    },
    /// This process should be gone: its shutdown had an end.
    MustBeGone {
        pod: usize,
        life: u32,
    },
    /// Nothing gave a reason to end this term.
    MustStillLead {
        pod: usize,
        life: u32,
        token: u64,
        law: &'static str,
    },
    Strikes(usize),
    Undo(Fault),
    Storm {
        until: Time,
    },
    Cut {
        pod: usize,
        fault: Fault,
    },
    ForeignTick,
    ForeignArrives {
        id: u64,
        ask: Box<Ask>,
    },
    ForeignAnswered {
        id: u64,
        ask: Box<Ask>,
        told: Box<Told>,
    },
    ForeignTimedOut {
        id: u64,
        ask: Box<Ask>,
    },
    OthersWrite,
    Looks,
}

/// What happens to `leasehold exec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExecEvent {
    /// It looks for a yes.
    Looks,
    /// It holds the lease's lock, and reads.
    Reads,
    /// CMD begins, if the yes still stands.
    Begins,
    /// The file was written.
    Hears,
    /// Something is due by its own clock.
    Due,
    /// CMD has ended after SIGTERM.
    CmdEnds,
}

/// What a sidecar that starts finds in its state directory.
#[derive(Clone, Copy, Debug)]
enum StartState {
    Own,
    /// That of another pod of the same boot.
    OtherPods,
    Lost,
}

#[derive(Clone, Debug)]
enum Request {
    Put { write: Box<Write>, sent: Sent },
    Read,
    List,
}

/// What is known of a write when it is sent.
#[derive(Clone, Debug)]
struct Sent {
    at: Time,
    identity: String,
    token: u64,
    handed_out: Moment,
    /// It is written over a record of a former sidecar of this pod, by what the state directory says.
    over_former: bool,
}

#[derive(Clone, Debug)]
enum Answer {
    Put(Outcome),
    Got(Option<Box<Record>>, u64),
    Failed,
}

/// What a schedule gave.
#[derive(Default)]
pub struct Report {
    pub violation: Option<Violation>,
    pub trace: String,
    pub faults: BTreeMap<Fault, u64>,
    pub rights: BTreeMap<Right, u64>,
    pub reasons: HashMap<Reason, u64>,
    pub class: Class,
    pub alone: Option<Fault>,
    pub landed_late: u64,
    pub terms: u64,
    pub promises: u64,
    pub inputs: u64,
    pub virtual_seconds: u64,
    /// With faults over: how long until somebody led.
    pub longest_wait: Duration,
    /// How long nobody led, at most.
    pub leaderless: Duration,
    /// What failed, and may, for an assumption is broken.
    pub excused: BTreeSet<&'static str>,
    /// Releases that named a living pod: taken by it, and by another.
    pub named: (u64, u64),
    /// Runs of CMD under `leasehold exec`.
    pub enforced: u64,
    /// A pod was told to lead while the client-go candidate believed that it led.
    pub foreign_overlaps: u64,
}

/// Somebody else must lead by then, or the same pod in a new term if its app came back.
struct Expected {
    by: Time,
    law: &'static str,
    not: usize,
    not_token: Option<u64>,
    /// A renewal of the dead that lands late starts the time anew (L1).
    after_renewal: Duration,
    /// Who is to lead, and nobody else.
    named: Option<usize>,
}

pub struct World {
    at: Time,
    queue: Queue<Event>,
    rng: Rng,
    /// In one schedule of three the candidates are members of a group, and think of it what they like.
    members: Option<Rng>,
    plan: Plan,
    api: Api,
    pods: Vec<Pod>,
    foreign: Option<Foreign>,
    checks: Checks,
    trace: Trace,
    next_request: u64,
    api_down: Time,
    api_refuses: Time,
    faults: BTreeMap<Fault, u64>,
    reasons: HashMap<Reason, u64>,
    landed_late: u64,
    inputs: u64,
    longest_duration: Duration,
    /// With faults over and this passed, somebody leads for good.
    settled: Time,
    /// What there is from the end of faults to that.
    room: Duration,
    ends: Time,
    settled_leader: Option<(usize, u64)>,
    led_after_faults: Option<Time>,
    /// Somebody led last then.
    led_at: Time,
    leaderless: Duration,
    rolled_out: bool,
    expected: Option<Expected>,
    broken: Option<BrokenRule>,
    /// A3: what is done by hand is heard at once.
    unstoppable: bool,
    spared_until: Time,
    named: (u64, u64),
    enforced: u64,
    foreign_overlaps: bool,
    /// Whose the newest term is, and since when.
    term_began: (usize, Time),
}

/// Runs one schedule: what the plan leaves open, `rng` decides.
pub fn run(plan: Plan, rng: Rng, broken: Option<BrokenRule>, traced: bool) -> Report {
    let mut world = World::new(plan, rng, broken, traced);
    world.go();
    world.report()
}

impl World {
    fn new(plan: Plan, mut rng: Rng, broken: Option<BrokenRule>, traced: bool) -> World {
        let most_parts_per_million = if plan.class == Class::ClockRates { 200_000 } else { 1000 };
        let shared = plan.one_machine.then(|| Clock::new(&mut rng, most_parts_per_million));
        let pods: Vec<Pod> = (0..plan.configs.len())
            .map(|i| {
                let clock = shared.clone().unwrap_or_else(|| Clock::new(&mut rng, most_parts_per_million));
                Pod::new(i, plan.configs[i].clone(), plan.apps[i].clone(), clock)
            })
            .collect();
        let longest =
            plan.configs.iter().chain(&plan.rollout).map(|config| config.lease_duration).max().unwrap_or_default();
        let foreign = plan.foreign.then(|| Foreign::new(plan.configs[0].lease_duration, &mut rng));
        let mut world = World {
            at: Time::START,
            queue: Queue::new(),
            api: Api::new(rng.between(1, 1_000_000)),
            checks: Checks::new(pods.len(), plan.class.excuses()),
            pods,
            foreign,
            trace: Trace::new(traced),
            next_request: 0,
            api_down: Time::START,
            api_refuses: Time::START,
            faults: BTreeMap::new(),
            reasons: HashMap::new(),
            landed_late: 0,
            inputs: 0,
            longest_duration: longest,
            settled: plan.faults_until,
            room: Duration::ZERO,
            ends: plan.faults_until,
            settled_leader: None,
            led_after_faults: None,
            led_at: Time::START,
            leaderless: Duration::ZERO,
            rolled_out: false,
            expected: None,
            broken,
            unstoppable: false,
            spared_until: Time::START,
            named: (0, 0),
            enforced: 0,
            foreign_overlaps: false,
            term_began: (0, Time::START),
            members: Some(rng.fork()).filter(|rng| rng.clone().between(1, 3) == 1),
            rng,
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let at = self.at;
        let plan = self.plan.clone();
        self.trace.note(at, || format!("{plan:#?}"));
        match self.plan.begins {
            Beginning::Absent => {}
            Beginning::Orphaned => {
                let seconds = self.longest_duration.as_secs() as i32;
                let spec = Spec {
                    holder: Some("gone".into()),
                    duration_seconds: Some(seconds),
                    renew_time: Some(some_time(1)),
                    transitions: 7,
                    ..Spec::default()
                };
                self.api.create(at, By::Hand, spec);
            }
            Beginning::Bare => {
                self.api.create(at, By::Hand, Spec::default());
            }
        }
        for pod in 0..self.pods.len() {
            let start = self.rng.millis(0, 500);
            self.after(start, Event::Starts { pod, state: StartState::Own });
            let ask = self.rng.millis(500, 1000);
            self.after(ask, Event::Ask { pod });
            self.connect_workers(pod);
            if self.pods[pod].exec.is_some() {
                let start = self.rng.millis(0, 1000);
                self.after(start, Event::ExecStarts { pod, emptied: 0 });
            }
        }
        for (i, strike) in plan.strikes.iter().enumerate() {
            self.queue_at(strike.at, Event::Strikes(i));
        }
        if self.foreign.is_some() {
            self.after(Duration::from_millis(300), Event::ForeignTick);
        }
        self.after(Duration::from_secs(1), Event::OthersWrite);
        self.after(Duration::from_millis(50), Event::Looks);
        self.set_end();
    }

    /// L4, with what a silent watch, an absent Lease and a failed attempt add.
    fn set_end(&mut self) {
        let largest = |of: fn(&leasehold::election::Config) -> Duration| {
            self.plan.configs.iter().chain(&self.plan.rollout).map(of).max().unwrap_or_default()
        };
        let silence = (largest(|c| c.renew_interval) * 2).max(self.longest_duration / 2);
        let slack = silence + largest(|c| c.answer_ttl) + largest(|c| c.retry_period) * 2 + Duration::from_secs(4);
        let mut room = self.longest_duration + self.longest_duration / 500 + slack;
        if self.plan.class == Class::ClockRates {
            room = room * 5 / 4;
        }
        self.room = room;
        self.settled = match self.plan.class {
            Class::Outages => self.plan.strikes.first().map_or(self.plan.faults_until, |strike| strike.at),
            // Somebody leads by then, and goes on.
            Class::Replays => Time::START.plus(room),
            _ => self.plan.faults_until.plus(room),
        };
        self.ends = self.settled.max(self.plan.faults_until).plus(self.longest_duration * 3 / 2);
    }

    fn go(&mut self) {
        let mut events = 0;
        while let Some((at, event)) = self.queue.pop() {
            if at > self.ends || self.checks.violation.is_some() {
                break;
            }
            events += 1;
            if events > MOST_EVENTS {
                self.checks.fail("endless", self.at, || format!("{MOST_EVENTS} events in one schedule"));
                break;
            }
            self.at = at;
            self.happen(event);
        }
    }

    fn report(mut self) -> Report {
        let at = self.at;
        if let Some(violation) = self.checks.violation.clone() {
            self.trace.note(at, || format!("*** {}: {}", violation.invariant, violation.what));
        }
        Report {
            violation: self.checks.violation.take(),
            trace: self.trace.print(),
            faults: self.faults,
            rights: std::mem::take(&mut self.checks.rights),
            reasons: self.reasons,
            class: self.plan.class,
            alone: self.plan.alone,
            landed_late: self.landed_late,
            terms: self.checks.terms,
            promises: self.checks.promises_made,
            inputs: self.inputs,
            virtual_seconds: self.at.0 / 1_000_000_000,
            leaderless: self.leaderless,
            excused: std::mem::take(&mut self.checks.excused_failures),
            named: self.named,
            enforced: self.enforced,
            foreign_overlaps: u64::from(self.foreign_overlaps),
            longest_wait: self.led_after_faults.map_or(Duration::ZERO, |led| led.since(self.plan.faults_until)),
        }
    }

    // ---- The queue ----

    fn queue_at(&mut self, at: Time, event: Event) {
        self.queue.push(at, event);
    }

    fn after(&mut self, duration: Duration, event: Event) {
        self.queue_at(self.at.plus(duration), event);
    }

    fn faulty(&self) -> bool {
        self.at < self.plan.faults_until
    }

    /// A holder hears of an edit just now: nothing else befalls anybody meanwhile (A3).
    fn is_spared(&self) -> bool {
        self.at < self.spared_until
    }

    fn odds(&self) -> Odds {
        if self.faulty() && !self.is_spared() { self.plan.odds } else { Odds::default() }
    }

    /// In a schedule of one kind of fault, no other.
    fn may_strike(&self, fault: Fault) -> bool {
        self.plan.alone.is_none_or(|alone| alone == fault)
    }

    fn count(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// No fault goes on after this.
    fn until(&self, lasts: Duration) -> Time {
        self.at.plus(lasts).min(self.plan.faults_until)
    }

    fn happen(&mut self, event: Event) {
        if let Some(goes_on) = self.stands_until(&event) {
            self.queue_at(goes_on, event);
            return;
        }
        match event {
            Event::Run { pod, life } => {
                if self.pods[pod].is(life) {
                    self.proceed(pod);
                }
            }
            Event::Timer { pod, life, timer } => {
                if self.process(pod, life).is_some_and(|process| process.timer == timer) {
                    self.take(pod, Input::Tick);
                }
            }
            Event::Arrives { pod, life, id, request } => self.arrives(pod, life, id, *request),
            Event::Answered { pod, life, id, answer } => self.answered(pod, life, id, Some(*answer)),
            Event::TimedOut { pod, life, id } => self.answered(pod, life, id, None),
            Event::Watched { pod, life, watch, record, version } => {
                if self.process(pod, life).is_some_and(|process| process.watch == watch) {
                    let record = record.map(|record| *record);
                    self.take(pod, Input::Observed { record, version, via: Via::Event });
                }
            }
            Event::Bookmark { pod, life } => self.bookmark(pod, life),
            Event::HearsOfRivals { pod, life } => self.hears_of_rivals(pod, life),
            Event::Deliver { pod, life, work } => {
                if self.pods[pod].is(life) {
                    self.deliver(pod, work);
                }
            }
            Event::Ask { pod } => self.app_asks(pod),
            Event::Refresh { pod, life } => self.refresh(pod, life),
            Event::AppStarts { pod, emptied } if emptied == self.pods[pod].emptied => self.app_starts(pod),
            Event::AppDies { pod, run } => {
                if self.pods[pod].app.run == run {
                    self.app_dies(pod, None);
                }
            }
            Event::AppGoesOn { pod, run } => {
                if self.pods[pod].app.run == run {
                    self.app_goes_on(pod);
                }
            }
            Event::WorkerStarts { pod, run, plan } => {
                if self.pods[pod].app.run == run {
                    self.worker_starts(pod, plan);
                }
            }
            Event::Connects { pod, worker } => self.connects(pod, worker),
            Event::Disconnected { pod, worker } => self.disconnected(pod, worker),
            Event::LockTried { pod, life } => self.lock_tried(pod, life),
            Event::LockFree { pod, life } => self.lock_free(pod, life),
            Event::Exec { pod, run, what } => {
                if self.pods[pod].exec.as_ref().is_some_and(|exec| exec.alive && exec.run == run) {
                    self.exec(pod, what);
                }
            }
            Event::ExecStarts { pod, emptied } if emptied == self.pods[pod].emptied => self.exec_starts(pod),
            // Of the pod that was.
            Event::AppStarts { .. } | Event::ExecStarts { .. } => {}
            Event::ExecDies { pod } => {
                self.exec_dies(pod);
                // What ends is not started again.
                if self.pods[pod].process.as_ref().is_none_or(|process| process.shutting_down.is_none()) {
                    let back = self.rng.millis(0, 2000);
                    self.starts_later(pod, back, false);
                }
            }
            Event::MustBeGone { pod, life } => self.must_be_gone(pod, life),
            Event::MustStillLead { pod, life, token, law } => self.must_still_lead(pod, life, token, law),
            Event::Starts { pod, state } => self.starts(pod, state),
            Event::Killed { pod, life } => {
                if self.pods[pod].is(life) {
                    self.ends_process(pod, "killed");
                    self.replace_later(pod);
                }
            }
            Event::Terminated { pod } => {
                self.terminate(pod, strikes::OnSigterm::Auto, Duration::ZERO);
            }
            Event::DeletedByHand => {
                let until = self.at;
                self.hand(Fault::Deleted, until);
            }
            Event::DeletedUnderABlindHolder { pod, newcomer } => self.delete_under_a_blind_holder(pod, newcomer),
            Event::ExecMustHaveEnded { pod, run, until } => self.exec_must_have_ended(pod, run, until),
            Event::Strikes(_) | Event::Cut { .. } if self.is_spared() => self.queue_at(self.spared_until, event),
            Event::Strikes(i) => self.strike(self.plan.strikes[i]),
            Event::Undo(fault) => self.undo(fault),
            Event::Storm { until } => {
                if self.at < until {
                    self.edit("labels", |_| {});
                    self.after(Duration::from_secs(1), Event::Storm { until });
                }
            }
            Event::Cut { pod, fault } => self.cut(pod, fault),
            Event::ForeignTick => self.foreign_tick(),
            Event::ForeignArrives { id, ask } => self.foreign_arrives(id, *ask),
            Event::ForeignAnswered { id, ask, told } => self.foreign_answered(id, &ask, *told),
            Event::ForeignTimedOut { id, ask } => self.foreign_answered(id, &ask, Told::Failed),
            Event::OthersWrite => {
                self.api.revision += self.rng.between(0, 20);
                self.after(Duration::from_secs(1), Event::OthersWrite);
            }
            Event::Looks => self.look(),
        }
    }

    // ---- Laws of liveness ----

    /// Whose app was told to lead, or would be if it did not stand still.
    fn leader(&self) -> Option<(usize, u64)> {
        let leads_while_its_app_stands = || {
            self.pods.iter().filter(|pod| pod.app.stands(self.at)).find_map(|pod| {
                let leading = pod.process.as_ref()?.board.status().leading_at(pod.clock.boot(self.at))?.token;
                Some((pod.index, leading))
            })
        };
        self.checks.anybody_leads(self.at).or_else(leads_while_its_app_stands)
    }

    fn look(&mut self) {
        let leader = self.leader();
        let foreign_leads = self.foreign.as_ref().is_some_and(|foreign| foreign.leading.is_some());
        let led = leader.is_some() || foreign_leads;
        // Its own (docs/peers.md); that no pod took a lease that it held is judged by S3.
        self.foreign_overlaps |= leader.is_some() && foreign_leads;
        if let Some(expected) = &self.expected {
            if leader
                .is_some_and(|(pod, token)| pod != expected.not || expected.not_token.is_some_and(|old| token != old))
            {
                let (not, named) = (expected.not, expected.named);
                self.expected = None;
                if let (Some(named), Some((leader, _))) = (named, leader)
                    && leader != named
                {
                    self.checks.fail("L2 named", self.at, || {
                        format!("pod {not} stepped down for pod {named}, and pod {leader} leads")
                    });
                }
            } else if self.at > expected.by {
                let (law, not) = (expected.law, expected.not);
                self.checks.fail(law, self.at, || format!("nobody took over from pod {not} in time"));
            }
        }
        if !self.faulty() && led && self.led_after_faults.is_none() {
            self.led_after_faults = Some(self.at);
        }
        if led {
            self.led_at = self.at;
        }
        let nobody_for = self.at.since(self.led_at);
        self.leaderless = self.leaderless.max(nobody_for);
        // Where one thing at a time happens, each is got over in the time that is given to all of them together.
        if self.plan.class == Class::Touched && nobody_for > self.room {
            self.checks.fail("L4", self.at, || format!("nobody leads since {} ms", nobody_for.as_millis()));
        }
        if self.at >= self.settled {
            self.look_at_the_settled(leader, led);
        }
        let awaited = self.expected.is_some() || self.at >= self.settled;
        self.after(Duration::from_millis(if awaited { 50 } else { 200 }), Event::Looks);
    }

    fn look_at_the_settled(&mut self, leader: Option<(usize, u64)>, led: bool) {
        if !led {
            let law = if matches!(self.plan.class, Class::Outages | Class::Replays) { "L3" } else { "L4" };
            self.checks.fail(law, self.at, || "faults are over, or too short to matter, and nobody leads".into());
        }
        let late = self.pods.iter().find(|pod| {
            let now = pod.clock.boot(self.at);
            let ending = pod.process.as_ref().and_then(|process| process.shutting_down);
            ending.is_some_and(|ending| now > ending.end_by + Duration::from_secs(1))
        });
        if let Some(pod) = late {
            let index = pod.index;
            self.checks.fail("L4", self.at, || format!("pod {index} was told to end and does not"));
        }
        if self.plan.foreign {
            return;
        }
        match self.settled_leader {
            None => self.settled_leader = leader,
            before if before != leader => self
                .checks
                .fail("L3", self.at, || format!("nothing is wrong, and leadership goes from {before:?} to {leader:?}")),
            _ => {}
        }
    }

    /// In the classes without other faults: somebody else leads soon.
    fn expect(&mut self, law: &'static str, not: usize, not_token: Option<u64>, within: Duration) {
        let by = self.at.plus(within);
        self.expected = Some(Expected { by, law, not, not_token, after_renewal: Duration::ZERO, named: None });
    }

    // ---- Processes ----

    fn process(&mut self, pod: usize, life: u32) -> Option<&mut Process> {
        self.pods[pod].process.as_mut().filter(|process| process.life == life)
    }

    fn starts(&mut self, pod: usize, state: StartState) {
        let seed = self.rng.next();
        let (at, broken) = (self.at, self.broken);
        let this = &mut self.pods[pod];
        if this.process.is_some() || this.dead {
            return;
        }
        if this.disk_full > at {
            // It cannot reset its files, so it does not start.
            let later = this.disk_full;
            self.queue_at(later, Event::Starts { pod, state });
            return;
        }
        if matches!(state, StartState::Lost) {
            this.state = Default::default();
            if let Some(times) = self.plan.rollout.clone().filter(|_| self.rolled_out) {
                this.config = Config { replicas: this.config.replicas, ..times };
            }
        }
        if matches!(state, StartState::OtherPods) {
            let other = (pod + 1) % self.pods.len();
            self.pods[pod].state = self.pods[other].state.clone();
            self.count(Fault::CrashedOtherPodsState);
        }
        let this = &mut self.pods[pod];
        this.start(at, matches!(state, StartState::Own), seed, broken);
        let life = this.lives;
        #[cfg(debug_assertions)]
        if let (Some(rule), Some(process)) = (broken, &mut this.process) {
            process.election.break_rule(rule);
        }
        #[cfg(not(debug_assertions))]
        assert!(broken.is_none(), "a release build has no rules to break");
        self.trace.note(at, || format!("pod {pod} starts sidecar {life}, state {state:?}"));
        let bookmark = self.rng.millis(20_000, 60_000);
        self.after(bookmark, Event::Bookmark { pod, life });
        self.file_written(pod);
        let why = self.pods[pod].process.as_ref().and_then(|process| process.presence.gone().map(str::to_owned));
        if let Some(why) = why {
            self.take(pod, Input::AppGone { proved: false, why });
        }
        self.watch_app(pod, life);
        self.deliver(pod, Work::Relist);
        self.hears_of_rivals(pod, life);
    }

    /// Nothing that membership says may harm: neither a wrong number, nor a successor that is dead or of no group.
    fn hears_of_rivals(&mut self, pod: usize, life: u32) {
        let pods = self.pods.len() as u64;
        let Some(rng) = self.members.as_mut().filter(|_| self.pods[pod].is(life)) else { return };
        let count = rng.between(1, pods * 2) as u32;
        let successor = rng.percent(80).then(|| format!("pod-{}", rng.between(0, pods)));
        let again = rng.millis(100, 5000);
        let own = format!("pod-{pod}");
        // Of several that come while it is stopped it hears the last one.
        if self.pods[pod].process.as_ref().is_some_and(|process| process.paused_until <= self.at) {
            self.take(pod, Input::Rivals { count, successor: successor.filter(|name| *name != own) });
        }
        self.after(again, Event::HearsOfRivals { pod, life });
    }

    fn ends_process(&mut self, pod: usize, why: &str) {
        let at = self.at;
        self.trace.note(at, || format!("pod {pod}'s sidecar ends: {why}"));
        self.process_is_gone(pod);
        self.start_waiting_app(pod);
    }

    /// The pod was deleted: another takes its place when its app has ended too.
    fn replace_later(&mut self, pod: usize) {
        if self.pods[pod].app.alive {
            self.app_dies(pod, None);
        }
        self.exec_dies(pod);
        self.pods[pod].emptied += 1;
        let later = if self.faulty() { self.rng.millis(1, 3000) } else { Duration::from_millis(1) };
        self.starts_later(pod, later, true);
        self.after(later, Event::Starts { pod, state: StartState::Lost });
    }

    /// What stands beside the sidecar, unless the pod is emptied before.
    fn starts_later(&mut self, pod: usize, after: Duration, app: bool) {
        let emptied = self.pods[pod].emptied;
        if app {
            self.after(after, Event::AppStarts { pod, emptied });
        }
        self.after(after, Event::ExecStarts { pod, emptied });
    }

    fn deliver(&mut self, pod: usize, work: Work) {
        if let Some(process) = &mut self.pods[pod].process {
            process.inbox.push_back(work);
            self.proceed(pod);
        }
    }

    /// An input of the election's is next.
    fn take(&mut self, pod: usize, input: Input) {
        self.deliver(pod, Work::Take(Box::new(input)));
    }

    /// Goes on until there is nothing to do, or the process is stopped.
    fn proceed(&mut self, pod: usize) {
        loop {
            let at = self.at;
            let Some(process) = &mut self.pods[pod].process else { return };
            if process.paused_until > at {
                return;
            }
            if process.steps.is_empty() && process.inbox.is_empty() {
                return;
            }
            if !self.unstoppable && self.rng.in_10_000(self.odds().pause) {
                let longest = self.longest_duration * 2;
                let lasts = if self.rng.percent(50) {
                    self.rng.millis(1, 500)
                } else {
                    self.rng.duration(Duration::ZERO, longest)
                };
                self.count(Fault::PausedBetweenSteps);
                self.pause(pod, lasts);
                return;
            }
            let Some(process) = &mut self.pods[pod].process else { return };
            if let Some(step) = process.steps.pop_front() {
                self.step(pod, step);
            } else if let Some(work) = process.inbox.pop_front() {
                self.work(pod, work);
            }
        }
    }

    fn pause(&mut self, pod: usize, lasts: Duration) {
        let until = self.until(lasts);
        let at = self.at;
        let Some(process) = &mut self.pods[pod].process else { return };
        process.paused_until = process.paused_until.max(until);
        if let Some(ending) = &mut process.shutting_down {
            ending.stopped = true;
        }
        let life = process.life;
        self.trace.note(at, || format!("pod {pod} is stopped until {until}"));
        self.queue_at(until, Event::Run { pod, life });
    }

    fn work(&mut self, pod: usize, work: Work) {
        let now = self.pods[pod].clock.now(self.at);
        match work {
            Work::Take(input) => self.handle(pod, *input),
            Work::Answer { worker } => self.push_step(pod, Step::Answer { worker, asked: now.boot }),
            Work::Stream { worker } => self.stream(pod, worker),
            Work::WriteFile => self.push_step(pod, Step::WriteFile),
            Work::RefreshFile => {
                let leads = |process: &Process| process.board.status().leading_at(now.boot).is_some();
                if self.pods[pod].process.as_ref().is_some_and(leads) {
                    self.push_step(pod, Step::WriteFile);
                }
            }
            Work::Lock { held } => self.lock_says(pod, held),
            Work::OpenSession { worker } => self.open_session(pod, worker),
            Work::CloseSession { worker, by_peer } => self.close_session(pod, worker, by_peer),
            Work::LookAtSessions => self.look_at_sessions(pod),
            Work::LookAtExclusive => self.look_at_exclusive(pod),
            Work::LookAtProbe => self.look_at_probe(pod),
            Work::LookAtAsking => self.look_at_asking(pod),
            Work::GoOn => {
                if self.pods[pod].process.as_ref().is_some_and(|process| process.presence.gone().is_none()) {
                    self.handle(pod, Input::AppAlive);
                }
            }
            Work::AwaitEnforcers => self.await_enforcers(pod),
            Work::LetGo => self.let_go(pod),
            Work::StepDown { to } => self.step_down(pod, to),
            Work::AppStopped { token } => self.app_says_stopped(pod, token),
            Work::Relist => self.relist(pod),
        }
    }

    fn push_step(&mut self, pod: usize, step: Step) {
        if let Some(process) = &mut self.pods[pod].process {
            process.steps.push_back(step);
        }
    }

    /// One call of the real code, and what can be judged of it at once.
    fn handle(&mut self, pod: usize, input: Input) {
        let at = self.at;
        let this = &mut self.pods[pod];
        let now = this.clock.now(at);
        let Some(process) = &mut this.process else { return };
        self.inputs += 1;
        if process.instant.0 == now.boot {
            process.instant.1 += 1;
        } else {
            process.instant = (now.boot, 1);
        }
        if process.instant.1 > MOST_AT_ONE_INSTANT {
            self.checks
                .fail("busy", at, || format!("pod {pod} is called again and again at one instant, now with {input:?}"));
        }
        let led = process.election.status().leading;
        // Holder rule 5: passing `valid_until` ends the term, whatever is queued.
        if let Some(leading) = led.filter(|leading| now.boot >= leading.valid_until) {
            self.checks.ends(&process.identity, leading.token);
        }
        if !matches!(input, Input::Tick) {
            self.trace.note(at, || format!("pod {pod} <- {}", came(&input)));
        }
        if let Some(given) = given_by(&input)
            && given.0 >= process.given.0
        {
            process.given = given;
        }
        let outputs = process.election.handle(now, input);
        for output in &outputs {
            match output {
                Output::Write(write) => {
                    // By what it was really given. Where history goes back, what it was given last is the newest.
                    let given = match self.plan.class {
                        Class::RolledBack | Class::StaleReads | Class::LostWrites => {
                            let judged = process.election.seen().record();
                            judged.map(|record| (record.uid.clone(), record.version))
                        }
                        _ => process.given.1.clone().map(|uid| (uid, process.given.0)),
                    };
                    let base = write.base.as_ref().map(|base| (base.uid.clone(), base.version));
                    if base != given {
                        self.checks.fail("S5", at, || {
                            format!("pod {pod} writes on {base:?}, and the newest it was given is {given:?}")
                        });
                    }
                    self.trace
                        .note(at, || format!("pod {pod} -> {:?}, attempt {}, on {base:?}", write.kind, write.attempt));
                }
                Output::Publish(status) => {
                    *self.reasons.entry(status.reason).or_default() += 1;
                    self.landed_late += u64::from(status.message.contains("taken late"));
                    if let Some(leading) = led
                        && status.leading.is_none_or(|now| now.token != leading.token)
                    {
                        self.checks.ends(&process.identity, leading.token);
                    }
                    self.trace.note(at, || told(pod, status));
                }
                Output::WakeAt(_) | Output::Remember(_) => {}
                other => self.trace.note(at, || format!("pod {pod} -> {other:?}")),
            }
        }
        let holder = process.election.seen().record().and_then(Record::holder);
        if process.election.status().leading.is_some() && holder != Some(&process.identity) {
            self.checks.fail("holder rule 6", at, || {
                format!("pod {pod} leads on, having seen that {holder:?} holds the Lease")
            });
        }
        process.steps.extend(outputs.into_iter().map(|output| Step::Do { output: Box::new(output), now: now.boot }));
        let holder = process.election.seen().record().and_then(Record::holder);
        let promised_until = process.board.promised_until();
        let ours = holder.is_some_and(|holder| pod_of(holder) == process.board.pod);
        let running = |exec: &Exec| matches!(exec.state, ExecState::Runs(_)) && exec.foreign != exec.run;
        // One that never led cannot know that the record was this pod's: an app that is not alive is what it tells.
        if process.election.seen().is_known()
            && process.token != 0
            && !ours
            && let Some(exec) = this.exec.as_mut().filter(|exec| running(exec))
        {
            exec.foreign = exec.run;
            self.exec_has_until(pod, promised_until);
        }
    }

    fn step(&mut self, pod: usize, step: Step) {
        let at = self.at;
        let this = &mut self.pods[pod];
        let now = this.clock.now(at).boot;
        let Some(process) = &mut this.process else { return };
        let life = process.life;
        match step {
            Step::Do { output, now: handed_out } => self.carry_out(pod, *output, handed_out),
            Step::WriteFile => self.write_file(pod),
            Step::Settle { version, leads, ended } => {
                if leads {
                    process.enforced_until = None;
                }
                self.settle(pod, version, leads, ended);
            }
            Step::Take(input) => self.handle(pod, *input),
            Step::Unlock => self.unlock(pod),
            Step::Answer { worker, asked } => {
                let answer = process.board.answer(asked);
                process.asked = now;
                let identity = process.identity.clone();
                match answer.promise {
                    Some(promise) => self.tells(pod, worker, &identity, promise, asked),
                    None => self.app_hears_no(pod, life, worker),
                }
                self.asked(pod);
            }
        }
    }

    fn carry_out(&mut self, pod: usize, output: Output, handed_out: Moment) {
        let at = self.at;
        let this = &mut self.pods[pod];
        let Some(process) = &mut this.process else { return };
        let life = process.life;
        match output {
            Output::Remember(seen) => this.state.seen = Some(*seen),
            Output::Publish(status) => self.publish(pod, status),
            Output::Write(write) => {
                // Of the term that it writes for: an attempt to take that came to nothing may have had another since.
                process.token = match (write.kind, &process.election.status().leading) {
                    (Kind::Acquire { token }, _) => token,
                    (_, Some(leading)) => leading.token,
                    (_, None) => process.token,
                };
                let token = process.token;
                if write.kind == Kind::Release {
                    self.judge_release(pod);
                }
                let Some(process) = &self.pods[pod].process else { return };
                let (attempt, timeout) = (write.attempt, write.timeout);
                let is_release = write.kind == Kind::Release;
                let (identity, state) = (process.identity.clone(), &self.pods[pod].state);
                let holder = process.election.seen().record().and_then(Record::holder).unwrap_or_default();
                let over_former = holder != identity
                    && pod_of(holder) == pod_of(&identity)
                    && state.identities.iter().any(|known| known == holder);
                let this = &mut self.pods[pod];
                this.attempted = this.attempted.max((life, attempt));
                if is_release {
                    this.released = Some((life, token));
                }
                let request = Request::Put {
                    write: Box::new(write),
                    sent: Sent { at, identity, token, handed_out, over_former },
                };
                self.request(pod, Waiting::Write { attempt }, request, timeout);
            }
            Output::Read { timeout, .. } => self.request(pod, Waiting::Read, Request::Read, timeout),
            Output::RestartWatch => {
                process.watch_alive = false;
                self.relist(pod);
            }
            Output::WakeAt(moment) => {
                process.timer += 1;
                let timer = process.timer;
                if moment != Moment::NEVER {
                    let when = this.clock.when(moment).max(at);
                    self.queue_at(when, Event::Timer { pod, life, timer });
                }
            }
            Output::Done => {
                self.ends_process(pod, "done");
                self.replace_later(pod);
            }
        }
    }

    fn publish(&mut self, pod: usize, status: Status) {
        let at = self.at;
        let slow = self.rng.in_10_000(self.odds().file_slow);
        let this = &mut self.pods[pod];
        let Now { boot, wall } = this.clock.now(at);
        let config = this.config.clone();
        let Some(process) = &mut this.process else { return };
        let (identity, version) = (process.identity.clone(), status.version);
        let before = process.board.status();
        let leading = status.leading;
        process.board.publish(status, wall);
        let ended = before.leading.filter(|_| leading.is_none()).map(|leading| leading.stop_by);
        process.steps.push_front(Step::Settle { version, leads: leading.is_some(), ended });
        if self.broken == Some(BrokenRule::ToldBeforeTheFile) {
            process.inbox.push_front(Work::WriteFile);
        } else {
            process.steps.push_front(Step::WriteFile);
        }
        if before.version != version {
            process.inbox.extend(process.open.keys().map(|worker| Work::Stream { worker: *worker }));
        }
        if slow && !self.unstoppable {
            self.count(Fault::FileWriteSlow);
            let lasts = self.rng.millis(1, 200);
            self.pause(pod, lasts);
        }
        if let Some(leading) = leading {
            self.refresh_later(pod);
            self.judge_claim(pod, &identity, leading.token, leading.valid_until);
            self.checks.claimed(
                at,
                &identity,
                leading.token,
                leading.stop_by,
                hold_time(config.lease_duration),
                "stop_by",
            );
            // Stopped before it could say so, it may come too late to lead at all (S6).
            if boot < leading.valid_until {
                self.checks.leads(at, &identity, leading.token);
            }
        }
    }

    fn judge_claim(&mut self, pod: usize, identity: &str, token: u64, valid_until: Moment) {
        let deadline = self.pods[pod].config.renew_deadline;
        self.checks.claimed(self.at, identity, token, valid_until, deadline, "valid_until");
    }

    /// S7.
    fn judge_release(&mut self, pod: usize) {
        let at = self.at;
        if let Some((holder, end)) = self.checks.in_force(at, pod) {
            self.checks.fail("S7", at, || {
                format!("pod {pod} releases while {holder:?} holds a promise for {} ms more", end.since(at).as_millis())
            });
        }
        let Some(process) = &self.pods[pod].process else { return };
        if process.board.leading().is_some() {
            self.checks.fail("S7", at, || format!("pod {pod} releases and has not published not-leader"));
        }
    }

    // ---- The network ----

    fn request(&mut self, pod: usize, waiting: Waiting, request: Request, timeout: Duration) {
        self.next_request += 1;
        let id = self.next_request;
        let at = self.at;
        let this = &mut self.pods[pod];
        let up_blocked = this.up_blocked;
        let now = this.clock.boot(at);
        let gives_up = this.clock.when(now + timeout);
        let Some(process) = &mut this.process else { return };
        let life = process.life;
        process.waiting.insert(id, waiting);
        self.queue_at(gives_up, Event::TimedOut { pod, life, id });
        if matches!(request, Request::Put { .. })
            && self.rng.in_10_000(self.odds().request / 50)
            && self.may_strike(Fault::WriteMinutesLate)
        {
            // The schedule goes on until then: whoever leads by then has written since.
            let arrives = at.plus(self.rng.millis(60_000, 180_000));
            self.ends = self.ends.max(arrives.plus(Duration::from_secs(2)));
            self.queue_at(arrives, Event::Arrives { pod, life, id, request: Box::new(request) });
            return;
        }
        if let Some(arrives) = self.hop(up_blocked, self.odds().request, Fault::RequestLost, Fault::RequestLate) {
            self.queue_at(arrives, Event::Arrives { pod, life, id, request: Box::new(request) });
        }
    }

    /// When something sent now arrives, if it does: what was under way into a partition may come out of it.
    fn hop(&mut self, blocked: Time, odds: u32, lost: Fault, late: Fault) -> Option<Time> {
        let latency = self.rng.duration(Duration::from_micros(300), Duration::from_millis(10));
        let mut leaves = self.at;
        if blocked > self.at {
            if self.rng.percent(50) {
                return None;
            }
            leaves = blocked;
        } else if self.rng.in_10_000(odds) && (self.may_strike(lost) || self.may_strike(late)) {
            let loses = self.rng.percent(40);
            if self.plan.alone.map_or(loses, |alone| alone == lost) {
                self.count(lost);
                return None;
            }
            let longest = self.longest_duration * self.rng.pick(&[1, 1, 2, 8]);
            let delay = if self.rng.percent(50) {
                self.rng.millis(20, 2500)
            } else {
                self.rng.duration(Duration::ZERO, longest)
            };
            leaves = self.at.plus(delay);
            if leaves > self.plan.faults_until {
                self.count(lost);
                return None;
            }
            self.count(late);
        }
        Some(leaves.plus(latency))
    }

    fn arrives(&mut self, pod: usize, life: u32, id: u64, request: Request) {
        let odds = self.odds();
        let refuses = self.may_strike(Fault::Refused) || self.may_strike(Fault::RefusedForNow);
        let answer = if self.api_refuses > self.at || self.rng.in_10_000(odds.refused / 2) && refuses {
            self.refusal(&request)
        } else if self.api_down > self.at || self.rng.in_10_000(odds.refused / 4) && self.may_strike(Fault::ServerError)
        {
            self.count(Fault::ServerError);
            failed(&request)
        } else {
            let answer = self.serve(pod, life, request.clone());
            if self.rng.in_10_000(odds.refused / 4) && self.may_strike(Fault::ErrorAfterCommit) {
                self.count(Fault::ErrorAfterCommit);
                failed(&request)
            } else {
                answer
            }
        };
        let down_blocked = self.pods[pod].down_blocked;
        if let Some(arrives) = self.hop(down_blocked, odds.answer, Fault::AnswerLost, Fault::AnswerLate) {
            if matches!(request, Request::List)
                && matches!(answer, Answer::Got(..))
                && let Some(process) = self.process(pod, life)
                && process
                    .waiting
                    .get(&id)
                    .is_some_and(|waiting| matches!(waiting, Waiting::List { watch, .. } if *watch == process.watch))
            {
                // The watch goes on from the list's version.
                process.watch_alive = true;
                process.watch_clear_at = arrives;
            }
            self.queue_at(arrives, Event::Answered { pod, life, id, answer: Box::new(answer) });
        }
    }

    fn refusal(&mut self, request: &Request) -> Answer {
        if !matches!(request, Request::Put { .. }) {
            return Answer::Failed;
        }
        let for_now = match (self.rng.percent(50), self.plan.alone) {
            (_, Some(Fault::Refused)) => false,
            (_, Some(Fault::RefusedForNow)) => true,
            (drawn, _) => drawn,
        };
        let retry_after = for_now.then(|| Duration::from_secs(self.rng.between(1, 30)));
        self.count(if retry_after.is_some() { Fault::RefusedForNow } else { Fault::Refused });
        Answer::Put(Outcome::Refused { advice: "the API server refuses".into(), retry_after })
    }

    fn serve(&mut self, pod: usize, life: u32, request: Request) -> Answer {
        let Request::Put { mut write, sent } = request else {
            let (record, version) = self.reads();
            return Answer::Got(record.map(Box::new), version);
        };
        let minutes_late = self.at.since(sent.at) >= Duration::from_secs(60);
        if minutes_late {
            self.count(Fault::WriteMinutesLate);
        }
        if write.kind != Kind::Release && self.pods[pod].released == Some((life, sent.token)) {
            self.count(Fault::ArrivedAfterRelease);
        }
        // Not in a race of two.
        let late = self.at.since(sent.at) >= Duration::from_secs(1);
        if self.term_began.0 != pod && self.term_began.1 > sent.at && late {
            self.count(Fault::ArrivedAfterSuccessor);
        }
        let base = self.api.object.clone();
        if self.broken == Some(BrokenRule::UidNotSent) {
            self.api.fill_in_uid(&mut write);
        }
        match self.api.put(self.at, pod, &write) {
            Ok(record) => {
                let at = self.at;
                if self.rng.in_10_000(self.odds().write_lost) && self.api.lose_newest(base.clone()) {
                    self.count(Fault::WriteLost);
                    self.trace.note(at, || format!("API: pod {pod}'s {:?} is acknowledged, and lost", write.kind));
                    return Answer::Put(Outcome::Committed(Box::new(record)));
                }
                self.trace.note(at, || {
                    format!(
                        "API: pod {pod}'s {:?} ({}.{}, attempt {}) is version {}",
                        write.kind, sent.identity, life, write.attempt, record.version
                    )
                });
                if self.pods[pod].attempted.0 == life && self.pods[pod].attempted.1 > write.attempt {
                    self.count(Fault::LandedAfterNextAttempt);
                }
                if matches!(write.kind, Kind::Acquire { .. }) {
                    self.term_began = (pod, at);
                }
                if minutes_late && !self.faulty() {
                    // A renewal of the time of faults: L4 counts from it.
                    self.settled = self.settled.max(at.plus(self.room));
                    self.ends = self.ends.max(self.settled.plus(self.room));
                }
                if matches!(write.kind, Kind::Acquire { .. } | Kind::Renew) {
                    self.checks.wrote(&sent.identity, sent.token, sent.handed_out);
                    if let Some(expected) = self.expected.as_mut().filter(|expected| expected.not == pod) {
                        expected.by = expected.by.max(at.plus(expected.after_renewal));
                    }
                }
                match (write.kind, base) {
                    (Kind::Acquire { .. }, Some(base)) => self.judge_taking(pod, &sent, &base, &record),
                    (Kind::Acquire { .. }, None) => self.checks.took_nothing(at, pod),
                    _ => {}
                }
                self.broadcast();
                Answer::Put(Outcome::Committed(Box::new(record)))
            }
            Err(_) => Answer::Put(Outcome::Conflict),
        }
    }

    /// What a consistent read shows; where A2 is broken, perhaps an older version.
    fn reads(&mut self) -> (Option<Record>, u64) {
        if self.rng.in_10_000(self.odds().read_stale) && !self.api.history.is_empty() {
            self.count(Fault::ReadStale);
            let (version, record) = self.rng_history();
            return (record, version);
        }
        self.api.read()
    }

    fn judge_taking(&mut self, pod: usize, sent: &Sent, base: &Object, now: &Record) {
        self.count_named(pod, base);
        let this = &self.pods[pod];
        self.checks.acquired(Taking {
            at: self.at,
            sent: sent.at,
            pod,
            base,
            now,
            own_duration: this.config.lease_duration,
            created_wait: this.config.answer_ttl + DELETION_NOTICE,
            former: sent.over_former && self.checks.is_of_newest_term(&base.record),
            trusting: this.config.trust_unheld,
            on_one_machine: self.plan.one_machine,
        });
    }

    fn answered(&mut self, pod: usize, life: u32, id: u64, answer: Option<Answer>) {
        let Some(process) = self.process(pod, life) else { return };
        let Some(waiting) = process.waiting.remove(&id) else { return };
        match (waiting, answer) {
            (Waiting::Write { attempt }, answer) => {
                let outcome = match answer {
                    Some(Answer::Put(outcome)) => outcome,
                    _ => Outcome::Unknown,
                };
                self.take(pod, Input::Wrote { attempt, outcome });
            }
            (Waiting::Read, Some(Answer::Got(record, version))) => {
                process.last_read_worked = true;
                self.take(pod, Input::Read(Some((record.map(|record| *record), version))));
            }
            (Waiting::Read, _) => {
                process.last_read_worked = false;
                self.take(pod, Input::Read(None));
            }
            (Waiting::List { sent_at, .. }, Some(Answer::Got(record, version))) => {
                process.blind = false;
                let record = record.map(|record| *record);
                self.take(pod, Input::Observed { record, version, via: Via::Read { sent_at } });
            }
            (Waiting::List { watch, .. }, _) => {
                if process.watch == watch {
                    self.watch_breaks(pod, life);
                }
            }
        }
    }

    // ---- Watches ----

    fn relist(&mut self, pod: usize) {
        let at = self.at;
        let this = &mut self.pods[pod];
        let sent_at = this.clock.boot(at);
        let Some(process) = &mut this.process else { return };
        process.watch += 1;
        let watch = process.watch;
        self.request(pod, Waiting::List { watch, sent_at }, Request::List, Duration::from_secs(2));
    }

    fn watch_breaks(&mut self, pod: usize, life: u32) {
        let again = self.rng.millis(200, 1000);
        self.watch_breaks_for(pod, life, again);
    }

    fn watch_breaks_for(&mut self, pod: usize, life: u32, again: Duration) {
        if let Some(process) = self.process(pod, life) {
            process.watch_alive = false;
            process.watch += 1;
            (process.blind, process.last_read_worked) = (true, false);
            self.take(pod, Input::WatchFailed { advice: "the watch broke".into() });
            self.after(again, Event::Deliver { pod, life, work: Work::Relist });
        }
    }

    fn bookmark(&mut self, pod: usize, life: u32) {
        let blocked = self.pods[pod].down_blocked > self.at;
        if let Some(process) = self.process(pod, life) {
            if process.watch_alive && !blocked {
                self.take(pod, Input::Heard);
            }
            self.after(Duration::from_secs(60), Event::Bookmark { pod, life });
        }
    }

    /// The newest version goes out to every watch.
    fn broadcast(&mut self) {
        self.note_duration();
        let (record, version) = self.api.read();
        for pod in 0..self.pods.len() {
            self.push_event(pod, record.clone(), version);
        }
    }

    fn push_event(&mut self, pod: usize, record: Option<Record>, version: u64) {
        let (odds, at) = (self.odds().watch, self.at);
        let (blocked, lags) = (self.pods[pod].down_blocked, self.pods[pod].lags);
        let latency = self.rng.duration(Duration::from_micros(300), Duration::from_millis(10));
        let mut arrives = at.plus(latency);
        let (unlucky, silent, lag) = (self.rng.in_10_000(odds), self.rng.percent(30), self.rng.millis(10, 3000));
        let (unlucky, silent) = (unlucky && self.may_strike(Fault::WatchLag), silent && self.plan.alone.is_none());
        let replays = self.rng.in_10_000(odds / 2) && self.may_strike(Fault::WatchReplay);
        let Some(process) = &mut self.pods[pod].process else { return };
        if !process.watch_alive {
            return;
        }
        if unlucky && silent || blocked > at && self.rng.percent(50) {
            process.watch_alive = false;
            self.count(Fault::WatchSilent);
            return;
        }
        if unlucky {
            arrives = arrives.plus(lag).min(self.plan.faults_until.max(arrives));
        }
        if lags.1 > at {
            arrives = arrives.plus(lags.0).min(self.plan.faults_until.max(arrives));
        }
        arrives = arrives.max(process.watch_clear_at).max(blocked);
        process.watch_clear_at = arrives;
        let (life, watch) = (process.life, process.watch);
        self.queue_at(arrives, Event::Watched { pod, life, watch, record: record.map(Box::new), version });
        if unlucky {
            self.count(Fault::WatchLag);
        }
        if replays && !self.api.history.is_empty() {
            let (version, record) = self.rng_history();
            self.count(Fault::WatchReplay);
            let record = record.map(Box::new);
            self.queue_at(arrives.plus(Duration::from_micros(1)), Event::Watched { pod, life, watch, record, version });
        }
    }

    fn rng_history(&mut self) -> (u64, Option<Record>) {
        let i = self.rng.between(0, self.api.history.len() as u64 - 1) as usize;
        self.api.history[i].clone()
    }

    /// L4 speaks of the largest duration that anybody may have to wait for.
    fn note_duration(&mut self) {
        if let Some(duration) = self.api.object.as_ref().and_then(|object| object.record.duration())
            && duration > self.longest_duration
        {
            self.longest_duration = duration;
            self.set_end();
        }
    }
}

fn failed(request: &Request) -> Answer {
    match request {
        Request::Put { .. } => Answer::Put(Outcome::Unknown),
        Request::Read | Request::List => Answer::Failed,
    }
}

/// Which version an input brings, and the uid of what exists then.
fn given_by(input: &Input) -> Option<(u64, Option<String>)> {
    let (record, version) = match input {
        Input::Observed { record, version, .. } | Input::Read(Some((record, version))) => (record.as_ref(), *version),
        Input::Wrote { outcome: Outcome::Committed(record), .. } => (Some(&**record), record.version),
        _ => return None,
    };
    Some((record.map_or(version, |record| record.version), record.map(|record| record.uid.clone())))
}

fn came(input: &Input) -> String {
    match input {
        Input::Observed { record, version, via } => {
            let via = if matches!(via, Via::Event) { "watch" } else { "list" };
            format!("{via}: {}", brief(record.as_ref(), *version))
        }
        Input::Read(Some((record, version))) => format!("read: {}", brief(record.as_ref(), *version)),
        Input::Wrote { attempt, outcome } => format!("attempt {attempt}: {}", outcome_word(outcome)),
        other => format!("{other:?}"),
    }
}

fn brief(record: Option<&Record>, version: u64) -> String {
    let Some(record) = record else { return format!("absent as of {version}") };
    let spec = &record.spec;
    format!(
        "{} version {} holder {:?} duration {:?} renewed {} transitions {} token {:?}{}",
        record.uid,
        record.version,
        spec.holder.as_deref().unwrap_or(""),
        spec.duration_seconds,
        spec.renew_time.map_or_else(String::new, |time| time.to_string()),
        spec.transitions,
        record.token,
        if record.is_proved_release() { " released" } else { "" }
    )
}

fn told(pod: usize, status: &Status) -> String {
    match &status.leading {
        Some(leading) => format!(
            "pod {pod} tells: leads, token {}, until {} ({})",
            leading.token, leading.valid_until, status.version
        ),
        None => format!("pod {pod} tells: not leader, {} ({}): {}", status.reason, status.version, status.message),
    }
}

mod beside;
mod exec;
mod strikes;
