//! What befell whom, when; and how long, by that, a lease may be without a leader.
//!
//! A time without a leader is told apart: while everybody is hindered, or a write may land that its writer does not
//! hear of, nobody owes anything. The rest is undisturbed for whoever is free, from the beginning of one fault to that of
//! the next: in each such stretch somebody must lead within a lease duration and what a busy machine adds.

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

impl Entry {
    /// Labels, step-downs and the like make nobody wait for longer.
    fn disturbs(&self) -> bool {
        self.fault.effect() != Effect::Harmless || self.fault.deck() == Deck::Surgery
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
    let of_lease: Vec<&Entry> = of_lease.filter(|entry| entry.disturbs()).collect();
    let free = (0..candidates).map(|candidate| longest_free(&of_lease, candidate, from, until));
    Gap { from, length: until - from, undisturbed: free.max().unwrap_or_default() }
}

/// The longest time within a gap in which this candidate could have waited the lease out, and taken it.
fn longest_free(entries: &[&Entry], candidate: usize, from: BootTime, until: BootTime) -> Duration {
    let befalls = |entry: &Entry| entry.candidate.is_none_or(|of| of == candidate);
    let hinders = |entry: &Entry| match entry.fault.effect() {
        Effect::Harmless => false,
        Effect::Hinders => befalls(entry),
        Effect::Muddles => true,
    };
    // With any fault's beginning the wait may begin anew: whoever it befalls may just have taken the lease.
    let mut bounds = vec![from, until];
    for entry in entries {
        bounds.push(entry.from);
        if hinders(entry) || entry.fault.deck() == Deck::Surgery {
            bounds.push(entry.until.unwrap_or(until));
        }
    }
    bounds.retain(|at| (from..=until).contains(at));
    bounds.sort();
    let hindered = |stretch: &[BootTime]| {
        let during = |entry: &Entry| entry.from <= stretch[0] && entry.until.is_none_or(|end| end >= stretch[1]);
        entries.iter().any(|entry| during(entry) && hinders(entry))
    };
    let free = bounds.windows(2).filter(|stretch| !hindered(stretch));
    free.map(|stretch| stretch[1] - stretch[0]).max().unwrap_or_default()
}

#[test]
fn a_gap_is_measured_by_the_candidate_that_was_free_for_longest() {
    let at = Duration::from_secs;
    let entry = |fault, candidate, from, until| Entry {
        fault,
        lease: Some(0),
        candidate,
        what: String::new(),
        from: at(from),
        until: Some(at(until)),
    };
    let undisturbed = |entries: &[Entry]| measure((at(10), at(30)), entries, 0, 2).undisturbed.as_secs();
    assert_eq!(undisturbed(&[]), 20);
    // What only moves the Lease's version, or an app that nobody asks for, is no excuse.
    let harmless = [Fault::Label, Fault::StepDown, Fault::Switch, Fault::KillSilentApp, Fault::Compact];
    assert_eq!(undisturbed(&harmless.map(|fault| entry(fault, Some(0), 20, 20))), 20);
    // Candidate 1 is free from the moment at which something befalls candidate 0, however long that lasts.
    assert_eq!(undisturbed(&[entry(Fault::Freeze, Some(0), 12, 28)]), 18);
    assert_eq!(undisturbed(&[entry(Fault::Freeze, Some(0), 5, 22), entry(Fault::Cut, Some(0), 24, 26)]), 14);
    // Each is hindered in turn.
    assert_eq!(undisturbed(&[entry(Fault::Freeze, Some(0), 5, 22), entry(Fault::Cut, Some(1), 18, 40)]), 8);
    // Nobody can be sure, or is able to.
    assert_eq!(undisturbed(&[entry(Fault::LoseAnswers, Some(0), 12, 28)]), 2);
    assert_eq!(undisturbed(&[entry(Fault::KillEtcd, None, 12, 28)]), 2);
    // An edit that makes everybody wait anew.
    assert_eq!(undisturbed(&[entry(Fault::Empty, None, 18, 18)]), 12);
    // Another lease's.
    assert_eq!(measure((at(10), at(30)), &[entry(Fault::KillEtcd, None, 12, 28)], 1, 2).undisturbed, at(20));
}
