//! What a reader knows of one Lease by its own boot clock: whether it changes, and when it last did.
//!
//! A Lease says when it was renewed by its holder's wall clock, which may be wrong by years. So a reader does not
//! compare it with its own: it takes every change of renewTime (or of holder or uid) as a sign of life at the moment
//! it saw it, as kubelets', API servers' and electors' own readers do. Until it has seen one it says `observing`.
//! Silence counts once it lasted for the duration that the record claims, and only when a consistent read that was
//! sent after that shows no change: the reader's own watch may be what is silent.
//!
//! A duration that is missing or absurd ([`Record::duration`]) tells nothing about silence: such a Lease is never late
//! and never expires; it is `held` once it was seen to change.

use std::fmt;
use std::time::Duration;

use crate::election::Record;
use crate::time::Moment;

/// What a reader makes of a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nobody holds it, and nothing in it shows that anybody did.
    NeverHeld,
    /// Nobody holds it any more.
    Released,
    /// Its record names a holder, and no sign of life was seen yet.
    Observing,
    /// A change was seen less than half of the duration ago.
    Held,
    /// The newest change was seen longer ago.
    Late,
    /// Nothing changed for the whole duration since the newest change, or since it was first seen.
    Expired,
}

impl State {
    /// The word for people, and with `_` for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            State::NeverHeld => "never held",
            State::Released => "released",
            State::Observing => "observing",
            State::Held => "held",
            State::Late => "late",
            State::Expired => "expired",
        }
    }

    /// Whoever holds it gave a sign of life, and has not been silent for the duration since.
    pub fn is_alive(self) -> bool {
        matches!(self, State::Held | State::Late)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One Lease as one reader saw it change. It keeps no record: who has the newest one says what it was before.
#[derive(Clone, Debug)]
pub struct Sight {
    held: bool,
    /// Somebody held this very object once.
    was_held: bool,
    /// When the newest change was seen; the first sight before there was one.
    since: Moment,
    changed: bool,
    /// The longest duration that made sense in this holder's time.
    duration: Option<Duration>,
    /// It is known to have stood as it is until then.
    unchanged_until: Moment,
}

impl Sight {
    /// The first sight, which says nothing about life: the record may be years old.
    pub fn first(now: Moment, record: &Record) -> Self {
        Sight {
            held: record.holder().is_some(),
            was_held: shows_a_holder(record),
            since: now,
            changed: false,
            duration: record.duration(),
            unchanged_until: now,
        }
    }

    /// The record was `before` and is `next`.
    pub fn observe(&mut self, now: Moment, before: &Record, next: &Record) {
        let same_object = before.uid == next.uid;
        let same_holder = same_object && before.holder() == next.holder();
        self.held = next.holder().is_some();
        self.was_held = (same_object && self.was_held) || shows_a_holder(next);
        self.duration = match same_holder {
            // Who shortens it promises nothing to those who saw the longer one.
            true => self.duration.max(next.duration()),
            false => next.duration(),
        };
        if !same_holder || before.spec.renew_time != next.spec.renew_time {
            (self.since, self.changed, self.unchanged_until) = (now, true, now);
        }
    }

    /// A consistent read that was sent at this moment shows the newest record that was observed.
    pub fn confirm(&mut self, sent_at: Moment) {
        self.unchanged_until = self.unchanged_until.max(sent_at);
    }

    pub fn state(&self, now: Moment) -> State {
        let ended = self.end().is_some_and(|end| self.unchanged_until >= end && now >= end);
        let half_gone = self.half().is_some_and(|half| now >= half);
        match (self.held, self.changed) {
            (false, _) if self.was_held => State::Released,
            (false, _) => State::NeverHeld,
            _ if ended => State::Expired,
            (true, false) => State::Observing,
            (true, true) if half_gone => State::Late,
            (true, true) => State::Held,
        }
    }

    /// How long ago the newest change was seen; `None` while none was.
    pub fn age(&self, now: Moment) -> Option<Duration> {
        self.changed.then(|| now.since(self.since))
    }

    /// The longest duration in this holder's time; `None` while none made sense.
    pub fn duration(&self) -> Option<Duration> {
        self.duration
    }

    /// The duration has passed without a change that was seen: only a consistent read, sent now, can tell whether it
    /// has expired.
    pub fn is_in_doubt(&self, now: Moment) -> bool {
        self.held && self.end().is_some_and(|end| now >= end && self.unchanged_until < end)
    }

    /// When the state changes, or comes into doubt, by time alone. `None`: not before something else happens.
    pub fn next_change(&self, now: Moment) -> Option<Moment> {
        let half = self.half().filter(|half| self.changed && now < *half);
        half.or(self.end().filter(|end| now < *end)).filter(|_| self.held)
    }

    fn half(&self) -> Option<Moment> {
        self.duration.map(|duration| self.since + duration / 2)
    }

    fn end(&self) -> Option<Moment> {
        self.duration.map(|duration| self.since + duration)
    }
}

/// A holder, or what one leaves behind.
fn shows_a_holder(record: &Record) -> bool {
    let spec = &record.spec;
    spec.holder.is_some() || spec.transitions > 0 || spec.acquire_time.is_some() || spec.renew_time.is_some()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{held, record, second};
    use super::*;
    use crate::election::Spec;

    /// A reader of one Lease.
    struct Reader {
        sight: Sight,
        record: Record,
    }

    impl Reader {
        fn new(now: u64, record: Record) -> Self {
            Reader { sight: Sight::first(second(now), &record), record }
        }

        fn sees(&mut self, now: u64, next: Record) -> State {
            self.sight.observe(second(now), &self.record, &next);
            self.record = next;
            self.state(now)
        }

        fn state(&self, now: u64) -> State {
            self.sight.state(second(now))
        }
    }

    #[test]
    fn nothing_is_known_of_a_holder_until_its_record_changes() {
        let mut reader = Reader::new(100, held("a", 1));
        assert_eq!((reader.state(100), reader.state(139)), (State::Observing, State::Observing));
        assert_eq!(reader.sight.age(second(139)), None);
        // The same record again, with another label.
        assert_eq!(reader.sees(110, held("a", 1)), State::Observing);
        assert_eq!(reader.sees(110, held("a", 2)), State::Held);
        assert_eq!(reader.sight.age(second(115)), Some(Duration::from_secs(5)));
    }

    #[test]
    fn wall_clocks_decide_nothing() {
        for renewals in [[1, 2], [4_000_000_000, 4_000_000_010], [50, 7]] {
            let mut reader = Reader::new(100, held("a", renewals[0]));
            assert_eq!(reader.state(100), State::Observing);
            assert_eq!(reader.sees(110, held("a", renewals[1])), State::Held, "{renewals:?}");
        }
    }

    #[test]
    fn a_silent_holder_is_late_after_half_and_expired_after_the_whole_duration_and_a_read() {
        let mut reader = Reader::new(100, held("a", 1));
        reader.sees(110, held("a", 2));
        assert_eq!((reader.state(129), reader.state(130)), (State::Held, State::Late));
        assert!(!reader.sight.is_in_doubt(second(149)));
        // The watch may be what is silent.
        assert_eq!(reader.state(500), State::Late);
        assert!(reader.sight.is_in_doubt(second(150)));
        // A read that was sent too early says nothing about the whole duration.
        reader.sight.confirm(second(149));
        assert!(reader.sight.is_in_doubt(second(151)));
        reader.sight.confirm(second(150));
        assert!(!reader.sight.is_in_doubt(second(151)));
        assert_eq!((reader.state(151), reader.state(9999)), (State::Expired, State::Expired));
        assert_eq!(reader.sees(200, held("a", 3)), State::Held, "it came back");
    }

    #[test]
    fn a_record_that_never_changes_expires_a_duration_after_the_first_sight() {
        let mut reader = Reader::new(100, held("a", 1));
        assert_eq!(reader.state(139), State::Observing);
        reader.sight.confirm(second(140));
        assert_eq!(reader.state(140), State::Expired);
    }

    #[test]
    fn a_new_holder_or_another_object_is_a_change_and_has_its_own_duration() {
        let mut reader = Reader::new(100, held("a", 1));
        let mut next = held("b", 1);
        next.spec.duration_seconds = Some(10);
        assert_eq!(reader.sees(120, next.clone()), State::Held);
        assert_eq!((reader.state(124), reader.state(125)), (State::Held, State::Late));
        let other = Record { uid: "u-2".into(), ..next };
        assert_eq!(reader.sees(130, other), State::Held);
    }

    #[test]
    fn the_longest_duration_of_a_holders_time_counts() {
        let mut reader = Reader::new(100, held("a", 1));
        for (now, seconds) in [(110, Some(10)), (111, None), (112, Some(-5)), (113, Some(i32::MAX))] {
            let mut next = held("a", now);
            next.spec.duration_seconds = seconds;
            reader.sees(now as u64, next);
        }
        assert_eq!(reader.sight.duration(), Some(Duration::from_secs(40)));
        assert_eq!((reader.state(132), reader.state(133)), (State::Held, State::Late));
    }

    #[test]
    fn without_a_duration_that_makes_sense_silence_says_nothing() {
        for seconds in [None, Some(0), Some(86_401)] {
            let timeless = |renewal| {
                let mut record = held("a", renewal);
                record.spec.duration_seconds = seconds;
                record
            };
            let mut reader = Reader::new(0, timeless(1));
            reader.sight.confirm(second(1_000_000));
            assert_eq!(reader.state(1_000_000), State::Observing);
            assert_eq!(reader.sees(1_000_000, timeless(2)), State::Held);
            reader.sight.confirm(second(2_000_000));
            assert_eq!(reader.state(2_000_000), State::Held);
            assert!(!reader.sight.is_in_doubt(second(2_000_000)));
            assert_eq!(reader.sight.next_change(second(2_000_000)), None);
        }
    }

    #[test]
    fn who_holds_nothing_has_released_it_or_nobody_ever_held_it() {
        let mut reader = Reader::new(100, record(Spec::default()));
        assert_eq!(reader.state(9999), State::NeverHeld);
        assert_eq!(reader.sees(101, held("a", 1)), State::Held);
        // A manifest that is applied again wipes all traces, but this reader saw it.
        assert_eq!(reader.sees(102, record(Spec::default())), State::Released);
        assert_eq!(reader.sight.next_change(second(102)), None);
        let new = Record { uid: "u-2".into(), ..record(Spec::default()) };
        assert_eq!(reader.sees(103, new), State::NeverHeld);

        let traces: [fn(&mut Spec); 3] = [
            |spec| spec.transitions = 1,
            |spec| spec.acquire_time = Some(jiff::Timestamp::UNIX_EPOCH),
            |spec| spec.renew_time = Some(jiff::Timestamp::UNIX_EPOCH),
        ];
        for trace in traces {
            let mut spec = Spec::default();
            trace(&mut spec);
            assert_eq!(Reader::new(0, record(spec.clone())).state(0), State::Released, "{spec:?}");
        }
    }

    #[test]
    fn each_state_has_its_word_and_two_of_them_are_alive() {
        let states = [State::NeverHeld, State::Released, State::Observing, State::Held, State::Late, State::Expired];
        let words = ["never held", "released", "observing", "held", "late", "expired"];
        assert_eq!(states.map(|state| state.to_string()), words);
        assert_eq!(states.map(State::is_alive), [false, false, false, true, true, false]);
        assert_eq!(format!("{:>6}", State::Held), "  held");
    }

    #[test]
    fn it_says_when_to_look_again() {
        let mut reader = Reader::new(100, held("a", 1));
        assert_eq!(reader.sight.next_change(second(100)), Some(second(140)));
        reader.sees(110, held("a", 2));
        assert_eq!(reader.sight.next_change(second(110)), Some(second(130)));
        assert_eq!(reader.sight.next_change(second(130)), Some(second(150)));
        assert_eq!(reader.sight.next_change(second(150)), None);
    }
}
