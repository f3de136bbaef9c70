//! An API server for Leases alone, in memory, on localhost: for a machine without a cluster.
//!
//! It speaks `coordination.k8s.io/v1` over plain HTTP/1.1 as kube-apiserver 1.36 does:
//! `kubectl`, client-go's leader election and leasehold itself work against it unchanged.
//! `tests/lease_api.rs` sends the same requests to both and compares the answers.
//!
//! What it leaves out: authentication and authorisation (whoever reaches the port may do
//! everything, so bind it to localhost), managed fields and server-side apply, YAML bodies,
//! protobuf answers (protobuf bodies are read), pages (`limit` is accepted, all is returned),
//! lists of a past version, and the lifecycle of namespaces: any name is one. A restart forgets
//! all Leases, but not time: versions go on growing.

mod discovery;
mod lease;
mod names;
#[doc(hidden)]
pub mod patch;
#[doc(hidden)]
pub mod protobuf;
mod query;
mod reply;
mod routes;
#[doc(hidden)]
pub mod schema;
mod selector;
mod status;
mod store;
mod table;
mod watch;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use selector::Labels;
use store::Store;

const CONNECTIONS: usize = 1024;
/// How long a client may take over a request's head; it bounds idle connections as well.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// A pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The Leases and their history. Dropping it forgets them.
pub struct Server {
    store: Arc<Mutex<Store>>,
}

impl Server {
    /// `now` is the wall clock: it stamps `creationTimestamp` and ages rows of a table.
    pub fn new(now: fn() -> Timestamp) -> Server {
        Server { store: Arc::new(Mutex::new(Store::new(now))) }
    }

    /// Answers on one connection until its end, as [`Server::serve`] does on each that it accepts.
    #[doc(hidden)]
    pub async fn converse(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        converse(stream, Arc::clone(&self.store)).await;
    }

    /// Serves until `shutdown`, then closes all connections, watches among them.
    ///
    /// # Errors
    /// None at present: a failed accept is tried again.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        tokio::pin!(shutdown);
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, listener.accept().await)
            };
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                Some(_) = connections.join_next() => {}
                (permit, accepted) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let store = Arc::clone(&self.store);
                        connections.spawn(async move {
                            // Small answers to one request at a time: waiting for more bytes only delays them.
                            let _ = stream.set_nodelay(true);
                            converse(stream, store).await;
                            drop(permit);
                        });
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
            }
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, store: Arc<Mutex<Store>>) {
    let service = service_fn(move |request| {
        let store = Arc::clone(&store);
        async move { Ok::<_, Infallible>(routes::answer(store, request).await) }
    });
    // An error here is a client that went away.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A kubeconfig whose only context, `leasehold-dev`, is the server at `address`.
pub fn kubeconfig(address: SocketAddr) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: leasehold-dev
  cluster:
    server: http://{address}
users:
- name: leasehold-dev
  user: {{}}
contexts:
- name: leasehold-dev
  context:
    cluster: leasehold-dev
    user: leasehold-dev
    namespace: default
current-context: leasehold-dev
"
    )
}
