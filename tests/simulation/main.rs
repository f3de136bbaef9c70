//! The election under faults: the real code of `src/election` and the real board, thousands of schedules, each made
//! of one seed, with every invariant of the design judged against true time.
//!
//! `make sim` runs it; `make sim SEED=n` runs one schedule again, with its trace; `make sim N=100000` runs more.

// Few events wait at a time: boxing them would cost more than the room.
#![allow(clippy::large_enum_variant)]

mod api;
mod app;
mod candidate;
mod checks;
mod faults;
mod foreign;
mod rng;
mod trace;
mod world;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use checks::Right;
use faults::{Class, Fault, Plan};
use leasehold::election::{BrokenRule, Reason};
use leasehold::time::{Clock, SystemClock};
use world::{Report, run};

const SCHEDULES: u64 = 5_000;
/// From so many schedules on, a fault or a state that was never reached fails the run.
const ENOUGH_TO_REACH_ALL: u64 = 2_000;
/// Seeds begin here, unless told.
const FIRST_SEED: u64 = 1;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, which is no whole number")))
}

#[test]
fn every_invariant_holds_in_every_schedule() {
    if let Some(seed) = number("LEASEHOLD_SIM_SEED") {
        let report = run(seed, Plan::new, None, true);
        println!("{}", report.trace);
        assert!(report.violation.is_none(), "seed {seed}: {:?}", report.violation);
        return;
    }
    let n = number("LEASEHOLD_SIM_N").unwrap_or(SCHEDULES);
    let began = SystemClock.boot();
    let mut sum = Sum::default();
    for seed in FIRST_SEED..FIRST_SEED + n {
        let report = catch_unwind(AssertUnwindSafe(|| run(seed, Plan::new, None, false)));
        let failed = report.as_ref().map_or(true, |report| report.violation.is_some());
        if failed {
            let again = catch_unwind(AssertUnwindSafe(|| run(seed, Plan::new, None, true)));
            let trace = again.map_or_else(|_| "(it panicked)".into(), |report| report.trace);
            panic!(
                "{trace}\n\nseed {seed} fails after {} good schedules; to see it again: make sim SEED={seed}",
                seed - FIRST_SEED
            );
        }
        if let Ok(report) = report {
            sum.add(&report);
        }
    }
    sum.print(n, SystemClock.boot().since(began));
    if n >= ENOUGH_TO_REACH_ALL {
        sum.assert_all_reached();
    }
}

#[derive(Default)]
struct Sum {
    faults: BTreeMap<Fault, u64>,
    rights: BTreeMap<Right, u64>,
    classes: BTreeMap<Class, u64>,
    reasons: BTreeMap<&'static str, u64>,
    landed_late: u64,
    terms: u64,
    promises: u64,
    inputs: u64,
    virtual_seconds: u64,
    longest_wait: Duration,
    named: (u64, u64),
    enforced: u64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        fn merge<K: Ord + Copy>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
            for (key, count) in from {
                *into.entry(*key).or_default() += count;
            }
        }
        merge(&mut self.faults, &report.faults);
        merge(&mut self.rights, &report.rights);
        merge(&mut self.classes, &report.classes);
        for (reason, count) in &report.reasons {
            *self.reasons.entry(reason.as_str()).or_default() += count;
        }
        self.landed_late += report.landed_late;
        self.terms += report.terms;
        self.promises += report.promises;
        self.inputs += report.inputs;
        self.virtual_seconds += report.virtual_seconds;
        self.named = (self.named.0 + report.named.0, self.named.1 + report.named.1);
        self.enforced += report.enforced;
        self.longest_wait = self.longest_wait.max(report.longest_wait);
    }

    fn print(&self, n: u64, took: Duration) {
        println!(
            "{n} schedules in {:.1} s ({:.0} a second), {} hours of virtual time: {} inputs, {} terms, {} promises, {} faults",
            took.as_secs_f64(),
            n as f64 / took.as_secs_f64(),
            self.virtual_seconds / 3600,
            self.inputs,
            self.terms,
            self.promises,
            self.faults.values().sum::<u64>()
        );
        println!(
            "releases to a living pod: {} taken by it, {} by another; {} runs under exec",
            self.named.0, self.named.1, self.enforced
        );
        println!("longest wait for a leader with faults over: {:.1} s", self.longest_wait.as_secs_f64());
        println!("classes: {:?}\nfaults: {:?}\nterms began by: {:?}", self.classes, self.faults, self.rights);
        println!("landed late: {}\nreasons told: {:?}", self.landed_late, self.reasons);
    }

    fn assert_all_reached(&self) {
        fn never<T: Debug>(what: &str, missing: Vec<T>) {
            assert!(missing.is_empty(), "never reached, so never tested: {what} {missing:?}");
        }
        never("classes", Class::ALL.iter().filter(|class| !self.classes.contains_key(class)).collect());
        never("faults", Fault::ALL.iter().filter(|fault| !self.faults.contains_key(fault)).collect());
        never("rights to begin a term", Right::ALL.iter().filter(|right| !self.rights.contains_key(right)).collect());
        never("reasons", Reason::ALL.iter().filter(|reason| !self.reasons.contains_key(reason.as_str())).collect());
        assert!(self.enforced > 0, "never reached, so never tested: a run under exec");
        assert!(self.named.0 > 0, "never reached, so never tested: a release to a named pod");
        assert!(self.landed_late > 0, "never reached, so never tested: a taking write that landed late");
    }
}

/// What proves that the simulator sees: with one rule of the design broken, it must name the invariant that fails.
#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build has no rules to break")]
fn wrong_rules_are_caught() {
    for rule in BrokenRule::ALL {
        let (class, expected) = caught_by(rule);
        let mut tried = 0;
        let violation = (1..=4_000).find_map(|seed| {
            tried += 1;
            run(seed, |_, rng| Plan::of_class(class, rng), Some(rule), false).violation
        });
        match violation {
            None => panic!("{rule:?} is broken, and {tried} schedules of {class:?} did not notice"),
            Some(violation) => {
                println!("{rule:?}: {} after {tried} schedules ({})", violation.invariant, violation.what);
                let trace = || run(tried, |_, rng| Plan::of_class(class, rng), Some(rule), true).trace;
                assert!(
                    expected.contains(&violation.invariant),
                    "{}\n{rule:?} was to fail {expected:?}: {violation:?}",
                    trace()
                );
            }
        }
    }
}

/// Where a broken rule shows, and as what.
fn caught_by(rule: BrokenRule) -> (Class, &'static [&'static str]) {
    match rule {
        BrokenRule::CountFromAnswer => (Class::Network, &["S2"]),
        BrokenRule::LeadThroughForeignRecord => (Class::Hands, &["holder rule 6"]),
        BrokenRule::ReleaseWithoutWaiting => (Class::Process, &["S7", "S1"]),
        BrokenRule::TrustEmptyHolder => (Class::Hands, &["S1", "S3"]),
        BrokenRule::RevivePastDeadline => (Class::Network, &["S8"]),
        BrokenRule::BelieveOlderVersions => (Class::Network, &["S1", "S3", "S5", "S8"]),
        BrokenRule::LabelsRestartAge => (Class::Killed, &["L1"]),
        BrokenRule::TokenFromTransitions => (Class::Hands, &["S4"]),
        BrokenRule::NewestDuration => (Class::Durations, &["S1"]),
        BrokenRule::OldWithdrawalCounts => (Class::Process, &["S7", "S1"]),
        BrokenRule::EnforcerNotWaitedFor => (Class::HandOver, &["S7", "S1"]),
        BrokenRule::HeedAnyRequest | BrokenRule::HeedOwnName => (Class::HandOver, &["step-down"]),
        BrokenRule::ReleaseNamesNobody | BrokenRule::NoHeadStart => (Class::HandOver, &["L2 named"]),
        BrokenRule::NoHoldOff => (Class::HandOver, &["L2"]),
        BrokenRule::LeaveAtTheEnd => (Class::HandOver, &["grace"]),
        BrokenRule::LeaveAtOnce => (Class::HandOver, &["wait-for-app"]),
        BrokenRule::EndWhenReleased => (Class::Everything, &["in time", "busy"]),
        BrokenRule::TrustHeld => (Class::Process, &["S1", "S3", "S4"]),
        BrokenRule::LockNotTaken | BrokenRule::LockLetGoEarly => (Class::Process, &["S7", "S1"]),
        BrokenRule::ClosedByUsProves => (Class::HandOver, &["S7", "S1"]),
        BrokenRule::OneSessionsEndProves => (Class::HandOver, &["S7", "S1"]),
        BrokenRule::FormerSessionsForgotten => (Class::Process, &["exclusive"]),
        BrokenRule::OldFileForgotten => (Class::Process, &["S7", "S1"]),
        BrokenRule::FormerEnforcerForgotten => (Class::Process, &["S7", "S1"]),
        BrokenRule::ReadBeforeLock => (Class::Process, &["S7", "S1"]),
        BrokenRule::ForeignChangeIgnored => (Class::Hands, &["holder rule 6", "S1"]),
    }
}
