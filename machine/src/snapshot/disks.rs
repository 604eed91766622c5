//! Disks are not in a snapshot: it says which they were, and what they looked like. What a disk keeps in a file without a
//! name, because it is to be gone with the machine, is copied.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use block::{Overlay, OverlayLog};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::SnapshotError;
use super::ram::is_zero;
use super::threads::share_out;
use crate::DiskSpec;

/// Bytes that are copied together.
const PIECE: usize = 256 << 10;
/// The same of what was written again: what is zero takes no room.
const CLUSTER: usize = 64 << 10;
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

/// A copy of an overlay that follows what is written to it.
pub struct Following<'a> {
    log: OverlayLog<'a>,
    to: &'a File,
}

impl<'a> Following<'a> {
    /// No request is under way.
    pub fn begin(overlay: &'a Overlay, to: &'a File) -> Self {
        Self { log: overlay.log_writes(), to }
    }

    fn from(&self) -> &'a File {
        self.log.overlay().file()
    }

    /// Copies all of it. Of what is written meanwhile, the copy gets something.
    pub fn all(&self) -> io::Result<()> {
        copy(self.from(), self.to)
    }

    /// Copies what was written since the last time. If no request is under way, the copy is the file.
    pub fn round(&self) -> io::Result<()> {
        // In this order: what is told of is in the file by now.
        let (written, len) = (self.log.round(), self.from().metadata()?.len());
        self.to.set_len(len)?;
        let mut buffer = vec![0; CLUSTER];
        for range in written {
            let end = range.end.min(len);
            for at in (range.start..end).step_by(CLUSTER) {
                let bytes = buffer.get_mut(..(end - at).min(CLUSTER as u64) as usize).unwrap_or_default();
                self.from().read_exact_at(bytes, at)?;
                if is_zero(bytes) {
                    block::zero(self.to, at, bytes.len() as u64, true)?;
                } else {
                    self.to.write_all_at(bytes, at)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use block::{Buffers, Format, ImageOptions, Operation};

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

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_copy_follows_a_disk_in_use() {
        const LEN: u64 = 32 << 20;
        let base = tempfile::NamedTempFile::new().unwrap();
        base.as_file().set_len(LEN).unwrap();
        let options = ImageOptions {
            path: base.path().to_owned(),
            format: Some(Format::Raw),
            snapshot: true,
            ..ImageOptions::default()
        };
        let (disk, overlay) = block::open_with_overlay(&options).unwrap();
        let overlay = overlay.unwrap();
        let mut seed = 7u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut work = |turns: u32| {
            for _ in 0..turns {
                let len = 512 * (1 + random(300));
                let offset = 512 * random((LEN - len) / 512);
                let operation = match random(8) {
                    0 => Operation::Discard { offset, len },
                    1 => Operation::WriteZeroes { offset, len, unmap: random(2) == 0 },
                    byte => {
                        let from = Buffers::owned(&vec![byte as u8 + random(200) as u8; len as usize]);
                        Operation::Write { offset, from, durable: false }
                    }
                };
                disk.carry_out(operation).unwrap();
            }
            disk.carry_out(Operation::Flush).unwrap();
        };
        work(100);
        let copy = tempfile::tempfile().unwrap();
        let following = Following::begin(&overlay, &copy);
        std::thread::scope(|scope| {
            let guest = scope.spawn(|| work(300));
            following.all().unwrap();
            while !guest.is_finished() {
                following.round().unwrap();
            }
        });
        for _ in 0..20 {
            following.round().unwrap();
            assert!(content(overlay.file()) == content(&copy));
            work(10);
        }
    }
}
