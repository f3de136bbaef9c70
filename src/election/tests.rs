//! Rules that are easy to state alone, each once. Whatever needs several candidates, faults or a network is judged
//! by the simulator (`tests/simulation`).

use super::*;

mod attempts;
mod telling;

/// One candidate, and the Lease as this test writes it.
struct Bench {
    election: Election,
    at: Moment,
    wall: Timestamp,
}

const SECOND: Duration = Duration::from_secs(1);

impl Bench {
    fn new() -> Bench {
        Bench::with(Config::default())
    }

    fn with(config: Config) -> Bench {
        let config = Config { identity: "me_1".into(), ..config };
        let wall = Timestamp::from_second(1_700_000_000).unwrap();
        Bench { election: Election::new(config, None, 1), at: Moment::BOOT + 1000 * SECOND, wall }
    }

    fn handle(&mut self, input: Input) -> Vec<Output> {
        self.election.handle(Now { boot: self.at, wall: self.wall }, input)
    }

    fn sees(&mut self, record: &Record) -> Vec<Output> {
        self.handle(Input::Observed { record: Some(record.clone()), version: record.version, via: Via::Event })
    }

    /// As a pod does that has ended its app, or has not, and has a minute.
    fn shuts_down(&mut self, app_ended: bool) -> Vec<Output> {
        let (leave_at, end_by) = (self.at, self.at + 60 * SECOND);
        self.handle(Input::Shutdown(Shutdown { app_ended, leave_at, end_by }))
    }

    /// Ticks when asked to, until something is written.
    fn until_write(&mut self) -> Write {
        let mut outputs = self.handle(Input::Tick);
        for _ in 0..100 {
            if let Some(write) = written(&outputs) {
                return write;
            }
            self.at = wake_at(&outputs);
            outputs = self.handle(Input::Tick);
        }
        panic!("nothing was written in 100 ticks: {:?}", self.election.status());
    }

    /// The answer to a write, by an API server that agrees.
    fn commits(&mut self, write: &Write, on: &Record) -> (Record, Vec<Output>) {
        let mut record = Record { version: on.version + 1, spec: write.spec.clone(), released: None, ..on.clone() };
        match write.kind {
            Kind::Acquire { token } => record.token = Token::Value(token),
            Kind::Release => record.released = record.spec.renew_time,
            Kind::Create | Kind::Renew => {}
        }
        let outcome = Outcome::Committed(Box::new(record.clone()));
        let outputs = self.handle(Input::Wrote { attempt: write.attempt, outcome });
        (record, outputs)
    }

    fn leads(&mut self) -> Record {
        let free = released();
        self.sees(&free);
        let write = self.until_write();
        let (record, _) = self.commits(&write, &free);
        assert!(self.election.status().leading_at(self.at).is_some());
        record
    }
}

/// Nobody enforces anything.
fn withdrawn(version: u64, promised_until: Moment) -> Input {
    Input::Withdrawn { version, promised_until, enforced_until: Moment::BOOT }
}

fn written(outputs: &[Output]) -> Option<Write> {
    outputs.iter().find_map(|output| match output {
        Output::Write(write) => Some(write.clone()),
        _ => None,
    })
}

fn wake_at(outputs: &[Output]) -> Moment {
    match outputs.last() {
        Some(Output::WakeAt(at)) => *at,
        other => panic!("the last output is the time to wake: {other:?}"),
    }
}

fn released() -> Record {
    let time = Timestamp::from_second(1_600_000_000).ok();
    let spec = Spec { duration_seconds: Some(1), renew_time: time, transitions: 4, ..Spec::default() };
    Record {
        uid: "a".into(),
        version: 100,
        spec,
        token: Token::Value(50),
        released: time,
        step_down: None,
        pod_owned: false,
    }
}

fn held_by(holder: &str) -> Record {
    let renew_time = Timestamp::from_second(1_500_000_000).ok();
    let spec = Spec { holder: Some(holder.into()), duration_seconds: Some(15), renew_time, ..released().spec };
    Record { spec, released: None, ..released() }
}

#[test]
fn while_a_write_is_in_flight_nobody_is_woken_for_what_waits_behind_it() {
    let mut bench = Bench::new();
    bench.sees(&released());
    bench.until_write();
    // The watch is silent meanwhile, which is asked about only after the write.
    bench.at = bench.at + 60 * SECOND;
    assert!(wake_at(&bench.handle(Input::Tick)) > bench.at);
}

#[test]
fn the_withdrawal_of_an_earlier_term_does_not_release_a_later_one() {
    let mut bench = Bench::new();
    let early = bench.election.status().version;
    bench.leads();
    bench.handle(Input::StepDown { to: None });
    bench.handle(withdrawn(early, Moment::BOOT));
    assert_eq!(written(&bench.handle(Input::Tick)), None, "nothing withdrew this term yet");
    let version = bench.election.status().version;
    let outputs = bench.handle(withdrawn(version, bench.at));
    assert_eq!(written(&outputs).map(|write| write.kind), Some(Kind::Release));
}

#[test]
fn a_release_waits_for_the_promise_unless_the_apps_end_is_proved() {
    for proved in [false, true] {
        let mut bench = Bench::new();
        bench.leads();
        bench.handle(Input::AppGone { proved, why: "it is gone".into() });
        let version = bench.election.status().version;
        let promised_until = bench.at + SECOND;
        let outputs = bench.handle(withdrawn(version, promised_until));
        assert_eq!(written(&outputs).is_some(), proved);
        if !proved {
            assert_eq!(wake_at(&outputs), promised_until);
        }
    }
}

#[test]
fn a_taking_write_that_lands_after_the_apps_end_waits_for_earlier_promises_unless_that_is_proved() {
    for proved in [false, true] {
        // Of several workers one ends, and the pod campaigns again for the others.
        let mut bench = Bench::new();
        let record = bench.leads();
        bench.handle(Input::AppGone { proved: true, why: "the worker that led has ended".into() });
        let version = bench.election.status().version;
        let promised_until = bench.at + 5 * SECOND;
        let release = written(&bench.handle(withdrawn(version, promised_until))).unwrap();
        bench.handle(Input::AppAlive);
        let (record, outputs) = bench.commits(&release, &record);
        let take = written(&outputs).unwrap_or_else(|| bench.until_write());
        assert!(matches!(take.kind, Kind::Acquire { .. }));
        // The others end while it takes.
        bench.handle(Input::AppGone { proved, why: "nobody is left".into() });
        bench.handle(Input::AppGone { proved: false, why: "nor does it answer".into() });
        let version = bench.election.status().version;
        bench.handle(withdrawn(version, promised_until));
        let (_, outputs) = bench.commits(&take, &record);
        match proved {
            true => assert_eq!(written(&outputs).map(|write| write.kind), Some(Kind::Release)),
            false => assert_eq!((written(&outputs), wake_at(&outputs)), (None, promised_until)),
        }
    }
}

#[test]
fn a_release_names_who_should_lead_next_unless_somebody_else_was_asked_for() {
    for (asked, named) in [(None, "web-1"), (Some("web-2"), "web-2")] {
        let mut bench = Bench::new();
        bench.handle(Input::Rivals { count: 5, successor: Some("web-0".into()) });
        let record = bench.leads();
        bench.handle(Input::Rivals { count: 3, successor: Some("web-1".into()) });
        bench.handle(Input::StepDown { to: asked.map(str::to_owned) });
        let version = bench.election.status().version;
        let outputs = bench.handle(withdrawn(version, bench.at));
        let release = written(&outputs).unwrap();
        let token = record.token.value().unwrap();
        assert_eq!(release.step_down, Some(StepDown { token, to: Some(named.into()) }));
    }
    // Nobody is known to live.
    let mut bench = Bench::new();
    bench.leads();
    bench.handle(Input::Rivals { count: 1, successor: None });
    bench.shuts_down(false);
    let version = bench.election.status().version;
    let outputs = bench.handle(withdrawn(version, bench.at));
    assert_eq!(written(&outputs).unwrap().step_down, None);
}

#[test]
fn a_token_is_above_all_that_was_ever_seen_also_where_the_annotation_went_back() {
    let mut bench = Bench::new();
    bench.sees(&Record { token: Token::Value(5000), ..held_by("other_1") });
    // Somebody edits it away, and releases.
    let free = Record { version: 101, token: Token::Value(3), ..released() };
    bench.sees(&free);
    assert_eq!(bench.until_write().kind, Kind::Acquire { token: 5001 });
}

#[test]
fn a_claim_is_of_this_identity_token_and_moment() {
    let mut seen = Seen::nothing();
    let time = |second| Timestamp::from_second(second).unwrap();
    seen.claim("me_1", 7, time(50));
    let record = |holder: &str, token, second| {
        let record = held_by(holder);
        Record { token: Token::Value(token), spec: Spec { acquire_time: Some(time(second)), ..record.spec }, ..record }
    };
    assert!(seen.claims(&record("me_1", 7, 50)));
    for (holder, token, second) in [("me_2", 7, 50), ("me_1", 8, 50), ("me_1", 7, 51), ("me_2", 8, 50), ("me_1", 8, 51)]
    {
        assert!(!seen.claims(&record(holder, token, second)), "{holder} {token} {second}");
    }
}

#[test]
fn who_waits_for_an_unproved_end_again_and_again_says_what_to_look_for() {
    let mut bench = Bench::new();
    let mut version = 100;
    let mut sees = |bench: &mut Bench, record: Record| {
        version += 1;
        bench.sees(&Record { version, ..record });
        bench.election.status().message.clone()
    };
    // A manifest that is applied again each time the Lease changes.
    let blank = |second| {
        let spec = Spec { renew_time: Timestamp::from_second(second).ok(), ..released().spec };
        Record { released: None, spec, ..released() }
    };
    sees(&mut bench, held_by("other_1"));
    assert!(!sees(&mut bench, blank(1)).contains("in a row"));
    let again = sees(&mut bench, blank(2));
    assert!(again.contains("2 times in a row: does a job re-apply"), "{again}");
}

#[test]
fn an_acknowledgement_does_not_cover_what_an_earlier_sidecar_of_the_pod_promised() {
    let mut bench = Bench::new();
    let floor = bench.at + 30 * SECOND;
    bench.election = bench.election.succeed(vec!["me_0".into()], floor);
    let record = bench.leads();
    bench.handle(Input::StepDown { to: None });
    let version = bench.election.status().version;
    bench.handle(withdrawn(version, bench.at));
    let token = record.token.value().unwrap();
    let outputs = bench.handle(Input::AppStopped { token });
    assert_eq!(written(&outputs), None);
    bench.at = floor;
    let outputs = bench.handle(Input::Heard);
    assert_eq!(written(&outputs).map(|write| write.kind), Some(Kind::Release));
}

#[test]
fn an_acknowledgement_counts_only_once_nothing_says_yes_any_more() {
    let mut bench = Bench::new();
    let token = bench.leads().token.value().unwrap();
    bench.handle(Input::StepDown { to: None });
    bench.handle(Input::AppStopped { token });
    let version = bench.election.status().version;
    let promised_until = bench.at + SECOND;
    let outputs = bench.handle(withdrawn(version, promised_until));
    assert_eq!(written(&outputs), None, "an app that restarted in between may have read the file");
    let outputs = bench.handle(Input::AppStopped { token });
    assert_eq!(written(&outputs).map(|write| write.kind), Some(Kind::Release));
}

#[test]
fn a_step_down_is_held_off_from_the_release_on() {
    let mut bench = Bench::with(Config { answer_ttl: 5 * SECOND, ..Config::default() });
    let record = bench.leads();
    bench.handle(Input::StepDown { to: None });
    let version = bench.election.status().version;
    bench.handle(withdrawn(version, bench.at + 5 * SECOND));
    let release = bench.until_write();
    bench.commits(&release, &record);
    let free_at = bench.at;
    assert!(matches!(bench.until_write().kind, Kind::Acquire { .. }));
    assert!(bench.at >= free_at + 2 * SECOND, "others go first, however long the promise was");
}

#[test]
fn a_record_in_this_name_that_it_did_not_write_is_not_released() {
    let mut bench = Bench::new();
    bench.sees(&held_by("other_1"));
    let mut edited = held_by("me_1");
    edited.version = 101;
    let outputs = bench.sees(&edited);
    assert_eq!(written(&outputs), None);
    bench.at = bench.at + 2 * SECOND;
    bench.handle(Input::Heard);
    assert_eq!(written(&bench.handle(Input::Tick)), None, "its real holder may still act on it");
}

#[test]
fn an_own_record_that_somebody_edited_is_released() {
    let mut bench = Bench::new();
    let mut record = bench.leads();
    record.version += 1;
    record.spec.duration_seconds = Some(60);
    bench.sees(&record);
    assert!(bench.election.status().leading.is_none());
    let version = bench.election.status().version;
    let outputs = bench.handle(withdrawn(version, bench.at));
    assert_eq!(written(&outputs).map(|write| write.kind), Some(Kind::Release));
}

#[test]
fn a_term_does_not_come_back_when_an_edit_is_undone() {
    let mut bench = Bench::new();
    bench.sees(&released());
    let write = bench.until_write();
    let token = Token::Value(101);
    let own = Record { version: 101, spec: write.spec, token, released: None, ..released() };
    // The watch is quicker than the answer, which never comes.
    bench.sees(&own);
    assert!(bench.election.status().leading.is_some());
    let mut edited = Record { version: 102, ..own.clone() };
    edited.spec.strategy = Some("X".into());
    bench.sees(&edited);
    bench.sees(&Record { version: 103, ..own });
    assert!(bench.election.status().leading.is_none());
}

#[test]
fn a_term_does_not_come_back_when_a_read_shows_an_old_version_and_the_next_the_newest() {
    let mut bench = Bench::new();
    bench.sees(&released());
    let taking = bench.until_write();
    let Kind::Acquire { token } = taking.kind else { panic!("{taking:?}") };
    let taken =
        Record { version: 101, spec: taking.spec.clone(), token: Token::Value(token), released: None, ..released() };
    // The watch is quicker than the answer, which is still awaited.
    bench.sees(&taken);
    assert!(bench.election.status().leading.is_some());
    bench.at = bench.at + SECOND;
    let read = |bench: &mut Bench, record: &Record| {
        let via = Via::Read { sent_at: bench.at };
        bench.at = bench.at + SECOND / 10;
        bench.handle(Input::Observed { record: Some(record.clone()), version: record.version, via })
    };
    read(&mut bench, &released());
    assert!(bench.election.status().leading.is_none());
    read(&mut bench, &taken);
    assert!(bench.election.status().leading.is_none(), "the term had ended");
}

#[test]
fn an_empty_record_that_is_applied_again_unseen_is_waited_for_again() {
    let mut bench = Bench::new();
    let mut bare = Record { spec: Spec::default(), token: Token::Absent, released: None, ..released() };
    bench.sees(&bare);
    bench.at = bench.at + 14 * SECOND;
    bare.version = 200;
    bench.handle(Input::Observed { record: Some(bare), version: 200, via: Via::Read { sent_at: bench.at } });
    bench.handle(Input::Heard);
    let seen = bench.at;
    bench.until_write();
    assert!(bench.at >= seen + 15 * SECOND);
}

#[test]
fn a_proof_that_is_not_newer_than_the_holder_proves_nothing() {
    let mut bench = Bench::new();
    let mut edited = held_by("somebody");
    edited.spec.renew_time = released().spec.renew_time;
    bench.sees(&Record { version: 99, ..edited });
    bench.sees(&released());
    assert_eq!(bench.election.status().reason, Reason::WaitingUnproved);
}

#[test]
fn a_proved_release_is_free_at_once_also_after_an_unproved_creation() {
    let mut bench = Bench::new();
    let bare = Record { spec: Spec::default(), token: Token::Absent, released: None, ..released() };
    bench.sees(&Record { version: 90, ..bare });
    let mut taken = held_by("other_1");
    taken.version = 99;
    bench.sees(&taken);
    bench.sees(&released());
    let seen = bench.at;
    bench.until_write();
    assert!(bench.at < seen + SECOND, "who took it waited for all that came before");
}

#[test]
fn at_the_end_of_the_year_9999_each_renewal_still_has_a_time_of_its_own() {
    let mut bench = Bench::new();
    bench.wall = Timestamp::MAX;
    let mut record = bench.leads();
    let mut times = vec![record.spec.renew_time];
    for _ in 0..5 {
        bench.handle(Input::Heard);
        let write = bench.until_write();
        assert_eq!(write.kind, Kind::Renew);
        record = bench.commits(&write, &record).0;
        times.push(record.spec.renew_time);
    }
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
}

#[test]
fn transitions_stop_at_their_largest_number_and_the_election_does_not() {
    let mut bench = Bench::new();
    let mut record = released();
    record.spec.transitions = i32::MAX;
    bench.sees(&record);
    assert_eq!(bench.until_write().spec.transitions, i32::MAX);
}

#[test]
fn without_a_token_left_it_says_so_and_does_not_ask_to_be_woken_at_once() {
    for token in [Token::Value(LARGEST_TOKEN), Token::Unreadable] {
        let mut bench = Bench::new();
        let outputs = bench.sees(&Record { token, ..released() });
        assert_eq!(bench.election.status().reason, Reason::TokenUnusable);
        assert!(wake_at(&outputs) > bench.at);
    }
}

#[test]
fn the_last_token_can_be_used() {
    let mut bench = Bench::new();
    bench.sees(&Record { token: Token::Value(LARGEST_TOKEN - 1), ..released() });
    assert_eq!(bench.until_write().kind, Kind::Acquire { token: LARGEST_TOKEN });
}

#[test]
fn an_annotation_without_a_successor_that_is_taken_back_is_forgiven() {
    let mut bench = Bench::new();
    bench.sees(&Record { token: Token::Value(LARGEST_TOKEN), ..released() });
    assert_eq!(bench.election.status().reason, Reason::TokenUnusable);
    bench.sees(&Record { version: 101, ..released() });
    assert!(matches!(bench.until_write().kind, Kind::Acquire { token } if token < LARGEST_TOKEN));
}

#[test]
fn a_holder_of_a_megabyte_makes_no_message_of_a_megabyte() {
    let mut bench = Bench::new();
    bench.sees(&held_by(&"ö".repeat(500_000)));
    assert!(bench.election.status().message.len() < 300);
}

#[test]
fn a_coordinated_lease_and_the_nais_format_are_left_alone() {
    let coordinated = Record { spec: Spec { strategy: Some("X".into()), ..released().spec }, ..released() };
    let nais =
        Record { spec: Spec { duration_seconds: None, ..held_by("pod").spec }, pod_owned: true, ..held_by("pod") };
    for (record, reason) in [(coordinated, Reason::CoordinatedElection), (nais, Reason::HeldByOther)] {
        let mut bench = Bench::new();
        bench.sees(&record);
        bench.at = bench.at + 3600 * SECOND;
        bench.handle(Input::Heard);
        assert_eq!(written(&bench.handle(Input::Tick)), None);
        assert_eq!(bench.election.status().reason, reason);
    }
}

#[test]
fn a_conflict_is_looked_into_by_one_read() {
    let mut bench = Bench::new();
    let record = bench.leads();
    bench.at = bench.at + 3 * SECOND;
    let write = bench.until_write();
    assert_eq!(write.base.as_ref().map(|base| base.version), Some(record.version));
    let outputs = bench.handle(Input::Wrote { attempt: write.attempt, outcome: Outcome::Conflict });
    assert_eq!(outputs.iter().filter(|output| matches!(output, Output::Read { .. })).count(), 1);
    assert!(bench.election.status().leading_at(bench.at).is_some(), "the conflict alone decides nothing");
    let mut other = held_by("other_1");
    other.version = record.version + 1;
    bench.handle(Input::Read(Some((Some(other), record.version + 1))));
    assert!(bench.election.status().leading.is_none());
}

#[test]
fn a_shutdown_ends_in_time_although_a_conflict_cannot_be_looked_into() {
    let mut bench = Bench::new();
    bench.leads();
    bench.shuts_down(false);
    let version = bench.election.status().version;
    let outputs = bench.handle(withdrawn(version, bench.at));
    let release = written(&outputs).expect("a release");
    let mut outputs = bench.handle(Input::Wrote { attempt: release.attempt, outcome: Outcome::Conflict });
    for _ in 0..100 {
        if outputs.contains(&Output::Done) {
            return;
        }
        let asked = outputs.iter().any(|output| matches!(output, Output::Read { .. }));
        bench.at = wake_at(&outputs).min(bench.at + SECOND);
        outputs = bench.handle(if asked { Input::Read(None) } else { Input::Tick });
    }
    panic!("it does not end");
}

#[test]
fn a_leaders_watch_that_brings_nothing_is_begun_anew() {
    let mut bench = Bench::new();
    let mut record = bench.leads();
    for _ in 0..20 {
        let outputs = bench.handle(Input::Tick);
        let asked = outputs.iter().any(|output| matches!(output, Output::Read { .. }));
        if let Some(write) = written(&outputs) {
            record = bench.commits(&write, &record).0;
        } else if asked {
            let outputs = bench.handle(Input::Read(Some((Some(record.clone()), record.version))));
            assert!(outputs.contains(&Output::RestartWatch), "{outputs:?}");
            return;
        }
        bench.at = wake_at(&outputs).min(bench.at + SECOND);
    }
    panic!("the silence was never doubted");
}

#[test]
fn a_copy_of_an_own_write_under_another_uid_is_not_own() {
    let mut bench = Bench::new();
    let record = bench.leads();
    bench.at = bench.at + 3 * SECOND;
    let renewal = bench.until_write();
    let copy = Record { uid: "b".into(), version: record.version + 9, spec: renewal.spec.clone(), ..record };
    bench.sees(&copy);
    assert_eq!(bench.election.status().leading, None);
}

#[test]
fn a_renewal_that_conflicts_with_itself_goes_on() {
    let mut bench = Bench::new();
    let record = bench.leads();
    bench.at = bench.at + 3 * SECOND;
    let renewal = bench.until_write();
    bench.handle(Input::Wrote { attempt: renewal.attempt, outcome: Outcome::Conflict });
    let landed = Record { version: record.version + 1, spec: renewal.spec.clone(), ..record };
    let version = landed.version;
    bench.handle(Input::Read(Some((Some(landed), version))));
    assert!(bench.election.status().leading_at(bench.at).is_some());
    assert!(bench.election.status().leading_at(bench.at + 11 * SECOND).is_some(), "it counts from the renewal");
}

fn requested(record: &Record, request: &str) -> Record {
    Record { version: record.version + 1, step_down: StepDown::parse(request), ..record.clone() }
}

#[test]
fn a_request_in_the_lease_ends_the_term_that_it_names_and_no_other() {
    for (request, ends) in [("51", false), ("{token}", true), ("{token}/other", true), ("{token}/me", false)] {
        let mut bench = Bench::new();
        let record = bench.leads();
        let token = record.token.value().unwrap();
        bench.sees(&requested(&record, &request.replace("{token}", &token.to_string())));
        assert_eq!(bench.election.status().leading.is_none(), ends, "{request}");
        if ends {
            assert_eq!(bench.election.status().reason, Reason::SteppedDown);
        }
    }
}

#[test]
fn a_named_successor_is_named_in_the_release_and_goes_first() {
    let mut bench = Bench::new();
    let record = bench.leads();
    bench.handle(Input::StepDown { to: Some("next".into()) });
    let version = bench.election.status().version;
    let outputs = bench.handle(withdrawn(version, bench.at));
    let release = written(&outputs).expect("a release");
    let request = StepDown { token: record.token.value().unwrap(), to: Some("next".into()) };
    assert_eq!(release.step_down.as_ref(), Some(&request));

    let free = |to: &str| {
        let step_down = Some(StepDown { token: 50, to: Some(to.into()) });
        Record { step_down, ..released() }
    };
    let waits = |record: &Record| {
        let mut bench = Bench::new();
        let seen = bench.at;
        if written(&bench.sees(record)).is_none() {
            bench.until_write();
        }
        bench.at.since(seen)
    };
    assert_eq!(waits(&free("me")), Duration::ZERO);
    let (other, nobody) = (waits(&free("other")), waits(&released()));
    assert!(other >= HEAD_START && other < HEAD_START + Duration::from_millis(20), "{other:?}");
    assert!(nobody < HEAD_START, "{nobody:?}");
    // A request that spoke of an earlier term names nobody.
    let stale = Record { step_down: Some(StepDown { token: 49, to: Some("other".into()) }), ..released() };
    assert!(waits(&stale) < HEAD_START);
}

#[test]
fn a_leader_whose_app_may_end_first_leads_on_until_it_has_or_the_time_is_near() {
    let shutdown =
        |bench: &Bench| Shutdown { app_ended: false, leave_at: bench.at + 20 * SECOND, end_by: bench.at + 24 * SECOND };
    // The app ends.
    let mut bench = Bench::new();
    bench.leads();
    bench.handle(Input::Shutdown(shutdown(&bench)));
    assert!(bench.election.status().leading.is_some());
    assert_eq!(bench.until_write().kind, Kind::Renew);
    bench.handle(Input::AppGone { proved: true, why: "it is gone".into() });
    assert!(bench.election.status().leading.is_none());
    // It does not.
    let mut bench = Bench::new();
    let mut record = bench.leads();
    let leave_at = bench.at + 20 * SECOND;
    bench.handle(Input::Shutdown(shutdown(&bench)));
    let mut outputs = bench.handle(Input::Tick);
    while bench.election.status().leading.is_some() {
        bench.at = wake_at(&outputs);
        outputs = bench.handle(Input::Tick);
        if let Some(write) = written(&outputs) {
            (record, outputs) = bench.commits(&write, &record);
        }
        assert!(bench.at <= leave_at);
    }
    assert_eq!(bench.at, leave_at);
    // A candidate has nothing to wait for.
    let mut bench = Bench::new();
    bench.sees(&held_by("other_1"));
    assert!(bench.handle(Input::Shutdown(shutdown(&bench))).contains(&Output::Done));
}

#[test]
fn a_process_ends_in_time_released_or_not() {
    let mut bench = Bench::new();
    bench.leads();
    let end_by = bench.at + 2 * SECOND;
    let outputs = bench.handle(Input::Shutdown(Shutdown { app_ended: false, leave_at: bench.at, end_by }));
    assert_eq!(wake_at(&outputs), end_by, "nothing says yet that not-leader is told everywhere");
    bench.at = end_by;
    let outputs = bench.handle(Input::Tick);
    assert!(outputs.contains(&Output::Done) && written(&outputs).is_none());
}

#[test]
fn a_process_that_ends_does_not_wait_for_a_release_that_nobody_waits_for() {
    let mut bench = Bench::new();
    bench.leads();
    let stop_by = bench.at + bench.election.config().hold_time();
    bench.shuts_down(false);
    let version = bench.election.status().version;
    let outputs = bench.handle(withdrawn(version, bench.at));
    assert_eq!(written(&outputs).map(|write| write.kind), Some(Kind::Release));
    assert!(wake_at(&outputs) <= stop_by);
    // No answer, and by now others may take.
    bench.at = stop_by;
    assert!(bench.handle(Input::Tick).contains(&Output::Done));
}

#[test]
fn neither_a_proof_nor_an_acknowledgement_ends_the_work_of_who_enforces_the_terms_end() {
    for proved in [true, false] {
        let mut bench = Bench::new();
        let record = bench.leads();
        bench.handle(Input::AppGone { proved, why: "it is gone".into() });
        let version = bench.election.status().version;
        let (promised_until, enforced_until) = (bench.at + SECOND, bench.at + 3 * SECOND);
        let outputs = bench.handle(Input::Withdrawn { version, promised_until, enforced_until });
        assert_eq!((written(&outputs), wake_at(&outputs)), (None, enforced_until));
        let token = record.token.value().unwrap();
        assert_eq!(written(&bench.handle(Input::AppStopped { token })), None);
        // It has ended sooner.
        bench.at = promised_until;
        let outputs = bench.handle(withdrawn(version, promised_until));
        assert_eq!(written(&outputs).map(|write| write.kind), Some(Kind::Release));
    }
}

#[test]
fn who_works_on_in_a_term_that_ended_hears_that_somebody_took_its_record_away() {
    let mut bench = Bench::new();
    let record = bench.leads();
    bench.handle(Input::AppGone { proved: false, why: "it fails".into() });
    assert_eq!(bench.election.status().reason, Reason::AppNotAlive);
    let stop_by = bench.at + bench.election.config().hold_time();
    bench.handle(Input::Observed { record: None, version: record.version + 1, via: Via::Event });
    assert_eq!(bench.election.status().reason, Reason::Deleted);
    bench.at = stop_by;
    bench.handle(Input::Tick);
    assert_eq!(bench.election.status().reason, Reason::AppNotAlive);
}
