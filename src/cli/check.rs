//! `leasehold check [NAME]`: what an app's shell asks. It reads the report file as any app should: a yes counts only
//! between its two moments and under this boot's id.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::duration;
use crate::report::file::{self, Verdict};
use crate::time::{self, Clock, SystemClock};

/// The file is looked at so often while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(20);

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
