//! What stands beside a sidecar: an app of one or more processes, and `leasehold exec`.

use std::time::Duration;

use leasehold::election::Reason;
use leasehold::time::Moment;

use crate::candidate::{File, Yes};
use crate::checks::Holder;
use crate::faults::{AppPlan, EXEC_MARGIN, WorkerPlan};
use crate::trace::Time;

pub struct App {
    pub alive: bool,
    /// Counts its starts.
    pub run: u32,
    /// It wants to start, and waits for its lock.
    pub wants_start: bool,
    pub workers: Vec<Worker>,
    /// The token that it was last told to lead with.
    pub told: Option<u64>,
    /// It said that it does not act on this token any more, of which nothing was promised beyond then. (Where history
    /// is rolled back, a later term may have the same one.)
    pub stopped: Option<(u64, Moment)>,
    /// All of its processes stand still before then.
    pub stands_until: Time,
}

/// One process of the app.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    /// Never used again in this pod.
    pub id: u32,
    pub plan: WorkerPlan,
    /// Where it needs a session: it is open, and its first event was received.
    pub connected: bool,
}

impl App {
    pub fn started(plan: &AppPlan, run: u32) -> App {
        let run = run + 1;
        let workers = (0u32..).zip(&plan.workers).map(|(i, plan)| Worker {
            id: run * 1000 + i,
            plan: *plan,
            connected: *plan == WorkerPlan::Asks,
        });
        let workers = workers.collect();
        let stands_until = Time::START;
        App { alive: true, run, wants_start: false, workers, told: None, stopped: None, stands_until }
    }

    pub fn stands(&self, at: Time) -> bool {
        self.alive && self.stands_until > at
    }

    pub fn worker(&self, id: u32) -> Option<&Worker> {
        self.workers.iter().find(|worker| self.alive && worker.id == id)
    }

    pub fn worker_mut(&mut self, id: u32) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| self.alive && worker.id == id)
    }
}

impl Worker {
    pub fn holder(&self) -> Holder {
        Holder::Worker { id: self.id, exclusive: self.plan == WorkerPlan::Exclusive }
    }

    /// It reads the file, and asks: not before it holds what shows that it lives.
    pub fn reads(&self) -> bool {
        self.plan != WorkerPlan::Exclusive && self.connected
    }
}

/// `leasehold exec -- CMD`, by its contract (docs/design.md, section 5): it works from the file alone.
#[derive(Debug)]
pub struct Exec {
    pub alive: bool,
    /// Counts its starts and its runs of CMD: an event of an earlier one is void.
    pub run: u32,
    pub grace: Duration,
    /// The run in which its sidecar saw that the Lease is not this pod's any more.
    pub foreign: u32,
    /// The app's lock is held, from its first look on.
    pub holds_alive: bool,
    /// When it looks by itself.
    pub due: Option<Moment>,
    /// It stands still before then, and CMD with it.
    pub stands_until: Time,
    pub state: ExecState,
}

#[derive(Clone, Copy, Debug)]
pub enum ExecState {
    Waits,
    /// It holds the lease's lock, and will read the file. This yes made it try, and nothing begins on it.
    Locked(Yes),
    Runs(Run),
}

/// One run of CMD.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub yes: Yes,
    ending: Option<(Moment, bool)>,
}

impl Exec {
    pub fn new(grace: Duration) -> Exec {
        Exec {
            alive: false,
            run: 0,
            grace,
            foreign: 0,
            holds_alive: false,
            due: None,
            stands_until: Time::START,
            state: ExecState::Waits,
        }
    }

    pub fn holds_lock(&self) -> bool {
        self.alive && !matches!(self.state, ExecState::Waits)
    }
}

impl Run {
    /// None when it is too late to begin.
    pub fn new(yes: Yes, now: Moment, grace: Duration) -> Option<Run> {
        let run = Run { yes, ending: None };
        (now < run.last_start(grace)).then_some(run)
    }

    pub fn hear(&mut self, now: Moment, file: &File, grace: Duration, heeds_foreign: bool) {
        match file.leads {
            // It ran out: the sidecar may be back in time.
            Some(yes) if now >= yes.until => {}
            Some(yes) if yes.token == self.yes.token => self.yes = yes,
            Some(_) => self.end(now, false),
            None => self.end(now, heeds_foreign && file.says_that_it_is_anothers()),
        }
        if now >= self.last_start(grace) {
            self.end(now, false);
        }
    }

    fn end(&mut self, now: Moment, foreign: bool) {
        let (_, is_foreign) = self.ending.get_or_insert((now, foreign));
        *is_foreign |= foreign;
    }

    pub fn ends(&self) -> bool {
        self.ending.is_some()
    }

    /// When something is to be done if the file says nothing new.
    pub fn next(&self, grace: Duration) -> Moment {
        if self.ends() { self.kill_at(grace) } else { self.last_start(grace) }
    }

    pub fn kill_at(&self, grace: Duration) -> Moment {
        let last = self.yes.stop_by - EXEC_MARGIN;
        match self.ending {
            None => last,
            Some((since, true)) => last.min(since + grace).min(self.yes.until),
            Some((since, false)) => last.min(since + grace),
        }
    }

    fn last_start(&self, grace: Duration) -> Moment {
        self.yes.stop_by - EXEC_MARGIN - grace
    }
}

/// After these the Lease still names this pod, and others wait for its release.
pub const STILL_OURS: [Reason; 5] =
    [Reason::Starting, Reason::RenewDeadline, Reason::SteppedDown, Reason::AppNotAlive, Reason::ShuttingDown];
