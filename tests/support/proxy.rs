//! A TCP link to the API server that a test commands: pass, cut, silent in one direction or both,
//! late replies, heal.
//!
//! Silence keeps what it holds and delivers it when the link heals, as TCP's retransmission does;
//! a connection made in the meantime is accepted, and its bytes wait too. (On a real silent link
//! the connection itself would not come about: to a client both look like a reply that never
//! comes.) TLS passes through untouched, and the API server's certificate holds for 127.0.0.1 on
//! every port: give [`Proxy::address`] to [`super::control_plane::ControlPlane::kubeconfig_for`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

use super::clock::{self, BootTime};
use super::control_plane::Port;

/// The link. Gone, with its connections, when dropped.
pub struct Proxy {
    port: Port,
    link: watch::Sender<Link>,
    seen: Arc<Seen>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the proxy's thread has come to.
#[derive(Default)]
struct Seen {
    listening: AtomicBool,
    accepted: AtomicUsize,
    live: AtomicUsize,
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
    reply_delay: Duration,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and passes all on to `server`.
    pub fn start(server: SocketAddr) -> Self {
        let port = Port::reserve();
        let address = port.address();
        let seen = Arc::new(Seen::default());
        let (link, orders) = watch::channel(Link::Pass(Way::default()));
        let shared = seen.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve(address, server, orders, shared));
        });
        let proxy = Self { port, link, seen, thread: Some(thread) };
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

async fn serve(address: SocketAddr, server: SocketAddr, mut orders: watch::Receiver<Link>, seen: Arc<Seen>) {
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
        ended = carry(&mut client, server, orders) => ended.is_err(),
    };
    if broken {
        // Closing then sends a reset.
        let _ = set_socket_linger(&client, Some(Duration::ZERO));
    }
    drop(client);
    seen.live.fetch_sub(1, Ordering::AcqRel);
}

/// Carries both directions until both have ended, or one is broken.
async fn carry(client: &mut TcpStream, server: SocketAddr, mut orders: watch::Receiver<Link>) -> io::Result<()> {
    turn(&mut orders, clock::now(), requests).await;
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_reads, client_writes) = client.split();
    let (server_reads, server_writes) = server.split();
    tokio::try_join!(
        pump(client_reads, server_writes, orders.clone(), requests),
        pump(server_reads, client_writes, orders, replies),
    )?;
    Ok(())
}

/// Whether bytes of a direction are held, and how late they are delivered.
type Direction = fn(Way) -> (bool, Duration);

fn requests(way: Way) -> (bool, Duration) {
    (way.requests_held, Duration::ZERO)
}

fn replies(way: Way) -> (bool, Duration) {
    (way.replies_held, way.reply_delay)
}

/// One direction: reads at once, so that a delay does not add up, and delivers in its turn.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut orders: watch::Receiver<Link>,
    direction: Direction,
) -> io::Result<()> {
    let (line, mut waiting) = mpsc::channel::<(BootTime, Vec<u8>)>(64);
    let read = async move {
        loop {
            let mut bytes = vec![0; 16 * 1024];
            let length = from.read(&mut bytes).await?;
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
                to.write_all(&bytes).await?;
            }
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
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
