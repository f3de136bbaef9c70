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

use super::{EX_USAGE, duration};
use crate::complaint::{Ask, Complaints};
use crate::devapi::Labels;
use crate::kubernetes::{ConfigError, Connection, Failure, Leases, News, Reader, Source, reader_advice};
use crate::membership::{API_SERVER, MEMBER_OF, State};
use crate::names::dns_label;
use crate::time::{Clock, Moment, SystemClock};
use view::{Form, View};

/// For one request, over whatever link a workstation has.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// After a request that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two updates of what is shown.
const TOGETHER: Duration = Duration::from_millis(100);

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
    // Nobody else's watch began with this one.
    let reader = Reader::new(leases, PAUSE, 0.0)?;
    let mut observer =
        Observer { reader, namespace: namespace.clone(), complaints: Complaints::default(), complaint: None };
    let view = View::new(args.output, namespace.is_none());
    if args.watch {
        return keep_watching(observer, view).await;
    }

    let began = SystemClock.boot();
    observer.first_list().await?;
    while SystemClock.boot().since(began) < args.observe_for && observer.knows_nothing_of() > 0 {
        observer.wait(began + args.observe_for).await?;
    }
    if let Some(complaint) = &observer.complaint {
        eprintln!("leasehold: {complaint}");
    }
    let now = SystemClock.boot();
    if args.count {
        return Ok(count(&observer, now));
    }
    view.show(observer.reader.catalogue(), now, now.since(began));
    Ok(ExitCode::SUCCESS)
}

fn count(observer: &Observer, now: Moment) -> ExitCode {
    let alive = observer.reader.catalogue().iter().filter(|known| known.state(now).is_alive()).count();
    view::print(&format!("{alive}\n"));
    match observer.knows_nothing_of() {
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

async fn keep_watching(mut observer: Observer, mut view: View) -> Result<ExitCode, Error> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    observer.first_list().await?;
    loop {
        let catalogue = observer.reader.catalogue();
        if !view.update(catalogue, SystemClock.boot(), observer.complaint.as_deref()) {
            return Ok(ExitCode::SUCCESS);
        }
        let news = async {
            observer.wait(view.next_update()).await?;
            // What changes together is shown together: thousands of Leases may be renewed each few seconds.
            let until = SystemClock.boot() + TOGETHER;
            while SystemClock.boot() < until {
                observer.wait(until).await?;
            }
            Ok::<(), Error>(())
        };
        tokio::select! {
            waited = news => waited?,
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// What is read, and what of it fails.
struct Observer {
    reader: Reader,
    namespace: Option<String>,
    complaints: Complaints,
    /// What fails now.
    complaint: Option<String>,
}

impl Observer {
    /// Waits until all are listed. What fails before that is not tried again: somebody waits for an answer.
    async fn first_list(&mut self) -> Result<(), Error> {
        loop {
            match self.reader.next(Moment::NEVER).await {
                News::Listed => return Ok(()),
                News::Failed(_, failure) => return Err(self.fault(&failure)),
                News::Changed | News::Worked(_) => {}
            }
        }
    }

    /// How many are held by a record that nothing more is known of.
    fn knows_nothing_of(&self) -> usize {
        let now = SystemClock.boot();
        self.reader.catalogue().iter().filter(|known| known.state(now) == State::Observing).count()
    }

    /// Waits until something changes, or `until` at most.
    async fn wait(&mut self, until: Moment) -> Result<(), Error> {
        match self.reader.next(until).await {
            News::Listed | News::Changed => {}
            News::Worked(ask) => {
                self.complaints.worked(ask);
                if ask == Ask::Watch {
                    self.complaint = None;
                }
            }
            // A right that is missing does not come by itself.
            News::Failed(_, failure) if failure.is_no_such_question() => return Err(self.fault(&failure)),
            // Anything else may pass, and is said once.
            News::Failed(ask, failure) => {
                let text = self.fault(&failure).to_string();
                if self.complaints.failed(ask, &text, SystemClock.boot()).is_some() {
                    self.complaint = Some(text);
                }
            }
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
}
