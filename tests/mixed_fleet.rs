//! One Lease, contended for by leasehold and by client-go's own elector, as during a migration or beside an operator.
//!
//! client-go believes that it leads until its callbacks end; leasehold must never lead in that time, as long as
//! client-go keeps to its own lease. (client-go's overlaps with itself, such as after a freeze, remain client-go's.)

mod support;

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use support::clientgo::ClientGo;
use support::clock::{self, BootTime};
use support::control_plane::{SIDECAR, shared};
use support::recorder::Recorder;
use support::sidecar::Sidecar;
use support::stage::{LEASE, SOON, Stage, token};

/// client-go's lease lasts so long.
const CLIENT_GO_LEASE: Duration = Duration::from_secs(4);
const FLAGS: [&str; 3] = ["-lease-duration=4s", "-renew-deadline=3s", "-retry-period=500ms"];

fn client_go(stage: &Stage, id: &str, more: &[&str]) -> ClientGo {
    let kubeconfig = shared().kubeconfig_for(SIDECAR, None);
    ClientGo::start(LEASE, &stage.namespace, &kubeconfig, id, &[&FLAGS[..], more].concat())
}

/// No promise of leasehold lies within a time in which client-go's callbacks led; `ended` is when each killed one was.
#[track_caller]
fn assert_apart(recorder: &Recorder, rivals: &[(&ClientGo, Option<BootTime>)]) {
    for promise in recorder.promises() {
        for (rival, ended) in rivals {
            for (from, until) in rival.led() {
                let until = until.or(*ended).unwrap_or(Duration::MAX);
                let apart = promise.until <= from || until <= promise.from;
                assert!(apart, "client-go led in [{from:?}, {until:?}), and leasehold promised {promise}");
            }
        }
    }
}

#[test]
fn leasehold_takes_over_from_a_killed_client_go_after_its_lease_and_not_before() {
    let stage = Stage::released(shared(), "killed-rival");
    let rival = client_go(&stage, "rival", &[]);
    rival.wait_event("started", Duration::ZERO, SOON);
    let pod = stage.pod("a").start();
    let recorder = Recorder::start([&pod]);
    pod.wait_status("a standby", SOON, |status| status["holder"] == "rival");
    rival.wait_event("renewed", clock::now(), SOON);
    let killed = clock::now();
    rival.signal(Signal::KILL);
    let turn = recorder.wait_leader(killed, SOON, |_| true);
    // Five seconds, its own lease: the longer of the two is waited for. Half a second is client-go's renew interval.
    let after = turn.received - killed;
    assert!(after > CLIENT_GO_LEASE, "after {after:?}");
    assert!(after < Duration::from_millis(5000 + 300 + 1700), "after {after:?}");
    assert_apart(&recorder, &[(&rival, Some(killed))]);
    recorder.assert_no_overlap();
}

#[test]
fn an_unproved_release_of_client_go_is_waited_for_and_survived() {
    let stage = Stage::released(shared(), "unproved-rival");
    let mut rival = client_go(&stage, "rival", &["-release-on-cancel"]);
    rival.wait_event("started", Duration::ZERO, SOON);
    let pod = stage.pod("a").start();
    let recorder = Recorder::start([&pod]);
    pod.wait_status("a standby", SOON, |status| status["holder"] == "rival");
    let asked = clock::now();
    rival.signal(Signal::TERM);
    let released = rival.wait_event("released", asked, SOON);
    assert!(rival.wait(SOON).success());
    pod.wait_status("to wait", SOON, |status| status["reason"] == "waiting_unproved");
    let turn = recorder.wait_leader(asked, SOON, |_| true);
    let after = turn.received - released;
    assert!(after > Duration::from_millis(4900), "after {after:?}");
    assert_apart(&recorder, &[(&rival, None)]);
    recorder.assert_no_overlap();
}

#[test]
fn client_go_takes_over_what_leasehold_released_and_not_before() {
    let stage = Stage::released(shared(), "rival-follows");
    let mut pod = stage.pod("a").start();
    let recorder = Recorder::start([&pod]);
    recorder.wait_leader(Duration::ZERO, SOON, |_| true);
    let rival = client_go(&stage, "rival", &[]);
    rival.wait_event("new_leader", Duration::ZERO, SOON);
    let asked = clock::now();
    pod.sigterm();
    rival.wait_event("started", asked, SOON);
    assert!(pod.wait(SOON).success());
    assert_apart(&recorder, &[(&rival, None)]);
    // What client-go writes over it keeps the token's floor.
    assert!(stage.annotation("leasehold.dev/token").is_some());
    recorder.assert_no_overlap();
}

#[test]
fn a_lease_that_goes_to_and_fro_is_never_led_by_both_and_its_tokens_grow() {
    let stage = Stage::released(shared(), "to-and-fro");
    let mut pods = [stage.pod("a").start(), stage.pod("b").start()];
    let recorder = Recorder::start(&pods);
    let mut rivals: Vec<(ClientGo, Option<BootTime>)> = Vec::new();
    let mut tokens = Vec::new();
    for (round, more) in [&["-release-on-cancel"][..], &[]].into_iter().enumerate() {
        let led = leader_of(&pods);
        tokens.push(token(&pods[led].status()));
        rivals.push((client_go(&stage, &format!("rival-{round}"), more), None));
        // The leader goes, and its companion: the rival follows.
        let since = clock::now();
        for pod in &mut pods {
            if round == 0 {
                pod.kill9();
            } else {
                pod.sigterm();
                pod.wait(SOON);
            }
        }
        let (rival, ended) = rivals.last_mut().expect("was just pushed");
        rival.wait_event("started", since, SOON);
        for pod in &mut pods {
            pod.restart();
            pod.wait_status("a standby", SOON, |status| status["holder"] == format!("rival-{round}"));
        }
        rival.signal(if more.is_empty() { Signal::KILL } else { Signal::TERM });
        rival.wait(SOON);
        *ended = Some(clock::now());
    }
    let led = leader_of(&pods);
    tokens.push(token(&pods[led].status()));
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
    let rivals: Vec<_> = rivals.iter().map(|(rival, ended)| (rival, *ended)).collect();
    assert_apart(&recorder, &rivals);
    recorder.assert_no_overlap();
}

/// Waits until one of the pods leads; gives its place.
#[track_caller]
fn leader_of(pods: &[Sidecar]) -> usize {
    clock::wait_for("one of the pods to lead", SOON, || pods.iter().position(|pod| pod.get("/leader").status == 200))
}

#[test]
fn a_record_that_client_go_blanks_under_a_leader_ends_the_term() {
    // client-go's release writes what it last knew, without a version check of the holder: it can blank another's.
    let stage = Stage::released(shared(), "blanked");
    let (first, _second, recorder) = stage.leader_and_standby(stage.pod("a"), stage.pod("b"));
    let before = token(&first.status());
    let blanked = clock::now();
    stage.patch_spec(json!({"holderIdentity": "", "leaseDurationSeconds": 1}));
    let turn = recorder.wait_leader(blanked, SOON, |_| true);
    assert!(turn.token.is_some_and(|token| token > before), "{turn}");
    assert!(turn.received - blanked > Duration::from_millis(4900), "{turn}");
    recorder.assert_no_overlap();
}
