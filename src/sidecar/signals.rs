//! SIGTERM and SIGINT, and the end that comes whatever the loop does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::RunError;

/// The first signal asks for an end. A second one ends the process at once, even if the loop is stuck.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn install() -> Result<Self, RunError> {
        let fault = |error| RunError::Machine("signals", error);
        let armed = Arc::new(AtomicBool::new(false));
        for number in [SIGTERM, SIGINT] {
            signal_hook::flag::register_conditional_shutdown(number, 1, Arc::clone(&armed)).map_err(fault)?;
            signal_hook::flag::register(number, Arc::clone(&armed)).map_err(fault)?;
        }
        armed.store(false, Ordering::Relaxed);
        let terminate = signal(SignalKind::terminate()).map_err(fault)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
        Ok(Signals { terminate, interrupt })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends the process then, whatever hangs: a disk, the loop, a stream.
pub(super) fn end_within(grace: Duration) {
    let end = move || {
        thread::sleep(grace);
        eprintln!("leasehold: the shutdown grace is over: ending without more ado");
        std::process::exit(1);
    };
    // Without a thread the loop still ends by its own clock.
    let _ = thread::Builder::new().name("shutdown-grace".into()).stack_size(64 * 1024).spawn(end);
}
