//! What a run came to: printed for people, and judged.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::contest::Contest;
use crate::fault::{Deck, Fault};
use crate::journal::{Entry, Gap, gaps, measure};
use crate::store::Writes;
use crate::support::clock::{self, BootTime};
use crate::support::recorder::{Promise, Turn, overlaps, token_fault};
use crate::world::World;

/// What a sidecar may log: so many lines for each fault that befell its lease, whichever pod of it, and some at first.
const LOG_LINES_A_FAULT: usize = 3;
const FIRST_LOG_LINES: usize = 20;
/// How long after an edit that A3 speaks of its own consequences last, beyond the lease duration.
const AFTERMATH: Duration = Duration::from_secs(2);

/// One lease's figures.
struct Findings {
    name: String,
    duration: Duration,
    pods: usize,
    terms: usize,
    hand_overs: usize,
    promises: usize,
    answers: usize,
    overlaps: usize,
    /// Beside an edit, on a machine that stalled meanwhile: A3 did not hold.
    excused: usize,
    writes: Writes,
    longest: Gap,
    least_excusable: Gap,
    bound: Duration,
    wrongs: Vec<String>,
}

/// What is wrong so far.
pub fn wrongs(world: &World) -> Vec<String> {
    let findings = look(world, &world.journal.all(), clock::now());
    world.wrongs().into_iter().chain(findings.into_iter().flat_map(|finding| finding.wrongs)).collect()
}

fn look(world: &World, entries: &[Entry], until: BootTime) -> Vec<Findings> {
    (0..world.contests.len()).map(|lease| Findings::of(world, lease, entries, until)).collect()
}

/// Prints and judges the whole; gives what is wrong. `all_kinds`: each kind of fault must have occurred.
pub fn judge(world: &World, all_kinds: bool) -> Vec<String> {
    let (entries, until) = (world.journal.all(), clock::now());
    let findings = look(world, &entries, until);
    let answers_lost: usize = world.contests.iter().flat_map(|contest| &contest.candidates).map(lost).sum();
    let mut wrongs = world.wrongs();
    println!("faults: {}, and {answers_lost} answers to writes lost", entries.len());
    println!("{}", world.journal.summary());
    for finding in &findings {
        println!("{finding}");
        wrongs.extend(finding.wrongs.iter().cloned());
    }
    wrongs.extend(judge_logs(world, &entries, until));
    if all_kinds {
        let counts = world.journal.counts();
        let never = Fault::ALL.iter().filter(|fault| counts[fault] == 0 && fault.deck() != Deck::Machine);
        wrongs.extend(never.map(|fault| format!("a kind of fault never occurred: {}", fault.text())));
        if answers_lost == 0 {
            wrongs.push("no answer to a write was lost".into());
        }
        if findings.iter().all(|finding| finding.writes.refused == 0) {
            wrongs.push("no write with an old token was ever refused: the store was not put to the test".into());
        }
    }
    wrongs
}

fn lost(candidate: &crate::candidate::Candidate) -> usize {
    candidate.try_link().map_or(0, |link| link.proxy.answers_lost())
}

/// Panics, and lines that come too often.
fn judge_logs(world: &World, entries: &[Entry], until: BootTime) -> Vec<String> {
    let minutes = (until - world.journal.began).as_secs_f64() / 60.0;
    let mut wrongs = Vec::new();
    let (mut most, mut most_a_fault) = (0, 0.0f64);
    for (lease, contest) in world.contests.iter().enumerate() {
        let faults = entries.iter().filter(|entry| entry.lease.is_none_or(|of| of == lease)).count();
        for candidate in &contest.candidates {
            let log = candidate.shared.log();
            let a_fault = log.len().saturating_sub(FIRST_LOG_LINES) as f64 / faults.max(1) as f64;
            (most, most_a_fault) = (most.max(log.len()), most_a_fault.max(a_fault));
            if log.len() > FIRST_LOG_LINES + LOG_LINES_A_FAULT * faults {
                wrongs.push(format!("{} wrote {} log lines over {faults} faults", candidate.name, log.len()));
            }
            let panics = log.iter().filter(|line| line.contains("panicked"));
            wrongs.extend(panics.map(|line| format!("{} panicked: {line}", candidate.name)));
        }
    }
    let a_minute = most as f64 / minutes;
    println!(
        "log lines of one sidecar: at most {a_minute:.1} a minute; at most {most_a_fault:.2} a fault of its lease (bound {LOG_LINES_A_FAULT})"
    );
    wrongs
}

impl Findings {
    fn of(world: &World, lease: usize, entries: &[Entry], until: BootTime) -> Self {
        let contest = &world.contests[lease];
        let promises = contest.recorder.promises();
        let writes = contest.store.writes();
        let pods = contest.candidates.len();
        let mut wrongs: Vec<String> =
            writes.breaches.iter().map(|breach| format!("S1, by the store: {breach}")).collect();
        let (mut overlapping, mut excused) = (0, 0);
        for (first, second) in overlaps(&promises) {
            if is_excused(contest, lease, entries, second.from) {
                excused += 1;
                continue;
            }
            overlapping += 1;
            wrongs.push(tell_overlap(first, second, &promises, entries, lease));
        }
        wrongs.extend(token_fault(&promises));
        wrongs.extend(turn_faults(&contest.recorder.transitions()));
        let gaps = gaps(&promises, world.journal.began, until);
        let measured: Vec<_> = gaps.into_iter().map(|gap| measure(gap, entries, lease, pods)).collect();
        let longest = measured.iter().copied().max_by_key(|gap| gap.length).unwrap_or_default();
        let least_excusable = measured.iter().copied().max_by_key(|gap| gap.undisturbed).unwrap_or_default();
        let bound = contest.times.bound();
        if least_excusable.undisturbed > bound {
            let (from, alone) = (least_excusable.from.as_secs_f64(), least_excusable.undisturbed);
            wrongs.push(format!(
                "lease {}: without a leader from {from:.3}, {alone:.1?} of it undisturbed; the bound is {bound:?}\n{}",
                contest.name,
                tell_entries(entries, lease, least_excusable.from, least_excusable.from + least_excusable.length)
            ));
        }
        let terms = terms(&promises);
        let hand_overs = terms.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
        Self {
            name: contest.name.clone(),
            duration: contest.times.duration(),
            pods,
            terms: terms.len(),
            hand_overs,
            promises: promises.len(),
            answers: contest.recorder.answers(),
            overlaps: overlapping,
            excused,
            writes,
            longest,
            least_excusable,
            bound,
            wrongs,
        }
    }
}

/// Who led, under which token, in order.
fn terms(promises: &[Promise]) -> Vec<(String, u64)> {
    let mut seen = BTreeSet::new();
    let all = promises.iter().map(|promise| (promise.pod.clone(), promise.token));
    all.filter(|term| seen.insert(term.clone())).collect()
}

/// A3 forbids some edits where the leader stalls for longer than 250 ms: a busy machine's doing, not the program's.
fn is_excused(contest: &Contest, lease: usize, entries: &[Entry], at: BootTime) -> bool {
    let edits = entries.iter().filter(|entry| entry.lease == Some(lease) && entry.fault.deck() == Deck::Surgery);
    let mut recent = edits.filter(|edit| edit.from <= at && at < edit.from + contest.times.duration() + AFTERMATH);
    let stalls = contest.recorder.stalls();
    let slow = entries.iter().filter(|entry| entry.fault == Fault::Slow);
    let stalls: Vec<_> = stalls.into_iter().chain(slow.map(|entry| (entry.from, entry.until.unwrap_or(at)))).collect();
    recent.any(|edit| stalls.iter().any(|(asked, received)| *asked < at && *received > edit.from))
}

/// S4 and S8, by the processes' own answers: a token is one process's, and one that it stopped leading under is over.
fn turn_faults(turns: &[Turn]) -> Vec<String> {
    let mut wrongs = Vec::new();
    for (index, turn) in turns.iter().enumerate().filter(|(_, turn)| turn.leader) {
        let before = &turns[..index];
        if let Some(other) = before.iter().find(|earlier| {
            earlier.leader && earlier.token == turn.token && (&earlier.pod, earlier.start) != (&turn.pod, turn.start)
        }) {
            wrongs.push(format!("S4: one token, two processes:\n{other}\n{turn}"));
        }
        let of_process = before.iter().filter(|earlier| (&earlier.pod, earlier.start) == (&turn.pod, turn.start));
        let since_it_led = of_process.skip_while(|earlier| !(earlier.leader && earlier.token == turn.token));
        if since_it_led.clone().any(|earlier| !earlier.leader && earlier.reason != "unreachable") {
            wrongs.push(format!("S8: a term came back: {turn}"));
        }
    }
    wrongs
}

fn tell_overlap(first: &Promise, second: &Promise, promises: &[Promise], entries: &[Entry], lease: usize) -> String {
    let overlap = first.until.min(second.until) - second.from;
    let (from, until) = (second.from - Duration::from_secs(10), second.from + Duration::from_secs(2));
    let near: Vec<_> = promises
        .iter()
        .filter(|promise| promise.until > from && promise.from < until)
        .map(Promise::to_string)
        .collect();
    let faults = tell_entries(entries, lease, from, until);
    format!(
        "S1: two pods were told to lead for {overlap:?}:\n{first}\n{second}\npromises near it:\n{}\nfaults near it:\n{faults}",
        near.join("\n")
    )
}

fn tell_entries(entries: &[Entry], lease: usize, from: BootTime, until: BootTime) -> String {
    let of_lease = entries.iter().filter(|entry| entry.lease.is_none_or(|of| of == lease));
    let near = of_lease.filter(|entry| entry.from <= until && entry.until.is_none_or(|end| end >= from));
    near.map(Entry::to_string).collect::<Vec<_>>().join("\n")
}

/// Where a failed run leaves the fault log and the sidecars' logs.
pub fn keep_logs(world: &World, name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("makes a folder for logs");
    let faults: Vec<_> = world.journal.all().iter().map(Entry::to_string).collect();
    fs::write(folder.join("faults"), faults.join("\n")).expect("writes the fault log");
    for contest in &world.contests {
        let promises: Vec<_> = contest.recorder.promises().iter().map(Promise::to_string).collect();
        let turns: Vec<_> = contest.recorder.transitions().iter().map(Turn::to_string).collect();
        let text = format!("promises:\n{}\nanswers:\n{}\n", promises.join("\n"), turns.join("\n"));
        fs::write(folder.join(format!("lease-{}", contest.name)), text).expect("writes promises");
        for candidate in &contest.candidates {
            let log = candidate.shared.log().join("\n");
            fs::write(folder.join(format!("{}.log", candidate.name)), log).expect("writes a sidecar's log");
        }
    }
    folder
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, duration, pods, terms, hand_overs, promises, answers, overlaps, excused, writes, .. } = self;
        writeln!(
            f,
            "lease {name} (D {duration:?}, {pods} pods): {terms} terms, {hand_overs} hand-overs, {promises} promises in {answers} answers and the files, overlaps: {overlaps}"
        )?;
        if *excused > 0 {
            writeln!(f, "  overlaps beside an edit while the machine stalled (A3 broken): {excused}")?;
        }
        let Writes { accepted, accepted_late, refused, breaches, .. } = writes;
        if *accepted > 0 {
            writeln!(
                f,
                "  writes accepted: {accepted} ({accepted_late} of them late), refused for an old token: {refused}, refused in time: {}",
                breaches.len(),
            )?;
        }
        let (longest, alone) = (self.longest.length, self.least_excusable.undisturbed);
        write!(f, "  longest time without a leader: {longest:.1?}; undisturbed: {alone:.1?} (bound {:.1?})", self.bound)
    }
}
