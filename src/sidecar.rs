//! The one loop: it owns every election, and joins what the API server, the app and the clock say to what is
//! written, published and told.
//!
//! Nothing else changes an election's state. Requests run as tasks and come back as events; HTTP answers are computed
//! from the boards at any time and never wait for the loop. The order of a start is: configuration, state directory,
//! files reset to not-leader, listeners, campaign.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::alarm::Alarm;
use crate::complaint::{Ask, Complaints};
use crate::election::{
    Acknowledgement, Config, Election, Input, Kind, Outcome, Output, Reason, Seen, Status, Via, Write, pod_of,
};
use crate::kubernetes::{self, Api, ConfigError, Connection, Failure, Snapshot, Source, Watched};
use crate::names;
use crate::report::file::FileReport;
use crate::report::http::{self, Address, App, BindError, Command, Listener, Refusal};
use crate::report::metrics::Metrics;
use crate::report::probe::{self, Health, ReadyWhen};
use crate::report::{Board, file};
use crate::state::{LeaseState, Owner, StateDir, StateError};
use crate::time::{self, Clock, Moment, SystemClock};

/// The loop turns at least so often, which is what /livez watches.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How often the lock of the state directory is tried while this pod's former sidecar still ends.
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// Results of requests that wait for the loop.
const EVENTS: usize = 256;

/// Everything that `run` is told, validated.
#[derive(Clone, Debug)]
pub struct Settings {
    pub leases: Vec<String>,
    /// `None`: the namespace of the service account or the kubeconfig's context.
    pub namespace: Option<String>,
    pub pod: String,
    pub pod_uid: Option<String>,
    /// The times; the identity is made at the start.
    pub election: Config,
    pub source: Source,
    pub listen: Vec<Address>,
    pub allowed_hosts: Vec<String>,
    pub probe_listen: Option<Address>,
    pub report_dir: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub on_sigterm: OnSigterm,
    pub ready_when: ReadyWhen,
}

/// What a termination signal says about the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnSigterm {
    /// Nothing: promises are waited out.
    Auto,
    /// The app has ended before: release at once.
    Release,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    File(#[from] file::Error),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the namespace {0:?} of the kubeconfig's context is no namespace: {1}; give --namespace")]
    Namespace(String, String),
    #[error("cannot read this machine's {0}: {1}")]
    Machine(&'static str, std::io::Error),
}

impl RunError {
    /// 64 for what another flag or mount would mend, as sysexits.h has it; 1 for the machine.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, RunError::Machine(..)) { 1 } else { 64 }
    }
}

/// Runs until every lease is released, or given up, after a termination signal.
pub async fn run(settings: Settings) -> Result<(), RunError> {
    let mut signals = Signals::install()?;
    let boot_id = time::boot_id().map_err(|error| RunError::Machine("boot id", error))?;
    let kube = settings.source.load().await?;
    let namespace = settings.namespace.clone().unwrap_or_else(|| kube.default_namespace.clone());
    names::dns_label(&namespace).map_err(|fault| RunError::Namespace(namespace.clone(), fault))?;
    let metrics = Arc::new(Metrics::new());
    let connection = {
        let metrics = Arc::clone(&metrics);
        let on_request = Box::new(move |verb: &'static str, code: &str| metrics.api_request(verb, code));
        Arc::new(Connection::new(settings.source.clone(), &kube, on_request)?)
    };
    let boards: Vec<Arc<Board>> = settings
        .leases
        .iter()
        .map(|lease| {
            let ttl = settings.election.answer_ttl;
            let board = Board::new(lease.clone(), namespace.clone(), settings.pod.clone(), boot_id.clone(), ttl);
            Arc::new(board.known_as(&settings.election.identity))
        })
        .collect();
    // First, for a former sidecar of this pod that still ends holds the ports and the files as well.
    let owner = Owner { boot_id, pod_uid: settings.pod_uid.clone(), namespace: namespace.clone() };
    let state = tokio::select! {
        state = open_state(settings.state_dir.as_deref(), owner) => state?,
        _ = signals.next() => return Ok(()),
    };
    let files = match &settings.report_dir {
        Some(dir) => Some(FileReport::open(dir, boards.clone())?),
        None => None,
    };
    if let Some(files) = &files {
        files.reset(SystemClock.boot())?;
    }
    let health = Arc::new(Health::new(boards.len(), settings.ready_when, SystemClock.boot()));
    let (stop_serving, serving) = watch::channel(false);
    let (commands_in, commands) = mpsc::channel(16);
    let servers = serve(&settings, &boards, &metrics, &health, commands_in, serving)?;

    let (watched_in, watched) = mpsc::channel(EVENTS);
    let (done_in, done) = mpsc::channel(EVENTS);
    let mut contenders = Vec::new();
    let identity = format!("{}_{}", settings.election.identity, random_hex());
    let config = Config { identity, ..settings.election };
    for (index, board) in boards.iter().enumerate() {
        let api = Arc::new(Api::new(Arc::clone(&connection), namespace.clone(), board.lease.clone()));
        contenders.push(Contender::new(index, &config, api, Arc::clone(board), state.as_ref(), &watched_in)?);
    }
    let alarm = Alarm::new().map_err(|error| RunError::Machine("timers", error))?;
    let mut sidecar =
        Sidecar { alarm, contenders, files, metrics, health, watched_in, watched, done_in, done, commands };
    sidecar.campaign(signals, settings.on_sigterm).await;
    // Its receiver of commands goes with it: one that comes now is refused, not kept.
    drop(sidecar);
    drop(stop_serving);
    for server in servers {
        // A reader that does not read is not waited for.
        let _ = tokio::time::timeout(Duration::from_millis(500), server).await;
    }
    Ok(())
}

/// Opens the listeners, all or none, and serves them.
fn serve(
    settings: &Settings,
    boards: &[Arc<Board>],
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
    commands: mpsc::Sender<Command>,
    serving: watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<()>>, RunError> {
    let mut listeners = Vec::new();
    for address in &settings.listen {
        listeners.extend(Listener::bind(address)?);
    }
    let mut servers = Vec::new();
    if let Some(address) = &settings.probe_listen {
        let listeners = Listener::bind(address)?;
        let probes = probe::Probes {
            boards: boards.to_vec(),
            clock: Arc::new(SystemClock),
            health: Arc::clone(health),
            metrics: Arc::clone(metrics),
        };
        servers.push(tokio::spawn(probe::run(listeners, probes, serving.clone())));
    }
    let app = App {
        boards: boards.to_vec(),
        clock: Arc::new(SystemClock),
        commands,
        allowed_hosts: settings.allowed_hosts.clone(),
    };
    servers.push(tokio::spawn(http::run(listeners, app, serving)));
    Ok(servers)
}

/// Locks the state directory. A former sidecar of this pod that still ends is waited for; with a directory that
/// another pod uses, this sidecar goes on without one.
async fn open_state(path: Option<&std::path::Path>, owner: Owner) -> Result<Option<StateDir>, RunError> {
    let Some(path) = path else { return Ok(None) };
    let mut told = false;
    loop {
        match StateDir::open(path, owner.clone()) {
            Ok(state) => return Ok(Some(state)),
            Err(StateError::Held { path, same_pod: true }) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(
                        path,
                        "this pod's former sidecar still holds the state directory: waiting for its end"
                    );
                }
            }
            Err(StateError::Held { path, same_pod: false }) => {
                tracing::warn!(
                    path,
                    "another pod's sidecar holds the state directory: going on without one, so a restart will wait the lease out; give each pod its own (an emptyDir)"
                );
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
}

/// One lease's election and what belongs to it.
struct Contender {
    election: Election,
    api: Arc<Api>,
    board: Arc<Board>,
    state: Option<LeaseState>,
    state_failed: bool,
    watch: JoinHandle<()>,
    wake_at: Moment,
    file_written_at: Moment,
    complaints: Complaints,
    file_complaints: Complaints,
    done: bool,
}

/// What a request came to.
enum Done {
    Wrote { lease: usize, write: Box<Write>, sent_at: Moment, outcome: Outcome, failure: Option<Failure> },
    Read { lease: usize, result: Result<Snapshot, Failure> },
}

impl Contender {
    fn new(
        index: usize,
        config: &Config,
        api: Arc<Api>,
        board: Arc<Board>,
        state: Option<&StateDir>,
        watched: &mpsc::Sender<(usize, Watched)>,
    ) -> Result<Self, StateError> {
        let (state, inheritance) = match state {
            Some(state) => {
                let (state, inheritance) = state.lease(&board.lease, &config.identity, config.answer_ttl)?;
                (Some(state), inheritance)
            }
            None => Default::default(),
        };
        let election = Election::new(config.clone(), inheritance.seen, random_u64())
            .succeed(inheritance.former, SystemClock.boot() + inheritance.promised_for);
        let watch = spawn_watch(&api, config, index, watched);
        Ok(Contender {
            election,
            api,
            board,
            state,
            state_failed: false,
            watch,
            wake_at: Moment::NEVER,
            file_written_at: Moment::BOOT,
            complaints: Complaints::default(),
            file_complaints: Complaints::default(),
            done: false,
        })
    }
}

fn spawn_watch(api: &Arc<Api>, config: &Config, lease: usize, tell: &mpsc::Sender<(usize, Watched)>) -> JoinHandle<()> {
    let (api, tell, pause) = (Arc::clone(api), tell.clone(), config.renew_interval);
    let spread = random_u64() as f64 / u64::MAX as f64;
    tokio::spawn(async move { kubernetes::watch(&api, pause, spread, lease, tell).await })
}

struct Sidecar {
    alarm: Alarm,
    contenders: Vec<Contender>,
    files: Option<FileReport>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    watched_in: mpsc::Sender<(usize, Watched)>,
    watched: mpsc::Receiver<(usize, Watched)>,
    done_in: mpsc::Sender<Done>,
    done: mpsc::Receiver<Done>,
    commands: mpsc::Receiver<Command>,
}

impl Sidecar {
    async fn campaign(&mut self, mut signals: Signals, on_sigterm: OnSigterm) {
        while !self.contenders.iter().all(|contender| contender.done) {
            let now = SystemClock.boot();
            self.health.beat(now);
            let refresh_at = self.refresh(now);
            let wake_at = self.contenders.iter().map(|contender| contender.wake_at).min().unwrap_or(Moment::NEVER);
            let wake_at = wake_at.min(refresh_at).min(now + HEARTBEAT);
            tokio::select! {
                biased;
                () = signals.next() => {
                    tracing::info!("asked to end: releasing; a second signal ends this process at once, without releasing");
                    for lease in 0..self.contenders.len() {
                        self.handle(lease, Input::Shutdown { app_ended: on_sigterm == OnSigterm::Release });
                    }
                }
                Some(done) = self.done.recv() => self.finished(done),
                Some((lease, watched)) = self.watched.recv() => self.watched(lease, watched),
                Some(command) = self.commands.recv() => self.command(command),
                () = self.alarm.until(wake_at) => {}
            }
            let now = SystemClock.boot();
            for lease in 0..self.contenders.len() {
                if self.contenders[lease].wake_at <= now {
                    self.handle(lease, Input::Tick);
                }
            }
        }
    }

    /// Gives the election an input, and does what it says.
    fn handle(&mut self, lease: usize, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let contender = &mut self.contenders[lease];
            if contender.done {
                return;
            }
            for output in contender.election.handle(SystemClock.now(), input) {
                match output {
                    Output::Remember(seen) => self.remember(lease, *seen),
                    Output::Publish(status) => next = self.publish(lease, status),
                    Output::Write(write) => self.write(lease, write),
                    Output::Read { timeout, fresh } => self.read(lease, timeout, fresh),
                    Output::RestartWatch => self.restart_watch(lease),
                    Output::WakeAt(at) => self.contenders[lease].wake_at = at,
                    Output::Done => {
                        let contender = &mut self.contenders[lease];
                        contender.done = true;
                        contender.wake_at = Moment::NEVER;
                        contender.watch.abort();
                    }
                }
            }
        }
    }

    /// Tells everybody, and, once not-leader is what everybody is told, the election until when a promise may last.
    fn publish(&mut self, lease: usize, status: Status) -> Option<Input> {
        let board = Arc::clone(&self.contenders[lease].board);
        let before = board.status();
        let leads = status.leading.is_some();
        if leads != before.leading.is_some() {
            self.metrics.changed(&board.lease, leads, status.reason);
        }
        log_change(&board, &before, &status);
        let version = status.version;
        board.publish(status, SystemClock.wall());
        self.write_file(lease);
        // A file that could not be written says nothing that was not promised: it ends by itself.
        (!leads).then(|| Input::Withdrawn { version, promised_until: board.promised_until() })
    }

    /// Refreshes the files of leaders each quarter of the answer TTL, and says when the next one is due.
    fn refresh(&mut self, now: Moment) -> Moment {
        let mut next = Moment::NEVER;
        for lease in 0..self.contenders.len() {
            let contender = &self.contenders[lease];
            if contender.election.status().leading_at(now).is_none() {
                continue;
            }
            let period = contender.board.answer_ttl() / 4;
            if now >= contender.file_written_at + period {
                self.write_file(lease);
            }
            next = next.min(self.contenders[lease].file_written_at + period);
        }
        next
    }

    fn write_file(&mut self, lease: usize) {
        let now = SystemClock.boot();
        self.contenders[lease].file_written_at = now;
        if let Some(files) = &self.files
            && let Err(error) = files.refresh(lease, now)
        {
            self.metrics.report_write_failed();
            let text = format!("cannot write the report files, so readers of them see no leader: {error}");
            if self.contenders[lease].file_complaints.is_news(&text, now) {
                tracing::warn!("{text}");
            }
        }
    }

    fn remember(&mut self, lease: usize, seen: Seen) {
        let contender = &mut self.contenders[lease];
        let Some(state) = &mut contender.state else { return };
        match state.remember(seen) {
            Ok(()) => contender.state_failed = false,
            Err(error) => {
                if !std::mem::replace(&mut contender.state_failed, true) {
                    tracing::warn!(lease = contender.board.lease, %error, "cannot write the state directory: a restart of this sidecar will wait the lease out");
                }
            }
        }
    }

    fn write(&self, lease: usize, write: Write) {
        let (api, done) = (Arc::clone(&self.contenders[lease].api), self.done_in.clone());
        let sent_at = SystemClock.boot();
        tokio::spawn(async move {
            let (outcome, failure) = api.write(&write).await;
            // The loop is gone only when the process ends.
            let _ = done.send(Done::Wrote { lease, write: Box::new(write), sent_at, outcome, failure }).await;
        });
    }

    fn read(&self, lease: usize, timeout: Duration, fresh: bool) {
        let (api, done) = (Arc::clone(&self.contenders[lease].api), self.done_in.clone());
        tokio::spawn(async move {
            if fresh {
                api.reconnect();
            }
            let result = api.read(timeout).await;
            let _ = done.send(Done::Read { lease, result }).await;
        });
    }

    fn restart_watch(&mut self, lease: usize) {
        let contender = &mut self.contenders[lease];
        contender.watch.abort();
        self.metrics.watch_restarted(&contender.board.lease);
        contender.watch = spawn_watch(&contender.api, contender.election.config(), lease, &self.watched_in);
    }

    fn finished(&mut self, done: Done) {
        match done {
            Done::Wrote { lease, write, sent_at, outcome, failure } => {
                let contender = &mut self.contenders[lease];
                let name = &contender.board.lease;
                if write.kind == Kind::Renew {
                    match &failure {
                        None => self.metrics.renewed(name, SystemClock.boot().since(sent_at)),
                        Some(failure) => self.metrics.renew_failed(name, failure.reason()),
                    }
                }
                contender.note(Ask::Write, failure.as_ref());
                self.handle(lease, Input::Wrote { attempt: write.attempt, outcome });
            }
            Done::Read { lease, result } => {
                self.contenders[lease].note(Ask::Read, result.as_ref().err());
                self.handle(lease, Input::Read(result.ok()));
            }
        }
    }

    fn watched(&mut self, lease: usize, watched: Watched) {
        match watched {
            Watched::Seen { record, version, via } => {
                self.health.observed(lease);
                // A list may work where a watch does not.
                if via == Via::Event {
                    self.contenders[lease].note(Ask::Watch, None);
                }
                self.handle(lease, Input::Observed { record, version, via });
            }
            Watched::Heard => self.handle(lease, Input::Heard),
            Watched::Began { again } => {
                let contender = &mut self.contenders[lease];
                contender.note(Ask::Watch, None);
                if again {
                    self.metrics.watch_restarted(&contender.board.lease);
                }
            }
            Watched::Failed(failure) => {
                let contender = &mut self.contenders[lease];
                contender.note(Ask::Watch, Some(&failure));
                let advice = kubernetes::advice(&failure, &contender.api);
                self.handle(lease, Input::WatchFailed { advice });
            }
        }
    }

    fn command(&mut self, command: Command) {
        // Who asked may be gone; then nobody is told.
        match command {
            Command::StepDown { lease, to: Some(_), reply } => {
                let _ = reply
                    .send(refusal("not_supported", "naming a successor is not supported yet: leave out \"to\"".into()));
                let _ = lease;
            }
            Command::StepDown { lease, to: None, reply } => self.step_down(lease, reply),
            Command::Stopped { lease, token, reply } => {
                let _ = reply.send(match self.contenders[lease].election.acknowledgement(token) {
                    Acknowledgement::Accepted => {
                        self.handle(lease, Input::AppStopped { token });
                        Ok(())
                    }
                    Acknowledgement::StillLeading => refusal(
                        "still_leading",
                        "this pod still leads under this token: stepdown hands over, stopped acknowledges a loss"
                            .into(),
                    ),
                    Acknowledgement::WrongToken => {
                        refusal("wrong_token", format!("no term of this pod ended under the token {token}"))
                    }
                });
            }
        }
    }

    fn step_down(&mut self, lease: usize, reply: oneshot::Sender<Result<(), Refusal>>) {
        let leads = self.contenders[lease].election.status().leading_at(SystemClock.boot()).is_some();
        if leads {
            self.handle(lease, Input::StepDown);
        }
        let _ = reply.send(if leads { Ok(()) } else { refusal("not_leader", "this pod does not lead".into()) });
    }
}

fn refusal(code: &'static str, message: String) -> Result<(), Refusal> {
    Err(Refusal { code, message })
}

impl Contender {
    /// Logs a failure when it is news, and the end of all failures.
    fn note(&mut self, ask: Ask, failure: Option<&Failure>) {
        let (lease, now) = (&self.board.lease, SystemClock.boot());
        match failure {
            // A conflict is how the election works.
            Some(Failure::Status { code: 409, .. }) => {}
            Some(failure) => {
                let text = kubernetes::advice(failure, &self.api);
                if self.complaints.failed(ask, &text, now).is_some() {
                    tracing::warn!(lease, "{text}");
                }
            }
            None => {
                if self.complaints.worked(ask).is_some() {
                    tracing::info!(lease, "the API server answers again");
                }
            }
        }
    }
}

fn log_change(board: &Board, before: &Status, status: &Status) {
    if status.version == before.version {
        return;
    }
    let (lease, reason) = (&board.lease, status.reason.as_str());
    match (&status.leading, &before.leading) {
        (Some(leading), _) => {
            tracing::info!(lease, fencing_token = leading.token, transitions = status.transitions, "leading");
        }
        (None, Some(_)) => tracing::info!(lease, reason, why = status.message, "not leading any more"),
        // Its message is the warning that was just logged.
        (None, None) if status.reason == Reason::Refused => {
            if before.reason != Reason::Refused {
                tracing::info!(lease, reason, "not leading");
            }
        }
        (None, None) if status.reason != before.reason || status.holder != before.holder => {
            let holder: String = status.holder.as_deref().map(pod_of).unwrap_or("").chars().take(80).collect();
            tracing::info!(lease, reason, holder, why = status.message, "not leading");
        }
        (None, None) => {}
    }
}

/// SIGTERM and SIGINT. A second one ends the process at once, even if the loop is stuck.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> Result<Self, RunError> {
        let fault = |error| RunError::Machine("signals", error);
        let armed = Arc::new(AtomicBool::new(false));
        for number in [SIGTERM, SIGINT] {
            signal_hook::flag::register_conditional_shutdown(number, 1, Arc::clone(&armed)).map_err(fault)?;
            signal_hook::flag::register(number, Arc::clone(&armed)).map_err(fault)?;
        }
        armed.store(false, Ordering::Relaxed);
        let terminate = signal(SignalKind::terminate()).map_err(fault)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
        Ok(Signals { terminate, interrupt })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u64::from_ne_bytes(bytes),
        // Not on any kernel that Kubernetes runs on; the clock and the process id still differ.
        Err(_) => SystemClock.boot().as_nanos() ^ u64::from(std::process::id()) << 32,
    }
}

pub fn random_hex() -> String {
    format!("{:010x}", random_u64() >> 24)
}
