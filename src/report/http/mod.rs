//! What the app asks over HTTP on localhost. docs/http.md is the contract, docs/openapi.yaml the same for machines.
//!
//! Holds no state of its own: each answer is computed from a [`Board`] when it is asked for, and each command goes to
//! the loop that owns the election.

pub mod ask;
mod events;
mod host;
mod legacy;
pub mod listener;
#[doc(hidden)]
pub mod query;
pub(crate) mod reply;
mod routes;
pub(crate) mod server;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use self::listener::{Address, BindError, Listener};
use self::routes::Routes;
use self::server::Table;
use self::socket::Stream;
use super::Board;
use super::members::MembersBoard;
use crate::app::asking::Asking;
use crate::app::session::Sessions;
use crate::time::Clock;

pub type SharedClock = Arc<dyn Clock + Send + Sync>;

/// Open connections at a time. One more takes the place of the one that has been idle longest.
const MAX_CONNECTIONS: usize = 256;
/// Streams and waiting questions at a time. One more is answered 503.
const MAX_STREAMS: usize = 64;

/// Answers on `listeners` until `shutdown` says true or its sender is gone. Open streams end then, which tells their
/// readers that this pod does not lead.
pub async fn run(listeners: Vec<Listener>, app: App, shutdown: watch::Receiver<bool>) {
    for listener in &listeners {
        tracing::info!(listener = "http", address = listener.address(), "listening");
    }
    let table = Table::new(MAX_CONNECTIONS, Arc::clone(&app.clock));
    let routes = Routes { app: Arc::new(app), streams: Arc::new(Semaphore::new(MAX_STREAMS)) };
    server::serve(listeners, routes, table, shutdown).await;
}

/// Answers on one connection until its end, as [`run`] does on each that it accepts; where it is not `is_unix`, the
/// Host of a request counts.
#[doc(hidden)]
pub async fn converse(stream: tokio::net::UnixStream, is_unix: bool, app: Arc<App>, shutdown: watch::Receiver<bool>) {
    let (clock, streams) = (Arc::clone(&app.clock), Arc::new(Semaphore::new(MAX_STREAMS)));
    let connection = server::Connection::new(is_unix, clock.boot(), shutdown);
    server::converse(Stream::Unix(stream), Routes { app, streams }, connection, clock).await;
}

/// What the app's side is served from.
pub struct App {
    /// One a lease; paths without a name speak of the first.
    pub boards: Vec<Arc<Board>>,
    /// With `--member-of`.
    pub members: Option<Arc<MembersBoard>>,
    pub clock: SharedClock,
    pub sessions: Arc<Sessions>,
    pub asking: Arc<Asking>,
    /// To the loop. A full channel is answered 503.
    pub commands: mpsc::Sender<Command>,
    /// Host names accepted besides localhost and the loopback addresses.
    pub allowed_hosts: Vec<String>,
}

/// What the app tells the loop. `lease` is an index into [`App::boards`].
#[derive(Debug)]
pub enum Command {
    /// Hand the lease over, to a named pod or to whoever is first, and answer when it is known who leads then, or
    /// after `wait`.
    StepDown { lease: usize, to: Option<String>, wait: Duration, reply: Reply },
    /// The app says that what it did under this token has ended.
    Stopped { lease: usize, token: u64, reply: Reply },
}

pub type Reply = oneshot::Sender<Result<Course, Refusal>>;

/// What the loop did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    Done,
    /// It has begun, and its end was not to be waited for any longer.
    UnderWay,
}

/// Why the loop does not do it: answered as 409.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A stable word: `not_leader`, `wrong_token`, ...
    pub code: &'static str,
    /// A sentence.
    pub message: String,
}

/// Ends when the server is to stop.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same as true.
    let _ = shutdown.wait_for(|stop| *stop).await;
}
