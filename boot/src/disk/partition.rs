//! Where file systems may be on a disk: GPT (UEFI specification 2.10, 5.3), MBR, or no partitions at all.

use std::io;
use std::ops::Range;

use super::ReadAt;

/// Bytes of a sector, in which the tables count.
const SECTOR: u64 = 512;
/// Most partitions that are looked at.
const MAX: usize = 128;
/// MBR types: empty, GPT's, and the extended ones that hold further tables.
const EMPTY: u8 = 0;
const PROTECTIVE: u8 = 0xee;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// A part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number; None for the whole disk.
    pub number: Option<u32>,
    /// Its bytes.
    pub range: Range<u64>,
}

/// All partitions, or the whole disk if there is no table. Parts of them may be beyond its end.
pub fn partitions(disk: &dyn ReadAt) -> io::Result<Vec<Partition>> {
    let whole = Partition { number: None, range: 0..disk.len() };
    let mut mbr = [0; SECTOR as usize];
    if disk.len() < 2 * SECTOR {
        return Ok(Vec::new());
    }
    disk.read_at(0, &mut mbr)?;
    if mbr[510..] != [0x55, 0xaa] {
        return Ok(vec![whole]);
    }
    let mut found = Vec::new();
    for (number, kind, first, count) in table(&mbr) {
        match kind {
            EMPTY => {}
            PROTECTIVE => return gpt(disk),
            kind if EXTENDED.contains(&kind) => logical(disk, first, &mut found)?,
            _ => found.push(Partition { number: Some(number), range: sectors(first, count) }),
        }
    }
    // What looks like a table may be the first sector of a file system.
    found.push(whole);
    Ok(found)
}

fn sectors(first: u64, count: u64) -> Range<u64> {
    let start = first.saturating_mul(SECTOR);
    start..start.saturating_add(count.saturating_mul(SECTOR))
}

/// Number, type, first sector and number of sectors of the four entries.
fn table(mbr: &[u8; SECTOR as usize]) -> impl Iterator<Item = (u32, u8, u64, u64)> {
    let (entries, _) = mbr[446..510].as_chunks::<16>();
    (1..).zip(entries).map(|(number, e)| {
        let word = |at: usize| u64::from(u32::from_le_bytes([e[at], e[at + 1], e[at + 2], e[at + 3]]));
        (number, e[4], word(8), word(12))
    })
}

/// Partitions in an extended one: a chain of tables of two entries, one partition and the next table.
fn logical(disk: &dyn ReadAt, start: u64, found: &mut Vec<Partition>) -> io::Result<()> {
    let mut at = start;
    for number in 5..5 + MAX as u32 {
        let mut sector = [0; SECTOR as usize];
        if disk.read_at(at.saturating_mul(SECTOR), &mut sector).is_err() || sector[510..] != [0x55, 0xaa] {
            return Ok(());
        }
        let mut next = None;
        for (_, kind, first, count) in table(&sector).take(2) {
            match kind {
                EMPTY => {}
                kind if EXTENDED.contains(&kind) => next = Some(start + first),
                _ => found.push(Partition { number: Some(number), range: sectors(at + first, count) }),
            }
        }
        match next {
            Some(next) => at = next,
            None => return Ok(()),
        }
    }
    Ok(())
}

fn gpt(disk: &dyn ReadAt) -> io::Result<Vec<Partition>> {
    let mut header = [0; SECTOR as usize];
    disk.read_at(SECTOR, &mut header)?;
    let long =
        |bytes: &[u8], at: usize| bytes[at..].iter().take(8).rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
    // Where the entries are; how many there are, and the bytes of one.
    let (entries, count, size) =
        (long(&header, 72), long(&header, 80) as u32 as usize, long(&header, 84) as u32 as usize);
    if header[..8] != *b"EFI PART" || !(128..=4096).contains(&size) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for index in 0..count.min(MAX) {
        let mut entry = [0; 128];
        let at = entries.saturating_mul(SECTOR).saturating_add((index * size) as u64);
        if disk.read_at(at, &mut entry).is_err() {
            break;
        }
        let (first, last) = (long(&entry, 32), long(&entry, 40));
        if entry[..16] != [0; 16] && first <= last {
            let range = sectors(first, (last - first).saturating_add(1));
            found.push(Partition { number: Some(index as u32 + 1), range });
        }
    }
    Ok(found)
}
