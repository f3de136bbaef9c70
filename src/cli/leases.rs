//! `leasehold leases`: the Leases of a namespace or of all, and whether their holders live, as this reader's own clock
//! sees them change.
//!
//! A single look at a Lease says who held it at some time, by the holder's clock. So this lists, then watches for a
//! while: a kubelet and an API server renew each 10 s, an elector more often. What it could not see in that time is
//! `observing`, which is no judgement.

mod view;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{EX_USAGE, duration};
use crate::alarm::Alarm;
use crate::complaint::{Ask, Complaints};
use crate::devapi::Labels;
use crate::kubernetes::{ConfigError, Connection, Failure, Leases, Source, Told, reader_advice};
use crate::membership::{API_SERVER, Catalogue, Known, MEMBER_OF, State};
use crate::names::dns_label;
use crate::time::{Clock, Moment, SystemClock};
use view::{Form, View};

/// For one request, over whatever link a workstation has.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// After a request that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two updates of what is shown.
const TOGETHER: Duration = Duration::from_millis(100);
/// Up to so many Leases in doubt are read one by one; for more there is a list.
const FEW: usize = 5;

const NOT_ALL_JUDGED: u8 = 1;
const CANNOT_TELL: u8 = 2;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "STATE, by this reader's own clock: held (seen to change), late (no change for half of the duration), expired (none for all of it), released, never held, observing (held by the record, and not watched for long enough to know).\nExits 0; with --count 1 when some could not be judged in time, which stderr says; 2 when the API server does not tell; 64 for wrong usage.\nNeeds the verbs list and watch on leases, with -A by a ClusterRole."
)]
pub struct Args {
    /// Namespace [default: that of the kubeconfig's context]
    #[arg(short, long, value_name = "NS", env = "LEASEHOLD_NAMESPACE", hide_env = true)]
    namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only Leases with these labels, such as leasehold.dev/member-of=web
    #[arg(short = 'l', long, value_name = "LABELS", value_parser = selector)]
    selector: Option<String>,
    /// Go on watching: on a terminal the table is kept up to date, else a line is printed for each change
    #[arg(short, long)]
    watch: bool,
    /// How to show them
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t = Form::Table)]
    output: Form,
    /// Print how many holders live (held or late), and nothing else
    #[arg(long, conflicts_with_all = ["watch", "output"])]
    count: bool,
    /// Watch for so long at most; less as soon as all is known
    #[arg(long, value_name = "TIME", default_value = "12s", value_parser = duration, conflicts_with = "watch")]
    observe_for: Duration,
    /// Use this kubeconfig [default: a pod's service account, else kubectl's]
    #[arg(long, value_name = "FILE", env = "LEASEHOLD_KUBECONFIG", hide_env = true)]
    kubeconfig: Option<PathBuf>,
    /// A context of it
    #[arg(long, value_name = "NAME", env = "LEASEHOLD_CONTEXT", hide_env = true)]
    context: Option<String>,
}

/// As the API server understands it, checked before it is sent.
fn selector(text: &str) -> Result<String, String> {
    text.parse::<Labels>().map(|_| text.to_owned())
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the namespace {0:?} is no namespace: {1}; give --namespace, or --all-namespaces")]
    Namespace(String, String),
    #[error("cannot read the Leases of {place}: {advice}")]
    Read { place: String, advice: String },
    #[error("cannot wait here: {0}")]
    System(#[from] std::io::Error),
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) | Error::Namespace(..) => EX_USAGE,
            Error::Read { .. } | Error::System(_) => CANNOT_TELL,
        }
    }
}

pub fn main(args: Args) -> ExitCode {
    let runtime = super::runtime();
    let ended = runtime.block_on(leases(args));
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| {
        eprintln!("leasehold: {error}");
        ExitCode::from(error.exit_code())
    })
}

async fn leases(args: Args) -> Result<ExitCode, Error> {
    let source = Source { kubeconfig: args.kubeconfig, context: args.context };
    let kube = source.load().await?;
    let namespace = match args.all_namespaces {
        true => None,
        false => Some(args.namespace.unwrap_or_else(|| kube.default_namespace.clone())),
    };
    if let Some(namespace) = &namespace {
        dns_label(namespace).map_err(|fault| Error::Namespace(namespace.clone(), fault))?;
    }
    let connection = Arc::new(Connection::new(source, &kube, Box::new(|_, _, _| {}))?);
    let selector = args.selector.unwrap_or_default();
    let kept = |key: &str| [API_SERVER, MEMBER_OF].contains(&key);
    let leases = Leases::new(connection, namespace.clone(), selector, kept, ATTEMPT_TIMEOUT);
    let mut reader = Reader::new(leases, namespace.clone())?;
    let view = View::new(args.output, namespace.is_none());
    if args.watch {
        return keep_watching(reader, view).await;
    }

    let began = SystemClock.boot();
    reader.first_list().await?;
    while SystemClock.boot().since(began) < args.observe_for && reader.knows_nothing_of() > 0 {
        reader.wait(began + args.observe_for).await?;
    }
    if let Some(complaint) = &reader.complaint {
        eprintln!("leasehold: {complaint}");
    }
    let now = SystemClock.boot();
    if args.count {
        return Ok(count(&reader, now));
    }
    view.show(&reader.catalogue, now, now.since(began));
    Ok(ExitCode::SUCCESS)
}

fn count(reader: &Reader, now: Moment) -> ExitCode {
    let alive = reader.catalogue.iter().filter(|known| known.state(now).is_alive()).count();
    view::print(&format!("{alive}\n"));
    match reader.knows_nothing_of() {
        0 => ExitCode::SUCCESS,
        unknown => {
            eprintln!(
                "leasehold: {unknown} more {} held, and may be alive or not: no change was seen in the time given; watch longer by --observe-for",
                if unknown == 1 { "is" } else { "are" }
            );
            ExitCode::from(NOT_ALL_JUDGED)
        }
    }
}

async fn keep_watching(mut reader: Reader, mut view: View) -> Result<ExitCode, Error> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    reader.first_list().await?;
    loop {
        if !view.update(&reader.catalogue, SystemClock.boot(), reader.complaint.as_deref()) {
            return Ok(ExitCode::SUCCESS);
        }
        let news = async {
            // What changes together is shown together: thousands of Leases may be renewed each few seconds.
            tokio::time::sleep(TOGETHER).await;
            reader.wait(view.next_update()).await
        };
        tokio::select! {
            waited = news => waited?,
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Many Leases, and the watch that brings their news.
struct Reader {
    leases: Leases,
    namespace: Option<String>,
    catalogue: Catalogue,
    told: mpsc::Receiver<Told>,
    watch: JoinHandle<()>,
    alarm: Alarm,
    /// Those in doubt are not read before.
    read_after: Moment,
    complaints: Complaints,
    /// What fails now.
    complaint: Option<String>,
}

impl Reader {
    fn new(leases: Leases, namespace: Option<String>) -> Result<Self, Error> {
        let (watch, told) = start_watch(&leases);
        Ok(Reader {
            leases,
            namespace,
            catalogue: Catalogue::default(),
            told,
            watch,
            alarm: Alarm::new()?,
            read_after: Moment::BOOT,
            complaints: Complaints::default(),
            complaint: None,
        })
    }

    /// Waits until all are listed. What fails before that is not tried again: somebody waits for an answer.
    async fn first_list(&mut self) -> Result<(), Error> {
        match self.told.recv().await {
            Some(Told::Failed(failure)) => Err(self.fault(&failure)),
            Some(told) => self.take(told),
            None => Ok(()),
        }
    }

    /// How many are held by a record that nothing more is known of.
    fn knows_nothing_of(&self) -> usize {
        let now = SystemClock.boot();
        self.catalogue.iter().filter(|known| known.state(now) == State::Observing).count()
    }

    /// Waits until something changes, or `until` at most, and takes in all the news.
    async fn wait(&mut self, until: Moment) -> Result<(), Error> {
        let now = SystemClock.boot();
        let mut wake = until.min(self.catalogue.next_change(now).unwrap_or(Moment::NEVER));
        if self.catalogue.in_doubt(now).next().is_some() {
            wake = wake.min(self.read_after);
        }
        tokio::select! {
            told = self.told.recv() => if let Some(told) = told { self.take(told)? },
            () = self.alarm.until(wake) => {}
        }
        while let Ok(told) = self.told.try_recv() {
            self.take(told)?;
        }
        self.settle_doubts().await
    }

    fn take(&mut self, told: Told) -> Result<(), Error> {
        let now = SystemClock.boot();
        match told {
            Told::Listed { entries, sent_at, .. } => self.catalogue.listed(now, sent_at, entries),
            Told::Changed(entry) => drop(self.catalogue.changed(now, *entry)),
            Told::Deleted { namespace, name, version, .. } => drop(self.catalogue.deleted(&namespace, &name, version)),
            Told::Heard => {}
            Told::Began => {
                self.complaint = None;
                self.complaints.worked(Ask::Watch);
            }
            Told::Failed(failure) => self.failed(&failure, Ask::Watch)?,
        }
        Ok(())
    }

    /// A right that is missing does not come by itself. Anything else may pass, and is said once.
    fn failed(&mut self, failure: &Failure, ask: Ask) -> Result<(), Error> {
        if failure.is_no_such_question() {
            return Err(self.fault(failure));
        }
        let text = self.fault(failure).to_string();
        if self.complaints.failed(ask, &text, SystemClock.boot()).is_some() {
            self.complaint = Some(text);
        }
        Ok(())
    }

    fn fault(&self, failure: &Failure) -> Error {
        let place = match &self.namespace {
            Some(namespace) => format!("the namespace {namespace}"),
            None => "all namespaces".into(),
        };
        Error::Read { place, advice: reader_advice(failure, self.namespace.as_deref()) }
    }

    /// Reads those whose duration has passed in silence: they have expired, or the watch is what is silent.
    async fn settle_doubts(&mut self) -> Result<(), Error> {
        let sent_at = SystemClock.boot();
        if sent_at < self.read_after {
            return Ok(());
        }
        let key = |known: &Known| (known.entry.namespace.clone(), known.entry.name.clone());
        let doubtful: Vec<_> = self.catalogue.in_doubt(sent_at).map(key).collect();
        if doubtful.is_empty() {
            return Ok(());
        }
        self.read_after = sent_at + PAUSE;
        let mut watch_is_silent = false;
        if doubtful.len() > FEW {
            match self.leases.list().await {
                Ok((entries, _)) => self.catalogue.listed(SystemClock.boot(), sent_at, entries),
                Err(failure) => return self.failed(&failure, Ask::Read),
            }
        } else {
            for (namespace, name) in doubtful {
                let (entry, version) = match self.leases.read(&namespace, &name).await {
                    Ok(read) => read,
                    Err(failure) => return self.failed(&failure, Ask::Read),
                };
                let now = SystemClock.boot();
                watch_is_silent |= match entry {
                    Some(entry) => self.catalogue.read(now, sent_at, entry),
                    None => self.catalogue.deleted(&namespace, &name, version),
                };
            }
        }
        self.complaints.worked(Ask::Read);
        // A read that shows an older version is of another history: a list replaces all.
        if watch_is_silent || self.catalogue.in_doubt(sent_at).next().is_some() {
            self.watch.abort();
            (self.watch, self.told) = start_watch(&self.leases);
        }
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

fn start_watch(leases: &Leases) -> (JoinHandle<()>, mpsc::Receiver<Told>) {
    let (tell, told) = mpsc::channel(256);
    let leases = leases.clone();
    // Nobody else's began with this one.
    (tokio::spawn(async move { leases.watch(PAUSE, 0.0, tell).await }), told)
}
