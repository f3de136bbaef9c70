//! A pod: its clocks, its app, its state directory, and the sidecar's process around the real [`Election`] and
//! [`Board`]. The process does what the election's outputs ask, step by step, and may be stopped between any two.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use leasehold::app::session::{Session, Sessions};
use leasehold::app::{Gone, Presence};
use leasehold::election::{BrokenRule, Config, Election, Input, Outcome, Output, Reason, Seen};
use leasehold::report::Board;
use leasehold::time::{Moment, Now};

use crate::app::{App, Exec, STILL_OURS};
use crate::faults::{AppPlan, Evidence};
use crate::rng::Rng;
use crate::trace::Time;

/// A machine's boot clock, and its wall clock, which jumps.
#[derive(Clone, Debug)]
pub struct Clock {
    offset: u64,
    /// Faster than true time by so much: within rho, where A1 holds.
    parts_per_million: i64,
    /// Microseconds since 1970 at the start of the schedule.
    pub wall: i64,
    /// Where A4 is broken: it stood in these spans of true time, in their order.
    stood: Vec<(Time, Time)>,
}

impl Clock {
    pub fn new(rng: &mut Rng, most_parts_per_million: u64) -> Self {
        let day = 86_400_000_000_000;
        Clock {
            offset: rng.between(day / 24, 30 * day),
            parts_per_million: rng.between(0, 2 * most_parts_per_million) as i64 - most_parts_per_million as i64,
            wall: some_wall(rng),
            stood: Vec::new(),
        }
    }

    /// It stands in this span, unless it does already.
    pub fn stand(&mut self, from: Time, until: Time) -> bool {
        let stands = from < until && self.stood.last().is_none_or(|(_, last)| *last <= from);
        if stands {
            self.stood.push((from, until));
        }
        stands
    }

    pub fn boot(&self, at: Time) -> Moment {
        Moment::from_nanos(self.offset + self.run(at))
    }

    /// The first instant at which the boot clock shows `moment` or later.
    pub fn when(&self, moment: Moment) -> Time {
        let wanted = u128::from(moment.as_nanos().saturating_sub(self.offset));
        let rate = (1_000_000 + self.parts_per_million) as u128;
        let mut at = Time(u64::try_from(wanted * 1_000_000 / rate).unwrap_or(u64::MAX / 4).min(u64::MAX / 4));
        for (from, until) in self.stood.iter().filter(|_| wanted > 0) {
            if at > *from {
                at = at.plus(until.since(*from));
            }
        }
        while at.0 > 0 && self.run(Time(at.0 - 1)) >= wanted as u64 {
            at.0 -= 1;
        }
        while at.0 < u64::MAX / 4 && self.run(at) < wanted as u64 {
            at.0 += 1;
        }
        at
    }

    pub fn now(&self, at: Time) -> Now {
        let micros = self.wall.saturating_add((self.run(at) / 1000) as i64);
        Now { boot: self.boot(at), wall: Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH) }
    }

    fn run(&self, at: Time) -> u64 {
        let stood: Duration = self.stood.iter().map(|(from, until)| at.min(*until).since(*from)).sum();
        let at = Time(at.0 - stood.as_nanos() as u64);
        (u128::from(at.0) * (1_000_000 + self.parts_per_million) as u128 / 1_000_000) as u64
    }
}

/// Right, wrong by years, before 1970, or at the end of what a timestamp holds.
pub fn some_wall(rng: &mut Rng) -> i64 {
    let year = 31_557_600_000_000_i64;
    match rng.between(0, 9) {
        0 => -(rng.between(0, 60 * year as u64) as i64),
        1 => 253_402_207_000_000_000 - rng.between(0, 100_000_000_000) as i64,
        2 => rng.between(0, 200 * year as u64) as i64,
        _ => 1_790_000_000_000_000 + rng.between(0, 10_000_000) as i64,
    }
}

/// What the process still has to do for the last input, in order.
#[derive(Debug)]
pub enum Step {
    /// An output of the call at `now`, on the process's own clock.
    Do { output: Box<Output>, now: Moment },
    /// Write what the board says to the file.
    WriteFile,
    /// After the file of a status: who enforces the end of the term that it ended is looked for, and a not-leader is
    /// answered by [`Input::Withdrawn`] of this version.
    Settle { version: u64, leads: bool, ended: Option<Moment> },
    /// The next input of the same round.
    Take(Box<Input>),
    /// Let the app's lock go, after all that is above.
    Unlock,
    /// The clock was read; the answer is computed now.
    Answer { worker: u32, asked: Moment },
}

/// What waits to be taken in.
#[derive(Debug)]
pub enum Work {
    Take(Box<Input>),
    Answer {
        worker: u32,
    },
    /// The next event of a worker's session.
    Stream {
        worker: u32,
    },
    RefreshFile,
    /// For a broken rule: the file comes last.
    WriteFile,
    /// The lock's thread found a holder, or holds it alone.
    Lock {
        held: bool,
    },
    OpenSession {
        worker: u32,
    },
    CloseSession {
        worker: u32,
        by_peer: bool,
    },
    LookAtSessions,
    LookAtExclusive,
    LookAtProbe,
    LookAtAsking,
    /// After the end of the exclusive session that led.
    GoOn,
    AwaitEnforcers,
    LetGo,
    StepDown {
        to: Option<String>,
    },
    AppStopped {
        token: u64,
    },
    Relist,
}

#[derive(Clone, Debug)]
pub enum Waiting {
    Write { attempt: u64 },
    Read,
    List { watch: u32, sent_at: Moment },
}

pub struct Process {
    pub life: u32,
    pub identity: String,
    pub election: Election,
    pub board: Board,
    pub steps: VecDeque<Step>,
    pub inbox: VecDeque<Work>,
    pub paused_until: Time,
    /// Newest timer; older ones are dead.
    pub timer: u32,
    pub waiting: HashMap<u64, Waiting>,
    pub watch: u32,
    pub watch_alive: bool,
    /// It was told that its watch failed, and has listed nothing since.
    pub blind: bool,
    pub last_read_worked: bool,
    /// The newest version that it was given, by whichever way, and the uid of what existed then.
    pub given: (u64, Option<String>),
    /// No event of a watch overtakes an earlier one.
    pub watch_clear_at: Time,
    pub presence: Presence,
    pub sessions: Arc<Sessions>,
    /// By worker.
    pub open: BTreeMap<u32, Session>,
    pub lock: LockThread,
    /// The file and the streams are refreshed, as long as it leads.
    pub refreshes: bool,
    /// The app's lock is kept until then.
    pub hold_until: Option<Moment>,
    /// When somebody asked last, where that is evidence.
    pub asked: Moment,
    pub asks: bool,
    /// What the probe found last.
    pub probed: Option<bool>,
    pub shutting_down: Option<Ending>,
    /// Handled at one instant, to notice a loop that does not wait.
    pub instant: (Moment, u32),
    /// The token of the newest acquiring write: renewals are of its term.
    pub token: u64,
    /// A not-leader could not be written in time: what the old file said may be acted on until then.
    pub old_file_until: Moment,
    /// Somebody enforces the end of a term that is over, and may work until then.
    pub enforced_until: Option<Moment>,
}

impl Process {
    /// What the election is told of a not-leader, as things stand.
    pub fn withdrawn(&self, version: u64) -> Input {
        let enforced_until = self.enforced_until.unwrap_or(Moment::BOOT);
        Input::Withdrawn { version, promised_until: self.board.promised_until(), enforced_until }
    }
}

/// The thread that waits for the app's lock (`src/app/lock.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockThread {
    /// Nobody held it when it was last tried.
    Watches,
    /// It waits for the last holder's end.
    Waits,
    /// It holds the lock alone: no app can start.
    Holds,
}

/// A process that was told to end.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub since: Time,
    pub end_by: Moment,
    /// It was stopped since, so its own clock could not tell it in time.
    pub stopped: bool,
}

/// The report file, as it was last written.
#[derive(Clone, Copy, Debug)]
pub struct File {
    pub leads: Option<Yes>,
    pub reason: Reason,
    pub written: Time,
    /// A later writing failed.
    pub stale: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Yes {
    pub token: u64,
    pub until: Moment,
    pub stop_by: Moment,
}

impl File {
    /// Before anything listens.
    pub const RESET: File = File { leads: None, reason: Reason::Starting, written: Time::START, stale: false };

    /// The Lease does not name this pod any more: nobody waits for its release.
    pub fn says_that_it_is_anothers(&self) -> bool {
        self.leads.is_none() && !STILL_OURS.contains(&self.reason)
    }
}

#[derive(Clone, Debug, Default)]
pub struct StateDirectory {
    pub seen: Option<Seen>,
    pub identities: Vec<String>,
}

pub struct Pod {
    pub index: usize,
    pub clock: Clock,
    pub config: Config,
    pub plan: AppPlan,
    pub process: Option<Process>,
    pub app: App,
    pub exec: Option<Exec>,
    pub file: File,
    pub state: StateDirectory,
    pub lives: u32,
    /// Nothing of it reaches the API server, or nothing of that it, before then.
    pub up_blocked: Time,
    pub down_blocked: Time,
    /// The API server that serves its watch lags behind by so much, before then.
    pub lags: (Duration, Time),
    /// Its probe fails before then.
    pub unwell_until: Time,
    /// No file can be written before then.
    pub disk_full: Time,
    /// The newest attempt that was sent, by which life of its sidecar.
    pub attempted: (u32, u64),
    /// Whose release was sent last: by which life, of which term.
    pub released: Option<(u32, u64)>,
    /// How often all that ran beside its sidecar was ended for good.
    pub emptied: u32,
    /// The machine is gone for good.
    pub dead: bool,
}

impl Pod {
    pub fn new(index: usize, config: Config, plan: AppPlan, clock: Clock) -> Self {
        let app = App::started(&plan, 0);
        let exec = plan.exec.map(Exec::new);
        Pod {
            index,
            clock,
            config,
            plan,
            process: None,
            app,
            exec,
            file: File::RESET,
            state: StateDirectory::default(),
            lives: 0,
            up_blocked: Time::START,
            down_blocked: Time::START,
            lags: (Duration::ZERO, Time::START),
            unwell_until: Time::START,
            disk_full: Time::START,
            attempted: (0, 0),
            released: None,
            emptied: 0,
            dead: false,
        }
    }

    /// A new sidecar's process. `succeeds`: the state directory is this pod's own.
    pub fn start(&mut self, at: Time, succeeds: bool, seed: u64, broken: Option<BrokenRule>) {
        self.lives += 1;
        let identity = format!("pod-{}_{}", self.index, self.lives);
        let config = Config { identity: identity.clone(), ..self.config.clone() };
        let ttl = config.answer_ttl;
        let told_for = if broken == Some(BrokenRule::PromiseWithoutTtl) { config.renew_deadline } else { ttl };
        let now = self.clock.boot(at);
        let succeeds = succeeds || broken == Some(BrokenRule::OtherPodsState);
        let former = succeeds && !self.state.identities.is_empty();
        let remembers = |rule| former && broken != Some(rule);
        let enforced_until = remembers(BrokenRule::FormerEnforcerForgotten).then(|| now + config.hold_time());
        let seen = self.state.seen.clone().filter(|_| broken != Some(BrokenRule::SeenForgotten));
        let mut election = Election::new(config, seen, seed);
        if former {
            let promised_until = if remembers(BrokenRule::FormerPromiseForgotten) { now + ttl } else { Moment::BOOT };
            election = election.succeed(self.state.identities.clone(), promised_until);
        }
        if !succeeds {
            self.state.identities.clear();
        }
        self.state.identities.push(identity.clone());
        // Reset before anything listens.
        self.file = File::RESET;
        let presence = Presence::new(self.plan.evidence.iter().map(|kind| format!("no {kind:?} yet")));
        let sessions = Sessions::new(None, self.plan.has(Evidence::Session), ttl);
        if remembers(BrokenRule::FormerSessionsForgotten) {
            sessions.succeed(now + ttl);
        }
        self.process = Some(Process {
            life: self.lives,
            identity,
            election,
            board: Board::new("lease".into(), "ns".into(), format!("pod-{}", self.index), "boot".into(), told_for),
            steps: VecDeque::new(),
            inbox: VecDeque::new(),
            paused_until: Time::START,
            timer: 0,
            waiting: HashMap::new(),
            watch: 0,
            watch_alive: false,
            blind: false,
            last_read_worked: false,
            given: (0, None),
            watch_clear_at: at,
            presence,
            sessions: Arc::new(sessions),
            open: BTreeMap::new(),
            lock: LockThread::Watches,
            refreshes: false,
            hold_until: None,
            asked: Moment::BOOT,
            asks: false,
            probed: None,
            shutting_down: None,
            instant: (Moment::BOOT, 0),
            token: 0,
            old_file_until: Moment::BOOT,
            enforced_until,
        });
    }

    pub fn is(&self, life: u32) -> bool {
        self.process.as_ref().is_some_and(|process| process.life == life)
    }

    /// The record names a process of this pod that hears at once of what is done to it (A3).
    pub fn hears(&self, at: Time) -> bool {
        self.is_connected(at) && self.process.as_ref().is_some_and(|process| process.watch_alive)
    }

    /// Its watch is being begun anew, and meanwhile it reads. One that is only silent is another matter.
    pub fn hears_by_reading(&self, at: Time) -> bool {
        let waits = |process: &Process| {
            process.waiting.values().any(|waiting| matches!(waiting, Waiting::Write { .. } | Waiting::Read))
        };
        self.is_connected(at)
            && self.process.as_ref().is_some_and(|process| process.blind && process.last_read_worked && !waits(process))
    }

    fn is_connected(&self, at: Time) -> bool {
        self.up_blocked <= at
            && self.down_blocked <= at
            && self.process.as_ref().is_some_and(|process| {
                process.paused_until <= at && process.steps.is_empty() && process.inbox.is_empty()
            })
    }

    /// Somebody holds the app's lock.
    pub fn lock_is_held(&self) -> bool {
        self.app.alive && self.plan.has(Evidence::Lock)
            || self.exec.as_ref().is_some_and(|exec| exec.alive && exec.holds_alive)
    }

    /// The sidecar holds it alone.
    pub fn lock_is_taken(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.lock == LockThread::Holds)
    }

    /// Somebody holds the lease's lock.
    pub fn is_enforced(&self) -> bool {
        self.exec.as_ref().is_some_and(Exec::holds_lock)
    }

    /// What a probe finds.
    pub fn is_well(&self, at: Time) -> bool {
        self.app.alive && !self.app.stands(at) && self.unwell_until <= at
    }

    /// The place of this kind among the evidence.
    pub fn number(&self, evidence: Evidence) -> Option<usize> {
        self.plan.evidence.iter().position(|known| *known == evidence)
    }

    pub fn file_refresh(&self) -> Duration {
        self.config.answer_ttl / 4
    }
}

pub fn gone(why: &str, proved: bool) -> Gone {
    Gone { why: why.into(), proved }
}

pub fn outcome_word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Committed(record) => format!("committed as version {}", record.version),
        Outcome::Conflict => "409".into(),
        Outcome::Unknown => "no answer".into(),
        Outcome::Refused { retry_after, .. } => format!("refused, retry after {retry_after:?}"),
    }
}
