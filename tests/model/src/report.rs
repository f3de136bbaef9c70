//! One exploration, and what is told of it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leasehold::election::{Reason, Status};
use leasehold::time::{Clock, SystemClock};
use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::actions::{Action, Space, in_words};
use crate::calm::{self, Calm};
use crate::checks::Right;
use crate::setup::{Fault, Setup};
use crate::world::World;

#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often what was reached: on transitions, of which several lead to one state.
#[derive(Default)]
pub struct Counts {
    faults: [Count; Fault::ALL.len()],
    rights: [Count; Right::ALL.len()],
    reasons: [Count; Reason::ALL.len()],
    pub releases: Count,
    /// Writes that were committed when their sender had given them up, or was gone.
    pub landed_late: Count,
    /// Taking writes that landed after their own deadline, and had to be renewed first.
    pub begun_late: Count,
    /// Releases that were met by a conflict, to be tried on another version.
    pub released_after_conflict: Count,
    /// Of who did not lead.
    pub conflicts: Count,
    calm: [Count; Calm::ALL.len()],
    longest_calm: [AtomicU64; Calm::ALL.len()],
}

impl Counts {
    pub fn strikes(&self, fault: Fault) {
        self.faults[fault as usize].add();
    }

    pub fn told(&self, status: &Status) {
        self.reasons[status.reason as usize].add();
        if status.message.contains("taken late") {
            self.begun_late.add();
        }
    }

    pub fn taken(&self, right: Right) {
        self.rights[right as usize].add();
    }

    pub fn calm(&self, calm: Calm, waited: Duration) {
        self.calm[calm as usize].add();
        self.longest_calm[calm as usize].fetch_max(waited.as_millis() as u64, Ordering::Relaxed);
    }

    fn by_right(&self, right: Right) -> u64 {
        self.rights[right as usize].get()
    }

    fn of_fault(&self, fault: Fault) -> u64 {
        self.faults[fault as usize].get()
    }

    fn of_reason(&self, reason: Reason) -> u64 {
        Reason::ALL.iter().position(|known| *known == reason).map_or(0, |i| self.reasons[i].get())
    }

    /// From how many states faults were ended, and how long nobody led then at most.
    fn calms(&self) -> impl Iterator<Item = (Calm, u64, Duration)> {
        Calm::ALL.into_iter().map(|calm| {
            let longest = Duration::from_millis(self.longest_calm[calm as usize].load(Ordering::Relaxed));
            (calm, self.calm[calm as usize].get(), longest)
        })
    }
}

/// How states are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The shortest path to a violation is found first; states that wait to be visited fill the memory.
    BreadthFirst,
    DepthFirst,
}

/// What an exploration came to.
pub struct Explored {
    pub setup: Setup,
    pub counts: Arc<Counts>,
    pub states: usize,
    pub transitions: usize,
    /// The longest path that was visited; the shortest to a violation.
    pub depth: usize,
    pub took: Duration,
    pub violation: Option<Violation>,
}

pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
    pub path: String,
}

pub fn explore(setup: Setup, order: Order, threads: usize) -> Explored {
    let began = SystemClock.boot();
    let space = Space::new(setup.clone());
    let counts = Arc::clone(&space.counts);
    let builder = space.clone().checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    let (states, transitions, mut depth, failed) = match order {
        Order::BreadthFirst => run(builder.spawn_bfs()),
        Order::DepthFirst => run(builder.spawn_dfs()),
    };
    let took = SystemClock.boot().since(began);
    let violation = failed.map(|path| {
        depth = path.len() - 1;
        describe(&space, path)
    });
    Explored { setup, counts, states, transitions, depth, took, violation }
}

type Steps = Vec<(World, Option<Action>)>;

fn run(checker: impl Checker<Space>) -> (usize, usize, usize, Option<Steps>) {
    let checker = checker.join();
    let found = checker.discoveries();
    let shortest = found.into_values().map(Path::into_vec).min_by_key(Vec::len);
    (checker.unique_state_count(), checker.state_count(), checker.max_depth(), shortest)
}

fn describe(space: &Space, path: Steps) -> Violation {
    let (last, _) = path.last().expect("a path has a state");
    let (invariant, what) =
        last.violation.clone().or_else(|| calm::judge(space, last)).unwrap_or(("none", String::new()));
    let steps = path.iter().map(|(world, action)| {
        let happens = action.as_ref().map_or_else(String::new, |action| in_words(world, action));
        format!("{world}\n  {happens}")
    });
    let path = steps.collect::<Vec<_>>().join("\n");
    Violation { invariant, what, path }
}

impl Explored {
    pub fn print(&self) {
        let Setup { name, faults, horizon, configs, .. } = &self.setup;
        println!(
            "{name}: {} candidates, {faults} faults, {} s: {} states, {} transitions, depth {}, {:.1} s ({:.0} states a second)",
            configs.len(),
            horizon.as_secs_f64(),
            self.states,
            self.transitions,
            self.depth,
            self.took.as_secs_f64(),
            self.states as f64 / self.took.as_secs_f64()
        );
        let rights = Right::ALL.map(|right| (right, self.counts.by_right(right)));
        let reasons = Reason::ALL.map(|reason| (reason, self.counts.of_reason(reason)));
        let faults = Fault::ALL.map(|fault| (fault, self.counts.of_fault(fault)));
        let others = [
            ("releases", &self.counts.releases),
            ("landed late", &self.counts.landed_late),
            ("begun late", &self.counts.begun_late),
            ("released after a conflict", &self.counts.released_after_conflict),
        ]
        .map(|(what, n)| (what, n.get()));
        println!("  faults: {}", reached(&faults));
        println!(
            "  terms began by: {}; {}, conflicts of challengers {}",
            reached(&rights),
            reached(&others),
            self.counts.conflicts.get()
        );
        println!("  told: {}", reached(&reasons));
        for (calm, n, longest) in self.counts.calms().filter(|(_, n, _)| *n > 0) {
            println!(
                "  faults over ({calm:?}) in {n} states without a leader: one within {:.3} s",
                longest.as_secs_f64()
            );
        }
        if let Some(violation) = &self.violation {
            println!("{}\n  {}: {}", violation.path, violation.invariant, violation.what);
        }
    }
}

/// What no exploration reached, and so none has tested.
pub fn never_reached(explored: &[Explored]) -> Vec<String> {
    // The app's sessions, and records that no fault here makes.
    let beyond = [Reason::OtherSession, Reason::TokenUnusable, Reason::CoordinatedElection];
    let sum = |count: &dyn Fn(&Counts) -> u64| explored.iter().map(|explored| count(&explored.counts)).sum::<u64>();
    let mut never = Vec::new();
    let mut note = |what: &dyn Debug, n: u64| {
        if n == 0 {
            never.push(format!("{what:?}"));
        }
    };
    Fault::ALL.iter().for_each(|fault| note(fault, sum(&|counts| counts.of_fault(*fault))));
    Right::ALL.iter().for_each(|right| note(right, sum(&|counts| counts.by_right(*right))));
    let reasons = Reason::ALL.iter().filter(|reason| !beyond.contains(reason));
    reasons.for_each(|reason| note(reason, sum(&|counts| counts.of_reason(*reason))));
    note(&"a write that landed late", sum(&|counts| counts.landed_late.get()));
    note(&"a take-over that began late", sum(&|counts| counts.begun_late.get()));
    note(&"a release after a conflict", sum(&|counts| counts.released_after_conflict.get()));
    // From states without a leader, each way in which faults end.
    Calm::ALL.iter().for_each(|calm| note(calm, sum(&|counts| counts.calm[*calm as usize].get())));
    never
}

fn reached<T: Debug>(counts: &[(T, u64)]) -> String {
    let reached = counts.iter().filter(|(_, n)| *n > 0);
    reached.map(|(what, n)| format!("{what:?} {n}")).collect::<Vec<_>>().join(", ")
}
