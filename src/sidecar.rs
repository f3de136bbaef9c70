//! The one loop: it owns every election, and joins what the API server, the app and the clock say to what is
//! written, published and told.
//!
//! Nothing else changes an election's state. Requests run as tasks and come back as events; HTTP answers are computed
//! from the boards at any time and never wait for the loop. The order of a start is: configuration, state directory,
//! files reset to not-leader, locks, listeners, campaign.

mod announcer;
mod app;
mod contender;
pub mod membership;
mod signals;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::alarm::Alarm;
use crate::app::asking;
use crate::app::health::Thresholds;
use crate::app::lock::{self, Enforcement, LockError};
use crate::app::{Evidence, Gone, Sign, enforcement_lock};
use crate::complaint::Ask;
use crate::election::{Acknowledgement, Config, Input, Kind, Outcome, Output, Seen, Shutdown, Status, Via, Write};
use crate::kubernetes::{self, Api, ConfigError, Connection, Failure, Pod, Snapshot, Source, Watched};
use crate::membership::name::lease_name;
use crate::membership::roster::Rivals;
use crate::names;
use crate::report::file::FileReport;
use crate::report::http::{self, Address, App, BindError, Command, Course, Listener, Refusal, Reply};
use crate::report::members::MembersBoard;
use crate::report::metrics::Metrics;
use crate::report::probe::{self, Health, ReadyWhen};
use crate::report::{Board, file};
use crate::state::{Owner, StateDir, StateError};
use crate::time::{self, Clock, Moment, SystemClock};
use announcer::Announcer;
use app::{AppSide, News};
use contender::{Contender, log_change, spawn_watch};
use membership::{MemberSettings, Membership, Place};
use signals::Signals;

/// The loop turns at least so often, which is what /livez watches.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How often the lock of the state directory is tried while this pod's former sidecar still ends.
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// Results of requests that wait for the loop.
const EVENTS: usize = 256;

/// What is left of the shutdown grace when the election ends: for last answers, and for streams to close.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What a release may take, beyond the promises that it waits for.
const RELEASE_TIME: Duration = Duration::from_secs(1);
/// Beyond the answer TTL, the least that a shutdown takes.
pub const SHORTEST_ENDING: Duration = LAST_WORDS.saturating_add(RELEASE_TIME);
/// How often the lock of who enforces a term's end is tried, while a release waits for it.
const ENFORCEMENT_RETRY: Duration = Duration::from_millis(10);

/// Everything that `run` is told, validated.
#[derive(Clone, Debug)]
pub struct Settings {
    pub leases: Vec<String>,
    /// The group that this pod joins.
    pub member: Option<MemberSettings>,
    /// `None`: the namespace of the service account or the kubeconfig's context.
    pub namespace: Option<String>,
    pub pod: String,
    /// `None`: as without `namespace`; the Lease may be in another.
    pub pod_namespace: Option<String>,
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
    pub shutdown_grace: Duration,
    pub ready_when: ReadyWhen,
    pub app: AppSettings,
    /// Tell the cluster of each term by Events.
    pub events: bool,
    /// Keep a label on the pod that says whether it leads the first lease.
    pub role_label: bool,
}

/// What the app is to show.
#[derive(Clone, Debug)]
pub struct AppSettings {
    /// Alive while all of them say so; without any, always.
    pub evidence: Vec<Evidence>,
    /// Only sessions of this name count.
    pub session_name: Option<String>,
    pub health: Thresholds,
    /// How long an app may ask nothing.
    pub timeout: Duration,
}

impl AppSettings {
    /// Everything wrong with them, a sentence each.
    pub fn faults(&self, has_report_dir: bool, on_sigterm: OnSigterm) -> Vec<String> {
        let mut faults = Vec::new();
        let names: Vec<String> = self.evidence.iter().map(ToString::to_string).collect();
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                faults.push(format!("--app-alive {name} is given twice"));
            }
        }
        let has = |name: &str| names.iter().any(|known| known == name);
        if has("lock") && !has_report_dir {
            faults.push("--app-alive lock needs --report-dir: the lock is a file in it".into());
        }
        if self.session_name.is_some() && !has("session") {
            faults.push("--session-name needs --app-alive session".into());
        }
        if on_sigterm == OnSigterm::WaitForApp && self.evidence.is_empty() {
            faults.push("--on-sigterm wait-for-app needs --app-alive: nothing shows when the app has ended".into());
        }
        faults.extend(self.health.faults());
        faults.extend(asking::fault(self.timeout));
        faults
    }
}

/// What a termination signal says about the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnSigterm {
    /// Nothing: promises are waited out.
    Auto,
    /// The app has ended before: release at once.
    Release,
    /// The app ends as well: lead on until it has, or the grace is nearly over.
    WaitForApp,
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
    Lock(#[from] LockError),
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
    let mut signals = Signals::install(settings.shutdown_grace)?;
    let boot_id = time::boot_id().map_err(|error| RunError::Machine("boot id", error))?;
    let kube = settings.source.load().await?;
    let namespace = settings.namespace.clone().unwrap_or_else(|| kube.default_namespace.clone());
    names::dns_label(&namespace).map_err(|fault| RunError::Namespace(namespace.clone(), fault))?;
    let metrics = Arc::new(Metrics::new());
    let connection = {
        let metrics = Arc::clone(&metrics);
        let on_request = Box::new(move |verb: &'static str, resource: &'static str, code: &str| {
            metrics.api_request(verb, resource, code);
        });
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
    let owner = Owner { boot_id: boot_id.clone(), pod_uid: settings.pod_uid.clone(), namespace: namespace.clone() };
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
    let locks = make_locks(settings.report_dir.as_deref(), &boards)?;
    let app = AppSide::new(&settings)?;
    let pod_namespace = settings.pod_namespace.clone().unwrap_or(kube.default_namespace);
    let pod = Pod { namespace: pod_namespace, name: settings.pod.clone(), uid: settings.pod_uid.clone() };
    let group = settings.member.as_ref().map(|member| {
        let lease = lease_name(&member.group, &settings.election.identity);
        let of = |text: &str| text.to_owned();
        MembersBoard::new(of(&member.group), of(&pod.namespace), of(&pod.name), lease, boot_id.clone())
    });
    let group = group.map(Arc::new);
    group.iter().for_each(|group| metrics.joins(group));
    let health = Health::new(boards.len() + usize::from(group.is_some()), settings.ready_when, SystemClock.boot());
    let health = Arc::new(health);
    let (stop_serving, serving) = watch::channel(false);
    let (commands_in, commands) = mpsc::channel(16);
    let asked = App {
        boards: boards.clone(),
        members: group.clone(),
        clock: Arc::new(SystemClock),
        sessions: Arc::clone(&app.sessions),
        asking: Arc::clone(&app.asking),
        commands: commands_in,
        allowed_hosts: settings.allowed_hosts.clone(),
    };
    let probes = probe::Probes {
        boards: boards.clone(),
        clock: Arc::new(SystemClock),
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
    };
    let servers = serve(&settings, asked, probes, serving)?;

    let announcer = Announcer::new(&settings, pod.clone(), &connection, &boards);
    let (watched_in, watched) = mpsc::channel(EVENTS);
    let (done_in, done) = mpsc::channel(EVENTS);
    let mut contenders = Vec::new();
    let identity = format!("{}_{}", settings.election.identity, random_hex());
    let config = Config { identity: identity.clone(), ..settings.election };
    for (index, (board, enforcement)) in boards.iter().zip(locks).enumerate() {
        let api = Arc::new(Api::new(Arc::clone(&connection), namespace.clone(), board.lease.clone()));
        contenders.push(Contender::new(
            index,
            &config,
            api,
            Arc::clone(board),
            state.as_ref(),
            enforcement,
            &watched_in,
        )?);
    }
    if let Some(until) = contenders.iter().map(|contender| contender.former_promised_until).max() {
        app.sessions.succeed(until);
    }
    let membership = match settings.member.as_ref().zip(group) {
        Some((member, board)) => {
            let former = match &state {
                Some(state) => state.lease(&board.lease, &identity, settings.election.answer_ttl)?.1.former,
                None => Vec::new(),
            };
            let place = Place {
                pod,
                identity,
                former,
                leases: settings.leases.clone(),
                report_dir: settings.report_dir.clone(),
            };
            let (health, observed) = (Arc::clone(&health), boards.len());
            Some(Membership::join(member, board, place, &connection, move || health.observed(observed))?)
        }
        None => None,
    };
    let alarm = Alarm::new().map_err(|error| RunError::Machine("timers", error))?;
    let mut sidecar = Sidecar {
        alarm,
        contenders,
        ending: false,
        membership,
        files,
        announcer,
        metrics,
        health,
        app,
        watched_in,
        watched,
        done_in,
        done,
        commands,
    };
    sidecar.campaign(signals, &settings).await;
    let announcing = sidecar.announcer.tasks();
    let membership = sidecar.membership.take();
    // Its receiver of commands goes with it: one that comes now is refused, not kept.
    drop(sidecar);
    drop(stop_serving);
    // A reader that does not read is not waited for, and neither is an API server that does not answer.
    let ended = async {
        for task in servers.into_iter().chain(announcing) {
            let _ = task.await;
        }
    };
    let leaving = async {
        if let Some(membership) = membership {
            membership.leave(SystemClock.boot() + LAST_WORDS / 2).await;
        }
    };
    let _ = tokio::join!(tokio::time::timeout(LAST_WORDS / 2, ended), leaving);
    Ok(())
}

/// Opens the listeners, all or none, and serves them.
fn serve(
    settings: &Settings,
    app: App,
    probes: probe::Probes,
    serving: watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<()>>, RunError> {
    let mut listeners = Vec::new();
    for address in &settings.listen {
        listeners.extend(Listener::bind(address)?);
    }
    let mut servers = Vec::new();
    if let Some(address) = &settings.probe_listen {
        let listeners = Listener::bind(address)?;
        servers.push(tokio::spawn(probe::run(listeners, probes, serving.clone())));
    }
    servers.push(tokio::spawn(http::run(listeners, app, serving)));
    Ok(servers)
}

/// Locks the state directory. A former sidecar of this pod that still ends is waited for; with a directory that
/// another pod uses, or that has no room, this sidecar goes on without one.
async fn open_state(path: Option<&Path>, owner: Owner) -> Result<Option<StateDir>, RunError> {
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
            Err(StateError::Full { path, source }) => {
                tracing::warn!(path, error = %source, "no room for the state directory: going on without one, so a restart of this sidecar will wait the lease out");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
}

/// What a request came to.
enum Done {
    Wrote { lease: usize, write: Box<Write>, sent_at: Moment, outcome: Outcome, failure: Option<Failure> },
    Read { lease: usize, result: Result<Snapshot, Failure> },
}

struct Sidecar {
    alarm: Alarm,
    contenders: Vec<Contender>,
    /// A signal came.
    ending: bool,
    membership: Option<Membership>,
    files: Option<FileReport>,
    announcer: Announcer,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    app: AppSide,
    watched_in: mpsc::Sender<(usize, Watched)>,
    watched: mpsc::Receiver<(usize, Watched)>,
    done_in: mpsc::Sender<Done>,
    done: mpsc::Receiver<Done>,
    commands: mpsc::Receiver<Command>,
}

impl Sidecar {
    async fn campaign(&mut self, mut signals: Signals, settings: &Settings) {
        if let Some(why) = self.app.gone().map(str::to_owned) {
            self.app_gone(&Gone { why, proved: false });
        }
        while !self.ending || !self.contenders.iter().all(|contender| contender.done) {
            let now = SystemClock.boot();
            self.health.beat(now);
            if let Some(membership) = &self.membership {
                membership.stand(!self.ending && self.app.gone().is_none());
            }
            let next =
                [self.refresh(now), self.await_enforcers(now), self.settle_step_downs(now), self.app.let_go(now)];
            let wake_at = self.contenders.iter().map(|contender| contender.wake_at).chain(next).min();
            let wake_at = wake_at.unwrap_or(Moment::NEVER).min(now + HEARTBEAT);
            tokio::select! {
                biased;
                () = signals.next() => self.shut_down(settings),
                // Before the app's news: an app can make any number of these.
                Some(done) = self.done.recv() => self.finished(done),
                Some((lease, watched)) = self.watched.recv() => self.watched(lease, watched),
                news = self.app.news() => self.app_says(news),
                Some(command) = self.commands.recv() => self.command(command),
                rivals = rivals(&mut self.membership) => self.rivals(rivals),
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

    fn rivals(&mut self, rivals: Vec<Rivals>) {
        for (lease, Rivals { count, successor }) in rivals.into_iter().enumerate() {
            self.handle(lease, Input::Rivals { count, successor });
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
        let contender = &mut self.contenders[lease];
        self.announcer.published(lease, &contender.election);
        if leads {
            contender.enforced_until = None;
        }
        contender.note_enforcers(before.leading.filter(|_| !leads).map(|leading| leading.stop_by));
        (!leads).then(|| contender.withdrawn(version))
    }

    /// Refreshes the files of leaders each quarter of the answer TTL, and those that still say what is not so any more;
    /// says when the next one is due.
    fn refresh(&mut self, now: Moment) -> Moment {
        let mut next = Moment::NEVER;
        for lease in 0..self.contenders.len() {
            let contender = &self.contenders[lease];
            if contender.election.status().leading_at(now).is_none() && now >= contender.old_file_until {
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
        let contender = &mut self.contenders[lease];
        contender.file_written_at = now;
        if let Some(files) = &self.files
            && let Err(error) = files.refresh(lease, now)
        {
            if contender.board.leading().is_none() {
                contender.old_file_until = contender.board.promised_until();
            }
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
            Command::StepDown { lease, to, wait, reply } => self.step_down(lease, to, wait, reply),
            Command::Stopped { lease, token, reply } => {
                let _ = reply.send(match self.contenders[lease].election.acknowledgement(token) {
                    Acknowledgement::Accepted => {
                        self.handle(lease, Input::AppStopped { token });
                        Ok(Course::Done)
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

    fn step_down(&mut self, lease: usize, to: Option<String>, wait: Duration, reply: Reply) {
        if let Some(refused) = self.contenders[lease].refuses_step_down(to.as_deref()) {
            // Who asked may be gone; then nobody is told.
            let _ = reply.send(Err(refused));
            return;
        }
        self.handle(lease, Input::StepDown { to });
        self.contenders[lease].stepped_down(wait, reply);
    }

    /// Tells who asked for it what came of a step-down, and says until when the others wait.
    fn settle_step_downs(&mut self, now: Moment) -> Moment {
        self.contenders.iter_mut().map(|contender| contender.settle_step_downs(now)).min().unwrap_or(Moment::NEVER)
    }

    /// Looks whether those that a release waits for have ended, and says when to look again.
    fn await_enforcers(&mut self, now: Moment) -> Moment {
        let mut next = Moment::NEVER;
        for lease in 0..self.contenders.len() {
            let contender = &mut self.contenders[lease];
            if contender.enforced_until.is_none() {
                continue;
            }
            contender.note_enforcers(None);
            if contender.enforced_until.is_some() {
                next = now + ENFORCEMENT_RETRY;
                continue;
            }
            let withdrawn = contender.withdrawn(contender.board.status().version);
            self.handle(lease, withdrawn);
        }
        next
    }

    fn shut_down(&mut self, settings: &Settings) {
        let what = match settings.on_sigterm {
            OnSigterm::WaitForApp => "leading on until the app has ended, then releasing",
            OnSigterm::Auto | OnSigterm::Release => "releasing",
        };
        tracing::info!("asked to end: {what}; a second signal ends this process at once, without releasing");
        self.ending = true;
        let now = SystemClock.boot();
        let end_by = now + settings.shutdown_grace.saturating_sub(LAST_WORDS);
        let leave_at = match settings.on_sigterm {
            OnSigterm::WaitForApp => (end_by - settings.election.answer_ttl - RELEASE_TIME).max(now),
            OnSigterm::Auto | OnSigterm::Release => now,
        };
        let app_ended = settings.on_sigterm == OnSigterm::Release;
        for lease in 0..self.contenders.len() {
            self.handle(lease, Input::Shutdown(Shutdown { app_ended, leave_at, end_by }));
        }
    }

    fn app_says(&mut self, news: News) {
        match news {
            News::Sign(sign) => self.sign(sign),
            News::Unlocked(sign, hold) => {
                self.sign(sign);
                // By now everything says not-leader, unless a file could not be written: it still says yes.
                let until = self.contenders.iter().map(|contender| contender.old_file_until).max();
                if let Some(until) = until.filter(|until| *until > SystemClock.boot()) {
                    self.app.hold_until(hold, until);
                }
            }
            News::Sessions => {
                let now = SystemClock.boot();
                if let Some(sign) = self.app.of_sessions(now) {
                    self.sign(sign);
                }
                for lease in 0..self.contenders.len() {
                    self.look_at_exclusive_sessions(lease, now);
                }
            }
        }
    }

    fn sign(&mut self, sign: Sign) {
        match self.app.note(sign) {
            None => {}
            Some(Ok(())) => {
                self.metrics.app_is(true);
                for lease in 0..self.contenders.len() {
                    self.handle(lease, Input::AppAlive);
                }
            }
            Some(Err(gone)) => self.app_gone(&gone),
        }
    }

    fn app_gone(&mut self, gone: &Gone) {
        self.metrics.app_is(false);
        for lease in 0..self.contenders.len() {
            self.handle(lease, gone.clone().into());
        }
    }

    /// The exclusive session that led is gone: its term ends, and with it what was told. The next of this pod, or of
    /// another, leads under a new token.
    fn look_at_exclusive_sessions(&mut self, lease: usize, now: Moment) {
        let leading = self.contenders[lease].board.leading();
        let Some(gone) = leading.and_then(|leading| self.app.sessions.leader_ended(lease, leading.token, now)) else {
            return;
        };
        self.handle(lease, gone.into());
        if self.app.gone().is_none() {
            self.handle(lease, Input::AppAlive);
        }
    }
}

/// Waits until others come or go, where that is known.
async fn rivals(membership: &mut Option<Membership>) -> Vec<Rivals> {
    if let Some(membership) = membership
        && membership.rivals.changed().await.is_ok()
    {
        return membership.rivals.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// The locks in the report directory, there before anything says yes; one for each lease's enforcers.
fn make_locks(dir: Option<&Path>, boards: &[Arc<Board>]) -> Result<Vec<Option<Enforcement>>, LockError> {
    let Some(dir) = dir else { return Ok(boards.iter().map(|_| None).collect()) };
    lock::open(&dir.join(lock::ALIVE))?;
    boards.iter().map(|board| Enforcement::open(enforcement_lock(dir, &board.lease)).map(Some)).collect()
}

impl From<Gone> for Input {
    fn from(Gone { why, proved }: Gone) -> Self {
        Input::AppGone { proved, why }
    }
}

fn refusal(code: &'static str, message: String) -> Result<Course, Refusal> {
    Err(Refusal { code, message })
}

fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u64::from_ne_bytes(bytes),
        // Not on any kernel that Kubernetes runs on; the clock and the process id still differ.
        Err(_) => SystemClock.boot().as_nanos() ^ u64::from(std::process::id()) << 32,
    }
}

/// In 0..1: what keeps many pods from doing the same at one time.
fn random_share() -> f64 {
    (random_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

pub fn random_hex() -> String {
    format!("{:010x}", random_u64() >> 24)
}
