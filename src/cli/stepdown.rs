//! `leasehold stepdown NAME`: has the pod that leads hand over, from wherever the API server can be reached.
//!
//! The request is an annotation of the Lease that names the term by its fencing token: one that comes late asks nobody
//! for anything. What became of it is read from the Lease as well, for the next term has a token of its own.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::{EX_USAGE, duration};
use crate::election::{Record, pod_of};
use crate::kubernetes::{Api, ConfigError, Connection, Failure, STEP_DOWN, Source, operator_advice};
use crate::names::{dns_label, dns_subdomain};
use crate::time::{Clock, Moment, SystemClock};

/// The Lease is looked at so often while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// For one request, over whatever link a workstation has.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

const DID_NOT: u8 = 1;
const CANNOT_TELL: u8 = 2;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits 0 when the lease changed hands (to the pod that --to names, if it does), 1 when it did not, 2 when that cannot be told, 64 for wrong usage.\nNeeds the verbs get and patch on the Lease."
)]
pub struct Args {
    /// Name of the Lease
    name: String,
    /// The pod that is to lead next [default: whichever is first]
    #[arg(long, value_name = "POD")]
    to: Option<String>,
    /// Namespace of the Lease [default: that of the kubeconfig's context]
    #[arg(short, long, value_name = "NS", env = "LEASEHOLD_NAMESPACE", hide_env = true)]
    namespace: Option<String>,
    /// Use this kubeconfig [default: a pod's service account, else kubectl's]
    #[arg(long, value_name = "FILE", env = "LEASEHOLD_KUBECONFIG", hide_env = true)]
    kubeconfig: Option<PathBuf>,
    /// A context of it
    #[arg(long, value_name = "NAME", env = "LEASEHOLD_CONTEXT", hide_env = true)]
    context: Option<String>,
    /// Wait so long for another leader
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
}

pub fn main(args: Args) -> ExitCode {
    let faults = args.faults();
    if !faults.is_empty() {
        for fault in faults {
            eprintln!("leasehold: {fault}");
        }
        return ExitCode::from(EX_USAGE);
    }
    match super::runtime().block_on(step_down(args)) {
        Ok(HandOver { before, after }) => {
            // A reader that went away does not undo it.
            let _ = writeln!(std::io::stdout(), "{after}; before: {}", before.pod);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("leasehold: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

impl Args {
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Err(fault) = dns_subdomain(&self.name) {
            faults.push(format!("the lease name {:?} is no name for a Lease: {fault}", self.name));
        }
        if let Some(namespace) = &self.namespace
            && let Err(fault) = dns_label(namespace)
        {
            faults.push(format!("the namespace {namespace:?} is no namespace: {fault}"));
        }
        if let Some(to) = &self.to
            && let Err(fault) = dns_subdomain(to)
        {
            faults.push(format!("--to {to:?} is no name of a pod: {fault}"));
        }
        faults
    }
}

struct HandOver {
    before: Term,
    after: Term,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the namespace {0:?} of the kubeconfig's context is no namespace: {1}; give --namespace")]
    Namespace(String, String),

    #[error("there is no Lease {name} in the namespace {namespace}: check the name, --namespace and --context")]
    NoLease { name: String, namespace: String },
    #[error("nobody holds the Lease {0}: there is nobody to step down")]
    Unheld(String),
    #[error(
        "{holder} holds the Lease {name}, but not by leasehold, which would have left the annotation leasehold.dev/token: it cannot be asked to step down"
    )]
    NotLeaseholds { name: String, holder: String },
    #[error("{pod} holds the Lease {name} already")]
    HoldsAlready { name: String, pod: String },

    #[error(
        "{} leads again ({}): nobody else took the lease in the time it left them; does another pod run that contends for it?",
        .0.pod, .0.facts()
    )]
    Again(Term),
    #[error("{after}, and not {to}; before: {before}. Does a pod {to} run that contends for it?")]
    AnotherTook { after: Term, to: String, before: String },
    #[error(
        "the Lease {name} was deleted after {pod} was asked to step down, and nobody held a new one within {timeout:?}"
    )]
    Deleted { name: String, pod: String, timeout: Duration },
    #[error(
        "{pod} stepped down, and nobody took the Lease {name} within {timeout:?}: does a pod run that contends for it?"
    )]
    NobodyTook { name: String, pod: String, timeout: Duration },
    #[error(
        "{pod} has not handed the Lease {name} over within {timeout:?}. The request stands for as long as this term lasts; `kubectl annotate lease {name} -n {namespace} {STEP_DOWN}-` takes it back"
    )]
    NotObeyed { name: String, namespace: String, pod: String, timeout: Duration },
    #[error(
        "{pod} leads on: the request to step down is not on the Lease {name}, so it was taken back or never arrived; ask again"
    )]
    NotOnTheLease { name: String, pod: String },

    #[error("cannot read the Lease {name}: {advice}")]
    Read { name: String, advice: String },
    #[error("cannot ask {pod} to step down, by the annotation {STEP_DOWN} of the Lease {name}: {advice}")]
    Ask { name: String, pod: String, advice: String },
    #[error("{pod} was asked to step down, and what became of it cannot be read: {advice}")]
    Follow { pod: String, advice: String },
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) | Error::Namespace(..) => EX_USAGE,
            Error::Read { .. } | Error::Ask { .. } | Error::Follow { .. } => CANNOT_TELL,
            _ => DID_NOT,
        }
    }
}

async fn step_down(args: Args) -> Result<HandOver, Error> {
    let deadline = SystemClock.boot() + args.timeout;
    let source = Source { kubeconfig: args.kubeconfig, context: args.context };
    let kube = source.load().await?;
    let namespace = args.namespace.unwrap_or_else(|| kube.default_namespace.clone());
    dns_label(&namespace).map_err(|fault| Error::Namespace(namespace.clone(), fault))?;
    let connection = Arc::new(Connection::new(source, &kube, Box::new(|_, _, _| {}))?);
    let api = Api::new(connection, namespace, args.name);

    let before = present_term(&api, args.to.as_deref(), deadline).await?;
    ask(&api, &before, args.to.as_deref(), deadline).await?;
    let after = next_term(&api, &before, args.timeout, deadline).await?;
    match args.to {
        _ if after.pod == before.pod => Err(Error::Again(after)),
        Some(to) if after.pod != to => Err(Error::AnotherTook { after, to, before: before.pod.clone() }),
        _ => Ok(HandOver { before, after }),
    }
}

/// A term as the Lease shows it.
#[derive(Debug)]
struct Term {
    holder: String,
    /// As it may be shown on a terminal: anybody may have written it.
    pod: String,
    /// None: another elector took the Lease.
    token: Option<u64>,
    transitions: i32,
}

impl Term {
    /// The term that a record shows, if anybody holds it.
    fn of(record: &Record) -> Option<Self> {
        let holder = record.holder()?.to_owned();
        let pod = pod_of(&holder).escape_debug().to_string();
        Some(Term { holder, pod, token: record.token.value(), transitions: record.spec.transitions })
    }

    /// What this record shows if it is a later term. client-go leaves a former token where it is.
    fn followed_by(&self, record: &Record) -> Option<Self> {
        let next = Term::of(record)?;
        let token = next.token.filter(|token| Some(*token) != self.token);
        (token.is_some() || next.holder != self.holder).then_some(Term { token, ..next })
    }

    fn facts(&self) -> String {
        let Term { token, transitions, .. } = self;
        match token {
            Some(token) => format!("fencing token {token}, transitions {transitions}"),
            None => format!("not by leasehold: no fencing token, transitions {transitions}"),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} leads now ({})", self.pod, self.facts())
    }
}

/// The term that is to end, if it can be asked to.
async fn present_term(api: &Api, to: Option<&str>, deadline: Moment) -> Result<Term, Error> {
    let name = || api.name.clone();
    let fault = |failure| Error::Read { name: name(), advice: operator_advice(&failure, api) };
    let record = api.get(attempt(deadline)).await.map_err(fault)?;
    let Some(record) = record else { return Err(Error::NoLease { name: name(), namespace: api.namespace.clone() }) };
    let Some(term) = Term::of(&record) else { return Err(Error::Unheld(name())) };
    if term.token.is_none() {
        return Err(Error::NotLeaseholds { name: name(), holder: term.pod.clone() });
    }
    if to == Some(term.pod.as_str()) {
        return Err(Error::HoldsAlready { name: name(), pod: term.pod.clone() });
    }
    Ok(term)
}

/// Addresses exactly this term: under the next one, the request means nothing.
async fn ask(api: &Api, term: &Term, to: Option<&str>, deadline: Moment) -> Result<(), Error> {
    let mut request = term.token.unwrap_or_default().to_string();
    if let Some(to) = to {
        request = format!("{request}/{to}");
    }
    match api.annotate(STEP_DOWN, &request, attempt(deadline)).await {
        Ok(_) => Ok(()),
        Err(Failure::Status { code: 404, .. }) => {
            Err(Error::NoLease { name: api.name.clone(), namespace: api.namespace.clone() })
        }
        // It may have arrived. The Lease shows whether it did.
        Err(
            Failure::Timeout(_) | Failure::Broken(_) | Failure::TooLarge(_) | Failure::Status { code: 500..=599, .. },
        ) => Ok(()),
        Err(failure) => {
            let (name, pod) = (api.name.clone(), term.pod.clone());
            Err(Error::Ask { name, pod, advice: operator_advice(&failure, api) })
        }
    }
}

/// Looks at the Lease until somebody holds it under another term.
async fn next_term(api: &Api, before: &Term, timeout: Duration, deadline: Moment) -> Result<Term, Error> {
    let (name, pod) = (api.name.clone(), before.pod.clone());
    loop {
        let seen = api.get(attempt(deadline)).await;
        if let Ok(Some(record)) = &seen
            && let Some(next) = before.followed_by(record)
        {
            return Ok(next);
        }
        if SystemClock.boot() >= deadline {
            return Err(match seen {
                Ok(Some(record)) if record.holder().is_some() => match record.step_down() {
                    Some(_) => Error::NotObeyed { name, namespace: api.namespace.clone(), pod, timeout },
                    None => Error::NotOnTheLease { name, pod },
                },
                Ok(Some(_)) => Error::NobodyTook { name, pod, timeout },
                Ok(None) => Error::Deleted { name, pod, timeout },
                Err(failure) => Error::Follow { pod, advice: operator_advice(&failure, api) },
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How long one request may take. The last look is given a moment of its own, for what it shows is told.
fn attempt(deadline: Moment) -> Duration {
    deadline.since(SystemClock.boot()).clamp(Duration::from_secs(2), ATTEMPT_TIMEOUT)
}
