//! What the app is told: one [`Board`] a lease, and HTTP, files and metrics as views of it.
//!
//! The election publishes a [`Status`]; whoever asks gets an answer computed at that instant. Each answer that says
//! "leader" is a promise, good until the term's `valid_until` or for the answer TTL, whichever ends first, and the
//! board remembers the latest moment it ever promised: a release waits for it.

#[cfg(feature = "program")]
pub mod file;
#[cfg(feature = "program")]
pub mod http;
#[cfg(feature = "program")]
pub mod members;
#[cfg(feature = "program")]
pub mod metrics;
#[cfg(feature = "program")]
pub mod probe;
#[cfg(feature = "program")]
pub mod view;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::election::{Leading, Reason, Status};
use crate::time::Moment;

/// The published status of one lease, and the promises made from it.
pub struct Board {
    pub lease: String,
    pub namespace: String,
    pub pod: String,
    /// As whom the record names this pod.
    pub identity: String,
    pub boot_id: String,
    answer_ttl: Duration,
    /// Random per board, so that a version known from before a restart is never taken for a present one.
    instance: u32,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

struct Inner {
    status: Status,
    changed_at: Option<Timestamp>,
    promised_until: Moment,
}

impl Board {
    pub fn new(lease: String, namespace: String, pod: String, boot_id: String, answer_ttl: Duration) -> Self {
        let status = Status::starting();
        let (changed, _) = watch::channel(status.version);
        let inner = Mutex::new(Inner { status, changed_at: None, promised_until: Moment::BOOT });
        let instance = random_instance();
        let identity = pod.clone();
        Board { lease, namespace, pod, identity, boot_id, answer_ttl, instance, inner, changed }
    }

    /// Where the record names this pod by something else than its name.
    pub fn known_as(mut self, identity: &str) -> Self {
        self.identity = identity.to_owned();
        self
    }

    pub fn answer_ttl(&self) -> Duration {
        self.answer_ttl
    }

    /// From now on every answer speaks of `status`. `wall` is for people: when it last changed hands.
    pub fn publish(&self, status: Status, wall: Timestamp) {
        let version = status.version;
        let mut inner = self.lock();
        if inner.changed_at.is_none() || inner.status.version != version {
            inner.changed_at = Some(wall);
        }
        inner.status = status;
        drop(inner);
        self.changed.send_if_modified(|known| std::mem::replace(known, version) != version);
    }

    /// The status as it is, which promises nothing: for logs and metrics.
    pub fn status(&self) -> Status {
        self.lock().status.clone()
    }

    /// The term that the status speaks of, if it leads: it may have run out.
    pub fn leading(&self) -> Option<Leading> {
        self.lock().status.leading
    }

    /// The answer to a question asked at `now`, and the promise in it. S1: whatever is promised, over HTTP or in a
    /// file, is promised here, never beyond the term, and is remembered for the release to wait for. One critical
    /// section covers the status, the promise and its record, so no status can be withdrawn between them (S7).
    pub fn answer(&self, now: Moment) -> Answer {
        self.answer_to(now, |_| true)
    }

    /// The answer to somebody who may be told of some terms only, by their token.
    pub fn answer_to(&self, now: Moment, may_lead: impl FnOnce(u64) -> bool) -> Answer {
        let mut inner = self.lock();
        let status = inner.status.clone();
        let leads = Promise::of(&status, now, self.answer_ttl);
        let promise = leads.filter(|promise| may_lead(promise.token));
        let withheld = leads.is_some() && promise.is_none();
        if let Some(promise) = &promise {
            inner.promised_until = inner.promised_until.max(promise.until);
        }
        Answer { now, promise, withheld, status, changed_at: inner.changed_at }
    }

    /// What a refusal to promise looks like: the status as it is, and not leader. For a file's reset.
    pub fn not_leader(&self, now: Moment) -> Answer {
        let inner = self.lock();
        let status = inner.status.clone();
        Answer { now, promise: None, withheld: false, status, changed_at: inner.changed_at }
    }

    /// The end of the last promise ever made.
    pub fn promised_until(&self) -> Moment {
        self.lock().promised_until
    }

    /// A status's version as the outside sees it: opaque, and new after a restart of the sidecar.
    pub fn version_text(&self, version: u64) -> String {
        format!("{:08x}-{version}", self.instance)
    }

    /// Wakes when the status's version changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while holding it; were it poisoned, the state would still be whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The standard library keys each of these at random; nothing here needs secrecy.
fn random_instance() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

/// One computed answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it was computed.
    pub now: Moment,
    /// What it promises, if this pod leads.
    pub promise: Option<Promise>,
    /// This pod leads, and who asks is not the one in it that does.
    withheld: bool,
    pub status: Status,
    /// When the status last changed hands, by the wall clock.
    pub changed_at: Option<Timestamp>,
}

impl Answer {
    /// The status's reason, unless its term ran out and nobody has published that yet.
    pub fn reason(&self) -> Reason {
        match () {
            () if self.withheld => Reason::OtherSession,
            () if self.ran_out() => Reason::RenewDeadline,
            () => self.status.reason,
        }
    }

    pub fn message(&self) -> &str {
        match () {
            () if self.withheld => "another exclusive session of this pod leads",
            () if self.ran_out() => "no renewal succeeded within the renew deadline",
            () => &self.status.message,
        }
    }

    fn ran_out(&self) -> bool {
        self.promise.is_none() && !self.withheld && self.status.leading.is_some()
    }
}

/// "This pod leads until `until`": never to be believed longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    pub token: u64,
    pub until: Moment,
    pub valid_until: Moment,
    pub stop_by: Moment,
}

impl Promise {
    /// What an answer at `now` promises, if this status leads then: nothing beyond the term (S6), and nothing for
    /// longer than the answer TTL.
    pub fn of(status: &Status, now: Moment, answer_ttl: Duration) -> Option<Promise> {
        status.leading_at(now).map(|leading| Promise {
            token: leading.token,
            until: leading.valid_until.min(now + answer_ttl),
            valid_until: leading.valid_until,
            stop_by: leading.stop_by,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new("web".into(), "apps".into(), "web-0".into(), "boot".into(), Duration::from_secs(1))
    }

    #[test]
    fn a_version_from_before_a_restart_is_never_a_present_one() {
        let (before, after) = (board(), board());
        assert_ne!(before.version_text(1), after.version_text(1));
        assert_eq!(before.version_text(1), before.version_text(1));
        assert_ne!(before.version_text(1), before.version_text(2));
    }

    #[test]
    fn the_time_of_a_change_stands_while_only_deadlines_move() {
        let (board, first, second) = (board(), Timestamp::UNIX_EPOCH, Timestamp::MAX);
        assert_eq!(board.answer(Moment::BOOT).changed_at, None);
        board.publish(Status { version: 1, ..Status::starting() }, first);
        board.publish(Status { version: 1, ..Status::starting() }, second);
        assert_eq!(board.answer(Moment::BOOT).changed_at, Some(first));
        board.publish(Status { version: 2, ..Status::starting() }, second);
        assert_eq!(board.answer(Moment::BOOT).changed_at, Some(second));
    }
}
