//! Numbers for fault plans: the same seed gives the same plan.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

/// Variable that repeats a run: the seed that a failed test printed.
const SEED: &str = "HOLDFAST_TEST_SEED";

/// A generator (`SplitMix64`; Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of a seed.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    /// One of them.
    pub fn choose<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// A pause below `max_ms`.
    pub fn pause(&mut self, max_ms: u64) -> Duration {
        Duration::from_millis(self.next() % max_ms.max(1))
    }
}

/// The seed in `HOLDFAST_TEST_SEED`, or a new one. Print it.
#[must_use]
pub fn fresh_seed() -> u64 {
    if let Ok(text) = std::env::var(SEED) {
        return text.parse().unwrap_or_else(|_| panic!("{SEED} must be a number"));
    }
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// Random bytes: a plaintext that is found nowhere by chance.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).unwrap();
    bytes
}
