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
    /// The release does not wait for who enforces the term's end.
    EnforcerNotWaitedFor,
    /// A request to step down is heeded whatever term it speaks of.
    HeedAnyRequest,
    /// A request that names the leader itself is heeded.
    HeedOwnName,
    /// A release does not say who should lead then.
    ReleaseNamesNobody,
    /// The others do not let a named successor go first.
    NoHeadStart,
    /// Who stepped down takes again at once.
    NoHoldOff,
    /// A leader whose app lives leads on until its process has to end.
    LeaveAtTheEnd,
    /// A leader whose app lives is not waited for.
    LeaveAtOnce,
    /// A process that was told to end stays until it has released, however long that takes.
    EndWhenReleased,
    /// Who trusts an unheld Lease takes a held one as well.
    TrustHeld,
    // Of the sidecar around the election, and of `exec`: the simulator breaks its own copy of these.
    /// That nobody holds the app's lock is seen, and the lock is not taken.
    LockNotTaken,
    /// The app's lock is let go before everything says not-leader.
    LockLetGoEarly,
    /// The end of a session proves the app's end also when this side closed it.
    ClosedByUsProves,
    /// The end of the session that led proves the end of all that was told.
    OneSessionsEndProves,
    /// After a restart, an exclusive session is told at once what a former one may still act on.
    FormerSessionsForgotten,
    /// A file that could not be written is not waited for.
    OldFileForgotten,
    /// After a restart, who enforces the end of the former sidecar's term is not waited for.
    FormerEnforcerForgotten,
    /// `exec` takes the lease's lock after it read the yes on which it begins.
    ReadBeforeLock,
    /// `exec` works until `stop_by` although somebody else changed the Lease.
    ForeignChangeIgnored,
}

impl BrokenRule {
    pub const ALL: [BrokenRule; 29] = [
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
        BrokenRule::EnforcerNotWaitedFor,
        BrokenRule::HeedAnyRequest,
        BrokenRule::HeedOwnName,
        BrokenRule::ReleaseNamesNobody,
        BrokenRule::NoHeadStart,
        BrokenRule::NoHoldOff,
        BrokenRule::LeaveAtTheEnd,
        BrokenRule::LeaveAtOnce,
        BrokenRule::EndWhenReleased,
        BrokenRule::TrustHeld,
        BrokenRule::LockNotTaken,
        BrokenRule::LockLetGoEarly,
        BrokenRule::ClosedByUsProves,
        BrokenRule::OneSessionsEndProves,
        BrokenRule::FormerSessionsForgotten,
        BrokenRule::OldFileForgotten,
        BrokenRule::FormerEnforcerForgotten,
        BrokenRule::ReadBeforeLock,
        BrokenRule::ForeignChangeIgnored,
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
