//! Whether a machine's memory grows.

use anyhow::{Result, bail};

use crate::bench::process;

/// Samples before which a machine counts as warming up.
pub const WARM: usize = 3;
/// Fewer samples afterwards say nothing.
const ENOUGH: usize = 5;
/// Per cent that memory may grow by from then on.
const MOST: f64 = 5.0;

/// KiB that are resident of a process, again and again.
#[derive(Debug, Default)]
pub struct Memory {
    /// With the guest's RAM.
    pub all: Vec<u64>,
    /// Without.
    pub beyond: Vec<u64>,
}

impl Memory {
    /// Takes a sample of a process whose guest has so much RAM.
    pub fn sample(&mut self, pid: u32, mib: u64) -> Result<()> {
        let memory = process::memory(pid, mib << 10)?;
        self.all.push(memory.resident + memory.guest);
        self.beyond.push(memory.resident);
        Ok(())
    }

    /// Per cent from the end of the warming up to the end; None if that is too short.
    pub fn growth(&self) -> Option<f64> {
        let (before, after) = (*self.all.get(WARM)?, *self.all.last()?);
        (self.all.len() > WARM + ENOUGH).then(|| (after as f64 / before as f64 - 1.0) * 100.0)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mib = |list: &[u64], index: usize| list.get(index).copied().unwrap_or_default() >> 10;
        let last = self.all.len().saturating_sub(1);
        let warm = WARM.min(last);
        format!(
            "{} MiB resident after warming up and {} at the end ({}), beyond the guest's RAM {} and {}",
            mib(&self.all, warm),
            mib(&self.all, last),
            self.growth().map_or("too short to tell".to_owned(), |growth| format!("{growth:+.1} %")),
            mib(&self.beyond, warm),
            mib(&self.beyond, last),
        )
    }
}

/// Fails if the machine grew.
pub fn growth(what: &str, memory: &Memory) -> Result<()> {
    match memory.growth() {
        Some(growth) if growth >= MOST => bail!("{what} grew: {}", memory.text()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_counts_from_when_the_machine_is_warm() {
        let of = |all: &[u64]| Memory { all: all.to_vec(), beyond: all.to_vec() };
        let steady = of(&[10, 500, 900, 1000, 1010, 1020, 1030, 1040, 1049]);
        assert!(growth("it", &steady).is_ok(), "{steady:?}");
        let growing = of(&[10, 500, 900, 1000, 1010, 1020, 1030, 1040, 1050]);
        let error = growth("it", &growing).unwrap_err().to_string();
        assert!(error.contains("it grew") && error.contains("+5.0 %"), "{error}");
        assert!(growth("it", &of(&[10, 500, 900, 1000, 2000])).is_ok());
        let mut own = Memory::default();
        own.sample(std::process::id(), 0).unwrap();
        assert!(own.all[0] >= own.beyond[0] && own.all[0] > 100, "{own:?}");
    }
}
