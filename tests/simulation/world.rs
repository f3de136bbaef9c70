//! The world of one schedule: true time, a queue of events, the network between pods and the API server, and what
//! strikes them. Everything is decided by the seed, so that a schedule runs the same again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

use leasehold::election::{
    BrokenRule, Input, Kind, Outcome, Output, Reason, Record, Shutdown, Spec, Status, Token, Via, Write,
};
use leasehold::time::{Moment, Now};

use crate::api::{Api, By, Object, some_time};
use crate::candidate::{Pod, Process, Step, Waiting, Work, outcome_word, some_wall};
use crate::checks::{Checks, Right, Taking, Violation};
use crate::faults::{Beginning, Class, Evidence, Fault, Odds, Plan, Strike};
use crate::foreign::{Ask, Foreign, Next, Told};
use crate::rng::Rng;
use crate::trace::{Time, Trace};

/// Creating a Lease and taking it are this far apart, beyond the answer TTL (challenger rule 5).
const DELETION_NOTICE: Duration = Duration::from_millis(250);
/// Inputs at one instant of a process's clock beyond which it is called busy without end.
const MOST_AT_ONE_INSTANT: u32 = 60;
const MOST_EVENTS: u64 = 400_000;

#[derive(Debug)]
enum Event {
    Run { pod: usize, life: u32 },
    Timer { pod: usize, life: u32, timer: u32 },
    Arrives { pod: usize, life: u32, id: u64, request: Request },
    Answered { pod: usize, life: u32, id: u64, answer: Answer },
    TimedOut { pod: usize, life: u32, id: u64 },
    Watched { pod: usize, life: u32, watch: u32, record: Option<Record>, version: u64 },
    Bookmark { pod: usize, life: u32 },
    Deliver { pod: usize, life: u32, work: Work },
    Ask { pod: usize },
    Refresh { pod: usize, life: u32 },
    AppStarts { pod: usize },
    AppDies { pod: usize, run: u32 },
    Starts { pod: usize, state: StartState },
    Killed { pod: usize, life: u32 },
    Strikes(usize),
    Undo(Fault),
    Storm { until: Time },
    Cut { pod: usize, fault: Fault },
    ForeignTick,
    ForeignArrives { id: u64, ask: Ask },
    ForeignAnswered { id: u64, ask: Ask, told: Told },
    ForeignTimedOut { id: u64, ask: Ask },
    OthersWrite,
    Looks,
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
    Put { write: Write, identity: String, token: u64, handed_out: Moment, sent: Time },
    Read,
    List,
}

#[derive(Clone, Debug)]
enum Answer {
    Put(Outcome),
    Got(Option<Record>, u64),
    Failed,
}

struct Queued {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What a schedule gave.
#[derive(Default)]
pub struct Report {
    pub violation: Option<Violation>,
    pub trace: String,
    pub faults: BTreeMap<Fault, u64>,
    pub rights: BTreeMap<Right, u64>,
    pub reasons: HashMap<Reason, u64>,
    pub classes: BTreeMap<Class, u64>,
    pub landed_late: u64,
    pub terms: u64,
    pub promises: u64,
    pub inputs: u64,
    pub virtual_seconds: u64,
    /// With faults over: how long until somebody led.
    pub longest_wait: Duration,
}

/// Somebody else must lead by then, or the same pod in a new term if its app came back.
struct Expected {
    by: Time,
    law: &'static str,
    not: usize,
    not_token: Option<u64>,
    /// A renewal of the dead that lands late starts the time anew (L1).
    after_renewal: Duration,
}

pub struct World {
    at: Time,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    rng: Rng,
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
    ends: Time,
    settled_leader: Option<(usize, u64)>,
    led_after_faults: Option<Time>,
    expected: Option<Expected>,
    broken: Option<BrokenRule>,
}

/// Runs the schedule of one seed.
pub fn run(seed: u64, plan: impl FnOnce(u64, &mut Rng) -> Plan, broken: Option<BrokenRule>, traced: bool) -> Report {
    let mut rng = Rng::new(seed);
    let plan = plan(seed, &mut rng);
    let mut world = World::new(plan, rng, broken, traced);
    world.go();
    world.report()
}

impl World {
    fn new(plan: Plan, mut rng: Rng, broken: Option<BrokenRule>, traced: bool) -> World {
        let pods: Vec<Pod> =
            (0..plan.configs.len()).map(|i| Pod::new(i, plan.configs[i].clone(), plan.evidence[i], &mut rng)).collect();
        let longest = plan.configs.iter().map(|config| config.lease_duration).max().unwrap_or_default();
        let foreign = plan.foreign.then(|| Foreign::new(plan.configs[0].lease_duration, &mut rng));
        let mut world = World {
            at: Time::START,
            queue: BinaryHeap::new(),
            order: 0,
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
            ends: plan.faults_until,
            settled_leader: None,
            led_after_faults: None,
            expected: None,
            broken,
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
            self.plan.configs.iter().map(of).max().unwrap_or_default()
        };
        let silence = (largest(|c| c.renew_interval) * 2).max(self.longest_duration / 2);
        let slack = silence + largest(|c| c.answer_ttl) + largest(|c| c.retry_period) * 2 + Duration::from_secs(4);
        self.settled = match self.plan.class {
            Class::Outages => self.plan.strikes[0].at,
            _ => self.plan.faults_until.plus(self.longest_duration + self.longest_duration / 500 + slack),
        };
        self.ends = self.settled.max(self.plan.faults_until).plus(self.longest_duration * 3 / 2);
    }

    fn go(&mut self) {
        let mut events = 0;
        while let Some(Reverse(queued)) = self.queue.pop() {
            if queued.at > self.ends || self.checks.violation.is_some() {
                break;
            }
            events += 1;
            if events > MOST_EVENTS {
                self.checks.fail("endless", self.at, || format!("{MOST_EVENTS} events in one schedule"));
                break;
            }
            self.at = queued.at;
            self.happen(queued.event);
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
            classes: BTreeMap::from([(self.plan.class, 1)]),
            landed_late: self.landed_late,
            terms: self.checks.terms,
            promises: self.checks.promises_made,
            inputs: self.inputs,
            virtual_seconds: self.at.0 / 1_000_000_000,
            longest_wait: self.led_after_faults.map_or(Duration::ZERO, |led| led.since(self.plan.faults_until)),
        }
    }

    // ---- The queue ----

    fn queue_at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Queued { at, order: self.order, event }));
    }

    fn after(&mut self, duration: Duration, event: Event) {
        self.queue_at(self.at.plus(duration), event);
    }

    fn faulty(&self) -> bool {
        self.at < self.plan.faults_until
    }

    fn odds(&self) -> Odds {
        if self.faulty() { self.plan.odds } else { Odds::default() }
    }

    fn count(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// No fault goes on after this.
    fn until(&self, lasts: Duration) -> Time {
        self.at.plus(lasts).min(self.plan.faults_until)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Run { pod, life } => {
                if self.pods[pod].is(life) {
                    self.proceed(pod);
                }
            }
            Event::Timer { pod, life, timer } => {
                if self.process(pod, life).is_some_and(|process| process.timer == timer) {
                    self.deliver(pod, Work::Take(Input::Tick));
                }
            }
            Event::Arrives { pod, life, id, request } => self.arrives(pod, life, id, request),
            Event::Answered { pod, life, id, answer } => self.answered(pod, life, id, Some(answer)),
            Event::TimedOut { pod, life, id } => self.answered(pod, life, id, None),
            Event::Watched { pod, life, watch, record, version } => {
                if self.process(pod, life).is_some_and(|process| process.watch == watch) {
                    self.deliver(pod, Work::Take(Input::Observed { record, version, via: Via::Event }));
                }
            }
            Event::Bookmark { pod, life } => self.bookmark(pod, life),
            Event::Deliver { pod, life, work } => {
                if self.pods[pod].is(life) {
                    self.deliver(pod, work);
                }
            }
            Event::Ask { pod } => self.app_asks(pod),
            Event::Refresh { pod, life } => {
                if self.process(pod, life).is_some() {
                    self.deliver(pod, Work::RefreshFile);
                    let again = self.pods[pod].file_refresh();
                    self.after(again, Event::Refresh { pod, life });
                }
            }
            Event::AppStarts { pod } => self.app_starts(pod),
            Event::AppDies { pod, run } => {
                if self.pods[pod].app.run == run {
                    self.app_dies(pod, None);
                }
            }
            Event::Starts { pod, state } => self.starts(pod, state),
            Event::Killed { pod, life } => {
                if self.pods[pod].is(life) {
                    self.ends_process(pod, "killed");
                    self.replace_later(pod);
                }
            }
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
            Event::ForeignArrives { id, ask } => self.foreign_arrives(id, ask),
            Event::ForeignAnswered { id, ask, told } => self.foreign_answered(id, &ask, told),
            Event::ForeignTimedOut { id, ask } => self.foreign_answered(id, &ask, Told::Failed),
            Event::OthersWrite => {
                self.api.revision += self.rng.between(0, 20);
                self.after(Duration::from_secs(1), Event::OthersWrite);
            }
            Event::Looks => self.look(),
        }
    }

    // ---- Laws of liveness ----

    fn look(&mut self) {
        let leader = self.checks.anybody_leads(self.at);
        let led = leader.is_some() || self.foreign.as_ref().is_some_and(|foreign| foreign.leading.is_some());
        if let Some(expected) = &self.expected {
            if leader
                .is_some_and(|(pod, token)| pod != expected.not || expected.not_token.is_some_and(|old| token != old))
            {
                self.expected = None;
            } else if self.at > expected.by {
                let (law, not) = (expected.law, expected.not);
                self.checks.fail(law, self.at, || format!("nobody took over from pod {not} in time"));
            }
        }
        if !self.faulty() && led && self.led_after_faults.is_none() {
            self.led_after_faults = Some(self.at);
        }
        if self.at >= self.settled {
            self.look_at_the_settled(leader, led);
        }
        self.after(Duration::from_millis(50), Event::Looks);
    }

    fn look_at_the_settled(&mut self, leader: Option<(usize, u64)>, led: bool) {
        if !led {
            let law = if self.plan.class == Class::Outages { "L3" } else { "L4" };
            self.checks.fail(law, self.at, || "faults are over, or too short to matter, and nobody leads".into());
        }
        let late = self.pods.iter().find(|pod| {
            pod.process
                .as_ref()
                .is_some_and(|process| process.shutting_down.is_some_and(|since| since < self.plan.faults_until))
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
        self.expected = Some(Expected { by, law, not, not_token, after_renewal: Duration::ZERO });
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
        if matches!(state, StartState::Lost) {
            this.state = Default::default();
        }
        this.start(at, matches!(state, StartState::Own), seed);
        let life = this.lives;
        #[cfg(debug_assertions)]
        if let (Some(rule), Some(process)) = (broken, &mut this.process) {
            process.election.break_rule(rule);
        }
        #[cfg(not(debug_assertions))]
        assert!(broken.is_none(), "a release build has no rules to break");
        self.trace.note(at, || format!("pod {pod} starts sidecar {life}, state {state:?}"));
        let (refresh, bookmark) = (this.file_refresh(), self.rng.millis(20_000, 60_000));
        self.after(refresh, Event::Refresh { pod, life });
        self.after(bookmark, Event::Bookmark { pod, life });
        self.deliver(pod, Work::LookAtApp);
        self.deliver(pod, Work::Relist);
    }

    fn ends_process(&mut self, pod: usize, why: &str) {
        let at = self.at;
        self.trace.note(at, || format!("pod {pod}'s sidecar ends: {why}"));
        self.pods[pod].process = None;
        self.start_waiting_app(pod);
    }

    /// The pod was deleted: another takes its place when its app has ended too.
    fn replace_later(&mut self, pod: usize) {
        if self.pods[pod].app.alive {
            self.app_dies(pod, None);
        }
        let later = if self.faulty() { self.rng.millis(1, 3000) } else { Duration::from_millis(1) };
        self.after(later, Event::AppStarts { pod });
        self.after(later, Event::Starts { pod, state: StartState::Lost });
    }

    fn deliver(&mut self, pod: usize, work: Work) {
        if let Some(process) = &mut self.pods[pod].process {
            process.inbox.push_back(work);
            self.proceed(pod);
        }
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
            if self.rng.in_10_000(self.odds().pause) {
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
        let life = process.life;
        self.trace.note(at, || format!("pod {pod} is stopped until {until}"));
        self.queue_at(until, Event::Run { pod, life });
    }

    fn work(&mut self, pod: usize, work: Work) {
        let now = self.pods[pod].clock.now(self.at);
        match work {
            Work::Take(input) => self.handle(pod, input),
            Work::Answer => self.push_step(pod, Step::Answer { asked: now.boot }),
            Work::RefreshFile => {
                if self.pods[pod].process.as_ref().is_some_and(|process| process.board.status().leading.is_some()) {
                    self.push_step(pod, Step::WriteFile { withdraws: None });
                }
            }
            Work::WriteFile { withdraws } => self.push_step(pod, Step::WriteFile { withdraws }),
            Work::LookAtApp => self.look_at_app(pod),
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
        let outputs = process.election.handle(now, input);
        for output in &outputs {
            match output {
                Output::Write(write) => {
                    let seen = process.election.seen();
                    let judged = seen.record().map(|record| (record.uid.clone(), record.version));
                    let base = write.base.as_ref().map(|base| (base.uid.clone(), base.version));
                    if base != judged {
                        self.checks
                            .fail("S5", at, || format!("pod {pod} writes on {base:?}, having judged {judged:?}"));
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
        let foreign =
            process.election.seen().record().and_then(Record::holder).filter(|holder| *holder != process.identity);
        if let (Some(_), Some(holder)) = (process.election.status().leading, foreign) {
            self.checks
                .fail("holder rule 6", at, || format!("pod {pod} leads on, having seen that {holder} holds the Lease"));
        }
        process.steps.extend(outputs.into_iter().map(|output| Step::Do { output, now: now.boot }));
    }

    fn step(&mut self, pod: usize, step: Step) {
        let at = self.at;
        let this = &mut self.pods[pod];
        let now = this.clock.now(at).boot;
        let Some(process) = &mut this.process else { return };
        let life = process.life;
        match step {
            Step::Do { output, now: handed_out } => self.carry_out(pod, output, handed_out),
            Step::WriteFile { withdraws } => {
                let answer = process.board.answer(now);
                this.file.leads = answer.promise.map(|promise| (promise.token, promise.until));
                if let Some(version) = withdraws {
                    let promised_until = process.board.promised_until();
                    process.inbox.push_back(Work::Take(Input::Withdrawn { version, promised_until }));
                    process.withdrawing -= 1;
                }
                self.read_file(pod);
                self.unlock(pod);
            }
            Step::Unlock => self.unlock(pod),
            Step::Answer { asked } => {
                let answer = process.board.answer(asked);
                let identity = process.identity.clone();
                match answer.promise {
                    Some(promise) => {
                        self.judge_claim(pod, &identity, promise.token, promise.valid_until);
                        self.told_app(pod, &identity, promise.token, promise.until);
                    }
                    None => self.app_hears_no(pod, life),
                }
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
                if let Kind::Acquire { token } = write.kind {
                    process.token = token;
                }
                let token = process.token;
                if write.kind == Kind::Release {
                    self.judge_release(pod);
                }
                let Some(process) = &self.pods[pod].process else { return };
                let (attempt, timeout) = (write.attempt, write.timeout);
                let request = Request::Put { write, identity: process.identity.clone(), token, handed_out, sent: at };
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
        let ttl_late = self.rng.in_10_000(self.odds().withdrawn_late);
        let late = self.rng.millis(1, 300);
        let this = &mut self.pods[pod];
        let Now { boot, wall } = this.clock.now(at);
        let config = this.config.clone();
        let Some(process) = &mut this.process else { return };
        let (identity, life, version) = (process.identity.clone(), process.life, status.version);
        let leading = status.leading;
        process.board.publish(status, wall);
        let withdraws = leading.is_none().then_some(version);
        if withdraws.is_some() {
            process.withdrawing += 1;
        }
        if ttl_late && withdraws.is_some() {
            self.count(Fault::WithdrawnLate);
            self.after(late, Event::Deliver { pod, life, work: Work::WriteFile { withdraws } });
        } else {
            process.steps.push_front(Step::WriteFile { withdraws });
        }
        if let Some(leading) = leading {
            self.judge_claim(pod, &identity, leading.token, leading.valid_until);
            self.checks.claimed(at, &identity, leading.token, leading.stop_by, config.hold_time(), "stop_by");
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
        if let Some(end) = self.checks.in_force(at, pod) {
            self.checks.fail("S7", at, || {
                format!("pod {pod} releases while its app holds a promise for {} ms more", end.since(at).as_millis())
            });
        }
        let Some(process) = &self.pods[pod].process else { return };
        if process.board.status().leading.is_some() {
            self.checks.fail("S7", at, || format!("pod {pod} releases and has not published not-leader"));
        }
    }

    // ---- Apps ----

    fn app_asks(&mut self, pod: usize) {
        if self.pods[pod].app.alive {
            self.deliver(pod, Work::Answer);
        }
        let ttl = self.pods[pod].config.answer_ttl;
        let again = self.rng.duration(ttl / 4, ttl);
        self.after(again, Event::Ask { pod });
    }

    /// The app holds a promise, unless it is dead, or has said that it stopped acting on that token.
    fn told_app(&mut self, pod: usize, identity: &str, token: u64, until: Moment) {
        let this = &mut self.pods[pod];
        if !this.app.alive || this.app.stopped == Some(token) {
            return;
        }
        this.app.told = Some(token);
        let end = this.clock.when(until);
        self.checks.promised(self.at, pod, identity, token, end);
    }

    fn read_file(&mut self, pod: usize) {
        let Some((token, until)) = self.pods[pod].file.leads else { return };
        let identity = self.pods[pod].process.as_ref().map_or("file", |process| &process.identity).to_owned();
        self.told_app(pod, &identity, token, until);
    }

    /// Some apps acknowledge a loss.
    fn app_hears_no(&mut self, pod: usize, life: u32) {
        let acknowledges = self.rng.percent(30);
        let this = &mut self.pods[pod];
        if !this.app.alive || !acknowledges {
            return;
        }
        if let Some(token) = this.app.told.take() {
            this.app.stopped = Some(token);
            self.checks.app_stopped(pod, token);
            self.after(
                Duration::from_millis(1),
                Event::Deliver { pod, life, work: Work::Take(Input::AppStopped { token }) },
            );
        }
    }

    fn app_dies(&mut self, pod: usize, back_after: Option<Duration>) {
        let at = self.at;
        let noticed = match self.pods[pod].evidence {
            Evidence::None => None,
            Evidence::Lock => Some(self.rng.millis(0, 20)),
            Evidence::Probe => Some(self.rng.millis(100, 500)),
        };
        if std::mem::replace(&mut self.pods[pod].app.alive, false) {
            self.trace.note(at, || format!("pod {pod}'s app dies"));
            self.checks.app_ended(pod);
        }
        self.tell_of_app(pod, noticed);
        if let Some(after) = back_after {
            self.after(after, Event::AppStarts { pod });
        }
    }

    fn tell_of_app(&mut self, pod: usize, after: Option<Duration>) {
        if let (Some(after), Some(process)) = (after, &self.pods[pod].process) {
            let life = process.life;
            self.after(after, Event::Deliver { pod, life, work: Work::LookAtApp });
        }
    }

    fn app_starts(&mut self, pod: usize) {
        let at = self.at;
        let this = &mut self.pods[pod];
        if this.app.alive || this.dead {
            return;
        }
        if this.process.as_ref().is_some_and(|process| process.lock_held) {
            this.app.wants_start = true;
            return;
        }
        this.app.alive = true;
        this.app.run += 1;
        this.app.wants_start = false;
        this.app.told = None;
        this.app.stopped = None;
        self.trace.note(at, || format!("pod {pod}'s app starts"));
        // It reads the file before anything else, and that may still say yes.
        self.read_file(pod);
        self.tell_of_app(pod, Some(Duration::from_millis(1)));
    }

    fn start_waiting_app(&mut self, pod: usize) {
        if self.pods[pod].app.wants_start {
            self.app_starts(pod);
        }
    }

    /// Evidence is a state: what is so now counts, not what happened in between.
    fn look_at_app(&mut self, pod: usize) {
        let this = &mut self.pods[pod];
        let well = this.app.alive && this.unwell_until <= self.at;
        let proves = this.evidence == Evidence::Lock;
        if this.evidence == Evidence::None {
            return;
        }
        let Some(process) = &mut this.process else { return };
        if well == process.app_well {
            return;
        }
        process.app_well = well;
        if well {
            self.handle(pod, Input::AppAlive);
        } else {
            process.lock_held = proves;
            self.handle(pod, Input::AppGone { proved: proves, why: "it is gone".into() });
            self.push_step(pod, Step::Unlock);
        }
    }

    /// The lock is let go when nothing that an app may read says yes any more.
    fn unlock(&mut self, pod: usize) {
        let Some(process) = &mut self.pods[pod].process else { return };
        if process.lock_held && process.withdrawing == 0 {
            process.lock_held = false;
            self.start_waiting_app(pod);
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
        if let Some(arrives) = self.hop(up_blocked, self.odds().request, Fault::RequestLost, Fault::RequestLate) {
            self.queue_at(arrives, Event::Arrives { pod, life, id, request });
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
        } else if self.rng.in_10_000(odds) {
            if self.rng.percent(40) {
                self.count(lost);
                return None;
            }
            self.count(late);
            let longest = self.longest_duration * self.rng.pick(&[1, 1, 2, 8]);
            let delay = if self.rng.percent(50) {
                self.rng.millis(20, 2500)
            } else {
                self.rng.duration(Duration::ZERO, longest)
            };
            leaves = self.at.plus(delay);
            if leaves > self.plan.faults_until {
                return None;
            }
        }
        Some(leaves.plus(latency))
    }

    fn arrives(&mut self, pod: usize, life: u32, id: u64, request: Request) {
        let odds = self.odds();
        let answer = if self.api_refuses > self.at || self.rng.in_10_000(odds.refused / 2) {
            self.refusal(&request)
        } else if self.api_down > self.at || self.rng.in_10_000(odds.refused / 4) {
            self.count(Fault::ServerError);
            failed(&request)
        } else {
            let answer = self.serve(pod, life, request.clone());
            if self.rng.in_10_000(odds.refused / 4) {
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
            self.queue_at(arrives, Event::Answered { pod, life, id, answer });
        }
    }

    fn refusal(&mut self, request: &Request) -> Answer {
        if !matches!(request, Request::Put { .. }) {
            return Answer::Failed;
        }
        let retry_after = self.rng.percent(50).then(|| Duration::from_secs(self.rng.between(1, 30)));
        self.count(if retry_after.is_some() { Fault::RefusedForNow } else { Fault::Refused });
        Answer::Put(Outcome::Refused { advice: "the API server refuses".into(), retry_after })
    }

    fn serve(&mut self, pod: usize, life: u32, request: Request) -> Answer {
        let Request::Put { write, identity, token, handed_out, sent } = request else {
            let (record, version) = self.api.read();
            return Answer::Got(record, version);
        };
        let base = self.api.object.clone();
        match self.api.put(self.at, pod, &write) {
            Ok(record) => {
                let at = self.at;
                self.trace.note(at, || {
                    format!(
                        "API: pod {pod}'s {:?} ({identity}.{}, attempt {}) is version {}",
                        write.kind, life, write.attempt, record.version
                    )
                });
                if matches!(write.kind, Kind::Acquire { .. } | Kind::Renew) {
                    self.checks.wrote(&identity, token, handed_out);
                    if let Some(expected) = self.expected.as_mut().filter(|expected| expected.not == pod) {
                        expected.by = expected.by.max(at.plus(expected.after_renewal));
                    }
                }
                if let (Kind::Acquire { .. }, Some(base)) = (write.kind, base) {
                    self.judge_taking(pod, &identity, sent, &base, &record);
                }
                self.broadcast();
                Answer::Put(Outcome::Committed(Box::new(record)))
            }
            Err(_) => Answer::Put(Outcome::Conflict),
        }
    }

    fn judge_taking(&mut self, pod: usize, identity: &str, sent: Time, base: &Object, now: &Record) {
        let this = &self.pods[pod];
        let holder = base.record.holder().unwrap_or_default();
        let former = holder != identity && this.state.identities.iter().any(|known| known == holder);
        self.checks.acquired(Taking {
            at: self.at,
            sent,
            pod,
            base,
            now,
            own_duration: this.config.lease_duration,
            created_wait: this.config.answer_ttl + DELETION_NOTICE,
            former,
            trusting: this.config.trust_unheld,
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
                self.deliver(pod, Work::Take(Input::Wrote { attempt, outcome }));
            }
            (Waiting::Read, Some(Answer::Got(record, version))) => {
                self.deliver(pod, Work::Take(Input::Read(Some((record, version)))));
            }
            (Waiting::Read, _) => self.deliver(pod, Work::Take(Input::Read(None))),
            (Waiting::List { sent_at, .. }, Some(Answer::Got(record, version))) => {
                self.deliver(pod, Work::Take(Input::Observed { record, version, via: Via::Read { sent_at } }));
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
        if let Some(process) = self.process(pod, life) {
            process.watch_alive = false;
            process.watch += 1;
            self.deliver(pod, Work::Take(Input::WatchFailed { advice: "the watch broke".into() }));
            self.after(again, Event::Deliver { pod, life, work: Work::Relist });
        }
    }

    fn bookmark(&mut self, pod: usize, life: u32) {
        let blocked = self.pods[pod].down_blocked > self.at;
        if let Some(process) = self.process(pod, life) {
            if process.watch_alive && !blocked {
                self.deliver(pod, Work::Take(Input::Heard));
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
        let blocked = self.pods[pod].down_blocked;
        let latency = self.rng.duration(Duration::from_micros(300), Duration::from_millis(10));
        let mut arrives = at.plus(latency);
        let (unlucky, silent, lag) = (self.rng.in_10_000(odds), self.rng.percent(30), self.rng.millis(10, 3000));
        let replays = self.rng.in_10_000(odds / 2);
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
        arrives = arrives.max(process.watch_clear_at).max(blocked);
        process.watch_clear_at = arrives;
        let (life, watch) = (process.life, process.watch);
        self.queue_at(arrives, Event::Watched { pod, life, watch, record, version });
        if unlucky {
            self.count(Fault::WatchLag);
        }
        if replays && !self.api.history.is_empty() {
            let (version, record) = self.rng_history();
            self.count(Fault::WatchReplay);
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

mod strikes;
