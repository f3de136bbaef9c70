//! What an election is told, and what it says is to be done: the whole of its contact with the world.

use std::time::Duration;

use super::record::{Record, Spec, StepDown};
use super::seen::{Seen, Via};
use super::status::Status;
use crate::time::Moment;

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The Lease, or its absence as of `version`, seen by the watch or its list.
    Observed { record: Option<Record>, version: u64, via: Via },
    /// The watch lives, and has nothing to say (a bookmark).
    Heard,
    /// The Lease cannot be listed or watched; `advice` says what to do about it.
    WatchFailed { advice: String },
    /// The answer to [`Output::Read`]; `None` when it failed, which decides nothing.
    Read(Option<(Option<Record>, u64)>),
    /// What became of a write.
    Wrote { attempt: u64, outcome: Outcome },
    /// Time passed.
    Tick,
    /// The not-leader published with this `Status::version` is now what everybody is told, and the last promise ended
    /// or ends then. Before `enforced_until` somebody may work whom neither the app's end nor its word binds: who
    /// enforces a term's end, and who reads a file that could not be written.
    Withdrawn { version: u64, promised_until: Moment, enforced_until: Moment },
    /// The app lives.
    AppAlive,
    /// It does not, and `why`; `proved` when that is a proof that nothing acts on what was promised.
    AppGone { proved: bool, why: String },
    /// The app says that it stopped acting on this token.
    AppStopped { token: u64 },
    /// Hand over, to this pod if it is named.
    StepDown { to: Option<String> },
    /// Who contends beside this candidate, as others' own Leases show: how many with it, and who should lead next.
    Rivals { count: u32, successor: Option<String> },
    /// End: release, and say [`Output::Done`].
    Shutdown(Shutdown),
}

/// How this process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shutdown {
    /// The operator asserts that the app ended before.
    pub app_ended: bool,
    /// Until then a leader whose app lives leads on.
    pub leave_at: Moment,
    /// It ends then, released or not.
    pub end_by: Moment,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Written, and this is the object now.
    Committed(Box<Record>),
    /// Not written: the base is not the newest version any more, or the object is gone, or exists already.
    Conflict,
    /// Perhaps written: no answer, a broken connection, a server error.
    Unknown,
    /// Not written, by the server's decision; `advice` says what to do about it.
    Refused { advice: String, retry_after: Option<Duration> },
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Keep this in the state directory, before anything that follows.
    Remember(Box<Seen>),
    /// From now on tell this. A status that does not lead is answered by [`Input::Withdrawn`] once that is so
    /// everywhere.
    Publish(Status),
    Write(Write),
    /// Read the Lease consistently; `fresh` on a new connection, for the present one may be dead.
    Read {
        timeout: Duration,
        fresh: bool,
    },
    /// List and watch anew.
    RestartWatch,
    /// Call again at this moment at the latest.
    WakeAt(Moment),
    /// The process may end, as far as this lease goes.
    Done,
}

/// One write: a compare-and-swap on `base`, or a creation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    pub attempt: u64,
    pub kind: Kind,
    /// uid and resourceVersion that are replaced; both are always sent (S5).
    pub base: Option<Base>,
    pub spec: Spec,
    /// What a release says to whom: the named successor goes first.
    pub step_down: Option<StepDown>,
    /// Give up then, and close the connection.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Base {
    pub uid: String,
    pub version: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A Lease that nobody holds.
    Create,
    /// Sets the token; drops the proof of release, a step-down request, and ownerReferences to Pods.
    Acquire {
        token: u64,
    },
    Renew,
    /// Sets the proof of release, the renewTime of this very write, and [`Write::step_down`].
    Release,
}

/// What an acknowledgement of the app is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// It is this term's, and the term has ended.
    Accepted,
    /// The term goes on.
    StillLeading,
    /// No term of this process ended with this token.
    WrongToken,
}
