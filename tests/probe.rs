//! What the kubelet asks and Prometheus scrapes, over real sockets; both text forms under a strict parser.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use leasehold::election::Reason;
use leasehold::report::http::Listener;
use leasehold::report::metrics::{Format, Metrics};
use leasehold::report::probe::{self, Health, Probes, ReadyWhen};
use leasehold::time::{Clock, Moment};
use report::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

struct Kubelet {
    port: u16,
    clock: Arc<TestClock>,
    health: Arc<Health>,
    _stop: watch::Sender<bool>,
}

impl Kubelet {
    fn start(ready_when: ReadyWhen) -> Kubelet {
        Kubelet::start_at("127.0.0.1:0", ready_when)
    }

    fn start_at(address: &str, ready_when: ReadyWhen) -> Kubelet {
        let clock = TestClock::at(1000);
        let health = Arc::new(Health::new(2, ready_when, clock.boot()));
        let boards = vec![board("web"), board("jobs")];
        let probes = Probes { boards, clock: clock.clone(), health: health.clone(), metrics: Arc::new(Metrics::new()) };
        let listeners = Listener::bind(&address.parse().unwrap()).unwrap();
        let port = listeners[0].port().unwrap_or_default();
        let (stop, shutdown) = watch::channel(false);
        tokio::spawn(probe::run(listeners, probes, shutdown));
        Kubelet { port, clock, health, _stop: stop }
    }

    async fn get(&self, path: &str) -> u16 {
        self.ask("GET", path, "").await.status
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: 10.1.2.3:4041\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_answer(&mut stream, method == "HEAD").await.expect("an answer")
    }
}

#[tokio::test]
async fn it_is_live_while_the_loop_turns() {
    let kubelet = Kubelet::start(ReadyWhen::Observed);
    assert_eq!(kubelet.get("/livez").await, 200);
    kubelet.clock.advance(Duration::from_secs(10));
    assert_eq!(kubelet.get("/livez").await, 503);
    kubelet.health.beat(kubelet.clock.boot());
    assert_eq!(kubelet.get("/livez").await, 200);
}

#[tokio::test]
async fn it_is_ready_once_every_lease_was_seen_and_stays_so() {
    let kubelet = Kubelet::start(ReadyWhen::Observed);
    assert_eq!(kubelet.get("/readyz").await, 503);
    kubelet.health.observed(1);
    assert_eq!(kubelet.get("/readyz").await, 503);
    kubelet.health.observed(0);
    assert_eq!(kubelet.get("/readyz").await, 200);
    kubelet.clock.advance(Duration::from_secs(3600));
    assert_eq!(kubelet.get("/readyz").await, 200);
    assert_eq!(Kubelet::start(ReadyWhen::Serving).get("/readyz").await, 200);
}

/// Where pods share the node's network, a socket in the sidecar's own directory is nobody else's.
#[tokio::test]
async fn leasehold_probe_asks_by_a_unix_socket_too() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}/probe.sock", folder.path().display());
    let kubelet = Kubelet::start_at(&address, ReadyWhen::Observed);
    let probe = async |which: &'static str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_leasehold"));
        command.args(["probe", which, "--probe-listen", &address]);
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap().status.code()
    };
    assert_eq!((probe("startup").await, probe("ready").await), (Some(0), Some(1)));
    (0..2).for_each(|lease| kubelet.health.observed(lease));
    assert_eq!(probe("ready").await, Some(0));
    kubelet.clock.advance(Duration::from_secs(10));
    assert_eq!(probe("live").await, Some(1));
}

#[tokio::test]
async fn nothing_else_is_answered_and_the_apps_paths_are_not_here() {
    let kubelet = Kubelet::start(ReadyWhen::Serving);
    for path in ["/", "/leader", "/v1/leases", "/healthz", "/metrics/"] {
        assert_eq!(kubelet.get(path).await, 404, "{path}");
    }
    assert_eq!(kubelet.ask("POST", "/livez", "").await.status, 405);
    assert_eq!(kubelet.ask("HEAD", "/metrics", "").await.status, 200);
    let plain = kubelet.ask("GET", "/metrics", "").await;
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let open = "Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";
    let open = kubelet.ask("GET", "/metrics", open).await;
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(open.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_thousand_idle_connections_do_not_keep_the_kubelet_out() {
    let kubelet = Kubelet::start(ReadyWhen::Serving);
    let mut crowd = Vec::new();
    for _ in 0..1000 {
        crowd.push(TcpStream::connect(("127.0.0.1", kubelet.port)).await.unwrap());
    }
    assert_eq!(kubelet.get("/livez").await, 200);
}

fn counted() -> (Metrics, Vec<Arc<leasehold::report::Board>>, Moment) {
    let now = Moment::from_nanos(1_000_000_000_000);
    let (metrics, boards) = (Metrics::new(), vec![board("web"), board("jobs")]);
    publish(&boards[0], leading(now, 77, 1));
    publish(&boards[1], held_by("other_x", now, 1));
    metrics.changed("web", true, Reason::Leading);
    metrics.renewed("web", Duration::from_millis(7));
    metrics.renew_failed("web", "ti\"me\\out\n");
    metrics.api_request("update", "leases", "200");
    metrics.api_request("update", "leases", "200");
    metrics.watch_restarted("jobs");
    metrics.report_write_failed();
    (metrics, boards, now)
}

#[test]
fn a_scrape_tells_the_instant_and_promises_nothing() {
    let (metrics, boards, now) = counted();
    let value = |now: Moment, sample: &str| {
        let text = metrics.encode(Format::Prometheus, &boards, now);
        let line = text.lines().find(|line| line.starts_with(sample)).unwrap_or_else(|| panic!("{sample}\n{text}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert_eq!(value(now, "leasehold_leader{lease=\"web\"}"), 1.0);
    assert_eq!(value(now, "leasehold_leader{lease=\"jobs\"}"), 0.0);
    assert_eq!(value(now, "leader_election_master_status{name=\"web\"}"), 1.0);
    assert_eq!(value(now, "leasehold_lease_remaining_seconds{lease=\"web\"}"), 15.0);
    let late = now + Duration::from_secs(12);
    assert_eq!(value(late, "leasehold_leader{lease=\"web\"}"), 0.0);
    assert_eq!(value(late, "leasehold_lease_remaining_seconds{lease=\"jobs\"}"), 3.0);
    assert_eq!(value(now, "leasehold_api_requests_total{verb=\"update\",resource=\"leases\",code=\"200\"}"), 2.0);
    assert_eq!(value(now, "leasehold_watch_restarts_total{lease=\"web\"}"), 0.0);
    let change = "leasehold_leadership_changes_total{lease=\"web\",to=\"leader\",reason=\"leading\"}";
    assert_eq!(value(now, change), 1.0);
    assert_eq!(value(now, "leasehold_renew_duration_seconds_count{lease=\"web\"}"), 1.0);
    assert_eq!(value(now, "leasehold_report_write_failures_total"), 1.0);
    assert_eq!(value(now, "leasehold_app_alive"), 1.0);
    assert_eq!(boards[0].promised_until(), Moment::BOOT);
}

#[test]
fn both_text_forms_parse_strictly() {
    let (metrics, boards, now) = counted();
    let write = |format, name: &str| {
        let text = metrics.encode(format, &boards, now);
        // For a look with other parsers: LEASEHOLD_TEST_METRICS=DIR.
        if let Ok(dir) = std::env::var("LEASEHOLD_TEST_METRICS") {
            std::fs::write(std::path::Path::new(&dir).join(name), &text).unwrap();
        }
        text
    };
    let prometheus = families(&write(Format::Prometheus, "prometheus.txt"), Format::Prometheus);
    let open = families(&write(Format::OpenMetrics, "openmetrics.txt"), Format::OpenMetrics);
    assert_eq!(prometheus["leasehold_build_info"], "gauge");
    assert_eq!(open["leasehold_build"], "info");
    assert_eq!(prometheus["leasehold_api_requests_total"], "counter");
    assert_eq!(open["leasehold_api_requests"], "counter");
    assert_eq!(prometheus.len(), open.len());
    assert_eq!(prometheus.len(), 11);
}

/// The families of a scrape with their types. Panics on what the form does not allow: a sample outside its family,
/// a family without HELP and TYPE or twice, an unknown line, a sample twice, an ending that the type does not have.
fn families(text: &str, format: Format) -> BTreeMap<String, String> {
    assert!(text.ends_with('\n'));
    let (mut families, mut samples) = (BTreeMap::new(), BTreeSet::new());
    let (mut help, mut family, mut eof) = (None, (String::new(), String::new()), false);
    for line in text.lines() {
        assert!(!eof, "something follows # EOF: {line}");
        if line == "# EOF" {
            assert_eq!(format, Format::OpenMetrics);
            eof = true;
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest.split_once(' ').expect("a name and a text").0.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            let known: &[&str] = match format {
                Format::Prometheus => &["counter", "gauge", "histogram"],
                Format::OpenMetrics => &["counter", "gauge", "histogram", "info"],
            };
            assert!(known.contains(&kind), "{line}");
            assert_eq!(help.take().as_deref(), Some(name), "HELP comes with its TYPE");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            family = (name.to_owned(), kind.to_owned());
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("a sample and a value");
            value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
            assert!(samples.insert(sample.to_owned()), "twice: {line}");
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            check_labels(labels);
            let ending = name.strip_prefix(&family.0).unwrap_or_else(|| panic!("{line} under {}", family.0));
            let allowed: &[&str] = match (format, family.1.as_str()) {
                (_, "histogram") => &["_bucket", "_sum", "_count"],
                (Format::OpenMetrics, "counter") => &["_total"],
                (Format::OpenMetrics, "info") => &["_info"],
                _ => &[""],
            };
            assert!(allowed.contains(&ending), "{line} in a {}", family.1);
            if format == Format::OpenMetrics && family.1 == "counter" {
                assert!(!family.0.ends_with("_total"));
            }
        }
    }
    assert_eq!(eof, format == Format::OpenMetrics);
    families
}

/// `key="value",...}` with \\, \" and \n as the only escapes.
fn check_labels(labels: &str) {
    let mut rest = labels;
    while !rest.starts_with('}') {
        let (key, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
        assert!(!key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{labels}");
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("{labels}")) {
                (_, '\\') => assert!(matches!(chars.next(), Some((_, '\\' | '"' | 'n'))), "{labels}"),
                (at, '"') => break at,
                _ => {}
            }
        };
        rest = value[end + 1..].trim_start_matches(',');
    }
    assert_eq!(rest, "}", "{labels}");
}
