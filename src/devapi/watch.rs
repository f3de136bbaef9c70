//! A watch: one task that walks the store's history and writes events to one client.
//!
//! It holds a version, not a queue. A client that reads slowly holds up its own task only; when
//! what it has not read is no longer in the history, or it takes nothing for `STALLED`, the watch
//! ends, and the client lists again, as it does with the real server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, timeout};

use super::selector::Selector;
use super::status::Status;
use super::store::{Change, Store, random_bytes};
use super::table::Form;

const BOOKMARK_INTERVAL: Duration = Duration::from_mins(1);
/// A last bookmark is sent this long before the watch's own end, so that the next one may begin
/// where it stopped.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// A watch without `timeoutSeconds` lasts between this and twice this.
const MIN_TIMEOUT: Duration = Duration::from_mins(30);
const STALLED: Duration = Duration::from_secs(30);
/// Changes copied out of the store at a time.
const BATCH: usize = 64;

pub struct Options {
    pub selector: Selector,
    pub form: Form,
    /// Events after this version; 0 is "from now".
    pub version: u64,
    /// First the state as `ADDED` events.
    pub initial_events: bool,
    pub bookmarks: bool,
    pub timeout: Option<Duration>,
}

/// Starts a watch. What it reads of the store it reads before it returns.
pub fn start(store: &Arc<Mutex<Store>>, options: Options) -> mpsc::Receiver<Bytes> {
    let (events, receiver) = mpsc::channel(1);
    let mut watch = Watch::new(Arc::clone(store), options, events);
    let initial = watch.initial();
    tokio::spawn(async move {
        if let Some(initial) = initial {
            watch.run(initial).await;
        }
    });
    receiver
}

struct Watch {
    store: Arc<Mutex<Store>>,
    options: Options,
    events: mpsc::Sender<Bytes>,
    /// The newest version that has been told or passed over.
    cursor: u64,
    told_columns: bool,
}

impl Watch {
    fn new(store: Arc<Mutex<Store>>, options: Options, events: mpsc::Sender<Bytes>) -> Watch {
        let cursor = options.version;
        Watch { store, options, events, cursor, told_columns: false }
    }

    /// The first bytes. `None` if an `ERROR` was all there is to say.
    fn initial(&mut self) -> Option<Vec<u8>> {
        let store = Arc::clone(&self.store);
        let store = store.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::new();
        let version = self.options.version;
        if self.options.initial_events {
            if version > store.version() {
                self.fail(&Status::too_large_version(version, store.version()));
                return None;
            }
            for lease in store.list(&self.options.selector) {
                self.push(&mut bytes, "ADDED", &lease, &store);
            }
            self.cursor = store.version();
            if self.options.bookmarks {
                self.push_bookmark(&mut bytes, true, &store);
            }
        } else if version == 0 {
            self.cursor = store.version();
        } else if store.changes_after(version).is_none() {
            let oldest = store.oldest_watchable();
            self.fail(&Status::expired(format!("too old resource version: {version} ({oldest})")));
            return None;
        }
        Some(bytes)
    }

    async fn run(mut self, initial: Vec<u8>) {
        let mut changes = self.lock().changes();
        let lifetime = self.options.timeout.unwrap_or_else(default_timeout);
        let end = sleep(lifetime);
        tokio::pin!(end);
        let mut next_bookmark = Box::pin(bookmark_timer(lifetime));
        if !self.send(initial).await {
            return;
        }
        loop {
            changes.mark_unchanged();
            let before = self.cursor;
            let Some(bytes) = self.catch_up() else { return };
            let caught_up = self.cursor == before;
            if !self.send(bytes).await {
                return;
            }
            tokio::select! {
                // The end first: a watch ends in time, however much there is to tell.
                biased;
                () = &mut end => return,
                () = std::future::ready(()), if !caught_up => {}
                () = self.events.closed() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = &mut next_bookmark, if self.options.bookmarks => {
                    let bytes = self.bookmark();
                    if !self.send(bytes).await {
                        return;
                    }
                    let left = end.deadline().saturating_duration_since(next_bookmark.deadline());
                    next_bookmark = Box::pin(bookmark_timer(left));
                }
            }
        }
    }

    /// The next changes as events; nothing if there are none, `None` if they are forgotten.
    fn catch_up(&mut self) -> Option<Vec<u8>> {
        let store = Arc::clone(&self.store);
        let store = store.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::new();
        for change in store.changes_after(self.cursor)?.take(BATCH) {
            self.cursor = change.version;
            if let Some((kind, lease)) = event(change, &self.options.selector) {
                self.push(&mut bytes, kind, &lease, &store);
            }
        }
        Some(bytes)
    }

    fn bookmark(&mut self) -> Vec<u8> {
        let store = Arc::clone(&self.store);
        let store = store.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::new();
        self.push_bookmark(&mut bytes, false, &store);
        bytes
    }

    fn push_bookmark(&mut self, bytes: &mut Vec<u8>, initial_end: bool, store: &Store) {
        let mut lease = Lease { spec: Some(LeaseSpec::default()), ..Lease::default() };
        lease.metadata.resource_version = Some(self.cursor.to_string());
        if initial_end {
            let mark = ("k8s.io/initial-events-end".to_owned(), "true".to_owned());
            lease.metadata.annotations = Some([mark].into());
        }
        self.push(bytes, "BOOKMARK", &lease, store);
    }

    fn push(&mut self, bytes: &mut Vec<u8>, kind: &str, lease: &Lease, store: &Store) {
        let object = self.options.form.event(lease, !self.told_columns, store.now());
        self.told_columns = true;
        bytes.extend(line(kind, &object));
    }

    /// The channel is empty at the start, and there is room for the one event.
    fn fail(&self, status: &Status) {
        let _ = self.events.try_send(line("ERROR", &status.to_json()).into());
    }

    async fn send(&self, bytes: Vec<u8>) -> bool {
        if bytes.is_empty() {
            return true;
        }
        matches!(timeout(STALLED, self.events.send(bytes.into())).await, Ok(Ok(())))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(kind: &str, object: &Value) -> Vec<u8> {
    let mut line = json!({ "type": kind, "object": object }).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// How a change looks through a selector: a Lease that begins to match is added, one that
/// ceases to match is deleted.
fn event(change: &Change, selector: &Selector) -> Option<(&'static str, Lease)> {
    let matching = |lease: &&Arc<Lease>| selector.matches(lease);
    let before = change.before.as_ref().filter(matching);
    let after = change.after.as_ref().filter(matching);
    match (before, after) {
        (None, None) => None,
        (None, Some(after)) => Some(("ADDED", Lease::clone(after))),
        (Some(_), Some(after)) => Some(("MODIFIED", Lease::clone(after))),
        (Some(before), None) => {
            // Its last content, under the version of what ended it.
            let mut lease = Lease::clone(before);
            lease.metadata.resource_version = Some(change.version.to_string());
            Some(("DELETED", lease))
        }
    }
}

fn default_timeout() -> Duration {
    let random = u16::from_le_bytes(random_bytes());
    MIN_TIMEOUT.mul_f64(1.0 + f64::from(random) / f64::from(u16::MAX))
}

/// Until the next bookmark of a watch that ends after `left`.
fn bookmark_timer(left: Duration) -> Sleep {
    match left.checked_sub(BOOKMARK_BEFORE_END) {
        Some(before_end) if !before_end.is_zero() => sleep(before_end.min(BOOKMARK_INTERVAL)),
        _ => sleep(BOOKMARK_INTERVAL),
    }
}
