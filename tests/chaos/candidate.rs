//! One pod: a sidecar, its app, and the link between it and the API servers.

use std::fs;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::app::Lock;
use crate::support::clock;
use crate::support::control_plane::Port;
use crate::support::http::Http;
use crate::support::proxy::Proxy;
use crate::support::recorder::Recorder;
use crate::support::sidecar::{Builder, Shared, Sidecar};

/// `--shutdown-grace` of every sidecar.
const GRACE: Duration = Duration::from_secs(8);
/// What a busy machine adds to it.
const SLACK: Duration = Duration::from_secs(10);

/// How an app shows that it lives: `--app-alive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    None,
    Lock,
    Session,
}

/// What kind of pod it is.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub evidence: Evidence,
    /// `--on-sigterm`.
    pub on_sigterm: &'static str,
    /// Its process may be ended; frozen it may be in any case.
    pub mortal: bool,
}

pub struct Candidate {
    pub name: String,
    pub kind: Kind,
    pub shared: Arc<Shared>,
    pub link: Mutex<Link>,
    pub body: Mutex<Body>,
    /// Grows with each beginning and end of its app: even, one lives.
    pub apps: Arc<AtomicUsize>,
    /// Its own over all restarts: a pod's localhost is nobody else's.
    _port: Port,
}

pub struct Link {
    pub proxy: Proxy,
    /// Which API server new connections lead to.
    pub server: usize,
}

/// What runs.
pub struct Body {
    pub sidecar: Sidecar,
    app: App,
}

enum App {
    Silent,
    Locking { _lock: Lock },
    InSession { _session: Session },
    Ended,
}

impl Candidate {
    /// Starts the sidecar and its app, by a builder that has the link's address.
    pub fn start(kind: Kind, builder: Builder, link: Link) -> Self {
        let builder = match kind.evidence {
            Evidence::None => builder,
            Evidence::Lock => builder.flag("--app-alive", "lock"),
            Evidence::Session => builder.flag("--app-alive", "session"),
        };
        let port = Port::reserve();
        let sidecar = builder
            .flag("--listen", &port.address().to_string())
            .flag("--on-sigterm", kind.on_sigterm)
            .flag("--shutdown-grace", &format!("{}s", GRACE.as_secs()))
            .flag("--log-level", "info")
            .start();
        let (name, shared) = (sidecar.pod().to_owned(), sidecar.shared());
        // Nobody lives in it before `begin_app`.
        let apps = Arc::new(AtomicUsize::new(1));
        let body = Mutex::new(Body { sidecar, app: App::Ended });
        Self { name, kind, shared, link: Mutex::new(link), body, apps, _port: port }
    }

    /// Whoever is in the middle of something with the link or the process keeps it from others.
    pub fn try_link(&self) -> Option<MutexGuard<'_, Link>> {
        free(self.link.try_lock())
    }

    pub fn try_body(&self) -> Option<MutexGuard<'_, Body>> {
        free(self.body.try_lock())
    }

    /// An app begins: it shows that it lives, then it asks.
    pub fn begin_app(&self, body: &mut Body, recorder: &Arc<Recorder>) {
        body.app = match self.kind.evidence {
            Evidence::None => App::Silent,
            Evidence::Lock => App::Locking { _lock: Lock::alive(&body.sidecar) },
            Evidence::Session => App::InSession { _session: Session::open(self.shared.clone(), Arc::clone(recorder)) },
        };
        recorder.app_began(&self.name);
        self.apps.fetch_add(1, Ordering::SeqCst);
    }

    /// Its app is killed: nothing binds it any more, and it is seen by nobody before that is written down.
    pub fn end_app(&self, body: &mut Body, recorder: &Recorder) {
        self.apps.fetch_add(1, Ordering::SeqCst);
        recorder.app_ended(&self.name);
        body.app = App::Ended;
    }

    /// SIGTERM, as its mode wants it: `release` says that the app has ended before, with `wait-for-app` it ends after
    /// that time or when its sidecar has. An error says how it did not end in order.
    pub fn terminate(&self, body: &mut Body, recorder: &Recorder, app_after: Duration) -> Result<(), String> {
        if self.kind.on_sigterm == "release" {
            self.end_app(body, recorder);
        }
        body.sidecar.sigterm();
        let told = clock::now();
        loop {
            let waited = clock::now() - told;
            if let Some(status) = body.sidecar.ended() {
                return match status.success() {
                    true => Ok(()),
                    false => Err(format!("{} ended after SIGTERM with {status}", self.name)),
                };
            }
            if self.kind.on_sigterm == "wait-for-app" && waited >= app_after && self.has_app() {
                self.end_app(body, recorder);
            }
            if waited > GRACE + SLACK {
                return Err(format!("{} has not ended {waited:?} after SIGTERM; its grace is {GRACE:?}", self.name));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// An app that shows nothing is replaced by another: its writer's answers are the old one's.
    pub fn replace_silent_app(&self) {
        self.apps.fetch_add(2, Ordering::SeqCst);
    }

    pub fn has_app(&self) -> bool {
        self.apps.load(Ordering::SeqCst).is_multiple_of(2)
    }
}

fn free<'a, T>(lock: Result<MutexGuard<'a, T>, TryLockError<MutexGuard<'a, T>>>) -> Option<MutexGuard<'a, T>> {
    match lock {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Body {
    /// What the sidecar keeps across its restarts is gone, and with another pod what it shares with its app as well.
    pub fn forget(&self, report_too: bool) -> io::Result<()> {
        let report = report_too.then(|| self.sidecar.report_dir().to_owned());
        for folder in [Some(self.sidecar.state_dir()), report].into_iter().flatten() {
            fs::remove_dir_all(&folder)?;
            fs::create_dir(&folder)?;
        }
        Ok(())
    }
}

/// An app that holds a session, over restarts of the sidecar, and acts on what it is told in it. Dropped, it is dead.
struct Session {
    stopping: Arc<AtomicBool>,
    socket: Arc<Mutex<Option<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Session {
    fn open(sidecar: Arc<Shared>, recorder: Arc<Recorder>) -> Self {
        let (stopping, socket) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let (until, slot) = (stopping.clone(), socket.clone());
        let thread = thread::spawn(move || {
            while !until.load(Ordering::SeqCst) {
                // It ends with the sidecar's process; the next one is waited for.
                let _ = hold_session(&sidecar, &recorder, &until, &slot);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stopping, socket, thread: Some(thread) }
    }
}

fn hold_session(
    sidecar: &Shared,
    recorder: &Recorder,
    stopping: &AtomicBool,
    slot: &Mutex<Option<TcpStream>>,
) -> io::Result<()> {
    let Some(address) = sidecar.listener("http") else { return Ok(()) };
    let http = Http::connect(address)?;
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(http.socket()?);
    if stopping.load(Ordering::SeqCst) {
        return Ok(());
    }
    let mut events = http.stream("/v1/session")?;
    while let Some(event) = events.next_event()? {
        recorder.heard(&sidecar.pod, "session", &event.json());
    }
    Ok(())
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(socket) = self.socket.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
