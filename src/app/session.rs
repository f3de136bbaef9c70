//! Open `GET /v1/session` connections: while one is open, the app lives; of several exclusive ones, one leads.
//!
//! Whoever chooses a session as evidence declares that what leads here ends with that connection. So its end is a
//! proof when the other side closed it, and none when this side did (a reader that does not read, a shutdown): then
//! the app may still act on what it was told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Gone;
use crate::time::Moment;

/// Every open session of this sidecar.
pub struct Sessions {
    /// Only sessions of this name count, where one is given.
    name: Option<String>,
    /// They are evidence: what leads here ends with its connection. Elsewhere it may live on without.
    declared: bool,
    answer_ttl: Duration,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// How many that count are open.
    counted: usize,
    /// What was told to a session that this side closed, or that a former sidecar's end did, may be acted on until then.
    told_until: Moment,
    /// This side closed one since the last look. Until then, a question that was on its way may have been answered.
    closed_here: bool,
    /// By lease: the token that an exclusive session was told to lead under. It is told to no other.
    led: HashMap<usize, Led>,
    /// By lease: the newest token that was told to a session which does not ask for it alone.
    shared: HashMap<usize, u64>,
    /// Before it, a session of a former sidecar may act on what that one told.
    former_until: Moment,
}

#[derive(Clone, Copy)]
struct Led {
    token: u64,
    session: u64,
    /// The session is closed; whether by its own side.
    ended: Option<bool>,
    /// What it was told may be acted on until then.
    told_until: Moment,
}

impl Sessions {
    pub fn new(name: Option<String>, declared: bool, answer_ttl: Duration) -> Self {
        Sessions { name, declared, answer_ttl, inner: Mutex::default(), changed: Notify::new() }
    }

    /// Opens a session for a lease, by its index.
    pub fn open(self: &Arc<Self>, lease: usize, name: Option<&str>, exclusive: bool) -> Session {
        let counts = self.counts(name);
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.counted += usize::from(counts);
        drop(inner);
        self.changed.notify_one();
        Session { number, lease, counts, exclusive, sessions: Arc::clone(self) }
    }

    /// A session of this name says that the app lives.
    pub fn counts(&self, name: Option<&str>) -> bool {
        self.name.is_none() || self.name.as_deref() == name
    }

    /// What a former sidecar of this pod told to its sessions may be acted on until then: their readers need not have
    /// come back.
    pub fn succeed(&self, promised_until: Moment) {
        let mut inner = self.lock();
        inner.former_until = inner.former_until.max(promised_until);
        inner.told_until = inner.told_until.max(promised_until);
    }

    /// Ends when a session was opened or closed since the last call. Meant for one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether the app lives, as sessions show it at `now`.
    pub fn alive(&self, now: Moment) -> Result<(), Gone> {
        let mut inner = self.lock();
        inner.look(now, self.answer_ttl);
        if inner.counted > 0 {
            return Ok(());
        }
        Err(Gone { why: self.not_open(), proved: now >= inner.told_until })
    }

    /// Why the app is not alive without a session.
    pub fn not_open(&self) -> String {
        let which = self.name.as_ref().map_or(String::new(), |name| format!(" named {name:?}"));
        format!("no session{which} is open")
    }

    /// The exclusive session that led under this token is closed; whether that proves that nobody acts on what was told
    /// under it: others, who did not ask for it alone, may still. Told once.
    pub fn leader_ended(&self, lease: usize, token: u64, now: Moment) -> Option<Gone> {
        let mut inner = self.lock();
        inner.look(now, self.answer_ttl);
        let others_act = now < inner.told_until || inner.shared.get(&lease) == Some(&token);
        let led = inner.led.get_mut(&lease).filter(|led| led.token == token)?;
        let by_peer = led.ended.take()?;
        Some(Gone { why: "the session that led has ended".into(), proved: by_peer && self.declared && !others_act })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while holding it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The loop looks: whatever it does next counts with what was told before.
    fn look(&mut self, now: Moment, answer_ttl: Duration) {
        if std::mem::take(&mut self.closed_here) {
            self.told_until = self.told_until.max(now + answer_ttl);
        }
    }
}

/// One open session, ended by [`Session::close`].
pub struct Session {
    number: u64,
    lease: usize,
    counts: bool,
    exclusive: bool,
    sessions: Arc<Sessions>,
}

impl Session {
    /// This session may be told at `now` that it leads under `token`: always, unless it is exclusive and another was
    /// first.
    pub fn may_lead(&self, token: u64, now: Moment) -> bool {
        let mut inner = self.sessions.lock();
        if !self.exclusive {
            inner.shared.insert(self.lease, token);
            return true;
        }
        if !self.counts || now < inner.former_until {
            return false;
        }
        let told_until = now + self.sessions.answer_ttl;
        let led = inner.led.entry(self.lease).or_insert(Led {
            token,
            session: self.number,
            ended: None,
            told_until: Moment::BOOT,
        });
        if led.token < token && (led.session == self.number || now >= led.told_until) {
            *led = Led { token, session: self.number, ended: None, told_until };
        }
        let may = led.token == token && led.session == self.number;
        if may {
            led.told_until = told_until;
        }
        may
    }

    /// Its connection is closed: by the other side, or by this one.
    pub fn close(&mut self, by_peer: bool) {
        let mut inner = self.sessions.lock();
        if std::mem::take(&mut self.counts) {
            inner.counted -= 1;
            inner.closed_here |= !by_peer;
        }
        if let Some(led) = inner.led.get_mut(&self.lease)
            && led.session == self.number
        {
            led.ended = Some(by_peer);
            if by_peer && self.sessions.declared {
                led.told_until = Moment::BOOT;
            }
        }
        drop(inner);
        self.sessions.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sessions(name: Option<&str>) -> (Arc<Sessions>, Moment) {
        (Arc::new(Sessions::new(name.map(str::to_owned), true, SECOND)), Moment::BOOT + SECOND * 1000)
    }

    #[test]
    fn what_the_other_side_closed_is_proved_and_what_this_side_closed_once_its_answers_are_old() {
        let (sessions, now) = sessions(None);
        assert!(!sessions.alive(now).unwrap_err().why.is_empty());
        let (mut first, mut second) = (sessions.open(0, None, false), sessions.open(0, Some("x"), false));
        assert_eq!(sessions.alive(now), Ok(()));
        first.close(false);
        assert_eq!(sessions.alive(now), Ok(()));
        second.close(true);
        assert!(!sessions.alive(now).unwrap_err().proved);
        assert!(sessions.alive(now + SECOND).unwrap_err().proved);
    }

    #[test]
    fn what_was_told_before_the_closing_was_looked_at_counts_as_well() {
        let (sessions, now) = sessions(None);
        let mut session = sessions.open(0, None, false);
        assert_eq!(sessions.alive(now), Ok(()));
        session.close(false);
        // This process stood still, and answered a question first when it went on.
        let later = now + SECOND * 10;
        assert!(!sessions.alive(later).unwrap_err().proved);
        assert!(sessions.alive(later + SECOND).unwrap_err().proved);
    }

    #[test]
    fn a_session_of_another_name_keeps_nothing_alive_and_never_leads_exclusively() {
        let (sessions, now) = sessions(Some("worker"));
        let debugging = sessions.open(0, None, true);
        assert!(!debugging.may_lead(7, now));
        assert!(sessions.alive(now).is_err());
        let worker = sessions.open(0, Some("worker"), true);
        assert_eq!(sessions.alive(now), Ok(()));
        assert!(worker.may_lead(7, now));
    }

    #[test]
    fn a_token_is_told_to_one_exclusive_session_only() {
        let (sessions, now) = sessions(None);
        let (mut first, second) = (sessions.open(0, None, true), sessions.open(0, None, true));
        let other_lease = sessions.open(1, None, true);
        assert!(first.may_lead(7, now));
        assert!(!second.may_lead(7, now));
        assert!(first.may_lead(7, now));
        assert!(other_lease.may_lead(8, now));
        first.close(true);
        assert!(!second.may_lead(7, now), "its token is used");
        assert_eq!(sessions.leader_ended(0, 6, now), None);
        assert!(sessions.leader_ended(0, 7, now).unwrap().proved);
        assert_eq!(sessions.leader_ended(0, 7, now), None);
        assert!(second.may_lead(9, now));
        assert!(!first.may_lead(7, now), "an old token leads no more");
    }

    #[test]
    fn the_end_of_the_session_that_led_proves_nothing_of_others_that_were_told_so() {
        let (sessions, now) = sessions(None);
        let (mut alone, not_alone) = (sessions.open(0, None, true), sessions.open(0, None, false));
        assert!(alone.may_lead(7, now));
        assert!(not_alone.may_lead(7, now), "who does not ask for it alone is told what the pod is");
        alone.close(true);
        assert!(!sessions.leader_ended(0, 7, now).unwrap().proved);
    }

    #[test]
    fn where_sessions_are_no_evidence_one_that_ended_may_act_on_what_it_was_told() {
        let (sessions, now) = (Arc::new(Sessions::new(None, false, SECOND)), Moment::BOOT + SECOND * 1000);
        let (mut first, second) = (sessions.open(0, None, true), sessions.open(0, None, true));
        assert!(first.may_lead(7, now));
        first.close(true);
        assert!(!sessions.leader_ended(0, 7, now).unwrap().proved);
        assert!(!second.may_lead(8, now));
        assert!(second.may_lead(8, now + SECOND));
    }

    #[test]
    fn no_exclusive_session_leads_while_one_of_a_former_sidecar_may() {
        let (sessions, now) = sessions(None);
        sessions.succeed(now + SECOND);
        let session = sessions.open(0, None, true);
        assert!(!session.may_lead(7, now));
        assert!(session.may_lead(7, now + SECOND));
    }

    #[test]
    fn under_a_new_token_another_session_leads_once_the_former_one_cannot() {
        let (sessions, now) = sessions(None);
        let (mut first, second) = (sessions.open(0, None, true), sessions.open(0, None, true));
        assert!(first.may_lead(7, now));
        assert!(!second.may_lead(8, now), "the first may act on what it was told");
        assert!(second.may_lead(8, now + SECOND));
        assert!(!first.may_lead(9, now + SECOND));
        first.close(true);
        assert!(second.may_lead(9, now + SECOND));
    }

    #[test]
    fn the_end_of_a_session_proves_nothing_of_what_a_former_sidecar_told() {
        let (sessions, now) = sessions(None);
        sessions.succeed(now + SECOND);
        sessions.open(0, None, false).close(true);
        assert!(!sessions.alive(now).unwrap_err().proved);
        assert!(sessions.alive(now + SECOND).unwrap_err().proved);
    }
}
