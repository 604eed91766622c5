//! Disks are not in a snapshot: it says which they were, and what they looked like. What a disk keeps in a file without a
//! name, because it is to be gone with the machine, is copied.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::SnapshotError;
use super::threads::share_out;
use crate::DiskSpec;

/// Bytes that are copied together.
const PIECE: usize = 256 << 10;

/// What a disk was like.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskMark {
    /// Length and time of the last change, in nanoseconds, of an image that the guest writes.
    pub written: Option<(u64, i64)>,
    /// Its changes are in the folder.
    pub kept: bool,
}

impl DiskMark {
    /// The mark of a disk as it is now.
    pub fn of(disk: &DiskSpec) -> Self {
        let written = (!disk.readonly && !disk.snapshot).then(|| state(&disk.path)).flatten();
        Self { written, kept: disk.snapshot && !disk.readonly }
    }

    /// Says whether the disk is as it was.
    pub fn check(&self, disk: &DiskSpec) -> Result<(), SnapshotError> {
        match self.written {
            Some(then) if state(&disk.path) != Some(then) => Err(SnapshotError::Disk(disk.path.clone())),
            _ => Ok(()),
        }
    }
}

/// None for what is no file: devices do not tell.
fn state(path: &Path) -> Option<(u64, i64)> {
    let meta = std::fs::metadata(path).ok().filter(|meta| meta.is_file())?;
    Some((meta.len(), meta.mtime().wrapping_mul(1_000_000_000).wrapping_add(meta.mtime_nsec())))
}

/// Copies a file with its holes.
pub fn copy(from: &File, to: &File) -> io::Result<()> {
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < len {
        at = match seek(from, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        let hole = seek(from, SeekFrom::Hole(at))?.min(len);
        pieces.extend((at..hole).step_by(PIECE).map(|at| (at, (hole - at).min(PIECE as u64) as usize)));
        at = hole;
    }
    share_out(
        pieces.len(),
        "snapshot-disk",
        || vec![0; PIECE],
        |buffer, index| {
            let Some(&(at, len)) = pieces.get(index) else { return Ok(()) };
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            from.read_exact_at(bytes, at)?;
            to.write_all_at(bytes, at)
        },
    )
}
