//! What many schedules gave together: how often each fault struck, and what was reached.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use leasehold::election::Reason;

use crate::checks::Right;
use crate::faults::{Class, Fault};
use crate::world::Report;

/// From so many schedules on, each kind of fault has struck alone.
const ENOUGH_FOR_EACH_ALONE: u64 = 20_000;
/// An invariant that may fail under a broken assumption does so rarely.
const ENOUGH_FOR_EXCUSES: u64 = 1_000_000;

#[derive(Default)]
pub struct Sum {
    pub schedules: u64,
    faults: BTreeMap<Fault, u64>,
    /// Schedules in which this kind struck, and nothing else was to.
    alone: BTreeMap<Fault, u64>,
    rights: BTreeMap<Right, u64>,
    classes: BTreeMap<Class, u64>,
    reasons: BTreeMap<&'static str, u64>,
    landed_late: u64,
    terms: u64,
    promises: u64,
    inputs: u64,
    virtual_seconds: u64,
    longest_wait: Duration,
    named: (u64, u64),
    enforced: u64,
    foreign_overlaps: u64,
    /// How long nobody led, at most, in any schedule of the class.
    leaderless: BTreeMap<Class, Duration>,
    /// In how many schedules of the class the invariant failed, as it may there.
    excused: BTreeMap<(Class, &'static str), u64>,
}

fn merge<K: Ord + Copy>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(*key).or_default() += count;
    }
}

impl Sum {
    pub fn add(&mut self, report: &Report) {
        let reasons = report.reasons.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        self.join(&Sum {
            schedules: 1,
            faults: report.faults.clone(),
            alone: report
                .alone
                .filter(|alone| report.faults.contains_key(alone))
                .map(|alone| (alone, 1))
                .into_iter()
                .collect(),
            rights: report.rights.clone(),
            classes: BTreeMap::from([(report.class, 1)]),
            reasons,
            landed_late: report.landed_late,
            terms: report.terms,
            promises: report.promises,
            inputs: report.inputs,
            virtual_seconds: report.virtual_seconds,
            longest_wait: report.longest_wait,
            named: report.named,
            enforced: report.enforced,
            foreign_overlaps: report.foreign_overlaps,
            leaderless: BTreeMap::from([(report.class, report.leaderless)]),
            excused: report.excused.iter().map(|invariant| ((report.class, *invariant), 1)).collect(),
        });
    }

    pub fn join(&mut self, other: &Sum) {
        self.schedules += other.schedules;
        merge(&mut self.faults, &other.faults);
        merge(&mut self.alone, &other.alone);
        merge(&mut self.rights, &other.rights);
        merge(&mut self.classes, &other.classes);
        merge(&mut self.reasons, &other.reasons);
        self.landed_late += other.landed_late;
        self.terms += other.terms;
        self.promises += other.promises;
        self.inputs += other.inputs;
        self.virtual_seconds += other.virtual_seconds;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.named = (self.named.0 + other.named.0, self.named.1 + other.named.1);
        self.enforced += other.enforced;
        self.foreign_overlaps += other.foreign_overlaps;
        merge(&mut self.excused, &other.excused);
        for (class, leaderless) in &other.leaderless {
            let longest = self.leaderless.entry(*class).or_default();
            *longest = (*longest).max(*leaderless);
        }
    }

    pub fn print(&self, took: Duration, threads: usize) {
        println!(
            "{} schedules in {:.1} s ({:.0} a second, {threads} threads), {} hours of virtual time: {} inputs, {} terms, {} promises, {} faults",
            self.schedules,
            took.as_secs_f64(),
            self.schedules as f64 / took.as_secs_f64(),
            self.virtual_seconds / 3600,
            self.inputs,
            self.terms,
            self.promises,
            self.faults.values().sum::<u64>()
        );
        println!(
            "releases to a living pod: {} taken by it, {} by another; {} runs under exec; landed late: {}",
            self.named.0, self.named.1, self.enforced, self.landed_late
        );
        println!("schedules in which client-go believed that it led beside a pod: {}", self.foreign_overlaps);
        println!("longest wait for a leader with faults over: {:.1} s", self.longest_wait.as_secs_f64());
        let leaderless: Vec<_> =
            self.leaderless.iter().map(|(class, time)| format!("{class:?} {:.1}", time.as_secs_f64())).collect();
        println!("longest time without a leader, in seconds: {}", leaderless.join(", "));
        for class in Class::ALL {
            let Some(assumption) = class.breaks() else { continue };
            let failed: Vec<_> = class
                .excuses()
                .iter()
                .map(|invariant| {
                    let times = self.excused.get(&(class, *invariant)).copied().unwrap_or(0);
                    format!("{invariant} failed in {times} schedules")
                })
                .collect();
            let failed = if failed.is_empty() { "nothing fails".into() } else { failed.join(", ") };
            println!(
                "{class:?} breaks {assumption}: {failed}; of {}, and no other invariant",
                self.classes.get(&class).copied().unwrap_or(0)
            );
        }
        println!("schedules of each class: {:?}", self.classes);
        println!("faults: {:?}", self.faults);
        println!("schedules in which one struck alone: {:?}", self.alone);
        println!("terms began by: {:?}", self.rights);
        println!("reasons told: {:?}", self.reasons);
    }

    /// What is never reached is never tested.
    pub fn assert_all_reached(&self) {
        fn never<T: Debug>(what: &str, missing: Vec<T>) {
            assert!(missing.is_empty(), "never reached, so never tested: {what} {missing:?}");
        }
        never("classes", Class::ALL.iter().filter(|class| !self.classes.contains_key(class)).collect());
        never("faults", Fault::ALL.iter().filter(|fault| !self.faults.contains_key(fault)).collect());
        never("rights to begin a term", Right::ALL.iter().filter(|right| !self.rights.contains_key(right)).collect());
        never("reasons", Reason::ALL.iter().filter(|reason| !self.reasons.contains_key(reason.as_str())).collect());
        assert!(self.enforced > 0, "never reached, so never tested: a run under exec");
        assert!(self.foreign_overlaps > 0, "never reached, so never tested: client-go's own overlap");
        assert!(self.named.0 > 0, "never reached, so never tested: a release to a named pod");
        assert!(self.landed_late > 0, "never reached, so never tested: a taking write that landed late");
        if self.schedules >= ENOUGH_FOR_EACH_ALONE {
            never("faults alone", Fault::alone().filter(|fault| !self.alone.contains_key(fault)).collect());
        }
        if self.schedules < ENOUGH_FOR_EXCUSES {
            return;
        }
        let excuses = Class::ALL.iter().flat_map(|class| class.excuses().iter().map(|invariant| (*class, *invariant)));
        never("excuses", excuses.filter(|excuse| !self.excused.contains_key(excuse)).collect());
    }
}
