//! What the election says to the world: who leads, and since which moment nobody may believe it any more.
//!
//! A [`Status`] never says "leader" by itself: it carries `valid_until`, and whoever reads it compares that with the
//! clock ([`Status::leading_at`]). So a stalled timer can make a yes end early, never late (S6).

use std::fmt;

use jiff::Timestamp;

use crate::time::Moment;

/// One lease as this pod's election sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// This pod's own term, if it has one. Ask [`Status::leading_at`] instead of looking here.
    pub leading: Option<Leading>,
    /// Who holds the record, as it stands in the Lease (`holderIdentity`).
    pub holder: Option<String>,
    /// `leaseTransitions` of the newest record.
    pub transitions: i32,
    /// When the held record can be taken by others, by this machine's clock, if it is held.
    pub expires_at: Option<Moment>,
    /// Something of the above than changed hands: a reader that saw this number has seen this status.
    /// Renewals move deadlines and leave it.
    pub version: u64,
    pub reason: Reason,
    /// One sentence for people.
    pub message: String,
}

/// The term of the pod that leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leading {
    /// The fencing token of this term.
    pub token: u64,
    /// Nothing is promised at or after it.
    pub valid_until: Moment,
    /// Nobody else can take the unreleased lease before it.
    pub stop_by: Moment,
    /// Wall clock, for people.
    pub acquired_at: Timestamp,
}

impl Status {
    /// What is said before anything is known.
    pub fn starting() -> Self {
        Status {
            leading: None,
            holder: None,
            transitions: 0,
            expires_at: None,
            version: 0,
            reason: Reason::Starting,
            message: "the lease has not been read yet".into(),
        }
    }

    /// The term in force at `now`, if any. S6: nothing else decides whether this pod leads.
    pub fn leading_at(&self, now: Moment) -> Option<&Leading> {
        self.leading.as_ref().filter(|leading| now < leading.valid_until)
    }

    /// The pod behind [`Status::holder`].
    pub fn holder_pod(&self) -> Option<&str> {
        self.holder.as_deref().map(pod_of)
    }
}

/// The pod's name in a holder identity `<pod>_<random>`. A pod's name holds no underscore; an identity without one
/// (as some sidecars write it) is the name itself. A pod's name has at most 253 characters; another party may have
/// written a megabyte, which is cut.
pub fn pod_of(identity: &str) -> &str {
    let name = identity.split_once('_').map_or(identity, |(pod, _)| pod);
    &name[..name.floor_char_boundary(LONGEST_POD_NAME)]
}

/// In bytes, as Kubernetes has it.
pub const LONGEST_POD_NAME: usize = 253;

/// Why this pod leads or does not: stable words, for alerts and scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not leading: the lease has not been read yet.
    Starting,
    /// Leading.
    Leading,
    /// Not leading: another holds the lease.
    HeldByOther,
    /// Not leading: the record is empty or absent and nothing proves that its last holder stopped; waiting it out.
    WaitingUnproved,
    /// Not leading: the Lease never existed, so it is created and waited for.
    Creating,
    /// Not leading: the lease is free and is being taken.
    Acquiring,
    /// Not leading: no renewal succeeded within the renew deadline.
    RenewDeadline,
    /// Not leading: another holder appeared in the record.
    Lost,
    /// Not leading: somebody else edited the record.
    Edited,
    /// Not leading: the Lease was deleted.
    Deleted,
    /// Not leading: stepped down on request.
    SteppedDown,
    /// Not leading: the app is gone or unwell.
    AppNotAlive,
    /// Not leading: another exclusive session of this pod leads.
    OtherSession,
    /// Not leading: this process is ending.
    ShuttingDown,
    /// Not leading: the API server refuses; `message` says what to do.
    Refused,
    /// Not leading: the fencing token in the Lease cannot be read or cannot grow.
    TokenUnusable,
    /// Not leading: the Lease is under coordinated election (`spec.strategy`), which decides by itself.
    CoordinatedElection,
}

impl Reason {
    pub const ALL: [Reason; 17] = [
        Reason::Starting,
        Reason::Leading,
        Reason::HeldByOther,
        Reason::WaitingUnproved,
        Reason::Creating,
        Reason::Acquiring,
        Reason::RenewDeadline,
        Reason::Lost,
        Reason::Edited,
        Reason::Deleted,
        Reason::SteppedDown,
        Reason::AppNotAlive,
        Reason::OtherSession,
        Reason::ShuttingDown,
        Reason::Refused,
        Reason::TokenUnusable,
        Reason::CoordinatedElection,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Starting => "starting",
            Reason::Leading => "leading",
            Reason::HeldByOther => "held_by_other",
            Reason::WaitingUnproved => "waiting_unproved",
            Reason::Creating => "creating",
            Reason::Acquiring => "acquiring",
            Reason::RenewDeadline => "renew_deadline",
            Reason::Lost => "lost",
            Reason::Edited => "edited",
            Reason::Deleted => "deleted",
            Reason::SteppedDown => "stepped_down",
            Reason::AppNotAlive => "app_not_alive",
            Reason::OtherSession => "other_session",
            Reason::ShuttingDown => "shutting_down",
            Reason::Refused => "refused",
            Reason::TokenUnusable => "token_unusable",
            Reason::CoordinatedElection => "coordinated_election",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
