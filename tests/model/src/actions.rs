//! What may happen next in a state, and the state space that follows from it.

use std::sync::Arc;

use stateright::{Model, Property};

use crate::calm;
use crate::hashed::Hashed;
use crate::report::Counts;
use crate::setup::{Fault, Setup};
use crate::trace::Time;
use crate::world::{App, Awaited, Edit, Happening, Message, What, World};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing is left to be done at this instant.
    Advance,
    /// A message under way arrives, by its place.
    Arrives(usize),
    /// The next event of a pod's watch.
    Event(usize),
    Tick(usize),
    GivesUp(usize, Awaited),
    Relists(usize),
    Resumes(usize),
    Starts(usize),
    AppIsBack(usize),
    /// Whoever worked under `exec` in a term that is over.
    WorkEnds(usize),
    Fault(Fault, Strikes),
}

/// Whom or what a fault strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strikes {
    Message(usize),
    Pod(usize),
    /// It hands over to the other.
    From(usize, usize),
    Lease(Edit),
}

/// The state space of one setup.
#[derive(Clone)]
pub struct Space {
    pub setup: Setup,
    pub counts: Arc<Counts>,
    ends: Time,
    first: World,
}

impl Space {
    pub fn new(setup: Setup) -> Space {
        let counts = Arc::new(Counts::default());
        let mut beginning = Happening { setup: &setup, counts: &Counts::default(), world: World::at_start(&setup) };
        beginning.begin();
        let first = beginning.world;
        Space { ends: first.at.plus(setup.horizon), first, counts, setup }
    }
}

impl Model for Space {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.first.clone()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.violation.is_some() {
            return;
        }
        let setup = &self.setup;
        world.due(setup, actions);
        let at_rest = actions.is_empty();
        world.free(actions);
        if world.faults < setup.faults {
            world.faults(setup, actions);
        }
        if at_rest && world.next_moment(setup) <= self.ends {
            actions.push(Action::Advance);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        if let Action::Fault(fault, _) = &action {
            self.counts.strikes(*fault);
        }
        let mut happening = Happening { setup: &self.setup, counts: &self.counts, world: world.clone() };
        happening.happen(&action);
        Some(happening.world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no invariant is violated", |_, world: &World| world.violation.is_none()),
            Property::always("with faults over, somebody leads", |space: &Space, world| {
                calm::judge(space, world).is_none()
            }),
        ]
    }
}

impl World {
    /// What happens at this instant, in whatever order: time does not go on before it.
    pub fn due(&self, setup: &Setup, actions: &mut Vec<Action>) {
        let runs = |pod: usize| self.process(pod).is_some_and(|process| !process.paused);
        for (i, message) in self.under_way.iter().enumerate() {
            if !message.late && (message.is_request() || runs(message.pod)) {
                actions.push(Action::Arrives(i));
            }
        }
        for pod in 0..self.pods.len() {
            self.due_in(setup, pod, actions);
        }
    }

    /// What is due in a process but the answers to it.
    fn due_in(&self, setup: &Setup, pod: usize, actions: &mut Vec<Action>) {
        if let Some(process) = self.process(pod).filter(|process| !process.paused) {
            let now = setup.clock(pod).boot(self.at);
            if process.has_event() && !process.watch_is_silent() {
                actions.push(Action::Event(pod));
            }
            if now >= process.wake_at {
                actions.push(Action::Tick(pod));
            }
            for awaited in [Awaited::Write, Awaited::Read, Awaited::List] {
                if process.is_due(awaited, now) {
                    actions.push(Action::GivesUp(pod, awaited));
                }
            }
            if process.is_to_relist(now) {
                actions.push(Action::Relists(pod));
            }
        }
    }

    fn has_to_do(&self, setup: &Setup, pod: usize) -> bool {
        let mut due = Vec::new();
        self.due_in(setup, pod, &mut due);
        let answers = |message: &Hashed<Message>| message.pod == pod && !message.late && !message.is_request();
        !due.is_empty() || self.under_way.iter().any(answers)
    }

    /// What may happen now or later, or never, and is no new fault: the end of one that was.
    fn free(&self, actions: &mut Vec<Action>) {
        for (i, message) in self.under_way.iter().enumerate() {
            let runs = self.process(message.pod).is_some_and(|process| !process.paused);
            if message.late && (message.is_request() || runs) {
                actions.push(Action::Arrives(i));
            }
        }
        for (pod, this) in self.pods.iter().enumerate() {
            match &this.process {
                None if !this.replaced || this.is_over() => actions.push(Action::Starts(pod)),
                None => {}
                Some(process) if process.paused => actions.push(Action::Resumes(pod)),
                Some(process) => {
                    if process.has_event() && process.watch_is_silent() {
                        actions.push(Action::Event(pod));
                    }
                    if this.works.is_some() && process.election.status().leading.is_none() {
                        actions.push(Action::WorkEnds(pod));
                    }
                    if this.app != App::Alive && !process.is_ending() {
                        actions.push(Action::AppIsBack(pod));
                    }
                }
            }
        }
    }

    fn faults(&self, setup: &Setup, actions: &mut Vec<Action>) {
        let mut may = |fault: Fault, strikes: Strikes| {
            if setup.allows(fault) {
                actions.push(Action::Fault(fault, strikes));
            }
        };
        for (i, message) in self.under_way.iter().enumerate() {
            if !message.late {
                may(Fault::Late, Strikes::Message(i));
                if matches!(message.what, What::Put { .. }) {
                    may(Fault::Refused, Strikes::Message(i));
                }
            }
        }
        for (pod, this) in self.pods.iter().enumerate() {
            let Some(process) = &this.process else { continue };
            let on_pod = || Strikes::Pod(pod);
            may(Fault::Crashed, on_pod());
            may(Fault::CrashedStateLost, on_pod());
            if process.paused {
                continue;
            }
            // Until something comes, one that does not run is as one that has nothing to do.
            if self.has_to_do(setup, pod) {
                may(Fault::Paused, on_pod());
            }
            if process.has_event() {
                if !process.watch_is_silent() {
                    may(Fault::WatchSilent, on_pod());
                }
                may(Fault::WatchBroken, on_pod());
            }
            if process.watch_is_on() && self.server.previous.is_some() {
                may(Fault::WatchReplays, on_pod());
            }
            if this.app == App::Alive {
                may(Fault::AppDied, on_pod());
                may(Fault::AppUnwell, on_pod());
            }
            if !process.is_ending() {
                may(Fault::Terminated, on_pod());
                may(Fault::TerminatedAppFirst, on_pod());
                may(Fault::TerminatedWaiting, on_pod());
            }
            if self.leads(setup, pod) {
                may(Fault::SteppedDown, on_pod());
                for to in (0..self.pods.len()).filter(|to| *to != pod) {
                    may(Fault::SteppedDownTo, Strikes::From(pod, to));
                }
            }
        }
        self.faults_by_hand(&mut may);
    }

    fn all_have_seen(&self, version: u64) -> bool {
        (0..self.pods.len())
            .all(|pod| self.process(pod).is_some_and(|process| process.election.seen().version() == version))
    }

    fn faults_by_hand(&self, may: &mut impl FnMut(Fault, Strikes)) {
        let Some(object) = &self.server.api.object else { return };
        may(Fault::Labelled, Strikes::Lease(Edit::Label));
        may(Fault::TokenRaised, Strikes::Lease(Edit::RaiseToken));
        if object.record.spec.duration_seconds != Some(1) && self.all_have_seen(object.record.version) {
            may(Fault::DurationCut, Strikes::Lease(Edit::CutDuration));
        }
        let (named, hears) = self.named();
        if let (Some(token), Some(named)) = (self.record_token(), named) {
            let ask = |token, to| Strikes::Lease(Edit::AskToStepDown { token, to });
            may(Fault::StepDownAsked, ask(token, None));
            may(Fault::StepDownAskedOfAnotherTerm, ask(token - 1, None));
            may(Fault::StepDownAskedForItself, ask(token, Some(format!("pod-{named}"))));
        }
        if hears {
            may(Fault::Deleted, Strikes::Lease(Edit::Delete));
            may(Fault::HolderEdited, Strikes::Lease(Edit::Holder));
            for pod in (0..self.pods.len()).filter(|pod| Some(*pod) != named) {
                if let Some(process) = self.process(pod) {
                    may(Fault::HolderEditedToCandidate, Strikes::Lease(Edit::HolderTo(process.identity.clone())));
                }
            }
            if object.record.holder().is_some() {
                may(Fault::Blanked, Strikes::Lease(Edit::Blank));
            }
        }
    }
}

impl Happening<'_> {
    pub fn happen(&mut self, action: &Action) {
        match action {
            Action::Advance => {
                self.judge_rest();
                self.advance_to(self.world.next_moment(self.setup));
            }
            Action::Arrives(index) if self.world.under_way[*index].is_request() => self.serve(*index),
            Action::Arrives(index) => self.deliver(*index),
            Action::Event(pod) => self.event(*pod),
            Action::Tick(pod) => self.tick(*pod),
            Action::GivesUp(pod, awaited) => self.give_up(*pod, *awaited),
            Action::Relists(pod) => self.list(*pod),
            Action::Resumes(pod) => self.pause(*pod, false),
            Action::Starts(pod) => self.start(*pod),
            Action::WorkEnds(pod) => self.work_ends(*pod),
            Action::AppIsBack(pod) => self.app_is(*pod, App::Alive),
            Action::Fault(fault, strikes) => {
                self.world.faults += 1;
                self.strike(*fault, strikes);
            }
        }
    }

    fn strike(&mut self, fault: Fault, strikes: &Strikes) {
        self.world.outages = self.world.outages.saturating_add(match fault {
            Fault::Labelled | Fault::WatchBroken => 0,
            Fault::Late | Fault::Refused => 1,
            _ => 2,
        });
        match (fault, strikes) {
            (Fault::Refused, Strikes::Message(index)) => self.refuse(*index),
            (_, Strikes::Message(index)) => self.world.under_way[*index].late = true,
            (_, Strikes::Lease(edit)) => self.edit(edit),
            (_, Strikes::From(pod, to)) => self.step_down(*pod, Some(*to)),
            (Fault::SteppedDown, Strikes::Pod(pod)) => self.step_down(*pod, None),
            (Fault::WatchSilent, Strikes::Pod(pod)) => self.silence(*pod),
            (Fault::WatchBroken, Strikes::Pod(pod)) => self.watch_breaks(*pod),
            (Fault::WatchReplays, Strikes::Pod(pod)) => self.replay(*pod),
            (Fault::Paused, Strikes::Pod(pod)) => self.pause(*pod, true),
            (Fault::Crashed, Strikes::Pod(pod)) => self.crash(*pod, false),
            (Fault::CrashedStateLost, Strikes::Pod(pod)) => self.crash(*pod, true),
            (Fault::AppDied, Strikes::Pod(pod)) => self.app_is(*pod, App::Dead),
            (Fault::AppUnwell, Strikes::Pod(pod)) => self.app_is(*pod, App::Unwell),
            (how, Strikes::Pod(pod)) => self.terminate(*pod, how),
        }
    }

    /// Everything that is due at this instant, in one order.
    pub fn settle(&mut self) {
        let mut due = Vec::new();
        for _ in 0..MOST_AT_ONE_INSTANT {
            due.clear();
            self.world.due(self.setup, &mut due);
            let Some(action) = due.first().filter(|_| self.world.violation.is_none()) else { return };
            self.happen(action);
        }
        self.world
            .violation
            .get_or_insert_with(|| ("endless", "there is always more to be done at one instant".into()));
    }
}

const MOST_AT_ONE_INSTANT: u32 = 400;

/// One step of a path, in words.
pub fn in_words(world: &World, action: &Action) -> String {
    let what = |index: &usize| {
        let message = &world.under_way[*index];
        let what = match &message.what {
            What::Put { write, .. } => format!("{:?}, attempt {}", write.kind, write.attempt),
            What::Get { list } => (if *list { "list" } else { "read" }).into(),
            What::Wrote { attempt, outcome } => {
                format!("answer to attempt {attempt}: {}", format!("{outcome:?}").split('(').next().unwrap_or(""))
            }
            What::Got { list, version, .. } => {
                format!("answer to a {}: version {}", if *list { "list" } else { "read" }, version.1)
            }
        };
        format!("pod {}'s {what}", message.pod)
    };
    let text = match action {
        Action::Arrives(index) => format!("arrives: {}", what(index)),
        Action::Fault(fault, Strikes::Message(index)) => format!("*** {fault:?}: {}", what(index)),
        Action::Fault(fault, strikes) => format!("*** {fault:?}: {strikes:?}"),
        other => format!("{other:?}"),
    };
    format!("{} {text}", world.at)
}
