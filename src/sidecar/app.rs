//! The loop's side of what the app shows: it waits for news of every kind of evidence, and holds the app's lock
//! while something that an app could read still says yes.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::app::asking::{self, Asking};
use crate::app::lock::{self, Hold, LockSign};
use crate::app::session::Sessions;
use crate::app::{Evidence, Gone, Presence, Sign, health};
use crate::complaint::Complaints;
use crate::time::{Clock, Moment, SystemClock};

use super::{RunError, Settings};

/// Changes of the app's state that wait for the loop.
const NEWS: usize = 16;

pub(super) struct AppSide {
    evidence: Vec<Evidence>,
    presence: Presence,
    pub sessions: Arc<Sessions>,
    pub asking: Arc<Asking>,
    locks: mpsc::Receiver<LockSign>,
    signs: mpsc::Receiver<Sign>,
    /// Kept until then: a file that could not be rewritten still says yes.
    hold: Option<(Hold, Moment)>,
    complaints: Complaints,
}

/// What came.
pub(super) enum News {
    Sign(Sign),
    /// Nobody holds the app's lock, and nobody can take it until the hold is dropped.
    Unlocked(Sign, Hold),
    /// A session was opened or closed.
    Sessions,
}

impl AppSide {
    /// Starts to watch all evidence.
    pub fn new(settings: &Settings) -> Result<Self, RunError> {
        let app = &settings.app;
        let declared = app.evidence.iter().any(|evidence| matches!(evidence, Evidence::Session));
        let sessions = Arc::new(Sessions::new(app.session_name.clone(), declared, settings.election.answer_ttl));
        let asking = Arc::new(Asking::default());
        let (tell_lock, locks) = mpsc::channel(NEWS);
        let (tell, signs) = mpsc::channel(NEWS);
        for (number, evidence) in app.evidence.iter().enumerate() {
            match evidence {
                Evidence::Lock => {
                    let dir = settings.report_dir.as_deref().unwrap_or(Path::new("."));
                    lock::watch(dir.join(lock::ALIVE), tell_lock.clone())
                        .map_err(|error| RunError::Machine("threads", error))?;
                }
                Evidence::Session => {}
                Evidence::Health(target) => {
                    tokio::spawn(health::watch(target.as_ref().clone(), app.health, number, tell.clone()));
                }
                Evidence::Asking => {
                    let (asking, clock) = (Arc::clone(&asking), Arc::new(SystemClock));
                    tokio::spawn(asking::watch(asking, app.timeout, clock, number, tell.clone()));
                }
            }
        }
        let unseen = app.evidence.iter().map(|evidence| match evidence {
            Evidence::Lock => lock::NOT_HELD.into(),
            Evidence::Session => sessions.not_open(),
            Evidence::Health(target) => format!("{target} has not answered yet"),
            Evidence::Asking => "it has not asked yet".into(),
        });
        let presence = Presence::new(unseen);
        Ok(AppSide {
            evidence: app.evidence.clone(),
            presence,
            sessions,
            asking,
            locks,
            signs,
            hold: None,
            complaints: Complaints::default(),
        })
    }

    /// Why the app is not alive, if it is not.
    pub fn gone(&self) -> Option<&str> {
        self.presence.gone()
    }

    /// Waits for the next of all kinds. Dropping the future loses nothing.
    pub async fn news(&mut self) -> News {
        tokio::select! {
            biased;
            Some(sign) = self.locks.recv() => self.of_lock(sign),
            () = self.sessions.changed() => News::Sessions,
            Some(sign) = self.signs.recv() => News::Sign(sign),
        }
    }

    fn of_lock(&mut self, sign: LockSign) -> News {
        // There is one: it was asked to watch.
        let evidence = self.number(|evidence| matches!(evidence, Evidence::Lock)).unwrap_or_default();
        let gone = |why, proved| Sign { evidence, alive: Err(Gone { why, proved }) };
        match sign {
            LockSign::Held => News::Sign(Sign { evidence, alive: Ok(()) }),
            LockSign::Free(hold) => News::Unlocked(gone(lock::NOT_HELD.into(), true), hold),
            LockSign::Broken(error) => {
                let why = error.to_string();
                if self.complaints.is_news(&why, SystemClock.boot()) {
                    tracing::warn!("nothing shows that the app is alive: {why}");
                }
                News::Sign(gone(why, false))
            }
        }
    }

    /// What the open sessions show now, where they are evidence.
    pub fn of_sessions(&self, now: Moment) -> Option<Sign> {
        let evidence = self.number(|evidence| matches!(evidence, Evidence::Session))?;
        Some(Sign { evidence, alive: self.sessions.alive(now) })
    }

    /// What is to be told after a sign.
    pub fn note(&mut self, sign: Sign) -> Option<Result<(), Gone>> {
        self.presence.note(sign)
    }

    /// Keeps an app that wants to start waiting until then.
    pub fn hold_until(&mut self, hold: Hold, until: Moment) {
        self.hold = Some((hold, until));
    }

    /// Lets the lock go when it is time, and says when that will be.
    pub fn let_go(&mut self, now: Moment) -> Moment {
        self.hold.take_if(|(_, until)| now >= *until);
        self.hold.as_ref().map_or(Moment::NEVER, |(_, until)| *until)
    }

    fn number(&self, is: impl Fn(&Evidence) -> bool) -> Option<usize> {
        self.evidence.iter().position(is)
    }
}
