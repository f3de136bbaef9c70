//! What a round came to, from who believed what when.

use std::fmt;
use std::time::Duration;

use crate::round::LEADER;
use crate::support::clock::BootTime;

/// In `[from, until)` whoever acts beside this candidate may believe that it leads.
#[derive(Clone, Debug)]
pub struct Belief {
    pub who: &'static str,
    pub from: BootTime,
    pub until: BootTime,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    /// How long two believed at once.
    pub overlap: Duration,
    /// The same by client-go's IsLeader.
    pub overlap_by_is_leader: Duration,
    /// And by an app that asks both before each step.
    pub overlap_by_both: Duration,
    /// How long somebody believed to lead when its last renewal was a lease duration old: from then on others may take.
    pub past_expiry: Duration,
    /// How long nobody believed to lead.
    pub leaderless: Duration,
    pub another_led: bool,
}

impl Outcome {
    pub fn is_clean(&self) -> bool {
        self.overlap.is_zero() && self.past_expiry.is_zero()
    }
}

/// Judges what was told in the time from `began` to `end`.
pub fn judge(
    told: &[Belief],
    is_leader: &[Belief],
    renewals: &[(BootTime, String)],
    lease: Duration,
    (began, end): (BootTime, BootTime),
    is_hand_off: bool,
) -> Outcome {
    let within = |beliefs: &[Belief]| -> Vec<Belief> {
        let cut = beliefs.iter().map(|b| Belief { from: b.from.max(began), until: b.until.min(end), ..b.clone() });
        cut.filter(|belief| belief.from < belief.until).collect()
    };
    let (told, is_leader) = (within(told), within(is_leader));
    // In a hand-off nobody is waited for after the other has begun.
    let end = match told.iter().filter(|belief| belief.who != LEADER).map(|belief| belief.from).min() {
        Some(taken) if is_hand_off => taken,
        _ => end,
    };
    Outcome {
        overlap: overlap(&told),
        overlap_by_is_leader: overlap(&is_leader),
        overlap_by_both: overlap(&in_both(&told, &is_leader)),
        past_expiry: past_expiry(&told, renewals, lease),
        leaderless: leaderless(&told, began, end),
        another_led: told.iter().any(|belief| belief.who != LEADER),
    }
}

/// Beliefs of one candidate over HTTP and in files lie over each other: they are joined first.
fn joined(beliefs: &[Belief], of: impl Fn(&Belief) -> bool) -> Vec<(BootTime, BootTime)> {
    let mut spans: Vec<_> = beliefs.iter().filter(|b| of(b)).map(|b| (b.from, b.until)).collect();
    spans.sort();
    let mut joined: Vec<(BootTime, BootTime)> = Vec::new();
    for (from, until) in spans {
        match joined.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(until),
            _ => joined.push((from, until)),
        }
    }
    joined
}

fn in_both(some: &[Belief], others: &[Belief]) -> Vec<Belief> {
    let pairs = some.iter().flat_map(|a| others.iter().map(move |b| (a, b)));
    let common = pairs.filter(|(a, b)| a.who == b.who).map(|(a, b)| {
        let (from, until) = (a.from.max(b.from), a.until.min(b.until));
        Belief { who: a.who, from, until }
    });
    common.filter(|belief| belief.from < belief.until).collect()
}

fn overlap(beliefs: &[Belief]) -> Duration {
    let leader = joined(beliefs, |belief| belief.who == LEADER);
    let others = joined(beliefs, |belief| belief.who != LEADER);
    let pairs = leader.iter().flat_map(|a| others.iter().map(move |b| (a, b)));
    pairs.map(|(a, b)| a.1.min(b.1).saturating_sub(a.0.max(b.0))).sum()
}

fn past_expiry(beliefs: &[Belief], renewals: &[(BootTime, String)], lease: Duration) -> Duration {
    let past = |belief: &Belief| {
        let own = renewals.iter().filter(|(at, by)| by == belief.who && *at < belief.until);
        // Seen a little later than it was committed: in favour of who claims.
        let expiry = own.map(|(at, _)| *at + lease).max().unwrap_or(belief.until);
        belief.until.saturating_sub(belief.from.max(expiry))
    };
    beliefs.iter().map(past).max().unwrap_or_default()
}

fn leaderless(beliefs: &[Belief], began: BootTime, end: BootTime) -> Duration {
    let led = joined(beliefs, |_| true);
    let led: Duration = led.iter().map(|(from, until)| (*until).min(end).saturating_sub(*from)).sum();
    (end - began).saturating_sub(led)
}

/// One elector under one fault.
pub struct Row {
    pub elector: &'static str,
    pub outcomes: Vec<Outcome>,
}

impl Row {
    pub fn print_head() {
        println!(
            "{:<22} {:>3}  {:>26}  {:>15}  {:>11}  {:>15}  {:>20}",
            "seconds",
            "n",
            "two at once min/median/max",
            "by IsLeader max",
            "by both max",
            "past expiry max",
            "no leader median/max"
        );
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = |of: fn(&Outcome) -> Duration| {
            let mut times: Vec<f64> = self.outcomes.iter().map(|outcome| of(outcome).as_secs_f64()).collect();
            times.sort_by(f64::total_cmp);
            times
        };
        let median = |times: &[f64]| times[times.len() / 2];
        let max = |times: &[f64]| times[times.len() - 1];
        let (two, is_leader) = (sorted(|o| o.overlap), sorted(|o| o.overlap_by_is_leader));
        let both = sorted(|o| o.overlap_by_both);
        let (past, none) = (sorted(|o| o.past_expiry), sorted(|o| o.leaderless));
        let two = format!("{:.3}/{:.3}/{:.3}", two[0], median(&two), max(&two));
        let none = format!("{:.2}/{:.2}", median(&none), max(&none));
        write!(
            f,
            "{:<22} {:>3}  {two:>26}  {:>15.3}  {:>11.3}  {:>15.3}  {none:>20}",
            self.elector,
            self.outcomes.len(),
            max(&is_leader),
            max(&both),
            max(&past)
        )
    }
}
