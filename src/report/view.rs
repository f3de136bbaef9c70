//! An answer as JSON: the one form that HTTP, event streams and files share. docs/http.md says what each key means.
//!
//! Keys are only ever added. Every key is always there; what does not apply is null.

use serde::Serialize;

use crate::report::{Answer, Board};
use crate::time::Moment;

#[derive(Serialize)]
pub struct View<'a> {
    pub lease: &'a str,
    pub namespace: &'a str,
    pub pod: &'a str,
    pub leader: bool,
    pub holder: Option<&'a str>,
    pub fencing_token: Option<u64>,
    pub valid_for_ms: u64,
    pub valid_from_uptime: Option<f64>,
    pub valid_until_uptime: Option<f64>,
    pub stop_by_uptime: Option<f64>,
    pub boot_id: &'a str,
    pub lease_remaining_ms: Option<u64>,
    pub acquired_at: Option<String>,
    pub transitions: i32,
    pub version: String,
    pub reason: &'static str,
    pub message: &'a str,
}

impl<'a> View<'a> {
    pub fn new(board: &'a Board, answer: &'a Answer) -> Self {
        let status = &answer.status;
        let promise = answer.promise.as_ref();
        View {
            lease: &board.lease,
            namespace: &board.namespace,
            pod: &board.pod,
            leader: promise.is_some(),
            holder: status.holder_pod(),
            fencing_token: promise.map(|promise| promise.token),
            valid_for_ms: answer.valid_for_ms(),
            valid_from_uptime: promise.map(|_| uptime(answer.now)),
            valid_until_uptime: promise.map(|promise| uptime(promise.until)),
            stop_by_uptime: promise.map(|promise| uptime(promise.stop_by)),
            boot_id: &board.boot_id,
            lease_remaining_ms: status.expires_at.map(|end| whole_ms(end, answer.now)),
            acquired_at: promise.and(status.leading.as_ref()).map(|leading| leading.acquired_at.to_string()),
            transitions: status.transitions,
            version: board.version_text(status.version),
            reason: answer.reason().as_str(),
            message: answer.message(),
        }
    }

    pub fn to_json(&self) -> String {
        // Strings and numbers into memory: nothing here can fail, and an empty answer claims nothing.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Answer {
    /// How long the promise holds from the moment it was computed, rounded down; 0 when not leader.
    pub fn valid_for_ms(&self) -> u64 {
        self.promise.as_ref().map_or(0, |promise| whole_ms(promise.until, self.now))
    }
}

/// As /proc/uptime prints it. Rounding down shortens a promise's end by less than a hundredth; for its beginning it
/// is right as well, for a reader rounds its own clock down, and nobody reads an answer before it was computed.
fn uptime(moment: Moment) -> f64 {
    moment.uptime_hundredths() as f64 / 100.0
}

fn whole_ms(end: Moment, now: Moment) -> u64 {
    u64::try_from(end.since(now).as_millis()).unwrap_or(u64::MAX)
}
