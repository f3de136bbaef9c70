//! What a debug build explores in seconds; `make model` and a stage of `make test` go much further.

use std::time::Duration;

use leasehold::election::BrokenRule;
use leasehold_model::report::{Order, explore};
use leasehold_model::rules::{caught_by, find};
use leasehold_model::setup::Setup;

#[test]
fn every_interleaving_of_one_fault_keeps_every_invariant_and_somebody_leads_after_it() {
    for name in ["network", "leaving", "hands", "requests"] {
        let family = Setup::named(name).expect("one of the setups");
        let explored = explore(family.within(1, Duration::from_secs(4)), Order::DepthFirst, 2);
        explored.print();
        assert!(explored.violation.is_none(), "{name}: an invariant does not hold");
    }
}

/// What proves that the checker sees.
#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build has no rules to break")]
fn wrong_rules_are_found_out() {
    for rule in [
        BrokenRule::CountFromAnswer,
        BrokenRule::LeadThroughForeignRecord,
        BrokenRule::ReleaseWithoutWaiting,
        BrokenRule::TrustEmptyHolder,
        BrokenRule::RevivePastDeadline,
        BrokenRule::LabelsRestartAge,
        BrokenRule::PromisePastDeadline,
        BrokenRule::UidNotSent,
        BrokenRule::SeenForgotten,
    ] {
        let caught = caught_by(rule).expect("it is put to the model");
        let found = find(rule, &caught).violation.map(|violation| violation.invariant);
        assert!(found.is_some_and(|invariant| caught.by.contains(&invariant)), "{rule:?} is broken: {found:?}");
    }
}
