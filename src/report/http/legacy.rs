//! The answer of the sidecars that came before: `{"name": LEADER'S POD, "last_update": RFC 3339}`, which an app
//! compares with its own host name.
//!
//! As nais/elector writes it (pkg/election/official/official.go): a key without a value is left out, times are whole
//! seconds, and its stream is bare `data:` lines. The retired `leader-elector` of Kubernetes wrote the name alone.
//! It says nothing of how long it is true: whoever needs that asks `/leader`.

use jiff::{RoundMode, TimestampRound, Unit};
use serde::Serialize;

use crate::report::{Answer, Board};

#[derive(Serialize)]
pub(super) struct Legacy {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_update: Option<String>,
}

impl Legacy {
    pub fn new(board: &Board, answer: &Answer) -> Self {
        // This pod's name is a yes to the app beside us, so only a promise may put it there, whatever the record says.
        let name = match &answer.promise {
            Some(_) => Some(board.pod.as_str()),
            None => answer.status.holder_pod().filter(|holder| *holder != board.pod),
        };
        let second = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Trunc);
        let last_update = answer.changed_at.map(|at| at.round(second).unwrap_or(at).to_string());
        Legacy { name: name.map(str::to_owned), last_update }
    }

    pub fn to_json(&self) -> String {
        // Two strings: nothing here can fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}
