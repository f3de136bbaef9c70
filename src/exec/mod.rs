//! `leasehold exec`: CMD runs only while this pod leads.
//!
//! It works from the sidecar's files alone and enforces `stop_by_uptime`, the moment before which nobody else can take
//! the lease. Whoever does that holds the lease's lock: taken before the yes is read on which something begins, and let
//! go when all of that has ended, for the sidecar's release waits for it. Three processes, each started from this
//! program, so that none depends on another one's health:
//!
//! - `exec` itself ([`run`]) waits for leadership, holds the locks, passes signals on, starts CMD again.
//! - a [`keeper`] for each run of CMD ends it in time. `exec` wakes it when it is stopped, and kills what is below when
//!   it ends before its time.
//! - CMD, which the kernel kills when the keeper ends.
//!
//! All that CMD starts ends with it, in whatever session or group, for the [`descendants`] stay below the keeper. Not
//! covered, and there the fencing token is the fence: both processes stopped at once (a frozen container), a process in
//! an uninterruptible sleep, one that has become another user's, one that CMD asks somebody else to start (a daemon, a
//! container engine), and lock files that somebody removes. When the keeper is killed, all children of `exec` end, also
//! those that it had before it became `exec` (`helper & exec leasehold exec -- CMD`).

pub mod deadlines;
#[doc(hidden)]
pub mod descendants;
pub mod keeper;
mod locks;
mod wake;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use rustix::termios::isatty;

use self::keeper::{ENDS, OWN_PROGRAM, exit_code};
use self::locks::{Lock, LockError};
use self::wake::{Wake, name, say};
use crate::app;
use crate::complaint::Complaints;
use crate::names::dns_subdomain;
use crate::report::file::{self, Verdict, Yes};
use crate::time::{self, Clock, Moment, SystemClock};

/// Exit codes of its own, as shells and their kin have them: `exec` failed, CMD cannot be run, CMD is not there; CMD
/// was ended by a signal, whose number is added.
pub const OWN_FAULT: u8 = 125;
pub const CANNOT_RUN: u8 = 126;
pub const NOT_FOUND: u8 = 127;
pub const SIGNALLED: u8 = 128;

/// Between tries of a lock that the sidecar holds for a moment.
const TRY_EVERY: Duration = Duration::from_millis(5);
/// Longer than the sidecar holds a lock.
const MOMENT: Duration = Duration::from_secs(1);
/// From the end of CMD to its next start, and how that grows while CMD ends soon.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const RAN_WELL: Duration = Duration::from_secs(10);
/// CMD that is waited for longer than this, for it has ended too often, does not count as an app that lives.
const ILL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Settings {
    pub report_dir: PathBuf,
    /// None: the sidecar's first.
    pub lease: Option<String>,
    pub term_grace: Duration,
    pub restart: bool,
    pub command: Vec<OsString>,
}

/// Why `exec` ends without CMD's having run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "--term-grace {grace:?} does not fit between the sidecar's renew deadline and the time at which everything must \
        have ended ({:?} before others can take the lease): make it {fits:?} or less here, or --lease-duration longer \
        at every sidecar of this lease",
        deadlines::MARGIN
    )]
    GraceTooLong { grace: Duration, fits: Duration },
    #[error("{0}: no such command")]
    NotFound(String),
    #[error("{0}: it is there, but it cannot be executed: is it a directory, or not chmod +x?")]
    CannotRun(String),
    #[error("{0}")]
    Lock(#[from] LockError),
    #[error(
        "/proc is not that of this process's own namespace, so its children cannot be found: mount it (unshare has \
        --mount-proc)"
    )]
    ForeignProc,
    #[error("cannot {0}: {1}")]
    Machine(&'static str, io::Error),
}

/// Runs until CMD has ended or somebody asked for the end. Gives the exit code.
pub fn run(settings: Settings) -> Result<u8, Error> {
    find(&settings.command)?;
    let mut front = Front::new(settings)?;
    loop {
        let code = match front.next_term()? {
            Next::End(signal) => return Ok(code_of(signal)),
            Next::Term(term) => front.attend(term)?,
        };
        if let Some(code) = code {
            return Ok(code);
        }
    }
}

struct Front {
    settings: Settings,
    file: PathBuf,
    boot_id: String,
    wake: Wake,
    complaints: Complaints,
    /// Held all the time, once it could be taken.
    alive: Option<Lock>,
    /// Since when a lock is somebody else's.
    taken_since: Option<Moment>,
    /// The next start of CMD is not before this.
    not_before: Moment,
    pause: Duration,
}

/// A right to begin: read while the lock was held.
struct Term {
    yes: Yes,
    lock: Lock,
}

enum Next {
    Term(Term),
    /// This signal asked for the end while nothing ran.
    End(Signal),
}

/// How a run ended.
enum Ended {
    /// CMD did, by itself or because it was asked to.
    Cmd(u8),
    /// The keeper ended it, for its time was over.
    InTime,
}

impl Front {
    fn new(settings: Settings) -> Result<Self, Error> {
        // Their pids would be another namespace's.
        let own = std::fs::read_link("/proc/self").map_err(|error| Error::Machine("read /proc", error))?;
        if own != Path::new(&getpid().as_raw_nonzero().to_string()) {
            return Err(Error::ForeignProc);
        }
        // What a dead keeper leaves comes to this process, to be killed.
        let subreaper = set_child_subreaper(Some(getpid()));
        subreaper.map_err(|errno| Error::Machine("become the parent of orphans", errno.into()))?;
        let file = settings.report_dir.join(format!("{}.json", settings.lease.as_deref().unwrap_or("status")));
        Ok(Front {
            boot_id: time::boot_id().map_err(|error| Error::Machine("read this machine's boot id", error))?,
            wake: Wake::new(&file).map_err(|error| Error::Machine("listen for signals", error))?,
            settings,
            file,
            complaints: Complaints::default(),
            alive: None,
            taken_since: None,
            not_before: Moment::BOOT,
            pause: FIRST_PAUSE,
        })
    }

    // --- Waiting for leadership ---

    fn next_term(&mut self) -> Result<Next, Error> {
        loop {
            if let Some(signal) = self.signal_while_waiting() {
                return Ok(Next::End(signal));
            }
            descendants::reap(|_, _| {});
            if let Some(term) = self.try_to_begin()? {
                return Ok(Next::Term(term));
            }
            let now = SystemClock.boot();
            self.wake.until(match self.taken_since {
                Some(since) if now.since(since) < MOMENT => now + TRY_EVERY,
                _ if now < self.not_before => self.not_before,
                _ => Moment::NEVER,
            });
        }
    }

    fn signal_while_waiting(&mut self) -> Option<Signal> {
        let mut asked = None;
        for signal in self.wake.signals() {
            match signal {
                Signal::TSTP => stop_like_cmd(),
                // A terminal's end; elsewhere it asks CMD to read its configuration again, and there is none.
                Signal::HUP if !isatty(io::stderr()) => {}
                Signal::HUP => asked = Some(signal),
                _ if ENDS.contains(&signal) => asked = Some(signal),
                _ => {}
            }
        }
        asked
    }

    /// A term of this pod, with its lock. The lock comes first: a sidecar that finds it free after it took its yes back
    /// may be sure that nobody begins on that yes.
    fn try_to_begin(&mut self) -> Result<Option<Term>, Error> {
        if SystemClock.boot() < self.not_before {
            if self.pause > ILL {
                // It ends again and again: another pod's may not.
                self.alive = None;
            }
            return Ok(None);
        }
        if self.alive.as_ref().is_none_or(|alive| !alive.is_in_place()) {
            // The one that is gone as well: while somebody holds it, the sidecar sees no reason to make another.
            self.alive = None;
            // An app lives before it asks.
            let path = self.settings.report_dir.join(app::lock::ALIVE);
            match self.take(&path)? {
                None => return Ok(None),
                taken => self.alive = taken,
            }
        }
        let Some(seen) = self.look() else { return Ok(None) };
        if let Err(fault) = dns_subdomain(&seen.lease) {
            let text = format!("{} names a lease that cannot be one: {fault}", self.file.display());
            self.complain(&text);
            return Ok(None);
        }
        let path = app::enforcement_lock(&self.settings.report_dir, &seen.lease);
        let Some(lock) = self.take(&path)? else { return Ok(None) };
        let Some(yes) = self.look().filter(|yes| yes.lease == seen.lease) else { return Ok(None) };
        let grace = self.settings.term_grace;
        match deadlines::too_long(&yes, grace) {
            Some(fits) => Err(Error::GraceTooLong { grace, fits }),
            None => Ok(Some(Term { yes, lock })),
        }
    }

    /// A yes that holds now.
    fn look(&mut self) -> Option<Yes> {
        match file::read(&self.file, || SystemClock.boot(), &self.boot_id) {
            Ok(Verdict::Leader(yes)) => Some(yes),
            Ok(Verdict::NotLeader { .. }) => None,
            Err(error) => {
                self.complain(&format!("{error}; waiting for the sidecar to write it"));
                None
            }
        }
    }

    fn take(&mut self, path: &Path) -> Result<Option<Lock>, LockError> {
        let error = match Lock::take(path) {
            Ok(lock) => {
                self.taken_since = None;
                return Ok(Some(lock));
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => error,
        };
        let now = SystemClock.boot();
        if !matches!(error, LockError::Taken { .. }) {
            self.taken_since = None;
        } else if now.since(*self.taken_since.get_or_insert(now)) < MOMENT {
            return Ok(None);
        }
        self.complain(&error.to_string());
        Ok(None)
    }

    fn complain(&mut self, text: &str) {
        if self.complaints.is_news(text, SystemClock.boot()) {
            say(text);
        }
    }

    // --- While CMD runs ---

    /// One run, from its start until all of it has ended. Gives the exit code if that is the end of `exec` as well.
    fn attend(&mut self, term: Term) -> Result<Option<u8>, Error> {
        let name = name(&self.settings.command);
        say(&format!("this pod leads {} (token {}): starting {name}", term.yes.lease, term.yes.token));
        let began = SystemClock.boot();
        let (ended, asked) = self.run_once(&term.yes)?;
        // Nothing of it is left.
        drop(term.lock);

        match (ended, asked) {
            (Ended::Cmd(code), Some(_)) => return Ok(Some(code)),
            (Ended::Cmd(code), None) if !self.settings.restart => return Ok(Some(code)),
            (Ended::InTime, Some(signal)) => return Ok(Some(code_of(signal))),
            (Ended::Cmd(code), None) => {
                let now = SystemClock.boot();
                if now.since(began) >= RAN_WELL {
                    self.pause = FIRST_PAUSE;
                }
                self.not_before = now + self.pause;
                say(&format!("{name} has ended with exit code {code}: again in {:?}, if this pod leads", self.pause));
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
            (Ended::InTime, None) => say(&format!("{name} has ended: waiting to lead again")),
        }
        Ok(None)
    }

    /// Gives how it ended, and the signal that asked for it.
    fn run_once(&mut self, yes: &Yes) -> Result<(Ended, Option<Signal>), Error> {
        let keeper = self.start_keeper(yes).map_err(|error| Error::Machine("start the keeper of CMD", error))?;
        let mut asked = None;
        loop {
            let mut status = None;
            descendants::reap(|child, its| {
                if child == keeper && its.stopped() {
                    let _ = kill_process(keeper, Signal::CONT);
                    say("somebody stopped the keeper, who has to end CMD in time: it goes on");
                } else if child == keeper {
                    status = Some(its);
                }
            });
            if let Some(status) = status {
                // It handles SIGTERM, so nobody else ends it by that.
                let in_time = status.terminating_signal() == Some(Signal::TERM.as_raw());
                if status.signaled() && !in_time {
                    descendants::end_all(&mut self.wake, |_, _| {});
                    say("the keeper was killed, and so was all that it kept");
                }
                let code = exit_code(status).unwrap_or(OWN_FAULT);
                return Ok((if in_time { Ended::InTime } else { Ended::Cmd(code) }, asked));
            }
            for signal in self.wake.signals() {
                if ENDS.contains(&signal) {
                    asked = Some(signal);
                }
                if signal != Signal::CHILD {
                    // What comes too early for the keeper ends it as it would end CMD, which is not there yet.
                    let _ = kill_process(keeper, signal);
                }
                if signal == Signal::TSTP {
                    stop_like_cmd();
                }
            }
            self.wake.until(Moment::NEVER);
        }
    }

    fn start_keeper(&self, yes: &Yes) -> io::Result<Pid> {
        let settings = &self.settings;
        let mut command = Command::new(OWN_PROGRAM);
        command
            .arg0("leasehold")
            .arg("exec-keeper")
            .arg(getpid().as_raw_nonzero().to_string())
            .arg(&self.file)
            .args([&yes.lease, &yes.token.to_string(), &settings.term_grace.as_millis().to_string()])
            .arg("--")
            .args(&settings.command)
            .env("LEASEHOLD_LEASE", &yes.lease)
            .env("LEASEHOLD_TOKEN", yes.token.to_string())
            .process_group(0);
        if isatty(io::stdin()) {
            // A process that is not in the terminal's foreground is stopped when it reads from it.
            command.stdin(Stdio::null());
        }
        Ok(Pid::from_child(&command.spawn()?))
    }
}

/// As a terminal stops a job: CMD was told, and this process follows. The keeper goes on enforcing.
fn stop_like_cmd() {
    let _ = kill_process(getpid(), Signal::STOP);
}

fn code_of(signal: Signal) -> u8 {
    SIGNALLED.saturating_add(u8::try_from(signal.as_raw()).unwrap_or(0))
}

/// Looks for CMD as it will be looked for, so that a wrong name is said now and not when this pod leads.
fn find(command: &[OsString]) -> Result<(), Error> {
    use rustix::fs::{Access, access};
    use std::os::unix::ffi::OsStrExt;

    let Some(program) = command.first().filter(|program| !program.is_empty()) else {
        return Err(Error::NotFound("the empty name".into()));
    };
    let executable = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    let places: Vec<PathBuf> = match program.as_bytes().contains(&b'/') {
        true => vec![program.into()],
        false => {
            let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
            std::env::split_paths(&path).map(|place| place.join(program)).collect()
        }
    };
    if places.iter().any(|place| executable(place)) {
        return Ok(());
    }
    let there = places.iter().any(|place| place.exists());
    Err(if there { Error::CannotRun(name(command)) } else { Error::NotFound(name(command)) })
}
