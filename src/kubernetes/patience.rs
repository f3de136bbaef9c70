//! A connection that is being made outlives the request that asked for it: the next one waits on for the same.
//!
//! A request gives up after two seconds at most. Where a connection takes longer than that, as a TLS handshake does
//! with an API server to which everybody comes back at once, requests that each began a new one would never be
//! answered, and would add to what keeps it busy. So a connection has more time, and another is tried beside it now
//! and then, for one that is lost on its way may never come about.

use std::error::Error;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use tokio::sync::Notify;
use tower::Service;

use crate::time::{Clock, Moment, SystemClock};

/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long another is tried beside it.
const TRY_ANOTHER: Duration = Duration::from_secs(2);
/// One that was made beside another and not needed is of no use later: the server closes what says nothing.
const FRESH: Duration = Duration::from_secs(20);

type BoxError = Box<dyn Error + Send + Sync>;

/// A connector whose connections outlive the requests that asked for them.
pub struct Patient<C: Service<Uri>> {
    connector: C,
    tries: Arc<Tries<C::Response>>,
}

/// The connections that are being made, for whoever waits first.
struct Tries<T> {
    state: Mutex<State<T>>,
    /// Something came of one.
    news: Notify,
    /// A connection was made and taken.
    any: Arc<AtomicBool>,
}

struct State<T> {
    waiting: usize,
    under_way: usize,
    newest: Moment,
    /// With the moment at which it was begun.
    made: Vec<(Moment, T)>,
    error: TryError,
}

/// One request that waits.
struct Waiter<T>(Arc<Tries<T>>);

impl<C: Service<Uri>> Patient<C> {
    /// `any` becomes true with the first connection.
    pub fn new(connector: C, any: Arc<AtomicBool>) -> Self {
        let error = TryError(Arc::new("nothing was tried".into()));
        let state = State { waiting: 0, under_way: 0, newest: Moment::BOOT, made: Vec::new(), error };
        Patient { connector, tries: Arc::new(Tries { state: Mutex::new(state), news: Notify::new(), any }) }
    }
}

impl<C: Service<Uri> + Clone> Clone for Patient<C> {
    fn clone(&self) -> Self {
        Patient { connector: self.connector.clone(), tries: Arc::clone(&self.tries) }
    }
}

impl<C> Service<Uri> for Patient<C>
where
    C: Service<Uri>,
    C::Response: Send + 'static,
    C::Error: Into<BoxError> + Send + 'static,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let now = SystemClock.boot();
        let (waiter, is_another_due) = Tries::ask(&self.tries, now);
        if is_another_due {
            tokio::spawn(Arc::clone(&self.tries).make(now, self.connector.call(uri)));
        }
        Box::pin(waiter.wait())
    }
}

impl<T> Tries<T> {
    /// There is a try for each who waits, and one more when the newest takes long: then the caller is to begin it.
    fn ask(tries: &Arc<Self>, now: Moment) -> (Waiter<T>, bool) {
        let mut state = tries.state();
        state.made.retain(|(began, _)| now < *began + FRESH);
        state.waiting += 1;
        let too_few = state.made.len() + state.under_way < state.waiting;
        let is_another_due = too_few || state.made.is_empty() && now >= state.newest + TRY_ANOTHER;
        if is_another_due {
            state.under_way += 1;
            state.newest = now;
        }
        (Waiter(Arc::clone(tries)), is_another_due)
    }

    async fn make<E: Into<BoxError>>(self: Arc<Self>, began: Moment, connecting: impl Future<Output = Result<T, E>>) {
        let made = match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(made) => made.map_err(Into::into),
            Err(_) => Err(format!("no connection within {PATIENCE:?}").into()),
        };
        let mut state = self.state();
        state.under_way -= 1;
        match made {
            // Who waited has been served by another, and the next asks for its own.
            Ok(_) if state.waiting == 0 && self.any.load(Ordering::Relaxed) => {}
            Ok(connection) => state.made.push((began, connection)),
            Err(error) => state.error = TryError(Arc::new(error)),
        }
        drop(state);
        self.news.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Waiter<T> {
    /// The first that is made; an error when none is under way any more.
    async fn wait(self) -> Result<T, BoxError> {
        loop {
            let mut news = pin!(self.0.news.notified());
            // From here on no news is missed.
            news.as_mut().enable();
            {
                let mut state = self.0.state();
                if let Some((_, connection)) = state.made.pop() {
                    self.0.any.store(true, Ordering::Relaxed);
                    if state.waiting == 1 {
                        // What was made beside it is needed by nobody.
                        state.made.clear();
                    }
                    return Ok(connection);
                }
                if state.under_way == 0 {
                    return Err(state.error.clone().into());
                }
            }
            news.await;
        }
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

/// Why a try failed, for all who waited for it.
#[derive(Clone, Debug)]
struct TryError(Arc<BoxError>);

impl fmt::Display for TryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for TryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // Who wants to know the cause must find it whole.
        Some(&**self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Connects after a while, or fails then; counts how often.
    #[derive(Clone, Default)]
    struct Connector {
        takes: Duration,
        fails: bool,
        tries: Arc<AtomicUsize>,
    }

    impl Service<Uri> for Connector {
        type Response = usize;
        type Error = BoxError;
        type Future = Pin<Box<dyn Future<Output = Result<usize, BoxError>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            let (takes, fails) = (self.takes, self.fails);
            let number = self.tries.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                tokio::time::sleep(takes).await;
                if fails { Err(format!("try {number} failed").into()) } else { Ok(number) }
            })
        }
    }

    fn connect(patient: &mut Patient<Connector>) -> impl Future<Output = Result<usize, BoxError>> + use<> {
        patient.call(Uri::from_static("https://server.example"))
    }

    fn patient(takes: Duration, fails: bool) -> (Patient<Connector>, Arc<AtomicUsize>, Arc<AtomicBool>) {
        let (connector, any) = (Connector { takes, fails, ..Connector::default() }, Arc::new(AtomicBool::new(false)));
        let tries = Arc::clone(&connector.tries);
        (Patient::new(connector, Arc::clone(&any)), tries, any)
    }

    #[tokio::test]
    async fn a_connection_outlives_the_request_that_asked_for_it() {
        let (mut patient, tries, any) = patient(Duration::from_millis(200), false);
        for _ in 0..3 {
            let given_up = tokio::time::timeout(Duration::from_millis(20), connect(&mut patient)).await;
            assert!(given_up.is_err());
        }
        assert!(!any.load(Ordering::Relaxed));
        assert_eq!(connect(&mut patient).await.unwrap(), 0);
        assert_eq!(tries.load(Ordering::Relaxed), 1);
        assert!(any.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn one_that_was_made_while_nobody_waited_is_there_at_once() {
        let (mut patient, tries, _) = patient(Duration::from_millis(30), false);
        assert!(tokio::time::timeout(Duration::from_millis(5), connect(&mut patient)).await.is_err());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(connect(&mut patient).await.unwrap(), 0);
        assert_eq!(tries.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn each_of_two_that_wait_has_a_connection_or_the_reason_why_not() {
        let (mut both, tries, _) = patient(Duration::from_millis(20), false);
        let (first, second) = (connect(&mut both), connect(&mut both));
        let (first, second) = tokio::join!(first, second);
        assert_eq!(first.unwrap() + second.unwrap(), 1);
        assert_eq!(tries.load(Ordering::Relaxed), 2);

        let (mut neither, _, any) = patient(Duration::from_millis(20), true);
        let (first, second) = (connect(&mut neither), connect(&mut neither));
        let (first, second) = tokio::join!(first, second);
        assert!(
            first.unwrap_err().to_string().contains("failed") && second.unwrap_err().to_string().contains("failed")
        );
        assert!(!any.load(Ordering::Relaxed));
        // What failed before is not told again: another is tried.
        assert_eq!(connect(&mut neither).await.unwrap_err().to_string(), "try 2 failed");
    }

    #[tokio::test]
    async fn one_that_nobody_needs_any_more_is_closed() {
        let (mut patient, tries, _) = patient(Duration::from_millis(30), false);
        let (needed, served_by_another) = (connect(&mut patient), connect(&mut patient));
        drop(served_by_another);
        needed.await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        // It was the second, or it would be this one.
        assert_eq!(connect(&mut patient).await.unwrap(), 2);
        assert_eq!(tries.load(Ordering::Relaxed), 3);
    }
}
