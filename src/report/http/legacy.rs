//! The answer of the sidecars that came before: `{"name": LEADER, "last_update": RFC 3339}`, which an app compares with
//! its own host name.
//!
//! As nais/elector writes it: times are whole seconds, and its stream is bare `data:` lines. But both keys are always
//! there. That elector left `name` out until it knew a leader, which then led for life; here nobody leads between two
//! terms, and a typed client that meets a missing key fails, some of them into acting as leader. The retired
//! `leader-elector` of Kubernetes wrote the name alone, the empty one when it knew none, which is no host's name.
//! It says nothing of how long it is true: whoever needs that asks `/leader`.

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use serde::Serialize;

use crate::report::{Answer, Board};

#[derive(Serialize)]
pub(super) struct Legacy {
    pub name: String,
    last_update: String,
}

impl Legacy {
    /// `wall` is the time of an answer that speaks of no change, because nothing was seen yet.
    pub fn new(board: &Board, answer: &Answer, wall: Timestamp) -> Self {
        // This pod's name is a yes to the app beside us, so only a promise may put it there, whatever the record says.
        let is_ours = |holder: &&str| *holder == board.identity || *holder == board.pod;
        let name = match &answer.promise {
            Some(_) => board.identity.as_str(),
            None => answer.status.holder_pod().filter(|holder| !is_ours(holder)).unwrap_or_default(),
        };
        let second = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Trunc);
        let changed_at = answer.changed_at.unwrap_or(wall);
        Legacy { name: name.to_owned(), last_update: changed_at.round(second).unwrap_or(changed_at).to_string() }
    }

    pub fn to_json(&self) -> String {
        // Two strings: nothing here can fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}
