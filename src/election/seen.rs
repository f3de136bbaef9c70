//! What this candidate has seen of the Lease, and from when on it may take it.
//!
//! The age of a record is the time on this candidate's own clock since it first saw the newest spec. Nothing written
//! in the record is compared with a clock: a wall clock may be wrong, and a foreign one is. The whole of [`Seen`] is
//! kept in the state directory, so that a sidecar that restarts does not begin to wait anew.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::broken::{Broken, BrokenRule};
use super::config::LARGEST_TOKEN;
use super::record::{Record, Token};
use crate::time::Moment;

/// Claims that are remembered; an older write that lands ages out.
const CLAIMS_KEPT: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seen {
    /// The newest record; `None` while nothing is known and when the Lease does not exist.
    record: Option<Record>,
    standing: Standing,
    /// The newest version known: the record's, or the list's that did not hold one.
    version: u64,
    /// When that version was received.
    received: Moment,
    /// When the newest spec, uid or absence was first seen.
    since: Moment,
    /// The last term seen whose end is not proved.
    outstanding: Option<Term>,
    /// The largest duration of the last held record.
    last_duration: Duration,
    /// Nobody may take before it, whatever the record says.
    not_before: Moment,
    /// How often in a row the record became unheld without proof.
    waits_in_a_row: u32,
    /// The token of the newest record that had one, in this history.
    newest_token: u64,
    highest_token: u64,
    /// Identity, token and acquireTime of the newest acquiring writes of this pod.
    claims: Vec<(String, u64, Timestamp)>,
    /// Per uid: a Lease that is created anew begins to count anew.
    highest_transitions: Option<(String, i32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Standing {
    Unknown,
    /// Never existed, as far as this candidate knows.
    NeverSeen,
    /// Existed, and does no more.
    Gone,
    Held,
    Released,
    Unproved,
    /// Unheld, and created by this candidate, which waited for a former leader's promises.
    CreatedHere,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Term {
    uid: String,
    holder: String,
    transitions: i32,
    token: u64,
    /// The largest that was seen in this term.
    duration: Duration,
}

/// What an observation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Older than what is known: ignored.
    Stale,
    /// Nothing.
    Same,
    /// The version, but not the spec.
    Version,
    /// The spec, the uid, or whether the Lease exists.
    Spec,
    /// A consistent read went back: history was replaced (a restore of etcd).
    RolledBack,
}

/// When the record can be taken, and by what right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing has been read.
    Unknown,
    /// It does not exist, and may be created from this moment on.
    Absent(Moment),
    /// Free from this moment on.
    Free(Moment, Right),
    /// Never by its age: held in the nais format, until it is deleted.
    HeldUntilDeleted,
    /// Coordinated election decides (KEP-4355).
    Coordinated,
    /// The token annotation is no number that can grow.
    TokenUnusable,
}

/// By what right a record is free (S3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Its holder proved that it stopped.
    Released,
    /// Its holder did not renew it for its duration.
    Expired,
    /// It is unheld without proof, and was waited for.
    Waited,
    /// This candidate created it, and waited for what a deleted Lease's leader had promised.
    Created,
    /// This pod's former sidecar held it, and is dead.
    OwnFormer,
}

/// How an observation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By the watch, or as the answer to an own write.
    Event,
    /// By a consistent read, asked for at this moment.
    Read { sent_at: Moment },
}

impl Seen {
    pub fn nothing() -> Self {
        Seen {
            record: None,
            standing: Standing::Unknown,
            version: 0,
            received: Moment::BOOT,
            since: Moment::BOOT,
            outstanding: None,
            last_duration: Duration::ZERO,
            not_before: Moment::BOOT,
            waits_in_a_row: 0,
            newest_token: 0,
            highest_token: 0,
            claims: Vec::new(),
            highest_transitions: None,
        }
    }

    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn is_known(&self) -> bool {
        self.standing != Standing::Unknown
    }

    pub fn waits_in_a_row(&self) -> u32 {
        self.waits_in_a_row
    }

    pub fn highest_token(&self) -> u64 {
        self.highest_token
    }

    /// An acquiring write goes out with these.
    pub fn claim(&mut self, identity: &str, token: u64, acquire_time: Timestamp) {
        if self.claims.len() == CLAIMS_KEPT {
            self.claims.remove(0);
        }
        self.claims.push((identity.to_owned(), token, acquire_time));
    }

    /// The record is of its holder's making, in this pod, however edited since: somebody may have put this name into
    /// another's record, and that gives no right to it.
    pub fn claims(&self, record: &Record) -> bool {
        self.claims.iter().any(|(identity, token, acquire_time)| {
            record.holder() == Some(identity)
                && record.token == Token::Value(*token)
                && record.spec.acquire_time == Some(*acquire_time)
        })
    }

    /// Takes in one version of the Lease, or its absence as of `version`.
    pub fn observe(&mut self, now: Moment, record: Option<Record>, version: u64, via: Via, rules: Rules) -> News {
        let same = self.is_known() && self.same_spec(record.as_ref()) && !self.may_hide_a_term(version, via);
        let rolled_back = match via {
            _ if !self.is_known() => false,
            // An answer to a question asked after the newest version was received cannot be older than it, unless
            // history was replaced.
            Via::Read { sent_at } if sent_at > self.received || rules.broken.is(BrokenRule::OldReadGoesBack) => {
                version < self.version || (version == self.version && !same)
            }
            _ if version < self.version && !rules.broken.is(BrokenRule::BelieveOlderVersions) => return News::Stale,
            _ => false,
        };
        if self.is_known() && version == self.version && !rolled_back {
            return News::Same;
        }
        self.version = version;
        self.received = now;
        if same && !rolled_back {
            self.record = record;
            self.note_token();
            if rules.broken.is(BrokenRule::LabelsRestartAge) {
                self.since = now;
            }
            return News::Version;
        }
        let first = !self.is_known();
        self.since = now;
        let before = std::mem::replace(&mut self.record, record);
        if rolled_back {
            // Whoever the new history names, the old one's holder may still act: wait a full duration.
            self.newest_token = 0;
            self.hold_off(now, self.displaced_duration().max(rules.own_duration));
        }
        self.judge(now, first, before.as_ref(), rules);
        self.note_token();
        if rolled_back { News::RolledBack } else { News::Spec }
    }

    /// Challenger rule 4: what the newest record means for who may take it, and when.
    fn judge(&mut self, now: Moment, first: bool, before: Option<&Record>, rules: Rules) {
        let Some(record) = self.record.clone() else {
            if first {
                self.standing = Standing::NeverSeen;
            } else if self.standing != Standing::NeverSeen {
                self.became_unproved(now, Standing::Gone, Duration::ZERO, rules);
            }
            return;
        };
        let token = record.token.value().unwrap_or(0);
        if let Some(holder) = record.holder() {
            let duration = record.duration().unwrap_or(self.last_duration.max(rules.own_duration));
            let mut term = Term {
                uid: record.uid.clone(),
                holder: holder.to_owned(),
                transitions: record.spec.transitions,
                token,
                duration,
            };
            if let Some(last) = &self.outstanding {
                if rules.broken.is(BrokenRule::NewestDuration) {
                    // The newest stands.
                } else if last.is_continued_by(&term) {
                    term.duration = term.duration.max(last.duration);
                } else if !last.is_succeeded_by(&term.uid, token, term.transitions) {
                    // Whoever wrote this did not wait for the last term by our rules.
                    self.hold_off(now, last.duration);
                }
            }
            if before.is_some_and(|before| before.is_taken_over_by(&record)) {
                // Its taker waited for all that came before, by these same rules.
                self.not_before = Moment::BOOT;
            }
            self.last_duration = term.duration;
            self.outstanding = Some(term);
            self.standing = Standing::Held;
            self.waits_in_a_row = 0;
        } else if rules.created_here {
            self.standing = Standing::CreatedHere;
        } else if (record.is_proved_release() || rules.broken.is(BrokenRule::AnyProof) && record.released.is_some())
            && before.is_none_or(|before| before.uid == record.uid && !before.is_held_at(record.spec.renew_time))
            && self.release_is_of_its_time(&record, token)
        {
            self.outstanding = None;
            self.standing = Standing::Released;
            self.waits_in_a_row = 0;
        } else {
            self.became_unproved(now, Standing::Unproved, record.duration().unwrap_or_default(), rules);
        }
    }

    /// A proof counts for the last term seen or a later one; an older record that was put back proves nothing.
    fn release_is_of_its_time(&self, record: &Record, token: u64) -> bool {
        match &self.outstanding {
            Some(last) => {
                record.uid == last.uid
                    && (token, record.spec.transitions) >= (last.token, last.transitions)
                    && record.spec.transitions >= last.transitions
            }
            None => token >= self.newest_token,
        }
    }

    fn became_unproved(&mut self, now: Moment, standing: Standing, claimed: Duration, rules: Rules) {
        if !rules.trust_unheld {
            self.hold_off(now, self.displaced_duration().max(rules.own_duration).max(claimed));
        }
        self.outstanding = None;
        self.standing = standing;
        self.waits_in_a_row = self.waits_in_a_row.saturating_add(1);
    }

    fn displaced_duration(&self) -> Duration {
        self.outstanding.as_ref().map_or(self.last_duration, |last| last.duration)
    }

    fn hold_off(&mut self, now: Moment, duration: Duration) {
        self.not_before = self.not_before.max(now + duration);
    }

    fn note_token(&mut self) {
        let Some(record) = &self.record else { return };
        if let Some(token) = record.token.value() {
            self.newest_token = token;
            // The last number of all is more likely a mistake than a term: who takes it back is let go on.
            if token < LARGEST_TOKEN {
                self.highest_token = self.highest_token.max(token);
            }
            if let Some(last) = self.outstanding.as_mut().filter(|last| last.uid == record.uid) {
                last.token = last.token.max(token);
            }
        }
        let transitions = record.spec.transitions;
        match &mut self.highest_transitions {
            Some((uid, highest)) if *uid == record.uid => *highest = (*highest).max(transitions),
            other => *other = Some((record.uid.clone(), transitions)),
        }
    }

    /// A list or a read shows the newest version and not those between. A held or released spec is written once, for
    /// its renewTime is its own; an empty one that somebody applies again and again may have had a whole term in
    /// between.
    fn may_hide_a_term(&self, version: u64, via: Via) -> bool {
        self.standing == Standing::Unproved && version != self.version && matches!(via, Via::Read { .. })
    }

    fn same_spec(&self, other: Option<&Record>) -> bool {
        match (&self.record, other) {
            (None, None) => true,
            (Some(mine), Some(other)) => mine.uid == other.uid && mine.spec == other.spec,
            _ => false,
        }
    }

    /// Whether the newest record is not older than anything seen here: an older one was put back by somebody, and
    /// gives its holder no rights.
    pub fn record_is_of_its_time(&self) -> bool {
        self.record.as_ref().is_some_and(|record| {
            record.token.value().unwrap_or(0) >= self.highest_token
                && self
                    .highest_transitions
                    .as_ref()
                    .is_none_or(|(uid, highest)| *uid != record.uid || record.spec.transitions >= *highest)
        })
    }

    pub fn verdict(&self, own_duration: Duration, created_wait: Duration) -> Verdict {
        let Some(record) = &self.record else {
            return match self.standing {
                Standing::Unknown => Verdict::Unknown,
                _ => Verdict::Absent(self.since.max(self.not_before)),
            };
        };
        if record.spec.strategy.is_some() {
            return Verdict::Coordinated;
        }
        if record.token == Token::Unreadable {
            return Verdict::TokenUnusable;
        }
        match self.standing {
            Standing::Held if record.spec.duration_seconds.is_none() && record.pod_owned => Verdict::HeldUntilDeleted,
            Standing::Held => {
                let duration = self.displaced_duration().max(own_duration);
                Verdict::Free((self.since + duration).max(self.not_before), Right::Expired)
            }
            Standing::Released => Verdict::Free(self.since.max(self.not_before), Right::Released),
            Standing::CreatedHere => Verdict::Free((self.since + created_wait).max(self.not_before), Right::Created),
            Standing::Unproved | Standing::Gone | Standing::NeverSeen | Standing::Unknown => {
                Verdict::Free(self.since.max(self.not_before), Right::Waited)
            }
        }
    }
}

/// What the judging of a version needs to know beside it.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub own_duration: Duration,
    pub trust_unheld: bool,
    /// This very record was written by this candidate's creating write.
    pub created_here: bool,
    pub(super) broken: Broken,
}

impl Term {
    fn is_continued_by(&self, other: &Term) -> bool {
        (&self.uid, &self.holder, self.transitions) == (&other.uid, &other.holder, other.transitions)
    }

    /// A take-over by our rules raises both; client-go raises the transitions alone.
    fn is_succeeded_by(&self, uid: &str, token: u64, transitions: i32) -> bool {
        self.uid == uid && token > self.token && transitions > self.transitions
    }
}
