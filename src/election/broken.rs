//! Rules that a test breaks on purpose, one at a time, to see that the simulator notices. A release build has no
//! such switch: [`Broken::is`] is a constant there.

#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenRule {
    /// Deadlines count from the answer to a write, not from its sending.
    CountFromAnswer,
    /// A holder that sees another's record leads on.
    LeadThroughForeignRecord,
    /// The release does not wait for what was promised.
    ReleaseWithoutWaiting,
    /// An empty holder is free at once, although nothing proves its end.
    TrustEmptyHolder,
    /// A success queued behind the deadline brings the term back.
    RevivePastDeadline,
    /// A watch that replays old versions is believed.
    BelieveOlderVersions,
    /// An edit of labels restarts the age of a record.
    LabelsRestartAge,
    /// The token is one more than the transitions.
    TokenFromTransitions,
    /// Challengers compare with the newest duration of a term, not with its largest.
    NewestDuration,
    /// A withdrawal counts although it answers the end of an earlier term.
    OldWithdrawalCounts,
}

impl BrokenRule {
    pub const ALL: [BrokenRule; 10] = [
        BrokenRule::CountFromAnswer,
        BrokenRule::LeadThroughForeignRecord,
        BrokenRule::ReleaseWithoutWaiting,
        BrokenRule::TrustEmptyHolder,
        BrokenRule::RevivePastDeadline,
        BrokenRule::BelieveOlderVersions,
        BrokenRule::LabelsRestartAge,
        BrokenRule::TokenFromTransitions,
        BrokenRule::NewestDuration,
        BrokenRule::OldWithdrawalCounts,
    ];
}

/// Which rule is broken, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Broken {
    #[cfg(debug_assertions)]
    rule: Option<BrokenRule>,
}

impl Broken {
    #[cfg(debug_assertions)]
    pub(super) fn by(rule: BrokenRule) -> Self {
        Broken { rule: Some(rule) }
    }

    #[cfg(debug_assertions)]
    pub(super) fn is(self, rule: BrokenRule) -> bool {
        self.rule == Some(rule)
    }

    #[cfg(not(debug_assertions))]
    pub(super) const fn is(self, _: BrokenRule) -> bool {
        false
    }
}
