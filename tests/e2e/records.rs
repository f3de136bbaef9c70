//! What the recorders of a namespace wrote down, and what follows from it.
//!
//! Each process of an app has a file, and a lock on it while it lives. What a process was promised binds nobody after
//! its end: the last line of one that ended by itself says when that was. One that was killed is taken to have ended
//! with its last line, which is at most one question's pause too early.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::cluster::wait_for;
use crate::support::clock::BootTime;
use crate::support::recorder::{Promise, fault};

/// The files of one namespace, read as they grow.
pub struct Records {
    folder: PathBuf,
    processes: Mutex<BTreeMap<PathBuf, Process>>,
}

/// One process of an app.
#[derive(Clone, Default)]
struct Process {
    /// How much of its file was read.
    read: u64,
    pod: String,
    /// Of the pod: a StatefulSet makes others of the same name.
    uid: String,
    promises: Vec<Promise>,
    answers: Vec<Said>,
    /// The time of its last line.
    last: BootTime,
    told_to_end: Option<BootTime>,
    ended: bool,
}

/// A change of what a process was told, by one way of asking.
#[derive(Clone, Debug)]
pub struct Said {
    pub pod: String,
    pub via: String,
    pub asked: BootTime,
    pub answered: BootTime,
    /// The reason of a no; nothing for a yes.
    pub reason: Option<String>,
}

/// From a pod's first promise under a token to the end of its last one under it.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    pub pod: String,
    pub token: u64,
    pub from: BootTime,
    pub until: BootTime,
}

impl Records {
    /// The records that are written to this folder.
    pub fn of(folder: PathBuf) -> Self {
        Self { folder, processes: Mutex::default() }
    }

    /// Every promise so far in the order of their beginnings; a pod is called `name/uid`.
    pub fn promises(&self) -> Vec<Promise> {
        let mut promises: Vec<_> = self.read().iter().flat_map(Process::in_force).collect();
        promises.sort_by_key(|promise| promise.from);
        promises
    }

    /// The changes of what all were told, in order.
    pub fn said(&self) -> Vec<Said> {
        let mut said: Vec<_> = self.read().into_iter().flat_map(|process| process.answers).collect();
        said.sort_by_key(|said| said.answered);
        said
    }

    /// The terms in the order of their beginnings.
    pub fn terms(&self) -> Vec<Term> {
        terms(&self.promises())
    }

    /// How often the lead went from one pod to another.
    pub fn moves(&self) -> usize {
        self.terms().windows(2).filter(|pair| pair[0].pod != pair[1].pod).count()
    }

    /// Waits until a pod that `wanted` takes (it is given the name) has a promise that was made after `since`.
    #[track_caller]
    pub fn wait_leader(&self, since: BootTime, within: Duration, wanted: impl Fn(&str) -> bool) -> Term {
        wait_for("a leader", within, || {
            let promises = self.promises();
            let promise =
                promises.into_iter().find(|promise| promise.until > since && wanted(name_of(&promise.pod)))?;
            Some(Term { pod: promise.pod, token: promise.token, from: promise.from, until: promise.until })
        })
    }

    /// The longest time in which no promise was in force, between `since` and the last promise that is known.
    pub fn longest_without(&self, since: BootTime) -> Duration {
        longest_without(&self.promises(), since)
    }

    /// What breaks S1 or S4 in everything that was promised. It is one if nothing was: then nothing was tested.
    pub fn fault(&self) -> Option<String> {
        let promises = self.promises();
        if promises.is_empty() {
            return Some(format!("nothing was promised in {}", self.folder.display()));
        }
        let fault = fault(&promises)?;
        let worst =
            worst_overlap(&promises).map(|(overlap, one, other)| format!("the worst: {overlap:?}\n{one}\n{other}"));
        Some(format!("{fault}\n{}\nterms:\n{}", worst.unwrap_or_default(), self.timeline()))
    }

    /// When an app was told to end, as its pod's deletion does.
    pub fn told_to_end(&self, pod: &str) -> Option<BootTime> {
        let processes = self.read();
        let mut of_pod = processes.iter().filter(|process| process.pod == pod);
        of_pod.find_map(|process| process.told_to_end)
    }

    /// Takes a container's log, all of it so far, as the record of one process. It has no lock: nothing is known of
    /// its end.
    pub fn keep_log(&self, container: &str, log: &str) {
        fs::write(self.folder.join(format!("{container}.log")), log).expect("the folder of records");
    }

    /// The terms, one a line, for people.
    pub fn timeline(&self) -> String {
        self.terms().iter().map(|term| format!("  {term}\n")).collect()
    }

    /// A copy of what is known after another look at the files.
    fn read(&self) -> Vec<Process> {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for path in files.map(|entry| entry.path()).filter(|path| path.is_file()) {
            let process = processes.entry(path.clone()).or_default();
            if !process.ended {
                process.read_on(&path);
            }
        }
        processes.values().cloned().collect()
    }
}

impl Process {
    fn read_on(&mut self, path: &Path) {
        let mut file = File::open(path).expect("a record that was listed");
        // Before the reading: what it wrote until its end is then read.
        let ended = flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
        let mut text = String::new();
        file.seek(SeekFrom::Start(self.read)).expect("a file");
        file.read_to_string(&mut text).expect("a record is text");
        // The last line may be half written.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        // A log has also what was written for people.
        for line in text[..whole].lines().filter(|line| line.starts_with('{')) {
            let line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", path.display()));
            self.take(&line);
        }
        // A file is there for an instant before it is locked: then it has no line.
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        self.ended = ended && self.read > 0 && !is_log;
    }

    fn take(&mut self, line: &Value) {
        let time = |key: &str| line[key].as_u64().map(Duration::from_nanos);
        self.pod = line["pod"].as_str().unwrap_or_default().into();
        if let Some(uid) = line["uid"].as_str() {
            self.uid = uid.get(..8).unwrap_or(uid).into();
        }
        let latest = ["started", "answered", "at", "ended"].into_iter().find_map(time);
        self.last = self.last.max(latest.unwrap_or_default());
        if line["told"] == "term" {
            self.told_to_end = time("at");
        }
        let (Some(via), Some(asked), Some(answered)) = (line["via"].as_str(), time("asked"), time("answered")) else {
            return;
        };
        let leader = line["leader"] == true;
        if leader {
            let until = time("until").expect("a promise has an end");
            self.promise(line["token"].as_u64().expect("a promise has a token"), via, answered, until);
        }
        let reason = (!leader).then(|| line["reason"].as_str().unwrap_or_default().to_owned());
        let last = self.answers.iter().rev().find(|last| last.via == via);
        if last.is_none_or(|last| last.reason != reason) {
            self.answers.push(Said { pod: self.pod.clone(), via: via.into(), asked, answered, reason });
        }
    }

    /// Adds it to an earlier one that it touches, or as one more.
    fn promise(&mut self, token: u64, via: &str, from: BootTime, until: BootTime) {
        let by = match via {
            "http" => "http",
            "json" => "status.json",
            _ => "status.env",
        };
        let mut earlier = self.promises.iter_mut().rev();
        match earlier.find(|last| (last.token, last.by) == (token, by)) {
            Some(last) if from <= last.until => last.until = last.until.max(until),
            _ => self.promises.push(Promise { pod: format!("{}/{}", self.pod, self.uid), token, by, from, until }),
        }
    }

    /// Its promises, up to its end.
    fn in_force(&self) -> Vec<Promise> {
        let mut promises = self.promises.clone();
        if self.ended {
            promises.iter_mut().for_each(|promise| promise.until = promise.until.min(self.last));
        }
        promises
    }
}

/// The name in `name/uid`.
pub fn name_of(pod: &str) -> &str {
    pod.split('/').next().unwrap_or(pod)
}

impl Term {
    /// The pod's name.
    pub fn pod_name(&self) -> &str {
        name_of(&self.pod)
    }
}

impl std::fmt::Display for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, until) = (self.from.as_secs_f64(), self.until.as_secs_f64());
        write!(f, "[{from:.3}, {until:.3}) {}, token {}", self.pod, self.token)
    }
}

fn terms(promises: &[Promise]) -> Vec<Term> {
    let mut terms: Vec<Term> = Vec::new();
    for promise in promises {
        match terms.iter_mut().find(|term| (&term.pod, term.token) == (&promise.pod, promise.token)) {
            Some(term) => term.until = term.until.max(promise.until),
            None => terms.push(Term {
                pod: promise.pod.clone(),
                token: promise.token,
                from: promise.from,
                until: promise.until,
            }),
        }
    }
    terms
}

/// The longest time in which two pods had a promise each, and which two promises they were.
fn worst_overlap(promises: &[Promise]) -> Option<(Duration, &Promise, &Promise)> {
    let pairs = promises.iter().enumerate().flat_map(|(index, one)| {
        let later = promises[index + 1..].iter().take_while(|other| other.from < one.until);
        later
            .filter(|other| other.pod != one.pod)
            .map(move |other| (one.until.min(other.until) - other.from, one, other))
    });
    pairs.max_by_key(|(overlap, ..)| *overlap)
}

fn longest_without(promises: &[Promise], since: BootTime) -> Duration {
    let (mut longest, mut covered) = (Duration::ZERO, since);
    for promise in promises.iter().filter(|promise| promise.until > since) {
        longest = longest.max(promise.from.saturating_sub(covered));
        covered = covered.max(promise.until);
    }
    longest
}

// --- The check itself is checked -----------------------------------------------------------------------------------

/// A process: its pod, its promise (token, from, until, in nanoseconds), and when it ended by itself.
type Recorded = (&'static str, (u64, u64, u64), Option<u64>);

/// Writes what these processes would, and gives what the records make of it.
fn records_of(processes: &[Recorded]) -> (tempfile::TempDir, Records) {
    let folder = tempfile::tempdir().expect("a folder");
    for (pod, (token, from, until), ended) in processes {
        let mut text = format!("{{\"pod\": {pod:?}, \"uid\": \"1\", \"started\": 1}}\n");
        text += &format!(
            "{{\"pod\": {pod:?}, \"via\": \"http\", \"asked\": {from}, \"answered\": {from}, \"leader\": true, \
             \"token\": {token}, \"until\": {until}}}\n"
        );
        if let Some(ended) = ended {
            text += &format!("{{\"pod\": {pod:?}, \"ended\": {ended}}}\n");
        }
        fs::write(folder.path().join(pod), text).expect("a file");
    }
    let records = Records::of(folder.path().into());
    (folder, records)
}

#[test]
fn two_promises_at_once_are_found() {
    let processes = [("a", (1, 100, 200), None), ("b", (2, 190, 250), None), ("c", (3, 220, 400), None)];
    let (folder, records) = records_of(&processes);
    // All live: their files are locked.
    let open = |(name, ..): &Recorded| File::open(folder.path().join(name)).expect("a record");
    let files: Vec<_> = processes.iter().map(open).collect();
    for file in &files {
        flock(file, FlockOperation::LockExclusive).expect("a lock");
    }
    let fault = records.fault().expect("overlaps of 10 and 30 ns");
    assert!(fault.contains("S1") && fault.contains("the worst: 30ns"), "{fault}");
}

#[test]
fn a_killed_process_ends_with_its_last_line() {
    let (_folder, records) = records_of(&[("a", (1, 100, 200), None), ("b", (2, 150, 250), Some(240))]);
    assert_eq!(records.fault(), None);
}

#[test]
fn a_smaller_token_of_a_later_term_is_found() {
    let (_folder, records) = records_of(&[("a", (7, 100, 200), Some(200)), ("b", (6, 300, 400), Some(400))]);
    let fault = records.fault().expect("the token fell");
    assert!(fault.contains("S4"), "{fault}");
}

#[test]
fn a_promise_ends_with_its_process() {
    let (_folder, records) = records_of(&[("a", (1, 100, 200), Some(140)), ("b", (2, 150, 250), Some(240))]);
    assert_eq!(records.fault(), None);
    let ends: Vec<_> = records.terms().iter().map(|term| term.until.as_nanos()).collect();
    assert_eq!(ends, [140, 240]);
    assert_eq!(records.moves(), 1);
    assert_eq!(records.longest_without(Duration::from_nanos(100)), Duration::from_nanos(10));
}
