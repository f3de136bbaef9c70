//! `make model`: every setup, each to its larger bound, or to that of `make test` (`quick`).
//!
//! With `rules`, each rule of the election is broken in turn, and found out; `RULE=name` breaks one, and shows the path.
//! `SETUP=name` runs one of them, `FAULTS=n` and `DEPTH=n` (seconds of true time) set its bound.

use std::process::ExitCode;
use std::time::Duration;

use leasehold::election::BrokenRule;
use leasehold_model::report::{Order, explore, never_reached};
use leasehold_model::rules::{caught_by, find};
use leasehold_model::setup::Setup;

const THREADS: usize = 2;

fn main() -> ExitCode {
    let what = std::env::args().nth(1);
    if what.as_deref() == Some("rules") {
        return break_rules();
    }
    let quick = what.as_deref() == Some("quick");
    let name = text("SETUP");
    let (faults, seconds) = (number("FAULTS"), number("DEPTH"));
    let mut explored = Vec::new();
    for family in Setup::all() {
        let setup = if quick { family.quick() } else { family.full() };
        if name.as_ref().is_some_and(|name| *name != setup.name) {
            continue;
        }
        let faults = faults.map_or(setup.faults, |n| u8::try_from(n).unwrap_or(u8::MAX));
        let setup = family.within(faults, seconds.map_or(setup.horizon, Duration::from_secs));
        let found = explore(setup, Order::DepthFirst, THREADS);
        found.print();
        if found.violation.is_some() {
            return ExitCode::FAILURE;
        }
        explored.push(found);
    }
    if explored.is_empty() {
        let names: Vec<_> = Setup::all().iter().map(|family| family.full().name).collect();
        eprintln!("there is no setup of the name {:?}; there are {names:?}", name.unwrap_or_default());
        return ExitCode::FAILURE;
    }
    let never = never_reached(&explored);
    if name.is_none() && !never.is_empty() {
        eprintln!("never reached, so never tested: {never:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// With one rule of the election broken, something must be found.
fn break_rules() -> ExitCode {
    let only = text("RULE");
    let put: Vec<_> = BrokenRule::ALL.iter().filter_map(|rule| Some((*rule, caught_by(*rule)?))).collect();
    let chosen = |rule: BrokenRule| only.as_ref().is_none_or(|name| *name == format!("{rule:?}"));
    if !put.iter().any(|(rule, _)| chosen(*rule)) {
        let names: Vec<_> = put.iter().map(|(rule, _)| rule).collect();
        eprintln!("no rule of the name {:?} is put to the model; there are {names:?}", only.unwrap_or_default());
        return ExitCode::FAILURE;
    }
    let mut missed = 0;
    println!("| Broken rule | Found as | Setup | Steps | States |\n|---|---|---|---|---|");
    for (rule, caught) in put.into_iter().filter(|(rule, _)| chosen(*rule)) {
        let found = find(rule, &caught);
        let invariant = found.violation.as_ref().map(|violation| violation.invariant);
        match invariant {
            Some(invariant) if caught.by.contains(&invariant) => {
                println!(
                    "| {} | {invariant} | {} | {} | {} |",
                    rule.sentence(),
                    caught.setup,
                    found.depth,
                    found.states
                );
            }
            other => {
                missed += 1;
                println!("{rule:?} is broken, and was to fail {:?}: {other:?}", caught.by);
            }
        }
        if only.is_some() || !invariant.is_some_and(|invariant| caught.by.contains(&invariant)) {
            found.print();
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn text(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|text| !text.is_empty())
}

fn number(variable: &str) -> Option<u64> {
    let text = text(variable)?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{variable} is {text:?}, which is no whole number"),
    }
}
