//! A connection of the app's: requests over a socket, to the real listener's code.
//!
//! Every answer is whole, known, JSON or events, and not to be stored. One says leader only while this pod leads, with
//! the term's token, for an answer TTL at most; no more than that is promised. Over TCP nobody is answered who calls
//! this pod by another name than a loopback's. A command that reaches the loop is a valid one.
//!
//! Input: a byte of circumstances, then the connection's bytes, in which `~V~` stands for the first lease's version.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use leasehold::app::asking::Asking;
use leasehold::app::session::Sessions;
use leasehold::election::{Leading, Reason, Status};
use leasehold::membership::own::Standing;
use leasehold::membership::roster::{Life, Member};
use leasehold::names::dns_subdomain;
use leasehold::report::Board;
use leasehold::report::http::{App, Command, Course, Refusal, converse};
use leasehold::report::members::{Members, MembersBoard};
use leasehold::time::{Clock, Moment};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::exchange::{Answer, answers, block_on, exchange};

const NOW: Moment = Moment::from_nanos(1_000_000_000_000);
const TTL: Duration = Duration::from_secs(1);
const TOKEN: u64 = 4711;
/// Of an answer: a request's head is 8 KiB, of which one value comes back, escaped.
const LONGEST: usize = 64 * 1024;

struct Still;

impl Clock for Still {
    fn boot(&self) -> Moment {
        NOW
    }

    fn wall(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

pub fn run(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let (is_unix, leads, word) = (mode & 1 == 1, mode & 2 == 2, mode >> 2 & 3);
    let boards = boards(leads);
    let board = Arc::clone(&boards[0]);
    let bytes = replace(bytes, b"~V~", board.version_text(board.status().version).as_bytes());

    let (commands, mut to_loop) = mpsc::channel(8);
    let (stop, shutdown) = watch::channel(false);
    let app = App {
        boards,
        members: Some(Arc::new(members())),
        clock: Arc::new(Still),
        sessions: Arc::new(Sessions::new(None, true, TTL)),
        asking: Arc::new(Asking::default()),
        commands,
        allowed_hosts: vec!["web.example".into()],
    };
    let output = block_on(async {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let serve = converse(theirs, is_unix, Arc::new(app), shutdown);
        let obey = async {
            while let Some(command) = to_loop.recv().await {
                obey(command, word);
            }
        };
        let server = async {
            // The channel closes with the connection.
            tokio::join!(serve, obey);
        };
        exchange(ours, &bytes, server, || {
            stop.send_replace(true);
        })
        .await
    });

    let answers = answers(&output);
    answers.iter().for_each(|answer| check(answer, leads));
    let foreign = !is_unix && names_a_foreign_host(&bytes);
    if let Some(first) = answers.first().filter(|_| foreign) {
        assert!(matches!(first.status, 400..=499), "{} to a foreign Host", first.status);
    }
    assert!(board.promised_until() <= if leads { NOW + TTL } else { Moment::BOOT });
}

/// One of three, one of them of a strange name.
fn members() -> MembersBoard {
    let of = |text: &str| text.to_owned();
    let board = MembersBoard::new(of("web"), of("shop"), of("web-0"), of("web-abc"), of("boot"));
    let member = |holder: &str, life| Member {
        lease: format!("web-{}", holder.len()),
        holder: holder.into(),
        life,
        renewed: Some(NOW),
        duration: None,
        annotations: vec![(of("zone"), of("a"))],
    };
    let members = vec![member("web-0_1", Life::Alive), member("web-1_1", Life::Late), member("\"\n_1", Life::Dead)];
    board.publish(Members::new(Standing::Member { renewed_at: NOW }, String::new(), true, members));
    board
}

/// The first is led or not, the second is another's.
fn boards(leads: bool) -> Vec<Arc<Board>> {
    let board = |name: &str| Arc::new(Board::new(name.into(), "shop".into(), "web-0".into(), "boot".into(), TTL));
    let boards = vec![board("web"), board("jobs")];
    let until = NOW + Duration::from_secs(10);
    let leading = Leading { token: TOKEN, valid_until: until, stop_by: until, acquired_at: Timestamp::UNIX_EPOCH };
    let (leading, reason) = if leads { (Some(leading), Reason::Leading) } else { (None, Reason::HeldByOther) };
    let status = Status { leading, reason, version: 1, holder: Some("web-1_0f".into()), ..Status::starting() };
    boards[0].publish(status, Timestamp::UNIX_EPOCH);
    boards
}

fn obey(command: Command, word: u8) {
    let reply = match command {
        Command::StepDown { lease, to, wait, reply } => {
            assert!(lease < 2 && wait <= Duration::from_secs(300));
            assert!(to.is_none_or(|to| dns_subdomain(&to).is_ok()), "a name of no pod reached the loop");
            reply
        }
        Command::Stopped { lease, reply, .. } => {
            assert!(lease < 2);
            reply
        }
    };
    let _ = match word {
        0 => reply.send(Ok(Course::Done)),
        1 => reply.send(Ok(Course::UnderWay)),
        2 => reply.send(Err(Refusal { code: "not_leader", message: "this pod does not lead".into() })),
        _ => return,
    };
}

fn check(answer: &Answer, leads: bool) {
    let known = [100, 200, 202, 400, 403, 404, 405, 409, 413, 414, 415, 421, 431, 503];
    assert!(known.contains(&answer.status), "nobody knows a status {}", answer.status);
    assert!(answer.body.len() <= LONGEST || answer.is_stream());
    let Some(kind) = answer.header("content-type") else {
        // hyper's own words, to what is not HTTP or too long.
        assert!(answer.body.is_empty() && matches!(answer.status, 100 | 400 | 414 | 431));
        return;
    };
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let promised = answer.header("leasehold-token").map(|token| token.parse::<u64>().expect("a number"));
    match kind {
        // Asked by HEAD.
        _ if answer.body.is_empty() => {}
        "application/json" => {
            let body = answer.json();
            assert_eq!(body["fencing_token"].as_u64(), promised, "the header and the body agree");
            if matches!(answer.status, 400..=499) {
                assert!(!body["code"].as_str().unwrap_or_default().is_empty());
                assert!(!body["message"].as_str().unwrap_or_default().is_empty());
            }
            let views = body["leases"].as_array().cloned().unwrap_or_else(|| vec![body]);
            views.iter().for_each(|view| check_view(view, leads));
        }
        "text/event-stream" => {
            let text = String::from_utf8_lossy(&answer.body);
            for line in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
                check_view(&serde_json::from_str(line).expect("an event is JSON"), leads);
            }
        }
        other => panic!("an answer of the type {other:?}"),
    }
    assert!(promised.is_none_or(|token| leads && token == TOKEN));
}

fn check_view(view: &Value, leads: bool) {
    let says_leader = view["leader"] == true;
    let says_name = view["name"] == "web-0";
    assert!(leads || !says_leader && !says_name, "a yes of a pod that does not lead: {view}");
    if says_leader {
        assert_eq!((view["lease"].as_str(), view["fencing_token"].as_u64()), (Some("web"), Some(TOKEN)));
        assert!(view["valid_for_ms"].as_u64().is_some_and(|valid| valid <= 1000), "{view}");
    } else if let Some(valid) = view.get("valid_for_ms") {
        assert_eq!(valid, 0);
    }
}

/// The first request is plain HTTP/1.1 with a path and one Host, and no URL with that host would lead to loopback.
fn names_a_foreign_host(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let mut lines = head.split("\r\n");
    let plain = lines.next().is_some_and(|line| line.contains(" /") && line.ends_with(" HTTP/1.1"));
    let hosts: Vec<&str> = lines
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.eq_ignore_ascii_case("host"))
        .map(|(_, value)| value.trim())
        .collect();
    let [host] = hosts.as_slice() else { return false };
    plain && !leads_to_loopback(host)
}

/// RFC 3986, section 3.2: an address in brackets or without colons, and perhaps a port.
fn leads_to_loopback(authority: &str) -> bool {
    let (host, port, address) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port, host.parse::<Ipv6Addr>().ok().map(IpAddr::from)),
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            (host, port, host.parse::<Ipv4Addr>().ok().map(IpAddr::from))
        }
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let whole = port.is_empty() || port.strip_prefix(':').is_some_and(digits);
    let is_address = address.is_some_and(|address| address.to_canonical().is_loopback());
    whole && (is_address || host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case("web.example"))
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}
