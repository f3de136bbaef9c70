//! The same faults on leasehold and on client-go's leader election, side by side on one real API server.
//!
//! `make compare` prints the table of docs/peers.md. Of each elector two candidates contend for a Lease; the first
//! leads, over a link of its own; then the fault comes. What each candidate tells whoever acts on it is recorded, by the
//! boot clock that all of them share: leasehold's promises over HTTP and in files as long as they last, client-go's
//! belief by a goroutine beside the elector that asks each millisecond. A third party watches the Lease itself, and so
//! knows how old the last renewal was when somebody still claimed to lead.

#[path = "../support/mod.rs"]
mod support;

mod fault;
mod measure;
mod round;

use std::time::Duration;

use fault::Fault;
use measure::{Outcome, Row};
use round::{CLIENT_GO, CLIENT_GO_RELEASING, Elector, LEASEHOLD, Round, Times};
use support::control_plane::{ControlPlane, shared};

/// A round of short times, in which nobody's figures are judged but leasehold's overlap: that there is none.
#[test]
fn a_silent_link_is_survived_by_both_and_nobody_overlaps_with_leasehold() {
    let electors = [&LEASEHOLD, &CLIENT_GO];
    let rows = run(shared(), Fault::Silent, &electors, Times::SHORT, 1);
    for row in &rows {
        assert!(row.outcomes.iter().all(|outcome| outcome.another_led), "{row}");
        assert!(row.outcomes.iter().all(|outcome| outcome.leaderless > Duration::ZERO), "{row}");
    }
    assert!(rows[0].outcomes.iter().all(Outcome::is_clean), "{}", rows[0]);
}

#[test]
fn a_fault_is_chosen_by_its_word_and_all_of_them_by_none() {
    assert_eq!(Fault::chosen(Some("late-reply")), [Fault::LateReply]);
    assert_eq!(Fault::chosen(None), Fault::ALL);
}

#[test]
#[should_panic(expected = "FAULT=silant")]
fn a_fault_of_no_such_word_is_refused() {
    Fault::chosen(Some("silant"));
}

#[test]
#[ignore = "make compare: several minutes"]
fn compare() {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let rounds = set("LEASEHOLD_COMPARE_ROUNDS").map_or(5, |rounds| rounds.parse().expect("ROUNDS is a number"));
    let times = match set("LEASEHOLD_COMPARE_TIMES").as_deref() {
        None | Some("default") => Times::DEFAULT,
        Some("short") => Times::SHORT,
        Some(other) => panic!("TIMES={other}: default or short"),
    };
    let faults = Fault::chosen(set("LEASEHOLD_COMPARE_FAULT").as_deref());
    let electors = [&LEASEHOLD, &CLIENT_GO, &CLIENT_GO_RELEASING];
    println!("{rounds} rounds of each, at the same time; {times}");
    electors.iter().for_each(|elector| println!("  {}: {}", elector.name, elector.settings(times)));
    let own = ControlPlane::start();
    for fault in faults {
        println!("\n{}", fault.describe(times));
        Row::print_head();
        for row in run(&own, fault, &electors, times, rounds) {
            println!("{row}");
            // Of the others nothing is asserted: they make no such promise.
            assert!(row.elector != LEASEHOLD.name || row.outcomes.iter().all(Outcome::is_clean), "{row}");
        }
    }
}

/// Every round of every elector at the same time: the fault of the API server is one for all of them.
fn run(control_plane: &ControlPlane, fault: Fault, electors: &[&Elector], times: Times, rounds: usize) -> Vec<Row> {
    let mut started: Vec<Vec<Round>> = electors
        .iter()
        .map(|elector| (0..rounds).map(|_| Round::start(control_plane, elector, times)).collect())
        .collect();
    started.iter_mut().flatten().for_each(Round::ready);
    let all = electors.len() * rounds;
    let barrier = std::sync::Barrier::new(all);
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (elector, rounds) in electors.iter().zip(started) {
            let (barrier, control_plane) = (&barrier, control_plane);
            let rounds = rounds.into_iter().enumerate();
            let rounds: Vec<_> = rounds
                .map(|(number, mut round)| {
                    scope.spawn(move || {
                        let began = fault.strike(&mut round, control_plane, barrier, number);
                        round.outcome(fault, began)
                    })
                })
                .collect();
            running.push((elector.name, rounds));
        }
        let joined = |rounds: Vec<std::thread::ScopedJoinHandle<'_, Outcome>>| {
            rounds.into_iter().map(|round| round.join().expect("a round ends")).collect()
        };
        running.into_iter().map(|(elector, rounds)| Row { elector, outcomes: joined(rounds) }).collect()
    })
}
