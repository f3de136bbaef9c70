//! The command line: one file a subcommand, with its flags, what it prints and its exit codes.

pub mod check;
pub mod completion;
pub mod dev;
pub mod doctor;
pub mod exec;
pub mod install;
pub mod leases;
pub mod log;
pub mod probe;
pub mod run;
pub mod stepdown;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::sidecar::Settings;

/// Wrong usage or configuration, as in sysexits.h.
pub const EX_USAGE: u8 = 64;

#[derive(Debug, Parser)]
#[command(
    name = "leasehold",
    version,
    about = "Holds a workload's Kubernetes Lease and tells the app beside it whether this pod leads"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The sidecar: contend for leases and tell the app
    Run(Box<run::Args>),
    /// Everything on this machine, without a cluster: a Lease API and sidecars that contend
    Dev(dev::Args),
    /// Ask the report files whether this pod leads: exits 0 (leads), 1 (does not), 2 (cannot tell)
    Check(check::Args),
    /// Run a command only while this pod leads
    Exec(exec::Args),
    /// Copy this program into a directory, for another container to run it
    Install(install::Args),
    /// Ask a sidecar's probes, for exec probes: exits 0 or 1
    Probe(probe::Args),
    /// Have the pod that leads hand over, from a workstation: exits 0 (changed hands), 1 (did not), 2 (cannot tell)
    Stepdown(stepdown::Args),
    /// Show Leases of any kind, and whether their holders live, by watching them change
    Leases(leases::Args),
    /// Look at all that a sidecar needs, and say what is missing: exits 0 (nothing), 1 (something)
    Doctor(Box<doctor::Args>),
    /// Print a completion script
    Completion(completion::Args),
}

impl Cli {
    /// What `run` would be started with, or every fault of it; nothing for another command.
    #[doc(hidden)]
    pub fn settings(self, env: impl Fn(&str) -> Option<String>) -> Option<Result<Settings, Vec<String>>> {
        match self.command {
            Command::Run(args) => Some(args.settings(env)),
            _ => None,
        }
    }
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    if let Ok(stage) = exec::Stage::try_parse() {
        return exec::stage(stage);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a terminal that is gone.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(EX_USAGE),
            };
        }
    };
    match cli.command {
        Command::Run(args) => run::main(*args),
        Command::Dev(args) => dev::main(args),
        Command::Check(args) => check::main(&args),
        Command::Exec(args) => exec::main(args),
        Command::Install(args) => install::main(&args),
        Command::Probe(args) => probe::main(&args),
        Command::Stepdown(args) => stepdown::main(args),
        Command::Leases(args) => leases::main(args),
        Command::Doctor(args) => doctor::main(*args),
        Command::Completion(args) => completion::main(&args),
    }
}

/// The runtime that everything here uses: one thread.
fn runtime() -> tokio::runtime::Runtime {
    // Fails only where the process may open no file at all, and then there is nobody to tell.
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// `30s`, `500ms`, `1m`, `1h`: a whole number and its unit.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let fault = || format!("{text:?} is no duration: write a whole number and ms, s, m or h, such as 15s");
    let number: u64 = number.parse().map_err(|_| fault())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(fault()),
    };
    number.checked_mul(millis).map(std::time::Duration::from_millis).ok_or_else(fault)
}
