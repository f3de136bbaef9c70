//! Server-Sent Events: the status at once, at every change, and again before an answer grows old.
//!
//! An event is a promise, so it is computed when the socket can take it and never queued: hyper asks the body for one
//! frame at a time, and while an earlier one still waits for its reader there is none.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::legacy::Legacy;
use super::server::Connection;
use super::{SharedClock, stopped};
use crate::app::session::Session;
use crate::report::Board;
use crate::report::view::View;

pub(super) struct Events {
    board: Arc<Board>,
    clock: SharedClock,
    format: Format,
    connection: Connection,
    /// Ends when the next event is due, and says whether there is one.
    wait: Pin<Box<dyn Future<Output = Next> + Send>>,
    due: bool,
    session: Option<Session>,
    _place: OwnedSemaphorePermit,
}

pub(super) enum Format {
    /// `event: status` with an id, repeated each quarter of the answer TTL: silence means not leader.
    Status,
    /// Only `data:`, only on change, as the old sidecars wrote it.
    Legacy { last: Option<Legacy> },
}

type Next = Option<watch::Receiver<u64>>;

impl Events {
    pub fn new(
        board: Arc<Board>,
        clock: SharedClock,
        format: Format,
        connection: Connection,
        session: Option<Session>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        // Subscribed before the first status is read: what changes in between is then seen twice rather than never.
        let changed = board.subscribe();
        let wait = Box::pin(std::future::ready(Some(changed)));
        Events { board, clock, format, connection, wait, due: false, session, _place: place }
    }

    /// The next event's bytes; none when the server stops.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if !self.due {
                let Some(changed) = ready!(self.wait.as_mut().poll(cx)) else { return Poll::Ready(None) };
                self.wait = Box::pin(next(changed, self.connection.shutdown.clone(), self.repeat()));
                self.due = true;
            }
            if self.connection.activity.is_clogged() {
                // The same task waits for the socket, and asks again when it takes more.
                return Poll::Pending;
            }
            self.due = false;
            if let Some(event) = self.compute() {
                return Poll::Ready(Some(event));
            }
        }
    }

    fn compute(&mut self) -> Option<Bytes> {
        let now = self.clock.boot();
        let may_lead = |token| self.session.as_ref().is_none_or(|session| session.may_lead(token, now));
        let answer = self.board.answer_to(now, may_lead);
        match &mut self.format {
            Format::Status => {
                let view = View::new(&self.board, &answer);
                Some(format!("event: status\nid: {}\ndata: {}\n\n", view.version, view.to_json()).into())
            }
            Format::Legacy { last } => {
                let legacy = Legacy::new(&self.board, &answer, self.clock.wall());
                let changed = last.as_ref().is_none_or(|last| last.name != legacy.name);
                let event = changed.then(|| format!("data: {}\n\n", legacy.to_json()).into());
                *last = Some(legacy);
                event
            }
        }
    }

    fn repeat(&self) -> Option<Duration> {
        matches!(self.format, Format::Status).then(|| self.board.answer_ttl() / 4)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(session) = &mut self.session {
            session.close(self.connection.activity.is_closed_by_peer());
        }
    }
}

async fn next(
    mut changed: watch::Receiver<u64>,
    mut shutdown: watch::Receiver<bool>,
    repeat: Option<Duration>,
) -> Next {
    let repeat = async {
        match repeat {
            Some(repeat) => tokio::time::sleep(repeat).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stopped(&mut shutdown) => return None,
        gone = changed.changed() => if gone.is_err() { return None },
        () = repeat => {}
    }
    Some(changed)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::election::{Leading, Reason, Status};
    use crate::report::http::socket::Activity;
    use crate::time::{Clock, Moment, SystemClock};

    #[tokio::test]
    async fn nothing_is_promised_to_a_socket_that_takes_no_more() {
        let names = || "x".to_owned();
        let board = Arc::new(Board::new(names(), names(), names(), names(), Duration::from_secs(1)));
        let now = SystemClock.boot();
        let later = now + Duration::from_secs(9);
        let acquired_at = SystemClock.wall();
        let leading = Some(Leading { token: 1, valid_until: later, stop_by: later, acquired_at });
        board.publish(Status { leading, reason: Reason::Leading, version: 1, ..Status::starting() }, acquired_at);
        let (_stop, shutdown) = watch::channel(false);
        let activity = Arc::new(Activity::new(now));
        let connection = Connection { is_unix: false, activity: Arc::clone(&activity), shutdown };
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut events =
            Events::new(Arc::clone(&board), Arc::new(SystemClock), Format::Status, connection, None, place);

        let mut cx = Context::from_waker(Waker::noop());
        activity.set_clogged(true);
        assert!(events.poll_next(&mut cx).is_pending());
        assert_eq!(board.promised_until(), Moment::BOOT);
        activity.set_clogged(false);
        assert!(matches!(events.poll_next(&mut cx), Poll::Ready(Some(_))));
        assert!(board.promised_until() > now);
        assert!(events.poll_next(&mut cx).is_pending(), "one event at a time");
    }
}
