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

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn faults(change: impl FnOnce(&mut Config)) -> usize {
        let mut config = Config::default();
        change(&mut config);
        config.faults().len()
    }

    #[test]
    fn of_a_lease_two_clocks_take_a_thousandth_each() {
        assert_eq!(Config::default().hold_time(), Duration::from_millis(14_970));
        assert_eq!(
            Config { lease_duration: 60 * SECOND, ..Config::default() }.hold_time(),
            Duration::from_millis(59_880)
        );
    }

    #[test]
    fn each_time_is_accepted_up_to_its_bound_and_refused_beyond() {
        assert_eq!(faults(|_| {}), 0);
        // The renew deadline, below what others wait.
        assert_eq!(faults(|c| c.renew_deadline = Duration::from_millis(14_969)), 0);
        assert_eq!(faults(|c| c.renew_deadline = Duration::from_millis(14_970)), 1);
        // It leaves room for a second attempt.
        assert_eq!(faults(|c| c.renew_deadline = 4 * SECOND + MILLISECOND), 0);
        assert_eq!(faults(|c| c.renew_deadline = 4 * SECOND), 1);
        // The lease duration.
        let short = |c: &mut Config| {
            (c.renew_deadline, c.renew_interval, c.retry_period) = (SECOND * 3 / 2, SECOND, SECOND / 4)
        };
        for (duration, wrong) in
            [(2 * SECOND, 0), (SECOND, 1), (SECOND * 5 / 2, 1), (3600 * SECOND, 0), (3601 * SECOND, 1)]
        {
            let change = |c: &mut Config| {
                short(c);
                c.lease_duration = duration;
            };
            assert_eq!(faults(change), wrong, "{duration:?}");
        }
        for (interval, wrong) in [(SECOND, 0), (SECOND - MILLISECOND, 1)] {
            assert_eq!(faults(|c| c.renew_interval = interval), wrong, "{interval:?}");
        }
        for (period, wrong) in [(100 * MILLISECOND, 0), (99 * MILLISECOND, 1)] {
            assert_eq!(faults(|c| c.retry_period = period), wrong, "{period:?}");
        }
        for (ttl, wrong) in
            [(100 * MILLISECOND, 0), (99 * MILLISECOND, 1), (12 * SECOND, 0), (12 * SECOND + MILLISECOND, 1)]
        {
            assert_eq!(faults(|c| c.answer_ttl = ttl), wrong, "{ttl:?}");
        }
        for (replicas, wrong) in [(None, 0), (Some(1), 0), (Some(0), 1)] {
            assert_eq!(faults(|c| c.replicas = replicas), wrong, "{replicas:?}");
        }
    }
}
