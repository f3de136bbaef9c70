//! Locks in the report directory: the app that holds `alive` lives, and who holds `NAME.lock` still works.
//!
//! The kernel lets go of a `flock` when the last process that has its descriptor is gone, so its end proves that
//! nothing is left of whoever took it. It wakes a waiter when the last holder lets go, but nobody when one comes; so
//! newcomers are noticed by their opening of the file, and, where that is not enough, by trying ten times a second.
//!
//! From the instant at which nobody holds `alive` until its [`Hold`] is dropped, this process holds it alone: an app
//! that starts meanwhile waits, and reads what is told after its forerunner's end, never what was told to that one.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc as blocking;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use tokio::sync::mpsc;

/// The app's lock.
pub const ALIVE: &str = "alive";

/// Readable by an app of any user: more is not needed to lock it.
const MODE: u32 = 0o644;
/// From an opening of the file to the first try: whoever opens it to lock it without waiting must not meet ours.
const FIRST_TRY: Duration = Duration::from_millis(1);
/// Between tries, for a lock that is taken on a descriptor opened before.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// The same where openings cannot be noticed.
const TRY_BLINDLY_EVERY: Duration = Duration::from_millis(20);
/// After a file that cannot be used.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Why the app is not alive while nobody holds its lock.
pub const NOT_HELD: &str = "nobody holds its lock";

/// Why a lock file is none.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("cannot open the lock file {}: {source}. The sidecar makes it in its report directory, an emptyDir", path.display())]
    Unusable { path: PathBuf, source: io::Error },
    #[error("the lock file {} is no regular file: remove it, and the sidecar makes it anew", path.display())]
    NotAFile { path: PathBuf },
}

/// Opens a lock file, and makes it if it is missing. A fifo or a link is refused and never waited for.
pub fn open(path: &Path) -> Result<File, LockError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let open =
        |create| OpenOptions::new().read(true).write(create).create(create).mode(MODE).custom_flags(flags).open(path);
    let not_a_file = || LockError::NotAFile { path: path.into() };
    let file = match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(not_a_file()),
        Ok(_) => open(false),
        Err(_) => open(true),
    };
    let file = file.map_err(|source| LockError::Unusable { path: path.into(), source })?;
    match file.metadata() {
        Ok(found) if found.is_file() => {
            // Whatever the umask; a file of another owner is as it is.
            let _ = file.set_permissions(Permissions::from_mode(MODE));
            Ok(file)
        }
        _ => Err(not_a_file()),
    }
}

/// Somebody else holds it. (For an instant this process does, which only a locker that never waits could notice.)
fn is_held(file: &File) -> Result<bool, Errno> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let _ = flock(file, FlockOperation::Unlock);
            Ok(false)
        }
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// The path leads to this very file.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// What the app's lock says.
#[derive(Debug)]
pub enum LockSign {
    Held,
    /// Nobody holds it, and nobody else can take it until the hold is dropped.
    Free(Hold),
    /// The file is not usable, so nothing shows that the app lives.
    Broken(LockError),
}

/// The app's lock, held exclusively by this process until this is dropped.
#[derive(Debug)]
pub struct Hold {
    _until_dropped: blocking::Sender<()>,
}

/// Watches the app's lock from a thread of its own: to wait for a lock is to block.
pub fn watch(path: PathBuf, tell: mpsc::Sender<LockSign>) -> io::Result<()> {
    thread::Builder::new().name("app-lock".into()).stack_size(128 * 1024).spawn(move || {
        // Ends when nobody listens any more.
        while follow(&path, &tell).is_some() {}
    })?;
    Ok(())
}

/// From one holder's coming to the last one's end.
fn follow(path: &Path, tell: &mpsc::Sender<LockSign>) -> Option<()> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) => {
            tell.blocking_send(LockSign::Broken(error)).ok()?;
            thread::sleep(TRY_AGAIN);
            return Some(());
        }
    };
    if !holder_comes(&file, path, tell) {
        return (!tell.is_closed()).then_some(());
    }
    tell.blocking_send(LockSign::Held).ok()?;
    let locked = loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            locked => break locked,
        }
    };
    if let Err(errno) = locked {
        // The kernel has no memory for it, or the like: nothing is known, and so nothing proved.
        tell.blocking_send(LockSign::Broken(LockError::Unusable { path: path.into(), source: errno.into() })).ok()?;
        thread::sleep(TRY_AGAIN);
        return Some(());
    }
    let (hold, dropped) = blocking::channel();
    tell.blocking_send(LockSign::Free(Hold { _until_dropped: hold })).ok()?;
    // Nothing is ever sent: this waits for the end of the sender.
    let _ = dropped.recv();
    let _ = flock(&file, FlockOperation::Unlock);
    Some(())
}

/// Waits until somebody holds the lock. False when the file was replaced, or nobody listens any more.
fn holder_comes(file: &File, path: &Path, tell: &mpsc::Sender<LockSign>) -> bool {
    // Before the first try, so that no opening falls between them.
    let openings = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .and_then(|openings| inotify::add_watch(&openings, path, WatchFlags::OPEN).map(|_| openings))
        .ok();
    let longest = if openings.is_some() { TRY_EVERY } else { TRY_BLINDLY_EVERY };
    let mut pause = FIRST_TRY;
    loop {
        if is_held(file) == Ok(true) {
            return true;
        }
        if !is_at(file, path) || tell.is_closed() {
            return false;
        }
        match &openings {
            Some(openings) if opened_within(openings, pause) => {
                thread::sleep(FIRST_TRY);
                pause = FIRST_TRY;
            }
            Some(_) => {}
            None => thread::sleep(pause),
        }
        pause = (pause * 2).min(longest);
    }
}

fn opened_within(openings: &std::os::fd::OwnedFd, limit: Duration) -> bool {
    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
    if poll(&mut [PollFd::new(openings, PollFlags::IN)], Some(&limit)) != Ok(1) {
        return false;
    }
    let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
    let mut events = inotify::Reader::new(openings, &mut buffer);
    let mut opened = false;
    while let Ok(event) = events.next() {
        opened |= event.events().contains(ReadFlags::OPEN);
    }
    opened
}

/// `NAME.lock`: held by who works until `stop_by` instead of for an answer TTL.
pub struct Enforcement {
    path: PathBuf,
    file: File,
}

impl Enforcement {
    pub fn open(path: PathBuf) -> Result<Self, LockError> {
        let file = open(&path)?;
        Ok(Enforcement { path, file })
    }

    /// Somebody still works. Whoever takes the lock after this said no reads what is told by now.
    pub fn is_held(&mut self) -> bool {
        if !is_at(&self.file, &self.path)
            && let Ok(file) = open(&self.path)
        {
            self.file = file;
        }
        // Where there are no locks nobody holds one; whatever else is wrong proves nothing.
        is_held(&self.file).unwrap_or_else(|errno| ![Errno::NOSYS, Errno::OPNOTSUPP].contains(&errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    struct Scene {
        _dir: tempfile::TempDir,
        path: PathBuf,
        signs: mpsc::Receiver<LockSign>,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(ALIVE);
            drop(open(&path).unwrap());
            let (tell, signs) = mpsc::channel(4);
            watch(path.clone(), tell).unwrap();
            Scene { _dir: dir, path, signs }
        }

        fn locked(&self) -> File {
            let file = File::open(&self.path).unwrap();
            flock(&file, FlockOperation::LockShared).unwrap();
            file
        }

        fn sign(&mut self) -> LockSign {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async { tokio::time::timeout(SOON, self.signs.recv()).await }).unwrap().unwrap()
        }

        fn held(&mut self) {
            let sign = self.sign();
            assert!(matches!(sign, LockSign::Held), "{sign:?}");
        }

        fn free(&mut self) -> Hold {
            match self.sign() {
                LockSign::Free(hold) => hold,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_last_holders_end_is_noticed_and_until_the_hold_is_dropped_nobody_else_gets_it() {
        let mut scene = Scene::new();
        let (first, second) = (scene.locked(), scene.locked());
        scene.held();
        drop(first);
        drop(second);
        let hold = scene.free();
        let file = File::open(&scene.path).unwrap();
        assert_eq!(flock(&file, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
        drop(hold);
        flock(&file, FlockOperation::LockShared).unwrap();
        scene.held();
        drop(file);
        scene.free();
    }

    #[test]
    fn a_lock_on_a_descriptor_that_was_opened_long_before_is_noticed() {
        let mut scene = Scene::new();
        let file = File::open(&scene.path).unwrap();
        thread::sleep(Duration::from_millis(300));
        flock(&file, FlockOperation::LockShared).unwrap();
        scene.held();
        flock(&file, FlockOperation::Unlock).unwrap();
        scene.free();
    }

    #[test]
    fn a_lock_file_that_is_removed_is_made_anew_and_what_is_none_is_said() {
        let mut scene = Scene::new();
        std::fs::remove_file(&scene.path).unwrap();
        while !scene.path.exists() {
            thread::sleep(Duration::from_millis(5));
        }
        let file = scene.locked();
        scene.held();
        std::fs::remove_file(&scene.path).unwrap();
        std::fs::create_dir(&scene.path).unwrap();
        drop(file);
        drop(scene.free());
        assert!(matches!(scene.sign(), LockSign::Broken(LockError::NotAFile { .. })));
        std::fs::remove_dir(&scene.path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &scene.path, rustix::fs::Mode::RWXU).unwrap();
        assert!(matches!(scene.sign(), LockSign::Broken(LockError::NotAFile { .. })));
    }

    #[test]
    fn who_enforces_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = super::super::enforcement_lock(dir.path(), "web");
        let mut enforcement = Enforcement::open(path.clone()).unwrap();
        assert!(!enforcement.is_held());
        let file = File::open(&path).unwrap();
        flock(&file, FlockOperation::LockShared).unwrap();
        assert!(enforcement.is_held());
        drop(file);
        assert!(!enforcement.is_held());
        std::fs::remove_file(&path).unwrap();
        assert!(!enforcement.is_held());
        let file = File::open(&path).unwrap();
        flock(&file, FlockOperation::LockShared).unwrap();
        assert!(enforcement.is_held(), "the file that is at the path now");
    }
}
