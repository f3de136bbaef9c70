//! Waiting until a moment of the boot clock: a kernel timer, exact, and awake when the machine is.
//!
//! The runtime's own timer counts whole milliseconds of a clock that stands still while the machine is suspended. A
//! candidate's jitter is a few milliseconds, and a loop that sleeps through a suspension tells late what is over.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::time::{Clock, Moment, SystemClock};

/// One timer, set anew for each wait.
pub struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: an `OwnedFd` is one descriptor, open for as long as the registration holds it.
        Ok(Alarm(unsafe { AsyncFd::register(timer) }?))
    }

    /// Waits until `moment`, or not at all when it has passed. Dropping the future sets nothing off.
    pub async fn until(&mut self, moment: Moment) {
        if moment <= SystemClock.boot() {
            // Whoever is late each time must still let the runtime hear signals and sockets.
            return tokio::task::yield_now().await;
        }
        let value = Timespec {
            // A moment that would not fit is centuries away.
            tv_sec: i64::try_from(moment.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (moment.as_nanos() % 1_000_000_000) as i64,
        };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        if timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &spec).is_err() {
            return inexactly(moment).await;
        }
        // Readiness may be left from an earlier wait, so only the clock says that this one is over.
        while SystemClock.boot() < moment {
            let Ok(mut ready) = self.0.readable().await else { return inexactly(moment).await };
            let mut expirations = [0; 8];
            if rustix::io::read(&self.0, &mut expirations).is_err() {
                ready.clear_ready();
            }
        }
    }
}

/// Where the kernel's timer does not do, the runtime's does.
async fn inexactly(moment: Moment) {
    tokio::time::sleep(moment.since(SystemClock.boot())).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_waits_until_the_moment_and_again_until_the_next_and_not_for_what_has_passed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut alarm = Alarm::new().unwrap();
            for _ in 0..3 {
                let moment = SystemClock.boot() + Duration::from_millis(5);
                alarm.until(moment).await;
                assert!(SystemClock.boot() >= moment);
                alarm.until(moment).await;
            }
            // A wait that is given up does not end a later one early.
            let soon = SystemClock.boot() + Duration::from_millis(5);
            let _ = tokio::time::timeout(Duration::from_millis(1), alarm.until(soon)).await;
            let later = SystemClock.boot() + Duration::from_millis(20);
            alarm.until(later).await;
            assert!(SystemClock.boot() >= later);
        });
    }
}
