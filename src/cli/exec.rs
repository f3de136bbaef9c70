//! `leasehold exec -- CMD`: its flags, and those of the processes that it starts of itself.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{EX_USAGE, duration};
use crate::exec::keeper::{self, Orders};
use crate::exec::{self, Error, Settings};
use crate::names::dns_subdomain;
use crate::time::Moment;

#[derive(Debug, clap::Args)]
#[command(after_help = "CMD finds LEASEHOLD_TOKEN (the fencing token) and LEASEHOLD_LEASE in its environment. \
    Exit code: CMD's, or 128 and its signal; 126, 127: CMD cannot be run, is not there; 64, 125: exec itself.")]
pub struct Args {
    /// A lease's name [default: the first one of the sidecar]
    #[arg(long, value_name = "NAME", env = "LEASEHOLD_LEASE", hide_env = true)]
    lease: Option<String>,
    /// Where the sidecar writes its files
    #[arg(long, value_name = "DIR", default_value = "/run/leasehold", env = "LEASEHOLD_REPORT_DIR", hide_env = true)]
    report_dir: PathBuf,
    /// Start CMD again when it ends by itself
    #[arg(long, env = "LEASEHOLD_RESTART", hide_env = true)]
    restart: bool,
    /// From SIGTERM to SIGKILL; less than the lease duration less the renew deadline
    #[arg(long, value_name = "TIME", default_value = "1s", env = "LEASEHOLD_TERM_GRACE", value_parser = duration, hide_env = true)]
    term_grace: Duration,
    /// What runs only while this pod leads
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

pub fn main(args: Args) -> ExitCode {
    if let Some(lease) = &args.lease
        && let Err(fault) = dns_subdomain(lease)
    {
        eprintln!("leasehold: the lease name {lease:?} is no name for a Lease: {fault}");
        return ExitCode::from(EX_USAGE);
    }
    let settings = Settings {
        report_dir: args.report_dir,
        lease: args.lease,
        term_grace: args.term_grace,
        restart: args.restart,
        command: args.command,
    };
    ExitCode::from(exec::run(settings).unwrap_or_else(|error| {
        eprintln!("leasehold: {error}");
        match error {
            Error::GraceTooLong { .. } => EX_USAGE,
            Error::NotFound(_) => exec::NOT_FOUND,
            Error::CannotRun(_) => exec::CANNOT_RUN,
            _ => exec::OWN_FAULT,
        }
    }))
}

/// What exec starts of itself: not for people, so in no help and no completion.
#[derive(Debug, clap::Parser)]
pub enum Stage {
    ExecKeeper(KeeperArgs),
    ExecStart(StartArgs),
}

/// Between exec and CMD.
#[derive(Debug, clap::Args)]
pub struct KeeperArgs {
    front: i32,
    file: PathBuf,
    lease: String,
    token: u64,
    grace_ms: u64,
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// What becomes CMD.
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    keeper: i32,
    not_after: u64,
    #[arg(last = true)]
    command: Vec<OsString>,
}

pub fn stage(stage: Stage) -> ExitCode {
    ExitCode::from(match stage {
        Stage::ExecKeeper(args) => keeper::main(Orders {
            front: args.front,
            file: args.file,
            lease: args.lease,
            token: args.token,
            grace: Duration::from_millis(args.grace_ms),
            command: args.command,
        }),
        Stage::ExecStart(args) => keeper::start(args.keeper, Moment::from_nanos(args.not_after), &args.command),
    })
}
