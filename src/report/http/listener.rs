//! Where the app's questions and the kubelet's probes come in: a TCP port or a unix socket.
//!
//! Several sidecars may share a host's network (`hostNetwork: true`). Each then needs its own port: SO_REUSEPORT is
//! never set, for the kernel would hand an app's question to another pod's sidecar.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use super::socket::Stream;

/// Room for unsent answers, per connection: what the kernel holds for a reader that does not read is not a promise
/// that anybody has seen, so it is kept small. (The kernel doubles it.)
const SEND_BUFFER: usize = 16 * 1024;
const BACKLOG: i32 = 1024;

/// One open listener.
pub struct Listener {
    socket: Socket,
    address: String,
}

enum Socket {
    Tcp(tokio::net::TcpListener),
    Unix { listener: tokio::net::UnixListener, _file: OwnedPath },
}

impl Listener {
    /// Opens every listener that `address` stands for: two for `localhost`, one otherwise. Call it inside a tokio
    /// runtime.
    pub fn bind(address: &Address) -> Result<Vec<Listener>, BindError> {
        match address {
            Address::Tcp(address) => Ok(vec![Listener::tcp(*address)?]),
            Address::Localhost(port) => bind_localhost(*port, Listener::tcp),
            Address::AnyInterface(port) => bind_any(*port, Listener::tcp).map(|listener| vec![listener]),
            Address::Unix(path) => Ok(vec![Listener::unix(path)?]),
        }
    }

    /// As logs and people write it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The TCP port, for a listener that asked for any free one.
    pub fn port(&self) -> Option<u16> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Socket::Unix { .. } => None,
        }
    }

    /// Only who can reach the file can connect to it, so the Host header of a request decides nothing.
    pub(super) fn is_unix(&self) -> bool {
        matches!(self.socket, Socket::Unix { .. })
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // An answer is one small write; waiting for more to send would only delay it.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Socket::Unix { listener, .. } => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }

    fn tcp(address: SocketAddr) -> Result<Listener, BindError> {
        let listen = |socket: OwnedFd| -> io::Result<Socket> {
            sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER)?;
            net::listen(&socket, BACKLOG)?;
            Ok(Socket::Tcp(tokio::net::TcpListener::from_std(socket.into())?))
        };
        let socket = bound(address).and_then(listen).map_err(|source| BindError::tcp(address, source))?;
        let mut listener = Listener { socket, address: String::new() };
        listener.address = SocketAddr::new(address.ip(), listener.port().unwrap_or(address.port())).to_string();
        Ok(listener)
    }

    fn unix(path: &Path) -> Result<Listener, BindError> {
        remove_stale(path)?;
        let failed = |source| BindError::Failed { address: format!("unix:{}", path.display()), source };
        let listener = tokio::net::UnixListener::bind(path).map_err(failed)?;
        let file = OwnedPath::new(path).map_err(failed)?;
        // The app may run as any user. A loopback port would be open to every process of the pod as well; who is to
        // be kept out is kept out by the directory.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(Listener { socket: Socket::Unix { listener, _file: file }, address: format!("unix:{}", path.display()) })
    }
}

/// What `--listen` and `--probe-listen` accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// Both loopback addresses; IPv6 is skipped where it is off.
    Localhost(u16),
    /// Every interface, IPv6 and IPv4; IPv4 alone where IPv6 is off.
    AnyInterface(u16),
    Unix(PathBuf),
}

impl Address {
    /// The TCP addresses that it stands for; none for a socket file. IPv6 ones may be off.
    pub fn sockets(&self) -> Vec<SocketAddr> {
        match self {
            Address::Tcp(address) => vec![*address],
            Address::Localhost(port) => {
                vec![(Ipv4Addr::LOCALHOST, *port).into(), (Ipv6Addr::LOCALHOST, *port).into()]
            }
            Address::AnyInterface(port) => {
                vec![(Ipv6Addr::UNSPECIFIED, *port).into(), (Ipv4Addr::UNSPECIFIED, *port).into()]
            }
            Address::Unix(_) => Vec::new(),
        }
    }

    /// The port that is asked for, if it is a particular one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Address::Tcp(address) => Some(address.port()),
            Address::Localhost(port) | Address::AnyInterface(port) => Some(*port),
            Address::Unix(_) => None,
        }
        .filter(|port| *port > 0)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err("unix: needs a path".into()) } else { Ok(Address::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or("expected ADDRESS:PORT or unix:PATH")?;
        if host.eq_ignore_ascii_case("localhost") {
            return port.parse().map(Address::Localhost).map_err(|_| format!("{port:?} is not a port"));
        }
        match text.parse::<SocketAddr>() {
            Ok(SocketAddr::V6(address)) if address.ip().is_unspecified() => Ok(Address::AnyInterface(address.port())),
            Ok(address) => Ok(Address::Tcp(address)),
            Err(_) => Err("expected an IP address ([::1]:4040, 127.0.0.1:4040), localhost:PORT or unix:PATH".into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Localhost(port) => write!(f, "localhost:{port}"),
            Address::AnyInterface(port) => write!(f, "[::]:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "cannot listen on {address}: the address is in use. Another sidecar or process on this network (hostNetwork \
         pods share the node's)? Give this one another address"
    )]
    InUse { address: String },
    #[error("cannot listen on unix:{path}: another process listens there. Give each sidecar a path of its own")]
    SocketInUse { path: PathBuf },
    #[error("cannot listen on unix:{path}: the file exists and is not a socket; it is left alone")]
    NotASocket { path: PathBuf },
    #[error("cannot listen on {address}: {source}")]
    Failed { address: String, source: io::Error },
}

impl BindError {
    fn tcp(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address: address.to_string() },
            _ => BindError::Failed { address: address.to_string(), source },
        }
    }

    /// No IPv6 in this kernel, or none on this interface.
    fn is_ipv6_off(&self) -> bool {
        let BindError::Failed { source, .. } = self else { return false };
        matches!(Errno::from_io_error(source), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
    }
}

/// A TCP socket that has the address and does not listen yet. Until one does, others can have the address as well.
fn bound(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // [::] is meant to take IPv4 as well, whatever net.ipv6.bindv6only says.
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    net::bind(&socket, &address)?;
    Ok(socket)
}

/// Whether a TCP address could be listened on now. It is not, so whoever is about to listen there can.
pub fn is_free(address: SocketAddr) -> Result<(), BindError> {
    match bound(address).map_err(|source| BindError::tcp(address, source)) {
        Err(error) if address.is_ipv6() && error.is_ipv6_off() => Ok(()),
        bound => bound.map(drop),
    }
}

fn bind_localhost(
    port: u16,
    bind: impl Fn(SocketAddr) -> Result<Listener, BindError>,
) -> Result<Vec<Listener>, BindError> {
    let v4 = bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))?;
    // "Any free port" is to be the same one on both.
    let port = v4.port().unwrap_or(port);
    match bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port)) {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(error) if error.is_ipv6_off() => Ok(vec![v4]),
        Err(error) => Err(error),
    }
}

fn bind_any(port: u16, bind: impl Fn(SocketAddr) -> Result<Listener, BindError>) -> Result<Listener, BindError> {
    match bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)) {
        Err(error) if error.is_ipv6_off() => bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
        bound => bound,
    }
}

/// Removes a socket file that nobody listens on: what a killed sidecar left.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Failed { address: format!("unix:{}", path.display()), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket { path: path.into() }),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::SocketInUse { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// A socket file that we made, removed when we close it, unless another took its place.
struct OwnedPath {
    path: PathBuf,
    inode: (u64, u64),
}

impl OwnedPath {
    fn new(path: &Path) -> io::Result<Self> {
        let made = fs::symlink_metadata(path)?;
        Ok(OwnedPath { path: path.into(), inode: (made.dev(), made.ino()) })
    }
}

impl Drop for OwnedPath {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode) {
            // Left behind it would only be found stale by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ip_localhost_or_unix_and_nothing_else() {
        let parse = |text: &str| text.parse::<Address>();
        assert_eq!(parse("127.0.0.1:4040"), Ok(Address::Tcp("127.0.0.1:4040".parse().unwrap())));
        assert_eq!(parse("[::1]:4040"), Ok(Address::Tcp("[::1]:4040".parse().unwrap())));
        assert_eq!(parse("LocalHost:1"), Ok(Address::Localhost(1)));
        assert_eq!(parse("[::]:4041"), Ok(Address::AnyInterface(4041)));
        assert_eq!(parse("unix:/run/x.sock"), Ok(Address::Unix("/run/x.sock".into())));
        for bad in ["", "4040", "localhost", "localhost:", "localhost:65536", "example.com:80", "::1:4040", "unix:"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    /// Stands in for a machine whose kernel answers `errno` to everything about IPv6.
    fn without_ipv6(errno: Errno) -> impl Fn(SocketAddr) -> Result<Listener, BindError> {
        move |address| match address {
            SocketAddr::V6(_) => Err(BindError::tcp(address, errno.into())),
            SocketAddr::V4(_) => Listener::tcp(address),
        }
    }

    #[tokio::test]
    async fn where_ipv6_is_off_ipv4_alone_is_served() {
        for off in [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL] {
            let opened = bind_localhost(0, without_ipv6(off)).expect("IPv4 is enough");
            assert_eq!(opened.len(), 1);
            assert!(opened[0].address().starts_with("127.0.0.1:"));
            let opened = bind_any(0, without_ipv6(off)).expect("IPv4 is enough");
            assert!(opened.address().starts_with("0.0.0.0:"), "{}", opened.address());
        }
    }

    #[tokio::test]
    async fn an_ipv6_port_in_use_is_an_error_and_not_a_machine_without_ipv6() {
        let error = bind_localhost(0, without_ipv6(Errno::ADDRINUSE)).err().expect("half a localhost is a trap");
        assert!(error.to_string().contains("in use"), "{error}");
        assert!(bind_any(0, without_ipv6(Errno::ADDRINUSE)).is_err());
    }
}
