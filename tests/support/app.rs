//! An app beside a sidecar, as far as the sidecar sees one: it holds the lock.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::clock::wait_for;
use super::sidecar::Sidecar;
use super::stage::SOON;

/// A process's hold of a lock file; dropped, it is as if the process had been killed.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the app's lock, as soon as the sidecar has made it, and waits like an app would.
    #[track_caller]
    pub fn alive(pod: &Sidecar) -> Self {
        Lock::at(&pod.report_dir().join("alive"))
    }

    /// Takes the lock of who works until `stop_by`.
    #[track_caller]
    pub fn enforcing(pod: &Sidecar, lease: &str) -> Self {
        Lock::at(&pod.report_dir().join(format!("{lease}.lock")))
    }

    #[track_caller]
    fn at(path: &Path) -> Self {
        let file = wait_for("the lock file", SOON, || File::open(path).ok());
        flock(&file, FlockOperation::LockShared).expect("a lock");
        Lock { _file: file }
    }
}
