//! `leasehold check [NAME]`: what an app's shell asks. It reads the report file as any app should: a yes counts only
//! between its two moments and under this boot's id.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::duration;
use crate::report::file::{self, ReadError, Verdict};
use crate::time::{self, Clock, SystemClock};

/// The file is looked at so often while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// And so often while following: for people, and for as long as a pod lives.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

const LEADS: u8 = 0;
const DOES_NOT: u8 = 1;
const CANNOT_TELL: u8 = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A lease's name [default: the first one of the sidecar]
    name: Option<String>,
    /// Where the sidecar writes its files
    #[arg(long, value_name = "DIR", default_value = "/run/leasehold", env = "LEASEHOLD_REPORT_DIR", hide_env = true)]
    report_dir: PathBuf,
    /// Wait so long for leadership
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,
    /// Print a line now and at each change, until asked to end
    #[arg(long, conflicts_with = "wait")]
    follow: bool,
}

pub fn main(args: &Args) -> ExitCode {
    let path = args.report_dir.join(format!("{}.json", args.name.as_deref().unwrap_or("status")));
    let boot_id = match time::boot_id() {
        Ok(boot_id) => boot_id,
        Err(error) => {
            eprintln!("leasehold: cannot read this machine's boot id: {error}");
            return ExitCode::from(CANNOT_TELL);
        }
    };
    if args.follow {
        return super::runtime().block_on(follow(&path, &boot_id));
    }
    let deadline = SystemClock.boot() + args.wait.unwrap_or_default();
    loop {
        let verdict = file::read(&path, || SystemClock.boot(), &boot_id);
        if let Ok(Verdict::Leader(_)) = verdict {
            return ExitCode::from(LEADS);
        }
        if SystemClock.boot() >= deadline {
            return match verdict {
                Ok(_) => ExitCode::from(DOES_NOT),
                Err(error) => {
                    eprintln!("leasehold: {error}");
                    ExitCode::from(CANNOT_TELL)
                }
            };
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// As a container's first process too, which no signal ends by itself.
async fn follow(path: &Path, boot_id: &str) -> ExitCode {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        eprintln!("leasehold: cannot take signals");
        return ExitCode::from(CANNOT_TELL);
    };
    let mut last = String::new();
    loop {
        let line = in_words(file::read(path, || SystemClock.boot(), boot_id));
        // Whoever read it is gone: so is this.
        if line != last && writeln!(std::io::stdout(), "{line}").is_err() {
            return ExitCode::SUCCESS;
        }
        last = line;
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
            _ = interrupt.recv() => return ExitCode::SUCCESS,
            _ = terminate.recv() => return ExitCode::SUCCESS,
        }
    }
}

/// What changes only when the answer does.
fn in_words(verdict: Result<Verdict, ReadError>) -> String {
    match verdict {
        Ok(Verdict::Leader(yes)) => format!("leads {} (fencing token {})", yes.lease, yes.token),
        Ok(Verdict::NotLeader { reason }) => format!("does not lead ({reason})"),
        Err(error) => format!("cannot tell: {error}"),
    }
}
