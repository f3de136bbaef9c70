//! A door before the API server: plain HTTP, passed on to it, and answered in its place where a test says so.
//!
//! What a server does wrong (errors, delays, nonsense) is then done between requests that work, as it happens.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::control_plane::{ADMIN, ControlPlane};
use super::http::Http;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub body: String,
    /// The number of this request, from 0, over all connections.
    pub number: usize,
}

impl Request {
    pub fn is_watch(&self) -> bool {
        self.path.contains("watch=1")
    }

    pub fn is_write(&self) -> bool {
        self.method == "PUT"
    }
}

/// What is done with it.
#[derive(Clone, Debug)]
pub enum Act {
    /// The API server answers.
    Pass,
    /// It answers, and the client hears of it so much later.
    PassAfter(Duration),
    /// So much later it reaches the API server, also when the client has given it up by then.
    PassLate(Duration),
    /// It answers, and the client gets this answer instead: the request had its effect.
    PassAndThen(Box<Act>),
    /// No answer, ever.
    Silence,
    /// This is the answer: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
}

impl Act {
    /// A Status object, as the API server words its refusals.
    pub fn status(code: u16, reason: &str, message: &str) -> Self {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": code, "reason": reason, "message": message,
        });
        Self::Answer(code, vec![("Content-Type", "application/json".into())], status.to_string())
    }
}

type Rule = Box<dyn Fn(&Request) -> Act + Send + Sync>;

/// The door; closed when dropped.
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    rule: Mutex<Arc<Rule>>,
    requests: Mutex<Vec<Request>>,
    sockets: Mutex<Vec<TcpStream>>,
    /// How often watches were hushed: those that were open then say nothing more.
    hushes: AtomicUsize,
    over: AtomicBool,
    kubeconfig: PathBuf,
    connect: Box<dyn Fn() -> io::Result<Http> + Send + Sync>,
}

impl Front {
    /// Opens one that passes everything on, as the admin.
    pub fn open(control_plane: &'static ControlPlane) -> Self {
        Self::open_as(control_plane, ADMIN)
    }

    /// The same as another user.
    pub fn open_as(control_plane: &'static ControlPlane, user: &str) -> Self {
        let user = user.to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let kubeconfig = control_plane.kubeconfig_edited(|config| {
            config["clusters"][0]["cluster"] = json!({"server": format!("http://{address}")});
        });
        let shared = Arc::new(Shared {
            rule: Mutex::new(Arc::new(Box::new(|_| Act::Pass))),
            requests: Mutex::default(),
            sockets: Mutex::default(),
            hushes: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            kubeconfig,
            connect: Box::new(move || control_plane.connect_as(&user)),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.over.load(Ordering::SeqCst) {
                    return;
                }
                lock(&serving.sockets).extend(stream.try_clone());
                let serving = serving.clone();
                // A broken connection is the client's business.
                thread::spawn(move || serve(stream, &serving));
            }
        });
        Self { address, shared }
    }

    /// A kubeconfig that leads through it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.shared.kubeconfig.clone()
    }

    /// From now on this is done.
    pub fn set(&self, rule: impl Fn(&Request) -> Act + Send + Sync + 'static) {
        *lock(&self.shared.rule) = Arc::new(Box::new(rule));
    }

    /// From now on everything passes.
    pub fn pass(&self) {
        self.set(|_| Act::Pass);
    }

    /// The watches that are open stay so, and say nothing more.
    pub fn hush_watches(&self) {
        self.shared.hushes.fetch_add(1, Ordering::SeqCst);
    }

    /// Breaks every connection.
    pub fn break_connections(&self) {
        for socket in lock(&self.shared.sockets).drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// How many there were of a kind.
    pub fn count(&self, kind: impl Fn(&Request) -> bool) -> usize {
        lock(&self.shared.requests).iter().filter(|request| kind(request)).count()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.break_connections();
        // Wakes the listener, which then closes.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let mut server: Option<Http> = None;
    loop {
        let mut request = receive(&mut reader)?;
        let rule = lock(&shared.rule).clone();
        {
            let mut requests = lock(&shared.requests);
            request.number = requests.len();
            requests.push(request.clone());
        }
        let act = rule(&request);
        match act {
            Act::Answer(status, headers, text) => answer(&mut writer, status, &headers, text.as_bytes())?,
            // Until the client has had enough.
            Act::Silence => drop(receive(&mut reader)?),
            _ if request.is_watch() => {
                return pass_stream(&mut writer, (shared.connect)()?, &request.path, &shared.hushes);
            }
            Act::Pass | Act::PassAfter(_) | Act::PassLate(_) | Act::PassAndThen(_) => {
                if let Act::PassLate(delay) = act {
                    thread::sleep(delay);
                }
                let server = match &mut server {
                    Some(server) => server,
                    none => none.insert((shared.connect)()?),
                };
                let kind = match request.method.as_str() {
                    "PATCH" => "application/merge-patch+json",
                    _ => "application/json",
                };
                let headers = [("Content-Type", kind), ("Accept", "application/json")];
                let passed = server.request(&request.method, &request.path, &headers, request.body.as_bytes())?;
                if let Act::PassAfter(delay) = act {
                    thread::sleep(delay);
                }
                match act {
                    Act::PassAndThen(instead) => match *instead {
                        Act::Answer(status, headers, text) => answer(&mut writer, status, &headers, text.as_bytes())?,
                        _ => drop(receive(&mut reader)?),
                    },
                    _ => {
                        let headers = [("Content-Type", "application/json".into())];
                        answer(&mut writer, passed.status, &headers, &passed.body)?;
                    }
                }
            }
        }
    }
}

fn receive(reader: &mut BufReader<TcpStream>) -> io::Result<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { method, path, body: String::from_utf8_lossy(&body).into_owned(), number: 0 })
}

fn answer(writer: &mut TcpStream, status: u16, headers: &[(&'static str, String)], body: &[u8]) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} so\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let message = [head.as_bytes(), b"\r\n", body].concat();
    writer.write_all(&message)
}

/// A watch, line by line, until either side ends.
fn pass_stream(writer: &mut TcpStream, http: Http, path: &str, hushes: &AtomicUsize) -> io::Result<()> {
    let hushed = hushes.load(Ordering::SeqCst);
    let mut stream = http.with_timeout(Duration::from_secs(600))?.stream(path)?;
    let head = format!("HTTP/1.1 {} so\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n", stream.status);
    writer.write_all(head.as_bytes())?;
    while let Some(line) = stream.next_line()? {
        if hushes.load(Ordering::SeqCst) != hushed {
            continue;
        }
        writer.write_all(format!("{line}\n").as_bytes())?;
    }
    writer.shutdown(Shutdown::Both)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An event of a watch.
pub fn watch_event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}
