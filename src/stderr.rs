//! Lines on standard error, for which nobody waits: one that is not taken at once is dropped, and how many were is
//! told with the next that is taken.
//!
//! A reader that stopped (no container runtime, a log disk that hangs) leaves a full pipe, and a write to that waits.
//! O_NONBLOCK would not do: it holds for all who have the same pipe open, a shell or an app. So a poll comes first,
//! and a pipe that is writable takes a piece of [`PIECE`] at once. A longer line may lose its end.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// PIPE_BUF.
const PIECE: usize = 4096;

pub struct Lines {
    state: Mutex<State>,
    /// What is written, with its end of line, when so many were dropped.
    note: fn(u64) -> String,
}

struct State {
    dropped: u64,
    /// The last line has no end.
    torn: bool,
}

impl Lines {
    pub const fn new(note: fn(u64) -> String) -> Self {
        Lines { state: Mutex::new(State { dropped: 0, torn: false }), note }
    }

    /// Writes a line that ends as one.
    pub fn write(&self, line: &[u8]) {
        self.write_to(rustix::stdio::stderr(), line);
    }

    fn write_to(&self, to: BorrowedFd, line: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.torn && put(to, b"\n").is_ok() {
            state.torn = false;
        }
        if !state.torn && state.dropped > 0 {
            match put(to, (self.note)(state.dropped).as_bytes()) {
                Ok(()) => state.dropped = 0,
                Err(torn) => state.torn = torn,
            }
        }
        let rest = if state.torn || state.dropped > 0 { Err(state.torn) } else { put(to, line) };
        if let Err(torn) = rest {
            state.torn = torn;
            state.dropped += 1;
        }
    }
}

impl io::Write for &Lines {
    /// Whoever writes a line writes it whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        Lines::write(self, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what is taken at once; the error is whether only a part was.
fn put(to: BorrowedFd, bytes: &[u8]) -> Result<(), bool> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut rest = bytes;
    while !rest.is_empty() {
        let torn = rest.len() < bytes.len();
        if poll(&mut [PollFd::new(&to, PollFlags::OUT)], Some(&at_once)) != Ok(1) {
            return Err(torn);
        }
        match rustix::io::write(to, &rest[..rest.len().min(PIECE)]) {
            Ok(0) => return Err(torn),
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => {}
            Err(_) => return Err(torn),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_a_full_pipe_does_not_take_is_counted_and_told_when_it_does() {
        let (mut reader, writer) = pipe().unwrap();
        let lines = Lines::new(|dropped| format!("{dropped} dropped\n"));
        // Each fills a page, so that no short line finds room beside it.
        let long = [[b'a'; PIECE - 1].as_slice(), b"\n"].concat();
        let mut room = 0;
        while lines.state.lock().unwrap().dropped == 0 {
            lines.write_to(writer.as_fd(), &long);
            room += 1;
        }
        lines.write_to(writer.as_fd(), b"lost\n");
        let mut page = [0; PIECE];
        for _ in 1..room {
            reader.read_exact(&mut page).unwrap();
            assert_eq!(page, *long);
        }
        lines.write_to(writer.as_fd(), b"kept\n");
        lines.write_to(writer.as_fd(), b"and this\n");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "2 dropped\nkept\nand this\n");
    }

    #[test]
    fn a_line_that_lost_its_end_does_not_run_into_the_next() {
        let (mut reader, writer) = pipe().unwrap();
        let lines = Lines::new(|dropped| format!("{dropped} dropped\n"));
        lines.write_to(writer.as_fd(), &[b'a'; 1 << 20]);
        let mut begun = vec![0; 1 << 20];
        let count = reader.read(&mut begun).unwrap();
        assert!(count < begun.len() && count % PIECE == 0, "{count}");
        lines.write_to(writer.as_fd(), b"next\n");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.trim_start_matches('a'), "\n1 dropped\nnext\n");
    }

    #[test]
    fn what_takes_nothing_stops_nobody() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        for to in [full.as_fd(), writer.as_fd()] {
            let lines = Lines::new(|dropped| format!("{dropped} dropped\n"));
            lines.write_to(to, b"a\n");
            lines.write_to(to, b"b\n");
            assert_eq!(lines.state.lock().unwrap().dropped, 2);
        }
    }
}
