//! RAM as Zstandard frames (RFC 8878), one behind the other: each is a piece of RAM that is not all zero, in their order.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};

use memory::{GuestRam, PAGE_SIZE};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use ruzstd::encoding::{CompressionLevel, FrameCompressor, MatchGeneratorDriver};

use super::SnapshotError;
use super::ram::{Checksums, PIECE, checksums, is_zero};

/// Most that a frame may refer back to: what its piece has.
const WINDOW: u64 = PIECE as u64;

/// Makes frames of pieces, one after the other, with tables that it keeps: new ones for each would take longer than the rest.
pub struct Packer(FrameCompressor<Cursor<Vec<u8>>, Vec<u8>, MatchGeneratorDriver>);

impl Packer {
    pub fn new() -> Self {
        Self(FrameCompressor::new(CompressionLevel::Fastest))
    }

    /// The frame of a piece.
    pub fn frame(&mut self, piece: &[u8]) -> &[u8] {
        let mut source = self.0.take_source().map(Cursor::into_inner).unwrap_or_default();
        source.clear();
        source.extend_from_slice(piece);
        self.0.set_source(Cursor::new(source));
        let mut frame = self.0.take_drain().unwrap_or_default();
        frame.clear();
        self.0.set_drain(frame);
        self.0.compress();
        self.0.drain().map(Vec::as_slice).unwrap_or_default()
    }
}

/// Fills RAM that holds nothing yet. The checksums say which pieces there are, and what is in them.
///
/// # Errors
/// The file has fewer frames or more, or one that is not what was written.
pub fn unpack(file: &File, checks: &Checksums, ram: &GuestRam) -> Result<(), SnapshotError> {
    let sizes = ram.ranges().map(|range| (range.start, range.len));
    each(file, checks, sizes, |addr, piece| fill(ram, addr, piece).map_err(io::Error::other))
}

/// Unpacks so much RAM for nothing but its checksums.
///
/// # Errors
/// As for [`unpack`].
pub fn check(file: &File, checks: &Checksums, memory: u64) -> Result<(), SnapshotError> {
    each(file, checks, [(0, memory)], |_, _| Ok(()))
}

fn each(
    file: &File,
    checks: &Checksums,
    ranges: impl IntoIterator<Item = (u64, u64)>,
    mut put: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> Result<(), SnapshotError> {
    let damaged = |at: u64, what: &str| SnapshotError::Damaged(format!("its RAM at {at:#x} {what}"));
    let (mut source, mut decoder) = (BufReader::new(file), FrameDecoder::new());
    decoder.set_max_window_size(WINDOW);
    let mut pieces = checks.pieces();
    let (mut start, mut piece) = (0, Vec::with_capacity(PIECE + 1));
    for (first, size) in ranges {
        for at in (0..size).step_by(PIECE) {
            let crcs = pieces.next().unwrap_or_default();
            if crcs.iter().all(|&crc| crc == 0) {
                continue;
            }
            let len = (size - at).min(PIECE as u64);
            piece.clear();
            let read = StreamingDecoder::new_with_decoder(&mut source, &mut decoder)
                .map_err(io::Error::other)
                .and_then(|frame| frame.take(len + 1).read_to_end(&mut piece));
            read.map_err(|e| damaged(start + at, &format!("cannot be unpacked ({e})")))?;
            if piece.len() as u64 != len || !checksums(&piece).eq(crcs.iter().copied()) {
                return Err(damaged(start + at, "is not what was written"));
            }
            put(first + at, &piece).map_err(|e| damaged(start + at, &e.to_string()))?;
        }
        start += size;
    }
    match source.read(&mut [0]) {
        Ok(0) => Ok(()),
        _ => Err(damaged(start, "is followed by more")),
    }
}

/// Writes what is not zero.
fn fill(ram: &GuestRam, addr: u64, piece: &[u8]) -> Result<(), memory::MemoryError> {
    let mut at = addr;
    let pages: Vec<&[u8]> = piece.chunks(PAGE_SIZE as usize).collect();
    for run in pages.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let len: usize = run.iter().map(|page| page.len()).sum();
        let start = (at - addr) as usize;
        if let (Some(false), Some(bytes)) =
            (run.first().map(|page| is_zero(page)), piece.get(start..start + len))
        {
            ram.load(at, bytes)?;
        }
        at += len as u64;
    }
    Ok(())
}
