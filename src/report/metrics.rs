//! `/metrics`: what the loop counted, and the state of each lease at the instant of the scrape.
//!
//! A metric promises nothing, so a scrape leaves the boards' promises as they are: a graph of leaders may show two,
//! one of them a scrape old.

use std::fmt::{self, Write as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::Board;
use super::members::MembersBoard;
use crate::election::Reason;
use crate::membership::roster::Life;
use crate::time::Moment;

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;

/// Every metric of the process. The loop counts here; nothing else does.
pub struct Metrics {
    registry: Registry,
    changes: Counters,
    renew_durations: Family<Labels, Histogram, fn() -> Histogram>,
    renew_failures: Counters,
    api_requests: Counters,
    watch_restarts: Counters,
    report_write_failures: Counter,
    app_alive: Gauge,
    members: OnceLock<Arc<MembersBoard>>,
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Metrics {
            registry: Registry::default(),
            changes: Counters::default(),
            renew_durations: Family::new_with_constructor(renew_histogram),
            renew_failures: Counters::default(),
            api_requests: Counters::default(),
            watch_restarts: Counters::default(),
            report_write_failures: Counter::default(),
            app_alive: Gauge::default(),
            members: OnceLock::new(),
        };
        let registry = &mut metrics.registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))].to_vec());
        registry.register("leasehold_build", "The version of the sidecar", build);
        registry.register(
            "leasehold_leadership_changes",
            "How often this pod began (to leader) or ended (to not_leader) leading, and why",
            metrics.changes.clone(),
        );
        registry.register(
            "leasehold_renew_duration_seconds",
            "From sending a renewal to knowing that it was written",
            metrics.renew_durations.clone(),
        );
        let help = "Renewals that failed: the attempt, not the term";
        registry.register("leasehold_renew_failures", help, metrics.renew_failures.clone());
        let help = "Requests to the API server by verb, resource and status code; code=\"error\" without an answer";
        registry.register("leasehold_api_requests", help, metrics.api_requests.clone());
        let help = "Watches of the Lease that were begun anew";
        registry.register("leasehold_watch_restarts", help, metrics.watch_restarts.clone());
        let help = "Files in the report directory that could not be written; the file of a leader then runs out";
        registry.register("leasehold_report_write_failures", help, metrics.report_write_failures.clone());
        let help = "1 while the evidence of --app-alive shows that the app lives; always 1 without any";
        registry.register("leasehold_app_alive", help, metrics.app_alive.clone());
        metrics.app_is(true);
        metrics
    }

    /// This pod joins a group.
    pub fn joins(&self, members: &Arc<MembersBoard>) {
        self.members.get_or_init(|| Arc::clone(members));
    }

    /// The app lives, or not.
    pub fn app_is(&self, alive: bool) {
        self.app_alive.set(i64::from(alive));
    }

    /// This pod began or ended leading. The reason is the new status's.
    pub fn changed(&self, lease: &str, to_leader: bool, reason: Reason) {
        let to = if to_leader { "leader" } else { "not_leader" };
        let labels = labels([("lease", lease), ("to", to), ("reason", reason.as_str())]);
        self.changes.get_or_create(&labels).inc();
    }

    /// A renewal was written, `took` after it was sent.
    pub fn renewed(&self, lease: &str, took: Duration) {
        self.renew_durations.get_or_create(&labels([("lease", lease)])).observe(took.as_secs_f64());
    }

    /// A renewal failed. The reason is a stable word: `timeout`, `conflict`, `forbidden`, ...
    pub fn renew_failed(&self, lease: &str, reason: &str) {
        self.renew_failures.get_or_create(&labels([("lease", lease), ("reason", reason)])).inc();
    }

    /// A request ended with an HTTP status code, or with `error`.
    pub fn api_request(&self, verb: &str, resource: &str, code: &str) {
        self.api_requests.get_or_create(&labels([("verb", verb), ("resource", resource), ("code", code)])).inc();
    }

    pub fn watch_restarted(&self, lease: &str) {
        self.watch_restarts.get_or_create(&labels([("lease", lease)])).inc();
    }

    pub fn report_write_failed(&self) {
        self.report_write_failures.inc();
    }

    /// The text of a scrape at `now`.
    pub fn encode(&self, format: Format, boards: &[Arc<Board>], now: Moment) -> String {
        // What is there at 0 from the start can be seen to grow for the first time.
        for board in boards {
            let lease = labels([("lease", &board.lease)]);
            drop(self.renew_durations.get_or_create(&lease));
            drop(self.watch_restarts.get_or_create(&lease));
        }
        let mut instant = Registry::default();
        instant.register_collector(Box::new(Instant {
            boards: boards.to_vec(),
            members: self.members.get().cloned(),
            now,
        }));
        let mut text = String::with_capacity(4096);
        let encoded = encode_registry(&mut text, &instant)
            .and_then(|()| encode_registry(&mut text, &self.registry))
            .and_then(|()| encode_eof(&mut text));
        if encoded.is_err() {
            // Only a label's own encoding can fail, and these are strings.
            return String::new();
        }
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => to_prometheus(&text),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// The two text forms that scrapers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4, for whoever does not ask for the other.
    Prometheus,
}

impl Format {
    pub fn for_accept(accept: &str) -> Self {
        let wanted = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
        let open = wanted.into_iter().any(|range| range.eq_ignore_ascii_case("application/openmetrics-text"));
        if open { Format::OpenMetrics } else { Format::Prometheus }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The older form names a family as its samples are named: counters with `_total`, an info as a gauge with `_info`.
fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 256);
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // The name's ending is known at the type, on the next line.
            help = rest.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (ending, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            let help = help.take().unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name}{ending} {help}\n# TYPE {name}{ending} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// What is true of the leases at the instant of a scrape.
struct Instant {
    boards: Vec<Arc<Board>>,
    members: Option<Arc<MembersBoard>>,
    now: Moment,
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instant").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Collector for Instant {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let now = self.now;
        let leader = |board: &Board| f64::from(u8::from(board.status().leading_at(now).is_some()));
        let remaining = |board: &Board| board.status().expires_at.map_or(0.0, |end| end.since(now).as_secs_f64());
        let help = "1 while this pod leads, by its own clock";
        self.gauge(&mut encoder, "leasehold_leader", help, "lease", leader)?;
        let help = "Until the record runs out if nobody renews it, whoever holds it; 0 when nobody does";
        self.gauge(&mut encoder, "leasehold_lease_remaining_seconds", help, "lease", remaining)?;
        // The name and the words of k8s.io/component-base, for dashboards that have them.
        let help = "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates \
            master. 'name' is the string used to identify the lease. Please make sure to group by name";
        self.gauge(&mut encoder, "leader_election_master_status", help, "name", leader)?;
        self.members.as_ref().map_or(Ok(()), |board| members(board, &mut encoder))
    }
}

/// Of a group, as this pod sees it.
fn members(board: &MembersBoard, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
    let known = board.members();
    let help = "1 while this pod's own Lease is renewed.";
    let mut family = encoder.encode_descriptor("leasehold_member", help, None, MetricType::Gauge)?;
    let is_member = f64::from(u8::from(known.standing.renewed_at().is_some()));
    ConstGauge::new(is_member).encode(family.encode_family(&labels([("group", &board.group)]))?)?;
    let help = "Members of the group by their state, as this pod sees them.";
    let mut family = encoder.encode_descriptor("leasehold_members", help, None, MetricType::Gauge)?;
    for life in Life::ALL {
        let labels = labels([("group", &board.group), ("state", life.as_str())]);
        let count = known.members.iter().filter(|member| member.life == life).count();
        ConstGauge::new(count as f64).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Instant {
    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        label: &'static str,
        value: impl Fn(&Board) -> f64,
    ) -> Result<(), fmt::Error> {
        let help = format!("{help}.");
        let mut family = encoder.encode_descriptor(name, &help, None, MetricType::Gauge)?;
        for board in &self.boards {
            let labels = labels([(label, &board.lease)]);
            ConstGauge::new(value(board)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.into_iter().map(|(key, value)| (key, value.to_owned())).collect()
}

/// From a quick local API server to the renew deadline's neighbourhood.
fn renew_histogram() -> Histogram {
    Histogram::new([0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0])
}
