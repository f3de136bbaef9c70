//! `leasehold install DIR`: a whole program or the old one, and errors that say what to do.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use support::process::Folder;
use support::sidecar::binary;

fn install(program: &Path, dir: &Path) -> Output {
    Command::new(program).arg("install").arg(dir).env_clear().output().expect("leasehold runs")
}

#[track_caller]
fn assert_refused(dir: &Path, parts: &[&str]) {
    let output = install(&binary(), dir);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for part in parts {
        assert!(errors.contains(part), "{errors} should say {part:?}");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_program_is_there_whole_and_executable_whatever_the_umask() {
    let folder = Folder::new("install");
    let script = format!("umask 077; exec {} install {}", binary().display(), folder.path().display());
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let path = folder.join("leasehold");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o755);
    assert!(fs::read(&path).unwrap() == fs::read(binary()).unwrap(), "the same bytes");
    assert_eq!(names(folder.path()), ["leasehold"]);
    let version = Command::new(&path).arg("--version").output().unwrap();
    assert!(version.status.success() && String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_older_one_is_replaced_also_while_it_runs() {
    let folder = Folder::new("install");
    let path = folder.join("leasehold");
    fs::write(&path, "an older one").unwrap();
    assert!(install(&binary(), folder.path()).status.success());
    // Now by itself, over the file that it runs from.
    let before = fs::metadata(&path).unwrap().ino();
    assert!(install(&path, folder.path()).status.success());
    assert_ne!(fs::metadata(&path).unwrap().ino(), before, "another file, so that whoever runs the old one goes on");
    assert!(Command::new(&path).arg("--version").output().unwrap().status.success());
    assert_eq!(names(folder.path()), ["leasehold"]);
}

#[test]
fn two_at_once_leave_a_whole_one() {
    let folder = Folder::new("install");
    let start = |_| Command::new(binary()).arg("install").arg(folder.path()).spawn().unwrap();
    let running: Vec<_> = (0..4).map(start).collect();
    assert!(running.into_iter().all(|mut one| one.wait().unwrap().success()));
    assert!(fs::read(folder.join("leasehold")).unwrap() == fs::read(binary()).unwrap());
    assert_eq!(names(folder.path()), ["leasehold"]);
}

#[test]
fn what_cannot_be_installed_is_said_and_leaves_nothing() {
    let folder = Folder::new("install");
    assert_refused(&folder.join("missing"), &["missing", "existing directory"]);
    fs::write(folder.join("file"), "").unwrap();
    assert_refused(&folder.join("file"), &["file", "existing directory"]);
    fs::create_dir_all(folder.join("taken/leasehold")).unwrap();
    assert_refused(&folder.join("taken"), &["taken/leasehold", "in the way"]);
    assert_eq!(names(&folder.join("taken")), ["leasehold"]);
    // Root may write anywhere but here.
    assert_refused(Path::new("/proc/self"), &["/proc/self", "must be writable"]);
    let usage = Command::new(binary()).arg("install").output().unwrap();
    assert_eq!(usage.status.code(), Some(64));
}

/// A process whose files may not grow has what a full disk is to it.
#[test]
fn a_full_disk_leaves_the_old_one_and_no_half_of_a_new_one() {
    let folder = Folder::new("install");
    let path = folder.join("leasehold");
    fs::write(&path, "an older one").unwrap();
    let script =
        format!("trap '' XFSZ; ulimit -f 100; exec {} install {}", binary().display(), folder.path().display());
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("room"), "{errors}");
    assert_eq!(fs::read(&path).unwrap(), b"an older one");
    assert_eq!(names(folder.path()), ["leasehold"]);
}
