//! The election under faults: the real code of `src/election` and the real board, thousands of schedules, each made
//! of one seed, with every invariant of the design judged against true time.
//!
//! `make sim` runs it; `make sim N=1000000` runs more, `make sim SEED=n` runs one schedule again, with its trace, and
//! `make sim SEED=n SHRINK=1` makes it smaller first.

mod api;
mod app;
mod candidate;
mod checks;
mod faults;
mod foreign;
mod many;
mod queue;
mod rng;
mod rules;
mod shrink;
mod sum;
mod trace;
mod world;

use faults::Class;
use leasehold::time::{Clock, SystemClock};
use many::{run_all, run_caught, schedule, schedule_of, threads};
use shrink::{Shrunk, shrink};

const SCHEDULES: u64 = 20_000;
/// From so many schedules on, a fault or a state that was never reached fails the run.
const ENOUGH_TO_REACH_ALL: u64 = 5_000;

/// How much of the end of a failing schedule is printed.
const LINES: usize = 400;

pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, which is no whole number")))
}

#[test]
fn every_invariant_holds_in_every_schedule() {
    if let Some(seed) = number("LEASEHOLD_SIM_SEED") {
        replay(seed);
        return;
    }
    let n = number("LEASEHOLD_SIM_N").unwrap_or(SCHEDULES);
    let began = SystemClock.boot();
    let (sum, failed) = run_all(n);
    if let Some(seed) = failed {
        let (plan, rng) = schedule(seed);
        let shrunk = shrink(plan, rng, None);
        println!("{}", end_of(&told(&shrunk)));
        panic!(
            "seed {seed} fails; above is the end of the smallest schedule like it; to see it whole: make sim SEED={seed} SHRINK=1, and without SHRINK what it came from"
        );
    }
    sum.print(SystemClock.boot().since(began), threads());
    if n >= ENOUGH_TO_REACH_ALL {
        sum.assert_all_reached();
    }
}

fn replay(seed: u64) {
    let (plan, rng) = schedule(seed);
    let schedule = match number("LEASEHOLD_SIM_SHRINK") {
        Some(_) => shrink(plan, rng, None),
        None => Shrunk { plan, rng, broken: None, tried: 0 },
    };
    println!("{}", told(&schedule));
    let violation = run_caught(&schedule.plan, &schedule.rng, None, false).violation;
    assert!(violation.is_none(), "seed {seed}: {violation:?}");
}

/// The end of a trace, where nobody asked for all of it.
fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(LINES);
    let before = if skipped > 0 { format!("({skipped} lines before)\n") } else { String::new() };
    before + &lines[skipped..].join("\n")
}

/// The whole trace of a schedule.
fn told(schedule: &Shrunk) -> String {
    let report = run_caught(&schedule.plan, &schedule.rng, schedule.broken, true);
    let violation = report.violation.map(|violation| format!("\n*** {violation:?}")).unwrap_or_default();
    format!("{}{violation}\n(after {} smaller ones were tried)", report.trace, schedule.tried)
}

/// A schedule that fails only with much around it is of no use to whoever reads it.
#[test]
fn a_failing_schedule_becomes_a_small_one() {
    use leasehold::election::BrokenRule::RevivePastDeadline;
    let fails = |seed: &u64| {
        let (plan, rng) = schedule_of(Class::Everything, *seed);
        run_caught(&plan, &rng, Some(RevivePastDeadline), false).violation.is_some()
    };
    let seed = (1..5_000).find(fails).expect("this rule is noticed");
    let (plan, rng) = schedule_of(Class::Everything, seed);
    let before = (plan.strikes.len(), plan.configs.len());
    let shrunk = shrink(plan, rng, Some(RevivePastDeadline));
    let after = run_caught(&shrunk.plan, &shrunk.rng, shrunk.broken, false).violation;
    println!(
        "{before:?} strikes and pods became {:?}: {after:?}",
        (shrunk.plan.strikes.len(), shrunk.plan.configs.len())
    );
    assert!(after.is_some_and(|violation| violation.invariant == "S8"));
    assert!(shrunk.plan.strikes.len() <= 1 && shrunk.plan.configs.len() == 2, "{:?}", shrunk.plan);
}
