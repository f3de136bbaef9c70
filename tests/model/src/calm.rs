//! With faults over, somebody eligible leads within a bound: from every state that is at rest and in which nobody
//! leads, in one order of things, for the others pass through states that are at rest as well.
//!
//! What is under way and late when faults end is, in turn, there at once, or lost for good together with the watches
//! that are silent; where labels may be edited, they then also are edited each second, which is no fault; and where
//! sidecars may be restarted, they then all are each second, with their state directories: what was waited is kept.

use std::time::Duration;

use crate::actions::Space;
use crate::setup::{Fault, Setup};
use crate::trace::Time;
use crate::world::{App, Edit, Happening, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calm {
    /// What is late is there.
    AllArrives,
    /// What is late is lost, and a silent watch stays silent.
    LateIsLost,
    /// What is late is there, and labels are edited.
    Labelled,
    /// What is late is there, and all sidecars are restarted more often than a lease lasts.
    Restarted,
}

impl Calm {
    pub const ALL: [Calm; 4] = [Calm::AllArrives, Calm::LateIsLost, Calm::Labelled, Calm::Restarted];

    /// What this one needs is among the faults of the setup.
    fn is_of(self, setup: &Setup) -> bool {
        match self {
            Calm::AllArrives | Calm::LateIsLost => true,
            Calm::Labelled => setup.allows(Fault::Labelled),
            Calm::Restarted => setup.allows(Fault::Crashed),
        }
    }

    fn strikes_each_second(self) -> bool {
        matches!(self, Calm::Labelled | Calm::Restarted)
    }

    /// How long it may take after the end of all faults: L4, and what the design makes a candidate wait for beyond D.
    fn bound(self, setup: &Setup, world: &World) -> Duration {
        let most =
            |of: fn(&leasehold::election::Config) -> Duration| setup.configs.iter().map(of).max().unwrap_or_default();
        let duration = most(|config| config.lease_duration);
        // An absent Lease is created, and then waited for.
        let created = if setup.allows(Fault::Deleted) {
            most(|config| config.answer_ttl) + Duration::from_millis(250)
        } else {
            Duration::ZERO
        };
        let silence = (most(|config| config.renew_interval) * 2).max(duration / 2);
        let unheard = if self == Calm::LateIsLost { silence } else { Duration::ZERO };
        // A list that failed is asked again after a renew interval, and what was never seen begins to age then.
        let processes = (0..world.pods.len()).filter_map(|pod| world.process(pod));
        let lists = processes.into_iter().any(|process| !process.watch_is_on());
        let listed = if lists { most(|config| config.renew_interval) } else { Duration::ZERO };
        duration + Duration::from_millis(300) + created + unheard + listed
    }
}

/// What is wrong with this state, as seen from its calm future.
pub fn judge(space: &Space, world: &World) -> Option<(&'static str, String)> {
    if (0..world.pods.len()).any(|pod| world.leads(&space.setup, pod)) {
        return None;
    }
    let mut due = Vec::new();
    world.due(&space.setup, &mut due);
    if !due.is_empty() {
        return None;
    }
    let setup = Setup { grid: Duration::from_nanos(1), ..space.setup.clone() };
    Calm::ALL.into_iter().filter(|calm| calm.is_of(&setup)).find_map(|calm| {
        let bound = calm.bound(&setup, world);
        match run(space, &setup, world, calm, bound) {
            Ok(waited) => {
                space.counts.calm(calm, waited);
                None
            }
            Err(failure) => Some(failure),
        }
    })
}

fn run(
    space: &Space,
    setup: &Setup,
    world: &World,
    calm: Calm,
    bound: Duration,
) -> Result<Duration, (&'static str, String)> {
    let mut happening = Happening { setup, counts: &space.counts, world: world.clone() };
    let began = happening.world.at;
    happening.faults_end(calm);
    let mut struck = began;
    loop {
        happening.settle();
        happening.restart();
        happening.settle();
        if let Some((invariant, what)) = happening.world.violation {
            return Err((invariant, format!("with faults over ({calm:?}): {what}")));
        }
        let at = happening.world.at;
        let waited = at.since(began);
        if (0..world.pods.len()).any(|pod| happening.world.leads(setup, pod)) {
            return Ok(waited);
        }
        if waited > bound {
            let told: Vec<_> = (0..happening.world.pods.len())
                .map(|pod| happening.world.process(pod).map(|process| process.election.status().message.clone()))
                .collect();
            return Err(("L4", format!("{calm:?}: nobody leads {bound:?} after the end of all faults: {told:?}")));
        }
        let mut next = happening.world.next_moment(setup);
        let second = Time(struck.0 + 1_000_000_000);
        if calm.strikes_each_second() && second <= next {
            (next, struck) = (second, second);
        }
        happening.advance_to(next);
        if struck == next {
            match calm {
                Calm::Labelled => happening.edit(&Edit::Label),
                Calm::Restarted => happening.all_crash(),
                Calm::AllArrives | Calm::LateIsLost => {}
            }
        }
    }
}

impl Happening<'_> {
    fn faults_end(&mut self, calm: Calm) {
        if calm == Calm::LateIsLost {
            self.world.under_way.retain(|message| !message.late);
        }
        for message in &mut self.world.under_way {
            if message.late {
                message.late = false;
            }
        }
        for pod in 0..self.world.pods.len() {
            if self.world.process(pod).is_some_and(|process| process.paused) {
                self.pause(pod, false);
            }
            if self.world.process(pod).is_some_and(|process| process.watch_is_silent()) {
                self.watch_is_well(pod, calm != Calm::LateIsLost);
            }
            let ending = self.world.process(pod).is_none_or(|process| process.is_ending());
            if self.world.pods[pod].app != App::Alive && !ending {
                self.app_is(pod, App::Alive);
            }
        }
        self.restart();
    }

    /// They are started again at once. Those that are ending go on, as their pods do not come back.
    fn all_crash(&mut self) {
        // Who leads after a step-down (L2) is said where nothing else happens.
        self.world.stepped_down = None;
        for pod in 0..self.world.pods.len() {
            if self.world.process(pod).is_some_and(|process| !process.is_ending()) {
                self.crash(pod, false);
            }
        }
        self.restart();
    }

    fn restart(&mut self) {
        for pod in 0..self.world.pods.len() {
            let this = &self.world.pods[pod];
            if this.process.is_none() && (!this.replaced || this.is_over()) {
                self.world.pods[pod].app = App::Alive;
                self.start(pod);
            }
        }
    }
}
