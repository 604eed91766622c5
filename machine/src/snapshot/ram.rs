//! RAM as a file with holes, and the checksums that say whether it still is what was written.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memory::{GuestRam, Layers, MemoryError, PAGE_SIZE, Run};

use super::crc::four;
use super::packed::Packer;
use super::threads::{Line, share_out};
use super::{Section, SnapshotError, packed, part};
use crate::MachineError;

/// The section with the checksums, of blocks of 64 KiB; zero where all is zero.
pub const KIND: &str = "ram";
const PACKED: &str = "ram-zstd";
const LAYERS: &str = "ram-layers";
pub const SECTION_VERSION: u32 = 1;
pub const BLOCK: usize = 64 << 10;
/// What is copied and looked at together.
pub const PIECE: usize = 4 * BLOCK;
/// Bytes of RAM whose pages are looked at together. In files, the end of what holds data is searched for from wherever the look
/// begins: by pieces, that would be once for each piece of it.
const WINDOW: usize = 128 << 20;
const PAGE: usize = PAGE_SIZE as usize;

/// Where RAM is read that is written down.
pub enum Source<'a> {
    /// That of a guest that stands still.
    Still(&'a GuestRam),
    /// What was frozen: the guest may go on.
    Frozen(&'a GuestRam, &'a Layers),
}

/// Some of it that may not be all zero.
pub struct Piece {
    /// First byte among all RAM, and its guest-physical address.
    pub start: u64,
    pub addr: u64,
    pub len: usize,
    /// A bit for each page that may hold something.
    pub pages: u64,
}

const _: () = assert!(PIECE / PAGE == 64, "a piece's pages have a word");

impl Source<'_> {
    fn ram(&self) -> &GuestRam {
        match self {
            Self::Still(ram) | Self::Frozen(ram, _) => ram,
        }
    }

    pub fn pieces(&self) -> io::Result<Vec<Piece>> {
        let (mut pieces, mut first) = (Vec::new(), 0);
        for range in self.ram().ranges() {
            for window in (0..range.len).step_by(WINDOW) {
                let len = (range.len - window).min(WINDOW as u64) as usize;
                let mut pages = vec![false; len.div_ceil(PAGE)];
                match self {
                    Self::Still(ram) => {
                        ram.look(range.start + window, &mut pages).map_err(io::Error::other)?;
                    }
                    Self::Frozen(_, layers) => layers.look(first + window, &mut pages),
                }
                for (chunk, at) in pages.chunks(PIECE / PAGE).zip((window..).step_by(PIECE)) {
                    let bits = chunk.iter().rev().fold(0, |bits, &page| bits << 1 | u64::from(page));
                    let (start, addr) = (first + at, range.start + at);
                    if bits != 0 {
                        pieces.push(Piece { start, addr, len: chunk.len() * PAGE, pages: bits });
                    }
                }
            }
            first += range.len;
        }
        Ok(pieces)
    }

    /// Gets the content of pages that may hold something; the rest is zero. The pages that do.
    fn read(&self, piece: &Piece, to: &mut [u8]) -> io::Result<u64> {
        let mut found = 0;
        for (index, bytes) in to.chunks_mut(PAGE).enumerate() {
            if piece.pages >> index & 1 == 0 {
                bytes.fill(0);
                continue;
            }
            let at = (index * PAGE) as u64;
            match self {
                Self::Still(ram) => ram.read(piece.addr + at, bytes).map_err(io::Error::other)?,
                Self::Frozen(_, layers) => layers.read(piece.start + at, bytes)?,
            }
            found |= u64::from(!is_zero(bytes)) << index;
        }
        Ok(found)
    }
}

/// Writes all RAM into an empty file, with holes or packed; the section, and bytes that were written.
pub fn write(from: &Source<'_>, file: &File, packed: bool) -> io::Result<(Section, u64)> {
    let size = from.ram().size();
    if !packed {
        file.set_len(size)?;
    }
    let crcs: Vec<AtomicU32> = (0..size.div_ceil(BLOCK as u64)).map(|_| AtomicU32::new(0)).collect();
    let (pieces, line, written) = (from.pieces()?, Line::new(), AtomicU64::new(0));
    let begin = || (vec![0; PIECE], packed.then(Packer::new));
    let work = |(buffer, packer): &mut (Vec<u8>, Option<Packer>), index: usize| -> io::Result<()> {
        // Frames have no order but that in the file.
        let place = packed.then(|| line.place(index));
        let Some(piece) = pieces.get(index) else { return Ok(()) };
        let bytes = buffer.get_mut(..piece.len).unwrap_or_default();
        let pages = from.read(piece, bytes)?;
        for (crc, block) in crcs.iter().skip((piece.start / BLOCK as u64) as usize).zip(checksums(bytes)) {
            crc.store(block, Ordering::Relaxed);
        }
        let wrote = match (packer, place) {
            (Some(packer), Some(place)) => {
                let frame = if pages == 0 { &[] } else { packer.frame(bytes) };
                place.pass(|| (&*file).write_all(frame))?;
                frame.len() as u64
            }
            _ => write_runs(file, piece, pages, bytes)?,
        };
        written.fetch_add(wrote, Ordering::Relaxed);
        Ok(())
    };
    share_out(pieces.len(), 1, "snapshot", begin, work)?;
    let data = crcs.into_iter().flat_map(|crc| crc.into_inner().to_le_bytes()).collect();
    let kind = if packed { PACKED } else { KIND };
    let section = Section { kind: kind.to_owned(), instance: 0, version: SECTION_VERSION, data };
    Ok((section, written.into_inner()))
}

/// Writes the pages that hold something, those in a row together.
pub fn write_runs(file: &File, piece: &Piece, pages: u64, bytes: &[u8]) -> io::Result<u64> {
    let mut written = 0;
    for range in runs(pages) {
        let run = bytes.get(range.clone()).unwrap_or_default();
        file.write_all_at(run, piece.start + range.start as u64)?;
        written += run.len() as u64;
    }
    Ok(written)
}

/// Pages in a row, as bytes of a piece.
pub fn runs(mut pages: u64) -> impl Iterator<Item = Range<usize>> {
    std::iter::from_fn(move || {
        let first = (pages != 0).then(|| pages.trailing_zeros())?;
        let end = first + (pages >> first).trailing_ones();
        pages &= u64::MAX.checked_shl(end).unwrap_or(0);
        Some(first as usize * PAGE..end as usize * PAGE)
    })
}

/// The checksums of a piece's blocks, the last of which may be short.
pub fn checksums(piece: &[u8]) -> impl Iterator<Item = u32> {
    let block = |index: usize| {
        let start = (index * BLOCK).min(piece.len());
        &piece[start..(start + BLOCK).min(piece.len())]
    };
    let blocks = [0, 1, 2, 3].map(block);
    let crcs = four(blocks);
    let of = |(block, crc): (&[u8], u32)| if is_zero(block) { 0 } else { crc.max(1) };
    let crcs: [u32; 4] = std::array::from_fn(|i| of((blocks[i], crcs[i])));
    crcs.into_iter().take(piece.len().div_ceil(BLOCK))
}

pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| word.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

/// The section of a copy: which of its files has which run of RAM.
pub fn layers(layers: &Layers) -> Result<Section, SnapshotError> {
    let runs: Vec<_> = layers.runs().map(|run| (run.start, run.len, run.file)).collect();
    part::encode(LAYERS, 0, SECTION_VERSION, &runs)
}

/// What is in RAM that was written down.
#[derive(Debug, Clone)]
pub enum Content {
    /// One file with all of it.
    Whole(Checksums),
    /// One file, packed.
    Packed(Checksums),
    /// Runs of files.
    Layers(Vec<(u64, u64, Option<usize>)>),
}

impl Content {
    /// That of a snapshot with so many bytes of RAM, which has one section about it.
    pub fn of(section: &Section, memory: u64) -> Result<Self, SnapshotError> {
        match section.kind.as_str() {
            LAYERS => Ok(Self::Layers(part::decode(section, SECTION_VERSION)?)),
            PACKED => Ok(Self::Packed(Checksums::new(section, memory)?)),
            _ => Ok(Self::Whole(Checksums::new(section, memory)?)),
        }
    }

    /// Whether a section says it.
    pub fn is_in(section: &Section) -> bool {
        [KIND, PACKED, LAYERS].contains(&section.kind.as_str())
    }

    /// The RAM.
    ///
    /// # Errors
    /// The host has no room for it, or it is not what was written.
    pub fn map(&self, size: u64, mut files: Vec<File>) -> Result<GuestRam, MachineError> {
        match self {
            Self::Whole(_) => Ok(GuestRam::from_file(size, files.pop().ok_or(MemoryError::BadLayers)?)?),
            Self::Packed(checksums) => {
                let ram = GuestRam::freezable(size)?;
                packed::unpack(&files.pop().ok_or(MemoryError::BadLayers)?, checksums, &ram)?;
                Ok(ram)
            }
            Self::Layers(runs) => {
                let runs = runs.iter().map(|&(start, len, file)| Run { start, len, file });
                Ok(GuestRam::from_layers(size, Layers::new(size, files, runs)?)?)
            }
        }
    }
}

/// Checksums that a file may be held against.
#[derive(Debug, Clone)]
pub struct Checksums(Vec<u32>);

impl Checksums {
    /// Those of a section for so many bytes of RAM.
    pub fn new(section: &Section, memory: u64) -> Result<Self, SnapshotError> {
        let (words, rest) = section.data.as_chunks();
        if section.version != SECTION_VERSION
            || !rest.is_empty()
            || words.len() as u64 != memory.div_ceil(BLOCK as u64)
        {
            return Err(SnapshotError::Damaged("its checksums of RAM are others".to_owned()));
        }
        Ok(Self(words.iter().map(|word| u32::from_le_bytes(*word)).collect()))
    }

    /// Those of each piece that is written together.
    pub fn pieces(&self) -> impl Iterator<Item = &[u32]> {
        self.0.chunks(PIECE / BLOCK)
    }

    /// Reads the whole file, as long as `go_on` says so.
    pub fn check(&self, file: &File, memory: u64, go_on: impl Fn() -> bool) -> Result<(), SnapshotError> {
        let damaged = |at: u64, what: &str| SnapshotError::Damaged(format!("its RAM at {at:#x} {what}"));
        let mut piece = vec![0; PIECE];
        for (index, crcs) in self.pieces().enumerate() {
            if !go_on() {
                return Ok(());
            }
            let at = (index * PIECE) as u64;
            let len = memory.saturating_sub(at).min(PIECE as u64) as usize;
            let piece = &mut piece[..len];
            file.read_exact_at(piece, at).map_err(|e| damaged(at, &format!("cannot be read: {e}")))?;
            let wrong = checksums(piece).zip(crcs).position(|(now, then)| now != *then);
            if let Some(block) = wrong {
                return Err(damaged(at + (block * BLOCK) as u64, "is not what was written"));
            }
        }
        Ok(())
    }
}
