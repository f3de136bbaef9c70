//! The boot clock, which all processes of a machine share, and waiting with a deadline.
//!
//! Read here and not through the crate: a test must not measure the code with the code.

use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A reading of `CLOCK_BOOTTIME`: the time since the machine started, pauses included.
pub type BootTime = Duration;

/// Now, by the boot clock.
pub fn now() -> BootTime {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Asks each 5 ms until there is an answer; panics with `what` after `within`.
#[track_caller]
pub fn wait_for<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(now() < until, "waited {within:?} for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// [`wait_for`] something to be true.
#[track_caller]
pub fn wait_until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    wait_for(what, within, || holds().then_some(()));
}
