//! Requests: when each is sent, what it is given, and what its answer or its absence changes.

use super::*;

fn reads(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Read { .. }))
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn refused(retry_after: Option<Duration>) -> Outcome {
    Outcome::Refused { advice: "later".into(), retry_after }
}

impl Bench {
    fn answers(&mut self, write: &Write, outcome: Outcome) -> Vec<Output> {
        self.handle(Input::Wrote { attempt: write.attempt, outcome })
    }

    /// One that leads, and its renewal, just sent.
    fn renews() -> (Bench, Record, Write) {
        let mut bench = Bench::new();
        let record = bench.leads();
        bench.at = bench.at + 3 * SECOND;
        let write = bench.until_write();
        assert_eq!(write.kind, Kind::Renew);
        (bench, record, write)
    }

    /// A candidate, and its taking write, just sent.
    fn takes() -> (Bench, Write) {
        let mut bench = Bench::new();
        bench.sees(&released());
        let write = bench.until_write();
        assert!(matches!(write.kind, Kind::Acquire { .. }));
        (bench, write)
    }

    fn at(&mut self, at: Moment) -> Vec<Output> {
        self.at = at;
        self.handle(Input::Tick)
    }
}

// --- How long an attempt may take, and when it is tried again ---

#[test]
fn an_attempt_gets_a_third_of_the_time_that_is_left() {
    let (bench, taking) = Bench::takes();
    assert_eq!(taking.timeout, ATTEMPT_TIMEOUT);
    drop(bench);
    let config = Config { renew_deadline: 3 * SECOND, renew_interval: SECOND, ..Config::default() };
    let mut bench = Bench::with(config);
    bench.sees(&released());
    assert_eq!(bench.until_write().timeout, SECOND);
    for (left, timeout) in [(9000, 2000), (3000, 1000), (300, 100), (6, 10)] {
        let mut bench = Bench::new();
        bench.leads();
        let valid_until = bench.election.status().leading.expect("it leads").valid_until;
        bench.at = valid_until - millis(left);
        let outputs = bench.handle(Input::Heard);
        assert_eq!(written(&outputs).map(|write| write.timeout), Some(millis(timeout)));
    }
}

#[test]
fn a_leader_that_waits_for_an_answer_is_woken_when_its_promise_ends() {
    let (mut bench, ..) = Bench::renews();
    let valid_until = bench.election.status().leading.expect("it leads").valid_until;
    assert_eq!(wake_at(&bench.handle(Input::Tick)), valid_until);
}

#[test]
fn a_leader_tries_again_after_the_retry_period_and_others_have_time() {
    for (outcome, leader, candidate) in [
        (Outcome::Unknown, 1000, 1500),
        (refused(None), 1000, 1500),
        (refused(Some(millis(1700))), 1700, 1700),
        // Of the 9 s that are left a third; who does not lead waits for two seconds at most.
        (refused(Some(3600 * SECOND)), 3000, 2000),
    ] {
        let (mut bench, _, write) = Bench::renews();
        let outputs = bench.answers(&write, outcome.clone());
        assert_eq!(wake_at(&outputs), bench.at + millis(leader), "a leader after {outcome:?}");
        assert_eq!(written(&bench.at(bench.at + millis(leader - 1))), None);
        assert!(written(&bench.at(bench.at + millis(1))).is_some());

        let (mut bench, write) = Bench::takes();
        let outputs = bench.answers(&write, outcome.clone());
        assert_eq!(wake_at(&outputs), bench.at + millis(candidate), "a candidate after {outcome:?}");
        assert_eq!(written(&bench.at(bench.at + millis(candidate - 1))), None);
        assert!(written(&bench.at(bench.at + millis(1))).is_some());
    }
}

#[test]
fn each_attempt_has_a_number_and_a_time_of_its_own() {
    let (mut bench, first) = Bench::takes();
    bench.answers(&first, Outcome::Unknown);
    let second = bench.until_write();
    assert_ne!(first.attempt, second.attempt);
    assert!(second.spec.renew_time > first.spec.renew_time);
    // The answer to an earlier one is no answer to this one.
    let outputs = bench.answers(&first, Outcome::Conflict);
    assert_eq!(wake_at(&outputs), Moment::NEVER, "one is under way");
}

#[test]
fn a_renew_time_differs_from_the_one_that_it_replaces() {
    let mut bench = Bench::new();
    let mut free = released();
    free.spec.renew_time = Some(bench.wall);
    free.released = free.spec.renew_time;
    bench.sees(&free);
    let passed = bench.at;
    let taking = bench.until_write();
    let time = taking.spec.renew_time.expect("a time").as_microsecond();
    assert_eq!((time, bench.at.since(passed) < SECOND), (bench.wall.as_microsecond() + 1, true));
}

#[test]
fn the_moment_of_a_taking_is_drawn_once() {
    let mut bench = Bench::new();
    let drawn = wake_at(&bench.sees(&released()));
    for _ in 0..3 {
        assert_eq!(wake_at(&bench.handle(Input::Tick)), drawn);
    }
}

#[test]
fn a_watch_is_doubted_after_two_intervals_at_least() {
    let mut short = held_by("web-1_x");
    short.spec.duration_seconds = Some(4);
    let mut bench = Bench::new();
    let outputs = bench.sees(&short);
    assert_eq!(wake_at(&outputs), bench.at + 6 * SECOND);
    assert!(!reads(&bench.at(bench.at + 6 * SECOND - millis(1))));
    assert!(reads(&bench.at(bench.at + millis(1))));
}

// --- What a conflict and the read after it change ---

#[test]
fn a_candidates_conflict_is_told_by_the_watch_or_read_after_a_while() {
    let (mut bench, taking) = Bench::takes();
    let outputs = bench.answers(&taking, Outcome::Conflict);
    assert!(!reads(&outputs));
    assert_eq!(wake_at(&outputs), bench.at + SECOND);
    assert!(reads(&bench.at(bench.at + SECOND)));

    // The watch was quicker.
    let (mut bench, taking) = Bench::takes();
    bench.sees(&Record { version: 101, ..held_by("web-1_x") });
    let outputs = bench.answers(&taking, Outcome::Conflict);
    assert!(!reads(&outputs) && wake_at(&outputs) > bench.at + 5 * SECOND, "{outputs:?}");
}

#[test]
fn a_conflict_is_read_also_when_the_app_is_said_to_live_and_when_a_read_is_under_way() {
    let (mut bench, taking) = Bench::takes();
    bench.answers(&taking, Outcome::Conflict);
    assert_eq!(wake_at(&bench.handle(Input::AppAlive)), bench.at + SECOND);

    // The watch is silent, which is asked about; then somebody else is quicker.
    let mut bench = Bench::new();
    bench.sees(&released());
    let taking = bench.until_write();
    bench.answers(&taking, Outcome::Unknown);
    let due = bench.at + 6 * SECOND;
    while !reads(&bench.at(due)) {
        let write = bench.until_write();
        bench.answers(&write, Outcome::Unknown);
    }
    bench.at = bench.at + millis(1);
    let again = bench.until_write();
    bench.at = bench.at + millis(1);
    bench.answers(&again, Outcome::Conflict);
    let conflict = bench.at;
    bench.handle(Input::Read(Some((Some(released()), 100))));
    assert!(reads(&bench.at(conflict + SECOND)), "the first was sent before the conflict");
}

#[test]
fn a_leaders_conflict_that_the_watch_explained_is_not_read() {
    let (mut bench, record, write) = Bench::renews();
    let labelled = Record { version: record.version + 1, ..record };
    bench.sees(&labelled);
    let outputs = bench.answers(&write, Outcome::Conflict);
    assert!(!reads(&outputs), "{outputs:?}");
    let again = written(&outputs).expect("it renews");
    assert_eq!(again.base.map(|base| base.version), Some(labelled.version));
}

#[test]
fn a_read_that_fails_decides_nothing_and_is_tried_again() {
    let (mut bench, _, write) = Bench::renews();
    let before = bench.election.status().leading;
    assert!(reads(&bench.answers(&write, Outcome::Conflict)));
    let outputs = bench.handle(Input::Read(None));
    assert_eq!(bench.election.status().leading, before);
    assert_eq!(wake_at(&outputs), bench.at + SECOND);
    assert!(!reads(&bench.at(bench.at + SECOND - millis(1))));
    assert!(reads(&bench.at(bench.at + millis(1))));
}

#[test]
fn a_read_that_shows_nothing_new_settles_a_conflict_and_the_renewal_is_tried_again() {
    let (mut bench, record, write) = Bench::renews();
    assert!(reads(&bench.answers(&write, Outcome::Conflict)));
    bench.at = bench.at + millis(1);
    let version = record.version;
    let outputs = bench.handle(Input::Read(Some((Some(record), version))));
    assert!(!reads(&outputs), "{outputs:?}");
    assert_eq!(wake_at(&outputs), bench.at + SECOND - millis(1));
    let outputs = bench.at(bench.at + SECOND - millis(1));
    assert_eq!(written(&outputs).map(|write| write.kind), Some(Kind::Renew));
}

#[test]
fn only_what_a_doubted_watch_kept_back_makes_it_begin_anew() {
    // Silent, and nothing happened.
    let mut bench = Bench::new();
    let record = held_by("web-1_x");
    let outputs = bench.sees(&record);
    assert!(reads(&bench.at(wake_at(&outputs))));
    let outputs = bench.handle(Input::Read(Some((Some(record.clone()), record.version))));
    assert!(!outputs.contains(&Output::RestartWatch));
    // Not silent for long, and a read that had another reason is ahead of it.
    let (mut bench, taking) = Bench::takes();
    bench.answers(&taking, Outcome::Conflict);
    assert!(reads(&bench.at(bench.at + SECOND)));
    let other = Record { version: 101, ..held_by("web-1_x") };
    let outputs = bench.handle(Input::Read(Some((Some(other), 101))));
    assert!(!outputs.contains(&Output::RestartWatch));
}

// --- Attempts whose outcome is not known ---

#[test]
fn a_retry_on_the_same_version_is_the_same_term_and_on_another_one_it_is_not() {
    let token = |write: &Write| match write.kind {
        Kind::Acquire { token } => token,
        kind => panic!("{kind:?}"),
    };
    let (mut bench, first) = Bench::takes();
    assert_eq!((token(&first), first.spec.transitions), (101, 5));
    bench.answers(&first, Outcome::Unknown);
    let second = bench.until_write();
    assert_eq!((token(&second), second.spec.transitions), (101, 5));
    bench.answers(&second, Outcome::Unknown);
    let labelled = Record { version: 200, ..released() };
    bench.sees(&labelled);
    assert_eq!(token(&bench.until_write()), 201);
    // The annotation was raised meanwhile, on the same version as far as this pod knows: nothing goes below it.
    let (mut bench, first) = Bench::takes();
    bench.answers(&first, Outcome::Unknown);
    bench.sees(&Record { version: 101, token: Token::Value(500), ..released() });
    assert_eq!(token(&bench.until_write()), 501);
}

#[test]
fn who_may_not_lead_looks_for_a_taking_write_that_may_have_landed() {
    let (mut bench, taking) = Bench::takes();
    bench.answers(&taking, Outcome::Unknown);
    let outputs = bench.shuts_down(true);
    assert!(!outputs.contains(&Output::Done) && !reads(&outputs), "{outputs:?}");
    assert_eq!(wake_at(&outputs), bench.at + SECOND);
    assert!(reads(&bench.at(bench.at + SECOND)));
    let outputs = bench.handle(Input::Read(Some((Some(released()), 100))));
    assert!(outputs.contains(&Output::Done), "{outputs:?}");

    // A read that was sent before says nothing of it.
    let (mut bench, taking) = Bench::takes();
    bench.answers(&taking, Outcome::Unknown);
    bench.handle(Input::AppGone { proved: false, why: "it fails".into() });
    assert!(reads(&bench.at(bench.at + 3 * SECOND)));
    bench.at = bench.at + millis(1);
    bench.shuts_down(true);
    let outputs = bench.handle(Input::Read(Some((Some(released()), 100))));
    assert!(!outputs.contains(&Output::Done), "{outputs:?}");

    // Nobody answers: others may have taken after the lease duration.
    let (mut bench, taking) = Bench::takes();
    bench.answers(&taking, Outcome::Unknown);
    let until = bench.at + 15 * SECOND;
    let mut outputs = bench.shuts_down(true);
    while !outputs.contains(&Output::Done) {
        let input = if reads(&outputs) { Input::Read(None) } else { Input::Tick };
        bench.at = wake_at(&outputs).min(bench.at + SECOND).min(until);
        outputs = bench.handle(input);
    }
    assert_eq!(bench.at, until);

    // Without such a write there is nothing to wait for.
    let mut bench = Bench::new();
    bench.sees(&held_by("web-1_x"));
    assert!(bench.shuts_down(true).contains(&Output::Done));

    // And while the app is away, a look each interval.
    let (mut bench, taking) = Bench::takes();
    bench.answers(&taking, Outcome::Unknown);
    let outputs = bench.handle(Input::AppGone { proved: false, why: "it fails".into() });
    assert_eq!(wake_at(&outputs), bench.at + 3 * SECOND);
}

#[test]
fn an_own_release_that_the_watch_told_first_leaves_nothing_to_look_for() {
    let mut bench = Bench::new();
    let record = bench.leads();
    bench.handle(Input::StepDown { to: None });
    let version = bench.election.status().version;
    let outputs = bench.handle(withdrawn(version, bench.at));
    let release = written(&outputs).expect("a release");
    let spec = release.spec.clone();
    let landed = Record { version: record.version + 1, released: spec.renew_time, spec, ..record };
    bench.sees(&landed);
    bench.answers(&release, Outcome::Committed(Box::new(landed)));
    assert!(bench.shuts_down(true).contains(&Output::Done));
}

#[test]
fn a_taking_write_that_lands_while_the_process_ends_is_released_first() {
    let (mut bench, taking) = Bench::takes();
    bench.shuts_down(true);
    let (_, outputs) = bench.commits(&taking, &released());
    assert!(!outputs.contains(&Output::Done), "{outputs:?}");
    assert_eq!(written(&outputs).map(|write| write.kind), Some(Kind::Release));
}

#[test]
fn a_renewal_that_lands_after_the_term_moves_when_others_may_take() {
    let (mut bench, record, write) = Bench::renews();
    let sent = bench.at;
    bench.at = bench.at + SECOND;
    let leave_at = bench.at;
    bench.handle(Input::Shutdown(Shutdown { app_ended: false, leave_at, end_by: bench.at + 600 * SECOND }));
    let (_, mut outputs) = bench.commits(&write, &record);
    // It ends unreleased only when others may take: nothing is withdrawn, and no answer comes any more.
    while !outputs.contains(&Output::Done) {
        bench.at = wake_at(&outputs);
        outputs = bench.handle(Input::Tick);
    }
    assert_eq!(bench.at, sent + Config::default().hold_time());
}

// --- Which right, which word ---

#[test]
fn a_shutdown_after_the_apps_end_and_one_whose_time_is_near_end_the_term_at_once() {
    for (app_ended, waits) in [(true, 20), (false, 0)] {
        let mut bench = Bench::new();
        bench.leads();
        let leave_at = bench.at + waits * SECOND;
        bench.handle(Input::Shutdown(Shutdown { app_ended, leave_at, end_by: bench.at + 60 * SECOND }));
        assert_eq!(bench.election.status().leading, None);
    }
}

#[test]
fn an_acknowledgement_is_worth_what_its_token_is() {
    let mut bench = Bench::new();
    let record = bench.leads();
    let token = record.token.value().expect("a token");
    let worth = |bench: &Bench| [bench.election.acknowledgement(token), bench.election.acknowledgement(token + 1)];
    assert_eq!(worth(&bench), [Acknowledgement::StillLeading, Acknowledgement::WrongToken]);
    bench.handle(Input::StepDown { to: None });
    assert_eq!(worth(&bench), [Acknowledgement::Accepted, Acknowledgement::WrongToken]);
    let version = bench.election.status().version;
    let release = written(&bench.handle(withdrawn(version, bench.at))).expect("a release");
    bench.commits(&release, &record);
    assert_eq!(worth(&bench), [Acknowledgement::Accepted, Acknowledgement::WrongToken]);
    assert_eq!(Bench::new().election.acknowledgement(token), Acknowledgement::WrongToken);
}

#[test]
fn an_acknowledgement_after_the_word_of_an_earlier_status_counts_for_nothing() {
    let mut bench = Bench::new();
    let record = bench.leads();
    let led = bench.election.status().version;
    bench.handle(Input::StepDown { to: None });
    let outputs = bench.handle(withdrawn(led, bench.at));
    assert_eq!(written(&outputs), None, "that was the yes");
    bench.handle(withdrawn(led, bench.at + SECOND));
    bench.handle(Input::AppStopped { token: record.token.value().expect("a token") });
    let version = bench.election.status().version;
    assert_eq!(written(&bench.handle(withdrawn(version, bench.at + SECOND))), None);
}

#[test]
fn who_creates_the_lease_waits_for_its_notice_and_the_object_is_unheld() {
    let mut bench = Bench::new();
    bench.handle(Input::Observed { record: None, version: 7, via: Via::Event });
    let creation = bench.until_write();
    assert_eq!((creation.kind, &creation.base), (Kind::Create, &None));
    let spec = &creation.spec;
    assert_eq!((&spec.holder, spec.duration_seconds, spec.transitions), (&None, Some(1), 0));
    assert!(spec.renew_time.is_some());
    let empty = Record { version: 7, token: Token::Absent, released: None, ..released() };
    let (_, outputs) = bench.commits(&creation, &empty);
    assert_eq!(bench.election.status().reason, Reason::Creating);
    let wait = Config::default().answer_ttl + DELETION_NOTICE;
    let at = wake_at(&outputs);
    assert!(at >= bench.at + wait && at < bench.at + wait + SECOND, "{:?}", at.since(bench.at));
}

#[test]
fn who_trusts_an_unheld_lease_takes_it_without_a_proof_and_a_held_one_not() {
    let unheld = Record { released: None, ..released() };
    for (trust_unheld, record, waits) in
        [(false, &unheld, true), (true, &unheld, false), (true, &held_by("web-1_x"), true)]
    {
        let mut bench = Bench::with(Config { trust_unheld, ..Config::default() });
        let at = wake_at(&bench.sees(record));
        assert_eq!(at > bench.at + 5 * SECOND, waits, "{trust_unheld} {record:?}");
    }
}

#[test]
fn an_edit_of_the_ended_terms_record_takes_nothing_from_its_release_and_an_older_one_does() {
    type Edit = fn(&mut Record);
    let edits: [(Edit, bool); 3] = [
        (|_| {}, true),
        (|record| record.spec.duration_seconds = Some(99), true),
        (|record| record.spec.transitions = 1, false),
    ];
    for (edit, is_the_terms) in edits {
        let mut bench = Bench::new();
        let record = bench.leads();
        bench.handle(Input::StepDown { to: Some("next".into()) });
        let mut edited = Record { version: record.version + 1, ..record };
        edit(&mut edited);
        bench.sees(&edited);
        let version = bench.election.status().version;
        let release = written(&bench.handle(withdrawn(version, bench.at)));
        assert_eq!(release.is_some(), is_the_terms);
        if let Some(release) = release {
            assert_eq!(release.base.map(|base| base.version), Some(edited.version));
            assert_eq!(release.step_down.and_then(|request| request.to).as_deref(), Some("next"));
        }
    }
}

#[test]
fn a_restarted_sidecar_takes_over_what_its_pod_holds_and_no_other() {
    let mut former = Bench::new();
    former.sees(&released());
    let taking = former.until_write();
    let remembered = former.election.seen().clone();
    let (record, _) = former.commits(&taking, &released());
    for (holder, at_once) in [("me_1", true), ("me_2", false)] {
        let mut bench = Bench::new();
        let config = Config { identity: "me_9".into(), ..Config::default() };
        let floor = Moment::BOOT;
        bench.election = Election::new(config, Some(remembered.clone()), 1).succeed(vec![holder.into()], floor);
        let outputs = bench.sees(&record);
        let write = written(&outputs);
        assert_eq!(write.is_some(), at_once, "{outputs:?}");
        assert!(write.is_none_or(|write| write.spec.transitions == record.spec.transitions + 1));
    }
}

#[test]
fn an_attempt_on_an_older_version_is_over_and_a_creation_as_soon_as_there_is_a_lease() {
    let ends = |bench: &mut Bench| bench.shuts_down(true).contains(&Output::Done);
    let (mut bench, taking) = Bench::takes();
    bench.answers(&taking, Outcome::Unknown);
    bench.sees(&Record { version: 101, ..released() });
    assert!(ends(&mut bench), "it was on version 100");

    let absent = |version| Input::Observed { record: None, version, via: Via::Event };
    for (then, over) in [(absent(9), false), (absent(7), false)] {
        let mut bench = Bench::new();
        bench.handle(absent(7));
        let creation = bench.until_write();
        bench.answers(&creation, Outcome::Unknown);
        bench.handle(then);
        assert_eq!(ends(&mut bench), over, "it may still be made");
    }
    let mut bench = Bench::new();
    bench.handle(absent(7));
    let creation = bench.until_write();
    bench.answers(&creation, Outcome::Unknown);
    bench.sees(&Record { version: 9, ..held_by("web-1_x") });
    assert!(ends(&mut bench), "somebody else made it");
}

#[test]
fn what_looks_like_an_attempt_after_a_newer_version_was_put_back_by_somebody() {
    let (mut bench, taking) = Bench::takes();
    let spec = taking.spec.clone();
    bench.sees(&Record { version: 101, ..held_by("web-1_x") });
    bench.sees(&Record { version: 102, token: Token::Value(101), spec, ..held_by("me_1") });
    assert_eq!(bench.election.status().leading, None);
}

#[test]
fn a_label_does_not_hasten_the_renewal() {
    let mut bench = Bench::new();
    let record = bench.leads();
    let due = bench.at + 3 * SECOND;
    bench.at = bench.at + SECOND;
    let outputs = bench.sees(&Record { version: record.version + 1, ..record });
    assert_eq!((written(&outputs), wake_at(&outputs)), (None, due));
}

#[test]
fn a_creation_may_land_although_a_newer_absence_was_seen_before_its_answer() {
    let mut bench = Bench::new();
    bench.handle(Input::Observed { record: None, version: 7, via: Via::Event });
    let creation = bench.until_write();
    bench.handle(Input::Observed { record: None, version: 9, via: Via::Event });
    bench.answers(&creation, Outcome::Unknown);
    assert!(!bench.shuts_down(true).contains(&Output::Done));
}

#[test]
fn an_own_record_that_shows_up_edited_while_the_process_ends_is_released_first() {
    let (mut bench, taking) = Bench::takes();
    bench.answers(&taking, Outcome::Unknown);
    bench.shuts_down(true);
    let spec = Spec { duration_seconds: Some(99), ..taking.spec };
    let outputs = bench.sees(&Record { version: 101, token: Token::Value(101), spec, ..held_by("me_1") });
    assert!(!outputs.contains(&Output::Done), "{outputs:?}");
    assert_eq!(bench.election.status().reason, Reason::Edited);
}

#[test]
fn who_may_not_lead_is_not_woken_for_a_free_lease() {
    let mut bench = Bench::new();
    bench.handle(Input::AppGone { proved: false, why: "it fails".into() });
    // Nor is anything read, but when two bookmarks did not come.
    assert_eq!(wake_at(&bench.sees(&released())), bench.at + 120 * SECOND);
    // Once it may lead, a silence of two intervals is too long again.
    bench.handle(Input::AppAlive);
    bench.sees(&Record { version: 101, ..held_by("other_1") });
    assert_eq!(wake_at(&bench.handle(Input::Heard)), bench.at + millis(7500));
}

#[test]
fn a_holder_that_cannot_watch_reads_often_enough_to_hear_of_a_deletion() {
    let watch_fails = || Input::WatchFailed { advice: "the watch broke".into() };
    let reads = |outputs: &[Output]| {
        outputs.iter().any(|output| match output {
            Output::Read { fresh, .. } => {
                assert!(!fresh, "nothing speaks against the connection");
                true
            }
            _ => false,
        })
    };
    let mut bench = Bench::new();
    let record = bench.leads();
    bench.at = bench.at + millis(500);
    assert!(reads(&bench.handle(watch_fails())), "at once: the watch was last heard half a second ago");
    let answer = Input::Read(Some((Some(record.clone()), record.version)));
    assert_eq!(wake_at(&bench.handle(answer)), bench.at + millis(100));
    assert!(reads(&bench.at(bench.at + millis(100))));
    // Where reading fails as well it is not tried more often than anything else.
    assert_eq!(wake_at(&bench.handle(Input::Read(None))), bench.at + SECOND);
    assert!(reads(&bench.at(bench.at + SECOND)));
    let answer = Input::Read(Some((None, record.version + 1)));
    bench.handle(answer);
    assert_eq!(bench.election.status().reason, Reason::Deleted);
    // A challenger has time.
    let mut bench = Bench::new();
    bench.sees(&held_by("other_1"));
    assert!(!reads(&bench.at(bench.at + millis(500))));
    assert_eq!(wake_at(&bench.handle(watch_fails())), bench.at + millis(2500));
}

#[test]
fn a_yes_that_changed_nothing_is_no_answer_and_no_reason_to_hurry() {
    let (mut bench, taking) = Bench::takes();
    let base = taking.base.clone().expect("there is a Lease").version;
    let unchanged = Record { version: base, ..released() };
    let outputs = bench.answers(&taking, Outcome::Committed(Box::new(unchanged.clone())));
    assert_eq!(written(&outputs), None);
    assert_eq!(wake_at(&outputs), bench.at + millis(1500));
    let mut bench = Bench::new();
    let record = bench.leads();
    let renewal = bench.until_write();
    let outputs = bench.answers(&renewal, Outcome::Committed(Box::new(record)));
    assert_eq!(written(&outputs), None);
    assert!(wake_at(&outputs) >= bench.at + SECOND);
}

/// How long a candidate waits with a free record, having seen these.
fn delay_after(seen: impl Iterator<Item = Record>) -> Duration {
    let mut bench = Bench::new();
    let grown = |mut record: Record, n: u64| {
        (record.version, record.token, record.spec.transitions) = (100 + n, Token::Value(50 + n), 4 + n as i32);
        record
    };
    for (n, record) in (0..).zip(seen) {
        bench.sees(&grown(record, n));
    }
    let outputs = bench.sees(&grown(released(), 100));
    wake_at(&outputs).since(bench.at)
}

#[test]
fn who_sees_others_take_over_without_a_collision_waits_for_less() {
    // At most 12 ms at first, a fifth less after each.
    let (few, once, many) = (millis(4), Duration::from_micros(9600), 12);
    let renewed = |holder: &str, n: i64| {
        let mut record = held_by(holder);
        record.spec.renew_time = Timestamp::from_second(1_500_000_000 + n).ok();
        record
    };
    let alone = delay_after(std::iter::empty());
    assert!(alone > once, "{alone:?}");
    let turns = delay_after((0..many).map(|n| renewed(&format!("web-{}_x", n % 2), n)));
    assert!(turns <= few, "{turns:?}");
    // One take-over, and renewals.
    let renewals = delay_after((0..many).map(|n| renewed("web-1_x", n)));
    assert!(renewals > few && renewals <= once, "{renewals:?}");
    // This pod's own are none.
    let own = delay_after((0..many).map(|n| renewed("me_1", n)));
    assert!(own > once, "{own:?}");
}
