//! The connection to the API server: kube's configuration and authentication over a transport of our own.
//!
//! One HTTP/2 connection carries the watch and the writes, so that a standby takes over without a TLS handshake (the
//! API server closes idle connections after 90 s; the watch keeps this one). Every request has a time-out. After one
//! that got no answer the connection is given up: requests that follow open another, and the old one ends with the
//! watch that may still run on it. One that is still being made is waited for by the next request. There is no retry
//! layer: the election decides what is tried again, and when.
//!
//! Configuration is read at the start, and again only on a 401, for credentials may have been rotated, and when a
//! certificate is why there is no connection, for the cluster's authority may have been. A file that names another API
//! server by then is not followed: a leader must not turn up in another cluster.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, Response, StatusCode, header};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::middleware::{BaseUriLayer, ExtraHeadersLayer};
use kube::client::{AuthError, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::pki_types::ServerName;
use tokio::sync::watch;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};

use super::credentials::{Credentials, OneAtATime, Plugin, RUNS};
use super::patience::Patient;
use crate::time::{Clock, Moment, SystemClock};

/// The most that one answer may hold: etcd stores 1.5 MiB in an object, and JSON may escape each byte of that by six.
pub(super) const LARGEST_ANSWER: usize = 10 << 20;
/// A peer that acknowledges nothing for so long is gone.
const TCP_SILENCE: Duration = Duration::from_secs(8);

/// A certificate that is not trusted has the configuration read again so often at most, whoever asks.
const AUTHORITY_PAUSE: Duration = Duration::from_secs(5);

pub(super) type Body = Full<Bytes>;
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Stack = BoxCloneSyncService<Request<Body>, Response<Incoming>, BoxError>;

/// Where the API server is and who asks.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// `--kubeconfig`: this file, and no other.
    pub kubeconfig: Option<PathBuf>,
    /// `--context` in it.
    pub context: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the kubeconfig {path}: {source}")]
    Kubeconfig { path: String, source: kube::config::KubeconfigError },
    #[error(
        "no way to the API server: this is not a pod with a service account ({incluster}), and no kubeconfig was found ({kubeconfig}); give --kubeconfig FILE, or mount a service account token"
    )]
    None { incluster: kube::config::InClusterError, kubeconfig: kube::config::KubeconfigError },
    #[error(
        "the configuration asks for a proxy ({0}), which is not supported: set proxy-url to nothing, or unset HTTPS_PROXY"
    )]
    Proxy(String),
    #[error("the credentials cannot be used: {0}")]
    Credentials(String),
    #[error("the TLS server name {0:?} is no host name")]
    ServerName(String),
}

/// Where a configuration was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The service account of the pod.
    Pod,
    Kubeconfig,
}

impl Source {
    /// In a pod its service account, unless a kubeconfig is named; elsewhere the kubeconfig that kubectl would use.
    pub async fn load(&self) -> Result<kube::Config, ConfigError> {
        self.find().await.map(|(config, _)| config)
    }

    /// The same, and where it comes from.
    pub async fn find(&self) -> Result<(kube::Config, Origin), ConfigError> {
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let (config, origin) = if let Some(path) = &self.kubeconfig {
            let fault = |source| ConfigError::Kubeconfig { path: path.display().to_string(), source };
            let file = Kubeconfig::read_from(path).map_err(fault)?;
            (kube::Config::from_custom_kubeconfig(file, &options).await.map_err(fault)?, Origin::Kubeconfig)
        } else {
            match kube::Config::incluster() {
                Ok(config) => (config, Origin::Pod),
                Err(incluster) => match kube::Config::from_kubeconfig(&options).await {
                    Ok(config) => (config, Origin::Kubeconfig),
                    Err(kubeconfig) => return Err(ConfigError::None { incluster, kubeconfig }),
                },
            }
        };
        match &config.proxy_url {
            Some(proxy) => Err(ConfigError::Proxy(proxy.host().unwrap_or("?").to_owned())),
            None => Ok((config, origin)),
        }
    }
}

/// Why a request brought no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("{code} {reason}: {message}")]
    Status {
        code: u16,
        reason: String,
        message: String,
        retry_after: Option<Duration>,
        /// `details.causes[].field`
        fields: Vec<String>,
    },
    /// Nothing is wrong with the connection.
    #[error("the answer is larger than {} MiB", .0 >> 20)]
    TooLarge(usize),
    #[error("the answer is no {0}: is that an API server?")]
    NotUnderstood(&'static str),
    #[error("the credentials cannot be read: {0}")]
    Credentials(String),
}

impl Failure {
    /// The same request may succeed soon, though nobody changes anything.
    pub fn may_pass(&self) -> bool {
        match self {
            Failure::Timeout(_) | Failure::Connect(_) | Failure::Broken(_) | Failure::Credentials(_) => true,
            Failure::TooLarge(_) | Failure::NotUnderstood(_) => false,
            Failure::Status { code, .. } => matches!(code, 401 | 429 | 500..=599),
        }
    }

    /// This API server is not asked such things, or not by everybody.
    pub fn is_no_such_question(&self) -> bool {
        matches!(self, Failure::Status { code: 403..=405, .. })
    }

    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Failure::Timeout(_) => "timeout",
            Failure::Connect(_) => "connect",
            Failure::Broken(_) => "broken",
            Failure::TooLarge(_) => "too_large",
            Failure::NotUnderstood(_) => "not_understood",
            Failure::Credentials(_) => "credentials",
            Failure::Status { code, .. } => match code {
                401 => "unauthorized",
                403 => "forbidden",
                404 => "not_found",
                409 => "conflict",
                410 => "gone",
                422 => "invalid",
                429 => "too_many_requests",
                500..=599 => "server_error",
                _ => "refused",
            },
        }
    }
}

/// Told after each request: the verb, the resource, and the status code, `timeout` or `error`.
pub type OnRequest = Box<dyn Fn(&'static str, &'static str, &str) + Send + Sync>;

pub struct Connection {
    source: Source,
    link: Arc<Mutex<Link>>,
    /// When a certificate may have the configuration read again.
    read_again_at: Mutex<Moment>,
    /// The configuration, again.
    reading: OneAtATime<()>,
    plugin: Plugin,
    on_request: OnRequest,
}

/// The way that a stream came by is given up: requests go another one, and the stream may be dead.
pub struct GivenUp(watch::Receiver<()>);

impl GivenUp {
    pub async fn wait(mut self) {
        // Nothing is ever sent: it ends with the link.
        while self.0.changed().await.is_ok() {}
    }
}

/// How requests go out now.
struct Link {
    settings: Arc<Settings>,
    stack: Stack,
    /// A connection was made for it.
    connected: Arc<AtomicBool>,
    /// Goes with it.
    stands: watch::Sender<()>,
}

impl Link {
    fn new(settings: Arc<Settings>) -> Self {
        let connected = Arc::new(AtomicBool::new(false));
        Link { stack: settings.connect(&connected), settings, connected, stands: watch::Sender::new(()) }
    }

    /// One that is not made yet is new in any case.
    fn give_up(&mut self) {
        if self.connected.load(Ordering::Relaxed) {
            *self = Link::new(Arc::clone(&self.settings));
        }
    }
}

impl Connection {
    pub fn new(source: Source, config: &kube::Config, on_request: OnRequest) -> Result<Self, ConfigError> {
        let plugin = Plugin::default();
        let link = Arc::new(Mutex::new(Link::new(Arc::new(Settings::of(config, &plugin)?))));
        let read_again_at = Mutex::new(Moment::BOOT);
        Ok(Connection { source, link, read_again_at, reading: OneAtATime::default(), plugin, on_request })
    }

    /// Sends a request and reads the JSON of its answer, all within `timeout`. A 401 is answered by reading the
    /// credentials again, once: a token may have been rotated.
    pub async fn json(
        &self,
        verb: &'static str,
        request: Request<Body>,
        timeout: Duration,
    ) -> Result<serde_json::Value, Failure> {
        self.json_and_headers(verb, request, timeout).await.map(|(_, json)| json)
    }

    /// The same as it came, if it has no more than `most` bytes.
    pub async fn bytes(
        &self,
        verb: &'static str,
        request: Request<Body>,
        timeout: Duration,
        most: usize,
    ) -> Result<Bytes, Failure> {
        self.bytes_and_headers(verb, request, timeout, most).await.map(|(_, bytes)| bytes)
    }

    /// The same with the headers of the answer.
    pub async fn json_and_headers(
        &self,
        verb: &'static str,
        request: Request<Body>,
        timeout: Duration,
    ) -> Result<(HeaderMap, serde_json::Value), Failure> {
        let (headers, bytes) = self.bytes_and_headers(verb, request, timeout, LARGEST_ANSWER).await?;
        Ok((headers, parsed(&bytes)?))
    }

    async fn bytes_and_headers(
        &self,
        verb: &'static str,
        request: Request<Body>,
        timeout: Duration,
        most: usize,
    ) -> Result<(HeaderMap, Bytes), Failure> {
        let over = Arc::clone(&self.link().connected);
        let result = self.within(verb, request, timeout, most).await;
        if matches!(result, Err(Failure::Timeout(_) | Failure::Broken(_))) {
            let mut link = self.link();
            // Another may have given it up before, and the new one is not to blame.
            if Arc::ptr_eq(&over, &link.connected) {
                link.give_up();
            }
        }
        result
    }

    /// The same for what no election depends on: one that gets no answer does not cost the others their connection.
    pub async fn json_aside(
        &self,
        verb: &'static str,
        request: Request<Body>,
        timeout: Duration,
    ) -> Result<serde_json::Value, Failure> {
        self.within(verb, request, timeout, LARGEST_ANSWER).await.and_then(|(_, bytes)| parsed(&bytes))
    }

    async fn within(
        &self,
        verb: &'static str,
        request: Request<Body>,
        timeout: Duration,
        most: usize,
    ) -> Result<(HeaderMap, Bytes), Failure> {
        let waits = AtomicBool::new(false);
        let resource = resource_of(request.uri());
        match tokio::time::timeout(timeout, self.exchange(verb, request, &waits, most)).await {
            Ok(result) => result,
            Err(_) => Err(self.timed_out(verb, resource, timeout, &waits)),
        }
    }

    /// Opens a stream: the answer's head within `timeout`, the body as it comes, until its connection is given up.
    pub async fn stream(
        &self,
        verb: &'static str,
        request: Request<Body>,
        timeout: Duration,
    ) -> Result<(Incoming, GivenUp), Failure> {
        let waits = AtomicBool::new(false);
        let resource = resource_of(request.uri());
        let given_up = GivenUp(self.link().stands.subscribe());
        match tokio::time::timeout(timeout, self.answer(verb, request, &waits)).await {
            Ok(result) => result.map(|response| (response.into_body(), given_up)),
            Err(_) => Err(self.timed_out(verb, resource, timeout, &waits)),
        }
    }

    /// What still waited for credentials was not sent, or refused.
    fn timed_out(&self, verb: &'static str, resource: &'static str, timeout: Duration, waits: &AtomicBool) -> Failure {
        (self.on_request)(verb, resource, "timeout");
        if waits.load(Ordering::Relaxed) { Failure::Credentials(RUNS.into()) } else { Failure::Timeout(timeout) }
    }

    /// What follows goes over a new connection.
    pub fn reconnect(&self) {
        self.link().give_up();
    }

    /// Whether a certificate is to have the configuration read again now; then it is not for a while.
    fn is_to_read_again(&self) -> bool {
        let now = SystemClock.boot();
        let mut at = lock(&self.read_again_at);
        let due = now >= *at;
        if due {
            *at = now + AUTHORITY_PAUSE;
        }
        due
    }

    /// Reads the configuration again: the credentials or the authorities may be new. One that cannot be read just now
    /// leaves things as they are; one that takes longer than the request that asked for it is there for the next.
    async fn read_credentials(&self) {
        let (source, link, plugin) = (self.source.clone(), Arc::clone(&self.link), Arc::clone(&self.plugin));
        let read = async move {
            let _alone = plugin.lock().await;
            let of = Arc::clone(&plugin);
            // A plugin of a kubeconfig runs a command and waits for it.
            let reading = tokio::task::spawn_blocking(move || {
                let config = tokio::runtime::Handle::current().block_on(source.load()).ok()?;
                Some((config.cluster_url.clone(), Settings::of(&config, &of).ok()?))
            });
            if let Ok(Some((url, settings))) = reading.await {
                let mut link = lock(&link);
                if url == link.settings.url {
                    *link = Link::new(Arc::new(settings));
                }
            }
        };
        self.reading.result(|| read).await;
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        lock(&self.link)
    }

    /// `waits` is true while it waits for credentials.
    async fn exchange(
        &self,
        verb: &'static str,
        request: Request<Body>,
        waits: &AtomicBool,
        most: usize,
    ) -> Result<(HeaderMap, Bytes), Failure> {
        let (head, body) = self.answer(verb, request, waits).await?.into_parts();
        Ok((head.headers, collect(body, most).await?))
    }

    /// An answer whose status is a success; others become [`Failure::Status`].
    async fn answer(
        &self,
        verb: &'static str,
        request: Request<Body>,
        waits: &AtomicBool,
    ) -> Result<Response<Incoming>, Failure> {
        let again = request.clone();
        let mut sent = self.send(verb, request, waits).await;
        let outdated = match &sent {
            Ok(response) => response.status() == StatusCode::UNAUTHORIZED,
            // Nothing was sent.
            Err((Failure::Connect(_), Cause::Certificate)) => self.is_to_read_again(),
            Err(_) => false,
        };
        if outdated {
            waits.store(true, Ordering::Relaxed);
            self.read_credentials().await;
            waits.store(false, Ordering::Relaxed);
            sent = self.send(verb, again, waits).await;
        }
        let response = sent.map_err(|(failure, _)| failure)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let retry_after = response.headers().get(header::RETRY_AFTER).cloned();
        // A body that cannot be read changes nothing about the status.
        let body = collect(response.into_body(), LARGEST_ANSWER).await.unwrap_or_default();
        Err(status_failure(code, retry_after.as_ref().map(AsRef::as_ref), &body))
    }

    async fn send(
        &self,
        verb: &'static str,
        mut request: Request<Body>,
        waits: &AtomicBool,
    ) -> Result<Response<Incoming>, (Failure, Cause)> {
        let resource = resource_of(request.uri());
        let settings = Arc::clone(&self.link().settings);
        if let Some(credentials) = &settings.credentials {
            waits.store(true, Ordering::Relaxed);
            let header = credentials.header().await.map_err(|fault| {
                (self.on_request)(verb, resource, "error");
                (Failure::Credentials(fault), Cause::Other)
            })?;
            request.headers_mut().insert(header::AUTHORIZATION, header);
            waits.store(false, Ordering::Relaxed);
        }
        let mut stack = self.link().stack.clone();
        let result = match stack.ready().await {
            Ok(ready) => ready.call(request).await,
            Err(error) => Err(error),
        };
        match &result {
            Ok(response) => (self.on_request)(verb, resource, response.status().as_str()),
            Err(_) => (self.on_request)(verb, resource, "error"),
        }
        result.map_err(|error| (transport_failure(&*error), Cause::of(&*error)))
    }
}

/// What is behind a failure, as far as it matters here.
enum Cause {
    /// One end does not accept the other's.
    Certificate,
    Other,
}

impl Cause {
    fn of(error: &(dyn std::error::Error + 'static)) -> Cause {
        let mut next = Some(error);
        while let Some(cause) = next {
            if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) = cause.downcast_ref() {
                return Cause::Certificate;
            }
            // What an I/O error wraps is not its source.
            next = match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(wrapped) => Some(wrapped),
                None => cause.source(),
            };
        }
        Cause::Other
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a path of the API speaks of, for metrics: of all that is asked here, only these two are of the core group.
fn resource_of(uri: &hyper::Uri) -> &'static str {
    match uri.path().strip_prefix("/api/v1/namespaces/").and_then(|path| path.split('/').nth(1)) {
        Some("events") => "events",
        Some("pods") => "pods",
        _ => "leases",
    }
}

fn parsed(bytes: &[u8]) -> Result<serde_json::Value, Failure> {
    serde_json::from_slice(bytes).map_err(|_| Failure::NotUnderstood("JSON"))
}

async fn collect(body: Incoming, most: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLarge(most)),
        Err(error) => Err(Failure::Broken(chain(&*error))),
    }
}

/// What an answer means whose status is no success. Of a Retry-After only seconds are read, as API servers write it.
#[doc(hidden)]
pub fn status_failure(code: u16, retry_after: Option<&[u8]>, body: &[u8]) -> Failure {
    let seconds = retry_after.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    let retry_after = seconds.map(Duration::from_secs);
    let status: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| status[key].as_str().unwrap_or_default().chars().take(400).collect::<String>();
    let fields = status["details"]["causes"]
        .as_array()
        .map(|causes| causes.iter().filter_map(|cause| Some(cause["field"].as_str()?.to_owned())).collect())
        .unwrap_or_default();
    Failure::Status { code, reason: text("reason"), message: text("message"), retry_after, fields }
}

fn transport_failure(error: &(dyn std::error::Error + 'static)) -> Failure {
    match error.downcast_ref::<hyper_util::client::legacy::Error>() {
        Some(client) if client.is_connect() => Failure::Connect(chain(error)),
        _ => Failure::Broken(chain(error)),
    }
}

/// The whole of an error, from what was attempted to its cause.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Why credentials cannot be used, without what a plugin was given or printed: that may be a secret.
pub(super) fn credentials_fault(error: &(dyn std::error::Error + 'static)) -> String {
    let mut next = Some(error);
    while let Some(cause) = next {
        // kube's own error hides its cause from `source` by being transparent.
        let auth = cause.downcast_ref::<AuthError>().or(match cause.downcast_ref::<kube::Error>() {
            Some(kube::Error::Auth(auth)) => Some(auth),
            _ => None,
        });
        match auth {
            Some(AuthError::AuthExecRun { out, .. }) => {
                return format!("the credential plugin of the kubeconfig failed ({})", out.status);
            }
            Some(AuthError::AuthExecParse(_) | AuthError::AuthExec(_) | AuthError::ExecPluginFailed) => {
                return "the credential plugin of the kubeconfig gave no usable credential".into();
            }
            Some(auth) => return chain(auth),
            None => next = cause.source(),
        }
    }
    "of an unknown kind".into()
}

/// What a configuration comes to: kube's layers for the address and the headers, the credentials, and the TLS
/// settings for our transport.
struct Settings {
    url: hyper::Uri,
    address: BaseUriLayer,
    credentials: Option<Credentials>,
    headers: ExtraHeadersLayer,
    tls: rustls::ClientConfig,
    server_name: Option<ServerName<'static>>,
}

/// A plain address (the embedded Lease API) needs no authorities, and reading the machine's takes longer than the
/// rest of a start.
fn tls(config: &kube::Config) -> Result<rustls::ClientConfig, kube::Error> {
    if config.cluster_url.scheme_str() == Some("http") {
        let nobody = rustls::RootCertStore::empty();
        return Ok(rustls::ClientConfig::builder().with_root_certificates(nobody).with_no_client_auth());
    }
    config.rustls_client_config()
}

impl Settings {
    fn of(config: &kube::Config, plugin: &Plugin) -> Result<Self, ConfigError> {
        let fault = |error: kube::Error| ConfigError::Credentials(credentials_fault(&error));
        let server_name = match &config.tls_server_name {
            None => None,
            Some(name) => {
                let parsed = name.clone().try_into().map_err(|_| ConfigError::ServerName(name.clone()))?;
                Some(parsed)
            }
        };
        Ok(Settings {
            url: config.cluster_url.clone(),
            address: config.base_uri_layer(),
            credentials: config.auth_layer().map_err(fault)?.map(|layer| Credentials::new(&layer, plugin)),
            headers: config.extra_headers_layer().map_err(fault)?,
            tls: tls(config).map_err(fault)?,
            server_name,
        })
    }

    /// A transport that has no connection yet, and says when it has.
    fn connect(&self, connected: &Arc<AtomicBool>) -> Stack {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(Duration::from_secs(2)));
        tcp.set_keepalive(Some(TCP_SILENCE / 2));
        tcp.set_keepalive_interval(Some(TCP_SILENCE / 4));
        tcp.set_keepalive_retries(Some(2));
        tcp.set_tcp_user_timeout(Some(TCP_SILENCE));
        let mut tls = HttpsConnectorBuilder::new().with_tls_config(self.tls.clone()).https_or_http();
        if let Some(name) = &self.server_name {
            tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name.clone()));
        }
        let connector = Patient::new(tls.enable_http1().enable_http2().wrap_connector(tcp), Arc::clone(connected));
        let client: Client<_, Body> = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            // A connection whose watch is open counts as idle here, however much that brings; who is gone is dropped.
            .pool_idle_timeout(None)
            .pool_max_idle_per_host(1)
            .http2_initial_stream_window_size(1 << 20)
            .http2_initial_connection_window_size(1 << 20)
            .http2_keep_alive_interval(TCP_SILENCE)
            .http2_keep_alive_timeout(TCP_SILENCE)
            .build(connector);
        BoxCloneSyncService::new(self.address.layer(self.headers.layer(client.map_err(BoxError::from))))
    }
}
