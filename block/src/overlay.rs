//! The file of what a disk keeps until it is gone, for those who copy it while the disk is in use: which parts of it were written
//! since they last looked.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::qcow2::CLUSTER;

/// Bytes that are told of together.
const PIECE: u64 = CLUSTER;

/// Pieces of a file that were written, noted while somebody wants to know.
#[derive(Debug, Default)]
pub struct Changes {
    wanted: AtomicBool,
    /// A bit for each piece, in words.
    pieces: Mutex<BTreeMap<u64, u64>>,
}

impl Changes {
    /// To be called when something was written, or may have been: what is noted before could be looked at before it is there.
    pub fn note(&self, offset: u64, len: u64) {
        if len == 0 || !self.wanted.load(Ordering::Acquire) {
            return;
        }
        let (first, last) = (offset / PIECE, offset.saturating_add(len - 1) / PIECE);
        let mut pieces = self.pieces.lock();
        for word in first / 64..=last / 64 {
            let from = first.max(word * 64) % 64;
            let to = last.min(word * 64 + 63) % 64;
            *pieces.entry(word).or_default() |= u64::MAX >> (63 - (to - from)) << from;
        }
    }
}

/// A file without a name, a qcow2 image of what was written to a disk.
#[derive(Debug)]
pub struct Overlay {
    file: File,
    changes: Arc<Changes>,
}

impl Overlay {
    /// That of an image whose writes are noted there.
    pub(crate) fn new(file: File, changes: Arc<Changes>) -> Self {
        Self { file, changes }
    }

    /// The file; the disk knows the place of everything in it, and nobody else writes it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Notes what is written from now on. No request is under way: it might be half done.
    pub fn log_writes(&self) -> OverlayLog<'_> {
        self.changes.wanted.store(true, Ordering::Release);
        OverlayLog(self)
    }
}

/// What is written to an overlay, as long as it lives. For one who looks.
#[derive(Debug)]
pub struct OverlayLog<'a>(&'a Overlay);

impl<'a> OverlayLog<'a> {
    /// Whose it is.
    pub fn overlay(&self) -> &'a Overlay {
        self.0
    }

    /// Ranges of the file that were written since the last time, or since it began, in order; they may end behind the file.
    /// What is being written meanwhile comes the next time.
    pub fn round(&self) -> Vec<Range<u64>> {
        let pieces = std::mem::take(&mut *self.0.changes.pieces.lock());
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (word, bits) in pieces {
            for piece in (0..64).filter(|bit| bits >> bit & 1 != 0).map(|bit| word * 64 + bit) {
                let (start, end) = (piece * PIECE, (piece + 1).saturating_mul(PIECE));
                match ranges.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => ranges.push(start..end),
                }
            }
        }
        ranges
    }
}

impl Drop for OverlayLog<'_> {
    fn drop(&mut self) {
        self.0.changes.wanted.store(false, Ordering::Release);
        self.0.changes.pieces.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_that_were_written() {
        let overlay = Overlay::new(tempfile::tempfile().unwrap(), Arc::default());
        let (log, note) = (overlay.log_writes(), |at, len| overlay.changes.note(at, len));
        assert_eq!(log.round(), []);
        note(0, 0);
        note(3 * PIECE - 1, 2);
        note(63 * PIECE, 66 * PIECE);
        note(200 * PIECE, 1);
        assert_eq!(log.round(), [2 * PIECE..4 * PIECE, 63 * PIECE..129 * PIECE, 200 * PIECE..201 * PIECE]);
        assert_eq!(log.round(), []);
        note(u64::MAX - 1, 10);
        assert_eq!(log.round().len(), 1);
        note(0, 1);
        drop(log);
        note(1, 1);
        assert_eq!(overlay.log_writes().round(), []);
    }
}
