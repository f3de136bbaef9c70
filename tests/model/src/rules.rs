//! Where a broken rule of the election shows: the setup and the bound, and as what.

use std::time::Duration;

use leasehold::election::BrokenRule;

use crate::report::{Explored, Order, explore};
use crate::setup::Setup;

pub struct Caught {
    pub setup: &'static str,
    pub faults: u8,
    pub seconds: u64,
    pub by: &'static [&'static str],
}

const fn caught(setup: &'static str, faults: u8, seconds: u64, by: &'static [&'static str]) -> Option<Caught> {
    Some(Caught { setup, faults, seconds, by })
}

/// `None` for the rules of what is not modelled: the app's lock and sessions, the report file, how `exec` begins, and
/// a state directory that comes from another pod (of the same machine: here each pod has a clock of its own).
pub fn caught_by(rule: BrokenRule) -> Option<Caught> {
    match rule {
        BrokenRule::CountFromAnswer => caught("network", 1, 6, &["S2"]),
        BrokenRule::ForgetRho | BrokenRule::LeadUntilStopBy => caught("network", 0, 2, &["S2"]),
        BrokenRule::ReuseRenewTime => caught("network", 0, 6, &["S1", "S2", "S8"]),
        BrokenRule::ConflictIsSuccess => caught("brief outages", 1, 6, &["S2"]),
        BrokenRule::ConflictIsLoss => caught("brief outages", 1, 6, &["L3"]),
        BrokenRule::FailedReadIsSuccess => caught("brief outages", 2, 6, &["S2"]),
        BrokenRule::FailedReadIsLoss => caught("brief outages", 2, 6, &["L3"]),
        BrokenRule::ObeyRetryAfter => caught("brief outages", 1, 8, &["L3"]),
        BrokenRule::RevivePastDeadline => caught("process", 1, 6, &["S8"]),
        BrokenRule::OldReadGoesBack => caught("brief outages", 2, 4, &["L3"]),
        BrokenRule::BelieveOlderVersions => caught("network", 1, 6, &["L4"]),
        BrokenRule::LeadThroughForeignRecord | BrokenRule::LeadThroughEdits => {
            caught("hands", 1, 6, &["holder rule 6", "S1"])
        }
        BrokenRule::AnyRecordInMyName => caught("hands and a crash", 2, 4, &["S1"]),
        BrokenRule::ReleaseOverAnother => caught("process", 1, 8, &["S1", "S3"]),
        BrokenRule::ReleaseWithoutWaiting | BrokenRule::ReleaseBeforePublishing => caught("leaving", 1, 6, &["S7"]),
        BrokenRule::OldWithdrawalCounts => caught("app", 2, 6, &["S7"]),
        BrokenRule::EnforcerNotWaitedFor => caught("exec", 1, 6, &["S7", "S1"]),
        BrokenRule::TrustEmptyHolder => caught("hands", 1, 6, &["S1", "S3"]),
        BrokenRule::AnyProof => caught("released, then edited", 3, 4, &["S1", "S3"]),
        BrokenRule::TrustHeld => caught("trusting", 1, 6, &["S1", "S3"]),
        BrokenRule::TrustWallClock => caught("leaving", 1, 6, &["S1", "S3"]),
        BrokenRule::LabelsRestartAge => caught("hands and a crash", 1, 6, &["L4"]),
        BrokenRule::NewestDuration => caught("durations", 2, 8, &["S1", "S3"]),
        BrokenRule::ShortDurationBelieved => caught("durations, short first", 1, 6, &["S1", "S3"]),
        BrokenRule::LeadAsCreated => caught("absent", 0, 4, &["S1", "S3"]),
        BrokenRule::TokenFromTransitions => caught("hands", 1, 8, &["S4"]),
        BrokenRule::TokenIgnoresAnnotation => caught("hands and a crash", 2, 8, &["S4"]),
        BrokenRule::TransitionsStand => caught("leaving", 1, 6, &["S9"]),
        BrokenRule::HeedAnyRequest | BrokenRule::HeedOwnName => caught("requests", 1, 6, &["step-down"]),
        BrokenRule::ReleaseNamesNobody | BrokenRule::NoHeadStart => caught("three, leaving", 1, 4, &["L2 named"]),
        BrokenRule::NoHoldOff => caught("leaving", 1, 6, &["L2"]),
        BrokenRule::LeaveAtTheEnd => caught("leaving", 1, 6, &["grace"]),
        BrokenRule::LeaveAtOnce => caught("leaving", 1, 6, &["wait-for-app"]),
        BrokenRule::EndWhenReleased => caught("everything", 2, 6, &["in time", "busy"]),
        BrokenRule::FormerPromiseForgotten => caught("exec", 2, 4, &["S7", "S1"]),
        BrokenRule::FormerEnforcerForgotten => caught("exec", 2, 4, &["S7", "S1"]),
        BrokenRule::PromiseWithoutTtl => caught("hands and a crash", 2, 6, &["S1", "S7"]),
        BrokenRule::PromisePastDeadline => caught("tight, clocks apart", 0, 2, &["S6"]),
        BrokenRule::UidNotSent => caught("released, then deleted", 2, 3, &["S3"]),
        BrokenRule::SeenForgotten => caught("process", 1, 6, &["L4"]),
        BrokenRule::ForeignChangeIgnored => caught("exec, deleted", 2, 4, &["S1"]),
        // Looked for by the simulator alone.
        BrokenRule::HoldBlindly
        | BrokenRule::RetryOnFirstBase
        | BrokenRule::LossEndsCampaign
        | BrokenRule::AnyFormersRecord => None,
        // A3 is broken where this shows.
        BrokenRule::ReleasePutBack => None,
        BrokenRule::OtherPodsState
        | BrokenRule::FormerSessionsForgotten
        | BrokenRule::LockNotTaken
        | BrokenRule::LockLetGoEarly
        | BrokenRule::OldAppsEndProves
        | BrokenRule::ClosedByUsProves
        | BrokenRule::OneSessionsEndProves
        | BrokenRule::ToldBeforeTheFile
        | BrokenRule::OldFileForgotten
        | BrokenRule::ReadBeforeLock => None,
    }
}

/// Looks for the shortest path on which this rule, broken, violates something.
pub fn find(rule: BrokenRule, caught: &Caught) -> Explored {
    let family = Setup::named(caught.setup).unwrap_or_else(|| panic!("{rule:?}: no setup {:?}", caught.setup));
    let setup = family.within(caught.faults, Duration::from_secs(caught.seconds));
    explore(Setup { broken: Some(rule), ..setup }, Order::BreadthFirst, 1)
}
