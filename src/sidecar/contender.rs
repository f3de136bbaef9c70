//! One lease's election with what belongs to it: its board, its watch, its state, and who waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{random_share, random_u64};
use crate::app::lock::Enforcement;
use crate::complaint::{Ask, Complaints};
use crate::election::{Config, Election, Input, Reason, Status, pod_of};
use crate::kubernetes::{self, Api, Failure, Watched};
use crate::report::Board;
use crate::report::http::{Course, Refusal, Reply};
use crate::state::{LeaseState, StateDir, StateError};
use crate::time::{Clock, Moment, SystemClock};

/// From the end of what was promised: the hold-off of the pod that stepped down, and the time to write.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(7);
const MOST_STEP_DOWNS: usize = 16;

/// One lease's election and what belongs to it.
pub(super) struct Contender {
    pub election: Election,
    pub api: Arc<Api>,
    pub board: Arc<Board>,
    pub state: Option<LeaseState>,
    pub state_failed: bool,
    pub watch: JoinHandle<()>,
    pub wake_at: Moment,
    pub file_written_at: Moment,
    pub complaints: Complaints,
    pub file_complaints: Complaints,
    /// A not-leader could not be written in time: what the old file said may be acted on until then, also by who read
    /// it before a later writing.
    pub old_file_until: Moment,
    enforcement: Option<Enforcement>,
    /// Somebody enforces the end of a term that is over, or may still begin to, and may work until then.
    pub enforced_until: Option<Moment>,
    /// What a former sidecar of this pod told may be acted on until then.
    pub former_promised_until: Moment,
    step_downs: Vec<PendingStepDown>,
    pub done: bool,
}

/// Who asked this pod to step down, and waits for what comes of it.
struct PendingStepDown {
    reply: Reply,
    answer_by: Moment,
    give_up_at: Moment,
}

impl Contender {
    pub fn new(
        index: usize,
        config: &Config,
        api: Arc<Api>,
        board: Arc<Board>,
        state: Option<&StateDir>,
        enforcement: Option<Enforcement>,
        watched: &mpsc::Sender<(usize, Watched)>,
    ) -> Result<Self, StateError> {
        let (state, inheritance) = match state {
            Some(state) => {
                let (state, inheritance) = state.lease(&board.lease, &config.identity, config.answer_ttl)?;
                (Some(state), inheritance)
            }
            None => Default::default(),
        };
        let now = SystemClock.boot();
        let former_promised_until = now + inheritance.promised_for;
        // Also what began on a former sidecar's yes.
        let enforced_until = (!inheritance.former.is_empty()).then(|| now + config.hold_time());
        let election = Election::new(config.clone(), inheritance.seen, random_u64())
            .succeed(inheritance.former, former_promised_until);
        let watch = spawn_watch(&api, config, index, watched);
        Ok(Contender {
            election,
            api,
            board,
            state_failed: state.as_ref().is_some_and(|state| !state.kept),
            state,
            watch,
            wake_at: Moment::NEVER,
            file_written_at: Moment::BOOT,
            complaints: Complaints::default(),
            file_complaints: Complaints::default(),
            old_file_until: Moment::BOOT,
            enforcement,
            enforced_until,
            former_promised_until,
            step_downs: Vec::new(),
            done: false,
        })
    }
}

pub(super) fn spawn_watch(
    api: &Arc<Api>,
    config: &Config,
    lease: usize,
    tell: &mpsc::Sender<(usize, Watched)>,
) -> JoinHandle<()> {
    let (api, tell, pause) = (Arc::clone(api), tell.clone(), config.renew_interval);
    let spread = random_share();
    tokio::spawn(async move { kubernetes::watch(&api, pause, spread, lease, tell).await })
}

impl Contender {
    /// As the Lease and people name it.
    pub fn pod(&self) -> &str {
        pod_of(&self.election.config().identity)
    }

    // ---- What was promised ----

    /// The end of the last promise, and of what is enforced.
    pub fn promised_until(&self) -> Moment {
        self.board.promised_until().max(self.enforced_until.unwrap_or(Moment::BOOT))
    }

    /// What the election is told of a not-leader, as things stand.
    pub fn withdrawn(&self, version: u64) -> Input {
        let enforced_until = self.enforced_until.unwrap_or(Moment::BOOT);
        Input::Withdrawn { version, promised_until: self.board.promised_until(), enforced_until }
    }

    /// Looks whether somebody may still work in a term that is over, one that ends now with its `stop_by`, or the last:
    /// who holds the lock for it, or takes it and reads a file that could not be written and has not run out. Where
    /// not-leader is told before this is asked, whoever takes the lock later begins nothing.
    pub fn note_enforcers(&mut self, ended: Option<Moment>) {
        let until = ended.or(self.enforced_until);
        let now = SystemClock.boot();
        let mut enforced = || self.enforcement.as_mut().is_some_and(Enforcement::is_held);
        self.enforced_until = until.filter(|until| now < *until && (now < self.old_file_until || enforced()));
    }

    // ---- Stepping down ----

    /// Why a request to step down is not followed.
    pub fn refuses_step_down(&self, to: Option<&str>) -> Option<Refusal> {
        let status = self.board.status();
        let (code, message) = if status.leading_at(SystemClock.boot()).is_none() {
            let why = match status.holder_pod() {
                Some(holder) if holder != self.pod() => format!("{holder} holds the lease"),
                _ => status.message,
            };
            ("not_leader", format!("this pod does not lead: {why}"))
        } else if to == Some(self.pod()) {
            ("leads_already", "this pod leads already: name another one, or none".into())
        } else if self.step_downs.len() >= MOST_STEP_DOWNS {
            ("busy", "too many requests to step down wait for their end".into())
        } else {
            return None;
        };
        Some(Refusal { code, message })
    }

    /// Has who asked wait for what comes of it.
    pub fn stepped_down(&mut self, wait: Duration, reply: Reply) {
        let now = SystemClock.boot();
        let give_up_at = self.promised_until().max(now) + HAND_OVER_PATIENCE;
        self.step_downs.push(PendingStepDown { reply, answer_by: now + wait, give_up_at });
    }

    /// Tells who asked what came of it, once that is known, and says until when the others wait.
    pub fn settle_step_downs(&mut self, now: Moment) -> Moment {
        if self.step_downs.is_empty() {
            return Moment::NEVER;
        }
        let status = self.board.status();
        let outcome = match status.holder_pod() {
            Some(holder) if holder != self.pod() => Some(Ok(Course::Done)),
            _ if status.leading_at(now).is_some() => Some(Err((
                "nobody_took_over",
                "no other pod took the lease after its release, so this pod leads again".to_owned(),
            ))),
            _ => None,
        };
        for pending in std::mem::take(&mut self.step_downs) {
            let outcome = outcome.clone().or_else(|| {
                let message = format!("nobody took the lease in time: {}", status.message);
                match now {
                    now if now >= pending.give_up_at => Some(Err(("nobody_took_over", message))),
                    now if now >= pending.answer_by => Some(Ok(Course::UnderWay)),
                    _ => None,
                }
            });
            match outcome {
                // Who asked may be gone; then nobody is told.
                Some(outcome) => {
                    let _ = pending.reply.send(outcome.map_err(|(code, message)| Refusal { code, message }));
                }
                None => self.step_downs.push(pending),
            }
        }
        self.step_downs.iter().map(|pending| pending.give_up_at.min(pending.answer_by)).min().unwrap_or(Moment::NEVER)
    }

    // ---- The log ----

    /// Logs a failure when it is news, and the end of all failures.
    pub fn note(&mut self, ask: Ask, failure: Option<&Failure>) {
        let (lease, now) = (&self.board.lease, SystemClock.boot());
        match failure {
            // A conflict is how the election works.
            Some(Failure::Status { code: 409, .. }) => {}
            Some(failure) => {
                let text = kubernetes::advice(failure, &self.api);
                if self.complaints.failed(ask, &text, now).is_some() {
                    tracing::warn!(lease, "{text}");
                }
            }
            None => {
                if self.complaints.worked(ask).is_some() {
                    tracing::info!(lease, "the API server answers again");
                }
            }
        }
    }
}

/// Logs what changed hands.
pub(super) fn log_change(board: &Board, before: &Status, status: &Status) {
    if status.version == before.version {
        return;
    }
    let (lease, reason) = (&board.lease, status.reason.as_str());
    match (&status.leading, &before.leading) {
        (Some(leading), _) => {
            tracing::info!(lease, fencing_token = leading.token, transitions = status.transitions, "leading");
        }
        (None, Some(_)) => tracing::info!(lease, reason, why = status.message, "not leading any more"),
        // Its message is the warning that was just logged.
        (None, None) if status.reason == Reason::Refused => {
            if before.reason != Reason::Refused {
                tracing::info!(lease, reason, "not leading");
            }
        }
        (None, None) if status.reason != before.reason || status.holder != before.holder => {
            let holder: String = status.holder.as_deref().map(pod_of).unwrap_or("").chars().take(80).collect();
            tracing::info!(lease, reason, holder, why = status.message, "not leading");
        }
        (None, None) => {}
    }
}
