//! What the tests of the app's side share: a board to publish on, a clock to move, a server, and a client that shows
//! every byte.
#![allow(dead_code)] // Each test file uses its part.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use leasehold::app::session::Sessions;
use leasehold::election::{Leading, Reason, Status};
use leasehold::report::Board;
use leasehold::report::http::{self, Address, App, Command, Listener};
use leasehold::time::{Clock, Moment};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub const BOOT_ID: &str = "11111111-2222-3333-4444-555555555555";
pub const TTL: Duration = Duration::from_secs(1);
pub const WALL: &str = "2026-07-01T12:00:00.75Z";

/// A clock that stands still until it is moved.
pub struct TestClock(AtomicU64);

impl TestClock {
    pub fn at(seconds: u64) -> Arc<Self> {
        Arc::new(TestClock(AtomicU64::new(seconds * 1_000_000_000)))
    }

    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn boot(&self) -> Moment {
        Moment::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Timestamp {
        WALL.parse().unwrap()
    }
}

pub fn board(lease: &str) -> Arc<Board> {
    board_with_ttl(lease, TTL)
}

pub fn board_with_ttl(lease: &str, ttl: Duration) -> Arc<Board> {
    Arc::new(Board::new(lease.into(), "apps".into(), "web-0".into(), BOOT_ID.into(), ttl))
}

/// A term of this pod from `now`, twelve seconds of it valid.
pub fn leading(now: Moment, token: u64, version: u64) -> Status {
    Status {
        leading: Some(Leading {
            token,
            valid_until: now + Duration::from_secs(12),
            stop_by: now + Duration::from_millis(14_970),
            acquired_at: WALL.parse().unwrap(),
        }),
        holder: Some("web-0_abc".into()),
        transitions: 4,
        expires_at: Some(now + Duration::from_secs(15)),
        version,
        reason: Reason::Leading,
        message: "this pod leads".into(),
    }
}

pub fn held_by(holder: &str, now: Moment, version: u64) -> Status {
    Status {
        leading: None,
        holder: Some(holder.into()),
        transitions: 5,
        expires_at: Some(now + Duration::from_secs(15)),
        version,
        reason: Reason::HeldByOther,
        message: "another pod holds the lease".into(),
    }
}

pub fn publish(board: &Board, status: Status) {
    board.publish(status, WALL.parse().unwrap());
}

pub struct Server {
    pub port: u16,
    pub boards: Vec<Arc<Board>>,
    pub clock: Arc<TestClock>,
    pub sessions: Arc<Sessions>,
    pub commands: mpsc::Receiver<Command>,
    pub stop: watch::Sender<bool>,
    pub running: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Server {
        Server::with(vec![board("web"), board("jobs")], &"127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn with(boards: Vec<Arc<Board>>, address: &Address) -> Server {
        let clock = TestClock::at(1000);
        let (sender, commands) = mpsc::channel(4);
        let (stop, shutdown) = watch::channel(false);
        let listeners = Listener::bind(address).expect("a free port");
        let port = listeners[0].port().unwrap_or(0);
        let sessions = Arc::new(Sessions::new(None, true, TTL));
        let app = App {
            boards: boards.clone(),
            members: None,
            clock: clock.clone(),
            sessions: sessions.clone(),
            asking: Arc::default(),
            commands: sender,
            allowed_hosts: vec!["sidecar.internal".into()],
        };
        let running = tokio::spawn(http::run(listeners, app, shutdown));
        Server { port, boards, clock, sessions, commands, stop, running }
    }

    /// The first lease is ours from now on.
    pub fn lead(&self, version: u64) {
        publish(&self.boards[0], leading(self.clock.boot(), 77, version));
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.expect("the server listens")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.connect().await;
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}{length}\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_answer(&mut stream, method == "HEAD").await.expect("an answer")
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|wrong| panic!("{wrong}: {:?}", self.body))
    }

    pub fn code(&self) -> String {
        assert!(self.json()["message"].as_str().is_some_and(|message| message.len() > 10), "{:?}", self.body);
        self.json()["code"].as_str().expect("a code").to_owned()
    }
}

/// Reads one answer of known length and leaves the connection as it is; none if the peer closed or 20 s passed.
pub async fn read_answer(stream: &mut (impl AsyncRead + Unpin), headless: bool) -> Option<Answer> {
    tokio::time::timeout(Duration::from_secs(20), async {
        let head = read_until(stream, "\r\n\r\n").await?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut answer = Answer { status, head, body: String::new() };
        let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if !headless {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            answer.body = String::from_utf8(body).ok()?;
        }
        Some(answer)
    })
    .await
    .ok()?
}

pub async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        text.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(text).ok()
}

/// The lines of the next event of a stream, which arrives in chunks of one event each.
pub async fn next_event(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<String>> {
    tokio::time::timeout(Duration::from_secs(10), async {
        let size = read_until(stream, "\r\n").await?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await.ok()?;
        let text = String::from_utf8(chunk).ok()?;
        (size > 0).then(|| text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    })
    .await
    .expect("an event in time")
}

pub async fn send(stream: &mut (impl AsyncWrite + Unpin), path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}
