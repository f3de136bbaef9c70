//! The two clocks, and the only place that reads them.
//!
//! [`Moment`] is the boot clock (`CLOCK_BOOTTIME`): it counts while the machine sleeps, never jumps, and means
//! nothing on another machine or after a reboot. Every decision is made on it. The wall clock
//! ([`jiff::Timestamp`]) is written into the Lease for people to read and decides nothing: it may be wrong by years.
//! A lint (`clippy.toml`) keeps the standard library's clocks out of the rest of the crate.

use std::fmt;
use std::io;
use std::ops::{Add, Sub};
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point on this machine's boot clock, in nanoseconds since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Moment(u64);

impl Moment {
    pub const BOOT: Moment = Moment(0);
    /// Later than any moment that is ever reached (584 years after boot).
    pub const NEVER: Moment = Moment(u64::MAX);

    pub const fn from_nanos(nanos: u64) -> Self {
        Moment(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time since `earlier`, zero if that is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// As `/proc/uptime` prints it, without its dot: hundredths of a second since boot, rounded down.
    pub const fn uptime_hundredths(self) -> u64 {
        self.0 / 10_000_000
    }

    /// Seconds since boot, for JSON and metrics.
    pub fn as_secs_f64(self) -> f64 {
        Duration::from_nanos(self.0).as_secs_f64()
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;
    fn sub(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s after boot", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000)
    }
}

/// Both clocks at one instant: what a pure state machine is told instead of reading them.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub boot: Moment,
    pub wall: Timestamp,
}

/// Where the time comes from: the machine, or a test.
pub trait Clock {
    fn boot(&self) -> Moment;
    fn wall(&self) -> Timestamp;
    fn now(&self) -> Now {
        Now { boot: self.boot(), wall: self.wall() }
    }
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot(&self) -> Moment {
        let t = clock_gettime(ClockId::Boottime);
        // Both fields are non-negative on the boot clock.
        Moment(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
    }

    fn wall(&self) -> Timestamp {
        let t = clock_gettime(ClockId::Realtime);
        // A wall clock outside the years that a timestamp can hold is as good as no clock: it only informs.
        Timestamp::new(t.tv_sec, t.tv_nsec as i32).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// This boot's identity: moments are comparable only under the same one.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// What `/proc/uptime` says, which under some container runtimes (lxcfs) is the container's, not the machine's.
pub fn proc_uptime() -> io::Result<Moment> {
    parse_uptime(&std::fs::read_to_string("/proc/uptime")?).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "/proc/uptime does not begin with seconds.hundredths")
    })
}

/// The first of its two numbers, which has two decimals.
#[doc(hidden)]
pub fn parse_uptime(text: &str) -> Option<Moment> {
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    if hundredths.len() != 2 {
        return None;
    }
    let hundredths = seconds.parse::<u64>().ok()?.checked_mul(100)?.checked_add(hundredths.parse().ok()?)?;
    Some(Moment(hundredths.checked_mul(10_000_000)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_and_proc_uptime_agree_on_this_machine() {
        let before = SystemClock.boot();
        let uptime = proc_uptime().expect("Linux has /proc/uptime");
        let after = SystemClock.boot();
        assert!(uptime.uptime_hundredths() + 1 >= before.uptime_hundredths());
        assert!(uptime.uptime_hundredths() <= after.uptime_hundredths() + 1);
    }

    #[test]
    fn uptime_is_read_to_the_hundredth_and_nothing_else_is_accepted() {
        assert_eq!(parse_uptime("12.34 99.00\n"), Some(Moment::from_nanos(12_340_000_000)));
        for bad in ["", "12", "12.3 4", "-1.00", "x.00", "99999999999999999999.00"] {
            assert_eq!(parse_uptime(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn moments_do_not_wrap() {
        assert_eq!(Moment::BOOT - Duration::from_secs(1), Moment::BOOT);
        assert_eq!(Moment::NEVER + Duration::from_secs(1), Moment::NEVER);
        assert_eq!(Moment::BOOT.since(Moment::NEVER), Duration::ZERO);
    }
}
