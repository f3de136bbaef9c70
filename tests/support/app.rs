//! An app beside a sidecar, as far as the sidecar sees one: it holds the lock, or answers on a port.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

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

/// A health endpoint that answers 200 or 503, as it is told. Its thread ends with the process.
pub struct Endpoint {
    pub url: String,
    pub well: Arc<AtomicBool>,
}

impl Endpoint {
    /// One that is well.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/healthz", listener.local_addr().expect("an address"));
        let well = Arc::new(AtomicBool::new(true));
        let is_well = Arc::clone(&well);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 1024]);
                let status = if is_well.load(Ordering::SeqCst) { "200 OK" } else { "503 Unwell" };
                let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        Endpoint { url, well }
    }
}
