//! Waiting for whatever comes first: a signal, a new report file, a moment of the boot clock.
//!
//! No wait is longer than [`LOOK_EVERY`], so a file whose change is not notified (or a machine that was suspended, which
//! no timeout counts) is noticed that late at most.

use std::ffi::{CStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::stderr::Lines;
use crate::time::{Clock, Moment, SystemClock};

/// The longest wait.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same where changes are not notified.
const LOOK_BLINDLY_EVERY: Duration = Duration::from_millis(20);

/// What is passed on to CMD, and the end of a child.
const HEARD: [Signal; 10] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::TSTP,
    Signal::CONT,
    Signal::CHILD,
];

pub struct Wake {
    heard: Vec<(Signal, Arc<AtomicBool>)>,
    /// A byte for each signal.
    pipe: UnixStream,
    file: PathBuf,
    changes: Option<OwnedFd>,
}

impl Wake {
    /// From now on signals are heard, and changes of this file, which is written aside and renamed.
    pub fn new(file: &Path) -> io::Result<Self> {
        let (pipe, in_handler) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let ignored = mask("SigIgn");
        let mut heard = Vec::new();
        for signal in HEARD {
            // What was ignored from the start, as by nohup, stays so, for CMD too.
            if ignored & bit(signal) != 0 && ![Signal::TERM, Signal::CHILD].contains(&signal) {
                continue;
            }
            let flag = Arc::new(AtomicBool::new(false));
            // In this order: who is woken finds the flag.
            signal_hook::flag::register(signal.as_raw(), Arc::clone(&flag))?;
            signal_hook::low_level::pipe::register(signal.as_raw(), in_handler.try_clone()?)?;
            heard.push((signal, flag));
        }
        let changes = watch(file);
        Ok(Wake { heard, pipe, file: file.into(), changes })
    }

    /// Those that came since the last call.
    pub fn signals(&self) -> Vec<Signal> {
        let came = self.heard.iter().filter(|(_, flag)| flag.swap(false, Ordering::SeqCst));
        came.map(|(signal, _)| *signal).collect()
    }

    /// Waits until `moment`, or less.
    pub fn until(&mut self, moment: Moment) {
        if self.changes.is_none() {
            self.changes = watch(&self.file);
        }
        let longest = if self.changes.is_some() { LOOK_EVERY } else { LOOK_BLINDLY_EVERY };
        let moment = moment.min(SystemClock.boot() + longest);
        loop {
            let left = moment.since(SystemClock.boot());
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut awaited = vec![PollFd::new(&self.pipe, PollFlags::IN)];
            awaited.extend(self.changes.as_ref().map(|changes| PollFd::new(changes, PollFlags::IN)));
            match poll(&mut awaited, Some(&timeout)) {
                Ok(0) => return,
                Ok(_) => {}
                // No busy loop, whatever is wrong.
                Err(errno) if errno != Errno::INTR => return std::thread::sleep(left),
                Err(_) => {}
            }
            if self.drain() || self.changed() || left.is_zero() {
                return;
            }
        }
    }

    fn drain(&mut self) -> bool {
        let mut bytes = [0; 64];
        let mut some = false;
        while self.pipe.read(&mut bytes).is_ok_and(|count| count > 0) {
            some = true;
        }
        some
    }

    /// The file is another one. Takes all that was notified.
    fn changed(&mut self) -> bool {
        let Some(changes) = &self.changes else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(changes, &mut buffer);
        let (mut changed, mut gone) = (false, false);
        while let Ok(event) = events.next() {
            // Without a name: the directory itself, or more than the kernel could keep.
            let name = event.file_name().map(CStr::to_bytes);
            changed |= name.is_none() || name == self.file.file_name().map(OsStrExt::as_bytes);
            gone |= event.events().contains(ReadFlags::IGNORED);
        }
        if gone {
            self.changes = None;
        }
        changed
    }
}

/// None where there is no directory yet, no inotify, or none left.
fn watch(file: &Path) -> Option<OwnedFd> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    let of_interest = WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
    inotify::add_watch(&changes, file.parent()?, of_interest).ok()?;
    Some(changes)
}

/// A set of this process's signals in /proc/self/status.
fn mask(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let set = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

static STDERR: Lines =
    Lines::new(|dropped| format!("leasehold: {dropped} lines before this were dropped: nobody read them\n"));

/// A line on standard error, unless nobody takes it: who enforces a deadline must not wait for a reader.
pub fn say(text: &str) {
    STDERR.write(format!("leasehold: {text}\n").as_bytes());
}

/// CMD, for a message: its arguments may hold what is nobody's business.
pub fn name(command: &[OsString]) -> String {
    command.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default()
}
