//! Machines at rest: a folder from which a machine goes on where it was, on any engine and maybe another host.
//!
//! docs/snapshots.md says what is in the folder, and what each device keeps of what it was doing.

mod crc;
mod disks;
mod error;
pub(crate) mod format;
mod header;
mod identity;
mod live;
mod packed;
mod part;
mod ram;
mod restore;
mod save;
mod threads;

pub use disks::DiskMark;
pub use error::SnapshotError;
pub use format::{PLAIN, Section, VERSION, encode};
pub use header::Header;
pub use identity::make_distinct;
pub use part::SavedPart;
pub use restore::{Paths, Snapshot};
pub use save::{After, Copied, Files, How, Summary};

/// Files of the folder.
pub mod file {
    /// Header and sections.
    pub const STATE: &str = "state";
    /// RAM, range behind range, with holes for what is zero.
    pub const MEMORY: &str = "memory";
    /// The initrd, if the machine had one of its own.
    pub const INITRD: &str = "initrd";

    /// Where the host has files that a process has inherited, by their descriptors.
    pub const INHERITED: &str = "/proc/self/fd";

    /// What a disk whose changes were to be gone with the machine has of them, by its place in the definition.
    #[must_use]
    pub fn disk(index: usize) -> String {
        format!("disk{index}.qcow2")
    }
}
