//! A whole Debian on a disk, run by any machine monitor, and its shell on the serial line.

mod iperf;
mod kernel;
mod machine;
mod shell;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use guest::{Cache, Cancel, Catalogue};

pub use iperf::Iperf;
pub use machine::{Disk, Machine, Net};
pub use shell::Shell;

/// The system with the programs that measure.
const NAME: &str = "debian-bench";
/// The host as guests behind a user network see it.
pub const HOST: &str = "10.0.2.2";

/// An installed system and what boots it.
#[derive(Debug, Clone)]
pub struct System {
    /// The raw image of its root disk, which is not to be written.
    pub root: PathBuf,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub append: String,
}

impl System {
    /// Builds the system if it is not there, and takes its kernel out of its disk.
    pub fn prepare(folder: &Path) -> Result<Self> {
        let catalogue = Catalogue::builtin()?;
        let entry = catalogue.disk(NAME).with_context(|| format!("guests.toml has no disk {NAME}"))?;
        let cache = Cache::of_user()?;
        let mut progress = |step| eprintln!("xtask: guest {NAME}: {step}");
        let built = match cache.disk(entry) {
            Some(built) => built,
            None => cache.build_disk(entry, false, &Cancel::default(), &mut progress)?,
        };
        kernel::extract(&built.image, folder)
    }

    /// A machine whose first disk is this system's, to which nothing is written.
    pub fn machine(&self, cpus: u32, mib: u64) -> Machine {
        let root = Disk { path: self.root.clone(), format: "raw", snapshot: true };
        Machine { system: self.clone(), cpus, mib, disks: vec![root], net: Net::User, reboots: false }
    }
}
