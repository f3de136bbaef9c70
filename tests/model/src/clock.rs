//! The clocks of one candidate, which run from its number: no two agree on the time, by either clock.

use jiff::Timestamp;
use leasehold::time::{Moment, Now};

use crate::trace::Time;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset: u64,
    /// Within rho of true time.
    parts_per_million: i64,
    /// Microseconds since 1970 when true time began.
    wall: i64,
}

impl Clock {
    pub fn new(pod: usize, parts_per_million: i64) -> Self {
        let hours = 3600 * pod as u64;
        Clock {
            offset: (1000 + hours) * 1_000_000_000,
            parts_per_million,
            wall: 1_790_000_000_000_000 - hours as i64 * 1_000_000,
        }
    }

    pub fn boot(&self, at: Time) -> Moment {
        Moment::from_nanos(self.offset + self.run(at))
    }

    pub fn now(&self, at: Time) -> Now {
        let micros = self.wall + (self.run(at) / 1000) as i64;
        Now { boot: self.boot(at), wall: Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH) }
    }

    /// The first instant at which the boot clock shows `moment` or later.
    pub fn when(&self, moment: Moment) -> Time {
        if moment == Moment::NEVER {
            return Time(u64::MAX);
        }
        let wanted = moment.as_nanos().saturating_sub(self.offset);
        let rate = (1_000_000 + self.parts_per_million) as u128;
        let mut at = Time((u128::from(wanted) * 1_000_000).div_ceil(rate) as u64);
        while self.run(at) < wanted {
            at.0 += 1;
        }
        at
    }

    fn run(&self, at: Time) -> u64 {
        (u128::from(at.0) * (1_000_000 + self.parts_per_million) as u128 / 1_000_000) as u64
    }
}
