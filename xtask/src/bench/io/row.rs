//! The rows of the table, and how a guest comes by the figure of each.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::load::{self, Servers};
use crate::bench::figure::{Figure, Target};
use crate::system::{Iperf, Shell};

/// A figure.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    target: Option<Target>,
    work: Work,
}

#[derive(Debug, Clone, Copy)]
enum Work {
    /// Seconds from the start of the process until the system asks who logs in.
    Boot,
    /// fio's mode, how large its requests are, and how many of them are under way at a time.
    Disk { mode: &'static str, size: &'static str, depth: u32 },
    /// TCP through the network, to the host or from it.
    Tcp { from_host: bool },
    /// The time a connection takes to be there.
    Connect,
    /// CPU time of a machine that has nothing to do.
    Idle,
}

const FASTER: Option<Target> = Some(Target::FasterThanQemu(3.0));

const fn pages(name: &'static str, mode: &'static str, depth: u32) -> Row {
    Row { name, unit: "IOPS", target: FASTER, work: Work::Disk { mode, size: "4k", depth } }
}

/// Bound by how fast the host copies, which is shown beside it.
const fn mebibytes(name: &'static str, mode: &'static str, depth: u32) -> Row {
    Row { name, unit: "MB/s", target: None, work: Work::Disk { mode, size: "1M", depth } }
}

const fn tcp(name: &'static str, from_host: bool) -> Row {
    Row { name, unit: "Gbit/s", target: FASTER, work: Work::Tcp { from_host } }
}

const ROWS: [Row; 17] = [
    Row { name: "root disk to login", unit: "s", target: Some(Target::TimesQemu(0.45)), work: Work::Boot },
    pages("sequential read, 4 KiB, depth 1", "read", 1),
    pages("sequential read, 4 KiB, depth 16", "read", 16),
    pages("sequential write, 4 KiB, depth 1", "write", 1),
    pages("sequential write, 4 KiB, depth 16", "write", 16),
    pages("random read, 4 KiB, depth 1", "randread", 1),
    pages("random read, 4 KiB, depth 16", "randread", 16),
    pages("random write, 4 KiB, depth 1", "randwrite", 1),
    pages("random write, 4 KiB, depth 16", "randwrite", 16),
    mebibytes("sequential read, 1 MiB, depth 1", "read", 1),
    mebibytes("sequential read, 1 MiB, depth 16", "read", 16),
    mebibytes("sequential write, 1 MiB, depth 1", "write", 1),
    mebibytes("sequential write, 1 MiB, depth 16", "write", 16),
    tcp("TCP from the guest", false),
    tcp("TCP to the guest", true),
    Row { name: "connection set-up", unit: "ms", target: Some(Target::OverNative(1.0)), work: Work::Connect },
    Row { name: "idle, CPU of the host", unit: "%", target: Some(Target::AtMost(1.0)), work: Work::Idle },
];

/// How long fio and iperf3 measure.
const SECONDS: u64 = 3;
/// What a system is given to come to rest, and how long it is watched then.
const SETTLE: Duration = Duration::from_secs(15);
const WATCH: Duration = Duration::from_secs(60);

/// The rows whose name has one of the patterns; all, without any.
pub fn chosen(patterns: &[String]) -> Result<Vec<Row>> {
    let is_meant =
        |row: &Row| patterns.iter().any(|pattern| row.name.to_lowercase().contains(&pattern.to_lowercase()));
    let rows: Vec<Row> = ROWS.into_iter().filter(|row| patterns.is_empty() || is_meant(row)).collect();
    if rows.is_empty() {
        let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        bail!("no row is called {}: there are {}", patterns.join(" or "), names.join("; "));
    }
    Ok(rows)
}

impl Row {
    /// Without samples.
    pub fn figure(&self) -> Figure {
        Figure { name: self.name.to_owned(), unit: self.unit, target: self.target, ..Figure::default() }
    }

    /// The host's own figure, for rows that are held against it.
    pub fn on_host(&self, servers: &Servers, disk: &Path) -> Result<Option<f64>> {
        Ok(match self.work {
            Work::Connect => Some(servers.connect()?),
            Work::Disk { mode, size: "1M", depth } => {
                // As any program would, and with what the host has in its memory.
                let line = load::fio_command(&disk.display().to_string(), mode, "1M", depth, SECONDS);
                let output =
                    Command::new("sh").args(["-c", &format!("{line} --invalidate=0 --direct=0")]).output();
                let output = output.context("sh does not start")?;
                Some(self.of_fio(&String::from_utf8_lossy(&output.stdout))?)
            }
            _ => None,
        })
    }

    fn of_fio(&self, output: &str) -> Result<f64> {
        let (bytes, requests) = load::fio(output).with_context(|| format!("what fio says: {output}"))?;
        Ok(if self.unit == "IOPS" { requests } else { bytes / 1e6 })
    }

    /// The figure of a machine at its shell, whose boot took `boot` seconds.
    pub fn in_guest(&self, shell: &mut Shell, boot: f64, servers: &Servers) -> Result<f64> {
        match self.work {
            Work::Boot => Ok(boot),
            Work::Disk { mode, size, depth } => {
                let command = load::fio_command("/dev/vdb", mode, size, depth, SECONDS);
                self.of_fio(&shell.run(&format!("{command} --direct=1"), SECONDS)?)
            }
            Work::Tcp { from_host } => {
                let output = shell.run(&servers.iperf.client(SECONDS, from_host), SECONDS)?;
                Ok(Iperf::bits(&output)? / 1e9)
            }
            Work::Connect => {
                let output = shell.run(&servers.connect_script(), 10)?;
                let number = output.lines().find_map(|line| line.trim().strip_prefix("@ms ")?.parse().ok());
                number.with_context(|| format!("what the script says: {output}"))
            }
            Work::Idle => {
                sleep(SETTLE);
                let (before, start) = (shell.console.cpu_seconds()?, Instant::now());
                sleep(WATCH);
                Ok((shell.console.cpu_seconds()? - before) / start.elapsed().as_secs_f64() * 100.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_their_names() {
        let names = |pattern: &str| -> Vec<&str> {
            chosen(&[pattern.to_owned()]).unwrap().iter().map(|row| row.name).collect()
        };
        assert_eq!(names("tcp"), ["TCP from the guest", "TCP to the guest"]);
        assert_eq!(names("random read").len(), 2);
        assert!(chosen(&["nothing".to_owned()]).unwrap_err().to_string().contains("idle"));
        assert_eq!(chosen(&[]).unwrap().len(), ROWS.len());
    }
}
