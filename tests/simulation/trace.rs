//! What happened in a schedule, in words. Kept only when a failing seed is run again: the words cost more than the
//! run.

use std::fmt;
use std::time::Duration;

/// True time, which no candidate can read: nanoseconds since the schedule began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    pub const START: Time = Time(0);

    pub fn plus(self, duration: Duration) -> Time {
        Time(self.0 + duration.as_nanos() as u64)
    }

    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4}.{:06}", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000)
    }
}

#[derive(Default)]
pub struct Trace {
    lines: Option<Vec<String>>,
}

impl Trace {
    pub fn new(kept: bool) -> Self {
        Trace { lines: kept.then(Vec::new) }
    }

    pub fn note(&mut self, at: Time, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{at} {}", line()));
        }
    }

    pub fn print(&self) -> String {
        self.lines.as_deref().unwrap_or_default().join("\n")
    }
}
