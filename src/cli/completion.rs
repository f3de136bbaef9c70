//! `leasehold completion SHELL`.

use std::process::ExitCode;

use clap::CommandFactory;

#[derive(Debug, clap::Args)]
pub struct Args {
    shell: clap_complete::Shell,
}

pub fn main(args: &Args) -> ExitCode {
    clap_complete::generate(args.shell, &mut super::Cli::command(), "leasehold", &mut std::io::stdout());
    ExitCode::SUCCESS
}
