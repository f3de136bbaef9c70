//! The invariants of the design (section 3), judged against true time and by what was really committed and really
//! promised, none of which a candidate knows.
//!
//! A promise is in force from the answer (or the writing of the file) that made it until its end on the clock of the
//! pod that it was made in, or until the app that holds it has ended or said that it stopped.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use leasehold::election::{LARGEST_TOKEN, Record, Token};
use leasehold::time::Moment;

use crate::api::{By, Object};
use crate::trace::Time;

#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
}

/// By what right a term began, told by what the API server really held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    Released,
    Expired,
    Waited,
    Created,
    OwnFormer,
}

impl Right {
    pub const ALL: [Right; 5] = [Right::Released, Right::Expired, Right::Waited, Right::Created, Right::OwnFormer];
}

/// Who acts on a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A process of the app: it asks, reads the file, or listens to its session.
    Worker { id: u32, exclusive: bool },
    /// `leasehold exec`, which holds the lease's lock and may work until `stop_by`.
    Enforcer,
}

#[derive(Clone, Copy, Debug)]
struct Promise {
    holder: Holder,
    token: u64,
    end: Time,
}

#[derive(Default)]
pub struct Checks {
    excused: Vec<&'static str>,
    /// Those that did fail.
    pub excused_failures: BTreeSet<&'static str>,
    pub violation: Option<Violation>,
    /// What each pod's living app holds.
    promises: Vec<Vec<Promise>>,
    /// By identity and token: when, on its own clock, the newest committed write of that term was handed out.
    committed: HashMap<(String, u64), Moment>,
    /// Terms that ended, by identity and token.
    ended: HashSet<(String, u64)>,
    begun: HashSet<(String, u64)>,
    highest_token: u64,
    /// What the newest acquiring write that was committed put into the Lease.
    newest_term: Option<(Option<String>, Token, Option<Timestamp>)>,
    /// The newest write of a client-go candidate in its term, and its duration.
    foreign_write: Option<(Time, Duration)>,
    /// A pod that trusts an empty holder took the Lease with such a token: what earlier terms promised is its own risk.
    trusted: BTreeSet<u64>,
    pub rights: BTreeMap<Right, u64>,
    pub terms: u64,
    pub promises_made: u64,
}

impl Checks {
    pub fn new(pods: usize, excused: &[&'static str]) -> Self {
        Checks { promises: vec![Vec::new(); pods], excused: excused.to_vec(), ..Checks::default() }
    }

    pub fn excuse(&mut self, invariant: &'static str) {
        self.excused.push(invariant);
    }

    pub fn fail(&mut self, invariant: &'static str, at: Time, what: impl FnOnce() -> String) {
        if self.excused.contains(&invariant) {
            self.excused_failures.insert(invariant);
        } else if self.violation.is_none() {
            self.violation = Some(Violation { invariant, what: format!("at {at}: {}", what()) });
        }
    }

    // ---- Promises ----

    /// S1, S6: somebody was told, or can read, that its pod leads.
    pub fn promised(&mut self, at: Time, pod: usize, holder: Holder, identity: &str, token: u64, end: Time) {
        self.promises_made += 1;
        if end <= at {
            return;
        }
        if let Some((other, promise)) = self.in_force_elsewhere(at, pod, token) {
            let for_ms = promise.end.since(at).as_millis();
            let by = promise.holder;
            self.fail("S1", at, || {
                format!("pod {pod} ({identity}, token {token}) promises, and pod {other}'s promise (token {}, {by:?}) is in force for {for_ms} ms more", promise.token)
            });
        }
        if let Holder::Worker { exclusive: true, .. } = holder
            && let Some(other) = self.promises[pod].iter().find(|other| {
                other.end > at
                    && other.holder != holder
                    && matches!(other.holder, Holder::Worker { exclusive: true, .. })
            })
        {
            let other = *other;
            self.fail("exclusive", at, || {
                format!("pod {pod} tells {holder:?} that it leads (token {token}), and {other:?} does")
            });
        }
        self.promises[pod].retain(|promise| promise.end > at);
        match self.promises[pod].iter_mut().find(|promise| promise.token == token && promise.holder == holder) {
            Some(promise) => promise.end = promise.end.max(end),
            None => self.promises[pod].push(Promise { holder, token, end }),
        }
    }

    /// The pod's clock stood for so long: what was told is acted on for longer.
    pub fn last_longer(&mut self, at: Time, pod: usize, by: Duration) {
        for promise in self.promises[pod].iter_mut().filter(|promise| promise.end > at) {
            promise.end = promise.end.plus(by);
        }
    }

    fn in_force_elsewhere(&self, at: Time, pod: usize, token: u64) -> Option<(usize, Promise)> {
        let trusted =
            |other: u64| self.trusted.range(other.min(token)..=other.max(token)).any(|by| *by > other.min(token));
        self.promises.iter().enumerate().filter(|(other, _)| *other != pod).find_map(|(other, made)| {
            let counts = |promise: &&Promise| promise.end > at && !trusted(promise.token);
            made.iter().find(counts).map(|promise| (other, *promise))
        })
    }

    /// Until when somebody in the pod may act on what was promised.
    pub fn in_force(&self, at: Time, pod: usize) -> Option<(Holder, Time)> {
        let made = self.promises[pod].iter().filter(|promise| promise.end > at);
        made.map(|promise| (promise.holder, promise.end)).max_by_key(|(_, end)| *end)
    }

    /// A worker of the pod was told so; an enforcer may still work in a term that is over.
    pub fn leads_now(&self, at: Time, pod: usize) -> Option<u64> {
        let told = |promise: &&Promise| promise.end > at && promise.holder != Holder::Enforcer;
        self.promises[pod].iter().filter(told).map(|promise| promise.token).max()
    }

    pub fn anybody_leads(&self, at: Time) -> Option<(usize, u64)> {
        (0..self.promises.len()).find_map(|pod| self.leads_now(at, pod).map(|token| (pod, token)))
    }

    pub fn holder_ended(&mut self, pod: usize, holder: Holder) {
        self.promises[pod].retain(|promise| promise.holder != holder);
    }

    /// It is going to end sooner than was promised.
    pub fn holder_ends(&mut self, pod: usize, holder: Holder, end: Time) {
        for promise in self.promises[pod].iter_mut().filter(|promise| promise.holder == holder) {
            promise.end = promise.end.min(end);
        }
    }

    pub fn holder_stopped(&mut self, pod: usize, holder: Holder, token: u64) {
        self.promises[pod].retain(|promise| promise.holder != holder || promise.token != token);
    }

    // ---- Terms ----

    /// S2: nothing is claimed beyond what a committed write of this term gives.
    pub fn claimed(&mut self, at: Time, identity: &str, token: u64, until: Moment, lasting: Duration, what: &str) {
        match self.committed.get(&(identity.to_owned(), token)) {
            Some(handed_out) if until <= *handed_out + lasting => {}
            Some(handed_out) => {
                let limit = *handed_out + lasting;
                self.fail("S2", at, || {
                    format!("{identity} claims {what} until {until}; the newest committed write of term {token} gives no more than {limit}")
                });
            }
            None => self
                .fail("S2", at, || format!("{identity} claims {what} in term {token}, of which nothing was committed")),
        }
    }

    /// S8: this term is published.
    pub fn leads(&mut self, at: Time, identity: &str, token: u64) {
        let term = (identity.to_owned(), token);
        if self.ended.contains(&term) {
            self.fail("S8", at, || format!("{identity} leads again in term {token}, which had ended"));
        }
        if self.begun.insert(term) {
            self.terms += 1;
            if let Some((written, duration)) = self.foreign_write
                && at < written.plus(shortened(duration))
            {
                self.fail("S3", at, || {
                    format!("{identity} leads while a client-go lease written at {written} is valid")
                });
            }
        }
    }

    pub fn ends(&mut self, identity: &str, token: u64) {
        self.ended.insert((identity.to_owned(), token));
    }

    pub fn highest_token(&self) -> u64 {
        self.highest_token
    }

    // ---- Commits ----

    /// The write of a term was committed; it was handed out then, on its sender's clock.
    pub fn wrote(&mut self, identity: &str, token: u64, handed_out: Moment) {
        let newest = self.committed.entry((identity.to_owned(), token)).or_insert(handed_out);
        *newest = (*newest).max(handed_out);
    }

    /// The record's holder wrote itself into it, and nobody has taken the Lease since, however edited it is.
    pub fn is_of_newest_term(&self, record: &Record) -> bool {
        self.newest_term.as_ref() == Some(&term_of(record))
    }

    /// S3: an acquiring write made a Lease where none was.
    pub fn took_nothing(&mut self, at: Time, pod: usize) {
        self.fail("S3", at, || format!("pod {pod} took a Lease that was not there, and so waited for nobody"));
    }

    /// S3, S4, S9: an acquiring write was committed on `base`. It was sent at `sent`.
    pub fn acquired(&mut self, taking: Taking) {
        let right = taking.right();
        let Taking { at, sent, base, now, own_duration, .. } = taking;
        let identity = now.spec.holder.clone().unwrap_or_default();
        let token = now.token.value().unwrap_or(0);
        let waited = sent.since(base.spec_since);
        let spec = &base.record.spec;
        if right == Some(Right::Waited) && waited < shortened(own_duration) {
            self.trusted.insert(token);
            self.foreign_write = None;
        }
        match right {
            Some(right) => *self.rights.entry(right).or_default() += 1,
            None => self.fail("S3", at, || {
                format!(
                    "{identity} took version {} {} ms after its spec was written, and it was not released",
                    base.record.version,
                    waited.as_millis()
                )
            }),
        }
        let floor = self.highest_token.max(base.record.token.value().unwrap_or(0));
        if token <= floor || token > LARGEST_TOKEN {
            self.fail("S4", at, || format!("{identity}'s token {token} is not above {floor}"));
        }
        self.highest_token = self.highest_token.max(token);
        self.newest_term = Some(term_of(now));
        let transitions = now.spec.transitions;
        if transitions != spec.transitions.saturating_add(1) {
            self.fail("S9", at, || format!("transitions went from {} to {transitions}", spec.transitions));
        }
    }

    /// A client-go candidate wrote as the holder. `displaced` is what it took the Lease from, if it took it.
    pub fn foreign_wrote(&mut self, at: Time, duration: Duration, displaced: Option<&Object>) {
        self.foreign_write = Some((at, duration));
        // An empty record that nobody proved released is taken at once by client-go: its overlap.
        let by_its_rules =
            displaced.is_some_and(|object| object.record.spec.holder.is_some() || matches!(object.by, By::Pod { .. }));
        let in_force = (0..self.promises.len()).find_map(|pod| self.in_force(at, pod).map(|(by, _)| (pod, by)));
        if by_its_rules && let Some((pod, by)) = in_force {
            self.fail("S1", at, || {
                format!("client-go took an expired or released Lease, and pod {pod}'s promise ({by:?}) is in force")
            });
        }
    }

    /// Its lease was deleted or edited away by a person, who says with it that it is over (A3).
    pub fn foreign_lease_gone(&mut self) {
        self.foreign_write = None;
    }
}

/// What an acquiring write puts into the Lease, and renewals keep.
fn term_of(record: &Record) -> (Option<String>, Token, Option<Timestamp>) {
    (record.spec.holder.clone(), record.token, record.spec.acquire_time)
}

/// An acquiring write that was committed.
pub struct Taking<'a> {
    pub at: Time,
    pub sent: Time,
    pub pod: usize,
    pub base: &'a Object,
    pub now: &'a Record,
    pub own_duration: Duration,
    pub created_wait: Duration,
    /// The record was this pod's own, by an earlier sidecar under this state directory.
    pub former: bool,
    pub trusting: bool,
    /// A state directory may have come from the pod that created the Lease, on the same clock.
    pub on_one_machine: bool,
}

impl Taking<'_> {
    /// By what right, if by any: S3.
    pub fn right(&self) -> Option<Right> {
        let base = self.base;
        let waited = self.sent.since(base.spec_since);
        let held = base.record.spec.holder.is_some();
        let claimed = base.record.duration().unwrap_or_default();
        if self.former {
            Some(Right::OwnFormer)
        } else if base.is_released() {
            Some(Right::Released)
        } else if (base.is_created_by(self.pod) || self.on_one_machine && base.is_created_by_a_pod())
            && self.sent.since(base.created.1) >= shortened(self.created_wait)
        {
            Some(Right::Created)
        } else if held && waited >= shortened(self.own_duration.max(claimed)) {
            Some(Right::Expired)
        } else if !held && (self.trusting || waited >= shortened(self.own_duration)) {
            Some(Right::Waited)
        } else {
            None
        }
    }
}

/// A duration on a clock that runs fast by rho ends that much sooner in true time.
pub fn shortened(duration: Duration) -> Duration {
    duration - duration / 999
}

/// For so long nobody else can take an unreleased lease: less what two clocks may differ by, a thousandth each. Said
/// here again, so that it is judged by another's sums than the election's.
pub fn hold_time(lease_duration: Duration) -> Duration {
    lease_duration - lease_duration / 500
}
