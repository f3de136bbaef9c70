//! What the apps write to: it refuses a token that is smaller than the largest it has seen.
//!
//! Each app has a writer that asks, then writes with the token that it was told. Some writes come late on purpose,
//! long after the answer ran out: only the token keeps those out. One that is in time is never to be refused.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::rng::Rng;
use crate::support::clock::{self, BootTime};
use crate::support::http::Http;
use crate::support::sidecar::Shared;

/// Between two steps of an app.
const STEP: Duration = Duration::from_millis(40);
/// One write in so many is late.
const LATE_ONE_IN: u64 = 10;
/// An app does not wait longer for an answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// One lease's store.
#[derive(Default)]
pub struct Store {
    writes: Mutex<Writes>,
}

/// What became of the writes.
#[derive(Clone, Default)]
pub struct Writes {
    largest: u64,
    pub accepted: usize,
    /// Accepted although late: nobody with a larger token had written yet.
    pub accepted_late: usize,
    /// Late, with an older token.
    pub refused: usize,
    /// In time, and yet refused: what must not happen.
    pub breaches: Vec<String>,
}

/// A write as an app is about to do it.
struct Step {
    token: u64,
    until: BootTime,
    /// Which of the pod's apps was told.
    app: usize,
}

impl Store {
    pub fn writes(&self) -> Writes {
        self.lock().clone()
    }

    /// The clock is read where nothing can come between it and the write.
    fn write(&self, pod: &str, step: &Step, apps: &AtomicUsize) {
        let mut writes = self.lock();
        let now = clock::now();
        let in_time = now < step.until && apps.load(Ordering::SeqCst) == step.app;
        if step.token >= writes.largest {
            writes.largest = step.token;
            writes.accepted += 1;
            writes.accepted_late += usize::from(!in_time);
        } else if in_time {
            let (now, until, largest) = (now.as_secs_f64(), step.until.as_secs_f64(), writes.largest);
            let token = step.token;
            let breach = format!("{now:.4} {pod} wrote with token {token}, good until {until:.4}, after {largest}");
            writes.breaches.push(breach);
        } else {
            writes.refused += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer of one pod's apps; ends when dropped.
pub struct Writer {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// `apps` counts the beginnings and ends of the pod's apps: one lives while it is even. Late writes are late by
    /// `latest` at most.
    pub fn start(sidecar: Arc<Shared>, store: Arc<Store>, apps: Arc<AtomicUsize>, latest: Duration, seed: u64) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let until = stopping.clone();
        let thread = thread::spawn(move || {
            let mut app = Asking { sidecar, store, apps, latest, rng: Rng::new(seed), http: None, late: Vec::new() };
            while !until.load(Ordering::SeqCst) {
                app.step();
                thread::sleep(STEP);
            }
        });
        Self { stopping, thread: Some(thread) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Asking {
    sidecar: Arc<Shared>,
    store: Arc<Store>,
    apps: Arc<AtomicUsize>,
    latest: Duration,
    rng: Rng,
    http: Option<Http>,
    /// Steps that somebody sleeps over.
    late: Vec<(BootTime, Step)>,
}

impl Asking {
    fn step(&mut self) {
        if let Some(step) = self.ask() {
            if self.rng.between(1, LATE_ONE_IN) == 1 {
                let delay = self.rng.duration(Duration::ZERO, self.latest);
                self.late.push((clock::now() + delay, step));
            } else {
                self.store.write(&self.sidecar.pod, &step, &self.apps);
            }
        }
        let now = clock::now();
        for (_, step) in self.late.extract_if(.., |(at, _)| *at <= now) {
            self.store.write(&self.sidecar.pod, &step, &self.apps);
        }
    }

    /// A step, if this pod leads; nothing as well when its app does not live or its sidecar does not answer.
    fn ask(&mut self) -> Option<Step> {
        let app = self.apps.load(Ordering::SeqCst);
        if app % 2 == 1 {
            return None;
        }
        if self.http.is_none() {
            let http = Http::connect(self.sidecar.listener("http")?).and_then(|http| http.with_timeout(PATIENCE));
            self.http = http.ok();
        }
        let asked = clock::now();
        let answer = self.http.as_mut()?.get("/leader");
        let Ok(answer) = answer else {
            self.http = None;
            return None;
        };
        let number = |name| answer.header(name).and_then(|value| value.parse::<u64>().ok());
        let until = asked + Duration::from_millis(number("Leasehold-Valid-For-Ms")?);
        (answer.status == 200).then_some(())?;
        Some(Step { token: number("Leasehold-Token")?, until, app })
    }
}
