//! Rules that a test breaks on purpose, one at a time, to see that the simulator notices. A release build has no
//! such switch: [`Broken::is`] is a constant there.

/// The rules, each with the sentence that says what is wrong with it.
macro_rules! rules {
    ($($rule:ident: $sentence:literal,)*) => {
        #[doc(hidden)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum BrokenRule {
            $(#[doc = $sentence] $rule,)*
        }

        impl BrokenRule {
            pub const ALL: &[BrokenRule] = &[$(BrokenRule::$rule,)*];

            pub const fn sentence(self) -> &'static str {
                match self {
                    $(BrokenRule::$rule => $sentence,)*
                }
            }
        }
    };
}

rules! {
    CountFromAnswer: "Deadlines count from the answer to a write, not from its sending.",
    ForgetRho: "Others are taken to wait the whole lease duration, whatever their clocks' rates.",
    LeadUntilStopBy: "A term may promise until others can take the lease, not until the renew deadline.",
    ReuseRenewTime: "Each attempt writes the same renewTime.",
    ConflictIsSuccess: "A 409 to a renewal counts as a renewal.",
    ConflictIsLoss: "A 409 to a renewal ends the term, and nobody looks what made it.",
    FailedReadIsSuccess: "A read that fails after a conflict counts as a renewal.",
    FailedReadIsLoss: "A read that fails ends the term.",
    RetryOnFirstBase: "A retry replaces the version that the attempt before it did, whatever was seen since.",
    LossEndsCampaign: "Who lost a term to somebody else campaigns no more.",
    ObeyRetryAfter: "A holder waits as long as a 429 asks for.",
    RevivePastDeadline: "A success queued behind the deadline brings the term back.",
    OldReadGoesBack: "A read sent before the newest version was received may go back behind it.",
    BelieveOlderVersions: "A watch that replays old versions is believed.",
    LeadThroughForeignRecord: "A holder that sees another's record leads on.",
    HoldBlindly: "A holder that cannot watch looks as rarely as a challenger.",
    LeadThroughEdits: "A holder whose Lease was edited or deleted leads on.",
    AnyRecordInMyName: "A record that names this process is its own, whoever wrote it.",
    AnyFormersRecord: "A record that names a former sidecar of this pod is this pod's, whoever wrote it.",
    ReleasePutBack: "An old record of this process that somebody put back is released.",
    ReleaseOverAnother: "A release is written over whatever the record has become.",
    ReleaseWithoutWaiting: "The release does not wait for what was promised.",
    ReleaseBeforePublishing: "The release is sent before not-leader is published.",
    OldWithdrawalCounts: "A withdrawal counts although it answers the end of an earlier term.",
    EnforcerNotWaitedFor: "The release does not wait for who enforces the term's end.",
    TrustEmptyHolder: "An empty holder is free at once, although nothing proves its end.",
    AnyProof: "A proof of release counts whichever renewTime it names.",
    TrustHeld: "Who trusts an unheld Lease takes a held one as well.",
    TrustWallClock: "A record is old when the wall clock says so.",
    LabelsRestartAge: "An edit of labels restarts the age of a record.",
    NewestDuration: "Challengers compare with the newest duration of a term, not with its largest.",
    ShortDurationBelieved: "Challengers compare with the record's duration, also where it is shorter than their own.",
    LeadAsCreated: "Who creates the Lease takes it at once.",
    TokenFromTransitions: "The token is one more than the transitions.",
    TokenIgnoresAnnotation: "The token grows from the versions alone.",
    TransitionsStand: "A take-over does not count as a transition.",
    HeedAnyRequest: "A request to step down is heeded whatever term it speaks of.",
    HeedOwnName: "A request that names the leader itself is heeded.",
    ReleaseNamesNobody: "A release does not say who should lead then.",
    NoHeadStart: "The others do not let a named successor go first.",
    NoHoldOff: "Who stepped down takes again at once.",
    LeaveAtTheEnd: "A leader whose app lives leads on until its process has to end.",
    LeaveAtOnce: "A leader whose app lives is not waited for.",
    EndWhenReleased: "A process that was told to end stays until it has released, however long that takes.",
    // Of the sidecar around the election, and of `exec`: the simulator breaks its own copy of these.
    UidNotSent: "A write names the version that it replaces, and not the uid.",
    PromiseWithoutTtl: "An answer promises the whole of the renew deadline.",
    PromisePastDeadline: "An answer promises an answer TTL, also past the renew deadline.",
    OtherPodsState: "The state directory of another pod gives the right to its term.",
    SeenForgotten: "A restarted sidecar begins to wait anew.",
    FormerPromiseForgotten: "A restarted sidecar does not wait for what the former one promised.",
    FormerSessionsForgotten: "After a restart, an exclusive session is told at once what a former one may still act on.",
    FormerEnforcerForgotten: "After a restart, who enforces the end of the former sidecar's term is not waited for.",
    LockNotTaken: "That nobody holds the app's lock is seen, and the lock is not taken.",
    LockLetGoEarly: "The app's lock is let go before everything says not-leader.",
    OldAppsEndProves: "The end of an old app counts beside a new one that holds the lock.",
    ClosedByUsProves: "The end of a session proves the app's end also when this side closed it.",
    OneSessionsEndProves: "The end of the session that led proves the end of all that was told.",
    ToldBeforeTheFile: "Not-leader counts as told everywhere before the file says so.",
    OldFileForgotten: "A file that could not be written is not waited for.",
    ReadBeforeLock: "`exec` takes the lease's lock after it read the yes on which it begins.",
    ForeignChangeIgnored: "`exec` works until `stop_by` although somebody else changed the Lease.",
}

/// Which rule is broken, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
