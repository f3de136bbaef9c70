//! This pod's own member Lease: made at the start, renewed, deleted at the end.
//!
//! No I/O, no clock reads: [`Member::handle`] takes the time and what happened, and says what is to be done. Nobody
//! leads by this Lease and nothing is promised by it, so it is kept with few requests: one write a renew interval,
//! and a read only where a write did not say what the Lease is now.
//!
//! Somebody else may hold it: an earlier pod of this name, or by mistake another one under the same identity. It is
//! taken when it has not changed for its duration, by this pod's own clock, and is left alone while it changes.

use std::time::Duration;

use jiff::Timestamp;

use crate::election::{Base, Outcome, Record, Spec};
use crate::time::{Moment, Now};

/// Of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// What changes again and again is written once in so long.
const SOON: Duration = Duration::from_secs(1);
/// There is not much time then.
const PAUSE_AT_THE_END: Duration = Duration::from_millis(100);

/// How a member's Lease is kept.
#[derive(Clone, Debug)]
pub struct OwnConfig {
    /// `<pod>_<random>`.
    pub identity: String,
    pub duration: Duration,
    pub renew_interval: Duration,
    /// In 0..1, this process's own: pods that start together do not renew together.
    pub spread: f64,
}

impl OwnConfig {
    /// Everything wrong with the times, a sentence each.
    pub fn faults(duration: Duration, renew_interval: Duration) -> Vec<String> {
        let mut faults = Vec::new();
        if duration.subsec_nanos() != 0 || duration < Duration::from_secs(3) {
            faults.push(format!(
                "the member lease duration ({duration:?}) must be whole seconds, and 3 at least: a Lease holds no fractions"
            ));
        }
        if duration > crate::election::LONGEST_LEASE {
            faults.push(format!("the member lease duration ({duration:?}) must be 24 hours at most"));
        }
        if renew_interval < Duration::from_secs(1) || renew_interval * 2 > duration {
            faults.push(format!(
                "the member renew interval ({renew_interval:?}) must be 1 s at least and half of the member lease duration ({duration:?}) at most: one renewal may be lost"
            ));
        }
        faults
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum OwnInput {
    /// The answer to [`OwnOutput::Read`]; `None` when it failed, which decides nothing.
    Read(Option<Option<Box<Record>>>),
    Wrote(Outcome),
    /// The answer to a write that deletes: it is gone.
    Deleted,
    Tick,
    /// What the Lease says beside its spec is to be written soon.
    Changed,
    /// Delete the Lease and end, by then at the latest.
    Leave {
        end_by: Moment,
    },
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnOutput {
    Publish(Standing),
    Read { timeout: Duration },
    Write(OwnWrite),
    WakeAt(Moment),
    Done,
}

/// One write. Label, annotations and owner are written with each, so that an edit of them does not last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnWrite {
    /// What is replaced or deleted, by a compare-and-swap; `None` creates.
    pub base: Option<Base>,
    /// `None` deletes.
    pub spec: Option<Spec>,
    pub timeout: Duration,
}

/// Whether this pod is a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was written yet, or nothing that lasted.
    Joining,
    Member {
        renewed_at: Moment,
    },
    /// Somebody else renews the Lease under another identity.
    Contested {
        holder: String,
    },
    Left,
}

impl Standing {
    pub fn as_str(&self) -> &'static str {
        match self {
            Standing::Joining => "joining",
            Standing::Member { .. } => "member",
            Standing::Contested { .. } => "contested",
            Standing::Left => "left",
        }
    }

    /// The same but for the moment of the newest renewal.
    pub fn is_like(&self, other: &Standing) -> bool {
        self.as_str() == other.as_str() && self.contested_by() == other.contested_by()
    }

    pub fn renewed_at(&self) -> Option<Moment> {
        match self {
            Standing::Member { renewed_at } => Some(*renewed_at),
            _ => None,
        }
    }

    pub fn contested_by(&self) -> Option<&str> {
        match self {
            Standing::Contested { holder } => Some(holder),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Read,
    Write { sent_at: Moment },
}

/// What the Lease is, as far as it is known.
#[derive(Clone, Debug)]
enum Known {
    Nothing,
    Absent,
    Record(Box<Record>),
}

/// Who holds the Lease instead, and since when that has not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Other {
    uid: String,
    holder: String,
    renew_time: Option<Timestamp>,
    since: Moment,
    /// The largest that it had under this holder.
    duration: Duration,
    /// It was seen to change: somebody is there.
    renews: bool,
}

pub struct Member {
    config: OwnConfig,
    /// Identities of this pod's earlier sidecars, which are known to be dead.
    former: Vec<String>,
    known: Known,
    other: Option<Other>,
    asked: Option<Asked>,
    /// Nothing is sent before it.
    send_at: Moment,
    pause: Duration,
    first: bool,
    /// What it says beside its spec is not what the newest write said.
    changed: bool,
    end_by: Option<Moment>,
    last_renew_time: Option<Timestamp>,
    standing: Standing,
    published: Option<Standing>,
    done: bool,
}

impl Member {
    pub fn new(config: OwnConfig, former: Vec<String>) -> Self {
        Member {
            config,
            former,
            known: Known::Nothing,
            other: None,
            asked: None,
            send_at: Moment::BOOT,
            pause: FIRST_PAUSE,
            first: true,
            changed: false,
            end_by: None,
            last_renew_time: None,
            standing: Standing::Joining,
            published: None,
            done: false,
        }
    }

    /// `now` was read before the call, so that a write goes out later than the moment from which it counts.
    pub fn handle(&mut self, now: Now, input: OwnInput) -> Vec<OwnOutput> {
        // As long as others may think so.
        if let Standing::Member { renewed_at } = self.standing
            && now.boot >= renewed_at + self.config.duration
        {
            self.standing = Standing::Joining;
        }
        match input {
            OwnInput::Tick => {}
            OwnInput::Changed => {
                self.changed = true;
                if let Standing::Member { renewed_at } = self.standing {
                    self.send_at = self.send_at.min((renewed_at + SOON).max(now.boot));
                }
            }
            OwnInput::Leave { end_by } => {
                self.end_by.get_or_insert(end_by);
                self.send_at = now.boot;
            }
            OwnInput::Read(answer) => {
                if self.asked.take_if(|asked| *asked == Asked::Read).is_some() {
                    self.read(now.boot, answer);
                }
            }
            OwnInput::Wrote(outcome) => {
                if let Some(Asked::Write { sent_at }) = self.asked.take_if(|asked| *asked != Asked::Read) {
                    self.wrote(now.boot, sent_at, outcome);
                }
            }
            OwnInput::Deleted => {
                self.asked = None;
                self.learn(now.boot, None);
            }
        }
        let act = self.act(now);
        let mut outputs = Vec::new();
        if self.published.as_ref() != Some(&self.standing) {
            self.published = Some(self.standing.clone());
            outputs.push(OwnOutput::Publish(self.standing.clone()));
        }
        outputs.extend(act);
        match self.done {
            true => outputs.push(OwnOutput::Done),
            false => outputs.push(OwnOutput::WakeAt(self.wake_at(now.boot))),
        }
        outputs
    }

    fn read(&mut self, now: Moment, answer: Option<Option<Box<Record>>>) {
        match answer {
            None => self.try_again(now, Duration::ZERO),
            Some(record) => {
                self.pause = FIRST_PAUSE;
                self.learn(now, record);
            }
        }
    }

    fn wrote(&mut self, now: Moment, sent_at: Moment, outcome: Outcome) {
        match outcome {
            Outcome::Committed(record) => {
                self.pause = FIRST_PAUSE;
                self.learn(now, Some(record));
                if self.holds() {
                    self.standing = Standing::Member { renewed_at: sent_at };
                    let interval = self.config.renew_interval;
                    // The first one sooner, each pod by another part.
                    let first = std::mem::take(&mut self.first);
                    let next = if first { interval.mul_f64((1.0 + self.config.spread) / 2.0) } else { interval };
                    // Who leaves deletes it now, and has not the time to wait for the next one; and what changed since
                    // this one was sent is not in it.
                    if self.end_by.is_none() {
                        self.send_at = sent_at + if self.changed { SOON.min(next) } else { next };
                    }
                }
            }
            // Somebody wrote or deleted it.
            Outcome::Conflict => {
                self.known = Known::Nothing;
                self.send_at = now;
            }
            // It may be this write's by now.
            Outcome::Unknown => {
                self.known = Known::Nothing;
                self.try_again(now, Duration::ZERO);
            }
            Outcome::Refused { retry_after, .. } => self.try_again(now, retry_after.unwrap_or_default()),
        }
    }

    /// After a failure: each time later, up to the renew interval.
    fn try_again(&mut self, now: Moment, asked: Duration) {
        if self.end_by.is_some() {
            self.send_at = now + PAUSE_AT_THE_END;
            return;
        }
        self.send_at = now + self.pause.max(asked.min(self.config.renew_interval));
        self.pause = (self.pause * 2).min(self.config.renew_interval);
    }

    /// What the Lease is now.
    fn learn(&mut self, now: Moment, record: Option<Box<Record>>) {
        self.send_at = now;
        let Some(record) = record else {
            self.known = Known::Absent;
            self.other = None;
            self.standing = if self.end_by.is_some() { Standing::Left } else { Standing::Joining };
            return;
        };
        let other = record.holder().filter(|holder| *holder != self.config.identity).map(|holder| Other {
            uid: record.uid.clone(),
            holder: holder.to_owned(),
            renew_time: record.spec.renew_time,
            since: now,
            duration: record.duration().unwrap_or_default().max(self.config.duration),
            renews: false,
        });
        self.other = other.map(|other| other.after(self.other.take()));
        self.known = Known::Record(record);
        if let Some(other) = &self.other {
            self.standing = match other.renews {
                true => Standing::Contested { holder: other.holder.clone() },
                false => Standing::Joining,
            };
            self.send_at = self.takeable_at().min(now + self.config.renew_interval).max(now);
        }
    }

    fn holds(&self) -> bool {
        matches!(&self.known, Known::Record(record) if record.holder() == Some(&self.config.identity))
    }

    /// From when on the record may be taken; at once where nobody holds it, or only who is known to be dead.
    fn takeable_at(&self) -> Moment {
        match &self.other {
            Some(other) if !self.former.contains(&other.holder) => other.since + other.duration,
            _ => Moment::BOOT,
        }
    }

    fn act(&mut self, now: Now) -> Option<OwnOutput> {
        if self.done || self.end_by.is_some_and(|end_by| now.boot >= end_by) {
            self.done = true;
            return None;
        }
        if self.asked.is_some() || now.boot < self.send_at {
            return None;
        }
        match &self.known {
            Known::Nothing => Some(self.look()),
            Known::Absent if self.end_by.is_some() => {
                self.done = true;
                None
            }
            Known::Absent => Some(self.write(now, None)),
            Known::Record(record) if self.holds() => {
                let base = base_of(record);
                match self.end_by {
                    Some(_) => Some(self.delete(now.boot, base)),
                    None => Some(self.write(now, Some(base))),
                }
            }
            // Another's is not deleted.
            Known::Record(_) if self.end_by.is_some() => {
                self.done = true;
                None
            }
            Known::Record(record) if now.boot >= self.takeable_at() => {
                let base = base_of(record);
                Some(self.write(now, Some(base)))
            }
            Known::Record(_) => Some(self.look()),
        }
    }

    fn look(&mut self) -> OwnOutput {
        self.asked = Some(Asked::Read);
        OwnOutput::Read { timeout: ATTEMPT_TIMEOUT.min(self.config.renew_interval) }
    }

    fn write(&mut self, now: Now, base: Option<Base>) -> OwnOutput {
        let time = self.new_renew_time(now.wall);
        let before = match &self.known {
            Known::Record(record) => record.spec.clone(),
            Known::Nothing | Known::Absent => Spec::default(),
        };
        let mine = self.holds();
        let spec = Spec {
            holder: Some(self.config.identity.clone()),
            duration_seconds: i32::try_from(self.config.duration.as_secs()).ok(),
            acquire_time: before.acquire_time.filter(|_| mine).or(Some(time)),
            renew_time: Some(time),
            transitions: before.transitions.saturating_add(i32::from(!mine && base.is_some())),
            strategy: None,
            preferred_holder: None,
        };
        self.send(now.boot, base, Some(spec))
    }

    fn delete(&mut self, now: Moment, base: Base) -> OwnOutput {
        self.send(now, Some(base), None)
    }

    fn send(&mut self, now: Moment, base: Option<Base>, spec: Option<Spec>) -> OwnOutput {
        self.asked = Some(Asked::Write { sent_at: now });
        self.changed = false;
        OwnOutput::Write(OwnWrite { base, spec, timeout: ATTEMPT_TIMEOUT.min(self.config.renew_interval) })
    }

    /// Another one each time, whatever the wall clock does: readers look for a change.
    fn new_renew_time(&mut self, wall: Timestamp) -> Timestamp {
        let seen = match &self.known {
            Known::Record(record) => record.spec.renew_time,
            Known::Nothing | Known::Absent => None,
        };
        let mut micros = wall.as_microsecond();
        if let Some(last) = self.last_renew_time {
            micros = micros.max(last.as_microsecond().saturating_add(1));
        }
        if seen.is_some_and(|seen| seen.as_microsecond() == micros) {
            micros += 1;
        }
        let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
        self.last_renew_time = Some(time);
        time
    }

    fn wake_at(&self, now: Moment) -> Moment {
        let end = self.end_by.unwrap_or(Moment::NEVER);
        if self.asked.is_some() {
            return end;
        }
        self.send_at.min(end).max(now)
    }
}

impl Other {
    /// The same as seen before, or what followed it.
    fn after(self, before: Option<Other>) -> Other {
        match before {
            Some(before) if before.uid == self.uid && before.holder == self.holder => {
                let duration = before.duration.max(self.duration);
                if before.renew_time == self.renew_time {
                    Other { since: before.since, renews: before.renews, duration, ..self }
                } else {
                    Other { renews: true, duration, ..self }
                }
            }
            // Another one came, and that is a change as well.
            Some(_) | None => self,
        }
    }
}

fn base_of(record: &Record) -> Base {
    Base { uid: record.uid.clone(), version: record.version }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{held, second};
    use super::*;

    /// One member, and the Lease as an API server would keep it.
    struct Bench {
        member: Member,
        at: Moment,
        lease: Option<Record>,
        version: u64,
        outputs: Vec<OwnOutput>,
    }

    const ME: &str = "web-0_abc";

    impl Bench {
        fn new(former: &[&str], lease: Option<Record>) -> Bench {
            let config = OwnConfig {
                identity: ME.into(),
                duration: Duration::from_secs(40),
                renew_interval: Duration::from_secs(10),
                spread: 1.0,
            };
            let former = former.iter().map(|name| (*name).to_owned()).collect();
            let member = Member::new(config, former);
            let mut bench = Bench { member, at: second(1000), lease, version: 10, outputs: Vec::new() };
            bench.handle(OwnInput::Tick);
            bench
        }

        /// `web-0_old` holds the Lease, for a minute.
        fn beside_another() -> Bench {
            let mut other = held("web-0_old", 7);
            other.spec.duration_seconds = Some(60);
            Bench::new(&[], Some(other))
        }

        fn handle(&mut self, input: OwnInput) {
            let wall = Timestamp::from_second(1_700_000_000).unwrap();
            self.outputs = self.member.handle(Now { boot: self.at, wall }, input);
        }

        fn wake_at(&self) -> Moment {
            match self.outputs.last() {
                Some(OwnOutput::WakeAt(at)) => *at,
                other => panic!("the last output is the time to wake: {other:?}"),
            }
        }

        fn writes(&self) -> Option<OwnWrite> {
            self.outputs.iter().find_map(|output| match output {
                OwnOutput::Write(write) => Some(write.clone()),
                _ => None,
            })
        }

        fn reads(&self) -> bool {
            self.outputs.iter().any(|output| matches!(output, OwnOutput::Read { .. }))
        }

        fn is_done(&self) -> bool {
            self.outputs.contains(&OwnOutput::Done)
        }

        /// As an API server: a compare-and-swap.
        fn commit(&mut self, write: &OwnWrite) -> OwnInput {
            let matches = match (&write.base, &self.lease) {
                (None, None) => true,
                (Some(base), Some(lease)) => base.uid == lease.uid && base.version == lease.version,
                _ => false,
            };
            if !matches {
                return OwnInput::Wrote(Outcome::Conflict);
            }
            self.version += 1;
            let Some(spec) = write.spec.clone() else {
                self.lease = None;
                return OwnInput::Deleted;
            };
            let uid = self.lease.as_ref().map_or(format!("u-{}", self.version), |lease| lease.uid.clone());
            let record = Record { uid, version: self.version, ..super::super::tests::record(spec) };
            self.lease = Some(record.clone());
            OwnInput::Wrote(Outcome::Committed(Box::new(record)))
        }

        /// Whatever is asked is answered at once, until there is nothing to do.
        fn settle(&mut self) {
            for _ in 0..20 {
                if self.reads() {
                    self.handle(OwnInput::Read(Some(self.lease.clone().map(Box::new))));
                } else if let Some(write) = self.writes() {
                    let answer = self.commit(&write);
                    self.handle(answer);
                } else {
                    return;
                }
            }
            panic!("it asks for ever: {:?}", self.outputs);
        }

        /// Until then, on its own.
        fn run_to(&mut self, at: Moment) -> usize {
            let mut turns = 0;
            self.settle();
            while !self.is_done() && self.wake_at() <= at {
                assert!(self.wake_at() > self.at || turns == 0, "it turns without waiting");
                self.at = self.wake_at();
                self.handle(OwnInput::Tick);
                self.settle();
                turns += 1;
            }
            self.at = at;
            turns
        }

        fn edit(&mut self, edit: impl FnOnce(&mut Spec)) {
            self.version += 1;
            let lease = self.lease.as_mut().expect("it is there");
            lease.version = self.version;
            edit(&mut lease.spec);
        }

        fn holder(&self) -> &str {
            self.lease.as_ref().and_then(Record::holder).unwrap_or("nobody")
        }
    }

    #[test]
    fn a_member_makes_its_lease_renews_it_each_interval_and_deletes_it() {
        let mut bench = Bench::new(&[], None);
        assert_eq!(bench.run_to(second(1000)), 0);
        assert_eq!(bench.holder(), ME);
        assert_eq!(bench.member.standing, Standing::Member { renewed_at: second(1000) });
        let first = bench.lease.clone().unwrap().spec;
        assert_eq!((first.duration_seconds, first.transitions), (Some(40), 0));
        assert_eq!(bench.run_to(second(1100)), 10, "a request an interval");
        let spec = bench.lease.clone().unwrap().spec;
        assert_eq!(spec.acquire_time, first.acquire_time);
        assert_ne!(spec.renew_time, first.renew_time, "although the wall clock stands");
        bench.handle(OwnInput::Leave { end_by: second(1200) });
        bench.settle();
        assert!(bench.is_done() && bench.lease.is_none());
        assert_eq!(bench.member.standing, Standing::Left);
    }

    #[test]
    fn pods_that_start_together_do_not_renew_together() {
        for (spread, first) in [(0.0, 5_000), (0.5, 7_500), (1.0, 10_000)] {
            let mut bench = Bench::new(&[], None);
            bench.member.config.spread = spread;
            bench.settle();
            let first = second(1000) + Duration::from_millis(first);
            assert_eq!(bench.wake_at(), first);
            bench.run_to(first);
            assert_eq!(bench.wake_at(), first + Duration::from_secs(10));
        }
    }

    #[test]
    fn who_is_silent_for_its_duration_is_replaced_and_not_sooner() {
        let mut bench = Bench::beside_another();
        bench.run_to(second(1059));
        assert_eq!((bench.holder(), &bench.member.standing), ("web-0_old", &Standing::Joining));
        bench.run_to(second(1060));
        assert_eq!(bench.holder(), ME);
        assert_eq!(bench.lease.as_ref().unwrap().spec.transitions, 1);
    }

    #[test]
    fn an_earlier_sidecar_of_this_pod_and_an_empty_holder_are_replaced_at_once() {
        for (holder, former) in [("web-0_old", &["web-0_old"][..]), ("", &[])] {
            let mut lease = held(holder, 7);
            lease.spec.holder = lease.spec.holder.filter(|holder| !holder.is_empty());
            let mut bench = Bench::new(former, Some(lease));
            bench.run_to(second(1000));
            assert_eq!(bench.holder(), ME);
        }
    }

    #[test]
    fn another_one_that_comes_has_its_own_time() {
        let mut bench = Bench::beside_another();
        bench.run_to(second(1029));
        bench.edit(|spec| {
            spec.holder = Some("web-0_next".into());
            spec.duration_seconds = Some(10);
        });
        // It is seen at 1030, and given this pod's own duration.
        bench.run_to(second(1069));
        assert_eq!((bench.holder(), &bench.member.standing), ("web-0_next", &Standing::Joining));
        bench.run_to(second(1070));
        assert_eq!(bench.holder(), ME);
    }

    #[test]
    fn the_longest_duration_under_one_holder_counts() {
        for (renews, free) in [(false, 1060), (true, 1090)] {
            let mut bench = Bench::beside_another();
            bench.run_to(second(1029));
            bench.edit(|spec| {
                spec.duration_seconds = Some(10);
                if renews {
                    spec.renew_time = Timestamp::from_second(8).ok();
                }
            });
            bench.run_to(second(free - 1));
            assert_eq!(bench.holder(), "web-0_old");
            let contested = matches!(bench.member.standing, Standing::Contested { .. });
            assert_eq!(contested, renews, "also while nothing changes");
            bench.run_to(second(free));
            assert_eq!(bench.holder(), ME);
        }
    }

    #[test]
    fn each_renew_time_differs_from_the_one_that_it_replaces() {
        let wall = 1_700_000_000;
        let mut bench = Bench::new(&["web-0_old"], Some(held("web-0_old", wall)));
        bench.settle();
        let time = bench.lease.as_ref().and_then(|lease| lease.spec.renew_time).expect("it was taken");
        assert_eq!(time.as_microsecond(), wall * 1_000_000 + 1);
    }

    #[test]
    fn a_standing_is_published_when_it_changes() {
        let published = |bench: &Bench| {
            let words = bench.outputs.iter().filter_map(|output| match output {
                OwnOutput::Publish(standing) => Some(standing.as_str()),
                _ => None,
            });
            words.collect::<Vec<_>>()
        };
        let mut bench = Bench::new(&[], None);
        assert_eq!(published(&bench), ["joining"]);
        bench.handle(OwnInput::Read(Some(None)));
        assert_eq!(published(&bench), [""; 0]);
        let write = bench.writes().expect("it is made");
        let answer = bench.commit(&write);
        bench.handle(answer);
        assert_eq!(published(&bench), ["member"]);
        bench.handle(OwnInput::Tick);
        assert_eq!(published(&bench), [""; 0]);
    }

    #[test]
    fn standings_are_like_each_other_whenever_they_were_renewed() {
        let member = |at| Standing::Member { renewed_at: second(at) };
        let contested = |holder: &str| Standing::Contested { holder: holder.into() };
        assert!(member(1).is_like(&member(2)) && contested("a").is_like(&contested("a")));
        assert!(!contested("a").is_like(&contested("b")) && !Standing::Joining.is_like(&Standing::Left));
        assert_eq!((member(1).renewed_at(), Standing::Left.renewed_at()), (Some(second(1)), None));
        assert_eq!((contested("a").contested_by(), member(1).contested_by()), (Some("a"), None));
        assert_eq!((contested("a").as_str(), Standing::Left.as_str()), ("contested", "left"));
    }

    #[test]
    fn who_leaves_and_is_not_answered_asks_again_soon() {
        let mut bench = Bench::new(&[], None);
        bench.settle();
        bench.handle(OwnInput::Leave { end_by: second(1020) });
        assert!(bench.writes().is_some_and(|write| write.spec.is_none()));
        bench.handle(OwnInput::Wrote(Outcome::Unknown));
        assert_eq!(bench.wake_at(), bench.at + PAUSE_AT_THE_END);
    }

    #[test]
    fn another_pod_under_the_same_identity_is_told_and_left_alone() {
        let mut bench = Bench::new(&[], Some(held("web-0_other", 7)));
        let mut reads = 0;
        for n in 0..20 {
            bench.edit(|spec| spec.renew_time = Timestamp::from_second(100 + n).ok());
            reads += bench.run_to(bench.at + Duration::from_secs(10));
            assert_eq!(bench.holder(), "web-0_other");
        }
        assert_eq!(bench.member.standing, Standing::Contested { holder: "web-0_other".into() });
        assert!(reads <= 21, "{reads} reads in 200 s");
        // At its end nothing of the other's is deleted.
        bench.handle(OwnInput::Leave { end_by: second(5000) });
        bench.settle();
        assert!(bench.is_done() && bench.holder() == "web-0_other");
    }

    #[test]
    fn who_loses_its_lease_to_another_does_not_take_it_back_while_that_one_lives() {
        let mut bench = Bench::new(&[], None);
        bench.run_to(second(1000));
        for n in 0..5 {
            bench.edit(|spec| {
                spec.holder = Some("web-0_other".into());
                spec.renew_time = Timestamp::from_second(100 + n).ok();
            });
            bench.run_to(bench.at + Duration::from_secs(10));
            assert_eq!(bench.holder(), "web-0_other");
        }
        bench.run_to(bench.at + Duration::from_secs(39));
        assert_eq!(bench.holder(), "web-0_other");
        bench.run_to(bench.at + Duration::from_secs(11));
        assert_eq!(bench.holder(), ME);
    }

    #[test]
    fn a_lease_that_was_deleted_or_edited_is_there_again_with_the_next_renewal() {
        let mut bench = Bench::new(&[], None);
        bench.run_to(second(1000));
        bench.lease = None;
        bench.run_to(second(1010));
        assert_eq!(bench.holder(), ME);
        bench.edit(|spec| spec.duration_seconds = None);
        bench.run_to(second(1020));
        assert_eq!(bench.lease.as_ref().unwrap().spec.duration_seconds, Some(40));
    }

    #[test]
    fn an_api_server_that_fails_is_asked_less_and_less_often_and_the_member_is_no_more_after_its_duration() {
        let mut bench = Bench::new(&[], None);
        bench.run_to(second(1000));
        let mut attempts = Vec::new();
        for _ in 0..12 {
            bench.at = bench.wake_at();
            bench.handle(OwnInput::Tick);
            attempts.push(bench.at.since(second(1000)).as_secs());
            let answer = if bench.reads() { OwnInput::Read(None) } else { OwnInput::Wrote(Outcome::Unknown) };
            bench.handle(answer);
        }
        assert_eq!(attempts, [10, 11, 13, 17, 25, 35, 45, 55, 65, 75, 85, 95]);
        assert_eq!(bench.member.standing, Standing::Joining);
        bench.at = bench.wake_at();
        bench.handle(OwnInput::Tick);
        bench.settle();
        assert_eq!(bench.member.standing, Standing::Member { renewed_at: bench.at });
        assert_eq!(bench.member.pause, FIRST_PAUSE);
    }

    #[test]
    fn a_write_whose_answer_was_lost_is_looked_into_before_the_end() {
        let mut bench = Bench::new(&[], None);
        bench.handle(OwnInput::Read(Some(None)));
        let write = bench.writes().expect("it is made");
        bench.handle(OwnInput::Leave { end_by: second(1020) });
        assert_eq!(bench.writes(), None, "one at a time");
        bench.commit(&write);
        bench.handle(OwnInput::Wrote(Outcome::Unknown));
        bench.run_to(second(1010));
        assert!(bench.is_done() && bench.lease.is_none());
        // Nobody answers: it ends in time.
        let mut bench = Bench::new(&[], None);
        bench.handle(OwnInput::Leave { end_by: second(1020) });
        assert_eq!(bench.wake_at(), second(1020));
        bench.at = second(1020);
        bench.handle(OwnInput::Tick);
        assert!(bench.is_done());
    }

    #[test]
    fn a_renewal_that_is_under_way_when_it_leaves_is_followed_by_the_deletion_at_once() {
        let mut bench = Bench::new(&[], None);
        bench.run_to(second(1003));
        bench.handle(OwnInput::Changed);
        let write = bench.writes().expect("it is renewed");
        bench.handle(OwnInput::Leave { end_by: second(1004) });
        let answer = bench.commit(&write);
        bench.handle(answer);
        assert!(bench.writes().is_some_and(|write| write.spec.is_none()), "{:?}", bench.outputs);
        bench.settle();
        assert!(bench.is_done() && bench.lease.is_none());
    }

    #[test]
    fn what_changed_is_written_at_once_by_a_member_and_by_nobody_else() {
        let mut bench = Bench::new(&[], Some(held("web-0_other", 7)));
        bench.run_to(second(1003));
        bench.handle(OwnInput::Changed);
        assert_eq!(bench.writes(), None);
        let mut bench = Bench::new(&[], None);
        bench.run_to(second(1003));
        bench.handle(OwnInput::Changed);
        assert!(bench.writes().is_some());
        bench.settle();
        assert_eq!(bench.wake_at(), second(1013));
        // Also what changes while a write is under way, which does not say it.
        bench.run_to(second(1012));
        bench.at = second(1013);
        bench.handle(OwnInput::Tick);
        let write = bench.writes().expect("it renews");
        bench.handle(OwnInput::Changed);
        let answer = bench.commit(&write);
        bench.handle(answer);
        assert_eq!(bench.wake_at(), second(1014));
        bench.run_to(second(1014));
        assert_eq!(bench.wake_at(), second(1024));
        // An app that comes and goes is no reason to write all the time.
        let version = bench.version;
        for tenth in 0..50 {
            bench.at = second(1015) + Duration::from_millis(100) * tenth;
            bench.handle(OwnInput::Changed);
            bench.settle();
        }
        assert_eq!(bench.version - version, 5);
    }

    #[test]
    fn a_refusal_is_tried_again_as_late_as_it_asks_but_not_later_than_a_renewal() {
        for (asks, again) in [(None, 1001), (Some(3), 1003), (Some(3600), 1010)] {
            let mut bench = Bench::new(&[], None);
            bench.handle(OwnInput::Read(Some(None)));
            let retry_after = asks.map(Duration::from_secs);
            bench.handle(OwnInput::Wrote(Outcome::Refused { advice: "no".into(), retry_after }));
            assert_eq!(bench.wake_at(), second(again));
        }
    }

    #[test]
    fn times_that_cannot_work_are_refused() {
        let faults = |duration, interval| {
            OwnConfig::faults(Duration::from_millis(duration), Duration::from_millis(interval)).len()
        };
        assert_eq!(faults(40_000, 10_000), 0);
        assert_eq!((faults(3_000, 1_500), faults(3_000, 1_501)), (0, 1));
        assert_eq!(faults(86_400_000, 1_000), 0);
        assert_eq!((faults(2_000, 1_000), faults(3_500, 1_000), faults(86_401_000, 1_000)), (1, 1, 1));
        assert_eq!((faults(40_000, 999), faults(40_000, 1_000)), (1, 0));
    }
}
