//! Many Leases, as one reader sees them: the newest record of each, and what its changes say.
//!
//! What a list or a watch brings is taken in as it comes. A version of a Lease that is older than the known one is
//! ignored, except from a complete list, which is read consistently and replaces everything.

use std::cmp::Ordering;

use super::{Entry, Sight, State};
use crate::time::Moment;

/// One Lease that is known.
#[derive(Clone, Debug)]
pub struct Known {
    pub entry: Entry,
    pub sight: Sight,
}

impl Known {
    pub fn state(&self, now: Moment) -> State {
        self.sight.state(now)
    }

    fn observe(&mut self, now: Moment, entry: Entry) {
        self.sight.observe(now, &self.entry.record, &entry.record);
        self.entry = entry;
    }

    fn place(&self) -> Place {
        Place { namespace: self.entry.namespace.clone(), name: self.entry.name.clone() }
    }

    fn is_before(&self, namespace: &str, name: &str) -> Ordering {
        (self.entry.namespace.as_str(), self.entry.name.as_str()).cmp(&(namespace, name))
    }
}

/// Which Lease of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub namespace: String,
    pub name: String,
}

/// What consistent reads show of Leases in doubt.
#[derive(Debug)]
pub enum Look {
    /// All there are.
    All(Vec<Entry>),
    /// Each of these, or its absence as of a version.
    Each(Vec<(Place, Option<Entry>, u64)>),
}

/// By namespace and name.
#[derive(Debug, Default)]
pub struct Catalogue {
    known: Vec<Known>,
}

impl Catalogue {
    /// In the order of namespace and name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Known> {
        self.known.iter()
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&Known> {
        self.place_of(namespace, name).ok().map(|place| &self.known[place])
    }

    /// A complete and consistent list, asked for at `sent_at`: what is not in it is no more.
    pub fn listed(&mut self, now: Moment, sent_at: Moment, entries: Vec<Entry>) {
        let mut before = std::mem::take(&mut self.known).into_iter().peekable();
        let mut entries = entries;
        entries.sort_unstable_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        // One name twice in a list is no API server's; the newest stands.
        for entry in entries {
            while before.next_if(|known| known.is_before(&entry.namespace, &entry.name).is_lt()).is_some() {}
            let known = before.next_if(|known| known.is_before(&entry.namespace, &entry.name).is_eq());
            let twice = self.known.last().is_some_and(|last| last.is_before(&entry.namespace, &entry.name).is_eq());
            match known.or_else(|| if twice { self.known.pop() } else { None }) {
                Some(mut known) => {
                    known.observe(now, entry);
                    known.sight.confirm(sent_at);
                    self.known.push(known);
                }
                None => self.known.push(Known { sight: Sight::first(now, &entry.record), entry }),
            }
        }
    }

    /// A version of one Lease. False: it is older than the known one, or the same.
    pub fn changed(&mut self, now: Moment, entry: Entry) -> bool {
        match self.place_of(&entry.namespace, &entry.name) {
            Ok(place) if entry.record.version <= self.known[place].entry.record.version => false,
            Ok(place) => {
                self.known[place].observe(now, entry);
                true
            }
            Err(place) => {
                self.known.insert(place, Known { sight: Sight::first(now, &entry.record), entry });
                true
            }
        }
    }

    /// One Lease is no more since `version`. False: a newer one is known, or none.
    pub fn deleted(&mut self, namespace: &str, name: &str, version: u64) -> bool {
        match self.place_of(namespace, name) {
            Ok(place) if version >= self.known[place].entry.record.version => {
                self.known.remove(place);
                true
            }
            _ => false,
        }
    }

    /// What reads show of those that were in doubt when they were sent. True: the watch is behind, or silent, or tells
    /// another history, and a new one is needed.
    pub fn looked(&mut self, now: Moment, sent_at: Moment, look: Look) -> bool {
        let doubted: Vec<_> = self.doubted(sent_at).map(|known| (known.place(), known.entry.record.version)).collect();
        match look {
            Look::All(entries) => self.listed(now, sent_at, entries),
            Look::Each(each) => {
                for (place, entry, version) in each {
                    match entry {
                        Some(entry) => self.read(now, sent_at, entry),
                        None => drop(self.deleted(&place.namespace, &place.name, version)),
                    }
                }
            }
        }
        let stands = |(place, version): &(Place, u64)| {
            let known = self.get(&place.namespace, &place.name);
            known.is_some_and(|known| known.entry.record.version == *version && !known.sight.is_in_doubt(sent_at))
        };
        !doubted.iter().all(stands)
    }

    fn read(&mut self, now: Moment, sent_at: Moment, entry: Entry) {
        if let Ok(place) = self.place_of(&entry.namespace, &entry.name)
            && entry.record.version == self.known[place].entry.record.version
        {
            self.known[place].sight.confirm(sent_at);
        }
        self.changed(now, entry);
    }

    /// Those of whom only a consistent read can tell whether they have expired.
    pub fn in_doubt(&self, now: Moment) -> Vec<Place> {
        self.doubted(now).map(Known::place).collect()
    }

    fn doubted(&self, now: Moment) -> impl Iterator<Item = &Known> {
        self.known.iter().filter(move |known| known.sight.is_in_doubt(now))
    }

    /// When the state of any of them changes, or comes into doubt, by time alone.
    pub fn next_change(&self, now: Moment) -> Option<Moment> {
        self.known.iter().filter_map(|known| known.sight.next_change(now)).min()
    }

    fn place_of(&self, namespace: &str, name: &str) -> Result<usize, usize> {
        self.known.binary_search_by(|known| known.is_before(namespace, name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{entry, held, second};
    use super::*;

    fn names(catalogue: &Catalogue) -> Vec<(&str, u64)> {
        catalogue.iter().map(|known| (known.entry.name.as_str(), known.entry.record.version)).collect()
    }

    fn of(entries: Vec<Entry>) -> Catalogue {
        let mut catalogue = Catalogue::default();
        catalogue.listed(second(100), second(100), entries);
        catalogue
    }

    #[test]
    fn a_list_replaces_everything_and_what_it_shows_again_keeps_its_history() {
        let at = |name: &str, version, renewal| entry("shop", name, version, held("a", renewal));
        let mut catalogue = of(vec![at("c", 7, 1), at("a", 5, 1), at("b", 6, 1)]);
        assert_eq!(names(&catalogue), [("a", 5), ("b", 6), ("c", 7)]);
        assert!(catalogue.len() == 3 && !catalogue.is_empty());
        assert!(catalogue.changed(second(110), at("b", 8, 2)));
        catalogue.listed(second(150), second(149), vec![at("d", 9, 1), at("b", 8, 2), at("c", 7, 1)]);
        assert_eq!(names(&catalogue), [("b", 8), ("c", 7), ("d", 9)]);
        let state = |name| catalogue.get("shop", name).expect("it is known").state(second(150));
        // Of b the last 40 s are not over at 149, which is when the list was asked for; of c they are.
        assert_eq!((state("b"), state("c"), state("d")), (State::Late, State::Expired, State::Observing));
        assert_eq!(catalogue.in_doubt(second(150)), [place("b")]);
    }

    #[test]
    fn an_older_version_is_ignored_from_a_watch_and_believed_from_a_list() {
        let mut catalogue = of(vec![entry("shop", "a", 7, held("a", 7))]);
        assert!(!catalogue.changed(second(101), entry("shop", "a", 6, held("a", 6))));
        assert!(!catalogue.changed(second(101), entry("shop", "a", 7, held("a", 7))));
        assert!(!catalogue.deleted("shop", "a", 6));
        assert!(!catalogue.deleted("shop", "b", 60));
        assert_eq!(names(&catalogue), [("a", 7)]);
        // A backup of etcd was put back.
        catalogue.listed(second(102), second(102), vec![entry("shop", "a", 3, held("a", 3))]);
        assert_eq!(names(&catalogue), [("a", 3)]);
        assert!(catalogue.deleted("shop", "a", 4));
        assert!(catalogue.is_empty());
    }

    #[test]
    fn one_name_in_two_namespaces_is_two_leases_and_twice_in_a_list_is_one() {
        let mut catalogue = of(vec![entry("b", "x", 1, held("a", 1)), entry("a", "x", 2, held("a", 1))]);
        assert!(catalogue.changed(second(101), entry("aa", "x", 3, held("a", 1))));
        assert_eq!(names(&catalogue), [("x", 2), ("x", 3), ("x", 1)]);
        assert_eq!(of(vec![entry("a", "x", 1, held("a", 1)), entry("a", "x", 1, held("a", 1))]).len(), 1);
    }

    fn place(name: &str) -> Place {
        Place { namespace: "shop".into(), name: name.into() }
    }

    /// As of version 9.
    fn each<const N: usize>(shown: [(&str, Option<Entry>); N]) -> Look {
        Look::Each(shown.map(|(name, entry)| (place(name), entry, 9)).into())
    }

    fn state(catalogue: &Catalogue, name: &str) -> State {
        catalogue.get("shop", name).expect("it is known").state(second(141))
    }

    #[test]
    fn a_consistent_read_confirms_silence() {
        let entries = || vec![entry("shop", "a", 5, held("a", 1)), entry("shop", "b", 6, held("b", 1))];
        let shown = || each([("a", Some(entries().remove(0))), ("b", Some(entries().remove(1)))]);
        for look in [Look::All(entries()), shown()] {
            let mut catalogue = of(entries());
            assert_eq!(catalogue.next_change(second(100)), Some(second(140)));
            assert!(catalogue.in_doubt(second(139)).is_empty());
            assert_eq!(catalogue.in_doubt(second(140)), [place("a"), place("b")]);
            assert!(!catalogue.looked(second(141), second(140), look), "the watch had nothing to say");
            assert_eq!((state(&catalogue, "a"), state(&catalogue, "b")), (State::Expired, State::Expired));
            assert!(catalogue.in_doubt(second(141)).is_empty());
        }
    }

    #[test]
    fn what_a_read_has_to_bring_shows_that_the_watch_is_silent() {
        let a = || entry("shop", "a", 5, held("a", 1));
        let renewed = || entry("shop", "a", 9, held("a", 2));
        for look in [each([("a", Some(renewed()))]), Look::All(vec![renewed()])] {
            let mut catalogue = of(vec![a()]);
            assert!(catalogue.looked(second(141), second(140), look));
            assert_eq!(state(&catalogue, "a"), State::Held);
        }
        for look in [each([("a", None)]), Look::All(vec![])] {
            let mut catalogue = of(vec![a()]);
            assert!(catalogue.looked(second(141), second(140), look));
            assert!(catalogue.is_empty());
        }
    }

    #[test]
    fn an_answer_that_an_event_overtook_confirms_nothing() {
        let mut catalogue = of(vec![entry("shop", "a", 5, held("a", 1))]);
        assert!(catalogue.changed(second(141), entry("shop", "a", 9, held("a", 2))));
        assert!(!catalogue.looked(second(141), second(140), each([("a", Some(entry("shop", "a", 5, held("a", 1))))])));
        assert_eq!(state(&catalogue, "a"), State::Held);
    }

    #[test]
    fn a_read_of_another_history_asks_for_a_new_list() {
        let mut catalogue = of(vec![entry("shop", "a", 5, held("a", 1))]);
        assert!(catalogue.looked(second(141), second(140), each([("a", Some(entry("shop", "a", 3, held("a", 1))))])));
        assert_eq!(names(&catalogue), [("a", 5)]);
        assert_eq!(state(&catalogue, "a"), State::Observing, "nothing is known of its silence");
    }
}
