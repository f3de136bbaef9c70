//! What proves that the simulator sees: with one rule of the design broken, it must name the invariant that fails.

use std::fmt::Write as _;

use leasehold::election::BrokenRule;

use crate::checks::Violation;
use crate::faults::Class;
use crate::many::{run_caught, schedule_of};
use crate::shrink::{Shrunk, shrink};
use crate::{number, told};

/// A broken rule is noticed within so many schedules of its class, or a check is missing.
const SCHEDULES: u64 = 20_000;

/// Where a broken rule shows, and as what.
fn caught_by(rule: BrokenRule) -> (Class, &'static [&'static str]) {
    match rule {
        BrokenRule::CountFromAnswer => (Class::Network, &["S2"]),
        BrokenRule::ForgetRho => (Class::Calm, &["S2"]),
        BrokenRule::LeadUntilStopBy => (Class::Calm, &["S2"]),
        BrokenRule::ReuseRenewTime => (Class::Network, &["S1", "S2"]),
        BrokenRule::ConflictIsSuccess => (Class::Network, &["S2"]),
        BrokenRule::ConflictIsLoss => (Class::Outages, &["L3"]),
        BrokenRule::FailedReadIsSuccess => (Class::Network, &["S2"]),
        BrokenRule::FailedReadIsLoss => (Class::Outages, &["L3"]),
        BrokenRule::RetryOnFirstBase => (Class::Network, &["S5"]),
        BrokenRule::LossEndsCampaign => (Class::Touched, &["L4"]),
        BrokenRule::ObeyRetryAfter => (Class::Outages, &["L3"]),
        BrokenRule::RevivePastDeadline => (Class::Network, &["S8"]),
        BrokenRule::OldReadGoesBack => (Class::Replays, &["L3"]),
        BrokenRule::BelieveOlderVersions => (Class::Replays, &["L3"]),
        BrokenRule::LeadThroughForeignRecord => (Class::Hands, &["holder rule 6"]),
        BrokenRule::HoldBlindly => (Class::Hands, &["S1"]),
        BrokenRule::LeadThroughEdits => (Class::Hands, &["holder rule 6", "S1"]),
        BrokenRule::AnyRecordInMyName => (Class::Hands, &["S1"]),
        BrokenRule::AnyFormersRecord => (Class::Everything, &["S3"]),
        BrokenRule::ReleasePutBack => (Class::HeldPutBack, &["S1"]),
        BrokenRule::ReleaseOverAnother => (Class::Hands, &["S1"]),
        BrokenRule::ReleaseWithoutWaiting => (Class::Process, &["S7", "S1"]),
        BrokenRule::ReleaseBeforePublishing => (Class::Process, &["S7"]),
        BrokenRule::OldWithdrawalCounts => (Class::Process, &["S7", "S1"]),
        BrokenRule::EnforcerNotWaitedFor => (Class::HandOver, &["S7", "S1"]),
        BrokenRule::TrustEmptyHolder => (Class::Hands, &["S1", "S3"]),
        BrokenRule::AnyProof => (Class::Foreign, &["S1", "S3"]),
        BrokenRule::TrustHeld => (Class::Process, &["S1", "S3", "S4"]),
        BrokenRule::TrustWallClock => (Class::Process, &["S1", "S3"]),
        BrokenRule::LabelsRestartAge => (Class::Killed, &["L1"]),
        BrokenRule::NewestDuration => (Class::Durations, &["S1"]),
        BrokenRule::ShortDurationBelieved => (Class::Durations, &["S1", "S3"]),
        BrokenRule::LeadAsCreated => (Class::Hands, &["S1", "S3"]),
        BrokenRule::TokenFromTransitions => (Class::Hands, &["S4"]),
        BrokenRule::TokenIgnoresAnnotation => (Class::Hands, &["S4"]),
        BrokenRule::TransitionsStand => (Class::Calm, &["S9"]),
        BrokenRule::HeedAnyRequest | BrokenRule::HeedOwnName => (Class::HandOver, &["step-down"]),
        BrokenRule::ReleaseNamesNobody | BrokenRule::NoHeadStart => (Class::HandOver, &["L2 named"]),
        BrokenRule::NoHoldOff => (Class::HandOver, &["L2"]),
        BrokenRule::LeaveAtTheEnd => (Class::HandOver, &["grace", "L2"]),
        BrokenRule::LeaveAtOnce => (Class::HandOver, &["wait-for-app"]),
        BrokenRule::EndWhenReleased => (Class::Everything, &["in time", "busy"]),
        BrokenRule::UidNotSent => (Class::Everything, &["S3"]),
        BrokenRule::PromiseWithoutTtl => (Class::HandOver, &["L2"]),
        BrokenRule::PromisePastDeadline => (Class::Network, &["S6", "S1"]),
        BrokenRule::OtherPodsState => (Class::Process, &["S3", "S1"]),
        BrokenRule::SeenForgotten => (Class::Restarts, &["L1"]),
        BrokenRule::FormerPromiseForgotten => (Class::Process, &["S7", "S1"]),
        BrokenRule::FormerSessionsForgotten => (Class::Process, &["exclusive"]),
        BrokenRule::FormerEnforcerForgotten => (Class::Process, &["S7", "S1"]),
        BrokenRule::LockNotTaken | BrokenRule::LockLetGoEarly => (Class::Process, &["S7", "S1"]),
        BrokenRule::OldAppsEndProves => (Class::Process, &["S7", "S1"]),
        BrokenRule::ClosedByUsProves => (Class::HandOver, &["S7", "S1"]),
        BrokenRule::OneSessionsEndProves => (Class::HandOver, &["S7", "S1"]),
        BrokenRule::ToldBeforeTheFile => (Class::Process, &["S7", "S1"]),
        BrokenRule::OldFileForgotten => (Class::Process, &["S7", "S1"]),
        BrokenRule::ReadBeforeLock => (Class::Process, &["S7", "S1", "holder rule 6"]),
        BrokenRule::ForeignChangeIgnored => (Class::Hands, &["holder rule 6", "S1"]),
    }
}

/// How many schedules it took, and what noticed.
fn noticed(rule: BrokenRule, class: Class) -> Option<(u64, Violation)> {
    (1..=SCHEDULES).find_map(|seed| {
        let (plan, rng) = schedule_of(class, seed);
        run_caught(&plan, &rng, Some(rule), false).violation.map(|violation| (seed, violation))
    })
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build has no rules to break")]
fn wrong_rules_are_caught() {
    let mut table = String::from("| Wrong rule | Class | Schedules | Caught by |\n|---|---|---|---|\n");
    let mut survivors = Vec::new();
    for rule in BrokenRule::ALL {
        let (class, expected) = caught_by(*rule);
        match noticed(*rule, class) {
            None => survivors.push(format!("{rule:?}: {SCHEDULES} schedules of {class:?} did not notice")),
            Some((seed, violation)) => {
                if !expected.contains(&violation.invariant) {
                    survivors.push(format!("{rule:?} was to fail {expected:?}, and seed {seed} says {violation:?}"));
                    continue;
                }
                let (sentence, by) = (rule.sentence(), violation.invariant);
                let _ = writeln!(table, "| {sentence} | {class:?} | {seed} | {by} |");
            }
        }
    }
    println!("{table}");
    assert!(survivors.is_empty(), "{}", survivors.join("\n"));
}

/// For whoever looks into one: its trace.
#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build has no rules to break")]
fn one_wrong_rule() {
    let Some(name) = std::env::var("LEASEHOLD_SIM_RULE").ok().filter(|name| !name.is_empty()) else { return };
    let rule = BrokenRule::ALL.iter().find(|rule| format!("{rule:?}") == name);
    let rule = *rule.unwrap_or_else(|| panic!("LEASEHOLD_SIM_RULE is {name}, which is none of {:?}", BrokenRule::ALL));
    let (class, _) = caught_by(rule);
    let Some((seed, violation)) = noticed(rule, class) else { panic!("{rule:?} is not noticed") };
    let (plan, rng) = schedule_of(class, seed);
    let found = match number("LEASEHOLD_SIM_SHRINK") {
        Some(_) => shrink(plan, rng, Some(rule)),
        None => Shrunk { plan, rng, broken: Some(rule), tried: 0 },
    };
    println!("{}\nseed {seed} of {class:?}: {violation:?}", told(&found));
}
