//! Makes a failing schedule small: what can be left out is left out, as long as the same invariant still fails.
//!
//! Leaving something out shifts every later chance, so each smaller plan is given new seeds to fail under.

use std::time::Duration;

use leasehold::election::BrokenRule;

use crate::faults::{AppPlan, Beginning, Odds, Plan};
use crate::many::run_caught;
use crate::rng::Rng;
use crate::trace::Time;

/// Seeds that a smaller plan is tried under: some rules are noticed at a fault that comes once in 300 requests, and a
/// plan of few requests is to be found failing too.
const TRIES: u64 = 1000;

pub struct Shrunk {
    pub plan: Plan,
    pub rng: Rng,
    pub broken: Option<BrokenRule>,
    /// Plans that were tried.
    pub tried: u64,
}

/// The smallest plan found that fails by the same invariant.
pub fn shrink(plan: Plan, rng: Rng, broken: Option<BrokenRule>) -> Shrunk {
    let Some(violation) = run_caught(&plan, &rng, broken, false).violation else {
        return Shrunk { plan, rng, broken, tried: 0 };
    };
    let mut shrunk = Shrunk { plan, rng, broken, tried: 0 };
    while smaller(&shrunk.plan).into_iter().any(|plan| shrunk.still_fails(plan, violation.invariant)) {}
    shrunk
}

impl Shrunk {
    fn still_fails(&mut self, plan: Plan, invariant: &str) -> bool {
        self.tried += 1;
        let seeds = std::iter::once(self.rng.clone()).chain((1..=TRIES).map(Rng::new));
        let fails = |rng: &Rng| {
            let violation = run_caught(&plan, rng, self.broken, false).violation;
            violation.is_some_and(|violation| violation.invariant == invariant)
        };
        let Some(rng) = seeds.into_iter().find(fails) else { return false };
        self.plan = plan;
        self.rng = rng;
        true
    }
}

/// Every plan that is smaller by one thing, the largest steps first.
fn smaller(plan: &Plan) -> Vec<Plan> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        all.push(plan);
    };
    if plan.configs.len() > 2 {
        with(&|plan| {
            plan.configs.pop();
            plan.apps.pop();
            let pods = plan.configs.len();
            plan.strikes.iter_mut().for_each(|strike| strike.whom %= pods);
        });
    }
    for i in 0..plan.strikes.len() {
        with(&|plan| {
            plan.strikes.remove(i);
        });
    }
    for clear in Odds::CLEAR {
        let mut odds = plan.odds;
        clear(&mut odds);
        if odds != plan.odds {
            with(&|plan| plan.odds = odds);
        }
    }
    if plan.foreign {
        with(&|plan| plan.foreign = false);
    }
    for i in 0..plan.apps.len() {
        if plan.apps[i].exec.is_some() {
            with(&|plan| plan.apps[i].exec = None);
        }
        if !plan.apps[i].evidence.is_empty() || plan.apps[i].workers.len() > 1 {
            with(&|plan| plan.apps[i] = AppPlan { exec: plan.apps[i].exec, ..AppPlan::simple() });
        }
    }
    if plan.begins != Beginning::Absent {
        with(&|plan| plan.begins = Beginning::Absent);
    }
    // In whole seconds, so that it ends; and not before the last fault.
    let sooner = Time(plan.faults_until.0 * 3 / 4 / 1_000_000_000 * 1_000_000_000);
    let last = plan.strikes.iter().map(|strike| strike.at).max().unwrap_or(Time::START);
    if sooner > last.max(Time::START.plus(Duration::from_secs(2))) {
        with(&|plan| plan.faults_until = sooner);
    }
    all
}
