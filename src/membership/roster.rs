//! The members of one group, as one of them sees them.

use std::time::Duration;

use super::{Catalogue, Known, REVISION, STANDS_FOR, State};
use crate::election::pod_of;
use crate::time::Moment;

/// Whether a member lives, by the reader's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// No renewal was seen yet, and the lease duration has not passed since the first sight.
    Unknown,
    Alive,
    /// Half of its duration has passed since its newest renewal.
    Late,
    /// All of it has, and a consistent read shows the same. Or nobody holds the Lease.
    Dead,
}

impl Life {
    pub const ALL: [Life; 4] = [Life::Unknown, Life::Alive, Life::Late, Life::Dead];

    pub fn as_str(self) -> &'static str {
        match self {
            Life::Unknown => "unknown",
            Life::Alive => "alive",
            Life::Late => "late",
            Life::Dead => "dead",
        }
    }

    /// It counts among the living.
    pub fn is_alive(self) -> bool {
        matches!(self, Life::Alive | Life::Late)
    }
}

impl From<State> for Life {
    fn from(state: State) -> Self {
        match state {
            State::Observing => Life::Unknown,
            State::Held => Life::Alive,
            State::Late => Life::Late,
            State::Expired | State::Released | State::NeverHeld => Life::Dead,
        }
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its Lease.
    pub lease: String,
    pub holder: String,
    pub life: Life,
    /// When its newest renewal was seen, if one was.
    pub renewed: Option<Moment>,
    pub duration: Option<Duration>,
    /// What its user says of it.
    pub annotations: Vec<(String, String)>,
}

impl Member {
    pub fn pod(&self) -> &str {
        pod_of(&self.holder)
    }
}

/// Annotations of our own are not the user's.
pub fn is_users(key: &str) -> bool {
    !key.starts_with("leasehold.dev/")
}

/// All members, by the names of their Leases. `own` is this pod's, which knows of itself that it lives.
pub fn members(catalogue: &Catalogue, now: Moment, own: Option<(&str, Moment)>) -> Vec<Member> {
    let member = |known: &Known| {
        let entry = &known.entry;
        let age = known.sight.age(now);
        let (life, renewed) = match own {
            Some((identity, renewed_at)) if entry.record.holder() == Some(identity) => (Life::Alive, Some(renewed_at)),
            _ => (known.state(now).into(), age.map(|age| now - age)),
        };
        Member {
            lease: entry.name.clone(),
            holder: entry.record.holder().unwrap_or_default().to_owned(),
            life,
            renewed,
            duration: known.sight.duration(),
            annotations: entry.annotations.iter().filter(|(key, _)| is_users(key)).cloned().collect(),
        }
    };
    catalogue.iter().map(member).collect()
}

/// Who contends for a lease beside this pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rivals {
    /// With this pod, as far as is known.
    pub count: u32,
    /// The pod that should lead next.
    pub successor: Option<String>,
}

/// Who stands for `lease`. The successor is alive and of the newest revision where there is one such: what is about to
/// be replaced would soon hand over again. Of several it is the oldest, which has shown for the longest that it lives.
pub fn rivals(catalogue: &Catalogue, now: Moment, lease: &str, identity: &str) -> Rivals {
    let stands = |known: &&Known| {
        let listed = known.entry.annotation(STANDS_FOR).unwrap_or_default();
        listed.split(',').any(|name| name == lease) && known.entry.record.holder() != Some(identity)
    };
    let others = || catalogue.iter().filter(stands);
    let may_live = others().filter(|known| Life::from(known.state(now)) != Life::Dead).count();
    let revision = |known: &Known| known.entry.annotation(REVISION).map(str::to_owned);
    // Of all, also of those that do not stand: a template is new before its first pod is ready.
    let youngest = catalogue.iter().filter(|known| revision(known).is_some()).max_by_key(|known| known.entry.created);
    let newest = youngest.and_then(revision);
    let successor = others()
        .filter(|known| known.state(now) == State::Held)
        .min_by_key(|known| (revision(known) != newest, known.entry.created, known.entry.name.clone()));
    Rivals {
        count: u32::try_from(may_live + 1).unwrap_or(u32::MAX),
        successor: successor.and_then(|known| known.entry.record.holder()).map(|holder| pod_of(holder).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::super::tests::{entry, held, second};
    use super::*;

    /// One member's Lease, of a revision, created then, renewed for the `renewal`th time.
    fn member(name: &str, revision: &str, created: i64, renewal: i64) -> Entry {
        let version = u64::try_from(created * 1000 + renewal).unwrap();
        let mut entry = entry("shop", name, version, held(&format!("{name}_x"), renewal));
        entry.created = jiff::Timestamp::from_second(created).ok();
        let say = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        entry.annotations = vec![say(REVISION, revision), say(STANDS_FOR, "web,jobs"), say("zone", "a")];
        entry
    }

    /// Each listed at 100 s; those with two renewals renewed at 110 s.
    fn of(members: &[(&str, &str, i64, i64)]) -> Catalogue {
        let mut catalogue = Catalogue::default();
        let first = members.iter().map(|(name, revision, created, _)| member(name, revision, *created, 1));
        catalogue.listed(second(100), second(100), first.collect());
        for (name, revision, created, renewals) in members.iter().filter(|(.., renewals)| *renewals > 1) {
            catalogue.changed(second(110), member(name, revision, *created, *renewals));
        }
        catalogue
    }

    fn successor(catalogue: &Catalogue, at: u64) -> Option<String> {
        rivals(catalogue, second(at), "web", "a_x").successor
    }

    #[test]
    fn life_is_told_by_the_own_clock_and_of_the_own_pod_by_itself() {
        let catalogue = of(&[("a", "1", 1, 1), ("b", "1", 2, 2), ("c", "1", 3, 1)]);
        let lives =
            |at| members(&catalogue, second(at), Some(("a_x", second(105)))).iter().map(|m| m.life).collect::<Vec<_>>();
        assert_eq!(lives(111), [Life::Alive, Life::Alive, Life::Unknown]);
        assert_eq!(lives(130), [Life::Alive, Life::Late, Life::Unknown]);
        let own = &members(&catalogue, second(111), Some(("a_x", second(105))))[0];
        assert_eq!((own.pod(), own.renewed), ("a", Some(second(105))));
        assert_eq!(own.annotations, [("zone".to_owned(), "a".to_owned())]);
        assert_eq!(members(&catalogue, second(111), None)[1].renewed, Some(second(110)));
    }

    #[test]
    fn the_successor_is_alive_and_the_oldest_of_the_newest_revision() {
        let catalogue = of(&[("a", "1", 1, 2), ("b", "1", 2, 2), ("c", "2", 5, 2), ("d", "2", 4, 2), ("e", "2", 3, 1)]);
        assert_eq!(successor(&catalogue, 111).as_deref(), Some("d"), "e was not seen to live");
        assert_eq!(rivals(&catalogue, second(111), "web", "a_x").count, 5);
        assert_eq!(successor(&catalogue, 130), None, "all are late");
        // Of the newest only this pod itself lives.
        let catalogue = of(&[("a", "2", 9, 2), ("b", "1", 2, 2), ("c", "1", 1, 2)]);
        assert_eq!(successor(&catalogue, 111).as_deref(), Some("c"));
    }

    #[test]
    fn each_life_has_its_word_and_two_of_them_are_alive() {
        assert_eq!(Life::ALL.map(Life::as_str), ["unknown", "alive", "late", "dead"]);
        assert_eq!(Life::ALL.map(Life::is_alive), [false, true, true, false]);
    }

    #[test]
    fn who_does_not_stand_is_no_rival() {
        let mut catalogue = of(&[("a", "1", 1, 2), ("b", "1", 2, 2)]);
        assert_eq!(rivals(&catalogue, second(111), "jobs", "a_x"), Rivals { count: 2, successor: Some("b".into()) });
        assert_eq!(rivals(&catalogue, second(111), "job", "a_x"), Rivals { count: 1, successor: None });
        let mut ending = member("b", "1", 2, 3);
        ending.annotations.retain(|(key, _)| key != STANDS_FOR);
        catalogue.changed(second(112), ending);
        assert_eq!(rivals(&catalogue, second(113), "web", "a_x"), Rivals { count: 1, successor: None });
    }
}
