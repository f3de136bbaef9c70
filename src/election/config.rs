//! What the election is told once: who this candidate is, and its times.

use std::time::Duration;

/// Bounds the difference in clock rate between two machines: a tenth of a per cent (assumption A1).
pub const RHO_PER_MILLE: u32 = 1;

/// A record that claims more is taken for a mistake, not for a lease (its holder is then waited for as for an
/// unproved release).
pub const LONGEST_LEASE: Duration = Duration::from_secs(24 * 3600);

/// The largest number that every JSON reader holds exactly: 2^53 - 1.
pub const LARGEST_TOKEN: u64 = (1 << 53) - 1;

/// How long one attempt may take, at most.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `<pod>_<random per start>`: what this candidate writes as `holderIdentity`.
    pub identity: String,
    /// D: how long others wait without seeing a renewal before they take. Whole seconds.
    pub lease_duration: Duration,
    /// How long after the sending of its last successful renewal a holder may promise anything.
    pub renew_deadline: Duration,
    /// The pause between a renewal and the next, counted from sending to sending.
    pub renew_interval: Duration,
    /// The pause after a failed attempt.
    pub retry_period: Duration,
    /// The most that one answer promises.
    pub answer_ttl: Duration,
    /// Take an empty holder as free although nothing proves that the last one stopped.
    pub trust_unheld: bool,
    /// How many candidates there are, if known: sizes the jitter.
    pub replicas: Option<u32>,
}

/// The flags' defaults.
impl Default for Config {
    fn default() -> Self {
        Config {
            identity: String::new(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(12),
            renew_interval: Duration::from_secs(3),
            retry_period: Duration::from_secs(1),
            answer_ttl: Duration::from_secs(1),
            trust_unheld: false,
            replicas: None,
        }
    }
}

impl Config {
    /// After sending a renewal, the time in which nobody else can take an unreleased lease: D - 2*rho*D. Once for
    /// this machine's clock and once for the taker's.
    pub fn hold_time(&self) -> Duration {
        self.lease_duration - self.lease_duration * (2 * RHO_PER_MILLE) / 1000
    }

    /// Everything wrong with these times, a sentence each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.lease_duration.subsec_nanos() != 0 {
            faults.push("the lease duration must be whole seconds: the Lease stores it so".into());
        }
        if self.lease_duration < Duration::from_secs(2) || self.lease_duration > LONGEST_LEASE / 24 {
            faults.push("the lease duration must be between 2 seconds and 1 hour".into());
        } else if self.renew_deadline >= self.hold_time() {
            faults.push(format!(
                "the renew deadline ({:?}) must be below {:?}: the lease duration ({:?}) less what two clocks may differ in that time (0.1 % each)",
                self.renew_deadline, self.hold_time(), self.lease_duration
            ));
        }
        if self.renew_interval < Duration::from_secs(1) {
            faults.push("the renew interval must be at least 1 second: the API server pays for each renewal".into());
        }
        if self.renew_interval + self.retry_period >= self.renew_deadline {
            faults.push(format!(
                "the renew deadline ({:?}) must be longer than the renew interval and the retry period together ({:?}), so that one failed renewal can be tried again",
                self.renew_deadline,
                self.renew_interval + self.retry_period
            ));
        }
        if self.retry_period < Duration::from_millis(100) {
            faults.push("the retry period must be at least 100 milliseconds".into());
        }
        if self.answer_ttl < Duration::from_millis(100) || self.answer_ttl > self.renew_deadline {
            faults.push("the answer TTL must be between 100 milliseconds and the renew deadline".into());
        }
        if self.replicas == Some(0) {
            faults.push("the number of replicas must be at least 1".into());
        }
        faults
    }
}
