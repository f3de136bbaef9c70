//! What a health probe says of the app, over real sockets: which answers count, how many in a row decide, and that
//! only a change is told.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::app::health::{Target, Thresholds, watch};
use leasehold::app::{Gone, Sign};
use rustix::process::Signal;
use support::clock::{self, BootTime};
use support::process::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const EVIDENCE: usize = 7;
/// Long enough for a busy machine; a test that waits for it has failed.
const SOON: Duration = Duration::from_secs(20);

/// What the app does with one connection, after the request's head.
#[derive(Clone, Debug)]
enum Does {
    Status(u16),
    After(Duration, u16),
    Writes(Vec<u8>),
    EndlessBody,
    Hangs,
    Closes,
}

/// An app that does as its script says, a connection at a time; the last line again and again.
struct App {
    port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<(BootTime, String)>>>,
    closed: Arc<AtomicUsize>,
    _serving: Serving,
}

struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl App {
    async fn start(script: Vec<Does>) -> App {
        App::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    fn on(listener: TcpListener, script: Vec<Does>) -> App {
        let port = listener.local_addr().unwrap().port();
        let (connections, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let serving = {
            let (connections, closed, requests) = (connections.clone(), closed.clone(), requests.clone());
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let number = connections.fetch_add(1, Ordering::SeqCst);
                    let does = script[number.min(script.len() - 1)].clone();
                    let (closed, requests) = (closed.clone(), requests.clone());
                    tokio::spawn(async move {
                        serve(stream, does, &requests).await;
                        closed.fetch_add(1, Ordering::SeqCst);
                    });
                }
            }
        };
        App { port, connections, requests, closed, _serving: Serving(tokio::spawn(serving)) }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/healthz", self.port)
    }
}

/// Serves one connection until the other side is gone, or as told.
async fn serve(mut stream: TcpStream, does: Does, requests: &Mutex<Vec<(BootTime, String)>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    requests.lock().unwrap().push((clock::now(), String::from_utf8(head).unwrap()));
    let answer = |status: u16| format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    let written = match does {
        Does::Status(status) => stream.write_all(answer(status).as_bytes()).await,
        Does::After(pause, status) => {
            tokio::time::sleep(pause).await;
            stream.write_all(answer(status).as_bytes()).await
        }
        Does::Writes(bytes) => stream.write_all(&bytes).await,
        Does::EndlessBody => {
            let mut written = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while written.is_ok() {
                written = stream.write_all(&[b'x'; 4096]).await;
            }
            written
        }
        Does::Closes => return,
        Does::Hangs => Ok(()),
    };
    if written.is_ok() {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

/// Probes as fast as is allowed.
fn fast(failures: u32, successes: u32) -> Thresholds {
    let interval = Duration::from_millis(100);
    Thresholds { interval, failures, successes, timeout: SOON, ..Thresholds::default() }
}

async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let holds = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, holds).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

struct Watch {
    signs: mpsc::Receiver<Sign>,
    running: JoinHandle<()>,
}

impl Watch {
    fn start(target: &str, thresholds: Thresholds) -> Watch {
        let target: Target = target.parse().expect("a target");
        assert_eq!(thresholds.faults(), Vec::<String>::new());
        let (tell, signs) = mpsc::channel(1);
        Watch { signs, running: tokio::spawn(watch(target, thresholds, EVIDENCE, tell)) }
    }

    async fn next(&mut self) -> Result<(), Gone> {
        let sign =
            tokio::time::timeout(SOON, self.signs.recv()).await.expect("a sign in time").expect("still watching");
        assert_eq!(sign.evidence, EVIDENCE);
        sign.alive
    }

    /// Why the app is not alive. It is never proved.
    async fn gone(&mut self) -> String {
        let gone = self.next().await.expect_err("not alive");
        assert!(!gone.proved);
        gone.why
    }

    /// Nothing is told while the app is asked `probes` times more.
    async fn silent_for(&mut self, app: &App, probes: usize) {
        let until = app.connections() + probes;
        wait_until("more probes", || app.connections() >= until).await;
        assert_eq!(self.signs.try_recv(), Err(mpsc::error::TryRecvError::Empty));
    }
}

#[tokio::test]
async fn a_status_from_200_to_399_is_alive_and_any_other_is_not() {
    for status in [200, 204, 206, 302, 304, 399] {
        let app = App::start(vec![Does::Status(status)]).await;
        let mut watch = Watch::start(&app.url(), fast(1, 1));
        assert_eq!(watch.next().await, Ok(()), "{status}");
    }
    for status in [400, 404, 429, 500, 503, 599, 999] {
        let app = App::start(vec![Does::Status(status)]).await;
        let mut watch = Watch::start(&app.url(), fast(1, 1));
        assert_eq!(watch.gone().await, format!("{} answered {status}", app.url()));
    }
}

#[tokio::test]
async fn what_is_no_answer_is_not_alive_and_is_called_by_its_name() {
    let huge = format!("HTTP/1.1 200 OK\r\nX-Huge: {}\r\n\r\n", "x".repeat(17 * 1024)).into_bytes();
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101)).into_bytes();
    let cases = [
        (Does::Closes, "closed the connection without an answer"),
        (Does::Writes(Vec::from("HTTP/1.1 200 OK\r\nHalf: ")), "did not answer within 400ms"),
        (Does::Writes(Vec::from("SSH-2.0-OpenSSH_9.9\r\n")), "answered something that is not HTTP/1"),
        (Does::Writes(vec![0; 100]), "answered something that is not HTTP/1"),
        (Does::Writes(Vec::from("ok\r\n\r\n")), "answered something that is not HTTP/1"),
        (Does::Writes(huge), "answered with a head of more than 16 KiB or 100 headers"),
        (Does::Writes(many), "answered with a head of more than 16 KiB or 100 headers"),
        (Does::Hangs, "did not answer within 400ms"),
        (Does::Status(101), "answered 101"),
    ];
    for (does, why) in cases {
        let shown = format!("{does:.80?}");
        let app = App::start(vec![does]).await;
        let timeout = Duration::from_millis(400);
        let mut watch = Watch::start(&app.url(), Thresholds { timeout, ..fast(2, 1) });
        let expected = format!("{} {why} (2 failures in a row)", app.url());
        assert_eq!(watch.gone().await, expected, "{shown}");
    }
}

#[tokio::test]
async fn a_slow_answer_counts_only_within_the_timeout() {
    let slow = Does::After(Duration::from_millis(300), 200);
    let app = App::start(vec![slow.clone()]).await;
    assert_eq!(Watch::start(&app.url(), fast(1, 1)).next().await, Ok(()));

    let app = App::start(vec![slow]).await;
    let timeout = Duration::from_millis(100);
    let began = clock::now();
    let mut watch = Watch::start(&app.url(), Thresholds { timeout, ..fast(1, 1) });
    assert_eq!(watch.gone().await, format!("{} did not answer within 100ms", app.url()));
    assert!(clock::now() - began >= timeout);
}

#[tokio::test]
async fn only_a_change_is_told_and_only_after_as_many_in_a_row_as_the_threshold_says() {
    let (good, bad) = (Does::Status(200), Does::Status(503));
    let script = "bgbbgbgg bbgbbg bbb gbg gg g";
    let mut told = Vec::new();
    let does = script.bytes().filter(|does| *does != b' ');
    let app = App::start(does.map(|does| if does == b'g' { good.clone() } else { bad.clone() }).collect()).await;
    let mut watch = Watch::start(&app.url(), fast(3, 2));
    for _ in 0..3 {
        let alive = watch.next().await.map_err(|gone| gone.why);
        told.push((app.connections(), alive));
    }
    let gone = format!("{} answered 503 (3 failures in a row)", app.url());
    assert_eq!(told, [(8, Ok(())), (17, Err(gone)), (21, Ok(()))]);
    watch.silent_for(&app, 5).await;
}

#[tokio::test]
async fn an_app_that_was_never_there_is_told_of_once() {
    let app = App::start(vec![Does::Status(500)]).await;
    let mut watch = Watch::start(&app.url(), fast(3, 1));
    watch.gone().await;
    assert_eq!(app.connections(), 3);
    watch.silent_for(&app, 5).await;
}

#[tokio::test]
async fn each_probe_is_one_request_on_a_connection_of_its_own_and_a_redirect_is_not_followed() {
    let elsewhere = "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
    let app = App::start(vec![Does::Writes(Vec::from(elsewhere))]).await;
    let mut watch = Watch::start(&format!("http://localhost:{}/healthz?deep=1", app.port), fast(1, 1));
    assert_eq!(watch.next().await, Ok(()));
    watch.silent_for(&app, 4).await;
    let requests = app.requests.lock().unwrap();
    assert!(app.connections() - requests.len() <= 1, "one may be on its way");
    for (_, request) in requests.iter() {
        let mut lines: Vec<&str> = request.trim_end().lines().collect();
        assert_eq!(lines.remove(0), "GET /healthz?deep=1 HTTP/1.1");
        lines.sort();
        let host = format!("host: localhost:{}", app.port);
        let agent = format!("user-agent: leasehold/{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(lines, ["accept: */*", "connection: close", &host, &agent]);
    }
}

#[tokio::test]
async fn an_endless_body_is_left_behind_and_the_app_still_lives() {
    let app = App::start(vec![Does::EndlessBody]).await;
    let mut watch = Watch::start(&app.url(), fast(1, 1));
    assert_eq!(watch.next().await, Ok(()));
    // The next connection comes only when this one was closed, for probes do not overlap.
    watch.silent_for(&app, 3).await;
    assert!(app.closed.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn a_body_of_ordinary_size_is_read_so_that_the_app_is_not_reset() {
    let body = "x".repeat(10_000);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}/", listener.local_addr().unwrap());
    let app = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        // A peer that closed early answers the second part with a reset, and the third cannot be written.
        for part in answer.as_bytes().chunks(4000) {
            stream.write_all(part)?;
            std::thread::sleep(Duration::from_millis(100));
        }
        stream.set_read_timeout(Some(SOON))?;
        stream.read(&mut [0; 1])
    });
    let mut watch = Watch::start(&target, fast(1, 1));
    assert_eq!(watch.next().await, Ok(()));
    let ended = tokio::task::spawn_blocking(|| app.join().unwrap()).await.unwrap();
    assert_eq!(ended.expect("all of it could be written"), 0);
}

#[tokio::test]
async fn a_closed_port_is_not_alive_and_an_opened_one_is() {
    for scheme in ["http", "tcp"] {
        // Bound, so that nobody else takes it, and refused until somebody listens.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let target = format!("{scheme}://{}", socket.local_addr().unwrap());
        let mut watch = Watch::start(&target, fast(2, 1));
        assert_eq!(watch.gone().await, format!("{target} refused the connection (2 failures in a row)"));
        let app = App::on(socket.listen(16).unwrap(), vec![Does::Status(200)]);
        assert_eq!(watch.next().await, Ok(()));
        drop(app);
        assert!(watch.gone().await.contains("(2 failures in a row)"));
    }
}

#[tokio::test]
async fn tcp_asks_for_no_more_than_the_connection() {
    let app = App::start(vec![Does::Hangs]).await;
    let mut watch = Watch::start(&format!("tcp://127.0.0.1:{}", app.port), fast(1, 1));
    assert_eq!(watch.next().await, Ok(()));
    watch.silent_for(&app, 3).await;
    assert!(app.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn localhost_is_tried_by_ipv4_and_then_by_ipv6() {
    // The same port of both, the first one refused.
    let (app, _closed) = loop {
        let Ok(listener) = TcpListener::bind("[::1]:0").await else { return };
        let port = listener.local_addr().unwrap().port();
        let closed = TcpSocket::new_v4().unwrap();
        if closed.bind(SocketAddr::from(([127, 0, 0, 1], port))).is_ok() {
            break (App::on(listener, vec![Does::Status(200)]), closed);
        }
    };
    for target in [format!("http://localhost:{}/", app.port), format!("tcp://localhost:{}", app.port)] {
        assert_eq!(Watch::start(&target, fast(1, 1)).next().await, Ok(()));
    }
    assert!(Watch::start(&format!("http://127.0.0.1:{}/", app.port), fast(1, 1)).gone().await.contains("refused"));
}

#[tokio::test]
async fn probes_begin_after_the_initial_delay_and_at_the_interval_from_start_to_start() {
    let app = App::start(vec![Does::After(Duration::from_millis(300), 200)]).await;
    let (initial_delay, interval) = (Duration::from_millis(300), Duration::from_millis(400));
    let began = clock::now();
    let mut watch = Watch::start(&app.url(), Thresholds { initial_delay, interval, ..fast(1, 1) });
    assert_eq!(watch.next().await, Ok(()));
    watch.silent_for(&app, 3).await;
    let starts: Vec<BootTime> = app.requests.lock().unwrap().iter().map(|(at, _)| *at - began).collect();
    assert!(starts[0] >= initial_delay, "{starts:?}");
    // From end to start it would be 700 ms each.
    let three = starts[3] - starts[0];
    assert!((1150..1900).contains(&three.as_millis()), "{starts:?}");
}

#[tokio::test]
async fn probes_do_not_overlap_and_one_that_hangs_leaves_nothing_behind() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}/", listener.local_addr().unwrap());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let app = std::thread::spawn(move || {
        let mut before: Option<std::net::TcpStream> = None;
        let mut probes = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let (stream, _) = listener.accept().unwrap();
            if let Some(mut before) = before.replace(stream) {
                // Its end came before the new beginning, or reading would block.
                before.set_nonblocking(true).unwrap();
                let read = before.read_to_end(&mut Vec::new());
                assert!(!matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock), "two at a time");
            }
            probes += 1;
        }
        probes
    });
    let timeout = Duration::from_millis(250);
    let mut watch = Watch::start(&target, Thresholds { timeout, ..fast(5, 1) });
    watch.gone().await;
    drop(stop);
    // The app's last accept.
    let probes = tokio::task::spawn_blocking(|| app.join().unwrap()).await.unwrap();
    assert!((5..=7).contains(&probes), "{probes}");
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let hanging = App::start(vec![Does::Hangs]).await;
    let later = Thresholds { initial_delay: Duration::from_secs(3600), ..fast(1, 1) };
    for (app, thresholds) in [(&hanging, fast(1, 1)), (&hanging, later)] {
        let watch = Watch::start(&app.url(), thresholds);
        if thresholds.initial_delay.is_zero() {
            wait_until("a probe", || !app.requests.lock().unwrap().is_empty()).await;
        }
        drop(watch.signs);
        tokio::time::timeout(SOON, watch.running).await.expect("it ends").unwrap();
    }
    let closed = || hanging.closed.load(Ordering::SeqCst) > 0;
    wait_until("the end of the probe that hung", closed).await;
}

/// Run again as a child, which can be stopped.
#[test]
fn a_sidecar_that_was_stopped_itself_neither_blames_the_app_nor_makes_up_for_missed_probes() {
    const TARGET: &str = "LEASEHOLD_TEST_TARGET";
    let (timeout, interval) = (Duration::from_millis(1500), Duration::from_millis(500));
    if let Ok(target) = std::env::var(TARGET) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(async {
            let mut watch = Watch::start(&target, Thresholds { timeout, interval, ..fast(1, 1) });
            loop {
                println!("sign: {:?}", watch.signs.recv().await.unwrap().alive.map_err(|gone| gone.why));
            }
        });
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "--nocapture"])
        .arg("a_sidecar_that_was_stopped_itself_neither_blames_the_app_nor_makes_up_for_missed_probes")
        .env(TARGET, format!("http://{}/", listener.local_addr().unwrap()))
        .stdout(Stdio::piped());
    let mut child = Process::start(child).unwrap();
    listener.set_nonblocking(true).unwrap();
    let accept = || {
        let mut stream = clock::wait_for("a probe", SOON, || listener.accept().ok()).0;
        let accepted = clock::now();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        (stream, accepted)
    };
    let good = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    accept().0.write_all(good).unwrap();
    // The time-out passes while the sidecar stands still, and the app, as if it had been stopped too, answers after.
    let (mut stream, _) = accept();
    child.signal(Signal::STOP);
    std::thread::sleep(timeout * 2);
    child.signal(Signal::CONT);
    std::thread::sleep(Duration::from_millis(100));
    stream.write_all(good).expect("the probe still waits");
    drop(stream);
    // The app goes on; a probe a half second, not all those that were missed at once.
    let starts: Vec<BootTime> = (0..4)
        .map(|_| {
            let (mut stream, accepted) = accept();
            stream.write_all(good).unwrap();
            accepted
        })
        .collect();
    for pair in starts.windows(2) {
        assert!(pair[1] - pair[0] >= interval / 2, "{starts:?}");
    }
    // And it still notices: of all this, one sign until now.
    drop(listener);
    let lines = child.lines();
    let sign = || loop {
        let line = lines.recv_timeout(SOON).expect("a sign in time");
        if let Some(sign) = line.strip_prefix("sign: ") {
            return sign.to_owned();
        }
    };
    assert_eq!(sign(), "Ok(())");
    let gone = sign();
    assert!(gone.starts_with("Err(") && gone.contains("refused the connection"), "{gone}");
}
