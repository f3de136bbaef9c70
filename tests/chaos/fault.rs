//! Every kind of fault, what it does to whom, and the decks that they are dealt from.

use crate::rng::Rng;

use Effect::{Harmless, Hinders, Muddles};

/// What a fault does to the candidate that it befalls, or to all where it befalls none in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that lasts: its moment counts.
    Harmless,
    /// It cannot take or keep the lease meanwhile.
    Hinders,
    /// The same, and its writes may land although it does not hear of it: nobody else can be sure to take over.
    Muddles,
}

macro_rules! faults {
    ($($name:ident: $deck:ident, $effect:ident, $text:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($name,)* }

        impl Fault {
            pub const ALL: &[Fault] = &[$(Fault::$name,)*];

            pub fn deck(self) -> Deck {
                match self { $(Fault::$name => Deck::$deck,)* }
            }

            pub fn effect(self) -> Effect {
                match self { $(Fault::$name => $effect,)* }
            }

            pub fn text(self) -> &'static str {
                match self { $(Fault::$name => $text,)* }
            }
        }
    };
}

faults! {
    Cut: Link, Hinders, "cut";
    CutEverybody: Link, Hinders, "everybody cut";
    Flap: Link, Hinders, "flapping";
    Silence: Link, Hinders, "silent";
    SilenceRequests: Link, Hinders, "requests silent";
    SilenceReplies: Link, Muddles, "replies silent";
    DelayRequests: Link, Muddles, "requests late";
    DelayReplies: Link, Muddles, "replies late";
    Late: Link, Muddles, "last answer late, then requests silent";
    Doze: Link, Muddles, "frozen over an answer, then requests silent";
    Throttle: Link, Muddles, "throttled";
    LoseAnswers: Link, Muddles, "answers lost";
    ConnectLate: Link, Hinders, "connects late";
    Switch: Link, Harmless, "cut and switched to the other API server";
    SwitchLater: Link, Harmless, "next connection to the other API server";

    Freeze: Process, Hinders, "frozen";
    Kill: Process, Hinders, "killed, restarted with its state";
    KillAndForget: Process, Hinders, "killed, restarted without its state";
    ReplacePod: Process, Hinders, "pod killed, another of its name started";
    Terminate: Process, Hinders, "terminated, auto";
    TerminateAfterApp: Process, Hinders, "terminated, release";
    TerminateBeforeApp: Process, Hinders, "terminated, wait-for-app";
    KillLockingApp: Process, Hinders, "app with the lock killed";
    KillSessionApp: Process, Hinders, "app with a session killed";
    KillSilentApp: Process, Harmless, "app that shows nothing killed";

    StopServer: Control, Muddles, "API server stopped";
    KillServer: Control, Hinders, "API server killed and restarted";
    StopBoth: Control, Muddles, "both API servers stopped";
    KillBoth: Control, Hinders, "both API servers killed and restarted";
    StopEtcd: Control, Muddles, "etcd stopped";
    KillEtcd: Control, Hinders, "etcd killed and restarted";
    Compact: Control, Harmless, "etcd compacted";
    CompactUnseen: Control, Muddles, "etcd compacted while an API server was stopped";

    Label: Edit, Harmless, "label set";
    Annotate: Edit, Harmless, "annotation set";
    StepDown: Edit, Harmless, "step-down";
    StepDownTo: Edit, Harmless, "step-down for a named successor";
    StepDownByLease: Edit, Harmless, "step-down by annotation";

    // What assumption A3 allows under a leader that is connected and runs only.
    Empty: Surgery, Harmless, "holder emptied without proof";
    Delete: Surgery, Harmless, "Lease deleted";
    Lengthen: Surgery, Harmless, "duration changed";
    GiveAway: Surgery, Harmless, "holder overwritten";

    // Nobody does it: the machine does, when more wants to run than can.
    Slow: Machine, Muddles, "writes of the API server took long by themselves";
}

/// Faults that one lane deals out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deck {
    Link,
    Process,
    Control,
    Edit,
    Surgery,
    Machine,
}

impl Deck {
    pub const ALL: [Deck; 6] = [Deck::Link, Deck::Process, Deck::Control, Deck::Edit, Deck::Surgery, Deck::Machine];

    pub fn text(self) -> &'static str {
        match self {
            Deck::Link => "links",
            Deck::Process => "processes",
            Deck::Control => "control plane",
            Deck::Edit => "edits at any time",
            Deck::Surgery => "edits of a calm Lease",
            Deck::Machine => "machine",
        }
    }

    pub fn faults(self) -> impl Iterator<Item = Fault> + Clone {
        Fault::ALL.iter().copied().filter(move |fault| fault.deck() == self)
    }
}

/// What befalls a leader alone, while nothing hinders the others: here a promise that is too long shows at once.
pub const ALONE: [Fault; 11] = [
    Fault::Cut,
    Fault::Silence,
    Fault::SilenceRequests,
    Fault::SilenceReplies,
    Fault::Late,
    Fault::Doze,
    Fault::LoseAnswers,
    Fault::Freeze,
    Fault::Kill,
    Fault::KillAndForget,
    Fault::Terminate,
];

/// Deals each fault of some once before any comes again, in an order that its number decides.
pub struct Dealer {
    all: Vec<Fault>,
    left: Vec<Fault>,
    pub rng: Rng,
}

impl Dealer {
    pub fn new(all: impl IntoIterator<Item = Fault>, seed: u64) -> Self {
        Self { all: all.into_iter().collect(), left: Vec::new(), rng: Rng::new(seed) }
    }

    pub fn deal(&mut self) -> Fault {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
        }
        let card = self.rng.between(0, self.left.len() as u64 - 1);
        self.left.swap_remove(card as usize)
    }
}
