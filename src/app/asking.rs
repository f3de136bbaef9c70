//! The app lives while it asks: `--app-alive asking`, for an app that can be changed in no other way.
//!
//! Each question is one atomic write. Its silence proves nothing: an app that does not ask may still be working.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::patience::Patience;
use super::{Gone, Sign};
use crate::time::{Clock, Moment};

const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// What is wrong with an `--app-timeout`, if anything.
pub fn fault(timeout: Duration) -> Option<String> {
    let good = (SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&timeout);
    (!good).then(|| "the app timeout must be between 1 second and 1 hour".into())
}

/// When the app asked last.
#[derive(Debug, Default)]
pub struct Asking {
    /// [`Moment::BOOT`] while it is not taken to be alive, so that the question that changes this is known by what
    /// it replaces.
    last: AtomicU64,
    again: Notify,
}

impl Asking {
    /// The app asked something.
    pub fn asked(&self, now: Moment) {
        if self.last.fetch_max(now.as_nanos(), Ordering::Relaxed) == Moment::BOOT.as_nanos() {
            self.again.notify_one();
        }
    }

    fn last(&self) -> Moment {
        Moment::from_nanos(self.last.load(Ordering::Relaxed))
    }

    /// Waits for a question.
    async fn question(&self) {
        while self.last() == Moment::BOOT {
            self.again.notified().await;
        }
    }

    /// Waits until there was none for `timeout` of the time in which this process ran.
    async fn silence(&self, timeout: Duration, clock: &(dyn Clock + Send + Sync)) {
        let mut last = self.last();
        let mut patience = Patience::new(last, timeout);
        loop {
            if self.last() != last {
                last = self.last();
                patience = Patience::new(last, timeout);
            } else if !patience.is_over(clock.boot()) {
                patience.nap(clock).await;
            } else if self.forget(last) {
                return;
            }
        }
    }

    /// From now on the app is not alive, unless it has asked since `last`.
    fn forget(&self, last: Moment) -> bool {
        let (last, none) = (last.as_nanos(), Moment::BOOT.as_nanos());
        self.last.compare_exchange(last, none, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Tells that the app is alive at its first question, that it is not after `timeout` without one, and so on, until
/// nobody listens to `tell`. One task for each [`Asking`].
pub async fn watch(
    asking: Arc<Asking>,
    timeout: Duration,
    clock: Arc<dyn Clock + Send + Sync>,
    evidence: usize,
    tell: mpsc::Sender<Sign>,
) {
    let listening = async {
        loop {
            asking.question().await;
            if tell.send(Sign { evidence, alive: Ok(()) }).await.is_err() {
                return;
            }
            asking.silence(timeout, &*clock).await;
            let gone = Gone { why: format!("the app has not asked for {timeout:?}"), proved: false };
            if tell.send(Sign { evidence, alive: Err(gone) }).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = tell.closed() => {}
        () = listening => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_asked_while_the_silence_is_judged_wins() {
        let asking = Asking::default();
        let first = Moment::from_nanos(5);
        asking.asked(first);
        asking.asked(Moment::from_nanos(9));
        assert!(!asking.forget(first));
        assert_eq!(asking.last(), Moment::from_nanos(9));
        assert!(asking.forget(Moment::from_nanos(9)));
        assert_eq!(asking.last(), Moment::BOOT);
    }

    #[test]
    fn an_earlier_question_that_is_counted_later_changes_nothing() {
        let asking = Asking::default();
        asking.asked(Moment::from_nanos(9));
        asking.asked(Moment::from_nanos(5));
        assert_eq!(asking.last(), Moment::from_nanos(9));
    }

    #[test]
    fn timeouts_out_of_bounds_are_refused() {
        assert_eq!(fault(Duration::from_secs(30)), None);
        assert_eq!(fault(SHORTEST_TIMEOUT), None);
        assert_eq!(fault(LONGEST_TIMEOUT), None);
        assert!(fault(Duration::from_millis(999)).is_some());
        assert!(fault(LONGEST_TIMEOUT + Duration::from_nanos(1)).is_some());
    }
}
