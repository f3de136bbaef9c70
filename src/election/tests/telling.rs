//! What an election tells of itself.

use super::*;

#[test]
fn who_waits_for_a_holder_says_until_when_and_takes_at_that_moment() {
    let mut bench = Bench::with(Config { lease_duration: 20 * SECOND, ..Config::default() });
    bench.sees(&held_by("web-1_x"));
    let free_at = bench.at + bench.election.config().lease_duration;
    assert_eq!(free_at, bench.at + 20 * SECOND);
    let status = bench.election.status();
    assert_eq!((status.reason, status.expires_at), (Reason::HeldByOther, Some(free_at)));
    assert_eq!((status.holder_pod(), status.message.as_str()), (Some("web-1"), "web-1 holds the lease"));
    bench.at = free_at;
    bench.handle(Input::Tick);
    assert_eq!(bench.election.status().reason, Reason::Acquiring);
}

#[test]
fn who_waits_for_an_unproved_end_says_so_until_the_moment_at_which_it_is_over() {
    let duration = Config::default().lease_duration;
    let unheld = Record { released: None, ..released() };
    for (seen, then) in [(Some(unheld), Reason::Acquiring), (None, Reason::Creating)] {
        let mut bench = Bench::new();
        bench.sees(&held_by("web-1_x"));
        let deleted = Input::Observed { record: None, version: 102, via: Via::Event };
        let unheld = seen.map(|record| Record { version: 101, ..record });
        bench.handle(unheld.map_or(deleted, |record| Input::Observed {
            record: Some(record),
            version: 101,
            via: Via::Event,
        }));
        assert_eq!(
            (bench.election.status().reason, bench.election.status().expires_at),
            (Reason::WaitingUnproved, None)
        );
        bench.at = bench.at + duration - Duration::from_nanos(1);
        bench.handle(Input::Tick);
        assert_eq!(bench.election.status().reason, Reason::WaitingUnproved);
        bench.at = bench.at + Duration::from_nanos(1);
        bench.handle(Input::Tick);
        assert_eq!(bench.election.status().reason, then);
    }
}

#[test]
fn a_leader_says_when_it_has_to_stop_and_a_yes_ends_with_its_moment() {
    let mut bench = Bench::new();
    bench.leads();
    let status = bench.election.status();
    let leading = status.leading.expect("it leads");
    assert_eq!((status.expires_at, status.reason), (Some(leading.stop_by), Reason::Leading));
    assert!(status.leading_at(leading.valid_until - Duration::from_nanos(1)).is_some());
    assert!(status.leading_at(leading.valid_until).is_none());
}

#[test]
fn each_reason_has_its_word() {
    for reason in Reason::ALL {
        let mut word = String::new();
        for letter in format!("{reason:?}").chars() {
            if letter.is_ascii_uppercase() && !word.is_empty() {
                word.push('_');
            }
            word.push(letter.to_ascii_lowercase());
        }
        assert_eq!((reason.as_str(), reason.to_string()), (word.as_str(), word.clone()));
    }
}

#[test]
fn the_end_of_a_term_is_told_with_its_cause() {
    type End = fn(&mut Bench, &Record);
    let ends: [(End, Reason, &str); 6] = [
        (|bench, _| drop(bench.handle(Input::StepDown { to: None })), Reason::SteppedDown, "steps down on request"),
        (|bench, _| drop(bench.shuts_down(true)), Reason::ShuttingDown, "this sidecar is ending"),
        (
            |bench, _| drop(bench.handle(Input::AppGone { proved: true, why: "exit 1".into() })),
            Reason::AppNotAlive,
            "the app is not alive: exit 1",
        ),
        (
            |bench, record| {
                bench.at = bench.election.status().leading.expect("it leads").valid_until;
                drop(bench.sees(&Record { version: record.version, ..record.clone() }));
            },
            Reason::RenewDeadline,
            "no renewal succeeded",
        ),
        (
            |bench, record| drop(bench.sees(&Record { version: record.version + 1, ..held_by("web-1_x") })),
            Reason::Lost,
            "another holder appeared",
        ),
        (
            |bench, record| {
                let version = record.version + 1;
                drop(bench.handle(Input::Observed { record: None, version, via: Via::Event }));
            },
            Reason::Deleted,
            "the Lease was deleted",
        ),
    ];
    for (end, reason, says) in ends {
        let mut bench = Bench::new();
        let record = bench.leads();
        end(&mut bench, &record);
        let status = bench.election.status();
        assert_eq!(status.reason, reason, "{status:?}");
        assert!(status.message.contains(says), "{}", status.message);
    }
    let mut bench = Bench::new();
    let record = bench.leads();
    let mut edited = Record { version: record.version + 1, ..record };
    edited.spec.duration_seconds = Some(99);
    bench.sees(&edited);
    assert!(bench.election.status().message.contains("somebody edited the lease"), "{:?}", bench.election.status());
}

#[test]
fn a_token_that_cannot_be_used_is_told_with_what_to_do() {
    let mut bench = Bench::new();
    bench.sees(&Record { token: Token::Unreadable, ..released() });
    let status = bench.election.status();
    assert_eq!(status.reason, Reason::TokenUnusable);
    assert!(status.message.contains("leasehold.dev/token"), "{}", status.message);
}

#[test]
fn a_holder_of_eighty_characters_is_told_whole() {
    for (length, whole) in [(79, true), (80, true), (81, false)] {
        let holder = "é".repeat(length);
        let mut bench = Bench::new();
        bench.sees(&held_by(&holder));
        let message = &bench.election.status().message;
        assert_eq!(message == &format!("{holder} holds the lease"), whole, "{message}");
        assert_eq!(message.contains('…'), !whole);
    }
}
