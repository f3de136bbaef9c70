//! What is explored: who contends, by what times, from what beginning, which faults may happen and how many of them
//! on one path, and how far true time runs.

use std::time::Duration;

use leasehold::election::{BrokenRule, Config};

use crate::clock::Clock;

/// What a fault is of; each happening of one counts against [`Setup::faults`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A request or an answer takes longer than the others, or for ever.
    Late,
    /// A write is refused, and may come again in half a minute (429).
    Refused,
    /// The events of a watch are held back, or lost, from some moment on.
    WatchSilent,
    /// A watch breaks, and is begun anew.
    WatchBroken,
    /// A watch brings the version before the newest once more.
    WatchReplays,
    /// A sidecar does not run for a while.
    Paused,
    /// A sidecar ends, and its pod starts another, which finds the state directory.
    Crashed,
    /// The same, and the state directory is lost.
    CrashedStateLost,
    /// An app ends, provably.
    AppDied,
    /// An app is unwell: it does not count as alive, and still acts on what it was told.
    AppUnwell,
    /// SIGTERM.
    Terminated,
    /// SIGTERM after the end of the app.
    TerminatedAppFirst,
    /// SIGTERM to a pod that leads on while its app lives.
    TerminatedWaiting,
    SteppedDown,
    /// To another pod, by name.
    SteppedDownTo,
    /// The Lease asks the holder to step down: in its term, in another, or for itself.
    StepDownAsked,
    StepDownAskedOfAnotherTerm,
    StepDownAskedForItself,
    Labelled,
    Blanked,
    Deleted,
    HolderEdited,
    /// To another pod's sidecar that runs.
    HolderEditedToCandidate,
    TokenRaised,
    /// Cut down to a second, whoever holds the Lease and whether it hears of it.
    DurationCut,
}

impl Fault {
    pub const ALL: [Fault; 25] = [
        Fault::Late,
        Fault::Refused,
        Fault::WatchSilent,
        Fault::WatchBroken,
        Fault::WatchReplays,
        Fault::Paused,
        Fault::Crashed,
        Fault::CrashedStateLost,
        Fault::AppDied,
        Fault::AppUnwell,
        Fault::Terminated,
        Fault::TerminatedAppFirst,
        Fault::TerminatedWaiting,
        Fault::SteppedDown,
        Fault::SteppedDownTo,
        Fault::StepDownAsked,
        Fault::StepDownAskedOfAnotherTerm,
        Fault::StepDownAskedForItself,
        Fault::Labelled,
        Fault::Blanked,
        Fault::Deleted,
        Fault::HolderEdited,
        Fault::HolderEditedToCandidate,
        Fault::TokenRaised,
        Fault::DurationCut,
    ];
    const NETWORK: &[Fault] = &[Fault::Late, Fault::Refused, Fault::WatchSilent, Fault::WatchBroken];
    const PROCESS: &[Fault] = &[Fault::Paused, Fault::Crashed, Fault::CrashedStateLost];
    const REPLAY: &[Fault] = &[Fault::WatchReplays];
    const APP: &[Fault] = &[Fault::AppDied, Fault::AppUnwell];
    const LEAVING: &[Fault] = &[
        Fault::Terminated,
        Fault::TerminatedAppFirst,
        Fault::TerminatedWaiting,
        Fault::SteppedDown,
        Fault::SteppedDownTo,
    ];
    const HANDS: &[Fault] = &[
        Fault::Blanked,
        Fault::Deleted,
        Fault::HolderEdited,
        Fault::HolderEditedToCandidate,
        Fault::TokenRaised,
        Fault::Labelled,
    ];
    const BRIEF: &[Fault] = &[Fault::Late, Fault::Refused, Fault::WatchBroken, Fault::Labelled];
    const ASKED: &[Fault] = &[Fault::StepDownAsked, Fault::StepDownAskedOfAnotherTerm, Fault::StepDownAskedForItself];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// There is no Lease, and every candidate starts at once.
    Absent,
    /// The first candidate leads, and the others have seen it.
    Led,
    /// The Lease names a holder that is gone for ever.
    Orphaned,
}

#[derive(Clone, Debug)]
pub struct Setup {
    pub name: &'static str,
    /// One for each candidate.
    pub configs: Vec<Config>,
    /// How much faster each clock runs than true time.
    pub parts_per_million: Vec<i64>,
    pub beginning: Beginning,
    pub allowed: Vec<Fault>,
    /// On one path, at most.
    pub faults: u8,
    /// True time that a path covers, at most, from the beginning on.
    pub horizon: Duration,
    /// Time stands still at multiples of this only: what is due in between happens at the next one.
    pub grid: Duration,
    /// Apps are run by `leasehold exec`, which may work until `stop_by`.
    pub enforced: bool,
    /// Edits of labels, watches that break, and one request that fails, end no term.
    pub outlasts_brief_outages: bool,
    pub broken: Option<BrokenRule>,
}

/// Times of which few moments follow: all are whole seconds but the wait after a creation and the jitter.
fn in_seconds(replicas: u32) -> Config {
    Config {
        lease_duration: Duration::from_secs(4),
        renew_deadline: Duration::from_secs(3),
        renew_interval: Duration::from_secs(1),
        retry_period: Duration::from_secs(1),
        answer_ttl: Duration::from_secs(1),
        replicas: Some(replicas),
        ..Config::default()
    }
}

/// As near to each other as a configuration may be: 2 ms between the last promise and the first take-over.
fn tight() -> Config {
    Config { renew_deadline: Duration::from_millis(3990), answer_ttl: Duration::from_millis(3990), ..in_seconds(2) }
}

impl Setup {
    fn new(name: &'static str, faults: u8, seconds: u64, allowed: &[&[Fault]]) -> Setup {
        Setup {
            name,
            configs: vec![in_seconds(2); 2],
            parts_per_million: vec![0; 2],
            beginning: Beginning::Led,
            allowed: allowed.concat(),
            faults,
            horizon: Duration::from_secs(seconds),
            grid: Duration::from_secs(1),
            enforced: false,
            outlasts_brief_outages: false,
            broken: None,
        }
    }

    pub fn clock(&self, pod: usize) -> Clock {
        Clock::new(pod, self.parts_per_million[pod])
    }

    /// Everything that is explored, each to the bound of `make test` and to that of `make model`: faults on one path,
    /// and seconds of true time.
    pub fn all() -> Vec<Family> {
        let family =
            |name, quick, full, allowed: &[&[Fault]]| Family { quick, full, setup: Setup::new(name, 0, 0, allowed) };
        let both = &[Fault::NETWORK, Fault::PROCESS];
        vec![
            family("network", (1, 8), (2, 8), &[Fault::NETWORK, Fault::REPLAY]),
            family("process", (1, 8), (2, 5), &[Fault::PROCESS]),
            family("app", (1, 8), (2, 5), &[Fault::APP]),
            family("leaving", (1, 8), (2, 5), &[Fault::LEAVING]),
            family("hands", (1, 8), (2, 8), &[Fault::HANDS]),
            family("requests", (1, 8), (2, 8), &[Fault::ASKED]),
            family("hands and a crash", (1, 6), (2, 8), &[&[Fault::CrashedStateLost], Fault::HANDS]),
            family("brief outages", (2, 4), (3, 4), &[Fault::BRIEF]).with_time_to_spare(),
            family(
                "released, then edited",
                (3, 3),
                (3, 8),
                &[&[Fault::SteppedDown, Fault::HolderEdited, Fault::Blanked]],
            ),
            family("released, then deleted", (2, 6), (3, 8), &[&[Fault::SteppedDown, Fault::Deleted]]),
            family("absent", (1, 5), (2, 4), both).beginning(Beginning::Absent),
            family("orphaned", (1, 9), (2, 8), both).beginning(Beginning::Orphaned),
            family("exec", (1, 6), (2, 4), &[Fault::LEAVING, Fault::APP, Fault::PROCESS]).enforced(),
            family("exec, deleted", (2, 4), (2, 8), &[&[Fault::Deleted, Fault::CrashedStateLost]]).enforced(),
            family("durations", (1, 9), (2, 9), &[&[Fault::Paused, Fault::WatchSilent, Fault::DurationCut]])
                .durations(),
            family("durations, short first", (1, 6), (2, 5), &[&[Fault::Paused, Fault::CrashedStateLost]])
                .durations()
                .turned_round(),
            family("trusting", (1, 6), (2, 6), &[&[Fault::Blanked, Fault::Paused, Fault::Late]]).trusting(),
            family("tight, clocks apart", (1, 6), (2, 6), both).tight(),
            family("tight exec, clocks apart", (1, 6), (2, 6), both).tight().enforced(),
            family("three", (1, 5), (2, 3), both).of_three(),
            family("three, leaving", (1, 4), (2, 2), &[Fault::LEAVING]).of_three().not_waiting().exact(),
            family("everything", (1, 6), (2, 4), &[&Fault::ALL]),
        ]
    }

    pub fn named(name: &str) -> Option<Family> {
        Setup::all().into_iter().find(|family| family.setup.name == name)
    }

    pub fn allows(&self, fault: Fault) -> bool {
        self.allowed.contains(&fault)
    }
}

/// A setup, and how far it is explored.
#[derive(Clone, Debug)]
pub struct Family {
    setup: Setup,
    quick: (u8, u64),
    full: (u8, u64),
}

impl Family {
    pub fn quick(&self) -> Setup {
        self.within(self.quick.0, Duration::from_secs(self.quick.1))
    }

    pub fn full(&self) -> Setup {
        self.within(self.full.0, Duration::from_secs(self.full.1))
    }

    pub fn within(&self, faults: u8, horizon: Duration) -> Setup {
        Setup { faults, horizon, ..self.setup.clone() }
    }

    fn beginning(self, beginning: Beginning) -> Family {
        Family { setup: Setup { beginning, ..self.setup }, ..self }
    }

    fn of_three(self) -> Family {
        Family { setup: Setup { configs: vec![in_seconds(3); 3], parts_per_million: vec![0; 3], ..self.setup }, ..self }
    }

    /// They take one another for two: nobody waits for anybody (by its jitter).
    fn not_waiting(self) -> Family {
        Family { setup: Setup { configs: vec![in_seconds(2); self.setup.configs.len()], ..self.setup }, ..self }
    }

    /// A failed attempt, and another, fit into the renew deadline (L3).
    fn with_time_to_spare(self) -> Family {
        let config =
            Config { lease_duration: Duration::from_secs(7), renew_deadline: Duration::from_secs(6), ..in_seconds(2) };
        let setup = Setup { configs: vec![config; 2], outlasts_brief_outages: true, ..self.setup };
        Family { setup, ..self }
    }

    fn enforced(self) -> Family {
        Family { setup: Setup { enforced: true, ..self.setup }, ..self }
    }

    /// Time stands still wherever something is due.
    fn exact(self) -> Family {
        Family { setup: Setup { grid: Duration::from_nanos(1), ..self.setup }, ..self }
    }

    /// The first clock slow and the second fast, as far as A1 lets them, and no time to lose.
    fn tight(self) -> Family {
        let setup = Setup { configs: vec![tight(); 2], parts_per_million: vec![-1000, 1000], ..self.setup };
        Family { setup, ..self }.exact()
    }

    /// The holder's is much longer than its challenger's, and it promises for as long. Whoever cuts down its duration
    /// then breaks A3, which harms nobody among those who have seen it before.
    fn durations(self) -> Family {
        let seconds = Duration::from_secs;
        let long =
            Config { lease_duration: seconds(8), renew_deadline: seconds(7), answer_ttl: seconds(7), ..in_seconds(2) };
        let setup = Setup { configs: vec![long, in_seconds(2)], ..self.setup };
        Family { setup, ..self }
    }

    fn turned_round(mut self) -> Family {
        self.setup.configs.reverse();
        self
    }

    fn trusting(self) -> Family {
        let configs = vec![Config { trust_unheld: true, ..in_seconds(2) }; 2];
        Family { setup: Setup { configs, ..self.setup }, ..self }
    }
}
