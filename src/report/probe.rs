//! What the kubelet asks, and what Prometheus scrapes: `/livez`, `/readyz`, `/metrics`.
//!
//! Neither probe speaks of leadership or of the API server. A pod that is "ready" only while it leads would stall
//! every rollout, and a sidecar restarted because the API server is away comes back no wiser.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::sync::watch;

use super::Board;
use super::http::reply::{self, Reply};
use super::http::server::{self, Connection, Handler, Table};
use super::http::{Listener, SharedClock};
use super::metrics::{Format, Metrics};
use crate::time::Moment;

const MAX_CONNECTIONS: usize = 64;

/// Answers on `listeners` until `shutdown` says true or its sender is gone. The Host header is not looked at: the
/// kubelet asks by the pod's address, and nothing here tells the app anything.
pub async fn run(listeners: Vec<Listener>, probes: Probes, shutdown: watch::Receiver<bool>) {
    for listener in &listeners {
        tracing::info!(listener = "probe", address = listener.address(), "listening");
    }
    let table = Table::new(MAX_CONNECTIONS, Arc::clone(&probes.clock));
    server::serve(listeners, Arc::new(probes), table, shutdown).await;
}

/// What the kubelet's side is served from.
pub struct Probes {
    pub boards: Vec<Arc<Board>>,
    pub clock: SharedClock,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
}

impl Handler for Arc<Probes> {
    async fn handle(&self, request: Request<Incoming>, _: Connection) -> Reply {
        let path = request.uri().path();
        if !matches!(path, "/livez" | "/readyz" | "/metrics") {
            return reply::error(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return reply::method_not_allowed("GET, HEAD");
        }
        let now = self.clock.boot();
        match path {
            "/livez" => verdict(self.health.is_live(now), "the loop has not turned for ten seconds"),
            "/readyz" => verdict(self.health.is_ready(), "not every lease has been read yet"),
            _ => {
                let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
                let format = Format::for_accept(accept.unwrap_or_default());
                let text = self.metrics.encode(format, &self.boards, now);
                reply::text_of(StatusCode::OK, HeaderValue::from_static(format.content_type()), text)
            }
        }
    }
}

fn verdict(well: bool, otherwise: &str) -> Reply {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    match well {
        true => reply::text_of(StatusCode::OK, plain, "ok".into()),
        false => reply::text_of(StatusCode::SERVICE_UNAVAILABLE, plain, otherwise.into()),
    }
}

/// When `/readyz` says yes. Once it did, it always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReadyWhen {
    /// Each lease was seen, or seen to be absent.
    Observed,
    /// Listeners are open: so whenever it is asked.
    Serving,
}

/// What the loop tells about itself.
pub struct Health {
    beat: AtomicU64,
    observed: Vec<AtomicBool>,
    ready_when: ReadyWhen,
}

impl Health {
    /// The loop turns more often than this, whatever happens outside.
    const STILL: Duration = Duration::from_secs(10);

    /// `now` counts as the first turn, so that a start is not a failure.
    pub fn new(leases: usize, ready_when: ReadyWhen, now: Moment) -> Self {
        let observed = (0..leases).map(|_| AtomicBool::new(false)).collect();
        Health { beat: AtomicU64::new(now.as_nanos()), observed, ready_when }
    }

    /// The loop turned.
    pub fn beat(&self, now: Moment) {
        self.beat.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    /// The lease of this index was seen, or seen to be absent.
    pub fn observed(&self, lease: usize) {
        if let Some(observed) = self.observed.get(lease) {
            observed.store(true, Ordering::Relaxed);
        }
    }

    pub fn is_live(&self, now: Moment) -> bool {
        now.since(Moment::from_nanos(self.beat.load(Ordering::Relaxed))) < Self::STILL
    }

    pub fn is_ready(&self) -> bool {
        self.ready_when == ReadyWhen::Serving || self.observed.iter().all(|seen| seen.load(Ordering::Relaxed))
    }
}
