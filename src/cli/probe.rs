//! `leasehold probe startup|live|ready`: the probes for an exec, where a service mesh takes the network.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use crate::report::http::Address;

const PATIENCE: Duration = Duration::from_secs(1);

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
    match ask(address, path) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("leasehold: no answer from {address} to {path}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(address: &Address, path: &str) -> std::io::Result<bool> {
    let tcp = |address| -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    match address {
        Address::Tcp(address) => is_well(tcp(*address)?, path),
        Address::Localhost(port) | Address::AnyInterface(port) => {
            is_well(tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))?, path)
        }
        Address::Unix(file) => {
            let stream = UnixStream::connect(file)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            is_well(stream, path)
        }
    }
}

/// One request and the first bytes of its answer: the status is all that a probe wants.
fn is_well(mut stream: impl Read + Write, path: &str) -> std::io::Result<bool> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(&head[9..12] == b"200")
}
