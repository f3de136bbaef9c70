//! How long a candidate waits before it takes a free lease, so that of many few collide.
//!
//! The delay within [0, T] has a density that grows exponentially towards T: the more candidates, the rarer an early
//! one, so that the first is alone although nobody knows who it is.

use std::hash::{Hash, Hasher};
use std::time::Duration;

const SMALLEST: Duration = Duration::from_millis(4);
const FIRST: Duration = Duration::from_millis(12);
const LARGEST: Duration = Duration::from_millis(250);
/// After an expiry nobody waits for milliseconds, and everybody becomes ready within a clock's granularity.
const AFTER_EXPIRY: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Jitter {
    state: u64,
    /// ln m + 1 for m candidates, or 7 where that is not known: that of some 400.
    lambda: f64,
    longest: Duration,
    n_known: bool,
}

impl Jitter {
    pub fn new(seed: u64, replicas: Option<u32>) -> Self {
        let mut jitter = Jitter { state: seed, lambda: 7.0, longest: FIRST, n_known: false };
        if let Some(replicas) = replicas {
            jitter.know(replicas);
        }
        jitter
    }

    /// There are so many candidates.
    pub fn know(&mut self, replicas: u32) {
        // One of all has just let go of it, and is no candidate.
        let m = f64::from(replicas.saturating_sub(1).max(1));
        self.lambda = m.ln() + 1.0;
        // Who is alone has nobody to wait for.
        self.longest = Duration::from_secs_f64(0.002 * self.lambda * (1.0 - 1.0 / m));
        self.n_known = true;
    }

    /// The wait before taking a record that was released, or (`expired`) one that ran out.
    pub fn delay(&mut self, expired: bool) -> Duration {
        let longest = if expired { self.longest.max(AFTER_EXPIRY) } else { self.longest };
        longest.mul_f64(share(self.lambda, self.uniform()))
    }

    /// A take-over of ours met another's.
    pub fn collided(&mut self) {
        if !self.n_known {
            self.longest = (self.longest * 2).min(LARGEST);
        }
    }

    /// Somebody took over and we did not collide.
    pub fn saw_quiet_takeover(&mut self) {
        if !self.n_known {
            self.longest = (self.longest * 4 / 5).max(SMALLEST);
        }
    }

    /// In [0, 1). splitmix64: a seed gives the same run everywhere.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Which share of the range a uniform `u` of [0, 1) becomes: the inverse of the distribution whose density grows with
/// e to the lambda.
fn share(lambda: f64, u: f64) -> f64 {
    ((1.0 + u * (lambda.exp() - 1.0)).ln() / lambda).clamp(0.0, 1.0)
}

// For the model checker, which compares whole states: by its bits.
impl Jitter {
    #[cfg(debug_assertions)]
    pub fn reseed(&mut self, seed: u64) {
        self.state = seed;
    }

    fn bits(&self) -> (u64, u64, Duration, bool) {
        (self.state, self.lambda.to_bits(), self.longest, self.n_known)
    }
}

impl PartialEq for Jitter {
    fn eq(&self, other: &Self) -> bool {
        self.bits() == other.bits()
    }
}

impl Eq for Jitter {}

impl Hash for Jitter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bits().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F(x) = (e^(lambda x) - 1) / (e^lambda - 1), so that half of all are later than 1 + ln((1 + e^-lambda) / 2) / lambda.
    #[test]
    fn the_share_is_the_inverse_of_its_distribution() {
        for lambda in [1.0, 2.5, 7.0_f64] {
            assert!(share(lambda, 0.0).abs() < 1e-12);
            assert!((share(lambda, 1.0) - 1.0).abs() < 1e-12);
            let median = 1.0 + ((1.0 + (-lambda).exp()) / 2.0).ln() / lambda;
            assert!((share(lambda, 0.5) - median).abs() < 1e-12, "{lambda}: {}", share(lambda, 0.5));
        }
    }

    #[test]
    fn few_of_many_candidates_are_early() {
        let mut jitter = Jitter::new(1, Some(1000));
        let longest = jitter.longest;
        let delays: Vec<_> = (0..10_000).map(|_| jitter.delay(false)).collect();
        assert!(delays.iter().all(|delay| *delay <= longest));
        let early = delays.iter().filter(|delay| **delay < longest / 2).count();
        assert!(early < 500, "{early} of 10000 in the first half");
        assert!(early > 0, "the first half is never used");
    }

    #[test]
    fn the_only_other_replica_does_not_wait() {
        for n in [1, 2] {
            assert_eq!(Jitter::new(1, Some(n)).delay(false), Duration::ZERO);
        }
        assert!(Jitter::new(1, Some(3)).longest > Duration::from_millis(1));
    }

    #[test]
    fn the_range_follows_collisions_when_the_number_is_not_known() {
        let mut jitter = Jitter::new(1, None);
        for _ in 0..10 {
            jitter.collided();
        }
        assert_eq!(jitter.longest, LARGEST);
        jitter.saw_quiet_takeover();
        assert_eq!(jitter.longest, LARGEST * 4 / 5);
        for _ in 0..50 {
            jitter.saw_quiet_takeover();
        }
        assert_eq!(jitter.longest, SMALLEST);
    }
}
