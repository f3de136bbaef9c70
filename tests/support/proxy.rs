//! A TCP link to the API server that a test commands: pass, cut, silent in one direction or both,
//! late, slow, losing answers, leading to another server, heal.
//!
//! Silence keeps what it holds and delivers it when the link heals, as TCP's retransmission does;
//! a connection made in the meantime is accepted, and its bytes wait too. (On a real silent link
//! the connection itself would not come about: to a client both look like a reply that never
//! comes.) TLS passes through untouched, and the API server's certificate holds for 127.0.0.1 on
//! every port: give [`Proxy::address`] to [`super::control_plane::ControlPlane::kubeconfig_for`].

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

use super::clock::{self, BootTime};
use super::control_plane::Port;

/// What is sent at once and has so many bytes is a request that writes: a Lease is longer, and a question is not.
const A_WRITE: usize = 400;
/// An answer to one, or the watch event that it caused: both come after the write was committed. What HTTP/2 itself
/// has to say is shorter.
const AN_ANSWER: usize = 200;

/// The link. Gone, with its connections, when dropped.
pub struct Proxy {
    port: Port,
    link: watch::Sender<Link>,
    /// Where new connections lead.
    server: Arc<Mutex<SocketAddr>>,
    seen: Arc<Seen>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the proxy's thread has come to.
#[derive(Default)]
struct Seen {
    listening: AtomicBool,
    accepted: AtomicUsize,
    live: AtomicUsize,
    answers_lost: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq)]
enum Link {
    Pass(Way),
    Cut,
    Over,
}

/// What happens to bytes while connections live.
#[derive(Clone, Copy, Default, PartialEq)]
struct Way {
    requests_held: bool,
    replies_held: bool,
    request_delay: Duration,
    reply_delay: Duration,
    /// Before the server is connected to.
    connect_delay: Duration,
    /// Each direction.
    bytes_per_second: Option<u32>,
    /// The connection is reset when the answer to a write comes.
    answers_lost: bool,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and passes all on to `server`.
    pub fn start(server: SocketAddr) -> Self {
        let port = Port::reserve();
        let address = port.address();
        let seen = Arc::new(Seen::default());
        let server = Arc::new(Mutex::new(server));
        let (link, orders) = watch::channel(Link::Pass(Way::default()));
        let (shared, leads_to) = (seen.clone(), server.clone());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve(address, leads_to, orders, shared));
        });
        let proxy = Self { port, link, server, seen, thread: Some(thread) };
        proxy.heal();
        proxy
    }

    /// Where it listens, for the life of the proxy.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// How many connections have been accepted.
    pub fn connections(&self) -> usize {
        self.seen.accepted.load(Ordering::Relaxed)
    }

    /// Resets every connection and refuses new ones.
    pub fn cut(&self) {
        self.set(Link::Cut);
    }

    /// Keeps the connections and delivers nothing.
    pub fn silence(&self) {
        self.set_way(Way { requests_held: true, replies_held: true, ..Way::default() });
    }

    /// Delivers nothing to the server; what it sends arrives.
    pub fn silence_requests(&self) {
        self.set_way(Way { requests_held: true, ..Way::default() });
    }

    /// Delivers nothing to the client: requests arrive and have their effect.
    pub fn silence_replies(&self) {
        self.set_way(Way { replies_held: true, ..Way::default() });
    }

    /// Delivers each reply this much after it came.
    pub fn delay_replies(&self, reply_delay: Duration) {
        self.set_way(Way { reply_delay, ..Way::default() });
    }

    /// Delivers each request this much after it came.
    pub fn delay_requests(&self, request_delay: Duration) {
        self.set_way(Way { request_delay, ..Way::default() });
    }

    /// Delivers nothing to the server; what it sends arrives so much late.
    pub fn silence_requests_with_late_replies(&self, reply_delay: Duration) {
        self.set_way(Way { requests_held: true, reply_delay, ..Way::default() });
    }

    /// Connects to the server this much after the client connected.
    pub fn connect_late(&self, connect_delay: Duration) {
        self.set_way(Way { connect_delay, ..Way::default() });
    }

    /// Carries so many bytes a second in each direction.
    pub fn throttle(&self, bytes_per_second: u32) {
        self.set_way(Way { bytes_per_second: Some(bytes_per_second), ..Way::default() });
    }

    /// Resets each connection when the answer to a write comes: it is committed, and who wrote does not hear of it.
    pub fn lose_answers(&self) {
        self.set_way(Way { answers_lost: true, ..Way::default() });
    }

    /// How many connections were reset so.
    pub fn answers_lost(&self) -> usize {
        self.seen.answers_lost.load(Ordering::Relaxed)
    }

    /// Leads new connections to another server; those that live stay with theirs.
    pub fn lead_to(&self, server: SocketAddr) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// Passes everything, also what was held.
    pub fn heal(&self) {
        self.set_way(Way::default());
    }

    fn set_way(&self, way: Way) {
        self.set(Link::Pass(way));
    }

    /// Returns when the link is so: after a cut no connection is left.
    fn set(&self, link: Link) {
        self.link.send_replace(link);
        let listens = matches!(link, Link::Pass(_));
        clock::wait_until("the proxy", Duration::from_secs(5), || {
            let live = self.seen.live.load(Ordering::Acquire);
            self.seen.listening.load(Ordering::Acquire) == listens && (listens || live == 0)
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.send_replace(Link::Over);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
    mut orders: watch::Receiver<Link>,
    seen: Arc<Seen>,
) {
    let mut listener = None;
    loop {
        let link = *orders.borrow_and_update();
        match link {
            Link::Over => return,
            Link::Cut => listener = None,
            Link::Pass(_) if listener.is_none() => {
                listener = Some(listen_again(address).await);
            }
            Link::Pass(_) => {}
        }
        seen.listening.store(listener.is_some(), Ordering::Release);
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The test ends when this does.
            changed = orders.changed() => if changed.is_err() { return },
            accepted = accepted => if let Ok((client, _)) = accepted {
                seen.accepted.fetch_add(1, Ordering::Relaxed);
                seen.live.fetch_add(1, Ordering::AcqRel);
                let server = *server.lock().unwrap_or_else(PoisonError::into_inner);
                tokio::spawn(connection(client, server, orders.clone(), seen.clone()));
            }
        }
    }
}

/// A child that another thread has just forked holds the former listener until it executes its program.
async fn listen_again(address: SocketAddr) -> TcpListener {
    let until = clock::now() + Duration::from_secs(2);
    loop {
        match listen(address) {
            Ok(listener) => return listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && clock::now() < until => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("the port is reserved: {error}"),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn connection(mut client: TcpStream, server: SocketAddr, orders: watch::Receiver<Link>, seen: Arc<Seen>) {
    let mut cut = orders.clone();
    let broken = tokio::select! {
        _ = cut.wait_for(|link| *link == Link::Cut) => true,
        ended = carry(&mut client, server, orders, &seen) => ended.is_err(),
    };
    if broken {
        // Closing then sends a reset.
        let _ = set_socket_linger(&client, Some(Duration::ZERO));
    }
    drop(client);
    seen.live.fetch_sub(1, Ordering::AcqRel);
}

/// Carries both directions until both have ended, or one is broken.
async fn carry(
    client: &mut TcpStream,
    server: SocketAddr,
    mut orders: watch::Receiver<Link>,
    seen: &Seen,
) -> io::Result<()> {
    turn(&mut orders, clock::now(), |way| (way.requests_held, way.connect_delay)).await;
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_reads, client_writes) = client.split();
    let (server_reads, server_writes) = server.split();
    let writes = Writes { seen, way: orders.clone(), first: AtomicBool::new(true), unanswered: AtomicBool::new(false) };
    tokio::try_join!(
        pump(client_reads, server_writes, orders.clone(), requests, |bytes| writes.request(bytes)),
        pump(server_reads, client_writes, orders, replies, |bytes| writes.reply(bytes)),
    )?;
    Ok(())
}

/// One connection's requests that write: told by their length, for TLS hides the rest.
struct Writes<'a> {
    seen: &'a Seen,
    way: watch::Receiver<Link>,
    /// What comes first greets.
    first: AtomicBool,
    unanswered: AtomicBool,
}

impl Writes<'_> {
    fn request(&self, bytes: usize) -> io::Result<()> {
        let greets = self.first.swap(false, Ordering::Relaxed);
        if !greets && bytes >= A_WRITE {
            self.unanswered.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn reply(&self, bytes: usize) -> io::Result<()> {
        if bytes < AN_ANSWER || !self.unanswered.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        match *self.way.borrow() {
            Link::Pass(way) if way.answers_lost => {
                self.seen.answers_lost.fetch_add(1, Ordering::Relaxed);
                Err(io::ErrorKind::ConnectionReset.into())
            }
            _ => Ok(()),
        }
    }
}

/// Whether bytes of a direction are held, and how late they are delivered.
type Direction = fn(Way) -> (bool, Duration);

fn requests(way: Way) -> (bool, Duration) {
    (way.requests_held, way.request_delay)
}

fn replies(way: Way) -> (bool, Duration) {
    (way.replies_held, way.reply_delay)
}

/// One direction: reads at once, so that a delay does not add up, and delivers in its turn. Whoever is told how many
/// bytes come may break the connection.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut orders: watch::Receiver<Link>,
    direction: Direction,
    tell: impl Fn(usize) -> io::Result<()>,
) -> io::Result<()> {
    let (line, mut waiting) = mpsc::channel::<(BootTime, Vec<u8>)>(64);
    let read = async move {
        loop {
            let mut bytes = vec![0; 16 * 1024];
            let length = from.read(&mut bytes).await?;
            tell(length)?;
            bytes.truncate(length);
            let _ = line.send((clock::now(), bytes)).await;
            if length == 0 {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((arrived, bytes)) = waiting.recv().await {
            turn(&mut orders, arrived, direction).await;
            if bytes.is_empty() {
                to.shutdown().await?;
            } else {
                crawl(&mut orders, bytes.len()).await;
                to.write_all(&bytes).await?;
            }
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// Waits as long as so many bytes take on a slow link, or until it is slow no more.
async fn crawl(orders: &mut watch::Receiver<Link>, bytes: usize) {
    let slow = |link: &Link| match link {
        Link::Pass(way) => way.bytes_per_second,
        _ => None,
    };
    let Some(rate) = slow(&orders.borrow()) else { return };
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(1) * bytes as u32 / rate) => {}
        _ = orders.wait_for(|link| slow(link).is_none()) => {}
    }
}

/// Waits until what arrived then may be delivered.
async fn turn(orders: &mut watch::Receiver<Link>, arrived: BootTime, direction: Direction) {
    loop {
        let link = *orders.borrow_and_update();
        let wait = match link {
            Link::Pass(way) => match direction(way) {
                (true, _) => None,
                (false, delay) => Some((arrived + delay).saturating_sub(clock::now())),
            },
            _ => None,
        };
        let changed = async {
            if orders.changed().await.is_err() {
                std::future::pending().await
            }
        };
        match wait {
            Some(Duration::ZERO) => return,
            Some(wait) => tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            },
            None => changed.await,
        }
    }
}
