//! What goes wrong in a schedule: a plan that one seed makes, and the classes that plans come from.
//!
//! A class says which assumptions of the design (A1 to A5) its faults keep, and so which invariants hold in it. Only
//! two break one: `PutBack` (A3: an older record is put back) and `RolledBack` (A5). What may fail then is named in
//! [`Class::excuses`], and nothing else may.

use std::time::Duration;

use leasehold::election::{ATTEMPT_TIMEOUT, Config};

use crate::rng::Rng;
use crate::trace::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing goes wrong: one leader, for good.
    Calm,
    /// Holders are killed, and nothing else happens but edits of labels (L1).
    Killed,
    /// Outages too short to change anything (L3).
    Outages,
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
    /// All of the above but the foreign candidate and the mixed durations.
    Everything,
    /// An older record is put back (breaks A3).
    PutBack,
    /// etcd is restored under running holders (breaks A5).
    RolledBack,
}

impl Class {
    pub const ALL: [Class; 12] = [
        Class::Calm,
        Class::Killed,
        Class::Outages,
        Class::HandOver,
        Class::Network,
        Class::Process,
        Class::Hands,
        Class::Durations,
        Class::Foreign,
        Class::Everything,
        Class::PutBack,
        Class::RolledBack,
    ];

    /// The invariants that may fail because this class breaks an assumption.
    pub fn excuses(self) -> &'static [&'static str] {
        match self {
            // A released record put back is a proof to whoever never saw the newer term.
            Class::PutBack => &["S1", "S3"],
            // Versions, tokens and transitions begin anew below those given out.
            Class::RolledBack => &["S1", "S2", "S3", "S4", "S9"],
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
    AnswerLost,
    AnswerLate,
    Refused,
    RefusedForNow,
    ServerError,
    ErrorAfterCommit,
    WatchLag,
    WatchReplay,
    PausedBetweenSteps,
    WithdrawnLate,
    // At a planned time.
    CutOff,
    CutOffOneWay,
    ApiDown,
    ApiRefuses,
    WatchBroken,
    WatchSilent,
    Paused,
    Crashed,
    CrashedStateLost,
    CrashedOtherPodsState,
    NodeKilled,
    AppDied,
    AppUnwell,
    Terminated,
    TerminatedAppFirst,
    SteppedDown,
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
    Recreated,
    Coordinated,
    PodOwned,
    OldPutBack,
    RolledBack,
    CutOffAndCut,
    CutOffAndBlanked,
    CutOffAndDeleted,
}

impl Fault {
    pub const ALL: [Fault; 48] = [
        Fault::RequestLost,
        Fault::RequestLate,
        Fault::AnswerLost,
        Fault::AnswerLate,
        Fault::Refused,
        Fault::RefusedForNow,
        Fault::ServerError,
        Fault::ErrorAfterCommit,
        Fault::WatchLag,
        Fault::WatchReplay,
        Fault::PausedBetweenSteps,
        Fault::WithdrawnLate,
        Fault::CutOff,
        Fault::CutOffOneWay,
        Fault::ApiDown,
        Fault::ApiRefuses,
        Fault::WatchBroken,
        Fault::WatchSilent,
        Fault::Paused,
        Fault::Crashed,
        Fault::CrashedStateLost,
        Fault::CrashedOtherPodsState,
        Fault::NodeKilled,
        Fault::AppDied,
        Fault::AppUnwell,
        Fault::Terminated,
        Fault::TerminatedAppFirst,
        Fault::SteppedDown,
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
        Fault::Recreated,
        Fault::Coordinated,
        Fault::PodOwned,
        Fault::OldPutBack,
        Fault::RolledBack,
        Fault::CutOffAndCut,
        Fault::CutOffAndBlanked,
        Fault::CutOffAndDeleted,
    ];

    const NETWORK: [Fault; 7] = [
        Fault::CutOff,
        Fault::CutOffOneWay,
        Fault::CutOffOneWay,
        Fault::ApiDown,
        Fault::ApiRefuses,
        Fault::WatchBroken,
        Fault::WatchSilent,
    ];
    const PROCESS: [Fault; 12] = [
        Fault::Paused,
        Fault::Paused,
        Fault::Crashed,
        Fault::Crashed,
        Fault::CrashedStateLost,
        Fault::CrashedOtherPodsState,
        Fault::NodeKilled,
        Fault::AppDied,
        Fault::AppUnwell,
        Fault::Terminated,
        Fault::SteppedDown,
        Fault::WallClockJumped,
    ];
    const HANDS: [Fault; 15] = [
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
        Fault::Recreated,
        Fault::Coordinated,
        Fault::PodOwned,
        Fault::CutOffAndBlanked,
    ];
    const HAND_OVER: [Fault; 5] =
        [Fault::SteppedDown, Fault::Terminated, Fault::TerminatedAppFirst, Fault::AppDied, Fault::AppUnwell];
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
#[derive(Clone, Copy, Debug, Default)]
pub struct Odds {
    pub request: u32,
    pub answer: u32,
    pub refused: u32,
    pub watch: u32,
    pub pause: u32,
    pub withdrawn_late: u32,
}

/// What tells the sidecar that its app lives (design, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    None,
    Lock,
    Probe,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub class: Class,
    /// One for each candidate; the identity is set at each start.
    pub configs: Vec<Config>,
    pub evidence: Vec<Evidence>,
    pub foreign: bool,
    pub odds: Odds,
    pub strikes: Vec<Strike>,
    /// No fault begins or goes on after it.
    pub faults_until: Time,
    /// The Lease exists when the schedule begins, as this says.
    pub begins: Beginning,
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
        // Classes take turns, so that few seeds reach all; those that mix most come most.
        let class = match seed % 20 {
            0 => Class::Calm,
            1 => Class::Killed,
            2 => Class::HandOver,
            3 => Class::Outages,
            4..=5 => Class::Network,
            6..=8 => Class::Process,
            9..=11 => Class::Hands,
            12 => Class::Durations,
            13 | 14 => Class::Foreign,
            15..=17 => Class::Everything,
            18 => Class::PutBack,
            _ => Class::RolledBack,
        };
        Plan::of_class(class, rng)
    }

    pub fn of_class(class: Class, rng: &mut Rng) -> Plan {
        let candidates = rng.between(2, 5) as usize;
        let times = some_times(rng);
        let configs: Vec<Config> = (0..candidates)
            .map(|_| {
                let times = if class == Class::Durations { some_times(rng) } else { times.clone() };
                Config { replicas: rng.percent(50).then_some(candidates as u32), ..times }
            })
            .collect();
        let longest = configs.iter().map(|config| config.lease_duration).max().unwrap_or_default();
        let evidence = (0..candidates).map(|_| rng.pick(&[Evidence::None, Evidence::Lock, Evidence::Probe])).collect();
        let span = longest * rng.between(4, 8) as u32;
        let mut plan = Plan {
            class,
            configs,
            evidence,
            foreign: class == Class::Foreign,
            odds: Odds::default(),
            strikes: Vec::new(),
            faults_until: Time::START.plus(span),
            begins: rng.pick(&[Beginning::Absent, Beginning::Absent, Beginning::Orphaned, Beginning::Bare]),
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
                self.odds.withdrawn_late = rng.between(0, 3000) as u32;
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
            }
            Class::Foreign => {
                if rng.percent(70) {
                    self.odds = some_odds(rng);
                }
                draw(&Fault::NETWORK, 0, 3, rng);
                draw(&Fault::PROCESS, 0, 3, rng);
                draw(&Fault::HAND_OVER, 0, 3, rng);
            }
            Class::Everything => {
                self.odds = some_odds(rng);
                draw(&Fault::NETWORK, 0, 3, rng);
                draw(&Fault::PROCESS, 0, 3, rng);
                draw(&Fault::HANDS, 0, 3, rng);
                draw(&Fault::HAND_OVER, 0, 2, rng);
                draw(&[Fault::CutOffAndDeleted], 0, 1, rng);
            }
            Class::PutBack => {
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
                Fault::Deleted | Fault::CutOffAndDeleted | Fault::Wiped | Fault::Recreated | Fault::PodOwned
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
                    | Fault::NodeKilled
                    | Fault::Terminated
                    | Fault::TerminatedAppFirst
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
        let n = faults.len() as u64;
        let span = self.faults_until.0;
        let quiet = matches!(self.class, Class::Killed | Class::HandOver | Class::Outages);
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
    let config = match rng.between(0, 4) {
        0 => times(15, 12_000, 3_000, 1_000, 1_000),
        1 => times(4, 3_990, 1_000, 300, 1_000),
        2 => times(3, 2_990, 1_000, 200, 300),
        3 => times(6, 5_000, 1_500, 500, 5_000),
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
        withdrawn_late: rng.between(0, 2000) as u32,
    }
}
