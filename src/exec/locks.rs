//! The two locks that `exec` holds: `alive`, by which the sidecar sees that the app lives, and `NAME.lock`, for which
//! a release of the lease waits.
//!
//! Both are shared `flock`s on empty files that the sidecar makes. Their descriptors are inherited by the keeper, by
//! CMD and by all that CMD starts: the kernel lets go when the last of them is gone.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::Errno;

use crate::app::lock::is_at;

/// Why a lock is not held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "{} is not there: waiting for the sidecar to make it. (Does it share this volume, with --report-dir, and is it \
        of this version?)",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("cannot open the lock file {}, which the sidecar makes readable for everybody: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is no regular file, so it cannot be the sidecar's lock: remove it, and restart the sidecar", path.display())]
    NoFile { path: PathBuf },
    /// The sidecar does so for the milliseconds of a change.
    #[error("another process holds {} alone: waiting for it", path.display())]
    Taken { path: PathBuf },
    #[error("cannot lock {}: {source}. It must lie on a file system with locks, as an emptyDir does", path.display())]
    Refused { path: PathBuf, source: io::Error },
}

impl LockError {
    /// Waiting does not help.
    pub fn is_final(&self) -> bool {
        matches!(self, LockError::NoFile { .. } | LockError::Refused { .. })
    }
}

/// A shared lock, held until every process that has its descriptor closed it or ended.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes it without ever waiting, whatever lies at the path. Its descriptor is inherited by children.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let owned = || path.to_path_buf();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let descriptor = open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => LockError::Missing { path: owned() },
            // A link, a socket, a device that is not there.
            Errno::LOOP | Errno::NXIO | Errno::NODEV | Errno::NOTDIR => LockError::NoFile { path: owned() },
            _ => LockError::Unreadable { path: owned(), source: errno.into() },
        })?;
        let refused = |errno: Errno| LockError::Refused { path: owned(), source: errno.into() };
        let found = fstat(&descriptor).map_err(refused)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(LockError::NoFile { path: owned() });
        }
        match flock(&descriptor, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(LockError::Taken { path: owned() }),
            Err(errno) => return Err(refused(errno)),
        }
        let lock = Lock { file: descriptor.into(), path: owned() };
        // Between opening and locking it may have been replaced.
        if lock.is_in_place() { Ok(lock) } else { Err(LockError::Missing { path: owned() }) }
    }

    /// The file at the path is still the one that is locked.
    pub fn is_in_place(&self) -> bool {
        is_at(&self.file, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    #[test]
    fn a_lock_keeps_an_exclusive_one_out_until_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.lock");
        let sidecars = File::create(&path).unwrap();
        let lock = Lock::take(&path).unwrap();
        let _second = Lock::take(&path).unwrap();
        assert_eq!(flock(&sidecars, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
        drop((lock, _second));
        flock(&sidecars, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(matches!(Lock::take(&path), Err(LockError::Taken { .. })));
    }

    #[test]
    fn what_is_no_file_is_refused_at_once_and_what_is_missing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alive");
        assert!(!Lock::take(&path).unwrap_err().is_final());
        let file = dir.path().join("file");
        File::create(&file).unwrap();
        let is_refused = |what: &str| {
            let error = Lock::take(&path).unwrap_err();
            assert!(error.is_final() && error.to_string().contains("remove it"), "{what}: {error}");
        };
        fs::create_dir(&path).unwrap();
        is_refused("a directory");
        fs::remove_dir(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).unwrap();
        is_refused("a fifo");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&file, &path).unwrap();
        is_refused("a link");
        fs::remove_file(&path).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        is_refused("a socket");
    }

    #[test]
    fn a_file_that_takes_the_locked_ones_place_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alive");
        File::create(&path).unwrap();
        let lock = Lock::take(&path).unwrap();
        assert!(lock.is_in_place());
        fs::rename(&path, dir.path().join("old")).unwrap();
        assert!(!lock.is_in_place());
        File::create(&path).unwrap();
        assert!(!lock.is_in_place());
    }
}
