//! A control group of the host's that the user gives for a machine: the cap and the weight are written into it, and the
//! process joins it. Linux, `admin-guide/cgroup-v2.rst` (cpu.max, cpu.weight) and `admin-guide/cgroup-v1/`,
//! `scheduler/sched-bwc.rst` (cpu.cfs_quota_us, cpu.shares).
//!
//! The files stay open, so that limits can change when the process may no longer open any.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{Limits, MachineError};

/// Microseconds for which a cap is given.
const PERIOD: u32 = 100_000;
/// What version 1 calls the weight of those who have no other.
const SHARES: u32 = 1024;

/// The group that the process is in.
pub struct Cgroup {
    path: PathBuf,
    version: Version,
    cap: File,
    weight: File,
}

/// How its files are named, and what they take.
#[derive(Clone, Copy, PartialEq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// Files for the cap and the weight.
    fn files(self) -> (&'static str, &'static str) {
        match self {
            Self::One => ("cpu.cfs_quota_us", "cpu.shares"),
            Self::Two => ("cpu.max", "cpu.weight"),
        }
    }

    fn cap(self, cpus: Option<f64>) -> String {
        let quota = cpus.map(|cpus| (cpus * f64::from(PERIOD)).round().max(1000.0));
        match (self, quota) {
            (Self::One, Some(quota)) => quota.to_string(),
            (Self::One, None) => "-1".to_owned(),
            (Self::Two, Some(quota)) => format!("{quota} {PERIOD}"),
            (Self::Two, None) => format!("max {PERIOD}"),
        }
    }

    fn weight(self, weight: u32) -> String {
        match self {
            Self::One => (weight.saturating_mul(SHARES) / 100).max(2).to_string(),
            Self::Two => weight.to_string(),
        }
    }
}

impl Cgroup {
    /// Writes the limits into the group and has the process join it.
    ///
    /// # Errors
    /// It is no group for CPU time, or not the user's.
    pub fn join(path: &Path, limits: &Limits) -> Result<Self, MachineError> {
        let refused = |fact: &str| MachineError::Cgroup { path: path.to_owned(), fact: fact.to_owned() };
        let there = |name: &str| path.join(name).is_file();
        if !there("cgroup.procs") {
            return Err(refused(if path.is_dir() {
                "it is no control group: give a folder below /sys/fs/cgroup"
            } else {
                "it is not there: make it with mkdir"
            }));
        }
        let version = [Version::Two, Version::One].into_iter().find(|version| there(version.files().0));
        let version = version.ok_or_else(|| {
            refused(match there("cgroup.controllers") {
                true => {
                    "it does not control CPU time: write +cpu to cgroup.subtree_control of the group above it"
                }
                false => "it is of version 1 and of another controller: give one below that of cpu",
            })
        })?;
        let open =
            |name: &str| File::options().write(true).open(path.join(name)).map_err(|e| failure(path, &e));
        let (cap, weight) = version.files();
        let group = Self { path: path.to_owned(), version, cap: open(cap)?, weight: open(weight)? };
        if version == Version::One && limits.cpus.is_some() {
            let file = open("cpu.cfs_period_us")?;
            file.write_all_at(PERIOD.to_string().as_bytes(), 0).map_err(|e| failure(path, &e))?;
        }
        group.set(&Limits::default(), limits)?;
        // The process itself.
        open("cgroup.procs")?.write_all_at(b"0", 0).map_err(|e| failure(path, &e))?;
        Ok(group)
    }

    /// Writes what has changed. What nobody limits stays as the user has set it.
    ///
    /// # Errors
    /// The host refuses it.
    pub fn set(&self, before: &Limits, limits: &Limits) -> Result<(), MachineError> {
        let write = |file: &File, text: String| {
            tracing::debug!("{}: {text}", self.path.display());
            file.write_all_at(text.as_bytes(), 0).map_err(|e| failure(&self.path, &e))
        };
        if limits.cpus != before.cpus {
            write(&self.cap, self.version.cap(limits.cpus))?;
        }
        match limits.weight.filter(|_| limits.weight != before.weight) {
            Some(weight) => write(&self.weight, self.version.weight(weight)),
            None => Ok(()),
        }
    }
}

/// What the host means, and what the user can do.
fn failure(path: &Path, error: &io::Error) -> MachineError {
    use rustix::io::Errno;
    let remedy = match Errno::from_io_error(error) {
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
            "it has to be yours, and so has the group that you start in: systemd-run --user --scope -p Delegate=yes"
        }
        Some(Errno::BUSY | Errno::OPNOTSUPP) => "give one that has no groups of its own",
        Some(Errno::INVAL) => "the group above it allows less",
        _ => "see whether it is still there",
    };
    MachineError::Cgroup { path: path.to_owned(), fact: format!("the host refuses it ({error}): {remedy}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that stands in for a group: what is written can be looked at.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        folder
    }

    fn read(folder: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(folder.path().join(name)).unwrap()
    }

    #[test]
    fn limits_are_written_as_each_version_has_them() {
        let limits = Limits { cpus: Some(0.2), weight: Some(300), ..Limits::default() };
        let two = folder(&["cgroup.procs", "cgroup.controllers", "cpu.max", "cpu.weight"]);
        let group = Cgroup::join(two.path(), &limits).unwrap();
        assert_eq!(
            [read(&two, "cpu.max"), read(&two, "cpu.weight"), read(&two, "cgroup.procs")],
            ["20000 100000", "300", "0"]
        );
        group.set(&limits, &Limits { cpus: None, ..limits.clone() }).unwrap();
        // A file is written over where a group's takes each line anew.
        assert!(read(&two, "cpu.max").starts_with("max 100000"));
        assert_eq!(read(&two, "cpu.weight"), "300");
        let one = folder(&["cgroup.procs", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"]);
        Cgroup::join(one.path(), &limits).unwrap();
        let files = ["cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"].map(|name| read(&one, name));
        assert_eq!(files, ["20000", "100000", "3072"]);
        // What nobody limits is left alone.
        let plain = folder(&["cgroup.procs", "cgroup.controllers", "cpu.max", "cpu.weight"]);
        Cgroup::join(plain.path(), &Limits::default()).unwrap();
        assert_eq!([read(&plain, "cpu.max"), read(&plain, "cpu.weight")], ["", ""]);
    }

    #[test]
    fn what_is_no_group_for_cpu_time_is_told_with_a_remedy() {
        let missing = Path::new("/nowhere/at/all");
        let said = |path: &Path| Cgroup::join(path, &Limits::default()).err().unwrap().to_string();
        assert!(said(missing).contains("mkdir") && said(missing).contains("/nowhere"));
        assert!(said(folder(&[]).path()).contains("/sys/fs/cgroup"));
        assert!(
            said(folder(&["cgroup.procs", "cgroup.controllers"]).path()).contains("cgroup.subtree_control")
        );
        assert!(said(folder(&["cgroup.procs", "memory.limit_in_bytes"]).path()).contains("version 1"));
    }
}
