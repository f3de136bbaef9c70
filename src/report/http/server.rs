//! HTTP/1.1 connections of one listener or several, at most so many at a time: the app's and the kubelet's side both
//! run on this.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::listener::Listener;
use super::reply::Reply;
use super::socket::{Activity, InRequest, Socket, Stream};
use super::{SharedClock, stopped};
use crate::time::Moment;

/// The largest request head. hyper answers 431 to a larger one, and 400 to what is not HTTP.
const MAX_HEAD: usize = 8 * 1024;
/// How long connections may take to finish their last answer once the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What a server does with a request.
pub(crate) trait Handler: Clone + Send + Sync + 'static {
    fn handle(&self, request: Request<Incoming>, connection: Connection) -> impl Future<Output = Reply> + Send;
}

/// What a handler may know of the connection that a request came by.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(super) is_unix: bool,
    pub(super) activity: Arc<Activity>,
    pub(super) shutdown: watch::Receiver<bool>,
}

impl Connection {
    pub(super) fn new(is_unix: bool, now: Moment, shutdown: watch::Receiver<bool>) -> Self {
        Connection { is_unix, activity: Arc::new(Activity::new(now)), shutdown }
    }
}

/// Serves until `shutdown` says true or its sender is gone: then accepts nobody, ends streams, lets answers that are
/// being written finish for a second, and returns.
pub(crate) async fn serve<H: Handler>(
    listeners: Vec<Listener>,
    handler: H,
    table: Table,
    mut shutdown: watch::Receiver<bool>,
) {
    let table = Arc::new(table);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, handler.clone(), Arc::clone(&table), shutdown.clone()));
    }
    stopped(&mut shutdown).await;
    while accepting.join_next().await.is_some() {}
}

async fn accept<H: Handler>(listener: Listener, handler: H, table: Arc<Table>, mut shutdown: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let stop = shutdown.clone();
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = stopped(&mut shutdown) => break,
        };
        match accepted {
            Ok(stream) => {
                let Some(place) = Table::admit(&table) else {
                    stream.write_now(FULL);
                    continue;
                };
                let connection =
                    Connection { is_unix: listener.is_unix(), activity: place.activity(), shutdown: stop.clone() };
                let (handler, clock) = (handler.clone(), Arc::clone(&table.clock));
                let number = place.number;
                let task = connections.spawn(async move {
                    let _place = place;
                    converse(stream, handler, connection, clock).await;
                });
                table.started(number, task);
            }
            Err(error) => {
                // Most likely out of descriptors, which passes; without the pause this would spin. Said once: it may last.
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(address = listener.address(), %error, "cannot accept connections; said once");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(LAST_ANSWERS, async { while connections.join_next().await.is_some() {} }).await;
}

pub(super) async fn converse<H: Handler>(stream: Stream, handler: H, connection: Connection, clock: SharedClock) {
    let socket = Socket::new(stream, Arc::clone(&connection.activity));
    let mut shutdown = connection.shutdown.clone();
    let service = service_fn(|request| {
        let in_request = InRequest::new(Arc::clone(&connection.activity), clock.boot());
        let answer = handler.handle(request, connection.clone());
        async move {
            let mut reply = answer.await;
            reply.body_mut().hold(in_request);
            Ok::<_, Infallible>(reply)
        }
    });
    let serving = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_header_size(MAX_HEAD)
        // hyper's would also end an idle connection; `Socket` has one that does not.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(socket), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopped(&mut shutdown) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The last word to a connection that finds every place taken by a request in progress.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 92\r\n\
    Cache-Control: no-store\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
    {\"code\":\"too_many_connections\",\"message\":\"every connection is in use; close some, or wait\"}\n";

/// The open connections of a server. When it is full, a newcomer takes the place of the connection that has been
/// idle longest: HTTP lets a server close those at any time, and a crowd of forgotten ones must not keep out an
/// app's question.
pub(crate) struct Table {
    most: usize,
    clock: SharedClock,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    open: HashMap<u64, Entry>,
}

struct Entry {
    activity: Arc<Activity>,
    task: Option<AbortHandle>,
}

impl Table {
    pub fn new(most: usize, clock: SharedClock) -> Self {
        Table { most, clock, inner: Mutex::default() }
    }

    fn admit(table: &Arc<Table>) -> Option<Place> {
        let now = table.clock.boot();
        let mut inner = table.lock();
        if inner.open.len() >= table.most {
            let idle = inner.open.iter().filter_map(|(number, entry)| Some((entry.activity.idle_since()?, *number)));
            let (_, longest) = idle.min()?;
            if let Some(Entry { task: Some(task), .. }) = inner.open.remove(&longest) {
                task.abort();
            }
        }
        let number = inner.next;
        inner.next += 1;
        inner.open.insert(number, Entry { activity: Arc::new(Activity::new(now)), task: None });
        Some(Place { number, table: Arc::clone(table) })
    }

    fn started(&self, number: u64, task: AbortHandle) {
        if let Some(entry) = self.lock().open.get_mut(&number) {
            entry.task = Some(task);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while holding it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's entry in the table, gone with the connection.
struct Place {
    number: u64,
    table: Arc<Table>,
}

impl Place {
    fn activity(&self) -> Arc<Activity> {
        self.table.lock().open.get(&self.number).map(|entry| Arc::clone(&entry.activity)).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_to_who_is_turned_away_is_well_formed() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{} bytes", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
