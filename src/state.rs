//! The private state directory: what a sidecar of this pod must know of the one before it.
//!
//! One JSON file a lease, written aside and renamed, and one lock file that the process holds as long as it lives.
//! It keeps what was seen of the Lease (so that a restart does not begin to wait anew) and under which identities
//! this pod's sidecars contended (so that a restarted one takes over its own term at once). The first is good under
//! the same boot id, for its moments are of that clock. The second needs the pod's uid as well, and the lock: only
//! then is the former sidecar known to be dead.
//!
//! No promise is stored. Whatever a former sidecar promised, it promised before this one started and for an answer
//! TTL at most, so it is over an answer TTL after the start; that holds even when the disk was full.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::election::Seen;

/// Identities of sidecars that may still be in the record. Each start adds one.
const IDENTITIES_KEPT: usize = 16;
/// The file that is locked, and says by whom.
pub const LOCK: &str = "lock";
/// No owner is longer.
const LONGEST_OWNER: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot use the state directory {path}: {source}; mount a writable emptyDir there, or set --state-dir")]
    Io { path: String, source: io::Error },
    /// Not a fault of the configuration: the sidecar goes on without the directory.
    #[error("no room for the state directory {path}: {source}")]
    Full { path: String, source: io::Error },
    /// Another process holds the lock.
    #[error("another sidecar holds the state directory {path}")]
    Held { path: String, same_pod: bool },
}

/// The directory, locked by this process until it ends.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    owner: Owner,
    /// The kernel drops the lock with the last descriptor.
    _lock: File,
}

/// Whose state it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub boot_id: String,
    /// None: not told, and then nothing is inherited but what was seen.
    pub pod_uid: Option<String>,
    pub namespace: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    owner: Owner,
    lease: String,
    /// Oldest first.
    identities: Vec<String>,
    /// The largest under which any of them made promises.
    answer_ttl_ms: u64,
    seen: Option<Seen>,
}

/// What is inherited for one lease.
#[derive(Debug, Default)]
pub struct Inheritance {
    pub seen: Option<Seen>,
    /// Identities whose terms this process may take over.
    pub former: Vec<String>,
    /// How long after this start their promises may last.
    pub promised_for: Duration,
}

/// One lease's file.
#[derive(Debug)]
pub struct LeaseState {
    path: PathBuf,
    stored: Stored,
    /// There was room for it.
    pub kept: bool,
}

impl StateDir {
    /// Creates the directory if need be, and locks it. [`StateError::Held`] says whether the holder is this very
    /// pod's (which is ending, and worth waiting for) or another's (with whom the directory is shared by mistake).
    pub fn open(path: &Path, owner: Owner) -> Result<Self, StateError> {
        let fault = |source| fault(path, source);
        fs::create_dir_all(path).map_err(fault)?;
        let lock =
            File::options().create(true).truncate(false).read(true).write(true).open(path.join(LOCK)).map_err(fault)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = owner_of(path);
                let same_pod = holder.is_some_and(|holder| holder.pod_uid.is_some() && holder == owner);
                return Err(StateError::Held { path: path.display().to_string(), same_pod });
            }
            Err(errno) => return Err(fault(errno.into())),
        }
        match write_owner(&lock, &owner) {
            // The lock is what counts. A former owner must not be taken for this one.
            Err(error) if is_lack_of_room(&error) => drop(lock.set_len(0)),
            written => written.map_err(fault)?,
        }
        Ok(StateDir { path: path.to_owned(), owner, _lock: lock })
    }

    /// Takes over what is inherited for a lease, and notes `identity` as one that will contend, before it does. Where
    /// there is no room for that, this sidecar's own term is one that a restarted one does not know as its own.
    pub fn lease(
        &self,
        lease: &str,
        identity: &str,
        answer_ttl: Duration,
    ) -> Result<(LeaseState, Inheritance), StateError> {
        let path = self.path.join(format!("{lease}.json"));
        let stored: Option<Stored> = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        // Moments of another boot mean nothing.
        let stored = stored.filter(|stored| {
            stored.owner.boot_id == self.owner.boot_id
                && stored.owner.namespace == self.owner.namespace
                && stored.lease == lease
        });
        let mut inheritance = Inheritance::default();
        let mut identities = Vec::new();
        let mut ttl = answer_ttl;
        if let Some(stored) = stored {
            if stored.owner == self.owner && self.owner.pod_uid.is_some() {
                ttl = ttl.max(Duration::from_millis(stored.answer_ttl_ms));
                identities = stored.identities;
                inheritance.former = identities.clone();
                inheritance.promised_for = ttl;
            }
            inheritance.seen = stored.seen;
        }
        identities.push(identity.to_owned());
        let excess = identities.len().saturating_sub(IDENTITIES_KEPT);
        identities.drain(..excess);
        let stored = Stored {
            owner: self.owner.clone(),
            lease: lease.to_owned(),
            identities,
            answer_ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            seen: inheritance.seen.clone(),
        };
        let mut state = LeaseState { path, stored, kept: true };
        match state.write() {
            Err(error) if is_lack_of_room(&error) => {
                state.kept = false;
                let path = self.path.display();
                tracing::warn!(%path, lease, %error, "the state directory is full: going on without it, so a restart of this sidecar will wait the lease out");
            }
            written => written.map_err(|source| fault(&state.path, source))?,
        }
        Ok((state, inheritance))
    }
}

/// Over what is there, and never by way of an empty file: who finds the directory locked asks whose it is. Spaces
/// cover what is left of a longer one.
fn write_owner(lock: &File, owner: &Owner) -> io::Result<()> {
    let mut text = serde_json::to_vec(owner)?;
    let former = usize::try_from(lock.metadata()?.len()).unwrap_or_default();
    let length = text.len();
    text.resize(length.max(former.min(LONGEST_OWNER)), b' ');
    lock.write_all_at(&text, 0)?;
    // What is longer than any owner was no owner.
    if former > LONGEST_OWNER { lock.set_len(length as u64) } else { Ok(()) }
}

fn fault(path: &Path, source: io::Error) -> StateError {
    let path = path.display().to_string();
    if is_lack_of_room(&source) { StateError::Full { path, source } } else { StateError::Io { path, source } }
}

fn is_lack_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Who locked the directory last, if anybody did.
pub fn owner_of(path: &Path) -> Option<Owner> {
    serde_json::from_slice(&fs::read(path.join(LOCK)).ok()?).ok()
}

impl LeaseState {
    /// Keeps what was seen. When it fails, the file still says what was seen before, which a later start compares
    /// with the Lease and finds old.
    pub fn remember(&mut self, seen: Seen) -> io::Result<()> {
        self.stored.seen = Some(seen);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let aside = self.path.with_extension("json.new");
        let text = serde_json::to_vec(&self.stored)?;
        // No fsync: what a power cut loses belongs to a boot id that ends with it.
        fs::write(&aside, text)?;
        fs::rename(&aside, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn owner(pod_uid: Option<&str>) -> Owner {
        Owner { boot_id: "b".into(), pod_uid: pod_uid.map(str::to_owned), namespace: "n".into() }
    }

    const TTL: Duration = Duration::from_secs(1);

    #[test]
    fn a_restart_of_the_same_pod_inherits_its_identities_and_a_bound_of_its_promises() {
        let dir = tempfile::tempdir().unwrap();
        for (start, expected) in [("a", vec![]), ("b", vec!["a"]), ("c", vec!["a", "b"])] {
            let state = StateDir::open(dir.path(), owner(Some("u"))).unwrap();
            let (_, inheritance) = state.lease("web", start, TTL).unwrap();
            assert_eq!(inheritance.former, expected);
            assert_eq!(inheritance.promised_for, if expected.is_empty() { Duration::ZERO } else { TTL });
        }
    }

    #[test]
    fn another_pod_another_boot_or_no_uid_inherits_no_identity() {
        for (before, after) in [
            (owner(Some("u")), owner(Some("v"))),
            (owner(Some("u")), owner(None)),
            (owner(None), owner(None)),
            (owner(Some("u")), Owner { boot_id: "c".into(), ..owner(Some("u")) }),
        ] {
            let dir = tempfile::tempdir().unwrap();
            drop(StateDir::open(dir.path(), before).unwrap().lease("web", "a", TTL).unwrap());
            let state = StateDir::open(dir.path(), after).unwrap();
            assert!(state.lease("web", "b", TTL).unwrap().1.former.is_empty());
        }
    }

    #[test]
    fn a_directory_in_use_is_waited_for_only_by_the_same_pod() {
        let dir = tempfile::tempdir().unwrap();
        let _held = StateDir::open(dir.path(), owner(Some("u"))).unwrap();
        for (other, expected) in [(owner(Some("u")), true), (owner(Some("v")), false), (owner(None), false)] {
            match StateDir::open(dir.path(), other) {
                Err(StateError::Held { same_pod, .. }) => assert_eq!(same_pod, expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_full_disk_costs_what_is_kept_and_not_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        // What is written there, the kernel has no room for.
        for name in [LOCK, "web.json.new"] {
            symlink("/dev/full", place(name)).unwrap();
        }
        let state = StateDir::open(dir.path(), owner(Some("u"))).unwrap();
        let (mut kept, inheritance) = state.lease("web", "a", TTL).unwrap();
        assert!(!kept.kept && inheritance.former.is_empty());
        assert!(kept.remember(Seen::nothing()).is_err());
        // Room again, and what could not be noted is noted with what is seen next.
        fs::remove_file(place("web.json.new")).unwrap();
        kept.remember(Seen::nothing()).unwrap();
        assert_eq!(state.lease("web", "b", TTL).unwrap().1.former, ["a"]);
    }

    #[test]
    fn on_a_full_disk_a_restart_still_takes_over_what_was_kept_before() {
        let dir = tempfile::tempdir().unwrap();
        drop(StateDir::open(dir.path(), owner(Some("u"))).unwrap().lease("web", "a", TTL).unwrap());
        symlink("/dev/full", dir.path().join("web.json.new")).unwrap();
        for start in ["b", "c"] {
            let state = StateDir::open(dir.path(), owner(Some("u"))).unwrap();
            assert_eq!(state.lease("web", start, TTL).unwrap().1.former, ["a"], "nothing could be noted since");
        }
    }

    #[test]
    fn a_file_that_may_not_be_written_is_told_as_such() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("web.json.new")).unwrap();
        let state = StateDir::open(dir.path(), owner(Some("u"))).unwrap();
        assert!(matches!(state.lease("web", "a", TTL), Err(StateError::Io { .. })));
    }

    #[test]
    fn whose_directory_it_is_can_be_read_at_every_moment() {
        let dir = tempfile::tempdir().unwrap();
        let long = Owner { namespace: "n".repeat(60), ..owner(Some("u")) };
        drop(StateDir::open(dir.path(), long).unwrap());
        drop(StateDir::open(dir.path(), owner(Some("u"))).unwrap());
        std::thread::scope(|scope| {
            let starts = scope.spawn(|| {
                for _ in 0..2000 {
                    drop(StateDir::open(dir.path(), owner(Some("u"))).unwrap());
                }
            });
            while !starts.is_finished() {
                assert_eq!(owner_of(dir.path()), Some(owner(Some("u"))));
            }
        });
    }

    #[test]
    fn a_damaged_file_is_no_inheritance() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("web.json"), b"{\"owner\":").unwrap();
        let state = StateDir::open(dir.path(), owner(Some("u"))).unwrap();
        assert!(state.lease("web", "a", TTL).unwrap().1.former.is_empty());
    }
}
