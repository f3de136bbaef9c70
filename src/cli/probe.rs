//! `leasehold probe startup|live|ready`: the probes for an exec, where a service mesh takes the network.

use std::process::ExitCode;

use crate::report::http::{Address, ask};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// Listeners are open
    Startup,
    /// The loop turns
    Live,
    /// As --ready-when says
    Ready,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_enum)]
    which: Which,
    /// Where the sidecar's --probe-listen is
    #[arg(long, value_name = "ADDR", default_value = "[::]:4041", env = "LEASEHOLD_PROBE_LISTEN", hide_env = true)]
    probe_listen: Address,
}

pub fn main(args: &Args) -> ExitCode {
    let address = &args.probe_listen;
    let path = match args.which {
        Which::Startup | Which::Live => "/livez",
        Which::Ready => "/readyz",
    };
    match ask::at(address, path) {
        Ok((200, _)) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("leasehold: no answer from {address} to {path}: {error}");
            ExitCode::FAILURE
        }
    }
}
