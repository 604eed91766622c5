//! What is measured: `benches/engines.toml`.

use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::bench::program;

/// One line of the result.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
    pub name: String,
    #[serde(flatten)]
    pub work: Work,
    /// CPUs of the machine.
    #[serde(default = "one")]
    pub cpus: u32,
    /// What the figure has to reach.
    pub must: Option<f64>,
    /// What it had better reach.
    pub aim: Option<f64>,
    /// What QEMU's was on the host where these come from, if they are no ratios.
    pub qemu: Option<f64>,
    /// How much of the work slow engines do, per cent.
    #[serde(default = "a_fifth")]
    pub slow_percent: u32,
}

/// Where the figure comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// A program of benches/micro in the default guest.
    Micro(String),
    /// A script in the guest of many programs.
    Shell(String),
    /// Wall-clock gain of doing two things at once: the program that does one, and the one that does both.
    Speedup([String; 2]),
    /// Of the machine as such.
    Machine(Quantity),
}

/// What there is to know of a machine beside programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// CPU seconds until its first program starts.
    Boot,
    /// MiB resident beyond the guest's RAM, at the shell.
    MemoryAfterBoot,
    /// The same when all scripts have run.
    MemoryAfterPrograms,
    /// Geometric mean over the scripts.
    MeanOfPrograms,
}

fn one() -> u32 {
    1
}

fn a_fifth() -> u32 {
    20
}

impl Row {
    /// All rows.
    pub fn all() -> Result<Vec<Self>> {
        #[derive(Deserialize)]
        struct File {
            row: Vec<Row>,
        }
        let path = program::source("engines.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let file: File = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
        Ok(file.row)
    }

    /// Those of which some pattern is a part of the name or of the program's; all without patterns.
    pub fn chosen(patterns: &[String]) -> Result<Vec<Self>> {
        let mut rows = Self::all()?;
        let is_meant =
            |row: &Self| patterns.is_empty() || patterns.iter().any(|pattern| row.is_meant_by(pattern));
        let of_programs = [Quantity::MemoryAfterPrograms, Quantity::MeanOfPrograms].map(Work::Machine);
        let all_programs = rows.iter().any(|row| is_meant(row) && of_programs.contains(&row.work));
        rows.retain(|row| is_meant(row) || all_programs && matches!(row.work, Work::Shell(_)));
        if rows.is_empty() {
            bail!("no row of benches/engines.toml is called {}", patterns.join(" or "));
        }
        Ok(rows)
    }

    fn is_meant_by(&self, pattern: &str) -> bool {
        let program = match &self.work {
            Work::Micro(program) => program,
            Work::Shell(_) => "program",
            Work::Speedup(_) | Work::Machine(_) => "",
        };
        let pattern = pattern.to_lowercase();
        [self.name.to_lowercase().as_str(), program].iter().any(|text| text.contains(&pattern))
    }

    /// The name as part of a file's.
    pub fn file_name(&self) -> String {
        self.name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect()
    }

    /// Whether a figure reaches `bound`.
    pub fn reaches(&self, figure: f64, bound: f64) -> bool {
        if matches!(self.work, Work::Speedup(_)) { figure >= bound } else { figure <= bound }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let rows = Row::all().unwrap();
        let scripts = rows.iter().filter(|row| matches!(row.work, Work::Shell(_)));
        assert_eq!(scripts.count(), 10);
        for quantity in [
            Quantity::Boot,
            Quantity::MemoryAfterBoot,
            Quantity::MemoryAfterPrograms,
            Quantity::MeanOfPrograms,
        ] {
            assert!(rows.iter().any(|row| row.work == Work::Machine(quantity)), "{quantity:?}");
        }
        assert!(rows.iter().all(|row| row.aim.is_none() || row.must.is_some()));
    }

    #[test]
    fn patterns_choose_by_name_and_by_program() {
        let names = |pattern: &str| {
            let rows = Row::chosen(&[pattern.to_owned()]).unwrap();
            rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
        };
        assert_eq!(names("jit"), ["JIT churn"]);
        assert_eq!(names("Matmul-SSE2".to_lowercase().as_str()), ["SSE2 matrix multiply"]);
        assert!(Row::chosen(&["nothing is called so".to_owned()]).is_err());
    }
}
