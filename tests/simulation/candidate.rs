//! A pod: its clocks, its app, its state directory, and the sidecar's process around the real [`Election`] and
//! [`Board`]. The process does what the election's outputs ask, step by step, and may be stopped between any two.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use leasehold::election::{Config, Election, Input, Outcome, Output, Seen};
use leasehold::report::Board;
use leasehold::time::{Moment, Now};

use crate::faults::Evidence;
use crate::rng::Rng;
use crate::trace::Time;

/// A machine's boot clock, and its wall clock, which jumps.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset: u64,
    /// Within rho of true time.
    parts_per_million: i64,
    /// Microseconds since 1970 at the start of the schedule.
    pub wall: i64,
}

impl Clock {
    pub fn new(rng: &mut Rng) -> Self {
        let day = 86_400_000_000_000;
        Clock {
            offset: rng.between(day / 24, 30 * day),
            parts_per_million: rng.between(0, 2000) as i64 - 1000,
            wall: some_wall(rng),
        }
    }

    pub fn boot(&self, at: Time) -> Moment {
        Moment::from_nanos(self.offset + self.run(at))
    }

    /// The first instant at which the boot clock shows `moment` or later.
    pub fn when(&self, moment: Moment) -> Time {
        let wanted = u128::from(moment.as_nanos().saturating_sub(self.offset));
        let rate = (1_000_000 + self.parts_per_million) as u128;
        let mut at = Time(u64::try_from(wanted * 1_000_000 / rate).unwrap_or(u64::MAX / 4).min(u64::MAX / 4));
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
    Do { output: Output, now: Moment },
    /// Write what the board says to the file; for a not-leader then answer [`Input::Withdrawn`] of this version.
    WriteFile { withdraws: Option<u64> },
    /// Let the app's lock go, once nothing says yes any more.
    Unlock,
    /// The clock was read; the answer is computed now.
    Answer { asked: Moment },
}

/// What waits to be taken in.
#[derive(Debug)]
pub enum Work {
    Take(Input),
    Answer,
    RefreshFile,
    WriteFile {
        withdraws: Option<u64>,
    },
    /// Look whether the app still lives: with a lock, its absence is held as a proof.
    LookAtApp,
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
    /// No event of a watch overtakes an earlier one.
    pub watch_clear_at: Time,
    /// The sidecar holds the app's lock: no app runs, and none can start.
    pub lock_held: bool,
    pub shutting_down: Option<Time>,
    /// Handled at one instant, to notice a loop that does not wait.
    pub instant: (Moment, u32),
    /// The token of the newest acquiring write: renewals are of its term.
    pub token: u64,
    /// The app was well when it was last looked at.
    pub app_well: bool,
    /// Not-leaders that are published but not yet in the file.
    pub withdrawing: u32,
}

pub struct App {
    pub alive: bool,
    /// Counts its starts.
    pub run: u32,
    /// It wants to start, and waits for its lock.
    pub wants_start: bool,
    /// The token that it was last told to lead with.
    pub told: Option<u64>,
    /// It said that it does not act on this token any more.
    pub stopped: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct File {
    pub leads: Option<(u64, Moment)>,
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
    pub evidence: Evidence,
    pub process: Option<Process>,
    pub app: App,
    pub file: File,
    pub state: StateDirectory,
    pub lives: u32,
    /// Nothing of it reaches the API server, or nothing of that it, before then.
    pub up_blocked: Time,
    pub down_blocked: Time,
    /// Its probe fails before then.
    pub unwell_until: Time,
    /// The machine is gone for good.
    pub dead: bool,
}

impl Pod {
    pub fn new(index: usize, config: Config, evidence: Evidence, rng: &mut Rng) -> Self {
        Pod {
            index,
            clock: Clock::new(rng),
            config,
            evidence,
            process: None,
            app: App { alive: true, run: 1, wants_start: false, told: None, stopped: None },
            file: File::default(),
            state: StateDirectory::default(),
            lives: 0,
            up_blocked: Time::START,
            down_blocked: Time::START,
            unwell_until: Time::START,
            dead: false,
        }
    }

    /// A new sidecar's process. `succeeds`: the state directory is this pod's own.
    pub fn start(&mut self, at: Time, succeeds: bool, seed: u64) {
        self.lives += 1;
        let identity = format!("pod-{}_{}", self.index, self.lives);
        let config = Config { identity: identity.clone(), ..self.config.clone() };
        let ttl = config.answer_ttl;
        let now = self.clock.boot(at);
        let mut election = Election::new(config, self.state.seen.clone(), seed);
        if succeeds && !self.state.identities.is_empty() {
            election = election.succeed(self.state.identities.clone(), now + ttl);
        }
        if !succeeds {
            self.state.identities.clear();
        }
        self.state.identities.push(identity.clone());
        // Reset before anything listens.
        self.file = File::default();
        self.process = Some(Process {
            life: self.lives,
            identity,
            election,
            board: Board::new("lease".into(), "ns".into(), format!("pod-{}", self.index), "boot".into(), ttl),
            steps: VecDeque::new(),
            inbox: VecDeque::new(),
            paused_until: Time::START,
            timer: 0,
            waiting: HashMap::new(),
            watch: 0,
            watch_alive: false,
            watch_clear_at: at,
            lock_held: false,
            shutting_down: None,
            instant: (Moment::BOOT, 0),
            token: 0,
            app_well: true,
            withdrawing: 0,
        });
    }

    pub fn is(&self, life: u32) -> bool {
        self.process.as_ref().is_some_and(|process| process.life == life)
    }

    /// The record names a process of this pod that hears at once of what is done to it (A3).
    pub fn hears(&self, at: Time) -> bool {
        self.up_blocked <= at
            && self.down_blocked <= at
            && self.process.as_ref().is_some_and(|process| {
                process.paused_until <= at
                    && process.watch_alive
                    && process.steps.is_empty()
                    && process.inbox.is_empty()
            })
    }

    pub fn file_refresh(&self) -> Duration {
        self.config.answer_ttl / 4
    }
}

pub fn outcome_word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Committed(record) => format!("committed as version {}", record.version),
        Outcome::Conflict => "409".into(),
        Outcome::Unknown => "no answer".into(),
        Outcome::Refused { retry_after, .. } => format!("refused, retry after {retry_after:?}"),
    }
}
