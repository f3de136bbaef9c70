//! Who leads: a pure state machine over what a candidate sees of one Lease.
//!
//! [`Election::handle`] takes the time and one [`Input`] and gives back what is to be done ([`Output`]). It does no
//! I/O, reads no clock and waits for nothing, so the very code that ships runs in the simulator. Its rules are those
//! of docs/design.md, section 3; S1 to S9 are named where they are kept.
//!
//! A candidate is in one of four roles: it stands by (`Candidate`), owns the record without a term because its taking
//! write landed late (`Landed`), leads (`Leading`), or has ended its term and owes the record a release (`Leaving`).

mod broken;
mod config;
mod jitter;
mod message;
mod record;
mod seen;
pub mod status;
mod tell;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;

use broken::Broken;
#[doc(hidden)]
pub use broken::BrokenRule;
pub use config::{ATTEMPT_TIMEOUT, Config, LARGEST_TOKEN, LONGEST_LEASE, RHO_PER_MILLE};
use jitter::Jitter;
pub use message::{Acknowledgement, Base, Input, Kind, Outcome, Output, Shutdown, Write};
pub use record::{Record, Spec, StepDown, Token};
pub use seen::{News, Right, Seen, Verdict, Via};
pub use status::{LONGEST_POD_NAME, Leading, Reason, Status, pod_of};

use crate::time::{Moment, Now};

/// Between creating a Lease and taking it, beyond the answer TTL: the time in which a leader whose Lease was just
/// deleted hears of it.
const DELETION_NOTICE: Duration = Duration::from_millis(250);
/// How often a holder that cannot watch reads: it has to hear of a deletion within `DELETION_NOTICE`.
const BLIND_READ_INTERVAL: Duration = Duration::from_millis(100);
/// API servers send a bookmark a minute: a watch that brings none for two is silent, whatever else happens.
const BOOKMARKS_MISSED: Duration = Duration::from_secs(120);
/// A 429's Retry-After is obeyed by a challenger at most so long.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(2);
/// Who stepped down lets others go first, at most so long.
const STEP_DOWN_HOLD_OFF: Duration = Duration::from_secs(2);
/// A named successor goes before all others by so much.
const HEAD_START: Duration = Duration::from_millis(20);
/// Attempts of unknown outcome that are remembered; an older one that lands is released as an unknown own record.
const UNRESOLVED_KEPT: usize = 32;

/// A write that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Attempt {
    id: u64,
    sent_at: Moment,
    base_version: u64,
    /// The uid that it replaces; a creation has none.
    uid: Option<String>,
    kind: Kind,
    spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Role {
    Candidate,
    Landed(Draft),
    Leading(Term),
    Leaving(Leaving),
}

/// A term that is written but not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Draft {
    token: u64,
    transitions: i32,
    acquired_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Term {
    draft: Draft,
    /// When the newest renewal known to be committed was sent (S2).
    renewed_at: Moment,
    valid_until: Moment,
    stop_by: Moment,
}

/// A term that ended, and whose record is to be released when nothing said in it is in force any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Leaving {
    reason: Reason,
    token: u64,
    transitions: i32,
    /// No promise goes beyond it, not even that of an app that is held to `stop_by`.
    promises_end: Moment,
    /// After it others may take the record without a release.
    stop_by: Moment,
    /// The app's end is proved: promises bind nobody.
    app_ended: bool,
    /// The app says that it stopped acting on this term's token: its promises bind nobody.
    acknowledged: bool,
    /// Who should lead then.
    successor: Option<String>,
}

/// One candidate's election for one Lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Election {
    config: Config,
    /// Identities of this pod's earlier sidecars under this state directory, whose terms this one may take over.
    former: Vec<String>,
    seen: Seen,
    role: Role,
    in_flight: Option<Attempt>,
    /// Attempts on the newest version whose outcome is not known: any of them may have been committed.
    unresolved: Vec<Attempt>,
    next_attempt: u64,
    last_renew_time: Option<(Timestamp, Moment)>,
    /// The spec of this term's newest write known to be committed.
    committed: Option<Spec>,
    /// No write before it: a renewal is not due, or a failed attempt is paused for.
    send_at: Moment,
    /// A consistent read is under way, or wanted.
    reading: Option<Moment>,
    read_at: Option<Moment>,
    /// The watch was last heard then.
    heard: Moment,
    /// The newest version that it, or its list, brought.
    watched: u64,
    /// It was silent for so long that a read is asked.
    doubted: bool,
    /// Something was observed by this process: what it remembers may be old.
    observed: bool,
    /// Why the Lease cannot be listed and watched, until it can.
    watch_failure: Option<String>,
    /// When to take a free record: sampled once for each change of the spec.
    take_at: Option<(Moment, Moment)>,
    jitter: Jitter,
    /// Whom a release names where nobody else was asked for.
    successor: Option<String>,
    collided: bool,
    /// The app is not alive.
    app_gone: Option<Gone>,
    hold_off_until: Moment,
    /// No term of this process promised anything beyond it.
    promises_end: Moment,
    /// The newest version published that leads: only a withdrawal of a later one ends what it promised.
    led_version: u64,
    withdrawn: Option<Withdrawn>,
    /// What was promised before this term, also by an earlier sidecar of this pod, ends then.
    promise_floor: Moment,
    shutdown: Option<Ending>,
    refusal: Option<String>,
    last_token: Option<u64>,
    status: Status,
    remembered: Seen,
    restart_watch: bool,
    done: bool,
    /// Why the term ended, for the status published with it.
    ended: Option<Reason>,
    /// The record of a term was changed by somebody else, and until then who enforces the term's end has to hear it.
    taken_away: Option<(Reason, Moment)>,
    broken: Broken,
}

/// [`Input::Withdrawn`], of the newest not-leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Withdrawn {
    version: u64,
    promised_until: Moment,
    enforced_until: Moment,
}

/// The app is not alive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Gone {
    why: String,
    /// Nothing acts any more on what was promised before; since then nothing was promised.
    proved: bool,
}

/// This process is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ending {
    app_ended: bool,
    since: Moment,
    leave_at: Moment,
    end_by: Moment,
    /// A read sent after the request showed nothing of ours.
    looked: bool,
}

impl Election {
    /// A candidate that has read nothing yet. `seen` is what it remembers from before a restart of the process.
    pub fn new(config: Config, seen: Option<Seen>, seed: u64) -> Self {
        debug_assert!(config.faults().is_empty(), "{:?}", config.faults());
        let seen = seen.unwrap_or_else(Seen::nothing);
        Election {
            former: Vec::new(),
            remembered: seen.clone(),
            seen,
            role: Role::Candidate,
            in_flight: None,
            unresolved: Vec::new(),
            next_attempt: 1,
            last_renew_time: None,
            committed: None,
            send_at: Moment::BOOT,
            reading: None,
            read_at: None,
            heard: Moment::BOOT,
            watched: 0,
            doubted: false,
            observed: false,
            watch_failure: None,
            take_at: None,
            jitter: Jitter::new(seed, config.replicas),
            successor: None,
            collided: false,
            app_gone: None,
            hold_off_until: Moment::BOOT,
            promises_end: Moment::BOOT,
            led_version: 0,
            withdrawn: None,
            promise_floor: Moment::BOOT,
            shutdown: None,
            refusal: None,
            last_token: None,
            status: Status::starting(),
            restart_watch: false,
            done: false,
            ended: None,
            taken_away: None,
            broken: Broken::default(),
            config,
        }
    }

    /// This process is the only sidecar of a pod that earlier ran others, under these identities; whatever they
    /// promised ends by `promised_until`. The caller has proved it: the state directory's lock is held, and the
    /// pod's uid and the boot id are theirs.
    pub fn succeed(mut self, former: Vec<String>, promised_until: Moment) -> Self {
        self.former = former;
        self.promise_floor = promised_until;
        self
    }

    /// For the simulator: see [`BrokenRule`].
    #[doc(hidden)]
    #[cfg(debug_assertions)]
    pub fn break_rule(&mut self, rule: BrokenRule) {
        self.broken = Broken::by(rule);
    }

    /// For the model checker: the next delays are this seed's, however many were drawn before.
    #[doc(hidden)]
    #[cfg(debug_assertions)]
    pub fn reseed(&mut self, seed: u64) {
        self.jitter.reseed(seed);
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn status(&self) -> &Status {
        &self.status
    }

    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// What [`Input::AppStopped`] would be worth.
    pub fn acknowledgement(&self, token: u64) -> Acknowledgement {
        match &self.role {
            Role::Leading(term) if term.draft.token == token => Acknowledgement::StillLeading,
            Role::Leaving(leaving) if leaving.token == token => Acknowledgement::Accepted,
            _ if self.last_token == Some(token) => Acknowledgement::Accepted,
            _ => Acknowledgement::WrongToken,
        }
    }

    /// Takes in what happened and says what to do. `now` was read before the call, so that a write goes out later
    /// than the moment from which it counts (S2).
    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Output> {
        self.ended = None;
        // S6, S8: before anything else, whatever is queued behind it.
        if !(matches!(input, Input::Wrote { .. }) && self.broken.is(BrokenRule::RevivePastDeadline)) {
            self.expire(now.boot);
        }
        match input {
            Input::Observed { record, version, via } => {
                self.heard = now.boot;
                self.watched = record.as_ref().map_or(version, |record| record.version);
                self.doubted = false;
                self.observed = true;
                self.watch_failure = None;
                self.observe(now, record, version, via);
            }
            Input::Heard => {
                self.heard = now.boot;
                self.doubted = false;
                self.watch_failure = None;
            }
            Input::WatchFailed { advice } => self.watch_failure = Some(advice),
            Input::Read(answer) => self.read(now, answer),
            Input::Wrote { attempt, outcome } => self.wrote(now, attempt, outcome),
            Input::Tick => {}
            Input::Withdrawn { version, promised_until, enforced_until } => {
                self.withdrawn = Some(Withdrawn { version, promised_until, enforced_until });
            }
            Input::AppAlive => {
                if self.app_gone.take().is_some() && matches!(self.role, Role::Candidate) {
                    self.read_at = None;
                }
            }
            Input::AppGone { proved, why } => {
                let proved = proved || self.app_gone.as_ref().is_some_and(|gone| gone.proved);
                self.app_gone = Some(Gone { why, proved });
                self.leave(now.boot, Reason::AppNotAlive, proved);
            }
            Input::AppStopped { token } => {
                // Before not-leader is told everywhere, an app that restarts may still read a yes.
                let withdrawn = self.withdrawn.is_some_and(|withdrawn| withdrawn.version > self.led_version);
                if let Role::Leaving(leaving) = &mut self.role
                    && withdrawn
                {
                    leaving.acknowledged |= leaving.token == token;
                }
            }
            Input::StepDown { to } => self.step_down(now.boot, to),
            Input::Rivals { count, successor } => {
                self.jitter.know(count);
                self.successor = successor;
            }
            Input::Shutdown(Shutdown { app_ended, leave_at, end_by }) => {
                let leave_at = if self.broken.is(BrokenRule::LeaveAtTheEnd) { end_by } else { leave_at };
                self.shutdown.get_or_insert(Ending { app_ended, since: now.boot, leave_at, end_by, looked: false });
                let at_once = app_ended || now.boot >= leave_at || self.broken.is(BrokenRule::LeaveAtOnce);
                if at_once || !matches!(self.role, Role::Leading(_)) {
                    self.leave(now.boot, Reason::ShuttingDown, app_ended);
                }
            }
        }
        self.heed_requests(now.boot);
        let mut act = self.act(now);
        let mut outputs = Vec::new();
        if self.seen != self.remembered {
            self.remembered = self.seen.clone();
            outputs.push(Output::Remember(Box::new(self.seen.clone())));
        }
        if self.broken.is(BrokenRule::ReleaseBeforePublishing) {
            outputs.extend(act.take());
        }
        self.publish(now.boot, &mut outputs);
        if std::mem::take(&mut self.restart_watch) {
            outputs.push(Output::RestartWatch);
        }
        outputs.extend(act);
        if self.done {
            outputs.push(Output::Done);
        } else {
            outputs.push(Output::WakeAt(self.wake_at(now.boot)));
        }
        outputs
    }

    // ---- The end of a term ----

    /// Holder rule 5: passing `valid_until` ends the term for good, also when a success is queued behind it.
    fn expire(&mut self, now: Moment) {
        if let Role::Leading(term) = &self.role
            && now >= term.valid_until
        {
            self.leave(now, Reason::RenewDeadline, false);
        }
    }

    /// Whoever steps down lets others go first.
    fn step_down(&mut self, now: Moment, to: Option<String>) {
        if matches!(self.role, Role::Leading(_) | Role::Landed(_)) {
            self.hold_off_until = now + self.step_down_hold_off();
            self.leave(now, Reason::SteppedDown, false);
            if let Role::Leaving(leaving) = &mut self.role {
                leaving.successor = to;
            }
        }
    }

    /// What is to end a term without an input of its own: a request in the Lease that speaks of this very term, and
    /// the end of the time that a shutdown leaves to an app.
    fn heed_requests(&mut self, now: Moment) {
        let token = match &self.role {
            Role::Leading(term) => term.draft.token,
            Role::Landed(draft) => draft.token,
            Role::Candidate | Role::Leaving(_) => return,
        };
        let request = match self.seen.record() {
            Some(record) if self.broken.is(BrokenRule::HeedAnyRequest) => record.step_down.as_ref(),
            record => record.and_then(Record::step_down).filter(|request| request.token == token),
        };
        let own_name = Some(pod_of(&self.config.identity)).filter(|_| !self.broken.is(BrokenRule::HeedOwnName));
        if let Some(StepDown { to, .. }) = request
            && (to.is_none() || to.as_deref() != own_name)
        {
            let to = to.clone();
            self.step_down(now, to);
        }
        if self.shutdown.is_some_and(|ending| now >= ending.leave_at) {
            self.leave(now, Reason::ShuttingDown, false);
        }
    }

    /// Ends this candidate's hold on the record, if it has one, in the order that S7 asks for: not-leader first, the
    /// release when promises are over.
    fn leave(&mut self, now: Moment, reason: Reason, app_ended: bool) {
        match &mut self.role {
            Role::Candidate => {}
            Role::Landed(draft) => {
                // No term began: nothing was promised in it.
                self.role = Role::Leaving(Leaving {
                    reason,
                    token: draft.token,
                    transitions: draft.transitions,
                    promises_end: self.promises_end,
                    stop_by: now + self.config.hold_time(),
                    app_ended,
                    acknowledged: false,
                    successor: None,
                });
                self.send_at = now;
            }
            Role::Leading(term) => {
                let term = *term;
                self.last_token = Some(term.draft.token);
                self.promises_end = self.promises_end.max(term.stop_by);
                self.ended = Some(reason);
                self.role = Role::Leaving(Leaving {
                    reason,
                    token: term.draft.token,
                    transitions: term.draft.transitions,
                    promises_end: term.stop_by,
                    stop_by: term.stop_by,
                    app_ended,
                    acknowledged: false,
                    successor: None,
                });
                self.send_at = now;
            }
            Role::Leaving(leaving) => leaving.app_ended |= app_ended,
        }
    }

    /// What was promised in earlier terms binds nobody; a write that lands late need not wait for it.
    fn app_end_is_proved(&self) -> bool {
        self.app_gone.as_ref().is_some_and(|gone| gone.proved) || self.shutdown.is_some_and(|ending| ending.app_ended)
    }

    /// The record is another's: the term, or what was left of it, is over, and there is nothing to release.
    fn lose(&mut self, now: Moment, reason: Reason) {
        match &self.role {
            Role::Leading(term) => {
                self.last_token = Some(term.draft.token);
                self.promises_end = self.promises_end.max(term.stop_by);
                self.ended = Some(reason);
                self.taken_away = Some((reason, term.stop_by));
            }
            // Holder rule 6: a term that ended before is still worked in, and nothing protects that any more.
            Role::Leaving(leaving) => self.taken_away = Some((reason, leaving.stop_by)),
            Role::Landed(_) | Role::Candidate => {}
        }
        self.role = Role::Candidate;
        self.committed = None;
        self.unresolved.clear();
        self.send_at = now;
        self.read_at = None;
    }

    // ---- What is seen ----

    fn observe(&mut self, now: Now, record: Option<Record>, version: u64, via: Via) {
        let version = record.as_ref().map_or(version, |record| record.version);
        let attempt = record.as_ref().and_then(|record| self.attempt_behind(record));
        let created_here = attempt.as_ref().is_some_and(|attempt| attempt.kind == Kind::Create);
        let was_held_by = self.seen.record().and_then(|record| record.spec.holder.clone());
        let rules = seen::Rules {
            own_duration: self.config.lease_duration,
            trust_unheld: self.config.trust_unheld || self.broken.is(BrokenRule::TrustEmptyHolder),
            created_here,
            broken: self.broken,
        };
        let news = self.seen.observe(now.boot, record, version, via, rules);
        match news {
            News::Stale | News::Same => return,
            News::Version => {}
            News::Spec => {
                self.refusal = None;
                self.note_takeover(was_held_by.as_deref());
            }
            News::RolledBack => {
                self.restart_watch = true;
            }
        }
        self.read_at = None;
        // A newer version than their base: an attempt that did not write this one never will (compare-and-swap).
        // A creation may, as long as there is nothing.
        let absent = self.seen.record().is_none();
        if !self.broken.is(BrokenRule::RetryOnFirstBase) {
            self.unresolved.retain(|other| other.base_version >= version || absent && other.kind == Kind::Create);
        }
        match attempt {
            Some(attempt) if news != News::RolledBack => self.own_write_seen(now, attempt),
            // The conflict that an edit of labels or annotations made is over.
            _ if news == News::Version && self.record_is_mine() => match &self.role {
                Role::Leading(term) => self.send_at = term.renewed_at + self.config.renew_interval,
                Role::Landed(_) | Role::Leaving(_) => self.send_at = self.send_at.min(now.boot),
                Role::Candidate => {}
            },
            _ => self.foreign_seen(now),
        }
    }

    /// The own write that made this record: told by its spec, which names this process and a renewTime used once.
    fn attempt_behind(&self, record: &Record) -> Option<Attempt> {
        self.in_flight
            .iter()
            .chain(&self.unresolved)
            .find(|attempt| {
                attempt.spec == record.spec
                    && attempt.base_version < record.version
                    && attempt.uid.as_ref().is_none_or(|uid| *uid == record.uid)
                    && self.is_open(attempt)
            })
            .cloned()
    }

    /// Nothing newer than its base was seen: what it made, if anything, is still to come. A record that looks like it
    /// later was put back by somebody, and does not bring a term back (S8).
    fn is_open(&self, attempt: &Attempt) -> bool {
        let absent = self.seen.record().is_none();
        attempt.base_version >= self.seen.version() || attempt.kind == Kind::Create && absent
    }

    /// A label or annotation changed under a record of ours.
    fn record_is_mine(&self) -> bool {
        match (&self.role, self.seen.record()) {
            (Role::Candidate, _) => true,
            (_, Some(record)) => self.committed.as_ref() == Some(&record.spec),
            (_, None) => false,
        }
    }

    /// An own write is known to be committed.
    fn own_write_seen(&mut self, now: Now, attempt: Attempt) {
        self.refusal = None;
        self.read_at = None;
        match attempt.kind {
            Kind::Create => {}
            // S8: this term began and ended before its answer came. Only a history that went back and forth shows it.
            Kind::Acquire { token } if self.last_token == Some(token) => self.foreign_seen(now),
            Kind::Acquire { token } => {
                let draft = Draft {
                    token,
                    transitions: attempt.spec.transitions,
                    acquired_at: attempt.spec.acquire_time.unwrap_or(now.wall),
                };
                self.collided = false;
                self.taken_away = None;
                self.committed = Some(attempt.spec);
                self.role = Role::Landed(draft);
                self.former.clear();
                let promised_until = self.withdrawn.map_or(Moment::BOOT, |withdrawn| withdrawn.promised_until);
                self.promise_floor = self.promise_floor.max(promised_until);
                if self.app_gone.is_none() && self.shutdown.is_none() {
                    self.renewed(now.boot, draft, attempt.sent_at);
                } else {
                    let reason = if self.app_gone.is_none() { Reason::ShuttingDown } else { Reason::AppNotAlive };
                    self.leave(now.boot, reason, self.app_end_is_proved());
                }
            }
            Kind::Renew => {
                self.committed = Some(attempt.spec);
                let stop_by = attempt.sent_at + self.config.hold_time();
                if let Role::Leaving(leaving) = &mut self.role {
                    leaving.stop_by = leaving.stop_by.max(stop_by);
                }
                match &self.role {
                    Role::Leading(Term { draft, .. }) | Role::Landed(draft) => {
                        let draft = *draft;
                        self.renewed(now.boot, draft, attempt.sent_at);
                    }
                    // S8: a late success belongs to a term that ended. It moves the version to release, and the
                    // moment from which others may take without a release.
                    Role::Leaving(_) => self.send_at = now.boot,
                    Role::Candidate => self.foreign_seen(now),
                }
            }
            Kind::Release => {
                if matches!(&self.role, Role::Leaving(leaving) if leaving.reason == Reason::SteppedDown) {
                    // From the release on: the promise that it waited for may have been longer than the hold-off.
                    self.hold_off_until = now.boot + self.step_down_hold_off();
                }
                self.committed = None;
                self.unresolved.clear();
                self.role = Role::Candidate;
                self.send_at = now.boot;
            }
        }
    }

    /// S2: every deadline counts from the sending of a write of this term that is known to be committed.
    fn renewed(&mut self, now: Moment, draft: Draft, sent_at: Moment) {
        let last = match &self.role {
            Role::Leading(term) => term.renewed_at,
            _ => Moment::BOOT,
        };
        let sent_at = if self.broken.is(BrokenRule::CountFromAnswer) { now } else { sent_at.max(last) };
        let hold_time = match self.broken.is(BrokenRule::ForgetRho) {
            true => self.config.lease_duration,
            false => self.config.hold_time(),
        };
        let stop_by = sent_at + hold_time;
        let valid_until = match self.broken.is(BrokenRule::LeadUntilStopBy) {
            true => stop_by,
            false => sent_at + self.config.renew_deadline,
        };
        self.send_at = if now < valid_until { sent_at + self.config.renew_interval } else { now };
        // S6: a write that landed after its own deadline begins no term; it is renewed, and that begins it.
        if now < valid_until {
            self.role = Role::Leading(Term { draft, renewed_at: sent_at, valid_until, stop_by });
        }
    }

    /// The newest version is not of our writing.
    fn foreign_seen(&mut self, now: Now) {
        let reason = match self.seen.record() {
            None => Reason::Deleted,
            Some(record) => match record.holder() {
                Some(holder) if holder != self.config.identity => Reason::Lost,
                _ => Reason::Edited,
            },
        };
        let still_owed = self.leaving_record_stands();
        match &self.role {
            Role::Leading(_) if reason == Reason::Lost && self.broken.is(BrokenRule::LeadThroughForeignRecord) => {
                return;
            }
            Role::Leading(_) if reason != Reason::Lost && self.broken.is(BrokenRule::LeadThroughEdits) => return,
            // Holder rule 6: at once.
            Role::Leading(_) | Role::Landed(_) => self.lose(now.boot, reason),
            Role::Leaving(_) if still_owed => {}
            Role::Leaving(_) => self.lose(now.boot, reason),
            Role::Candidate => {}
        }
        // A record in this process's name that no term stands for, such as one whose attempt was forgotten or that
        // was edited: it is released, unless it is an old one that was put back (holder rule 5).
        if matches!(self.role, Role::Candidate)
            && let Some(record) = self.seen.record()
            && record.holder() == Some(&self.config.identity)
            && self.is_own(record)
        {
            self.role = Role::Leaving(Leaving {
                reason,
                token: record.token.value().unwrap_or(0),
                transitions: record.spec.transitions,
                promises_end: self.promises_end,
                stop_by: now.boot + self.config.hold_time(),
                app_ended: self.app_end_is_proved(),
                acknowledged: false,
                successor: None,
            });
        }
    }

    /// While leaving: the newest record is still the ended term's.
    fn leaving_record_stands(&self) -> bool {
        match (&self.role, self.seen.record()) {
            (Role::Leaving(leaving), Some(record)) => {
                if self.broken.is(BrokenRule::ReleaseOverAnother) {
                    return true;
                }
                record.holder() == Some(&self.config.identity)
                    && self.is_own(record)
                    && record.token.value().unwrap_or(0) >= leaving.token
                    && record.spec.transitions >= leaving.transitions
            }
            _ => false,
        }
    }

    /// The newest record, which names this process, is of its making, and no old one that was put back.
    fn is_own(&self, record: &Record) -> bool {
        (self.seen.claims(record) || self.broken.is(BrokenRule::AnyRecordInMyName))
            && (self.seen.record_is_of_its_time() || self.broken.is(BrokenRule::ReleasePutBack))
    }

    /// Everyone who sees others take over without a collision of its own narrows the range of its jitter.
    fn note_takeover(&mut self, was_held_by: Option<&str>) {
        let Some(record) = self.seen.record() else { return };
        if record.holder().is_none() || record.holder() == was_held_by {
            return;
        }
        if record.holder() != Some(&self.config.identity) && !std::mem::take(&mut self.collided) {
            self.jitter.saw_quiet_takeover();
        }
    }

    // ---- Answers of the API server ----

    fn read(&mut self, now: Now, answer: Option<(Option<Record>, u64)>) {
        let Some(sent_at) = self.reading.take() else { return };
        let Some((record, version)) = answer else {
            // A read that fails decides nothing.
            match () {
                () if self.broken.is(BrokenRule::FailedReadIsLoss) => self.lose(now.boot, Reason::Lost),
                () if self.broken.is(BrokenRule::FailedReadIsSuccess) => self.taken_for_renewed(now.boot),
                () => {}
            }
            if self.read_at.is_some() {
                self.read_at = Some(now.boot + self.config.retry_period);
            }
            if self.watch_failure.is_some() {
                // Neither watching nor reading works: no sooner than any other attempt.
                self.heard = now.boot + self.config.retry_period.saturating_sub(self.watch_silence());
            }
            return;
        };
        // A read sent before the conflict that is to be looked into tells nothing of it.
        self.read_at = self.read_at.filter(|at| *at > sent_at);
        self.observe(now, record, version, Via::Read { sent_at });
        // The watch should have said so, also of a version that an own write made.
        self.restart_watch |= std::mem::take(&mut self.doubted) && self.seen.version() > self.watched;
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.looked |= sent_at >= shutdown.since;
        }
    }

    fn wrote(&mut self, now: Now, attempt: u64, outcome: Outcome) {
        let Some(mut attempt) = self.in_flight.take_if(|in_flight| in_flight.id == attempt) else { return };
        let on_newest = attempt.base_version == self.seen.version();
        let candidate = matches!(self.role, Role::Candidate);
        let outcome = match outcome {
            // Something on the way says yes and changed nothing: as good as no answer, and no reason to hurry.
            Outcome::Committed(record) if record.version <= attempt.base_version => Outcome::Unknown,
            outcome => outcome,
        };
        match outcome {
            Outcome::Committed(record) => {
                // What the server made of it (it may round) is what the record says from now on.
                attempt.spec = record.spec.clone();
                if record.version > self.seen.version() {
                    let version = record.version;
                    self.unresolved.push(attempt);
                    self.observe(now, Some(*record), version, Via::Event);
                }
            }
            Outcome::Conflict if candidate => {
                if matches!(attempt.kind, Kind::Acquire { .. }) {
                    self.collided = true;
                    self.jitter.collided();
                    self.take_at = None;
                }
                // The watch tells who was first; only if it does not is that asked for.
                if on_newest {
                    self.read_at = Some(now.boot + self.config.retry_period);
                }
            }
            Outcome::Conflict if self.broken.is(BrokenRule::ConflictIsLoss) => self.lose(now.boot, Reason::Lost),
            Outcome::Conflict if self.broken.is(BrokenRule::ConflictIsSuccess) => self.taken_for_renewed(now.boot),
            Outcome::Conflict if on_newest => {
                // Perhaps with itself: something on the way may have sent it twice.
                self.unsure(attempt);
                self.read_at = Some(now.boot);
                self.send_at = now.boot + self.pause();
            }
            // What made the conflict is known already.
            Outcome::Conflict => {}
            Outcome::Unknown => {
                if on_newest || attempt.kind == Kind::Create {
                    self.unsure(attempt);
                }
                self.send_at = now.boot + self.pause();
            }
            Outcome::Refused { advice, retry_after } => {
                self.refusal = Some(advice);
                let asked = retry_after.map_or(Duration::ZERO, |asked| asked.min(self.longest_retry_after(now.boot)));
                self.send_at = now.boot + asked.max(self.pause());
            }
        }
    }

    /// For two broken rules.
    fn taken_for_renewed(&mut self, now: Moment) {
        if let Role::Leading(Term { draft, .. }) = self.role {
            self.renewed(now, draft, now);
        }
    }

    /// It may have been committed.
    fn unsure(&mut self, attempt: Attempt) {
        if self.unresolved.len() == UNRESOLVED_KEPT {
            self.unresolved.remove(0);
        }
        self.unresolved.push(attempt);
    }

    /// After a failed attempt: a holder hurries, others have time.
    fn pause(&self) -> Duration {
        match &self.role {
            Role::Leading(_) | Role::Landed(_) | Role::Leaving(_) => self.config.retry_period,
            Role::Candidate => self.config.retry_period.max(self.config.renew_interval / 2),
        }
    }

    /// Holder rule 7.
    fn longest_retry_after(&self, now: Moment) -> Duration {
        match &self.role {
            _ if self.broken.is(BrokenRule::ObeyRetryAfter) => Duration::MAX,
            Role::Leading(term) => term.valid_until.since(now) / 3,
            _ => LONGEST_RETRY_AFTER,
        }
    }

    // ---- What to do next ----

    fn act(&mut self, now: Now) -> Option<Output> {
        self.expire(now.boot);
        let end_by = self.shutdown.map(|ending| ending.end_by).filter(|_| !self.broken.is(BrokenRule::EndWhenReleased));
        if end_by.is_some_and(|end_by| now.boot >= end_by) {
            self.done = true;
            return None;
        }
        if let Role::Leaving(leaving) = &self.role
            && self.shutdown.is_some()
            && now.boot >= leaving.stop_by
            && !self.broken.is(BrokenRule::EndWhenReleased)
        {
            // Others may take without a release by now, and the process should end, whatever is still under way.
            self.done = true;
            return None;
        }
        if self.in_flight.is_some() {
            return None;
        }
        if self.reading.is_none()
            && let Some(read) = self.read_due(now.boot)
        {
            return Some(read);
        }
        if self.read_at.is_some() && !self.may_not_lead() {
            // One consistent read decides what a conflict meant; writing again would only conflict again.
            return None;
        }
        match &self.role {
            Role::Leading(_) | Role::Landed(_) => self.renew(now),
            Role::Leaving(_) => self.release(now),
            Role::Candidate => self.campaign(now),
        }
    }

    /// A candidate that is not to take the record: it only looks whether an earlier write of its own landed.
    fn may_not_lead(&self) -> bool {
        matches!(self.role, Role::Candidate) && (self.shutdown.is_some() || self.app_gone.is_some())
    }

    fn read_due(&mut self, now: Moment) -> Option<Output> {
        let silent = self.observed && now >= self.heard + self.watch_silence();
        if !silent && self.read_at.is_none_or(|at| now < at) {
            return None;
        }
        self.reading = Some(now);
        // One that failed has said so itself, and is begun anew in any case: nothing speaks against the connection.
        let doubted = silent && self.watch_failure.is_none();
        if silent {
            self.heard = now;
            self.doubted = doubted;
        }
        Some(Output::Read { timeout: self.attempt_timeout(now), fresh: doubted })
    }

    /// Challenger rule 7: how long a watch may say nothing before it is doubted.
    fn watch_silence(&self) -> Duration {
        if self.watch_failure.is_some() {
            // Holder rule 6: a deletion is heard in time also by a holder whose watch is just being begun anew.
            let holds = !matches!(self.role, Role::Candidate) && !self.broken.is(BrokenRule::HoldBlindly);
            return if holds { BLIND_READ_INTERVAL } else { self.config.renew_interval };
        }
        if self.may_not_lead() {
            // A Lease that nobody renews, such as one whose candidates' apps are all gone, is not to be asked for again
            // and again by each of them.
            return BOOKMARKS_MISSED;
        }
        let half = self.seen.record().and_then(Record::duration).unwrap_or(self.config.lease_duration) / 2;
        half.max(self.config.renew_interval * 2)
    }

    fn attempt_timeout(&self, now: Moment) -> Duration {
        let remaining = match &self.role {
            Role::Leading(term) => term.valid_until.since(now),
            _ => self.config.renew_deadline,
        };
        (remaining / 3).clamp(Duration::from_millis(10), ATTEMPT_TIMEOUT)
    }

    fn renew(&mut self, now: Now) -> Option<Output> {
        if now.boot < self.send_at {
            return None;
        }
        let mut spec = self.committed.clone()?;
        spec.renew_time = Some(self.new_renew_time(now));
        Some(self.send(now.boot, Kind::Renew, spec))
    }

    /// S7: only when not-leader is what everybody is told and no promise is in force, or the app's end is proved.
    fn release(&mut self, now: Now) -> Option<Output> {
        let Role::Leaving(leaving) = &self.role else { return None };
        if now.boot < self.send_at || now.boot < self.releasable_at(leaving) {
            return None;
        }
        let mut spec = self.seen.record()?.spec.clone();
        spec.holder = None;
        spec.duration_seconds = Some(1);
        spec.renew_time = Some(self.new_renew_time(now));
        Some(self.send(now.boot, Kind::Release, spec))
    }

    fn step_down_hold_off(&self) -> Duration {
        if self.broken.is(BrokenRule::NoHoldOff) {
            return Duration::ZERO;
        }
        STEP_DOWN_HOLD_OFF.min(self.config.lease_duration)
    }

    /// From when on the release may be sent. Until not-leader is known to be told everywhere, the term's last deadline
    /// stands in for the promise: nothing that was told goes beyond that.
    fn releasable_at(&self, leaving: &Leaving) -> Moment {
        if self.broken.is(BrokenRule::ReleaseWithoutWaiting) || self.broken.is(BrokenRule::ReleaseBeforePublishing) {
            return Moment::BOOT;
        }
        let newest = |version| version > self.led_version || self.broken.is(BrokenRule::OldWithdrawalCounts);
        let Some(withdrawn) = self.withdrawn.filter(|withdrawn| newest(withdrawn.version)) else {
            return leaving.promises_end.max(self.promise_floor);
        };
        let promised_until = match leaving {
            _ if leaving.app_ended => Moment::BOOT,
            _ if leaving.acknowledged => self.promise_floor,
            _ => withdrawn.promised_until.max(self.promise_floor),
        };
        if self.broken.is(BrokenRule::EnforcerNotWaitedFor) {
            return promised_until;
        }
        promised_until.max(withdrawn.enforced_until)
    }

    fn campaign(&mut self, now: Now) -> Option<Output> {
        if let Some(shutdown) = self.shutdown {
            // A taking write that may still have landed is looked for once, and released if it has.
            self.done = self.unresolved.is_empty()
                || shutdown.looked
                || now.boot >= shutdown.since + self.config.lease_duration;
            self.look_for_unresolved(now.boot, self.config.retry_period);
            return None;
        }
        if self.app_gone.is_some() {
            self.look_for_unresolved(now.boot, self.config.renew_interval);
            return None;
        }
        let verdict = match self.verdict() {
            Verdict::Free(..) if self.broken.is(BrokenRule::TrustWallClock) && self.is_old_by(now.wall) => {
                Verdict::Free(Moment::BOOT, Right::Expired)
            }
            verdict => verdict,
        };
        let take_at = self.take_moment(verdict)?;
        if now.boot < take_at || now.boot < self.send_at {
            return None;
        }
        match verdict {
            Verdict::Absent(_) => {
                // Unheld, so that a leader whose Lease was just deleted has the time to hear of it (rule 5).
                let spec =
                    Spec { duration_seconds: Some(1), renew_time: Some(self.new_renew_time(now)), ..Spec::default() };
                Some(self.send(now.boot, Kind::Create, spec))
            }
            Verdict::Free(..) => self.take(now),
            _ => None,
        }
    }

    /// Holder rule 5: who may not lead and has a taking write of unknown outcome never writes on its base, and looks.
    fn look_for_unresolved(&mut self, now: Moment, interval: Duration) {
        if !self.unresolved.is_empty() && !self.done && self.reading.is_none() {
            self.read_at.get_or_insert(now + interval);
        }
    }

    /// For a broken rule.
    fn is_old_by(&self, wall: Timestamp) -> bool {
        let record = self.seen.record();
        record.and_then(|record| Some(record.spec.renew_time? + record.duration()?)).is_some_and(|end| end < wall)
    }

    fn verdict(&self) -> Verdict {
        if !self.observed {
            return Verdict::Unknown;
        }
        if self.is_formers_record() {
            return Verdict::Free(Moment::BOOT, Right::OwnFormer);
        }
        let created_wait = match self.broken.is(BrokenRule::LeadAsCreated) {
            true => Duration::ZERO,
            false => self.config.answer_ttl + DELETION_NOTICE,
        };
        let own_duration = match self.broken.is(BrokenRule::ShortDurationBelieved) {
            true => Duration::ZERO,
            false => self.config.lease_duration,
        };
        match self.seen.verdict(own_duration, created_wait) {
            Verdict::Free(..) if self.next_token().is_none() => Verdict::TokenUnusable,
            Verdict::Free(_, right) if self.config.trust_unheld && self.broken.is(BrokenRule::TrustHeld) => {
                Verdict::Free(Moment::BOOT, right)
            }
            verdict => verdict,
        }
    }

    /// The same pod, restarted: its earlier sidecar is dead, and its term goes over to this one (as a new term).
    fn is_formers_record(&self) -> bool {
        self.seen.record().is_some_and(|record| {
            record.holder().is_some_and(|holder| self.former.iter().any(|former| former == holder))
                && (self.seen.claims(record) || self.broken.is(BrokenRule::AnyFormersRecord))
                && self.next_token().is_some()
                && record.spec.strategy.is_none()
                && self.seen.record_is_of_its_time()
        })
    }

    /// When this candidate takes or creates: when the record is free, plus a jitter that is drawn once for each
    /// record. `None`: not by itself.
    fn take_moment(&mut self, verdict: Verdict) -> Option<Moment> {
        if self.taken_away.is_some() && self.broken.is(BrokenRule::LossEndsCampaign) {
            return None;
        }
        let successor = self.seen.record().and_then(Record::step_down).and_then(|request| request.to.as_deref());
        let (free_at, expired) = match verdict {
            Verdict::Absent(at) => (at, false),
            // Nobody else may take it yet: there is nobody to collide with.
            Verdict::Free(at, Right::OwnFormer) => return Some(at),
            // The others wait for this one.
            Verdict::Free(at, Right::Released) if successor == Some(pod_of(&self.config.identity)) => return Some(at),
            Verdict::Free(at, Right::Released) if successor.is_some() && !self.broken.is(BrokenRule::NoHeadStart) => {
                (at + HEAD_START, false)
            }
            Verdict::Free(at, right) => (at, matches!(right, Right::Expired | Right::Waited)),
            Verdict::Unknown | Verdict::HeldUntilDeleted | Verdict::Coordinated | Verdict::TokenUnusable => {
                return None;
            }
        };
        let free_at = free_at.max(self.hold_off_until);
        let at = match self.take_at {
            Some((free, at)) if free == free_at => at,
            _ => {
                let at = free_at + self.jitter.delay(expired);
                self.take_at = Some((free_at, at));
                at
            }
        };
        Some(at)
    }

    /// S3: the verdict says by what right. S5: on the newest version judged, with its uid.
    fn take(&mut self, now: Now) -> Option<Output> {
        let transitions = self.seen.record()?.spec.transitions;
        let token = self.next_token()?;
        let time = self.new_renew_time(now);
        let spec = Spec {
            holder: Some(self.config.identity.clone()),
            duration_seconds: i32::try_from(self.config.lease_duration.as_secs()).ok(),
            acquire_time: Some(time),
            renew_time: Some(time),
            // S9.
            transitions: transitions.saturating_add(i32::from(!self.broken.is(BrokenRule::TransitionsStand))),
            strategy: None,
            preferred_holder: None,
        };
        self.seen.claim(&self.config.identity, token, time);
        Some(self.send(now.boot, Kind::Acquire { token }, spec))
    }

    /// S4: above everything known of this Lease. `None` when no number is left.
    fn next_token(&self) -> Option<u64> {
        let record = self.seen.record()?;
        let annotated = record.token.value().unwrap_or(0);
        // A retry on the same base is the same term: its attempts exclude each other.
        let retry = self.unresolved.iter().find_map(|attempt| match attempt.kind {
            Kind::Acquire { token } if attempt.base_version == record.version => Some(token),
            _ => None,
        });
        if let Some(token) = retry.filter(|token| *token > annotated) {
            return Some(token);
        }
        if self.broken.is(BrokenRule::TokenFromTransitions) {
            return u64::try_from(record.spec.transitions).ok().map(|transitions| transitions + 1);
        }
        let known = match self.broken.is(BrokenRule::TokenIgnoresAnnotation) {
            true => 0,
            false => annotated.max(self.seen.highest_token()),
        };
        let token = record.version.max(known).checked_add(1)?;
        (token <= LARGEST_TOKEN).then_some(token)
    }

    fn send(&mut self, now: Moment, kind: Kind, spec: Spec) -> Output {
        let id = self.next_attempt;
        self.next_attempt += 1;
        let base = match kind {
            Kind::Create => None,
            Kind::Renew if self.broken.is(BrokenRule::RetryOnFirstBase) => self.first_base(),
            _ => self.newest_base(),
        };
        let step_down = match &self.role {
            Role::Leaving(leaving) if kind == Kind::Release && !self.broken.is(BrokenRule::ReleaseNamesNobody) => {
                let to = leaving.successor.as_ref().or(self.successor.as_ref());
                to.map(|to| StepDown { token: leaving.token, to: Some(to.clone()) })
            }
            _ => None,
        };
        let base_version = self.seen.version();
        let uid = base.as_ref().map(|base| base.uid.clone());
        self.in_flight = Some(Attempt { id, sent_at: now, base_version, uid, kind, spec: spec.clone() });
        Output::Write(Write { attempt: id, kind, base, spec, step_down, timeout: self.attempt_timeout(now) })
    }

    fn newest_base(&self) -> Option<Base> {
        self.seen.record().map(|record| Base { uid: record.uid.clone(), version: record.version })
    }

    /// For a broken rule.
    fn first_base(&self) -> Option<Base> {
        let first = self.unresolved.first();
        first
            .and_then(|attempt| Some(Base { uid: attempt.uid.clone()?, version: attempt.base_version }))
            .or_else(|| self.newest_base())
    }

    /// Holder rule 1: new for each attempt, in microseconds, and growing with the boot clock even when the wall clock
    /// stands or goes back: some readers compare whole seconds.
    fn new_renew_time(&mut self, now: Now) -> Timestamp {
        if let Some((last, _)) = self.last_renew_time.filter(|_| self.broken.is(BrokenRule::ReuseRenewTime)) {
            return last;
        }
        let up = i64::try_from(now.boot.as_nanos() / 1000).unwrap_or(i64::MAX);
        let mut micros = now.wall.as_microsecond();
        if let Some((last, at)) = self.last_renew_time {
            let passed = i64::try_from(now.boot.since(at).as_micros()).unwrap_or(i64::MAX);
            micros = micros.max(last.as_microsecond().saturating_add(passed.max(1)));
        }
        if micros > LAST_RENEW_TIME {
            // The wall clock stands at the end of the year 9999, where no time is left to grow into: a renewal that
            // changes nothing would not be seen as one.
            let last = self.last_renew_time.map_or(0, |(last, _)| last.as_microsecond());
            micros = if last < LAST_RENEW_TIME / 2 { up.max(last + 1) } else { up };
        }
        if self.seen.record().and_then(|record| record.spec.renew_time).is_some_and(|t| t.as_microsecond() == micros) {
            micros += 1;
        }
        let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
        self.last_renew_time = Some((time, now.boot));
        time
    }

    fn wake_at(&mut self, now: Moment) -> Moment {
        let mut at = Moment::NEVER;
        match &self.role {
            Role::Leading(term) => at = at.min(term.valid_until),
            Role::Leaving(leaving) if self.shutdown.is_some() && now < leaving.stop_by => at = at.min(leaving.stop_by),
            _ => {}
        }
        if let Some(ending) = &self.shutdown {
            at = at.min(ending.end_by);
            if matches!(self.role, Role::Leading(_)) {
                at = at.min(ending.leave_at);
            }
        }
        if self.in_flight.is_some() {
            // Its outcome comes, at the latest by its time-out, and nothing else is sent before it.
            return at.max(now);
        }
        if self.observed && self.reading.is_none() {
            at = at.min(self.heard + self.watch_silence());
        }
        if let Some(read_at) = self.read_at.filter(|_| self.reading.is_none()) {
            at = at.min(read_at);
        }
        let next = match &self.role {
            Role::Leading(_) | Role::Landed(_) => Some(self.send_at),
            Role::Leaving(leaving) => Some(self.releasable_at(leaving).max(self.send_at)),
            Role::Candidate if self.may_not_lead() => None,
            Role::Candidate => {
                let verdict = self.verdict();
                self.take_moment(verdict).map(|at| at.max(self.send_at))
            }
        };
        // While a conflict is being looked into, only the read's answer or its time moves things on.
        at.min(next.filter(|_| self.read_at.is_none()).unwrap_or(Moment::NEVER)).max(now)
    }
}

/// 9999-12-30: the last renewTime that every reader of RFC 3339 can hold, with room to grow.
const LAST_RENEW_TIME: i64 = 253_402_128_000_000_000;
