//! SIGTERM and SIGINT, and the end that comes whatever the loop does.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::RunError;

/// What is enough for a thread that sleeps; only the pages that it touches count.
const SMALL_STACK: usize = 64 * 1024;
/// How long the last line may take that says why.
const LAST_LINE: Duration = Duration::from_millis(50);

/// The first signal asks for an end. A second one ends the process at once, even if the loop is stuck.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From the first signal on the process has `grace`, from here on whatever hangs: a disk, the loop, a stream.
    pub fn install(grace: Duration) -> Result<Self, RunError> {
        let fault = |error| RunError::Machine("signals", error);
        let (first, in_handler) = UnixStream::pair().map_err(fault)?;
        let armed = Arc::new(AtomicBool::new(false));
        for number in [SIGTERM, SIGINT] {
            signal_hook::flag::register_conditional_shutdown(number, 1, Arc::clone(&armed)).map_err(fault)?;
            signal_hook::flag::register(number, Arc::clone(&armed)).map_err(fault)?;
            low_level::pipe::register(number, in_handler.try_clone().map_err(fault)?).map_err(fault)?;
        }
        armed.store(false, Ordering::Relaxed);
        let end = move || end_after_first(first, grace);
        thread::Builder::new().name("shutdown-grace".into()).stack_size(SMALL_STACK).spawn(end).map_err(fault)?;
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

/// A thread of its own, which hears the signal itself and takes no lock: nothing that the loop waits for stops it.
fn end_after_first(mut signal: UnixStream, grace: Duration) {
    if signal.read_exact(&mut [0]).is_err() {
        return;
    }
    thread::sleep(grace.saturating_sub(LAST_LINE));
    // Another says it: standard error may be what hangs.
    let say = || eprintln!("leasehold: the shutdown grace is over: ending without more ado");
    let _ = thread::Builder::new().stack_size(SMALL_STACK).spawn(say);
    thread::sleep(LAST_LINE);
    low_level::exit(1);
}
