//! The place that the sidecar runs in: clocks, directories, ports.
//!
//! A sidecar may run there already, and is left alone. Its locks are not tried (a lock of the doctor's on `alive`
//! would pass for an app, one on the state directory for another sidecar), its files are not replaced, and its
//! listeners are asked what a wrong door is asked: that is no question of the app, and promises nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation, access, flock};
use serde_json::Value;

use super::{Findings, Task};
use crate::app::enforcement_lock;
use crate::app::lock::{ALIVE, LockError};
use crate::report::file;
use crate::report::http::{Address, ask, listener};
use crate::sidecar::random_hex;
use crate::state;
use crate::time;

/// What runs where the doctor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// In its container: process 1 is the sidecar.
    Sidecar,
    /// In a pod, and no sidecar in this container.
    Pod,
    /// Outside of any.
    Nothing,
}

/// A pod that does not exist: asked for it, a sidecar says whose it is, before it looks at the question.
const WRONG_DOOR: &str = "/v1/leader?pod=_doctor";
const DEFAULT_REPORT_DIR: &str = "/run/leasehold";
const DEFAULT_STATE_DIR: &str = "/var/lib/leasehold";

pub fn tell_beside(beside: Beside, findings: &mut Findings) {
    match beside {
        Beside::Sidecar => findings.ok("sidecar", "process 1 of this container; its flags count where none are given"),
        Beside::Pod => {
            findings.skipped("sidecar", "not in this container: the flags and the environment given here count")
        }
        Beside::Nothing => {
            findings.skipped("sidecar", "this is no pod: the flags and the environment given here count")
        }
    }
}

pub fn examine(task: &Task, findings: &mut Findings) {
    clocks(task, findings);
    match &task.settings.report_dir {
        Some(dir) => report_dir(task, dir, findings),
        None => findings.skipped("report-dir", "off"),
    }
    match &task.settings.state_dir {
        Some(dir) => state_dir(task, dir, findings),
        None => findings.skipped("state-dir", "off: a restarted sidecar waits its own term out"),
    }
    let unnamed = task.beside == Beside::Nothing;
    for address in &task.settings.listen {
        match unnamed && *address == Address::Localhost(4040) {
            true => {
                findings.skipped(format!("listen {address}"), "this is no pod; give --listen to have a port looked at")
            }
            false => listen("listen", address, task, findings),
        }
    }
    match &task.settings.probe_listen {
        None => findings.skipped("probe-listen", "off"),
        Some(address) if unnamed && *address == Address::AnyInterface(4041) => {
            findings.skipped(
                format!("probe-listen {address}"),
                "this is no pod; give --probe-listen to have a port looked at",
            );
        }
        Some(address) => listen("probe-listen", address, task, findings),
    }
}

// --- Clocks ---

fn clocks(task: &Task, findings: &mut Findings) {
    match time::boot_id() {
        Ok(_) => findings.ok("boot-id", "readable"),
        Err(error) => findings.failed(
            "boot-id",
            format!("cannot read /proc/sys/kernel/random/boot_id: {error}"),
            "no sidecar runs without it: mount /proc as usual",
        ),
    }
    let name = "uptime";
    match file::uptime_is_the_boot_clock() {
        Ok(()) => findings.ok(name, "/proc/uptime and the boot clock agree"),
        Err(error) if task.settings.report_dir.is_none() => {
            findings.warning(
                name,
                error.to_string(),
                "without report files nothing compares with it: let apps ask over HTTP",
            );
        }
        Err(error) => findings.failed(name, error.to_string(), "set --report-dir off, and ask over HTTP"),
    }
}

// --- Directories ---

/// A directory that nobody named, and that is not there, is none of a sidecar's.
fn is_elsewhere(task: &Task, dir: &Path, default: &str) -> bool {
    task.beside != Beside::Sidecar && dir == Path::new(default) && !dir.exists()
}

fn report_dir(task: &Task, dir: &Path, findings: &mut Findings) {
    let name = format!("report-dir {}", dir.display());
    if is_elsewhere(task, dir, DEFAULT_REPORT_DIR) {
        return findings.skipped(name, "not there; give --report-dir to have one looked at");
    }
    let fix = "mount an emptyDir there that the sidecar's user may write to, read-only in the app's container";
    if !usable(task, &name, dir, fix, findings) {
        return;
    }
    let leases = &task.settings.leases;
    let locks = leases.iter().map(|lease| enforcement_lock(dir, lease)).chain([dir.join(ALIVE)]);
    for lock in locks {
        if let Err(fault) = lock_file(&lock) {
            return findings.failed(name, fault.to_string(), "remove it: the sidecar makes it anew");
        }
    }
    findings.ok(name, "writable");
    if task.beside == Beside::Sidecar {
        for lease in leases {
            report(dir, lease, findings);
        }
    }
}

/// What the sidecar says to its app, and why.
fn report(dir: &Path, lease: &str, findings: &mut Findings) {
    let name = format!("report {lease}");
    let path = dir.join(format!("{lease}.json"));
    let report: Value = match fs::read(&path).map(|text| serde_json::from_slice(&text)) {
        Ok(Ok(report)) => report,
        _ => {
            let message = format!("{} cannot be read", path.display());
            return findings.failed(name, message, "look at the sidecar's log");
        }
    };
    let said = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
    let leads = if report["leader"] == true { "leads" } else { "does not lead" };
    let message = format!("this pod {leads} ({}: {})", said("reason"), said("message"));
    match report["reason"] == "refused" {
        true => findings.warning(name, message, "do what the sidecar says"),
        false => findings.ok(name, message),
    }
}

fn state_dir(task: &Task, dir: &Path, findings: &mut Findings) {
    let name = format!("state-dir {}", dir.display());
    if is_elsewhere(task, dir, DEFAULT_STATE_DIR) {
        return findings.skipped(name, "not there; give --state-dir to have one looked at");
    }
    if !usable(
        task,
        &name,
        dir,
        "mount an emptyDir there that the sidecar's user may write to, in its container only",
        findings,
    ) {
        return;
    }
    let lock = dir.join(state::LOCK);
    if lock.exists() && access(&lock, Access::READ_OK | Access::WRITE_OK).is_err() {
        let message = format!("{} may not be written: another user made it", lock.display());
        return findings.failed(
            name,
            message,
            "let one user run the sidecar (runAsUser), or give it an empty directory",
        );
    }
    let uid = &task.settings.pod_uid;
    if task.beside != Beside::Nothing && uid.is_none() {
        let message = "writable, and of little use: POD_UID is not set, so a restarted sidecar cannot tell that a term was its own";
        return findings.warning(name, message, "set POD_UID by the downward API (metadata.uid)");
    }
    match state::owner_of(dir) {
        Some(owner) if uid.is_some() && owner.pod_uid != *uid => {
            findings.warning(
                name,
                "writable, and another pod's sidecar used it last: two pods must not share one",
                "give each pod its own, an emptyDir",
            );
        }
        _ => findings.ok(name, "writable"),
    }
}

/// A file can be made there and locked. Otherwise it is told why not.
fn usable(task: &Task, name: &str, dir: &Path, fix: &str, findings: &mut Findings) -> bool {
    if !dir.exists() {
        match made_in(dir) {
            Some(parent) => findings.ok(name, format!("not there yet: the sidecar makes it in {}", parent.display())),
            None => findings.failed(name, "not there, and may not be made", fix),
        }
        return false;
    }
    match try_file(dir) {
        Ok(()) => true,
        Err((_, error)) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && task.beside == Beside::Pod => {
            findings.skipped(name, "read-only here, as it is to be in the app's container");
            false
        }
        Err((what, error)) => {
            findings.failed(
                name,
                format!("cannot {what} a file there as user {}: {error}", rustix::process::geteuid().as_raw()),
                fix,
            );
            false
        }
    }
}

/// The nearest directory above that is there, if it may be written to.
fn made_in(dir: &Path) -> Option<PathBuf> {
    let parent = dir.ancestors().skip(1).find(|parent| parent.exists())?;
    access(parent, Access::WRITE_OK | Access::EXEC_OK).ok().map(|()| parent.to_owned())
}

/// A name that a sidecar which starts meanwhile takes for something unfinished, and removes.
fn try_file(dir: &Path) -> Result<(), (&'static str, io::Error)> {
    let path = dir.join(format!(".leasehold-doctor-{}", random_hex()));
    let tried = try_file_at(&path);
    // Gone, if a sidecar has tidied up.
    let _ = fs::remove_file(&path);
    tried
}

fn try_file_at(path: &Path) -> Result<(), (&'static str, io::Error)> {
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| ("make", error))?;
    file.write_all(b"x").map_err(|error| ("write", error))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| ("lock", errno.into()))
}

/// Looked at, and not opened: an opening wakes the sidecar.
fn lock_file(path: &Path) -> Result<(), LockError> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(found) if !found.is_file() => Err(LockError::NotAFile { path: path.into() }),
        Ok(_) => access(path, Access::READ_OK)
            .map_err(|errno| LockError::Unusable { path: path.into(), source: errno.into() }),
    }
}

// --- Ports ---

/// What was found at an address.
enum Door {
    Free,
    /// A sidecar's: the pod that it names, if it does.
    Sidecar(Option<String>),
    /// Somebody listens, and answers so.
    Other(String),
    Fault(String),
}

fn listen(flag: &str, address: &Address, task: &Task, findings: &mut Findings) {
    let name = format!("{flag} {address}");
    if address.port().is_none() && !matches!(address, Address::Unix(_)) {
        return findings.skipped(name, "any free port");
    }
    let other = "another process listens there";
    let fix =
        format!("end it, or give another --{flag}; pods with hostNetwork share the node's ports, and need one each");
    match door(flag, address, task) {
        Door::Free if task.beside == Beside::Sidecar => {
            findings.warning(
                name,
                "process 1 does not listen there yet",
                "look at its log: it may wait for a former sidecar's end",
            );
        }
        Door::Free => findings.ok(name, "free"),
        Door::Sidecar(Some(pod)) if task.pod.as_ref().is_some_and(|own| *own != pod) => {
            findings.failed(name, format!("the sidecar of the pod {pod} listens there"), fix);
        }
        Door::Sidecar(Some(pod)) => findings.ok(name, format!("taken by the sidecar of this pod ({pod})")),
        Door::Sidecar(None) => findings.ok(name, "taken by a sidecar"),
        Door::Other(what) => findings.failed(name, format!("{other} ({what})"), fix),
        Door::Fault(fault) => findings.failed(name, fault, fix),
    }
}

fn door(flag: &str, address: &Address, task: &Task) -> Door {
    let path = if flag == "listen" { WRONG_DOOR } else { "/metrics" };
    if let Address::Unix(socket) = address {
        return match ask::unix(socket, path) {
            // What a killed sidecar leaves is removed by the next one.
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) => {
                match may_have(socket, task) {
                    true => Door::Free,
                    false => {
                        Door::Fault("no socket can be made there: its directory is missing, or not writable".into())
                    }
                }
            }
            answer => answered(answer),
        };
    }
    for socket in address.sockets() {
        match listener::is_free(socket) {
            Ok(()) => {}
            Err(listener::BindError::InUse { .. }) => return answered(ask_at(socket, path)),
            Err(error) => return Door::Fault(error.to_string()),
        }
    }
    Door::Free
}

/// A socket can be made there. The sidecar makes its report directory before, and no other.
fn may_have(socket: &Path, task: &Task) -> bool {
    let Some(dir) = socket.parent() else { return false };
    let is_made = !dir.exists() && task.settings.report_dir.as_deref() == Some(dir) && made_in(dir).is_some();
    is_made || access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

fn answered(answer: io::Result<(u16, String)>) -> Door {
    match answer {
        Ok((_, body)) if body.contains("leasehold_build_info") => Door::Sidecar(None),
        Ok((421, body)) if body.contains("other_pod") => Door::Sidecar(pod_in(&body)),
        Ok((status, _)) => Door::Other(format!("it answers {status} over HTTP")),
        Err(error) => Door::Other(format!("no answer over HTTP: {error}")),
    }
}

/// `this is the sidecar of pod "web-0", not of ...`
fn pod_in(body: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(body).ok()?;
    Some(answer["message"].as_str()?.split('"').nth(1)?.to_owned())
}

/// Asks whoever has this address.
fn ask_at(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let local = |ip: IpAddr| ask::tcp((ip, address.port()).into(), path);
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => local(Ipv4Addr::LOCALHOST.into()),
        // Who has the IPv4 address alone is in the way as well.
        IpAddr::V6(ip) if ip.is_unspecified() => {
            local(Ipv6Addr::LOCALHOST.into()).or_else(|_| local(Ipv4Addr::LOCALHOST.into()))
        }
        ip => local(ip),
    }
}
