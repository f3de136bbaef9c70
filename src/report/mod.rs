//! What the app is told: one [`Board`] a lease, and HTTP, files and metrics as views of it.
//!
//! The election publishes a [`Status`]; whoever asks gets an answer computed at that instant. Each answer that says
//! "leader" is a promise, good until the term's `valid_until` or for the answer TTL, whichever ends first, and the
//! board remembers the latest moment it ever promised: a release waits for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::election::Status;
use crate::time::Moment;

/// The published status of one lease, and the promises made from it.
pub struct Board {
    pub lease: String,
    pub namespace: String,
    pub pod: String,
    pub boot_id: String,
    answer_ttl: Duration,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

struct Inner {
    status: Status,
    promised_until: Moment,
}

impl Board {
    pub fn new(lease: String, namespace: String, pod: String, boot_id: String, answer_ttl: Duration) -> Self {
        let status = Status::starting();
        let (changed, _) = watch::channel(status.version);
        let inner = Mutex::new(Inner { status, promised_until: Moment::BOOT });
        Board { lease, namespace, pod, boot_id, answer_ttl, inner, changed }
    }

    pub fn answer_ttl(&self) -> Duration {
        self.answer_ttl
    }

    /// From now on every answer speaks of `status`.
    pub fn publish(&self, status: Status) {
        let version = status.version;
        self.lock().status = status;
        self.changed.send_if_modified(|known| std::mem::replace(known, version) != version);
    }

    /// The status as it is, which promises nothing: for logs and metrics.
    pub fn status(&self) -> Status {
        self.lock().status.clone()
    }

    /// The answer to a question asked at `now`, and the promise in it. One critical section covers the status, the
    /// promise and its record, so no status can be withdrawn between them (S7).
    pub fn answer(&self, now: Moment) -> Answer {
        let mut inner = self.lock();
        let status = inner.status.clone();
        let promise = status.leading_at(now).map(|leading| Promise {
            token: leading.token,
            until: leading.valid_until.min(now + self.answer_ttl),
            valid_until: leading.valid_until,
            stop_by: leading.stop_by,
        });
        if let Some(promise) = &promise {
            inner.promised_until = inner.promised_until.max(promise.until);
        }
        Answer { now, promise, status }
    }

    /// The end of the last promise ever made.
    pub fn promised_until(&self) -> Moment {
        self.lock().promised_until
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

/// One computed answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it was computed.
    pub now: Moment,
    /// What it promises, if this pod leads.
    pub promise: Option<Promise>,
    pub status: Status,
}

/// "This pod leads until `until`": never to be believed longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    pub token: u64,
    pub until: Moment,
    pub valid_until: Moment,
    pub stop_by: Moment,
}
