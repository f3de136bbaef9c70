//! Two pods never lead at once, whatever happens to a process, a link or the API server; and somebody leads again when
//! it is over.

mod support;

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use support::clock::{self, wait_until};
use support::control_plane::{ControlPlane, shared};
use support::http::Stream;
use support::proxy::Proxy;
use support::recorder::Recorder;
use support::sidecar::Sidecar;
use support::stage::{DURATION, LEASE, SOON, Stage, token};

/// A whole lease, and what a busy machine adds.
const AFTER_EXPIRY: Duration = Duration::from_secs(15);

/// The control plane that these tests stop and kill: one test at a time.
fn own() -> MutexGuard<'static, ControlPlane> {
    static OWN: LazyLock<Mutex<ControlPlane>> = LazyLock::new(|| Mutex::new(ControlPlane::start()));
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two pods, each over a link of its own; the first leads.
struct Pair {
    pods: [Sidecar; 2],
    links: [Proxy; 2],
    recorder: Recorder,
}

impl Pair {
    fn new(stage: &Stage) -> Self {
        let links = [(); 2].map(|()| Proxy::start(stage.control_plane.address()));
        let [a, b] = [("a", 0), ("b", 1)].map(|(name, link)| stage.pod_over(name, Some(links[link].address())));
        let (a, b, recorder) = stage.leader_and_standby(a, b);
        Self { pods: [a, b], links, recorder }
    }

    /// Harms the link of whoever leads until the other leads, then heals it and waits until both agree.
    fn round(&self, leader: usize, harm: impl Fn(&Proxy)) {
        let (old, new) = (&self.pods[leader], &self.pods[1 - leader]);
        old.wait_leader(SOON);
        let since = clock::now();
        harm(&self.links[leader]);
        self.recorder.wait_leader(since, AFTER_EXPIRY, |pod| pod == new.pod());
        // Cut off, it says so by itself.
        assert_eq!(old.get("/leader").status, 503);
        self.links[leader].heal();
        old.wait_status("a standby again", SOON, |status| status["holder"] == new.pod());
        self.recorder.assert_no_overlap();
    }
}

#[test]
fn a_paused_leader_answers_503_before_anything_else() {
    let stage = Stage::released(shared(), "paused");
    let (first, second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    let before = token(&first.status());
    let mut http = first.connect();
    assert_eq!(http.get("/leader").expect("answers").status, 200);

    first.sigstop();
    let paused = clock::now();
    // Asked during the pause: the question waits in the socket, and is the first thing that the woken process reads.
    let asking = thread::spawn(move || http.get("/leader").expect("answers"));
    recorder.wait_leader(paused, AFTER_EXPIRY, |pod| pod == "b");
    first.sigcont();
    let first_answer = asking.join().expect("the asking thread ends");
    assert_eq!(first_answer.status, 503, "{first_answer:?}");
    assert_eq!(first_answer.json()["fencing_token"], serde_json::Value::Null);
    first.wait_status("a standby", SOON, |status| status["holder"] == "b");
    assert!(token(&second.status()) > before);
    recorder.assert_no_overlap();
}

#[test]
fn the_stream_of_a_paused_leader_falls_silent_and_then_says_no() {
    let stage = Stage::released(shared(), "silent-stream");
    let (first, _second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    let mut events = first.connect().stream(&format!("/v1/leases/{LEASE}/watch")).expect("a stream");
    let uptime = |value: &serde_json::Value| Duration::from_secs_f64(value.as_f64().expect("a time"));
    let next = |events: &mut Stream| events.next_event().expect("a stream").expect("an event").json();
    let yes = next(&mut events);
    assert_eq!(yes["leader"], true);
    assert_eq!(events.next_event().expect("a stream").expect("an event").event, "status");

    first.sigstop();
    let paused = clock::now();
    // What was sent before the pause may still be read; none of it promises beyond the answer TTL after it.
    let reading = thread::spawn(move || {
        loop {
            let event = next(&mut events);
            let read_at = clock::now();
            if event["leader"] != true {
                return (event, read_at);
            }
            assert!(uptime(&event["valid_until_uptime"]) <= paused + Duration::from_millis(1010), "{event}");
        }
    });
    recorder.wait_leader(paused, AFTER_EXPIRY, |pod| pod == "b");
    let woken = clock::now();
    first.sigcont();
    let (no, read_at) = reading.join().expect("the reading thread ends");
    assert!(read_at >= woken, "a stopped process said {no}");
    assert_eq!(no["valid_for_ms"], 0);
    recorder.assert_no_overlap();
}

#[test]
fn a_leader_that_is_paused_again_and_again_never_leads_beside_another() {
    let stage = Stage::released(shared(), "naps");
    let (first, second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    let pods = [&first, &second];
    for round in 0..2 {
        let (old, new) = (pods[round % 2], pods[(round + 1) % 2]);
        old.sigstop();
        let paused = clock::now();
        recorder.wait_leader(paused, AFTER_EXPIRY, |pod| pod == new.pod());
        old.sigcont();
        old.wait_status("a standby", SOON, |status| status["holder"] == new.pod());
    }
    recorder.assert_no_overlap();
}

#[test]
fn a_silent_link_both_ways_ends_leadership_before_another_leads() {
    let stage = Stage::released(shared(), "silent");
    let pair = Pair::new(&stage);
    pair.round(0, Proxy::silence);
    pair.round(1, Proxy::silence);
}

#[test]
fn a_link_that_loses_requests_ends_leadership_before_another_leads() {
    let stage = Stage::released(shared(), "mute");
    Pair::new(&stage).round(0, Proxy::silence_requests);
}

#[test]
fn a_link_that_loses_replies_ends_leadership_before_another_leads() {
    let stage = Stage::released(shared(), "deaf");
    Pair::new(&stage).round(0, Proxy::silence_replies);
}

#[test]
fn replies_8_s_late_count_for_nothing() {
    let stage = Stage::released(shared(), "late");
    Pair::new(&stage).round(0, |link| link.delay_replies(Duration::from_secs(8)));
}

#[test]
fn a_pod_whose_connections_take_longer_than_an_attempt_leads_all_the_same() {
    let stage = Stage::released(shared(), "slow-connections");
    let link = Proxy::start(stage.control_plane.address());
    // Longer than any attempt of a sidecar with these times, 4 s / 3, and shorter than its renew deadline.
    link.connect_late(Duration::from_millis(2500));
    let pod = stage.pod_over("a", Some(link.address())).start();
    pod.wait_leader(SOON);
    // Over a connection that is there, renewals are as quick as ever.
    let before = token(&pod.status());
    for _ in 0..5 {
        let renewed = stage.spec()["renewTime"].clone();
        wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
    }
    assert_eq!(token(&pod.status()), before);
}

#[test]
fn a_flapping_link_moves_leadership_and_never_doubles_it() {
    let stage = Stage::released(shared(), "flapping");
    let pair = Pair::new(&stage);
    for round in 0..4 {
        pair.round(round % 2, Proxy::cut);
    }
}

#[test]
fn a_cut_that_heals_before_the_deadline_changes_nothing() {
    let stage = Stage::released(shared(), "blink");
    let pair = Pair::new(&stage);
    let before = token(&pair.pods[0].status());
    for _ in 0..3 {
        let renewed = stage.spec()["renewTime"].clone();
        pair.links[0].cut();
        pair.links[0].heal();
        wait_until("a renewal after the cut", SOON, || stage.spec()["renewTime"] != renewed);
    }
    assert_eq!(token(&pair.pods[0].status()), before);
    assert_eq!(pair.recorder.first_leader(Duration::ZERO, |pod| pod == "b").map(|turn| turn.pod), None);
    pair.recorder.assert_no_overlap();
}

#[test]
fn a_standby_with_a_dead_watch_hears_of_the_leader_again_by_itself() {
    let stage = Stage::released(shared(), "dead-watch");
    let pair = Pair::new(&stage);
    let before = token(&pair.pods[0].status());
    pair.links[1].silence();
    // Longer than the lease: by its own clock the record has run out, and only a write could tell it otherwise.
    let renewals = 6;
    for _ in 0..renewals {
        let renewed = stage.spec()["renewTime"].clone();
        wait_until("a renewal", SOON, || stage.spec()["renewTime"] != renewed);
    }
    pair.links[1].heal();
    wait_until("the standby to see renewals again", SOON, || {
        pair.pods[1].status()["lease_remaining_ms"].as_u64().is_some_and(|left| left > 3500)
    });
    assert_eq!(token(&pair.pods[0].status()), before);
    pair.recorder.assert_no_overlap();
}

#[test]
fn an_api_server_that_stands_still_leaves_no_leader_and_then_one() {
    let control_plane = own();
    let stage = Stage::released(&control_plane, "stands-still");
    let (first, second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    let before = token(&first.status());
    control_plane.stop_apiserver();
    let stopped = clock::now();
    first.wait_not_leader(SOON);
    assert!(clock::now() - stopped < DURATION, "the deadline came late");
    second.wait_not_leader(SOON);
    // By now the standby counts the lease as run out, and cannot take it.
    second
        .wait_status("out of patience", SOON, |status| status["lease_remaining_ms"].as_u64().is_none_or(|ms| ms == 0));
    let again = clock::now();
    control_plane.cont_apiserver();
    let turn = recorder.wait_leader(again, AFTER_EXPIRY, |_| true);
    assert!(turn.token.is_some_and(|token| token > before), "{turn}");
    recorder.assert_no_overlap();
}

#[test]
fn an_api_server_that_restarts_within_the_renew_deadline_changes_nothing() {
    let control_plane = own();
    let stage = Stage::released(&control_plane, "restarts");
    // L3: 55 - 2 - 2 - 1 s.
    let pod = |name| stage.pod(name).times("60s", "55s", "2s", "1s");
    let (first, second, recorder) = stage.leader_and_standby(pod("a"), pod("b"));
    let before = token(&first.status());
    let began = clock::now();
    control_plane.restart_apiserver();
    let took = clock::now() - began;
    assert!(took < Duration::from_secs(45), "a restart takes {took:?} here: this test means nothing");
    let renewed = stage.spec()["renewTime"].clone();
    wait_until("a renewal after the restart", SOON, || stage.spec()["renewTime"] != renewed);
    second.wait_status("to see it", SOON, |status| status["lease_remaining_ms"].as_u64().is_some_and(|ms| ms > 50_000));
    assert_eq!(token(&first.status()), before);
    assert!(recorder.transitions().iter().all(|turn| turn.leader == (turn.pod == "a")), "{:?}", recorder.transitions());
    recorder.assert_no_overlap();
}
