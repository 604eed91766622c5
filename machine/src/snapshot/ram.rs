//! RAM as a file with holes, and the checksums that say whether it still is what was written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memory::{GuestRam, Layers, MemoryError, PAGE_SIZE, Run};

use super::crc::four;
use super::{Section, SnapshotError, packed, part};
use crate::MachineError;

/// The section with the checksums, of blocks of 64 KiB; zero where all is zero.
const KIND: &str = "ram";
const PACKED: &str = "ram-zstd";
const LAYERS: &str = "ram-layers";
const SECTION_VERSION: u32 = 1;
const BLOCK: usize = 64 << 10;
/// What is copied and looked at together.
pub const PIECE: usize = 4 * BLOCK;
/// Bytes of RAM whose pages are looked at together. In files, the end of what holds data is searched for from wherever the look
/// begins: by pieces, that would be once for each piece of it.
const WINDOW: usize = 128 << 20;
const PAGE: usize = PAGE_SIZE as usize;

/// Writes all RAM into an empty file, with holes or packed; the section, and bytes that were written.
pub fn write(ram: &GuestRam, file: &File, packed: bool) -> io::Result<(Section, u64)> {
    if !packed {
        file.set_len(ram.size())?;
    }
    let mut crcs = Vec::with_capacity(ram.size() as usize / BLOCK);
    let mut piece = vec![0; PIECE];
    let (mut start, mut written) = (0, 0);
    for range in ram.ranges() {
        for window in (0..range.len).step_by(WINDOW) {
            let len = (range.len - window).min(WINDOW as u64) as usize;
            let mut pages = vec![false; len.div_ceil(PAGE)];
            ram.look(range.start + window, &mut pages).map_err(io::Error::other)?;
            for (index, pages) in pages.chunks_mut(PIECE / PAGE).enumerate() {
                let at = window + (index * PIECE) as u64;
                let len = (range.len - at).min(PIECE as u64) as usize;
                if !pages.contains(&true) {
                    crcs.extend(std::iter::repeat_n(0, len.div_ceil(BLOCK)));
                    continue;
                }
                let piece = &mut piece[..len];
                fill(ram, range.start + at, pages, piece)?;
                if !packed {
                    written += write_runs(file, start + at, pages, piece)?;
                } else if pages.contains(&true) {
                    written += packed::append(file, piece)?;
                }
                crcs.extend(checksums(piece));
            }
        }
        start += range.len;
    }
    let data = crcs.into_iter().flat_map(u32::to_le_bytes).collect();
    let kind = if packed { PACKED } else { KIND };
    Ok((Section { kind: kind.to_owned(), instance: 0, version: SECTION_VERSION, data }, written))
}

/// Gets the content of pages that may hold something, and finds out whether they do.
fn fill(ram: &GuestRam, at: u64, pages: &mut [bool], piece: &mut [u8]) -> io::Result<()> {
    for (index, (page, bytes)) in pages.iter_mut().zip(piece.chunks_mut(PAGE)).enumerate() {
        if *page {
            ram.read(at + (index * PAGE) as u64, bytes).map_err(io::Error::other)?;
            *page = !is_zero(bytes);
        } else {
            bytes.fill(0);
        }
    }
    Ok(())
}

fn write_runs(file: &File, start: u64, pages: &[bool], piece: &[u8]) -> io::Result<u64> {
    let mut written = 0;
    let mut at = 0;
    for run in pages.chunk_by(|a, b| a == b) {
        let end = (at + run.len() * PAGE).min(piece.len());
        if let (Some(true), Some(bytes)) = (run.first(), piece.get(at..end)) {
            file.write_all_at(bytes, start + at as u64)?;
            written += bytes.len() as u64;
        }
        at = end;
    }
    Ok(written)
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
