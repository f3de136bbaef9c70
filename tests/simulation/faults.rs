//! What goes wrong in a schedule: a plan that one seed makes, and the classes that plans come from.
//!
//! A class says which assumptions of the design (A1 to A5) its faults keep, and so which invariants hold in it. Some
//! break one on purpose ([`Class::breaks`]). What may fail then is named in [`Class::excuses`], and nothing else may.

use std::time::Duration;

use leasehold::election::{ATTEMPT_TIMEOUT, Config};

use crate::rng::Rng;
use crate::trace::Time;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing goes wrong: one leader, for good.
    #[default]
    Calm,
    /// Holders are killed, and nothing else happens but edits of labels (L1).
    Killed,
    /// Outages too short to change anything (L3).
    Outages,
    /// Watches bring old versions, lag, are silent, and begin anew all the time, which changes nothing (L3).
    Replays,
    /// Holders hand over: step-down, SIGTERM, the app's end (L2).
    HandOver,
    /// Requests, answers and watch events are lost, late or refused.
    Network,
    /// Pauses, crashes, restarts, apps that die.
    Process,
    /// People edit, wipe, delete and re-create the Lease.
    Hands,
    /// Leases of different durations in one campaign; a holder that is cut off has its duration cut down.
    Durations,
    /// A client-go candidate campaigns as well.
    Foreign,
    /// The holder is gone, and all others restart more often than a lease duration (L1).
    Restarts,
    /// People edit or delete the Lease, one at a time, which costs nothing but time (L4).
    Touched,
    /// One kind of fault, and nothing else.
    Alone,
    /// All of the above but the foreign candidate and the mixed durations.
    Everything,
    /// An older record is put back, one that names a holder, when every sidecar has seen the newest. Breaks A3, and
    /// harms nobody.
    HeldPutBack,
    /// Any older record is put back (breaks A3).
    PutBack,
    /// etcd is restored under running holders (breaks A5).
    RolledBack,
    /// Clocks differ by up to a fifth (breaks A1).
    ClockRates,
    /// Reads show old versions (breaks A2).
    StaleReads,
    /// Writes are acknowledged and lost (breaks A2).
    LostWrites,
    /// A machine sleeps, and its boot clock with it (breaks A4).
    ClockStood,
}

impl Class {
    pub const ALL: [Class; 21] = [
        Class::Calm,
        Class::Killed,
        Class::Outages,
        Class::Replays,
        Class::HandOver,
        Class::Network,
        Class::Process,
        Class::Hands,
        Class::Durations,
        Class::Foreign,
        Class::Restarts,
        Class::Touched,
        Class::Alone,
        Class::Everything,
        Class::HeldPutBack,
        Class::PutBack,
        Class::RolledBack,
        Class::ClockRates,
        Class::StaleReads,
        Class::LostWrites,
        Class::ClockStood,
    ];

    /// Those that mix most come most.
    fn weight(self) -> u64 {
        match self {
            Class::Process | Class::Hands | Class::Everything => 3,
            Class::Network | Class::Foreign | Class::Alone => 2,
            _ => 1,
        }
    }

    /// The assumption of the design that does not hold.
    pub fn breaks(self) -> Option<&'static str> {
        match self {
            Class::HeldPutBack | Class::PutBack => Some("A3"),
            Class::RolledBack => Some("A5"),
            Class::ClockRates => Some("A1"),
            Class::StaleReads | Class::LostWrites => Some("A2"),
            Class::ClockStood => Some("A4"),
            _ => None,
        }
    }

    /// The invariants that may fail because this class breaks an assumption.
    pub fn excuses(self) -> &'static [&'static str] {
        match self {
            // A released record put back is a proof to whoever never saw the newer term.
            Class::PutBack => &["S1", "S3"],
            // Versions, tokens and transitions begin anew below those given out.
            Class::RolledBack => &["S1", "S3", "S4"],
            Class::ClockRates => &["S1", "S3"],
            Class::LostWrites => &["S1", "S2"],
            Class::ClockStood => &["S1"],
            _ => &[],
        }
    }
}

/// Something that happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    // To single requests and events.
    RequestLost,
    RequestLate,
    /// A write reaches the API server minutes after it was sent, also when all other faults are over.
    WriteMinutesLate,
    /// A late write is committed, and its writer has sent another attempt meanwhile.
    LandedAfterNextAttempt,
    /// A write of a term reaches the API server after the release of that term was sent.
    ArrivedAfterRelease,
    /// A write reaches the API server after another pod's term began.
    ArrivedAfterSuccessor,
    AnswerLost,
    AnswerLate,
    Refused,
    RefusedForNow,
    ServerError,
    ErrorAfterCommit,
    WatchLag,
    WatchReplay,
    PausedBetweenSteps,
    FileWriteSlow,
    FileWriteFailed,
    /// `exec` takes its time between its lock and the reading of the yes.
    ExecLate,
    // At a planned time.
    CutOff,
    CutOffOneWay,
    ApiDown,
    ApiRefuses,
    WatchBroken,
    /// 410: what it asked for is compacted.
    WatchExpired,
    WatchSilent,
    /// A second API server serves the watch, and lags.
    ServerLags,
    Paused,
    /// And its boot clock stands meanwhile.
    Suspended,
    Crashed,
    CrashedStateLost,
    /// That of another pod on the same machine, where all are on one.
    CrashedOtherPodsState,
    /// Every pod is replaced, with other times.
    RolledOut,
    /// Its container is started again, and told to end at once.
    CrashedAndTerminated,
    NodeKilled,
    /// No report file can be written.
    DiskFull,
    AppDied,
    AppUnwell,
    /// Stopped, as by SIGSTOP: it acts on nothing, and goes on with what it was told until that runs out.
    AppPaused,
    /// The pod is frozen: its app, its sidecar and `exec` at once.
    PodPaused,
    /// One of several workers; the app lives on.
    WorkerDied,
    /// It closes its session and opens another, where a session is not evidence.
    WorkerReconnected,
    /// A reader that does not read: this side closes.
    SessionClosed,
    ExecKilled,
    Terminated,
    TerminatedAppFirst,
    /// An ordinary container: lead on until the app has ended.
    TerminatedWaiting,
    SteppedDown,
    /// To a pod whose sidecar runs.
    SteppedDownTo,
    /// To a pod whose sidecar was killed just before, and is not back yet.
    SteppedDownToDead,
    /// To one that is no pod.
    SteppedDownToNobody,
    // Requests in the Lease.
    /// For nobody by name, or a pod whose sidecar runs.
    StepDownAsked,
    StepDownAskedForDead,
    StepDownAskedForNobody,
    StepDownAskedOfAnotherTerm,
    StepDownAskedForItself,
    StepDownGarbled,
    WallClockJumped,
    LabelStorm,
    HolderEdited,
    HolderEditedToCandidate,
    DurationEdited,
    TimesEdited,
    TransitionsEdited,
    TokenRaised,
    TokenGarbled,
    Blanked,
    Wiped,
    Deleted,
    /// While the leader, whose app has died, waits for what was told.
    AppDiedAndDeleted,
    /// While its holder's watch is being begun anew, and a pod that never saw it held comes.
    DeletedUnderABlindHolder,
    Recreated,
    Coordinated,
    PodOwned,
    OldPutBack,
    RolledBack,
    ReadStale,
    WriteLost,
    CutOffAndCut,
    CutOffAndBlanked,
    CutOffAndDeleted,
    // The client-go candidate.
    ForeignCutOff,
    ForeignPaused,
    /// Its process is killed, and another starts under the same identity.
    ForeignKilled,
}

impl Fault {
    pub const ALL: [Fault; 83] = [
        Fault::RequestLost,
        Fault::RequestLate,
        Fault::WriteMinutesLate,
        Fault::LandedAfterNextAttempt,
        Fault::ArrivedAfterRelease,
        Fault::ArrivedAfterSuccessor,
        Fault::AnswerLost,
        Fault::AnswerLate,
        Fault::Refused,
        Fault::RefusedForNow,
        Fault::ServerError,
        Fault::ErrorAfterCommit,
        Fault::WatchLag,
        Fault::WatchReplay,
        Fault::PausedBetweenSteps,
        Fault::FileWriteSlow,
        Fault::FileWriteFailed,
        Fault::ExecLate,
        Fault::CutOff,
        Fault::CutOffOneWay,
        Fault::ApiDown,
        Fault::ApiRefuses,
        Fault::WatchBroken,
        Fault::WatchExpired,
        Fault::WatchSilent,
        Fault::ServerLags,
        Fault::Paused,
        Fault::Suspended,
        Fault::RolledOut,
        Fault::Crashed,
        Fault::CrashedStateLost,
        Fault::CrashedOtherPodsState,
        Fault::CrashedAndTerminated,
        Fault::NodeKilled,
        Fault::DiskFull,
        Fault::AppDied,
        Fault::AppUnwell,
        Fault::AppPaused,
        Fault::PodPaused,
        Fault::WorkerDied,
        Fault::WorkerReconnected,
        Fault::SessionClosed,
        Fault::ExecKilled,
        Fault::Terminated,
        Fault::TerminatedAppFirst,
        Fault::TerminatedWaiting,
        Fault::SteppedDown,
        Fault::SteppedDownTo,
        Fault::SteppedDownToDead,
        Fault::SteppedDownToNobody,
        Fault::StepDownAsked,
        Fault::StepDownAskedForDead,
        Fault::StepDownAskedForNobody,
        Fault::StepDownAskedOfAnotherTerm,
        Fault::StepDownAskedForItself,
        Fault::StepDownGarbled,
        Fault::WallClockJumped,
        Fault::LabelStorm,
        Fault::HolderEdited,
        Fault::HolderEditedToCandidate,
        Fault::DurationEdited,
        Fault::TimesEdited,
        Fault::TransitionsEdited,
        Fault::TokenRaised,
        Fault::TokenGarbled,
        Fault::Blanked,
        Fault::Wiped,
        Fault::Deleted,
        Fault::AppDiedAndDeleted,
        Fault::DeletedUnderABlindHolder,
        Fault::Recreated,
        Fault::Coordinated,
        Fault::PodOwned,
        Fault::OldPutBack,
        Fault::RolledBack,
        Fault::ReadStale,
        Fault::WriteLost,
        Fault::CutOffAndCut,
        Fault::CutOffAndBlanked,
        Fault::CutOffAndDeleted,
        Fault::ForeignCutOff,
        Fault::ForeignPaused,
        Fault::ForeignKilled,
    ];

    const FOREIGN: [Fault; 3] = [Fault::ForeignCutOff, Fault::ForeignPaused, Fault::ForeignKilled];

    const NETWORK: [Fault; 9] = [
        Fault::CutOff,
        Fault::CutOffOneWay,
        Fault::CutOffOneWay,
        Fault::ApiDown,
        Fault::ApiRefuses,
        Fault::WatchBroken,
        Fault::WatchExpired,
        Fault::WatchSilent,
        Fault::ServerLags,
    ];
    const PROCESS: [Fault; 20] = [
        Fault::Paused,
        Fault::Paused,
        Fault::Crashed,
        Fault::Crashed,
        Fault::CrashedStateLost,
        Fault::CrashedOtherPodsState,
        Fault::CrashedAndTerminated,
        Fault::NodeKilled,
        Fault::DiskFull,
        Fault::AppDied,
        Fault::AppUnwell,
        Fault::AppPaused,
        Fault::PodPaused,
        Fault::WorkerDied,
        Fault::WorkerReconnected,
        Fault::SessionClosed,
        Fault::ExecKilled,
        Fault::Terminated,
        Fault::SteppedDown,
        Fault::WallClockJumped,
    ];
    const HANDS: [Fault; 18] = [
        Fault::LabelStorm,
        Fault::HolderEdited,
        Fault::HolderEditedToCandidate,
        Fault::DurationEdited,
        Fault::TimesEdited,
        Fault::TransitionsEdited,
        Fault::TokenRaised,
        Fault::TokenGarbled,
        Fault::Blanked,
        Fault::Wiped,
        Fault::Deleted,
        Fault::AppDiedAndDeleted,
        Fault::DeletedUnderABlindHolder,
        Fault::Recreated,
        Fault::Coordinated,
        Fault::PodOwned,
        Fault::CutOffAndBlanked,
        Fault::StepDownAsked,
    ];
    /// Each that can strike by itself and breaks no assumption.
    pub fn alone() -> impl Iterator<Item = Fault> {
        let of_a_time = [&Fault::NETWORK[..], &Fault::PROCESS, &Fault::HANDS, &Fault::HAND_OVER].concat();
        // What single requests, events and steps have.
        let by_odds = Fault::ALL.into_iter().filter(|fault| Odds::default().field(*fault).is_some());
        by_odds.chain(of_a_time)
    }

    /// What people do in a moment, and cannot undo.
    const TOUCHES: [Fault; 10] = [
        Fault::LabelStorm,
        Fault::HolderEdited,
        Fault::HolderEditedToCandidate,
        Fault::DurationEdited,
        Fault::TimesEdited,
        Fault::TransitionsEdited,
        Fault::Blanked,
        Fault::Wiped,
        Fault::Deleted,
        Fault::Recreated,
    ];
    const HAND_OVER: [Fault; 19] = [
        Fault::SteppedDown,
        Fault::SteppedDownTo,
        Fault::SteppedDownTo,
        Fault::SteppedDownToDead,
        Fault::SteppedDownToNobody,
        Fault::StepDownAsked,
        Fault::StepDownAskedForDead,
        Fault::StepDownAskedForNobody,
        Fault::StepDownAskedOfAnotherTerm,
        Fault::StepDownAskedForItself,
        Fault::StepDownGarbled,
        Fault::Terminated,
        Fault::TerminatedAppFirst,
        Fault::TerminatedWaiting,
        Fault::AppDied,
        Fault::AppUnwell,
        Fault::AppPaused,
        Fault::WorkerDied,
        Fault::SessionClosed,
    ];
}

/// A fault at a time. `at_holder`: it strikes whom the record names, otherwise the pod `whom`.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    pub at: Time,
    pub fault: Fault,
    pub at_holder: bool,
    pub whom: usize,
    pub lasts: Duration,
}

/// How often a single request or step goes wrong, in ten thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odds {
    pub request: u32,
    pub answer: u32,
    pub refused: u32,
    pub watch: u32,
    pub pause: u32,
    pub file_slow: u32,
    pub file_fails: u32,
    pub exec_late: u32,
    pub read_stale: u32,
    pub write_lost: u32,
}

impl Odds {
    /// What makes this kind of fault, if single requests, events or steps have it.
    fn field(&mut self, fault: Fault) -> Option<&mut u32> {
        match fault {
            Fault::RequestLost | Fault::RequestLate | Fault::WriteMinutesLate => Some(&mut self.request),
            Fault::AnswerLost | Fault::AnswerLate => Some(&mut self.answer),
            Fault::Refused | Fault::RefusedForNow | Fault::ServerError | Fault::ErrorAfterCommit => {
                Some(&mut self.refused)
            }
            Fault::WatchLag | Fault::WatchReplay => Some(&mut self.watch),
            Fault::PausedBetweenSteps => Some(&mut self.pause),
            Fault::FileWriteSlow => Some(&mut self.file_slow),
            Fault::FileWriteFailed => Some(&mut self.file_fails),
            Fault::ExecLate => Some(&mut self.exec_late),
            _ => None,
        }
    }

    /// What sets each to nothing.
    pub const CLEAR: [fn(&mut Odds); 10] = [
        |odds| odds.request = 0,
        |odds| odds.answer = 0,
        |odds| odds.refused = 0,
        |odds| odds.watch = 0,
        |odds| odds.pause = 0,
        |odds| odds.file_slow = 0,
        |odds| odds.file_fails = 0,
        |odds| odds.exec_late = 0,
        |odds| odds.read_stale = 0,
        |odds| odds.write_lost = 0,
    ];
}

/// What tells the sidecar that its app lives (design, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    Lock,
    Session,
    Probe,
    Asking,
}

/// How an app is made.
#[derive(Clone, Debug)]
pub struct AppPlan {
    /// Alive while all say so; without any, always.
    pub evidence: Vec<Evidence>,
    /// Of each of its processes.
    pub workers: Vec<WorkerPlan>,
    /// `leasehold exec` runs beside it, with this term grace.
    pub exec: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerPlan {
    /// Asks, and reads the file.
    Asks,
    /// Opens a session before that.
    Session,
    /// Knows what its exclusive session tells it, and nothing else.
    Exclusive,
}

impl AppPlan {
    /// An app that only asks.
    pub fn simple() -> AppPlan {
        AppPlan { evidence: vec![], workers: vec![WorkerPlan::Asks], exec: None }
    }

    pub fn has(&self, evidence: Evidence) -> bool {
        self.evidence.contains(&evidence)
    }

    fn some(rng: &mut Rng, config: &Config) -> AppPlan {
        use Evidence::{Asking, Lock, Probe, Session};
        let evidence = match rng.between(0, 11) {
            0 | 1 => vec![],
            2 | 3 => vec![Lock],
            4..=6 => vec![Session],
            7 => vec![Probe],
            8 => vec![Asking],
            9 => vec![Lock, Session],
            10 => vec![Lock, Probe],
            _ => vec![Session, Asking],
        };
        let some_session = |rng: &mut Rng| match evidence.contains(&Asking) {
            true => WorkerPlan::Session,
            false => rng.pick(&[WorkerPlan::Session, WorkerPlan::Exclusive]),
        };
        let workers = if evidence.contains(&Session) || rng.percent(10) {
            (0..rng.between(1, 3)).map(|_| some_session(rng)).collect()
        } else {
            vec![WorkerPlan::Asks]
        };
        let fits = (config.hold_time().saturating_sub(EXEC_MARGIN)).saturating_sub(config.renew_deadline);
        let exec = (fits > Duration::from_millis(200) && rng.percent(50))
            .then(|| rng.duration(Duration::from_millis(50), fits));
        AppPlan { evidence, workers, exec }
    }
}

/// All that `exec` started has ended so long before others can take the lease.
pub const EXEC_MARGIN: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
pub struct Plan {
    pub class: Class,
    /// One for each candidate; the identity is set at each start.
    pub configs: Vec<Config>,
    pub apps: Vec<AppPlan>,
    pub foreign: bool,
    pub odds: Odds,
    /// Nothing else goes wrong.
    pub alone: Option<Fault>,
    pub strikes: Vec<Strike>,
    /// No fault begins or goes on after it.
    pub faults_until: Time,
    /// The Lease exists when the schedule begins, as this says.
    pub begins: Beginning,
    /// All pods are on it: they share a boot clock.
    pub one_machine: bool,
    /// The times of the pods that replace the first ones.
    pub rollout: Option<Config>,
    /// No candidate loses its state directory (but at a kill of its node, it never returns before the end).
    pub nobody_forgets: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    Absent,
    /// Held by a pod that is gone.
    Orphaned,
    /// Unheld, without proof.
    Bare,
}

impl Plan {
    pub fn new(seed: u64, rng: &mut Rng) -> Plan {
        // Classes take turns, so that few seeds reach all.
        let mut place = seed % Class::ALL.iter().map(|class| class.weight()).sum::<u64>();
        let class = Class::ALL.into_iter().find(|class| {
            let found = place < class.weight();
            place = place.saturating_sub(class.weight());
            found
        });
        let class = class.unwrap_or(Class::Everything);
        Plan::of_class(class, rng)
    }

    pub fn of_class(class: Class, rng: &mut Rng) -> Plan {
        let candidates = rng.between(2, 5) as usize;
        let times = Config { trust_unheld: rng.percent(15), ..some_times(rng) };
        let rollout = (class == Class::Durations && rng.percent(50)).then(|| some_times(rng));
        let configs: Vec<Config> = (0..candidates)
            .map(|_| {
                let mixed = class == Class::Durations && rollout.is_none();
                let times = if mixed { some_times(rng) } else { times.clone() };
                Config { replicas: rng.percent(50).then_some(candidates as u32), ..times }
            })
            .collect();
        let longest = configs.iter().chain(&rollout).map(|config| config.lease_duration).max().unwrap_or_default();
        let apps = configs.iter().map(|config| AppPlan::some(rng, config)).collect();
        let span = longest * rng.between(4, 8) as u32;
        let mut plan = Plan {
            class,
            configs,
            apps,
            foreign: class == Class::Foreign,
            odds: Odds::default(),
            alone: None,
            strikes: Vec::new(),
            faults_until: Time::START.plus(span),
            begins: rng.pick(&[Beginning::Absent, Beginning::Absent, Beginning::Orphaned, Beginning::Bare]),
            one_machine: rng.percent(20),
            rollout,
            nobody_forgets: true,
        };
        plan.fill(rng, longest);
        plan
    }

    fn fill(&mut self, rng: &mut Rng, longest: Duration) {
        let mut faults: Vec<Fault> = Vec::new();
        let mut draw = |from: &[Fault], least: u64, most: u64, rng: &mut Rng| {
            for _ in 0..rng.between(least, most) {
                faults.push(rng.pick(from));
            }
        };
        match self.class {
            Class::Calm => {}
            Class::Killed => draw(&[Fault::NodeKilled], 1, self.configs.len() as u64 - 1, rng),
            Class::Outages => draw(&[Fault::ApiDown, Fault::ApiRefuses, Fault::CutOff, Fault::CutOffOneWay], 1, 4, rng),
            Class::HandOver => draw(&Fault::HAND_OVER, 1, 4, rng),
            Class::Network => {
                self.odds = some_odds(rng);
                draw(&Fault::NETWORK, 1, 6, rng);
            }
            Class::Process => {
                self.odds.pause = rng.between(0, 100) as u32;
                self.odds.file_slow = rng.between(0, 3000) as u32;
                self.odds.file_fails = rng.between(0, 3000) as u32;
                self.odds.exec_late = 2000;
                draw(&Fault::PROCESS, 1, 6, rng);
                draw(&Fault::HAND_OVER, 0, 2, rng);
            }
            Class::Hands => {
                if rng.percent(30) {
                    self.odds = some_odds(rng);
                }
                draw(&Fault::HANDS, 1, 6, rng);
                draw(&Fault::HAND_OVER, 0, 2, rng);
            }
            Class::Durations => {
                draw(&[Fault::CutOffAndCut, Fault::CutOffAndBlanked], 1, 2, rng);
                draw(&[Fault::SteppedDown, Fault::Paused, Fault::CutOff], 0, 2, rng);
                if self.rollout.is_some() {
                    draw(&[Fault::RolledOut], 1, 1, rng);
                }
            }
            Class::Foreign => {
                if rng.percent(70) {
                    self.odds = some_odds(rng);
                }
                draw(&[Fault::Blanked, Fault::TimesEdited], 0, 1, rng);
                draw(&Fault::FOREIGN, 0, 3, rng);
                draw(&Fault::NETWORK, 0, 3, rng);
                draw(&Fault::PROCESS, 0, 3, rng);
                draw(&Fault::HAND_OVER, 0, 3, rng);
            }
            Class::Alone => {
                let kinds: Vec<Fault> = Fault::alone().collect();
                let alone = rng.pick(&kinds);
                self.alone = Some(alone);
                // What a schedule of few pods on machines of their own does not have.
                self.one_machine |= alone == Fault::CrashedOtherPodsState;
                match self.odds.field(alone) {
                    Some(field) => *field = rng.between(300, 3000) as u32,
                    None => draw(&[alone], 2, 8, rng),
                }
                if alone == Fault::WriteMinutesLate {
                    self.odds.request = 10_000;
                }
            }
            Class::Everything => {
                self.odds = some_odds(rng);
                draw(&Fault::NETWORK, 0, 3, rng);
                draw(&Fault::PROCESS, 0, 3, rng);
                draw(&Fault::HANDS, 0, 3, rng);
                draw(&Fault::HAND_OVER, 0, 2, rng);
                draw(&[Fault::CutOffAndDeleted], 0, 1, rng);
            }
            Class::Replays => {
                self.odds.watch = rng.between(500, 5000) as u32;
                draw(&[Fault::WatchExpired, Fault::WatchExpired, Fault::WatchBroken, Fault::ServerLags], 10, 60, rng);
            }
            Class::Restarts => {}
            Class::Touched => draw(&Fault::TOUCHES, 1, 4, rng),
            Class::ClockRates => {
                draw(&Fault::NETWORK, 0, 3, rng);
                draw(&Fault::PROCESS, 0, 3, rng);
                draw(&Fault::HAND_OVER, 0, 2, rng);
            }
            Class::StaleReads | Class::LostWrites => {
                self.odds = some_odds(rng);
                if self.class == Class::StaleReads {
                    self.odds.read_stale = rng.between(100, 5000) as u32;
                } else {
                    self.odds.write_lost = rng.between(100, 3000) as u32;
                }
                draw(&Fault::NETWORK, 0, 3, rng);
                draw(&Fault::PROCESS, 0, 3, rng);
                draw(&Fault::HAND_OVER, 0, 2, rng);
            }
            Class::ClockStood => {
                draw(&[Fault::Suspended], 1, 3, rng);
                draw(&Fault::NETWORK, 0, 2, rng);
                draw(&Fault::PROCESS, 0, 2, rng);
                draw(&Fault::HAND_OVER, 0, 2, rng);
            }
            Class::HeldPutBack | Class::PutBack => {
                draw(&[Fault::OldPutBack], 1, 3, rng);
                draw(&Fault::PROCESS, 0, 3, rng);
                draw(&Fault::HAND_OVER, 1, 3, rng);
            }
            Class::RolledBack => {
                draw(&[Fault::RolledBack], 1, 2, rng);
                draw(&Fault::PROCESS, 0, 2, rng);
                draw(&Fault::HAND_OVER, 1, 3, rng);
            }
        }
        // A raised floor holds for this Lease's life: after a deletion an operator raises it again (section 3).
        let ends_the_object = |fault: &Fault| {
            matches!(
                fault,
                Fault::Deleted
                    | Fault::AppDiedAndDeleted
                    | Fault::DeletedUnderABlindHolder
                    | Fault::CutOffAndDeleted
                    | Fault::Wiped
                    | Fault::Recreated
                    | Fault::PodOwned
            )
        };
        if faults.iter().any(ends_the_object) {
            faults.retain(|fault| *fault != Fault::TokenRaised);
        }
        self.nobody_forgets = !faults.iter().any(|fault| {
            matches!(
                fault,
                Fault::CrashedStateLost
                    | Fault::CrashedOtherPodsState
                    | Fault::DeletedUnderABlindHolder
                    | Fault::RolledOut
                    | Fault::CrashedAndTerminated
                    | Fault::NodeKilled
                    | Fault::Terminated
                    | Fault::TerminatedAppFirst
                    | Fault::TerminatedWaiting
            )
        });
        if self.class == Class::Killed && rng.percent(50) {
            self.strikes.push(Strike {
                at: Time::START,
                fault: Fault::LabelStorm,
                at_holder: false,
                whom: 0,
                lasts: longest * 100,
            });
        }
        if self.class == Class::Restarts {
            self.restart_all(rng, longest);
        }
        let n = faults.len() as u64;
        let span = self.faults_until.0;
        let quiet = matches!(self.class, Class::Killed | Class::HandOver | Class::Outages | Class::Touched);
        for (i, fault) in (0u64..).zip(faults) {
            let (from, to) = if quiet {
                // One at a time, each with the time to be got over.
                let room = 3 * longest.as_nanos() as u64;
                self.faults_until = Time((n + 1) * room);
                ((i + 1) * room, (i + 1) * room + room / 3)
            } else {
                (span / 10, span * 9 / 10)
            };
            let lasts = match rng.between(0, 3) {
                0 => rng.duration(Duration::from_millis(1), longest / 4),
                1 | 2 => rng.duration(longest / 4, longest),
                _ => rng.duration(longest, longest * 3),
            };
            let lasts = if self.class == Class::Outages { self.harmless_outage() } else { lasts };
            self.strikes.push(Strike {
                at: Time(rng.between(from, to)),
                fault,
                at_holder: quiet || rng.percent(70),
                whom: rng.between(0, self.configs.len() as u64 - 1) as usize,
                lasts,
            });
        }
    }
}

impl Plan {
    /// The holder is killed for good, and every other sidecar goes on restarting until the end.
    fn restart_all(&mut self, rng: &mut Rng, longest: Duration) {
        // A new sidecar tells an exclusive session nothing for an answer TTL, which may be longer than it lives.
        for worker in self.apps.iter_mut().flat_map(|app| &mut app.workers) {
            if *worker == WorkerPlan::Exclusive {
                *worker = WorkerPlan::Session;
            }
        }
        let killed = Time::START.plus(longest * 3);
        self.faults_until = killed.plus(longest * 3);
        let strike = |at, fault, at_holder, whom| Strike { at, fault, at_holder, whom, lasts: longest * 100 };
        self.strikes.push(strike(killed, Fault::NodeKilled, true, 0));
        for whom in 0..self.configs.len() {
            let mut at = killed.plus(rng.duration(Duration::ZERO, longest / 2));
            while at < self.faults_until {
                self.strikes.push(strike(at, Fault::Crashed, false, whom));
                at = at.plus(rng.duration(longest / 2, longest * 9 / 10));
            }
        }
    }

    /// L3: shorter than renew deadline - renew interval - attempt time-out - retry period - 2 round trips.
    fn harmless_outage(&self) -> Duration {
        let config = &self.configs[0];
        let timeout = ATTEMPT_TIMEOUT.min(config.renew_deadline / 3);
        let round_trips = Duration::from_millis(50);
        config.renew_deadline.saturating_sub(config.renew_interval + timeout + config.retry_period + round_trips)
    }
}

/// Times that a configuration may have, most with little room between the deadlines.
fn some_times(rng: &mut Rng) -> Config {
    let ms = Duration::from_millis;
    let times = |d, deadline, interval, retry, ttl| Config {
        lease_duration: Duration::from_secs(d),
        renew_deadline: ms(deadline),
        renew_interval: ms(interval),
        retry_period: ms(retry),
        answer_ttl: ms(ttl),
        ..Config::default()
    };
    let config = match rng.between(0, 6) {
        0 => times(15, 12_000, 3_000, 1_000, 1_000),
        1 => times(4, 3_990, 1_000, 300, 1_000),
        2 => times(3, 2_990, 1_000, 200, 300),
        3 => times(6, 5_000, 1_500, 500, 5_000),
        4 | 5 => times(4, 2_500, 1_000, 300, 300),
        _ => times(5, 4_980, 1_000, 1_000, 2_500),
    };
    assert!(config.faults().is_empty(), "{:?}", config.faults());
    config
}

fn some_odds(rng: &mut Rng) -> Odds {
    let scale = rng.pick(&[0, 1, 3]);
    Odds {
        request: scale * rng.between(0, 600) as u32,
        answer: scale * rng.between(0, 600) as u32,
        refused: scale * rng.between(0, 300) as u32,
        watch: scale * rng.between(0, 600) as u32,
        pause: rng.between(0, 40) as u32,
        file_slow: rng.between(0, 2000) as u32,
        file_fails: rng.between(0, 1000) as u32,
        exec_late: 1000,
        ..Odds::default()
    }
}
