//! When a run of CMD must end: pure decisions on what the report file said and on the clock.
//!
//! A run belongs to one term, by its fencing token. Until the file says otherwise it may last until `stop_by` of the
//! last yes, less [`MARGIN`] for the killing and the term grace before that. A no, or another token, ends it at once:
//! SIGTERM, and SIGKILL when the term grace is over. Where somebody else has changed the Lease nothing keeps others
//! from taking it until `stop_by`; what was promised then ends with the last yes.

use std::time::Duration;

use crate::election::Reason;
use crate::report::file::{RAN_OUT, ReadError, Verdict, Yes};
use crate::time::Moment;

/// Everything is killed this long before `stop_by`: the kernel takes its time on a busy machine.
pub const MARGIN: Duration = Duration::from_millis(250);

/// A moment in a report is rounded down to the hundredth.
const ROUNDING: Duration = Duration::from_millis(10);

/// The reasons of a no after which the Lease still names this pod: others wait for a release, and that for us, or
/// until `stop_by`. After any other, a word of a later version too, somebody else has changed the Lease.
const STILL_OURS: [Reason; 5] =
    [Reason::Starting, Reason::RenewDeadline, Reason::SteppedDown, Reason::AppNotAlive, Reason::ShuttingDown];

/// What is to be done about a run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    Terminate,
    Kill,
}

/// One run of CMD, and how long it may last.
#[derive(Debug)]
pub struct Run {
    /// The last yes under which it runs.
    yes: Yes,
    grace: Duration,
    ending: Option<Ending>,
}

#[derive(Debug)]
struct Ending {
    since: Moment,
    foreign: bool,
    why: String,
}

impl Run {
    pub fn new(yes: Yes, grace: Duration) -> Self {
        Run { yes, grace, ending: None }
    }

    /// What the report file says at `now`. That it could not be read or is old says nothing: the clock goes on.
    pub fn hear(&mut self, now: Moment, said: &Result<Verdict, ReadError>) {
        match said {
            Ok(Verdict::Leader(yes)) if yes.token == self.yes.token && yes.lease == self.yes.lease => {
                self.yes = yes.clone();
            }
            Ok(Verdict::Leader(yes)) => {
                self.end(now, false, format!("this pod leads {} under a new token, {}", yes.lease, yes.token));
            }
            Ok(Verdict::NotLeader { reason }) if reason == RAN_OUT => {}
            Ok(Verdict::NotLeader { reason }) => {
                let ours = STILL_OURS.iter().any(|still_ours| still_ours.as_str() == reason);
                self.end(now, !ours, format!("this pod does not lead any more ({reason})"));
            }
            Err(_) => {}
        }
        if now >= last_start(&self.yes, self.grace) {
            self.end(now, false, "the sidecar's report was not renewed in time".into());
        }
    }

    /// CMD itself has ended; what it left behind follows it.
    pub fn abandoned(&mut self, now: Moment) {
        self.end(now, false, "it left processes behind".into());
    }

    fn end(&mut self, now: Moment, foreign: bool, why: String) {
        let ending = self.ending.get_or_insert(Ending { since: now, foreign, why });
        ending.foreign |= foreign;
    }

    /// Why it ends, if it does.
    pub fn ends(&self) -> Option<&str> {
        self.ending.as_ref().map(|ending| ending.why.as_str())
    }

    pub fn due(&self, now: Moment) -> Due {
        match &self.ending {
            _ if now >= self.kill_at() => Due::Kill,
            Some(_) => Due::Terminate,
            None => Due::Nothing,
        }
    }

    /// When something else is due than now, if the file says nothing new.
    pub fn next(&self) -> Moment {
        if self.ending.is_some() { self.kill_at() } else { last_start(&self.yes, self.grace) }
    }

    fn kill_at(&self) -> Moment {
        let last = self.yes.stop_by - MARGIN;
        match &self.ending {
            None => last,
            Some(ending) if ending.foreign => last.min(ending.since + self.grace).min(self.yes.until),
            Some(ending) => last.min(ending.since + self.grace),
        }
    }
}

/// From then on a run under this yes would be told to end at once.
pub fn last_start(yes: &Yes, grace: Duration) -> Moment {
    yes.stop_by - MARGIN - grace
}

/// A sidecar promises nothing after its renew deadline, and `until` is not after that: where SIGTERM would be due even
/// before `until`, the term grace is longer than the time between renew deadline and `stop_by`. Gives what would fit.
pub fn too_long(yes: &Yes, grace: Duration) -> Option<Duration> {
    let fits = (yes.stop_by - MARGIN).since(yes.until);
    (grace > fits + ROUNDING).then_some(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_nanos(1_000_000_000_000);
    const GRACE: Duration = Duration::from_secs(1);
    const TTL: Duration = Duration::from_secs(1);

    fn ms(after_start: u64) -> Moment {
        START + Duration::from_millis(after_start)
    }

    /// Renewed at the moment that is named, with the default times: renew deadline 12 s, stop_by 14.97 s.
    fn yes(token: u64, renewed: u64, told: u64) -> Yes {
        let until = ms(told) + TTL;
        Yes { lease: "web".into(), token, until: until.min(ms(renewed + 12_000)), stop_by: ms(renewed + 14_970) }
    }

    fn run() -> Run {
        Run::new(yes(7, 0, 0), GRACE)
    }

    fn no(reason: &str) -> Result<Verdict, ReadError> {
        Ok(Verdict::NotLeader { reason: reason.into() })
    }

    #[test]
    fn a_run_goes_on_while_its_yes_is_renewed_and_no_longer() {
        let mut run = run();
        for told in (0..60_000).step_by(250) {
            run.hear(ms(told), &Ok(Verdict::Leader(yes(7, told / 3000 * 3000, told))));
            assert_eq!(run.due(ms(told)), Due::Nothing, "{told}");
        }
        // The last renewal was at 57 s; 14.97 - 0.25 - 1 = 13.72 s after it comes SIGTERM, a grace later SIGKILL.
        assert_eq!(run.next(), ms(57_000 + 13_720));
        for (now, due) in [(70_719, Due::Nothing), (70_720, Due::Terminate), (71_719, Due::Terminate)] {
            run.hear(ms(now), &no(RAN_OUT));
            assert_eq!(run.due(ms(now)), due, "{now}");
        }
        assert_eq!(run.next(), ms(57_000 + 14_720));
        assert_eq!(run.due(ms(57_000 + 14_720)), Due::Kill);
    }

    #[test]
    fn a_file_that_says_nothing_changes_nothing() {
        let unreadable = || ReadError::Incomplete { path: "x".into() };
        for said in [no(RAN_OUT), Err(unreadable())] {
            let mut run = run();
            run.hear(ms(5_000), &said);
            assert_eq!(run.due(ms(5_000)), Due::Nothing);
            run.hear(ms(5_001), &Ok(Verdict::Leader(yes(7, 5_000, 5_000))));
            assert_eq!(run.next(), ms(5_000 + 13_720));
        }
    }

    #[test]
    fn a_no_is_followed_by_sigterm_at_once_and_by_sigkill_after_the_grace() {
        for reason in ["renew_deadline", "stepped_down", "app_not_alive", "shutting_down", "starting"] {
            let mut run = run();
            run.hear(ms(100), &no(reason));
            assert_eq!(run.due(ms(100)), Due::Terminate, "{reason}");
            assert_eq!(run.due(ms(1_099)), Due::Terminate, "{reason}");
            assert_eq!(run.due(ms(1_100)), Due::Kill, "{reason}");
            assert!(run.ends().is_some_and(|why| why.contains(reason)));
        }
    }

    #[test]
    fn a_no_shortly_before_stop_by_leaves_less_than_the_grace() {
        let mut run = run();
        run.hear(ms(13_000), &Ok(Verdict::Leader(yes(7, 0, 10_990))));
        run.hear(ms(13_700), &no("renew_deadline"));
        assert_eq!(run.next(), ms(14_700));
        let mut late = self::run();
        late.hear(ms(14_500), &no("renew_deadline"));
        assert_eq!((late.due(ms(14_500)), late.next()), (Due::Terminate, ms(14_720)));
        let mut paused = self::run();
        paused.hear(ms(14_720), &no("renew_deadline"));
        assert_eq!(paused.due(ms(14_720)), Due::Kill);
    }

    #[test]
    fn after_a_foreign_change_nothing_runs_longer_than_was_promised() {
        for reason in ["lost", "edited", "deleted", "held_by_other", "waiting_unproved", "a word of tomorrow"] {
            let mut run = run();
            run.hear(ms(500), &Ok(Verdict::Leader(yes(7, 0, 500))));
            run.hear(ms(600), &no(reason));
            assert_eq!(run.due(ms(600)), Due::Terminate, "{reason}");
            assert_eq!(run.due(ms(1_499)), Due::Terminate, "{reason}");
            assert_eq!(run.due(ms(1_500)), Due::Kill, "{reason}");
        }
        let mut quick = Run::new(yes(7, 0, 0), Duration::from_millis(100));
        quick.hear(ms(10), &no("lost"));
        assert_eq!(quick.next(), ms(110), "a shorter grace counts");
        let mut late = run();
        late.hear(ms(3_000), &no("lost"));
        assert_eq!(late.due(ms(3_000)), Due::Kill, "the promise is over, and nothing else protects");
    }

    #[test]
    fn a_foreign_change_that_is_noticed_after_another_end_shortens_the_grace() {
        let mut run = Run::new(yes(7, 0, 0), Duration::from_secs(2));
        run.hear(ms(100), &no("renew_deadline"));
        assert_eq!(run.next(), ms(2_100));
        run.hear(ms(200), &no("held_by_other"));
        assert_eq!(run.next(), ms(1_000));
    }

    #[test]
    fn another_token_or_lease_ends_a_run_and_does_not_prolong_it() {
        let mut lease = yes(7, 1_000, 1_000);
        lease.lease = "jobs".into();
        for other in [yes(8, 1_000, 1_000), lease] {
            let mut run = run();
            run.hear(ms(1_000), &Ok(Verdict::Leader(other)));
            assert_eq!((run.due(ms(1_000)), run.next()), (Due::Terminate, ms(2_000)));
            // Also when the old token came back, which it does not.
            run.hear(ms(1_100), &Ok(Verdict::Leader(yes(7, 1_000, 1_100))));
            assert_eq!((run.due(ms(1_100)), run.next()), (Due::Terminate, ms(2_000)));
        }
    }

    #[test]
    fn what_cmd_left_behind_has_the_grace() {
        let mut run = run();
        run.abandoned(ms(100));
        assert_eq!((run.due(ms(100)), run.next()), (Due::Terminate, ms(1_100)));
        let mut late = self::run();
        late.abandoned(ms(14_500));
        assert_eq!(late.next(), ms(14_720));
    }

    #[test]
    fn a_grace_that_cannot_fit_is_told_from_a_term_that_is_near_its_end() {
        let fresh = yes(7, 0, 0);
        assert_eq!(too_long(&fresh, GRACE), None);
        assert_eq!(too_long(&fresh, Duration::from_secs(14)), Some(Duration::from_millis(13_720)));
        // Within the renew deadline's last second the report shows how much there is: 14.97 - 0.25 - 12.
        let last = yes(7, 0, 11_500);
        assert_eq!(too_long(&last, GRACE), None);
        assert_eq!(too_long(&last, Duration::from_millis(2_720)), None);
        assert_eq!(too_long(&last, Duration::from_secs(3)), Some(Duration::from_millis(2_720)));
    }
}
