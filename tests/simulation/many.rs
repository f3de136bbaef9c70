//! Many schedules, on all cores.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use leasehold::election::BrokenRule;

use crate::checks::Violation;
use crate::faults::{Class, Plan};
use crate::number;
use crate::rng::Rng;
use crate::sum::Sum;
use crate::world::{Report, run};

/// Seeds begin here, unless told.
const FIRST_SEED: u64 = 1;
/// A thread takes so many seeds at a time.
const AT_A_TIME: u64 = 16;

/// One seed's schedule.
pub fn schedule(seed: u64) -> (Plan, Rng) {
    let mut rng = Rng::new(seed);
    (Plan::new(seed, &mut rng), rng)
}

/// One seed's schedule of this class.
pub fn schedule_of(class: Class, seed: u64) -> (Plan, Rng) {
    let mut rng = Rng::new(seed);
    (Plan::of_class(class, &mut rng), rng)
}

pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A panic of the election's is a violation like any other.
pub fn run_caught(plan: &Plan, rng: &Rng, broken: Option<BrokenRule>, traced: bool) -> Report {
    let report = catch_unwind(AssertUnwindSafe(|| run(plan.clone(), rng.clone(), broken, traced)));
    report.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".into());
        Report { violation: Some(Violation { invariant: "panic", what }), class: plan.class, ..Report::default() }
    })
}

/// Runs `n` seeds. Also gives the smallest seed that fails, if one does; none after it was begun then.
pub fn run_all(n: u64) -> (Sum, Option<u64>) {
    let from = number("LEASEHOLD_SIM_FROM").unwrap_or(FIRST_SEED);
    let next = AtomicU64::new(from);
    let failed = AtomicU64::new(u64::MAX);
    let work = || {
        let mut sum = Sum::default();
        loop {
            let first = next.fetch_add(AT_A_TIME, Ordering::Relaxed);
            for seed in first..(first + AT_A_TIME).min(from + n) {
                if seed > failed.load(Ordering::Relaxed) {
                    return sum;
                }
                let (plan, rng) = schedule(seed);
                let report = run_caught(&plan, &rng, None, false);
                if report.violation.is_some() {
                    failed.fetch_min(seed, Ordering::Relaxed);
                    return sum;
                }
                sum.add(&report);
            }
            if first >= from + n {
                return sum;
            }
        }
    };
    let mut sum = Sum::default();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads()).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            if let Ok(part) = thread.join() {
                sum.join(&part);
            }
        }
    });
    let failed = failed.into_inner();
    (sum, (failed != u64::MAX).then_some(failed))
}
