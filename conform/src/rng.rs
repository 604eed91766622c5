//! Reproducible random numbers: the same on every host, from a seed and a case number.

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, every seed is good.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    /// A stream of its own for every combination of `parts`.
    pub fn from_parts(parts: &[u64]) -> Self {
        let mut rng = Self(0x6775_6573_7468_6f75);
        for &part in parts {
            rng.0 = rng.next() ^ part.wrapping_mul(0xff51_afd7_ed55_8ccd);
        }
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `bound - 1`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = high.wrapping_sub(low) as u64;
        low.wrapping_add(self.below(span.wrapping_add(1)) as i64)
    }

    /// True in `n` of 100 cases.
    pub fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reproducible_and_apart() {
        let first = |parts: &[u64]| Rng::from_parts(parts).next();
        assert_eq!(first(&[1, 2]), first(&[1, 2]));
        assert_ne!(first(&[1, 2]), first(&[2, 1]));
        assert_ne!(first(&[0, 0]), first(&[0]));
    }

    #[test]
    fn ranges_hold() {
        let mut rng = Rng::from_parts(&[7]);
        for _ in 0..1000 {
            assert!(rng.below(3) < 3);
            assert!((-2..=5).contains(&rng.between(-2, 5)));
        }
        assert_eq!(rng.below(0), 0);
    }
}
