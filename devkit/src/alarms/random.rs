//! Chance that comes again with its seed, on every machine: integers only.

/// `SplitMix64`, which is fast and good enough to make up traffic. No key is ever drawn from it.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Chance that belongs to something, a day or an hour of a role, whenever it is asked.
    pub(crate) fn of(seed: u64, what: u64, number: u64) -> Self {
        let mut first = Self(seed ^ what.rotate_left(32));
        Self(first.next() ^ number)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `least` to `most`, both among them.
    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most.saturating_sub(least) + 1)
    }

    pub(crate) fn one_in(&mut self, many: u64) -> bool {
        self.next().is_multiple_of(many.max(1))
    }

    /// How often something happens that happens so many thousandths of a time on the average, about as Poisson has it.
    pub(crate) fn count(&mut self, mean_milli: u64) -> u32 {
        let count = if mean_milli < 4_000 { self.few(mean_milli) } else { self.many(mean_milli) };
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Sixteen chances.
    fn few(&mut self, mean_milli: u64) -> u64 {
        let below = mean_milli * 65_536 / 16_000;
        (0..4).map(|_| self.quarters().into_iter().filter(|quarter| *quarter < below).count()).map(to_u64).sum()
    }

    /// A bell curve of four even ones, whose deviation is the square root of a third of 65,536².
    fn many(&mut self, mean_milli: u64) -> u64 {
        let sum: u64 = self.quarters().into_iter().sum();
        let deviation_milli = (mean_milli.saturating_mul(1_000)).isqrt();
        // 1,732: a thousand times the square root of three.
        let away_milli = deviation_milli.saturating_mul(sum.abs_diff(131_070)) / 65_536 * 1_732 / 1_000;
        let total_milli = if sum > 131_070 { mean_milli + away_milli } else { mean_milli.saturating_sub(away_milli) };
        (total_milli + 500) / 1_000
    }

    fn quarters(&mut self) -> [u64; 4] {
        let bits = self.next();
        [0, 16, 32, 48].map(|shift| (bits >> shift) & 0xffff)
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_mean_and_spread() {
        for mean in [0, 1, 3, 10, 500] {
            let mut random = Random(7);
            let counts: Vec<u64> = (0..20_000).map(|_| random.count(mean * 1_000).into()).collect();
            let sum: u64 = counts.iter().sum();
            let squares: u64 = counts.iter().map(|count| count.abs_diff(mean).pow(2)).sum();
            assert!(sum.abs_diff(mean * 20_000) <= mean * 20_000 / 20, "{mean}: {sum}");
            assert!(squares.abs_diff(mean * 20_000) <= mean * 20_000 / 4, "{mean}: {squares}");
        }
    }

    #[test]
    fn chance_comes_again_with_its_seed() {
        assert_eq!(Random::of(1, 2, 3).next(), Random::of(1, 2, 3).next());
        assert_ne!(Random::of(1, 2, 3).next(), Random::of(1, 2, 4).next());
        assert!((0..1_000).all(|seed| (5..=7).contains(&Random(seed).between(5, 7))));
    }
}
