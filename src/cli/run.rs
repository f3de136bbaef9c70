//! `leasehold run`: the sidecar.
//!
//! The whole configuration is judged before anything is opened; a bad one ends with exit 64 and a sentence per fault.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::log::Level;
use super::{EX_USAGE, duration};
use crate::app::Evidence;
use crate::app::health::Thresholds;
use crate::election::Config;
use crate::kubernetes::Source;
use crate::names::{dns_label, dns_subdomain};
use crate::report::file;
use crate::report::http::Address;
use crate::report::probe::ReadyWhen;
use crate::sidecar::membership::MemberSettings;
use crate::sidecar::{self, AppSettings, OnSigterm, SHORTEST_ENDING, Settings};

/// A file is named after the lease, with an ending, and a file's name has at most 255 characters.
const LONGEST_NAME: usize = 230;

#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "Refined by others: --app-alive by --session-name NAME, --app-timeout 30s and --app-health-interval 1s, -timeout 1s, -failure-threshold 3, -success-threshold 1, -initial-delay 0s;\n--listen by --allowed-host HOST; --probe-listen by --ready-when serving; --kubeconfig by --context NAME; --pod-name by --identity ID; --member-of by --member-lease-duration 40s, -renew-interval 10s, -annotation K=V.\nEach flag is an environment variable too, as LEASEHOLD_RENEW_DEADLINE=12s."
)]
pub struct Args {
    /// Name of a Lease; repeat for more: unqualified routes and status.* speak of the first
    #[arg(
        long,
        value_name = "NAME",
        alias = "election",
        env = "LEASEHOLD_LEASE",
        value_delimiter = ',',
        hide_env = true,
        help_heading = "Lease"
    )]
    pub(super) lease: Vec<String>,
    /// Its namespace [default: POD_NAMESPACE, else the service account's]
    #[arg(
        short,
        long,
        value_name = "NS",
        alias = "election-namespace",
        env = "LEASEHOLD_NAMESPACE",
        hide_env = true,
        help_heading = "Lease"
    )]
    pub(super) namespace: Option<String>,
    /// This pod [default: POD_NAME, else the host's name]
    #[arg(long, value_name = "NAME", env = "LEASEHOLD_POD_NAME", hide_env = true, help_heading = "Lease")]
    pub(super) pod_name: Option<String>,
    /// Holder identity, before a random part [default: the pod's name]
    #[arg(
        long,
        value_name = "ID",
        alias = "id",
        env = "LEASEHOLD_IDENTITY",
        hide_env = true,
        hide_short_help = true,
        help_heading = "Lease"
    )]
    identity: Option<String>,
    /// Take an empty holder without proof that the last one stopped
    #[arg(long, env = "LEASEHOLD_TRUST_UNHELD", hide_env = true, help_heading = "Lease")]
    trust_unheld: bool,
    /// Join this group: a Lease that says that this pod lives, and GET /v1/members
    #[arg(long, value_name = "GROUP", env = "LEASEHOLD_MEMBER_OF", hide_env = true, help_heading = "Lease")]
    pub(super) member_of: Option<String>,
    /// How long a member may be silent; whole seconds
    #[arg(long, value_name = "TIME", default_value = "40s", env = "LEASEHOLD_MEMBER_LEASE_DURATION", value_parser = duration, hide_env = true, hide_short_help = true, help_heading = "Lease")]
    member_lease_duration: Duration,
    /// From one renewal of it to the next [default: 1/4 of the member lease duration]
    #[arg(long, value_name = "TIME", env = "LEASEHOLD_MEMBER_RENEW_INTERVAL", value_parser = duration, hide_env = true, hide_short_help = true, help_heading = "Lease")]
    member_renew_interval: Option<Duration>,
    /// An annotation of it, for other members to read: zone=a; repeatable
    #[arg(
        long,
        value_name = "KEY=VALUE",
        env = "LEASEHOLD_MEMBER_ANNOTATION",
        value_delimiter = ',',
        hide_env = true,
        hide_short_help = true,
        help_heading = "Lease"
    )]
    member_annotation: Vec<String>,
    /// How many pods contend, if known: sizes the jitter
    #[arg(long, value_name = "N", env = "LEASEHOLD_REPLICAS", hide_env = true, help_heading = "Lease")]
    replicas: Option<u32>,

    /// How long others wait without a renewal before they take; whole seconds [default: 15s]
    #[arg(long, value_name = "TIME", alias = "ttl", env = "LEASEHOLD_LEASE_DURATION", value_parser = duration, hide_env = true, help_heading = "Times")]
    lease_duration: Option<Duration>,
    /// How long a leader without a renewal may say so [default: 4/5 of the lease duration]
    #[arg(long, value_name = "TIME", env = "LEASEHOLD_RENEW_DEADLINE", value_parser = duration, hide_env = true, help_heading = "Times")]
    renew_deadline: Option<Duration>,
    /// From one renewal to the next [default: 1/5 of the lease duration, at least 1s]
    #[arg(long, value_name = "TIME", env = "LEASEHOLD_RENEW_INTERVAL", value_parser = duration, hide_env = true, help_heading = "Times")]
    renew_interval: Option<Duration>,
    /// Pause after a failed attempt [default: 1/15, at most 1s]; client-go means the renew interval by it
    #[arg(long, value_name = "TIME", env = "LEASEHOLD_RETRY_PERIOD", value_parser = duration, hide_env = true, help_heading = "Times")]
    retry_period: Option<Duration>,
    /// The most that one answer promises
    #[arg(long, value_name = "TIME", default_value = "1s", env = "LEASEHOLD_ANSWER_TTL", value_parser = duration, hide_env = true, help_heading = "Times")]
    answer_ttl: Duration,

    /// Where the app asks: ADDRESS:PORT or unix:PATH; repeatable [default: localhost:4040, IPv4 and IPv6]
    #[arg(
        long,
        value_name = "ADDR",
        alias = "http",
        env = "LEASEHOLD_LISTEN",
        value_delimiter = ',',
        hide_env = true,
        help_heading = "Answers"
    )]
    pub(super) listen: Vec<Address>,
    /// A Host header to accept beside localhost; repeatable
    #[arg(
        long,
        value_name = "HOST",
        env = "LEASEHOLD_ALLOWED_HOST",
        value_delimiter = ',',
        hide_env = true,
        hide_short_help = true,
        help_heading = "Answers"
    )]
    allowed_host: Vec<String>,
    /// Where the kubelet and Prometheus ask (/livez, /readyz, /metrics), or off
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "[::]:4041",
        env = "LEASEHOLD_PROBE_LISTEN",
        hide_env = true,
        help_heading = "Answers"
    )]
    pub(super) probe_listen: String,
    /// Files for the app (status.json, status.env), or off
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/leasehold",
        env = "LEASEHOLD_REPORT_DIR",
        hide_env = true,
        help_heading = "Answers"
    )]
    pub(super) report_dir: PathBuf,
    /// Ready once each lease was seen, or once listeners are open
    #[arg(long, value_enum, default_value_t = ReadyWhen::Observed, env = "LEASEHOLD_READY_WHEN", hide_env = true, hide_short_help = true, help_heading = "Answers")]
    ready_when: ReadyWhen,
    /// Keep the pod's label leasehold.dev/role at leader or standby, by the first lease, for a Service to select
    #[arg(long, env = "LEASEHOLD_ROLE_LABEL", hide_env = true, help_heading = "Answers")]
    pub(super) role_label: bool,
    /// Events when this pod begins or ends leading, on the Lease and the Pod
    #[arg(long, value_enum, default_value_t = Switch::On, env = "LEASEHOLD_EVENTS", hide_env = true, help_heading = "Answers")]
    pub(super) events: Switch,

    /// What shows that the app lives: lock, session, asking, http://ADDR/PATH, tcp://ADDR; repeatable
    #[arg(
        long,
        value_name = "EVIDENCE",
        env = "LEASEHOLD_APP_ALIVE",
        value_delimiter = ',',
        hide_env = true,
        help_heading = "App"
    )]
    app_alive: Vec<Evidence>,
    /// Only sessions opened with ?name=NAME count
    #[arg(
        long,
        value_name = "NAME",
        env = "LEASEHOLD_SESSION_NAME",
        hide_env = true,
        hide_short_help = true,
        help_heading = "App"
    )]
    session_name: Option<String>,
    /// From one probe of an --app-alive URL to the next
    #[arg(long, value_name = "TIME", default_value = "1s", env = "LEASEHOLD_APP_HEALTH_INTERVAL", value_parser = duration, hide_env = true, hide_short_help = true, help_heading = "App")]
    app_health_interval: Duration,
    /// A probe that takes longer has failed
    #[arg(long, value_name = "TIME", default_value = "1s", env = "LEASEHOLD_APP_HEALTH_TIMEOUT", value_parser = duration, hide_env = true, hide_short_help = true, help_heading = "App")]
    app_health_timeout: Duration,
    /// So many failures in a row: not alive
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        env = "LEASEHOLD_APP_HEALTH_FAILURE_THRESHOLD",
        hide_env = true,
        hide_short_help = true,
        help_heading = "App"
    )]
    app_health_failure_threshold: u32,
    /// So many successes in a row: alive
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        env = "LEASEHOLD_APP_HEALTH_SUCCESS_THRESHOLD",
        hide_env = true,
        hide_short_help = true,
        help_heading = "App"
    )]
    app_health_success_threshold: u32,
    /// Before the first probe
    #[arg(long, value_name = "TIME", default_value = "0s", env = "LEASEHOLD_APP_HEALTH_INITIAL_DELAY", value_parser = duration, hide_env = true, hide_short_help = true, help_heading = "App")]
    app_health_initial_delay: Duration,
    /// With asking: how long the app may ask nothing
    #[arg(long, value_name = "TIME", default_value = "30s", env = "LEASEHOLD_APP_TIMEOUT", value_parser = duration, hide_env = true, hide_short_help = true, help_heading = "App")]
    app_timeout: Duration,
    /// At SIGTERM wait promises out, release at once (the app has ended), or lead on until it has
    #[arg(long, value_enum, default_value_t = OnSigterm::Auto, env = "LEASEHOLD_ON_SIGTERM", hide_env = true, help_heading = "App")]
    on_sigterm: OnSigterm,
    /// It has ended so long after SIGTERM; keep it below terminationGracePeriodSeconds
    #[arg(long, value_name = "TIME", default_value = "25s", env = "LEASEHOLD_SHUTDOWN_GRACE", value_parser = duration, hide_env = true, help_heading = "App")]
    shutdown_grace: Duration,

    /// Use this kubeconfig [default: the pod's service account, else kubectl's]
    #[arg(long, value_name = "FILE", env = "LEASEHOLD_KUBECONFIG", hide_env = true, help_heading = "Process")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// A context of it
    #[arg(
        long,
        value_name = "NAME",
        env = "LEASEHOLD_CONTEXT",
        hide_env = true,
        hide_short_help = true,
        help_heading = "Process"
    )]
    pub(super) context: Option<String>,
    /// Private memory across restarts of this container, or off
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/leasehold",
        env = "LEASEHOLD_STATE_DIR",
        hide_env = true,
        help_heading = "Process"
    )]
    pub(super) state_dir: PathBuf,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    end_with_parent: bool,
    /// Log level; LEASEHOLD_LOG sets it by target
    #[arg(long, value_enum, default_value_t = Level::Info, env = "LEASEHOLD_LOG_LEVEL", hide_env = true, help_heading = "Process")]
    log_level: Level,
    /// Print this
    // The short form under both names: the long one does not fit a screen.
    #[arg(short, long, action = clap::ArgAction::HelpShort, help_heading = "Process")]
    help: Option<bool>,
}

/// A flag that is on unless it is turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

pub fn main(args: Args) -> ExitCode {
    let level = args.log_level;
    if args.end_with_parent {
        let parent = rustix::process::getppid();
        // Where the kernel cannot, the parent still ends this process in order.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
        if rustix::process::getppid() != parent {
            return ExitCode::SUCCESS;
        }
    }
    let settings = match args.settings(|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(faults) => return refuse(&faults),
    };
    if let Err(fault) = super::log::init(level) {
        return refuse(&[fault]);
    }
    let runtime = super::runtime();
    let result = runtime.block_on(sidecar::run(settings));
    // A credential plugin that hangs, or whatever else still runs beside it, is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leasehold: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn refuse(faults: &[String]) -> ExitCode {
    for fault in faults {
        eprintln!("leasehold: {fault}");
    }
    ExitCode::from(EX_USAGE)
}

impl Args {
    /// Judges the whole, with what the environment adds; all faults at once.
    pub(super) fn settings(self, env: impl Fn(&str) -> Option<String>) -> Result<Settings, Vec<String>> {
        let mut faults = Vec::new();
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let leases = if self.lease.is_empty() { set("ELECTOR_ELECTION").into_iter().collect() } else { self.lease };
        if leases.is_empty() && self.member_of.is_none() {
            faults.push("no lease to contend for: give --lease NAME, or --member-of GROUP to be a member only".into());
        }
        if leases.is_empty() && self.role_label {
            faults.push("--role-label says who leads: it needs --lease".into());
        }
        let member = self.member_of.map(|group| MemberSettings {
            group,
            lease_duration: self.member_lease_duration,
            renew_interval: self.member_renew_interval.unwrap_or(self.member_lease_duration / 4),
            annotations: self.member_annotation.iter().map(|pair| split_annotation(pair)).collect(),
            revision: set("POD_TEMPLATE_HASH"),
        });
        if let Some(member) = &member {
            faults.extend(member.faults());
            if leases.iter().any(|lease| lease == file::MEMBERS) {
                faults.push(
                    "no lease may be named \"members\" beside --member-of: members.json speaks of the members".into(),
                );
            }
        } else if !self.member_annotation.is_empty() {
            faults.push("--member-annotation needs --member-of".into());
        }
        for (index, lease) in leases.iter().enumerate() {
            if let Err(fault) = dns_subdomain(lease) {
                faults.push(format!("the lease name {lease:?} is no name for a Lease: {fault}"));
            }
            if lease.len() > LONGEST_NAME {
                faults.push(format!(
                    "the lease name {lease:?} is longer than {LONGEST_NAME} characters: its files could not be named"
                ));
            }
            if leases[..index].contains(lease) {
                faults.push(format!("the lease {lease:?} is given twice"));
            }
            if lease == "status" && index > 0 {
                faults.push("a lease named \"status\" must be the first: status.json speaks of the first lease".into());
            }
        }
        let namespace = self.namespace.or_else(|| set("ELECTOR_ELECTION_NAMESPACE")).or_else(|| set("POD_NAMESPACE"));
        if let Some(namespace) = &namespace
            && let Err(fault) = dns_label(namespace)
        {
            faults.push(format!("the namespace {namespace:?} is no namespace: {fault}"));
        }
        let pod_namespace = set("POD_NAMESPACE");
        if let Some(pod_namespace) = pod_namespace.as_ref().filter(|name| namespace.as_ref() != Some(name))
            && let Err(fault) = dns_label(pod_namespace)
        {
            faults.push(format!("POD_NAMESPACE={pod_namespace:?} is no namespace: {fault}"));
        }
        let pod = self.pod_name.or_else(|| set("POD_NAME")).or_else(hostname).unwrap_or_default();
        if let Err(fault) = dns_subdomain(&pod) {
            faults.push(format!(
                "the pod name {pod:?} is no name of a pod: {fault}; set POD_NAME by the downward API, or --pod-name"
            ));
        }
        let identity = self.identity.unwrap_or_else(|| pod.clone());
        if identity.is_empty() || identity.len() > 200 || !identity.chars().all(|c| c.is_ascii_graphic() && c != '_') {
            faults.push(format!("the identity {identity:?} must be 1 to 200 printable characters without an underscore: a random part follows one"));
        }
        let election = times(Config {
            identity,
            answer_ttl: self.answer_ttl,
            trust_unheld: self.trust_unheld,
            replicas: self.replicas,
            lease_duration: self.lease_duration.unwrap_or(Config::default().lease_duration),
            renew_deadline: self.renew_deadline.unwrap_or_default(),
            renew_interval: self.renew_interval.unwrap_or_default(),
            retry_period: self.retry_period.unwrap_or_default(),
        });
        faults.extend(election.faults());
        let mut listen = self.listen;
        if listen.is_empty()
            && let Some(address) = set("ELECTOR_HTTP")
        {
            match address.parse() {
                Ok(address) => listen.push(address),
                Err(fault) => faults.push(format!("ELECTOR_HTTP={address:?} is no address: {fault}")),
            }
        }
        if listen.is_empty() {
            listen.push(Address::Localhost(4040));
        }
        let probe_listen = match self.probe_listen.as_str() {
            "off" => None,
            text => match text.parse() {
                Ok(address) => Some(address),
                Err(fault) => {
                    faults.push(format!("--probe-listen {text:?} is no address: {fault}"));
                    None
                }
            },
        };
        let unless_off = |path: PathBuf| Some(path).filter(|path| path.as_os_str() != "off");
        let report_dir = unless_off(self.report_dir);
        let app = AppSettings {
            evidence: self.app_alive,
            session_name: self.session_name,
            health: Thresholds {
                interval: self.app_health_interval,
                timeout: self.app_health_timeout,
                failures: self.app_health_failure_threshold,
                successes: self.app_health_success_threshold,
                initial_delay: self.app_health_initial_delay,
            },
            timeout: self.app_timeout,
        };
        faults.extend(app.faults(report_dir.is_some(), self.on_sigterm));
        let own: Vec<u16> = listen.iter().chain(&probe_listen).filter_map(Address::port).collect();
        for evidence in &app.evidence {
            if let Evidence::Health(target) = evidence
                && own.contains(&target.port())
            {
                faults.push(format!("--app-alive {target} is this sidecar's own port: it says nothing of the app"));
            }
        }
        if self.shutdown_grace < self.answer_ttl + SHORTEST_ENDING {
            faults.push(format!(
                "the shutdown grace ({:?}) must be at least {SHORTEST_ENDING:?} longer than the answer TTL ({:?}): promises are waited out, and then the lease is released",
                self.shutdown_grace, self.answer_ttl
            ));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Settings {
            leases,
            member,
            namespace,
            pod,
            pod_namespace,
            pod_uid: set("POD_UID"),
            election,
            source: Source { kubeconfig: self.kubeconfig, context: self.context },
            listen,
            allowed_hosts: self.allowed_host,
            probe_listen,
            report_dir,
            state_dir: unless_off(self.state_dir),
            on_sigterm: self.on_sigterm,
            shutdown_grace: self.shutdown_grace,
            app,
            ready_when: self.ready_when,
            events: self.events == Switch::On,
            role_label: self.role_label,
        })
    }
}

/// Times that were not given follow the lease duration in the proportions of the defaults (15, 12, 3, 1 s).
fn times(mut config: Config) -> Config {
    let duration = config.lease_duration;
    let or = |given: Duration, derived: Duration| if given.is_zero() { derived } else { given };
    config.renew_deadline = or(config.renew_deadline, duration * 4 / 5);
    config.renew_interval = or(config.renew_interval, (duration / 5).max(Duration::from_secs(1)));
    config.retry_period =
        or(config.retry_period, (duration / 15).clamp(Duration::from_millis(100), Duration::from_secs(1)));
    config
}

/// `KEY=VALUE`; what is none has an empty key, which is no annotation's.
fn split_annotation(pair: &str) -> (String, String) {
    let (key, value) = pair.split_once('=').unwrap_or_default();
    (key.trim().to_owned(), value.trim().to_owned())
}

fn hostname() -> Option<String> {
    Some(rustix::system::uname().nodename().to_str().ok()?.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::super::Cli;

    /// The long names and aliases of each flag.
    fn flags() -> Vec<BTreeSet<String>> {
        let cli = Cli::command();
        let run = cli.find_subcommand("run").expect("there is run");
        let names = |arg: &clap::Arg| {
            let aliases = arg.get_all_aliases().unwrap_or_default();
            arg.get_long().into_iter().chain(aliases).map(|name| format!("--{name}")).collect()
        };
        run.get_arguments().map(names).collect()
    }

    /// The flags that a text names between quotes, or between bars as in `--(a|b)`.
    fn listed(text: &str) -> BTreeSet<String> {
        let flag = |word: &str| word.starts_with("--") && word[2..].chars().all(|c| c.is_ascii_lowercase() || c == '-');
        text.split(['"', '\'']).filter(|word| word.len() > 2 && flag(word)).map(str::to_owned).collect()
    }

    fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
        text.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).expect("it is there").0
    }

    /// What the charts set and do not let be given again must be known to them by every name that it has here.
    #[test]
    fn the_charts_know_flags_by_all_their_names() {
        let faults = include_str!("../../charts/leasehold-injector/templates/_faults.tpl");
        let schema = include_str!("../../charts/leasehold-injector/values.schema.json");
        let library = include_str!("../../charts/leasehold-lib/templates/_validate.tpl");
        let injector = listed(between(faults, "\"leasehold-injector.ownFlags\" -}}", "{{- end }}"));
        let schema: BTreeSet<_> = between(schema, "\"^--(lease|", ")").split('|').map(|f| format!("--{f}")).collect();
        assert_eq!(injector, &schema | &BTreeSet::from(["--lease".to_owned()]));
        for (chart, set) in [("leasehold-injector", injector), ("leasehold-lib", listed(library))] {
            assert!(set.len() >= 15, "{chart}: {set:?}");
            let known: BTreeSet<_> = flags().into_iter().flatten().collect();
            assert_eq!(set.difference(&known).collect::<Vec<_>>(), [""; 0], "{chart} names flags that there are not");
            for names in flags().iter().filter(|names| !names.is_disjoint(&set)) {
                assert!(names.is_subset(&set), "{chart} lacks a name of {names:?}");
            }
        }
    }
}
