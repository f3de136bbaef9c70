//! Paths and what is answered on them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::events::{Events, Format, Source};
use super::legacy::Legacy;
use super::reply::{self, Reply};
use super::server::{Connection, Handler};
use super::{App, Command, Course, Refusal, host, query, stopped};
use crate::names::dns_subdomain;
use crate::report::members::MembersBoard;
use crate::report::view::View;
use crate::report::{Answer, Board};

/// The longest `?wait=`; a longer one is cut to it.
const MAX_WAIT: Duration = Duration::from_secs(300);
const MAX_BODY: usize = 4 * 1024;
/// How long a request's body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(5);

const POD: HeaderName = HeaderName::from_static("leasehold-pod");
const TOKEN: HeaderName = HeaderName::from_static("leasehold-token");
const VALID_FOR_MS: HeaderName = HeaderName::from_static("leasehold-valid-for-ms");

#[derive(Clone)]
pub(super) struct Routes {
    pub app: Arc<App>,
    pub streams: Arc<Semaphore>,
}

/// Early ends are replies as well.
type Outcome = Result<Reply, Box<Reply>>;

impl Handler for Routes {
    async fn handle(&self, request: Request<Incoming>, connection: Connection) -> Reply {
        self.answer(request, connection).await.unwrap_or_else(|refused| *refused)
    }
}

/// A path that exists.
enum Route {
    Legacy,
    LegacyEvents,
    Leader(usize),
    AlwaysOk(usize),
    All,
    One(usize),
    Watch(usize),
    Session,
    StepDown(usize),
    Stopped(usize),
    Members,
    WatchMembers,
}

impl Routes {
    async fn answer(&self, request: Request<Incoming>, connection: Connection) -> Outcome {
        if !connection.is_unix {
            host::check(&request, &self.app.allowed_hosts)?;
        }
        let route = self.route(request.uri().path())?;
        let query = request.uri().query();
        // hyper answers HEAD with the head of GET's answer; a stream's body is dropped unasked.
        match (&route, request.method()) {
            (Route::StepDown(_) | Route::Stopped(_), &Method::POST) => {}
            (Route::StepDown(_) | Route::Stopped(_), _) => return Ok(reply::method_not_allowed("POST")),
            // Without a body there is nothing to hold open.
            (Route::Session, &Method::GET) => {}
            (Route::Session, _) => return Ok(reply::method_not_allowed("GET")),
            (_, &Method::GET | &Method::HEAD) => {}
            _ => return Ok(reply::method_not_allowed("GET, HEAD")),
        }
        self.check_pod(query)?;
        if !matches!(route, Route::StepDown(_) | Route::Stopped(_)) {
            self.app.asking.asked(self.app.clock.boot());
        }
        match route {
            Route::Legacy => self.legacy(),
            Route::LegacyEvents => self.events(0, Format::Legacy { last: None }, connection),
            Route::Leader(lease) => self.leader(lease),
            Route::AlwaysOk(lease) => Ok(self.one(lease)),
            Route::All => self.all(query, connection).await,
            Route::One(lease) => {
                self.wait(&[lease], query, connection).await?;
                Ok(self.one(lease))
            }
            Route::Watch(lease) => self.events(lease, Format::Status, connection),
            Route::Session => self.session(query, connection),
            Route::StepDown(lease) => self.step_down(lease, request).await,
            Route::Stopped(lease) => self.stopped(lease, request).await,
            Route::Members => self.members(query, connection).await,
            Route::WatchMembers => {
                let source = Source::Members(Arc::clone(self.board_of_members()?));
                let place = self.stream()?;
                Ok(reply::events(Events::new(source, Arc::clone(&self.app.clock), connection, place)))
            }
        }
    }

    fn route(&self, path: &str) -> Result<Route, Box<Reply>> {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match segments.as_slice() {
            [""] => self.lease(None).map(|_| Route::Legacy),
            ["sse"] => self.lease(None).map(|_| Route::LegacyEvents),
            ["leader"] => self.lease(None).map(Route::Leader),
            ["leader", name] => self.lease(Some(name)).map(Route::Leader),
            ["v1", "leader"] => self.lease(None).map(Route::AlwaysOk),
            ["v1", "session"] => self.lease(None).map(|_| Route::Session),
            ["v1", "leases"] => Ok(Route::All),
            ["v1", "leases", name] => self.lease(Some(name)).map(Route::One),
            ["v1", "leases", name, "watch"] => self.lease(Some(name)).map(Route::Watch),
            ["v1", "leases", name, "stepdown"] => self.lease(Some(name)).map(Route::StepDown),
            ["v1", "leases", name, "stopped"] => self.lease(Some(name)).map(Route::Stopped),
            ["v1", "members"] => Ok(Route::Members),
            ["v1", "members", "watch"] => Ok(Route::WatchMembers),
            _ => Err(error(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")),
        }
    }

    /// The index of a lease by its name; of the first without one.
    fn lease(&self, name: Option<&str>) -> Result<usize, Box<Reply>> {
        let found = match name {
            None => (!self.app.boards.is_empty()).then_some(0),
            Some(name) => self.app.boards.iter().position(|board| board.lease == name),
        };
        found.ok_or_else(|| error(StatusCode::NOT_FOUND, "no_such_lease", "this sidecar has no lease of that name"))
    }

    /// On a shared host network a question may reach another pod's sidecar; an app that says whose it is finds out.
    fn check_pod(&self, query: Option<&str>) -> Result<(), Box<Reply>> {
        let of_leases = self.app.boards.first().map(|board| &board.pod);
        let own = of_leases.or(self.app.members.as_ref().map(|members| &members.pod));
        let (Some(asked), Some(own)) = (query::value(query, "pod"), own) else { return Ok(()) };
        if asked == *own {
            return Ok(());
        }
        let message = format!("this is the sidecar of pod {own:?}, not of {asked:?}");
        Err(error(StatusCode::MISDIRECTED_REQUEST, "other_pod", message))
    }

    fn legacy(&self) -> Outcome {
        let (board, answer) = self.ask(0);
        Ok(reply::json(StatusCode::OK, Legacy::new(board, &answer, self.app.clock.wall()).to_json()))
    }

    fn leader(&self, lease: usize) -> Outcome {
        let mut reply = self.one(lease);
        if !reply.headers().contains_key(TOKEN) {
            *reply.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok(reply)
    }

    fn one(&self, lease: usize) -> Reply {
        let (board, answer) = self.ask(lease);
        let mut reply = reply::json(StatusCode::OK, View::new(board, &answer).to_json());
        let headers = reply.headers_mut();
        if let Ok(pod) = HeaderValue::from_str(&board.pod) {
            headers.insert(POD, pod);
        }
        if let Some(promise) = &answer.promise {
            headers.insert(TOKEN, promise.token.into());
        }
        headers.insert(VALID_FOR_MS, answer.valid_for_ms().into());
        reply
    }

    async fn all(&self, query: Option<&str>, connection: Connection) -> Outcome {
        let leases: Vec<usize> = (0..self.app.boards.len()).collect();
        self.wait(&leases, query, connection).await?;
        let answers: Vec<(&Board, Answer)> = leases.iter().map(|lease| self.ask(*lease)).collect();
        let versions = answers.iter().map(|(_, answer)| answer.status.version);
        let version = self.version_of(versions);
        let leases: Vec<View> = answers.iter().map(|(board, answer)| View::new(board, answer)).collect();
        Ok(reply::json(StatusCode::OK, serde_json::json!({ "version": version, "leases": leases }).to_string()))
    }

    /// One answer, which is a promise when it says leader.
    fn ask(&self, lease: usize) -> (&Board, Answer) {
        let board = &self.app.boards[lease];
        (board, board.answer(self.app.clock.boot()))
    }

    /// Versions only grow, so their sum differs when any of them does.
    fn version_of(&self, versions: impl Iterator<Item = u64>) -> String {
        self.app.boards.first().map_or(String::new(), |board| board.version_text(versions.sum()))
    }

    /// Waits as `?wait=30s&version=V` asks, until the version differs from V. What is answered after it is computed
    /// after it.
    async fn wait(&self, leases: &[usize], query: Option<&str>, connection: Connection) -> Result<(), Box<Reply>> {
        let changes = leases.iter().map(|lease| self.app.boards[*lease].subscribe()).collect();
        let version = |changes: &mut [watch::Receiver<u64>]| match (leases, changes) {
            ([lease], [only]) => self.app.boards[*lease].version_text(*only.borrow_and_update()),
            (_, all) => self.version_of(all.iter_mut().map(|change| *change.borrow_and_update())),
        };
        self.wait_for(changes, version, query, connection).await
    }

    /// The same of whatever has versions.
    async fn wait_for(
        &self,
        mut changes: Vec<watch::Receiver<u64>>,
        version: impl Fn(&mut [watch::Receiver<u64>]) -> String,
        query: Option<&str>,
        mut connection: Connection,
    ) -> Result<(), Box<Reply>> {
        let Some(wait) = wait_of(query)? else { return Ok(()) };
        let Some(known) = query::value(query, "version") else { return Ok(()) };
        if version(&mut changes) != known {
            return Ok(());
        }
        let _place = self.stream()?;
        let differs = async {
            while version(&mut changes) == known {
                any_changed(&mut changes).await;
            }
        };
        tokio::select! {
            () = differs => {}
            () = tokio::time::sleep(wait) => {}
            () = stopped(&mut connection.shutdown) => {}
        }
        // Who waits for the answer still asks.
        self.app.asking.asked(self.app.clock.boot());
        Ok(())
    }

    async fn members(&self, query: Option<&str>, connection: Connection) -> Outcome {
        let board = self.board_of_members()?;
        let version = |changes: &mut [watch::Receiver<u64>]| {
            changes.iter_mut().map(|change| board.version_text(*change.borrow_and_update())).collect()
        };
        self.wait_for(vec![board.subscribe()], version, query, connection).await?;
        Ok(reply::json(StatusCode::OK, board.to_json(self.app.clock.boot())))
    }

    fn board_of_members(&self) -> Result<&Arc<MembersBoard>, Box<Reply>> {
        let message = "this sidecar is in no group: it runs without --member-of";
        self.app.members.as_ref().ok_or_else(|| error(StatusCode::NOT_FOUND, "no_members", message))
    }

    fn events(&self, lease: usize, format: Format, connection: Connection) -> Outcome {
        let place = self.stream()?;
        let source = Source::Lease { board: Arc::clone(&self.app.boards[lease]), format, session: None };
        Ok(reply::events(Events::new(source, Arc::clone(&self.app.clock), connection, place)))
    }

    /// A stream that says, by being open, that the app lives.
    fn session(&self, query: Option<&str>, connection: Connection) -> Outcome {
        let lease = self.lease(query::value(query, "lease").as_deref())?;
        let exclusive = match query::value(query, "exclusive").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(error(StatusCode::BAD_REQUEST, "bad_exclusive", "exclusive is true or false")),
        };
        let (sessions, name) = (&self.app.sessions, query::value(query, "name"));
        if exclusive && !sessions.counts(name.as_deref()) {
            let message = "only sessions of the name that --session-name gives may lead: add it as &name=";
            return Err(error(StatusCode::BAD_REQUEST, "bad_name", message));
        }
        let place = self.stream()?;
        let session = Some(sessions.open(lease, name.as_deref(), exclusive));
        let board = Arc::clone(&self.app.boards[lease]);
        let source = Source::Lease { board, format: Format::Status, session };
        Ok(reply::events(Events::new(source, Arc::clone(&self.app.clock), connection, place)))
    }

    fn stream(&self) -> Result<OwnedSemaphorePermit, Box<Reply>> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            busy("too_many_streams", "too many streams and waiting questions are open; close some, or ask without wait")
        })
    }

    /// Answers when it is known who leads then; with `?wait=`, after that time at the latest.
    async fn step_down(&self, lease: usize, request: Request<Incoming>) -> Outcome {
        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields)]
        struct StepDown {
            to: Option<String>,
        }
        let wait = wait_of(request.uri().query())?.unwrap_or(MAX_WAIT);
        let StepDown { to } = read(request, Some(StepDown::default())).await?;
        if let Some(Err(fault)) = to.as_deref().map(dns_subdomain) {
            let message = format!("\"to\" is the name of a pod, and this is none: {fault}");
            return Err(error(StatusCode::BAD_REQUEST, "bad_pod", message));
        }
        self.command(lease, |reply| Command::StepDown { lease, to, wait, reply }).await
    }

    async fn stopped(&self, lease: usize, request: Request<Incoming>) -> Outcome {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Stopped {
            fencing_token: u64,
        }
        let Stopped { fencing_token: token } = read(request, None).await?;
        self.command(lease, |reply| Command::Stopped { lease, token, reply }).await
    }

    /// Hands a command to the loop and answers with its word, and the lease as it is then.
    async fn command(
        &self,
        lease: usize,
        make: impl FnOnce(oneshot::Sender<Result<Course, Refusal>>) -> Command,
    ) -> Outcome {
        let (sender, answer) = oneshot::channel();
        let stopping = || busy("not_ready", "the sidecar is stopping, or has too many commands to do");
        self.app.commands.try_send(make(sender)).map_err(|_| stopping())?;
        match answer.await {
            Ok(Ok(Course::Done)) => Ok(self.one(lease)),
            Ok(Ok(Course::UnderWay)) => {
                let mut reply = self.one(lease);
                *reply.status_mut() = StatusCode::ACCEPTED;
                Ok(reply)
            }
            Ok(Err(refusal)) => Err(error(StatusCode::CONFLICT, refusal.code, refusal.message)),
            Err(_) => Err(stopping()),
        }
    }
}

/// `?wait=30s`, bounded.
fn wait_of(query: Option<&str>) -> Result<Option<Duration>, Box<Reply>> {
    let Some(wait) = query::value(query, "wait") else { return Ok(None) };
    let bad = || error(StatusCode::BAD_REQUEST, "bad_wait", "wait is a whole number with a unit: 500ms, 30s, 5m");
    Ok(Some(query::duration(&wait).ok_or_else(bad)?.min(MAX_WAIT)))
}

/// A JSON body of bounded size that arrives in bounded time. An empty one stands for `empty`, where there is that.
async fn read<T: DeserializeOwned>(request: Request<Incoming>, empty: Option<T>) -> Result<T, Box<Reply>> {
    // A page in a browser can send other types to another origin without asking first; this one it cannot.
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let message = "the body's Content-Type must be application/json";
        return Err(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message));
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let body = match tokio::time::timeout(BODY_PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(failed)) if failed.is::<LengthLimitError>() => {
            return Err(error(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body is larger than 4 KiB"));
        }
        Ok(Err(_)) => return Err(error(StatusCode::BAD_REQUEST, "bad_body", "the body could not be read")),
        Err(_) => return Err(error(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the body did not end in time")),
    };
    match empty {
        Some(empty) if body.is_empty() => Ok(empty),
        _ => serde_json::from_slice(&body).map_err(|wrong| {
            error(StatusCode::BAD_REQUEST, "bad_body", format!("the body is not understood: {wrong}"))
        }),
    }
}

/// Waits for the first of several.
async fn any_changed(changes: &mut [watch::Receiver<u64>]) {
    let mut waiting: Vec<Pin<Box<_>>> = changes.iter_mut().map(|change| Box::pin(change.changed())).collect();
    std::future::poll_fn(|cx| {
        let changed = waiting.iter_mut().any(|change| change.as_mut().poll(cx).is_ready());
        if changed { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

fn error(status: StatusCode, code: &str, message: impl Into<String>) -> Box<Reply> {
    Box::new(reply::error(status, code, message))
}

fn busy(code: &str, message: &str) -> Box<Reply> {
    let mut reply = error(StatusCode::SERVICE_UNAVAILABLE, code, message);
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    reply
}
