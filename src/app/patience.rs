//! A wait for the app that does not count the time in which this process was stopped itself.
//!
//! A stopped sidecar (a frozen container, a suspended machine) wakes with all its time-outs passed, before it has
//! heard what the app said meanwhile, and before an app that was stopped with it could say anything. So patience is
//! taken in naps, and one that took far longer than asked for is taken again.

use std::time::Duration;

use crate::time::{Clock, Moment};

/// The patience is this many naps, so that a stop within one is seen.
const NAPS: u32 = 10;
/// A busy machine wakes us late by less.
const LATE: Duration = Duration::from_millis(100);

pub(super) struct Patience {
    until: Moment,
    nap: Duration,
}

impl Patience {
    pub fn new(since: Moment, patience: Duration) -> Self {
        Patience { until: since + patience, nap: (patience / NAPS).max(Duration::from_millis(1)) }
    }

    pub fn is_over(&self, now: Moment) -> bool {
        self.until <= now
    }

    /// Sleeps a part of what is left.
    pub async fn nap<C: Clock + ?Sized>(&mut self, clock: &C) {
        let began = clock.boot();
        let nap = self.until.since(began).min(self.nap);
        tokio::time::sleep(nap).await;
        self.woke(began, nap, clock.boot());
    }

    fn woke(&mut self, began: Moment, nap: Duration, now: Moment) {
        if now.since(began + nap) > self.nap.max(LATE) {
            self.until = self.until + now.since(began);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_nanos(1_000_000_000_000);

    fn at(millis: u64) -> Moment {
        START + Duration::from_millis(millis)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_nap_that_took_far_too_long_is_not_counted_at_all() {
        let mut patience = Patience::new(START, ms(2000));
        patience.woke(at(400), ms(200), at(3_600_600));
        assert!(!patience.is_over(at(3_600_600 + 1599)), "as much is left as was before the nap");
        assert!(patience.is_over(at(3_600_600 + 1600)));
        // Also the last one.
        let mut patience = Patience::new(START, ms(2000));
        patience.woke(at(1900), ms(100), at(9000));
        assert!(!patience.is_over(at(9099)));
        assert!(patience.is_over(at(9100)));
    }

    #[test]
    fn a_busy_machine_does_not_stretch_it() {
        let mut patience = Patience::new(START, ms(10));
        for nap in 0..10 {
            patience.woke(at(nap * 100), ms(1), at(nap * 100 + 101));
        }
        assert!(patience.is_over(at(10)));
    }

    #[test]
    fn it_has_no_overflow() {
        let patience = Patience::new(Moment::NEVER - ms(1), Duration::MAX);
        assert!(!patience.is_over(Moment::NEVER - ms(1)));
        assert!(patience.is_over(Moment::NEVER));
    }
}
