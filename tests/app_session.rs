//! `--app-alive session` and exclusive sessions: what leads here ends with its connection.

mod support;

use std::time::Duration;

use serde_json::Value;

use support::clock::{self, wait_until};
use support::control_plane::shared;
use support::http::Stream;
use support::recorder::Recorder;
use support::sidecar::{Builder, Sidecar};
use support::stage::{SOON, Stage, token};

const LONG: Duration = Duration::from_secs(20);

fn pod(stage: &Stage, name: &str) -> Builder {
    stage.slow_pod(name).flag("--app-alive", "session").flag("--answer-ttl", "20s").flag("--shutdown-grace", "60s")
}

#[track_caller]
fn session(pod: &Sidecar, query: &str) -> Stream {
    let stream = pod.connect().stream(&format!("/v1/session{query}")).expect("answers");
    assert_eq!(stream.status, 200);
    stream
}

/// Reads on until an event is as wanted.
#[track_caller]
fn told(stream: &mut Stream, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let until = clock::now() + SOON;
    while clock::now() < until {
        let event = stream.next_event().expect("an event in time").expect("the stream goes on");
        let status = event.json();
        if wanted(&status) {
            return status;
        }
    }
    panic!("never told {what}");
}

#[test]
fn a_pod_campaigns_only_while_a_session_is_open_and_its_end_is_a_proof() {
    let stage = Stage::released(shared(), "session");
    let (first, second) = (pod(&stage, "a").start(), pod(&stage, "b").start());
    for pod in [&first, &second] {
        pod.wait_status("why it does not lead", SOON, |status| status["reason"] == "app_not_alive");
    }
    let mut app = session(&first, "");
    told(&mut app, "to lead", |status| status["leader"] == true);
    let _other = session(&second, "");
    second.wait_status("a standby", SOON, |status| status["holder"] == "a");

    let recorder = Recorder::start([&first, &second]);
    recorder.wait_leader(Duration::ZERO, SOON, |leader| leader == "a");
    let since = clock::now();
    recorder.app_ended("a");
    drop(app);
    let turn = recorder.wait_leader(since, SOON, |leader| leader == "b");
    assert!(turn.received - since < LONG / 2, "it waited for the promise: {:?}", turn.received - since);
    recorder.assert_no_overlap();
}

#[test]
fn one_of_two_sessions_is_enough() {
    let stage = Stage::released(shared(), "sessions");
    let pod = pod(&stage, "a").start();
    let (one, mut two) = (session(&pod, ""), session(&pod, ""));
    let before = token(&told(&mut two, "to lead", |status| status["leader"] == true));
    drop(one);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(token(&pod.status()), before);
    drop(two);
    pod.wait_not_leader(SOON);
}

#[test]
fn a_session_of_another_name_keeps_nothing_alive() {
    let stage = Stage::released(shared(), "named");
    let pod = pod(&stage, "a").flag("--session-name", "worker").start();
    let mut debugging = session(&pod, "?name=curl");
    let status = told(&mut debugging, "why it does not lead", |status| status["reason"] == "app_not_alive");
    assert!(status["message"].as_str().is_some_and(|why| why.contains("worker")), "{status}");
    let worker = session(&pod, "?name=worker");
    told(&mut debugging, "what the pod is", |status| status["leader"] == true);
    drop(worker);
    told(&mut debugging, "the end", |status| status["leader"] == false);
}

#[test]
fn of_exclusive_sessions_one_leads_and_when_it_goes_the_next_under_a_new_token() {
    let stage = Stage::released(shared(), "exclusive");
    let pod = pod(&stage, "a").start();
    let mut workers: Vec<Stream> = (0..4).map(|_| session(&pod, "?exclusive=true")).collect();
    let mut tokens = vec![0];
    while !workers.is_empty() {
        pod.wait_status("a new term", SOON, |status| {
            status["fencing_token"].as_u64().is_some_and(|token| token > tokens[tokens.len() - 1])
        });
        let term = token(&pod.status());
        let mut leaders = Vec::new();
        for (number, worker) in workers.iter_mut().enumerate() {
            let status = told(worker, "who leads", |status| {
                status["fencing_token"] == term || status["reason"] == "other_session"
            });
            if status["leader"] == true {
                leaders.push(number);
            } else {
                assert!(status["fencing_token"].is_null() && status["valid_for_ms"] == 0, "{status}");
            }
        }
        let [leader] = leaders[..] else { panic!("{leaders:?} lead") };
        tokens.push(term);
        drop(workers.remove(leader));
    }
    pod.wait_status("nobody left", SOON, |status| status["reason"] == "app_not_alive");
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
}

#[test]
fn a_session_that_is_not_read_is_closed_and_proves_nothing() {
    let stage = Stage::released(shared(), "unread");
    let pod = pod(&stage, "a").flag("--answer-ttl", "600ms").start();
    let app = session(&pod, "");
    // Nothing is read from it: what the kernel holds fills up.
    rustix::net::sockopt::set_socket_recv_buffer_size(app.socket().expect("a socket"), 4096).expect("a small buffer");
    pod.wait_leader(SOON);
    pod.wait_status("its end", Duration::from_secs(90), |status| status["reason"] == "app_not_alive");
    // The app is there, and may act on what it was told: the release waits for that.
    let ended = clock::now();
    wait_until("the release", SOON, || stage.holder().is_none());
    assert!(clock::now() - ended > Duration::from_millis(200), "after {:?}", clock::now() - ended);
    drop(app);
}
