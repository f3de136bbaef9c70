//! All that CMD started, also what has left its process group or session, or its parent.
//!
//! The keeper is a child subreaper: whoever of its descendants loses a parent becomes its child. So it has no
//! descendants if and only if it has no children, which `wait` says exactly. To find them there is `/proc` only: it is
//! walked again until none is left, for what is killed may have started another one just before.

use std::fs;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, kill_process, pidfd_open, pidfd_send_signal, wait,
};

use super::wake::{Wake, say};
use crate::time::{Clock, SystemClock};

/// Between one walk and the next, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// What does not end though it is killed waits for the kernel.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// SIGKILL to every descendant until none is left. `each` hears of those that end as children.
pub fn end_all(wake: &mut Wake, mut each: impl FnMut(Pid, WaitStatus)) {
    let mut pause = FIRST_PAUSE;
    loop {
        let left = signal_all(Signal::KILL);
        let next = SystemClock.boot() + pause;
        loop {
            if !reap(&mut each) {
                return;
            }
            if SystemClock.boot() >= next {
                break;
            }
            wake.until(next);
        }
        if pause < LONGEST_PAUSE && pause * 2 >= LONGEST_PAUSE {
            say(&format!("{left:?} do not end though they are killed: they wait in the kernel, or are another user's"));
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Takes the status of every child that ended or stopped. False when there is no child any more.
pub fn reap(mut each: impl FnMut(Pid, WaitStatus)) -> bool {
    loop {
        match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            Ok(Some((child, status))) => each(child, status),
            Ok(None) => return true,
            Err(Errno::CHILD) => return false,
            Err(Errno::INTR) => {}
            // No other error is documented; nothing is known then.
            Err(_) => return true,
        }
    }
}

/// Sends a signal to every descendant of this process that lives. Gives their process ids.
pub fn signal_all(signal: Signal) -> Vec<i32> {
    let living = descendants(getpid(), &processes());
    living.into_iter().filter(|process| process.send(signal)).map(|process| process.id).collect()
}

/// A process as `/proc` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub id: i32,
    pub parent: i32,
    pub ended: bool,
    /// Tells it from a later one of the same id.
    pub started: u64,
}

impl Process {
    fn read(id: i32) -> Option<Self> {
        Self::parse(id, &fs::read(format!("/proc/{id}/stat")).ok()?)
    }

    /// `ID (NAME) STATE PARENT ...`, as proc(5) has it. The name may hold anything.
    pub fn parse(id: i32, stat: &[u8]) -> Option<Self> {
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?.split_ascii_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X" | "x");
        let parent = fields.next()?.parse().ok()?;
        // The 22nd field of all.
        let started = fields.nth(17)?.parse().ok()?;
        Some(Process { id, parent, ended, started })
    }

    /// Sends it a signal, and nobody else who has its id by now.
    fn send(self, signal: Signal) -> bool {
        let Some(id) = Pid::from_raw(self.id).filter(|_| !self.ended) else { return false };
        match pidfd_open(id, PidfdFlags::empty()) {
            Ok(descriptor) if Self::read(self.id).is_some_and(|there| there.started == self.started) => {
                let _ = pidfd_send_signal(descriptor, signal);
            }
            Ok(_) | Err(Errno::SRCH) => return false,
            // An old kernel or a strict sandbox.
            Err(_) => {
                let _ = kill_process(id, signal);
            }
        }
        true
    }
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(Process::read).collect()
}

fn descendants(root: Pid, processes: &[Process]) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut parent = root.as_raw_nonzero().get();
    let mut looked_at = 0;
    loop {
        found.extend(processes.iter().filter(|process| process.parent == parent && process.id != parent));
        match found.get(looked_at) {
            Some(process) => parent = process.id,
            None => return found,
        }
        looked_at += 1;
        if looked_at > processes.len() {
            // Parents in a circle: ids were used again while they were read.
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: i32, parent: i32) -> Process {
        Process { id, parent, ended: false, started: 0 }
    }

    #[test]
    fn every_generation_is_found_and_nobody_else() {
        let all = [process(1, 0), process(2, 1), process(3, 2), process(4, 3), process(5, 1), process(6, 2)];
        let ids = |root: i32| {
            let mut ids: Vec<i32> =
                descendants(Pid::from_raw(root).unwrap(), &all).iter().map(|process| process.id).collect();
            ids.sort();
            ids
        };
        assert_eq!(ids(2), [3, 4, 6]);
        assert_eq!(ids(1), [2, 3, 4, 5, 6]);
        assert_eq!(ids(4), [0; 0]);
    }

    #[test]
    fn parents_in_a_circle_end_the_search() {
        let all = [process(2, 3), process(3, 2), process(4, 4)];
        assert!(descendants(Pid::from_raw(2).unwrap(), &all).len() < 10);
        assert!(descendants(Pid::from_raw(4).unwrap(), &all).is_empty());
    }

    #[test]
    fn a_name_that_looks_like_a_line_of_proc_changes_nothing() {
        let rest = "S 7 1 1 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 200";
        let stat = format!("42 (a) Z 1 (\u{1f980}\n) {rest}");
        let expected = Process { id: 42, parent: 7, ended: false, started: 987_654 };
        assert_eq!(Process::parse(42, stat.as_bytes()), Some(expected));
        for bad in ["", "42", "42 (a", "42 (a) S", "42 (a) S x", "42 (a) S 7 1"] {
            assert_eq!(Process::parse(42, bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn this_process_is_found_in_proc() {
        let own = Process::read(getpid().as_raw_nonzero().get()).unwrap();
        assert!(!own.ended && own.parent > 0);
    }
}
