//! RAM that is written down while the guest goes on: all of it first, then in rounds what the guest has written meanwhile, and
//! the last of that when it stands still.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memory::{GuestRam, PAGE_SIZE, WriteLog};

use super::crc::{Behind, crc32c};
use super::ram::{BLOCK, KIND, PIECE, Piece, SECTION_VERSION, Source, is_zero, runs, write_runs};
use super::threads::share_out;
use super::{Section, SnapshotError};
use crate::MachineError;

const PAGE: usize = PAGE_SIZE as usize;
/// Most rounds, and so few pages that another one is not worth its while: 4 MiB take the guest a millisecond or two.
const ROUNDS: usize = 4;
const FEW: u64 = 1024;

/// A file that becomes RAM.
pub struct Live<'a> {
    ram: &'a GuestRam,
    file: &'a File,
    log: WriteLog<'a>,
    /// Pages of the file that hold something: a word for each piece.
    held: Vec<AtomicU64>,
    /// The checksum of each of them.
    crcs: Vec<AtomicU32>,
}

impl<'a> Live<'a> {
    /// Begins to log writes; the file is empty.
    ///
    /// # Errors
    /// The host has no such log, or no such file.
    pub fn begin(ram: &'a GuestRam, file: &'a File) -> Result<Self, MachineError> {
        let (log, size) = (ram.log_writes()?, ram.size());
        file.set_len(size).map_err(failed)?;
        let held = (0..size.div_ceil(PIECE as u64)).map(|_| AtomicU64::new(0)).collect();
        let crcs = (0..size / PAGE_SIZE).map(|_| AtomicU32::new(0)).collect();
        Ok(Self { ram, file, log, held, crcs })
    }

    /// Writes all of it. Of what the guest writes meanwhile, the file gets something.
    pub fn all(&self) -> Result<(), SnapshotError> {
        Source::Still(self.ram).pieces().and_then(|pieces| self.write(&pieces)).map_err(failed)
    }

    /// Rounds, as long as they get smaller and are not small.
    pub fn catch_up(&mut self) -> Result<(), MachineError> {
        let mut last = u64::MAX;
        for _ in 0..ROUNDS {
            let pages = self.round()?;
            if pages <= FEW || pages > last / 2 {
                break;
            }
            last = pages;
        }
        Ok(())
    }

    /// Writes what was written since the last round: so many pages. If the guest stands still, the file is its RAM.
    pub fn round(&mut self) -> Result<u64, MachineError> {
        let mut written: BTreeMap<u64, u64> = BTreeMap::new();
        self.log.round(|mut addr, len| {
            let end = addr + len;
            while addr < end {
                let piece = addr - addr % PIECE as u64;
                let to = end.min(piece + PIECE as u64);
                let (first, count) = ((addr - piece) / PAGE_SIZE, (to - addr) / PAGE_SIZE);
                *written.entry(piece).or_default() |= u64::MAX >> (64 - count) << first;
                addr = to;
            }
        })?;
        let piece = |(addr, pages)| {
            let start = self.ram.file_offset(addr)?;
            let len = (self.ram.size() - start).min(PIECE as u64) as usize;
            Some(Piece { start, addr, len, pages })
        };
        let pieces: Vec<_> = written.into_iter().filter_map(piece).collect();
        self.write(&pieces).map_err(failed)?;
        Ok(pieces.iter().map(|piece| u64::from(piece.pages.count_ones())).sum())
    }

    fn write(&self, pieces: &[Piece]) -> io::Result<()> {
        share_out(
            pieces.len(),
            1,
            "snapshot",
            || vec![0; PIECE],
            |buffer, index| pieces.get(index).map_or(Ok(()), |piece| self.write_piece(piece, buffer)),
        )
    }

    fn write_piece(&self, piece: &Piece, bytes: &mut [u8]) -> io::Result<()> {
        let mut found = 0;
        for run in runs(piece.pages) {
            let (at, part) = (run.start, bytes.get_mut(run).unwrap_or_default());
            self.ram.peek(piece.addr + at as u64, part).map_err(io::Error::other)?;
            for (page, bytes) in (at / PAGE..).zip(part.chunks(PAGE)) {
                if is_zero(bytes) {
                    continue;
                }
                found |= 1 << page;
                if let Some(crc) = self.crcs.get(piece.start as usize / PAGE + page) {
                    crc.store(crc32c(0, bytes), Ordering::Relaxed);
                }
            }
        }
        write_runs(self.file, piece, found, bytes)?;
        let Some(held) = self.held.get(piece.start as usize / PIECE) else { return Ok(()) };
        let before = held.load(Ordering::Relaxed);
        for run in runs(before & piece.pages & !found) {
            block::zero(self.file, piece.start + run.start as u64, run.len() as u64, true)?;
        }
        held.store(before & !piece.pages | found, Ordering::Relaxed);
        Ok(())
    }

    /// Ends it: the section, and the bytes of the file that hold something.
    pub fn finish(self) -> (Section, u64) {
        let (behind, zeros) = (Behind::bytes(PAGE), crc32c(0, &[0; PAGE]));
        let held = |page: usize| {
            let word = self.held.get(page * PAGE / PIECE).map_or(0, |word| word.load(Ordering::Relaxed));
            word >> (page % (PIECE / PAGE)) & 1 != 0
        };
        let pages: Vec<Option<u32>> = self
            .crcs
            .iter()
            .map(|crc| crc.load(Ordering::Relaxed))
            .zip(0..)
            .map(|(crc, page)| held(page).then_some(crc))
            .collect();
        let block = |pages: &[Option<u32>]| {
            if pages.iter().all(Option::is_none) {
                return 0;
            }
            let crc = pages.iter().fold(0, |crc, page| behind.of(crc) ^ page.unwrap_or(zeros));
            crc.max(1)
        };
        let data = pages.chunks(BLOCK / PAGE).flat_map(|pages| block(pages).to_le_bytes()).collect();
        let section = Section { kind: KIND.to_owned(), instance: 0, version: SECTION_VERSION, data };
        (section, pages.iter().flatten().count() as u64 * PAGE_SIZE)
    }
}

fn failed(source: io::Error) -> SnapshotError {
    SnapshotError::Write { what: "memory".to_owned(), source }
}
