//! Asks sidecars all the time, as an app would, and keeps every promise that they make.
//!
//! A promise is an interval of the boot clock in which an app may act as leader. An HTTP answer
//! promises from its arrival to `valid_for_ms` after the moment **before the request was sent**; a
//! file promises from when it was read to the time that it names. What is read only after its end
//! (the sidecar was frozen over the answer) promises nothing. Invariant S1 says that no two pods'
//! promises overlap: [`Recorder::assert_no_overlap`].

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use super::clock::{self, BootTime};
use super::http::Http;
use super::sidecar::{Shared, Sidecar};

/// Between two questions to one sidecar, unless a test says otherwise.
const PAUSE: Duration = Duration::from_millis(5);
/// A sidecar that takes longer over an answer was not running, or the machine was not.
const STALL: Duration = Duration::from_millis(100);

/// Watches until it is stopped or dropped.
pub struct Recorder {
    record: Arc<Mutex<Record>>,
    stopping: Arc<AtomicBool>,
    /// The connections in use: shutting them down ends a read that a frozen sidecar blocks.
    sockets: Arc<Mutex<Vec<TcpStream>>>,
    threads: Vec<JoinHandle<()>>,
    pause: Duration,
}

#[derive(Default)]
struct Record {
    promises: Vec<Promise>,
    turns: Vec<Turn>,
    answers: usize,
    /// Questions that took longer than [`STALL`]: when asked, when answered.
    stalls: Vec<(BootTime, BootTime)>,
    /// The apps that ended once, by their pods.
    apps: BTreeMap<String, App>,
}

/// An app that ended: what is told is told to nobody until another has begun.
enum App {
    Ended,
    BeganAt(BootTime),
}

/// In `[from, until)` an app in this pod may act as leader. Promises that touch are one.
#[derive(Clone, PartialEq)]
pub struct Promise {
    pub pod: String,
    pub token: u64,
    /// `http`, or the name of a file.
    pub by: &'static str,
    pub from: BootTime,
    pub until: BootTime,
}

/// A change of what one sidecar answers over HTTP, and the first answer of each.
#[derive(Clone)]
pub struct Turn {
    pub pod: String,
    pub leader: bool,
    pub token: Option<u64>,
    /// The how manieth process of the pod's sidecar answered.
    pub start: usize,
    /// `reason` of the answer, or `unreachable`.
    pub reason: String,
    /// Before the request was sent.
    pub asked: BootTime,
    /// After the answer had come.
    pub received: BootTime,
}

impl Recorder {
    /// Watches these sidecars, also over their restarts.
    pub fn start<'a>(sidecars: impl IntoIterator<Item = &'a Sidecar>) -> Self {
        Self::start_every(PAUSE, sidecars)
    }

    /// The same with another pause between two questions.
    pub fn start_every<'a>(pause: Duration, sidecars: impl IntoIterator<Item = &'a Sidecar>) -> Self {
        let mut recorder = Self {
            record: Arc::default(),
            stopping: Arc::default(),
            sockets: Arc::default(),
            threads: Vec::new(),
            pause,
        };
        for sidecar in sidecars {
            recorder.watch(sidecar);
        }
        recorder
    }

    /// Watches one more.
    pub fn watch(&mut self, sidecar: &Sidecar) {
        let watcher = Watcher {
            sidecar: sidecar.shared(),
            record: self.record.clone(),
            stopping: self.stopping.clone(),
            sockets: self.sockets.clone(),
            pause: self.pause,
        };
        let files = watcher.clone();
        self.threads.push(thread::spawn(move || watcher.ask()));
        self.threads.push(thread::spawn(move || files.read()));
    }

    /// The app of this pod ends here and now: what it was promised binds nobody any more.
    pub fn app_ended(&self, pod: &str) {
        let now = clock::now();
        let mut record = lock(&self.record);
        record.apps.insert(pod.into(), App::Ended);
        for promise in record.promises.iter_mut().filter(|promise| promise.pod == pod) {
            promise.until = promise.until.min(now);
        }
    }

    /// Another app has begun in this pod: what it asks from now on is told to it.
    pub fn app_began(&self, pod: &str) {
        lock(&self.record).apps.insert(pod.into(), App::BeganAt(clock::now()));
    }

    /// A promise that came to an app in another way than by a question or a file: an event of a stream, just read.
    pub fn heard(&self, pod: &str, by: &'static str, event: &Value) {
        let now = clock::now();
        if let Some((token, _, until)) = from_json(event) {
            lock(&self.record).promise(now, Promise { pod: pod.into(), token, by, from: now, until });
        }
    }

    /// The pod that leads now, and its token, as far as it was asked.
    pub fn leading(&self) -> Option<(String, u64)> {
        let now = clock::now();
        let record = lock(&self.record);
        let promise = record.promises.iter().filter(|promise| promise.until > now).max_by_key(|p| p.token)?;
        Some((promise.pod.clone(), promise.token))
    }

    /// Stops watching; the record stays.
    pub fn stop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        for socket in lock(&self.sockets).iter() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    /// Every promise so far, in the order of their beginnings.
    pub fn promises(&self) -> Vec<Promise> {
        let mut promises = lock(&self.record).promises.clone();
        promises.sort_by_key(|promise| promise.from);
        promises
    }

    /// What was answered when: for measuring hand-offs.
    pub fn transitions(&self) -> Vec<Turn> {
        let mut turns = lock(&self.record).turns.clone();
        turns.sort_by_key(|turn| turn.received);
        turns
    }

    /// How many HTTP answers there were.
    pub fn answers(&self) -> usize {
        lock(&self.record).answers
    }

    /// When sidecars took longer than a tenth of a second over an answer: asked, answered.
    pub fn stalls(&self) -> Vec<(BootTime, BootTime)> {
        lock(&self.record).stalls.clone()
    }

    /// The first turn at or after `since` in which a pod leads that `wanted` takes.
    pub fn first_leader(&self, since: BootTime, wanted: impl Fn(&str) -> bool) -> Option<Turn> {
        self.transitions().into_iter().find(|turn| turn.leader && turn.received >= since && wanted(&turn.pod))
    }

    /// Waits for [`Self::first_leader`].
    #[track_caller]
    pub fn wait_leader(&self, since: BootTime, within: Duration, wanted: impl Fn(&str) -> bool) -> Turn {
        clock::wait_for("a leader", within, || self.first_leader(since, &wanted))
    }

    /// S1: no two pods had a promise in force at once. S4: each term's token is greater than those
    /// of all terms before it. Something must have been promised at all.
    #[track_caller]
    pub fn assert_no_overlap(&self) {
        let promises = self.promises();
        assert!(!promises.is_empty(), "nothing was promised: nothing was tested");
        if let Some(fault) = fault(&promises) {
            let timeline: Vec<_> = self.transitions().iter().map(Turn::to_string).collect();
            panic!("{fault}\nanswers:\n{}", timeline.join("\n"));
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What is wrong with promises in the order of their beginnings, if anything.
pub fn fault(promises: &[Promise]) -> Option<String> {
    if let Some((first, second)) = overlaps(promises).first() {
        let overlap = first.until.min(second.until) - second.from;
        return Some(format!("S1: two pods were told to lead for {overlap:?}:\n{first}\n{second}"));
    }
    token_fault(promises)
}

/// The promises of two pods that were in force at once, of promises in the order of their beginnings.
pub fn overlaps(promises: &[Promise]) -> Vec<(&Promise, &Promise)> {
    let mut found = Vec::new();
    for (index, first) in promises.iter().enumerate() {
        let later = promises[index + 1..].iter();
        let beside = later.take_while(|second| second.from < first.until);
        found.extend(beside.filter(|second| second.pod != first.pod).map(|second| (first, second)));
    }
    found
}

/// What is wrong with the tokens of promises in the order of their beginnings.
pub fn token_fault(promises: &[Promise]) -> Option<String> {
    // Each term, by its first promise.
    let mut terms: Vec<&Promise> = Vec::new();
    for promise in promises {
        let same = |term: &&&Promise| term.token == promise.token && term.pod == promise.pod;
        if terms.iter().find(same).is_none() {
            if let Some(before) = terms.iter().find(|before| before.token >= promise.token) {
                return Some(format!("S4: the token did not grow from term to term:\n{before}\n{promise}"));
            }
            terms.push(promise);
        }
    }
    None
}

/// One sidecar, watched by two threads.
#[derive(Clone)]
struct Watcher {
    sidecar: Arc<Shared>,
    record: Arc<Mutex<Record>>,
    stopping: Arc<AtomicBool>,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
    pause: Duration,
}

impl Watcher {
    fn goes_on(&self) -> bool {
        !self.stopping.load(Ordering::SeqCst)
    }

    /// Asks over one connection as long as it holds.
    fn ask(&self) {
        while self.goes_on() {
            if let Some((mut http, start)) = self.connect() {
                while self.goes_on() && self.ask_once(&mut http, start) {
                    thread::sleep(self.pause);
                }
            }
            thread::sleep(self.pause);
        }
    }

    fn connect(&self) -> Option<(Http, usize)> {
        let asked = clock::now();
        let (address, start) = self.sidecar.listener_and_start("http")?;
        let connected = Http::connect(address).and_then(|http| Ok((http.socket()?, http)));
        let Ok((socket, http)) = connected else {
            self.unreachable(asked, start);
            return None;
        };
        let mut sockets = lock(&self.sockets);
        sockets.retain(|socket| socket.peer_addr().is_ok());
        sockets.push(socket);
        Some((http, start))
    }

    /// False when the connection is of no more use.
    fn ask_once(&self, http: &mut Http, start: usize) -> bool {
        let asked = clock::now();
        let answer = http.get("/v1/leader");
        let received = clock::now();
        if received - asked > STALL {
            lock(&self.record).stalls.push((asked, received));
        }
        let Ok(answer) = answer else {
            if self.goes_on() {
                self.unreachable(asked, start);
            }
            return false;
        };
        let Ok(status) = serde_json::from_slice::<Value>(&answer.body) else {
            return false;
        };
        // Its port may be another's by now, who was started since.
        if status["pod"] != self.sidecar.pod.as_str() {
            return false;
        }
        let leader = status["leader"] == true;
        let token = status["fencing_token"].as_u64();
        let mut record = lock(&self.record);
        record.answers += 1;
        record.turn(Turn {
            pod: self.sidecar.pod.clone(),
            leader,
            token,
            start,
            reason: status["reason"].as_str().unwrap_or_default().into(),
            asked,
            received,
        });
        if leader {
            let valid = status["valid_for_ms"].as_u64().unwrap_or_default();
            let promise = Promise {
                pod: self.sidecar.pod.clone(),
                token: token.unwrap_or_default(),
                by: "http",
                from: received,
                until: asked + Duration::from_millis(valid),
            };
            record.promise(asked, promise);
        }
        true
    }

    fn unreachable(&self, asked: BootTime, start: usize) {
        lock(&self.record).turn(Turn {
            pod: self.sidecar.pod.clone(),
            leader: false,
            token: None,
            start,
            reason: "unreachable".into(),
            asked,
            received: clock::now(),
        });
    }

    /// Reads both files as an app would.
    fn read(&self) {
        while self.goes_on() {
            for (file, parse) in [("status.env", from_env as Parse), ("status.json", from_json_text)] {
                let began = clock::now();
                let text = fs::read_to_string(self.sidecar.report.join(file));
                let now = clock::now();
                if let Some((token, from, until)) = text.ok().and_then(|text| parse(&text))
                    && from <= now
                {
                    let promise = Promise { pod: self.sidecar.pod.clone(), token, by: file, from: now, until };
                    lock(&self.record).promise(began, promise);
                }
            }
            thread::sleep(self.pause);
        }
    }
}

/// A file's promise: token, from, until. Nothing when it does not say leader.
type Parse = fn(&str) -> Option<(u64, BootTime, BootTime)>;

/// Its times are hundredths of a second of /proc/uptime, which is the boot clock cut off there: a
/// reader leads while `uptime < until`, and so until exactly then.
fn from_env(text: &str) -> Option<(u64, BootTime, BootTime)> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let values: BTreeMap<_, _> = lines.collect();
    let number = |name| values.get(name)?.parse::<u64>().ok();
    let time = |name| Some(Duration::from_millis(number(name)? * 10));
    (number("LEASEHOLD_LEADER") == Some(1)).then_some(())?;
    Some((number("LEASEHOLD_TOKEN")?, time("LEASEHOLD_VALID_FROM")?, time("LEASEHOLD_VALID_UNTIL")?))
}

fn from_json_text(text: &str) -> Option<(u64, BootTime, BootTime)> {
    from_json(&serde_json::from_str(text).ok()?)
}

fn from_json(status: &Value) -> Option<(u64, BootTime, BootTime)> {
    (status["leader"] == true).then_some(())?;
    let until = status["valid_until_uptime"].as_f64()?;
    let until = Duration::try_from_secs_f64(until).ok()?;
    Some((status["fencing_token"].as_u64()?, Duration::ZERO, until))
}

impl Record {
    fn turn(&mut self, turn: Turn) {
        let mut earlier = self.turns.iter().rev();
        let last = earlier.find(|earlier| earlier.pod == turn.pod);
        if last.is_none_or(|last| last.leader != turn.leader || last.token != turn.token) {
            self.turns.push(turn);
        }
    }

    /// `asked`: when who is promised this began to ask.
    fn promise(&mut self, asked: BootTime, promise: Promise) {
        let to_nobody = match self.apps.get(&promise.pod) {
            Some(App::Ended) => true,
            Some(App::BeganAt(at)) => asked < *at,
            None => false,
        };
        // Read late, it promised nothing to anyone.
        if promise.from >= promise.until || to_nobody {
            return;
        }
        let mut earlier = self.promises.iter_mut().rev();
        let last = earlier.find(|last| (&last.pod, last.token, last.by) == (&promise.pod, promise.token, promise.by));
        match last {
            Some(last) if promise.from <= last.until => last.until = last.until.max(promise.until),
            _ => self.promises.push(promise),
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, token, by, .. } = self;
        let (from, until) = (self.from.as_secs_f64(), self.until.as_secs_f64());
        write!(f, "[{from:.4}, {until:.4}) {pod}, token {token}, by {by}")
    }
}

impl fmt::Debug for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.received.as_secs_f64();
        let leads = if self.leader { "leads" } else { "does not lead" };
        write!(f, "{at:.4} {} {leads}", self.pod)?;
        match self.token {
            Some(token) => write!(f, ", token {token}")?,
            None => write!(f, ": {}", self.reason)?,
        }
        let took = (self.received - self.asked).as_secs_f64() * 1000.0;
        write!(f, " (answered in {took:.1} ms)")
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
