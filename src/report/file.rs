//! What the app reads from files: `NAME.json` and `NAME.env` for each lease, `status.json` and `status.env` for the
//! first. docs/file.md is the contract.
//!
//! A file is a promise that stays where it is, so it carries its own end, and a reader compares that with its clock.
//! Each is written aside and renamed: a reader finds the old one or the new one, whole. A file of a leader that can
//! not be written again runs out; a not-leader that can not be written is covered by the same end.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use serde::Deserialize;

use super::members::MembersBoard;
use super::view::View;
use super::{Answer, Board};
use crate::time::{self, Clock, Moment, SystemClock};

/// Readable by an app of any user, whatever the umask.
const MODE: u32 = 0o644;
const ASIDE: &str = ".leasehold-";
const FIRST: &str = "status";
/// No lease may have this name where a group has members.
pub const MEMBERS: &str = "members";
/// How far /proc/uptime may be from the boot clock. They differ by hundredths, or by hours.
const UPTIME_TOLERANCE: Duration = Duration::from_secs(1);
/// No report is longer: the longest thing in one is a holder's name, which is cut.
const LONGEST: u64 = 1 << 20;

/// The report directory of this sidecar.
pub struct FileReport {
    dir: PathBuf,
    boards: Vec<Arc<Board>>,
}

impl FileReport {
    /// Checks everything that can be checked before it is relied upon: the names, the clock, the directory (made if
    /// it is missing) and that a file can be written there. Removes what a killed sidecar left unfinished.
    pub fn open(dir: &Path, boards: Vec<Arc<Board>>) -> Result<Self, Error> {
        check_names(&boards)?;
        uptime_is_the_boot_clock()?;
        let unusable = |source| Error::Unusable { dir: dir.into(), source };
        fs::create_dir_all(dir).map_err(unusable)?;
        for entry in fs::read_dir(dir).map_err(unusable)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(ASIDE) {
                fs::remove_file(entry.path()).map_err(unusable)?;
            }
        }
        let report = FileReport { dir: dir.into(), boards };
        let probe = report.dir.join(format!("{ASIDE}probe"));
        write_aside(&probe, "").and_then(|()| fs::remove_file(&probe)).map_err(unusable)?;
        Ok(report)
    }

    /// Not leader, for every lease: what a former process wrote is void. To be done before anything listens.
    pub fn reset(&self, now: Moment) -> Result<(), Error> {
        let mut leases = self.boards.iter().enumerate();
        leases
            .try_for_each(|(lease, board)| self.write(lease, board, &board.not_leader(now)))
            .map_err(|source| Error::Unusable { dir: self.dir.clone(), source })
    }

    /// Writes the present answer for one lease, which is a promise when it says leader.
    pub fn refresh(&self, lease: usize, now: Moment) -> io::Result<()> {
        let Some(board) = self.boards.get(lease) else { return Ok(()) };
        self.write(lease, board, &board.answer(now))
    }

    fn write(&self, lease: usize, board: &Board, answer: &Answer) -> io::Result<()> {
        let json = View::new(board, answer).to_json() + "\n";
        let env = env_text(answer);
        // Every file is tried: the more of them say no, the better.
        let mut outcome = Ok(());
        for stem in stems(lease, &board.lease) {
            for (ending, text) in [("json", &json), ("env", &env)] {
                outcome = outcome.and(self.replace(&format!("{stem}.{ending}"), text));
            }
        }
        outcome
    }

    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        replace(&self.dir, name, text)
    }
}

/// The members of a group, in [`MEMBERS`] one a line and beside it as JSON.
pub fn write_members(dir: &Path, board: &MembersBoard, now: Moment) -> io::Result<()> {
    replace(dir, MEMBERS, &board.to_lines())?;
    replace(dir, &format!("{MEMBERS}.json"), &(board.to_json(now) + "\n"))
}

fn replace(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let aside = dir.join(format!("{ASIDE}{name}"));
    let replaced = write_aside(&aside, text).and_then(|()| fs::rename(&aside, dir.join(name)));
    if replaced.is_err() {
        // The old file stays; the unfinished one would only take up room.
        let _ = fs::remove_file(&aside);
    }
    replaced
}

/// No fsync: after a crash of the machine the boot id is another, and nothing of the old says anything.
fn write_aside(path: &Path, text: &str) -> io::Result<()> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(MODE).open(path);
    let mut file: File = match create() {
        // Never written through: it may be somebody's link.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            create()?
        }
        created => created?,
    };
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    file.write_all(text.as_bytes())
}

/// Integers only, and nothing that another party chose: shells execute this file.
fn env_text(answer: &Answer) -> String {
    let (leader, from, until, token) = match &answer.promise {
        // Both rounded down: see `View`.
        Some(promise) => (1, answer.now.uptime_hundredths(), promise.until.uptime_hundredths(), promise.token),
        None => (0, 0, 0, 0),
    };
    let mut text = String::new();
    for (key, value) in [("LEADER", leader), ("VALID_FROM", from), ("VALID_UNTIL", until), ("TOKEN", token)] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "LEASEHOLD_{key}={value}");
    }
    text
}

fn stems(lease: usize, name: &str) -> impl Iterator<Item = &str> {
    let first = (lease == 0 && name != FIRST).then_some(FIRST);
    first.into_iter().chain([name])
}

/// A first lease called `status` is what `status.json` means anyway; a later one would overwrite the first's.
fn check_names(boards: &[Arc<Board>]) -> Result<(), Error> {
    for (lease, board) in boards.iter().enumerate() {
        let name = &board.lease;
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(Error::NoFileName { lease: name.clone() });
        }
        let earlier = boards[..lease].iter().any(|other| other.lease == *name);
        if earlier || (lease > 0 && name == FIRST) {
            return Err(Error::NameTaken { lease: name.clone() });
        }
    }
    Ok(())
}

/// Readers of the files compare with /proc/uptime, this process promises by the boot clock.
pub fn uptime_is_the_boot_clock() -> Result<(), Error> {
    check_clock(time::proc_uptime().map_err(Error::NoUptime)?, SystemClock.boot())
}

fn check_clock(uptime: Moment, boot: Moment) -> Result<(), Error> {
    let apart = uptime.since(boot).max(boot.since(uptime));
    if apart > UPTIME_TOLERANCE { Err(Error::ForeignUptime { apart }) } else { Ok(()) }
}

/// Why there are no files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write reports in {}: {source}. The sidecar needs a directory of its own to write to, shared with \
        the app (an emptyDir)", dir.display())]
    Unusable { dir: PathBuf, source: io::Error },
    #[error(
        "the lease {lease:?} cannot have a report file: its name is taken by another lease's (status.json is the \
        first lease's)"
    )]
    NameTaken { lease: String },
    #[error("the lease {lease:?} cannot have a report file: its name is no file name")]
    NoFileName { lease: String },
    #[error("cannot read /proc/uptime, which readers of the report files compare with: {0}")]
    NoUptime(io::Error),
    #[error(
        "/proc/uptime is {apart:?} away from the boot clock, so readers of the report files could not tell how \
        old they are (lxcfs?). Set --report-dir off and ask over HTTP"
    )]
    ForeignUptime { apart: Duration },
}

/// Reads a `.json` report as an app should: the clock after the file (a reader that is stopped in between must not
/// believe what has run out meanwhile), and under this `boot_id`.
pub fn read(path: &Path, clock: impl FnOnce() -> Moment, boot_id: &str) -> Result<Verdict, ReadError> {
    let text = read_text(path).map_err(|source| ReadError::Unreadable { path: path.into(), source })?;
    let now = clock();
    let report: Report =
        serde_json::from_str(&text).map_err(|source| ReadError::Malformed { path: path.into(), source })?;
    if report.boot_id != boot_id {
        return Err(ReadError::OtherBoot { path: path.into() });
    }
    if !report.leader {
        return Ok(Verdict::NotLeader { reason: report.reason });
    }
    let (Some(lease), Some(from), Some(until), Some(stop_by), Some(token)) = (
        report.lease,
        report.valid_from_uptime,
        report.valid_until_uptime,
        report.stop_by_uptime,
        report.fencing_token,
    ) else {
        return Err(ReadError::Incomplete { path: path.into() });
    };
    let (from, until) = (hundredths(from), hundredths(until));
    match now.uptime_hundredths() {
        now if now < from => Err(ReadError::FromTheFuture { path: path.into() }),
        now if now >= until => Ok(Verdict::NotLeader { reason: RAN_OUT.into() }),
        _ => {
            let moment = |count: u64| Moment::from_nanos(count.saturating_mul(10_000_000));
            Ok(Verdict::Leader(Yes { lease, token, until: moment(until), stop_by: moment(hundredths(stop_by)) }))
        }
    }
}

/// Never waits, whatever lies at the path, and takes no more than any report has.
fn read_text(path: &Path) -> io::Result<String> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// What a report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This pod leads.
    Leader(Yes),
    /// It does not. [`RAN_OUT`]: it did, and the report was not renewed.
    NotLeader { reason: String },
}

/// A yes that holds at the moment of its reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Yes {
    pub lease: String,
    pub token: u64,
    /// Nobody may believe it at or after this.
    pub until: Moment,
    /// Whoever held the lease's lock before reading it may work until this.
    pub stop_by: Moment,
}

/// The reason of a report that said leader and was not renewed: no reason that a sidecar gives.
pub const RAN_OUT: &str = "expired";

/// Why a report says nothing. Whoever cannot tell does not lead.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not a report: {source}", path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("{} says leader, but not of which lease, from when, until when or with which token", path.display())]
    Incomplete { path: PathBuf },
    #[error("{} was written before this machine last started", path.display())]
    OtherBoot { path: PathBuf },
    #[error("{} begins in the future: this /proc/uptime is not the sidecar's (lxcfs?)", path.display())]
    FromTheFuture { path: PathBuf },
}

#[derive(Deserialize)]
struct Report {
    lease: Option<String>,
    leader: bool,
    fencing_token: Option<u64>,
    valid_from_uptime: Option<f64>,
    valid_until_uptime: Option<f64>,
    stop_by_uptime: Option<f64>,
    boot_id: String,
    reason: String,
}

/// A JSON number of seconds back into the hundredths it was made of. Exact far past any uptime.
fn hundredths(seconds: f64) -> u64 {
    (seconds * 100.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boards(names: &[&str]) -> Vec<Arc<Board>> {
        let board = |name: &&str| Board::new((*name).into(), "".into(), "".into(), "".into(), Duration::from_secs(1));
        names.iter().map(board).map(Arc::new).collect()
    }

    #[test]
    fn a_container_with_an_uptime_of_its_own_gets_no_files() {
        let boot = Moment::from_nanos(500_000_000_000);
        assert!(check_clock(boot + Duration::from_millis(10), boot).is_ok());
        assert!(check_clock(boot - Duration::from_millis(10), boot).is_ok());
        for foreign in [boot - Duration::from_secs(400), boot + Duration::from_secs(2)] {
            let error = check_clock(foreign, boot).unwrap_err().to_string();
            assert!(error.contains("lxcfs"), "{error}");
        }
    }

    #[test]
    fn status_is_the_first_leases_name_and_no_two_leases_share_a_file() {
        assert!(check_names(&boards(&["status", "jobs"])).is_ok());
        assert_eq!(stems(0, "status").collect::<Vec<_>>(), ["status"]);
        assert_eq!(stems(0, "web").collect::<Vec<_>>(), ["status", "web"]);
        assert_eq!(stems(1, "jobs").collect::<Vec<_>>(), ["jobs"]);
        for bad in [["web", "status"], ["web", "web"], ["web", "../x"], ["web", ""], ["web", ".x"]] {
            assert!(check_names(&boards(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hundredths_survive_the_way_through_json() {
        for hundredths_in in [0, 1, 29, 57, 113, 1_234_567, 99_999_999_999] {
            let text = serde_json::to_string(&(hundredths_in as f64 / 100.0)).unwrap();
            assert_eq!(hundredths(serde_json::from_str(&text).unwrap()), hundredths_in);
        }
        assert_eq!(hundredths(f64::NAN), 0);
    }
}
