//! Asking a sidecar from beside it: one short question, for `probe` and `doctor`.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::Address;
use crate::time::{Clock, SystemClock};

const PATIENCE: Duration = Duration::from_secs(1);
/// What is listened to of an answer.
const LARGEST: u64 = 256 * 1024;

/// The status and the body of the answer to `GET path`, from whoever listens there.
pub fn at(address: &Address, path: &str) -> io::Result<(u16, String)> {
    match address {
        Address::Tcp(address) => tcp(*address, path),
        Address::Localhost(port) | Address::AnyInterface(port) => tcp((Ipv4Addr::LOCALHOST, *port).into(), path),
        Address::Unix(socket) => unix(socket, path),
    }
}

/// The same of a TCP address.
pub fn tcp(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    ask(stream, path)
}

/// The same over a unix socket.
pub fn unix(socket: &Path, path: &str) -> io::Result<(u16, String)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    ask(stream, path)
}

/// HTTP/1.0, so that the answer ends with the connection.
#[doc(hidden)]
pub fn ask(mut stream: impl Read + Write, path: &str) -> io::Result<(u16, String)> {
    let deadline = SystemClock.boot() + PATIENCE;
    // In one piece, for a server that answers the first one.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    let mut stream = stream.take(LARGEST);
    loop {
        match stream.read(&mut piece)? {
            0 => break,
            length => answer.extend(&piece[..length]),
        }
        // Each piece may take its time; all of them together may not.
        if SystemClock.boot() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let not_http = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP");
    let status = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok()).ok_or_else(not_http)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
