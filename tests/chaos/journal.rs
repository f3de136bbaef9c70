//! What befell whom, when; and how long, by that, a lease may be without a leader.
//!
//! A time without a leader is told apart: while everybody is hindered, or a write may land that its writer does not
//! hear of, nobody owes anything. The rest is undisturbed, from one fault's beginning or end to the next: in each such
//! stretch a candidate that is free throughout must lead within a lease duration and what a busy machine adds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fault::{Deck, Effect, Fault};
use crate::support::clock::{self, BootTime};
use crate::support::recorder::Promise;

pub struct Journal {
    pub began: BootTime,
    entries: Mutex<Vec<Entry>>,
}

/// One fault.
#[derive(Clone)]
pub struct Entry {
    pub fault: Fault,
    /// None: all leases.
    pub lease: Option<usize>,
    /// None: all candidates.
    pub candidate: Option<usize>,
    what: String,
    pub from: BootTime,
    /// None: it goes on.
    pub until: Option<BootTime>,
}

/// Which entry to end.
pub struct Open(usize);

impl Journal {
    pub fn new() -> Self {
        Self { began: clock::now(), entries: Mutex::default() }
    }

    pub fn begin(&self, fault: Fault, lease: Option<usize>, candidate: Option<usize>, what: String) -> Open {
        let mut entries = self.entries();
        entries.push(Entry { fault, lease, candidate, what, from: clock::now(), until: None });
        Open(entries.len() - 1)
    }

    pub fn end(&self, open: Open) {
        self.entries()[open.0].until = Some(clock::now());
    }

    /// A fault of a moment.
    pub fn note(&self, fault: Fault, lease: Option<usize>, candidate: Option<usize>, what: String) {
        let open = self.begin(fault, lease, candidate, what);
        self.end(open);
    }

    /// The control plane was slow; what was done to it meanwhile explains it otherwise.
    pub fn found_slow(&self, what: String, from: BootTime, until: BootTime) {
        let mut entries = self.entries();
        let mut done_to_it = entries.iter().filter(|entry| entry.fault.deck() == Deck::Control);
        if !done_to_it.any(|entry| entry.from < until && entry.until.is_none_or(|end| end > from)) {
            let (fault, until) = (Fault::Slow, Some(until));
            entries.push(Entry { fault, lease: None, candidate: None, what, from, until });
        }
    }

    /// When the last of this kind was over; the run's beginning if there was none.
    pub fn last_end(&self, fault: Fault) -> BootTime {
        let entries = self.entries();
        let ends = entries.iter().filter(|entry| entry.fault == fault).filter_map(|entry| entry.until);
        ends.max().unwrap_or(self.began)
    }

    pub fn all(&self) -> Vec<Entry> {
        self.entries().clone()
    }

    /// How often each kind occurred.
    pub fn counts(&self) -> BTreeMap<Fault, usize> {
        let mut counts: BTreeMap<_, _> = Fault::ALL.iter().map(|fault| (*fault, 0)).collect();
        for entry in self.entries().iter() {
            *counts.entry(entry.fault).or_default() += 1;
        }
        counts
    }

    /// The counts for people.
    pub fn summary(&self) -> String {
        let counts = self.counts();
        let line = |deck: Deck| {
            let of_deck = deck.faults().map(|fault| format!("{} {}", fault.text(), counts[&fault]));
            format!("  {}: {}", deck.text(), of_deck.collect::<Vec<_>>().join(", "))
        };
        Deck::ALL.map(line).join("\n")
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from.as_secs_f64();
        match self.until {
            Some(until) => write!(f, "[{from:.3}, {:.3}]", until.as_secs_f64())?,
            None => write!(f, "[{from:.3}, ...]")?,
        }
        write!(f, " {}: {}", self.what, self.fault.text())
    }
}

/// A time without a leader, and the longest stretch of it that nothing disturbed.
#[derive(Clone, Copy, Default)]
pub struct Gap {
    pub from: BootTime,
    pub length: Duration,
    pub undisturbed: Duration,
}

/// The times in `[from, until)` in which nobody was told to lead, by promises in the order of their beginnings.
pub fn gaps(promises: &[Promise], from: BootTime, until: BootTime) -> Vec<(BootTime, BootTime)> {
    let (mut gaps, mut led_until) = (Vec::new(), from);
    for promise in promises {
        if promise.from > led_until {
            gaps.push((led_until, promise.from));
        }
        led_until = led_until.max(promise.until);
    }
    if led_until < until {
        gaps.push((led_until, until));
    }
    gaps
}

/// A gap of one lease of so many candidates, measured against what befell it.
pub fn measure(gap: (BootTime, BootTime), entries: &[Entry], lease: usize, candidates: usize) -> Gap {
    let (from, until) = gap;
    let of_lease = entries.iter().filter(|entry| entry.lease.is_none_or(|of| of == lease));
    let of_lease: Vec<&Entry> = of_lease.collect();
    let mut bounds: Vec<BootTime> =
        of_lease.iter().flat_map(|entry| [entry.from, entry.until.unwrap_or(until)]).collect();
    bounds.extend([from, until]);
    bounds.retain(|at| (from..=until).contains(at));
    bounds.sort();
    let stretches = bounds.windows(2).filter(|stretch| !disturbed(&of_lease, stretch[0], stretch[1], candidates));
    let undisturbed = stretches.map(|stretch| stretch[1] - stretch[0]).max().unwrap_or_default();
    Gap { from, length: until - from, undisturbed }
}

/// Between two moments with no fault's beginning or end in between.
fn disturbed(entries: &[&Entry], from: BootTime, until: BootTime, candidates: usize) -> bool {
    let during = entries.iter().filter(|entry| entry.from <= from && entry.until.is_none_or(|end| end >= until));
    let mut free = vec![true; candidates];
    for entry in during {
        match (entry.fault.effect(), entry.candidate) {
            (Effect::Harmless, _) => {}
            (Effect::Muddles, _) | (Effect::Hinders, None) => return true,
            (Effect::Hinders, Some(candidate)) => free[candidate] = false,
        }
    }
    !free.contains(&true)
}
