//! One number makes a whole schedule: splitmix64, the same on every machine.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds are to give unlike schedules.
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        rng.next();
        rng
    }

    /// Another one, which takes nothing from this one.
    pub fn fork(&self) -> Rng {
        Rng::new(self.0)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [low, high]; `low` when the range is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        if high <= low { low } else { low + self.next() % (high - low + 1) }
    }

    pub fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_nanos(self.between(low.as_nanos() as u64, high.as_nanos() as u64))
    }

    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        self.duration(Duration::from_millis(low), Duration::from_millis(high))
    }

    /// True `n` times in ten thousand.
    pub fn in_10_000(&mut self, n: u32) -> bool {
        n > 0 && self.next() % 10_000 < u64::from(n)
    }

    pub fn percent(&mut self, n: u32) -> bool {
        self.in_10_000(n * 100)
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.between(0, of.len() as u64 - 1) as usize]
    }
}
