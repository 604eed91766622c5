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
/// As many are a millisecond's work. To make a thread and its buffer takes a tenth of that, and holds up whoever else changes the
/// process's memory: RAM is being frozen beside.
const WORTH_A_THREAD: usize = 16;

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
        let written = (!disk.readonly && !disk.snapshot).then(|| state(&disk.path).ok()?).flatten();
        Self { written, kept: disk.snapshot && !disk.readonly }
    }

    /// Says whether the disk is as it was.
    pub fn check(&self, disk: &DiskSpec) -> Result<(), SnapshotError> {
        let path = || disk.path.clone();
        match (self.written, state(&disk.path)) {
            (Some(_), Err(source)) => Err(SnapshotError::NoDisk { path: path(), source }),
            (Some(then), Ok(now)) if now != Some(then) => Err(SnapshotError::Disk(path())),
            _ => Ok(()),
        }
    }
}

/// None for what is no file: devices do not tell.
fn state(path: &Path) -> io::Result<Option<(u64, i64)>> {
    let meta = std::fs::metadata(path)?;
    let changed = || meta.mtime().wrapping_mul(1_000_000_000).wrapping_add(meta.mtime_nsec());
    Ok(meta.is_file().then(|| (meta.len(), changed())))
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
        WORTH_A_THREAD,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_was_written_is_told_from_one_that_is_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = DiskSpec { path: file.path().to_owned(), ..DiskSpec::default() };
        let mark = DiskMark::of(&disk);
        mark.check(&disk).unwrap();
        file.as_file().set_len(512).unwrap();
        assert!(matches!(mark.check(&disk), Err(SnapshotError::Disk(_))));
        drop(file);
        assert!(matches!(mark.check(&disk), Err(SnapshotError::NoDisk { .. })));
    }
}
