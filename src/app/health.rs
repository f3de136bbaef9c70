//! The app lives while it answers: an `http://` or `tcp://` port probed as the kubelet probes one.
//!
//! A probe opens a connection of its own, and succeeds when the app accepts it (`tcp://`), or answers it with a status
//! from 200 to 399 (`http://`). So many successes or failures in a row decide, and only a change is told. A dead port
//! proves nothing: whoever does not answer may still be working.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::patience::Patience;
use super::{Gone, Sign};
use crate::time::{Clock, SystemClock};

/// The longest target that is accepted.
const LONGEST_TARGET: usize = 1000;
/// As much of a target is shown in logs and answers.
const LONGEST_SHOWN: usize = 200;
/// An answer's head; hyper takes 100 headers at most.
const LARGEST_HEAD: usize = 16 * 1024;
/// As much of an answer's body is read, as by the kubelet: a socket that is closed with unread bytes is reset, and
/// the app would complain in its log.
const LARGEST_BODY: usize = 10 * 1024;
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(3600);
const LARGEST_THRESHOLD: u32 = 100;

/// Probes `target` until nobody listens to `tell`. The first Sign is sent when so many probes in a row say the same
/// as their threshold asks for, alive or not; then one at each change.
pub async fn watch(target: Target, thresholds: Thresholds, evidence: usize, tell: mpsc::Sender<Sign>) {
    tokio::select! {
        () = tell.closed() => {}
        () = keep_probing(&target, thresholds, evidence, &tell) => {}
    }
}

async fn keep_probing(target: &Target, thresholds: Thresholds, evidence: usize, tell: &mpsc::Sender<Sign>) {
    tokio::time::sleep(thresholds.initial_delay).await;
    let mut starts = tokio::time::interval(thresholds.interval.max(SHORTEST_INTERVAL));
    // What a pause or a slow probe has missed is not made up for.
    starts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tally = Tally::new(thresholds);
    loop {
        starts.tick().await;
        let (result, rest) = target.probe(thresholds.timeout).await;
        if tally.decides(result.is_ok()) {
            let gone = |failure| Gone { why: target.why(&failure, thresholds.failures), proved: false };
            if tell.send(Sign { evidence, alive: result.map_err(gone) }).await.is_err() {
                return;
            }
        }
        if let Some(rest) = rest {
            rest.read(thresholds.timeout).await;
        }
    }
}

/// Flags of their own, with the meaning of a probe's fields in a pod's spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// From the start of a probe to the start of the next.
    pub interval: Duration,
    /// For the connection and the head of the answer together.
    pub timeout: Duration,
    /// So many failures in a row: not alive.
    pub failures: u32,
    /// So many successes in a row: alive.
    pub successes: u32,
    /// Before the first probe.
    pub initial_delay: Duration,
}

/// The flags' defaults.
impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            failures: 3,
            successes: 1,
            initial_delay: Duration::ZERO,
        }
    }
}

impl Thresholds {
    /// Everything wrong with them, a sentence each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.interval < SHORTEST_INTERVAL || self.interval > LONGEST {
            faults.push("the app health interval must be between 100 milliseconds and 1 hour".into());
        }
        if self.timeout < SHORTEST_TIMEOUT || self.timeout > LONGEST {
            faults.push("the app health timeout must be between 10 milliseconds and 1 hour".into());
        }
        for (count, name) in [(self.failures, "failure"), (self.successes, "success")] {
            if !(1..=LARGEST_THRESHOLD).contains(&count) {
                faults.push(format!("the app health {name} threshold must be between 1 and {LARGEST_THRESHOLD}"));
            }
        }
        if self.initial_delay > LONGEST {
            faults.push("the app health initial delay must be at most 1 hour".into());
        }
        faults
    }
}

/// How many probes in a row said the same, and what was decided last.
struct Tally {
    thresholds: Thresholds,
    row: (bool, u32),
    alive: Option<bool>,
}

impl Tally {
    fn new(thresholds: Thresholds) -> Self {
        Tally { thresholds, row: (false, 0), alive: None }
    }

    /// Whether this probe changes the verdict.
    fn decides(&mut self, success: bool) -> bool {
        self.row = if self.row.0 == success { (success, self.row.1.saturating_add(1)) } else { (success, 1) };
        let threshold = if success { self.thresholds.successes } else { self.thresholds.failures };
        let changes = self.row.1 >= threshold && self.alive != Some(success);
        if changes {
            self.alive = Some(success);
        }
        changes
    }
}

/// What is probed: `http://ADDRESS:PORT/PATH` or `tcp://ADDRESS:PORT`, and never anything outside this pod.
#[derive(Clone)]
pub struct Target {
    /// Tried in this order: `localhost` has two.
    addresses: Vec<SocketAddr>,
    /// None for `tcp://`.
    request: Option<Request<Empty<Bytes>>>,
    shown: String,
}

impl Target {
    pub fn port(&self) -> u16 {
        self.addresses.first().map_or(0, SocketAddr::port)
    }
}

/// As it was given, without the query, which may hold a secret.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

/// Why a target is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("expected http://ADDRESS:PORT/PATH or tcp://ADDRESS:PORT")]
    NotATarget,
    #[error(
        "https is not probed: a probe does not leave the pod, and a certificate would only be one more thing to \
         expire; give a port that speaks plain http, or tcp://"
    )]
    Https,
    #[error("a unix socket is not probed; give http://ADDRESS:PORT/PATH or tcp://ADDRESS:PORT")]
    Unix,
    #[error("a probe sends no user and no password; give a path that is answered without them")]
    UserInfo,
    #[error("a probe sends no fragment: leave # and what follows it away")]
    Fragment,
    #[error("tcp:// has no path: give tcp://ADDRESS:PORT")]
    TcpPath,
    #[error("the path has characters that a URL cannot have: write them as %XX")]
    Path,
    #[error("an IPv6 address is written in brackets: http://[::1]:8080/healthz")]
    Brackets,
    #[error("a port from 1 to 65535 is needed after the address, as in http://127.0.0.1:8080/healthz")]
    Port,
    #[error(
        "{0:?} is neither an IP address nor localhost, and names are not looked up: a probe does not leave the pod; \
         give 127.0.0.1, [::1] or the pod's own IP"
    )]
    Name(String),
    #[error(
        "{0} is not this pod's own address: only the app beside this sidecar can be probed; give 127.0.0.1, [::1] or \
         the pod's IP"
    )]
    Elsewhere(IpAddr),
    #[error("it is longer than {LONGEST_TARGET} characters")]
    TooLong,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if text.len() > LONGEST_TARGET {
            return Err(TargetError::TooLong);
        }
        let (scheme, rest) = text.split_once(':').ok_or(TargetError::NotATarget)?;
        let http = match scheme.to_ascii_lowercase().as_str() {
            "http" => true,
            "tcp" => false,
            "https" => return Err(TargetError::Https),
            unix if unix.contains("unix") => return Err(TargetError::Unix),
            _ => return Err(TargetError::NotATarget),
        };
        let rest = rest.strip_prefix("//").ok_or(TargetError::NotATarget)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(TargetError::UserInfo);
        }
        if path.contains('#') {
            return Err(TargetError::Fragment);
        }
        if !http && !path.is_empty() {
            return Err(TargetError::TcpPath);
        }
        let addresses = addresses(authority)?;
        let request = http.then(|| request(authority, path)).transpose()?;
        let shown = text.split('?').next().unwrap_or_default().chars().take(LONGEST_SHOWN).collect();
        Ok(Target { addresses, request, shown })
    }
}

/// What an authority stands for, if all of it is within this pod.
fn addresses(authority: &str) -> Result<Vec<SocketAddr>, TargetError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or(TargetError::Brackets)?;
            let host: Ipv6Addr = host.parse().map_err(|_| TargetError::Name(host.into()))?;
            (Ok(IpAddr::V6(host).to_canonical()), rest.strip_prefix(':').ok_or(TargetError::Port)?)
        }
        None => {
            let (host, port) = authority.split_once(':').ok_or(TargetError::Port)?;
            if port.contains(':') {
                return Err(TargetError::Brackets);
            }
            (host.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| host), port)
        }
    };
    // A number's own parser would take a sign.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or(TargetError::Port)?;
    match host {
        Ok(address) if address.is_loopback() || is_own(address, port) => Ok(vec![(address, port).into()]),
        Ok(address) => Err(TargetError::Elsewhere(address)),
        Err(name) if name.eq_ignore_ascii_case("localhost") => {
            Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()])
        }
        Err(name) => Err(TargetError::Name(name.into())),
    }
}

/// Whether `address` is this network namespace's: the kernel reaches its own addresses from themselves. Connecting
/// a datagram socket sends nothing. (Binding one would not tell: broadcast addresses can be bound to, and all others
/// too where `ip_nonlocal_bind` is on.)
fn is_own(address: IpAddr, port: u16) -> bool {
    let any = if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, port))?;
        io::Result::Ok(socket.local_addr()?.ip())
    };
    source().is_ok_and(|source| source == address)
}

fn request(authority: &str, path: &str) -> Result<Request<Empty<Bytes>>, TargetError> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if !path.is_ascii() {
        return Err(TargetError::Path);
    }
    Request::get(path)
        .header(HOST, authority)
        .header(USER_AGENT, concat!("leasehold/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|_| TargetError::Path)
}

/// What a probe met, as the end of a sentence that begins with the target.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("refused the connection")]
    Refused,
    #[error("could not be connected to ({0})")]
    Connect(io::Error),
    #[error("did not answer within {0:?}")]
    Timeout(Duration),
    #[error("answered {}", .0.as_u16())]
    Status(StatusCode),
    #[error("closed the connection without an answer")]
    Closed,
    #[error("answered with a head of more than 16 KiB or 100 headers")]
    LargeHead,
    #[error("answered something that is not HTTP/1")]
    NotHttp,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Refused,
            _ => Failure::Connect(error),
        }
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        match error {
            error if error.is_parse_too_large() => Failure::LargeHead,
            error if error.is_parse() => Failure::NotHttp,
            _ => Failure::Closed,
        }
    }
}

impl Target {
    fn why(&self, failure: &Failure, failures: u32) -> String {
        match failures {
            1 => format!("{self} {failure}"),
            _ => format!("{self} {failure} ({failures} failures in a row)"),
        }
    }

    async fn probe(&self, timeout: Duration) -> (Result<(), Failure>, Option<Rest>) {
        match within(timeout, self.exchange()).await {
            None => (Err(Failure::Timeout(timeout)), None),
            Some(Err(failure)) => (Err(failure), None),
            Some(Ok(None)) => (Ok(()), None),
            Some(Ok(Some((status, rest)))) => {
                let success = (200..400).contains(&status.as_u16());
                (if success { Ok(()) } else { Err(Failure::Status(status)) }, Some(rest))
            }
        }
    }

    /// A connection, and the head of the answer where one is asked for.
    async fn exchange(&self) -> Result<Option<(StatusCode, Rest)>, Failure> {
        let stream = self.connect().await?;
        let Some(request) = &self.request else { return Ok(None) };
        let mut builder = http1::Builder::new();
        let builder = builder.max_buf_size(LARGEST_HEAD);
        let (mut sender, mut connection) = builder.handshake(TokioIo::new(stream)).await?;
        let mut answer = pin!(sender.send_request(request.clone()));
        // Both in this task, so that a probe that is given up leaves nothing behind.
        let (answer, connection) = tokio::select! {
            biased;
            answer = &mut answer => (answer?, Some(connection)),
            _ = &mut connection => (answer.await?, None),
        };
        let status = answer.status();
        Ok(Some((status, Rest { body: answer.into_body(), connection })))
    }

    async fn connect(&self) -> Result<TcpStream, Failure> {
        let mut failure = None;
        for address in &self.addresses {
            match TcpStream::connect(address).await {
                Ok(stream) if is_itself(&stream) => {
                    // Closed in order it would keep the app's port for a minute.
                    let _ = stream.set_zero_linger();
                    failure.get_or_insert(Failure::Refused);
                }
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    failure.get_or_insert(error.into());
                }
            }
        }
        // There is an address, and the first one's failure is the one to tell.
        Err(failure.unwrap_or(Failure::Refused))
    }
}

/// A connection to a port that nobody listens on can come from that very port, by chance, and is then accepted by
/// itself (RFC 9293, section 3.5: a simultaneous open).
fn is_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

/// What follows an answer's head. It decides nothing.
struct Rest {
    body: Incoming,
    /// None when it has ended.
    connection: Option<http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>>,
}

impl Rest {
    /// Reads it, within bounds.
    async fn read(mut self, timeout: Duration) {
        let Some(connection) = self.connection else { return };
        let body = async {
            let mut left = LARGEST_BODY;
            while left > 0
                && let Some(Ok(frame)) = self.body.frame().await
            {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            }
        };
        tokio::select! {
            () = body => {}
            _ = connection => {}
            () = tokio::time::sleep(timeout) => {}
        }
    }
}

/// What `work` comes to, unless that takes longer than `timeout` of the time in which this process ran.
async fn within<F: Future>(timeout: Duration, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut patience = Patience::new(SystemClock.boot(), timeout);
    while !patience.is_over(SystemClock.boot()) {
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = patience.nap(&SystemClock) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<Target>().map(|target| format!("accepted: {target}")).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn a_target_is_an_address_of_this_pod() {
        let accepted = [
            ("http://127.0.0.1:8080/healthz", "127.0.0.1:8080", "/healthz"),
            ("http://[::1]:8080/x?y=1", "[::1]:8080", "/x?y=1"),
            ("HTTP://127.8.9.1:1", "127.8.9.1:1", "/"),
            ("http://127.0.0.1:65535?y", "127.0.0.1:65535", "/?y"),
            ("http://[::ffff:127.0.0.1]:80/", "127.0.0.1:80", "/"),
        ];
        for (text, address, path) in accepted {
            let target: Target = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(target.addresses, [address.parse().unwrap()], "{text}");
            assert_eq!(target.request.unwrap().uri().to_string(), path, "{text}");
        }
        let both: Target = "tcp://LOCALHOST:5432".parse().unwrap();
        assert_eq!(both.addresses, ["127.0.0.1:5432".parse().unwrap(), "[::1]:5432".parse().unwrap()]);
        assert!(both.request.is_none());
    }

    #[test]
    fn the_pods_own_address_is_accepted_and_no_other() {
        let elsewhere =
            ["8.8.8.8", "10.255.255.254", "0.0.0.0", "255.255.255.255", "224.0.0.1", "[::]", "[2001:db8::1]"];
        for address in elsewhere {
            let said = refusal(&format!("http://{address}:8080/"));
            assert!(said.contains("is not this pod's own address"), "{address}: {said}");
        }
        // The machine's own, where it has another than loopback: asked for with nothing sent (RFC 5737).
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("203.0.113.1:9").is_ok() {
            let own = socket.local_addr().unwrap().ip();
            assert!(!own.is_loopback());
            assert_eq!(refusal(&format!("tcp://{own}:8080")), format!("accepted: tcp://{own}:8080"));
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_to_do() {
        let long = format!("http://127.0.0.1:80/{}", "x".repeat(LONGEST_TARGET));
        let refused = [
            ("", "expected http://"),
            ("127.0.0.1:8080", "expected http://"),
            ("/healthz", "expected http://"),
            ("ftp://127.0.0.1:21/", "expected http://"),
            ("http:127.0.0.1:80", "expected http://"),
            ("https://127.0.0.1:8443/", "plain http"),
            ("unix:/run/app.sock", "unix socket"),
            ("http+unix://%2Frun/", "unix socket"),
            ("http://user:secret@127.0.0.1:80/", "no user and no password"),
            ("http://127.0.0.1:80/#top", "fragment"),
            ("tcp://127.0.0.1:80/", "tcp:// has no path"),
            ("http://127.0.0.1:80/a b", "%XX"),
            ("http://127.0.0.1:80/\u{e9}", "%XX"),
            ("http://127.0.0.1:80/\r\nX: y", "%XX"),
            ("http://::1:80/", "brackets"),
            ("http://[::1/", "brackets"),
            ("http://127.0.0.1/", "a port"),
            ("http://127.0.0.1:/", "a port"),
            ("http://127.0.0.1:0/", "a port"),
            ("http://127.0.0.1:+80/", "a port"),
            ("http://127.0.0.1:65536/", "a port"),
            ("http://[::1]/", "a port"),
            ("http://localhost/", "a port"),
            ("http://:80/", "names are not looked up"),
            ("http://app.default.svc:80/", "names are not looked up"),
            ("http://127.1:80/", "names are not looked up"),
            ("http://localhost.:80/", "names are not looked up"),
            ("http://[fe80::1%eth0]:80/", "names are not looked up"),
            (&long, "longer than"),
        ];
        for (text, why) in refused {
            let said = refusal(text);
            assert!(said.contains(why), "{text:?}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn a_query_is_sent_and_never_shown() {
        let target: Target = "http://127.0.0.1:80/x?token=secret".parse().unwrap();
        assert_eq!(format!("{target} {target:?}"), "http://127.0.0.1:80/x Target(http://127.0.0.1:80/x)");
        let long: Target = format!("http://127.0.0.1:80/{}", "x".repeat(900)).parse().unwrap();
        assert!(long.why(&Failure::Refused, 3).len() < 300);
    }

    #[test]
    fn thresholds_out_of_bounds_are_named_each() {
        assert_eq!(Thresholds::default().faults(), Vec::<String>::new());
        let bounds = |interval, timeout, failures, successes, initial_delay| {
            let ms = Duration::from_millis;
            let (interval, timeout, initial_delay) = (ms(interval), ms(timeout), ms(initial_delay));
            Thresholds { interval, timeout, failures, successes, initial_delay }.faults()
        };
        assert!(bounds(100, 10, 1, 1, 0).is_empty());
        assert!(bounds(3_600_000, 3_600_000, 100, 100, 3_600_000).is_empty());
        assert_eq!(bounds(99, 9, 0, 0, 3_600_001).len(), 5);
        assert_eq!(bounds(3_600_001, 3_600_001, 101, 101, 0).len(), 4);
    }

    #[test]
    fn so_many_in_a_row_decide_and_fewer_do_not() {
        let decided = |successes, failures, probes: &str| {
            let mut tally = Tally::new(Thresholds { successes, failures, ..Thresholds::default() });
            probes.chars().map(|probe| if tally.decides(probe == '+') { probe } else { '.' }).collect::<String>()
        };
        assert_eq!(decided(1, 3, "+++--+---++-"), "+.......-+..");
        assert_eq!(decided(1, 3, "---+"), "..-+");
        assert_eq!(decided(3, 1, "++-+++-"), "..-..+-");
        assert_eq!(decided(2, 2, "+-+-+-++"), ".......+");
    }

    #[test]
    fn a_connection_to_itself_is_known() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = socket.local_addr().unwrap();
            let stream = socket.connect(address).await.expect("the kernel allows it, which is why it is looked for");
            assert!(is_itself(&stream));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            assert!(!is_itself(&TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()));
        });
    }
}
