//! What an election tells of itself: the [`Status`] that follows from its state, and why, in a word and a sentence.

use std::time::Duration;

use super::config::LARGEST_TOKEN;
use super::message::Output;
use super::record::Record;
use super::seen::{Right, Verdict};
use super::status::{Leading, Reason, Status, pod_of};
use super::{Election, Role};
use crate::time::Moment;

impl Election {
    pub(super) fn publish(&mut self, now: Moment, outputs: &mut Vec<Output>) {
        let mut status = self.describe(now);
        let before = &self.status;
        let token = |status: &Status| status.leading.map(|leading| leading.token);
        let news = (token(before), &before.holder, before.transitions, before.reason, &before.message)
            != (token(&status), &status.holder, status.transitions, status.reason, &status.message);
        status.version = before.version + u64::from(news);
        if status != *before {
            if status.leading.is_some() {
                self.led_version = status.version;
            }
            self.status = status.clone();
            outputs.push(Output::Publish(status));
        }
    }

    fn describe(&self, now: Moment) -> Status {
        let record = self.seen.record();
        let (reason, message) = self.reason(now);
        Status {
            leading: match &self.role {
                Role::Leading(term) => Some(Leading {
                    token: term.draft.token,
                    valid_until: term.valid_until,
                    stop_by: term.stop_by,
                    acquired_at: term.draft.acquired_at,
                }),
                _ => None,
            },
            holder: record.and_then(|record| record.spec.holder.clone()),
            transitions: record.map_or(0, |record| record.spec.transitions),
            expires_at: match (&self.role, record.and_then(Record::holder)) {
                (Role::Leading(term), _) => Some(term.stop_by),
                (_, Some(_)) => match self.seen.verdict(self.config.lease_duration, Duration::ZERO) {
                    Verdict::Free(at, Right::Expired) => Some(at),
                    _ => None,
                },
                _ => None,
            },
            version: 0,
            reason,
            message,
        }
    }

    fn reason(&self, now: Moment) -> (Reason, String) {
        let duration = self.config.lease_duration.as_secs();
        if let Some(reason) = self.ended {
            return (reason, self.ending(reason));
        }
        match &self.role {
            Role::Leading(_) => return (Reason::Leading, "this pod leads".into()),
            Role::Leaving(leaving) => return (leaving.reason, self.ending(leaving.reason)),
            Role::Landed(_) => return (Reason::Acquiring, "the lease was taken late and is being renewed".into()),
            Role::Candidate => {}
        }
        if let Some((reason, until)) = self.taken_away
            && now < until
            && self.may_not_lead()
        {
            return (reason, ending(reason));
        }
        if self.shutdown.is_some() {
            return (Reason::ShuttingDown, ending(Reason::ShuttingDown));
        }
        if let Some(gone) = &self.app_gone {
            return (Reason::AppNotAlive, format!("the app is not alive: {}", gone.why));
        }
        if let Some(advice) = &self.refusal {
            return (Reason::Refused, advice.clone());
        }
        let unproved = |waits: u32| {
            let again = if waits > 1 {
                format!("; it became so {waits} times in a row: does a job re-apply this Lease?")
            } else {
                String::new()
            };
            let what = if self.seen.record().is_some() { "the lease is unheld" } else { "the Lease was deleted" };
            format!("{what} and nothing proves that its last holder stopped, so it is waited for{again}")
        };
        match self.verdict() {
            Verdict::Unknown => match &self.watch_failure {
                Some(advice) => (Reason::Refused, advice.clone()),
                None => (Reason::Starting, "the lease has not been read yet".into()),
            },
            Verdict::Absent(at) if at > now => (Reason::WaitingUnproved, unproved(self.seen.waits_in_a_row())),
            Verdict::Absent(_) => (Reason::Creating, "the Lease does not exist and is being created".into()),
            Verdict::Free(at, Right::Expired) if at > now => {
                let holder = self.seen.record().and_then(Record::holder).map_or("another", pod_of);
                (Reason::HeldByOther, format!("{} holds the lease", shortened(holder)))
            }
            Verdict::Free(_, Right::Created) => (
                Reason::Creating,
                "the Lease was just created; a former leader, if there was one, has the time to hear of it".into(),
            ),
            Verdict::Free(at, _) if at > now => (Reason::WaitingUnproved, unproved(self.seen.waits_in_a_row())),
            Verdict::Free(..) => (Reason::Acquiring, "the lease is free and is being taken".into()),
            Verdict::HeldUntilDeleted => (
                Reason::HeldByOther,
                "the lease is held without a duration by a Pod that owns it: it is free when it is deleted".into(),
            ),
            Verdict::Coordinated => (
                Reason::CoordinatedElection,
                format!(
                    "spec.strategy is set, so the control plane elects; remove it to let pods contend (lease duration {duration} s)"
                ),
            ),
            Verdict::TokenUnusable => (Reason::TokenUnusable, token_advice()),
        }
    }
}

impl Election {
    fn ending(&self, reason: Reason) -> String {
        match (reason, &self.app_gone) {
            (Reason::AppNotAlive, Some(gone)) => format!("the app is not alive: {}", gone.why),
            _ => ending(reason),
        }
    }
}

fn token_advice() -> String {
    format!(
        "the annotation leasehold.dev/token is no whole number below {LARGEST_TOKEN}: set it to the highest token ever given out, or remove it"
    )
}

fn ending(reason: Reason) -> String {
    match reason {
        Reason::RenewDeadline => "no renewal succeeded within the renew deadline",
        Reason::Lost => "another holder appeared in the lease",
        Reason::Edited => "somebody edited the lease",
        Reason::Deleted => "the Lease was deleted",
        Reason::SteppedDown => "this pod steps down on request",
        Reason::AppNotAlive => "the app is not alive",
        Reason::ShuttingDown => "this sidecar is ending",
        _ => "the term is over",
    }
    .into()
}

/// A holder's name for a message: another party wrote it, and it may be a megabyte.
fn shortened(name: &str) -> String {
    let mut short: String = name.chars().take(80).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short
}
