//! May an image be written to? Whoever allocates clusters trusts the reference counts: none of the image's own tables
//! may look free, and none may be two things at once. The whole image is the business of `tools::check`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::Header;
use super::header::{OFFSET, entries};
use crate::file;

/// Looks at the counts of all tables.
///
/// # Errors
/// What is wrong, in a few words.
pub fn check(file: &File, header: &Header) -> Result<(), String> {
    let text = |e: std::io::Error| e.to_string();
    let (bits, size) = (header.cluster_bits, header.cluster());
    let len = file::len(file).map_err(text)?;
    let (table, clusters) = header.refcounts;
    let blocks = entries(file, table, ((clusters << bits) / 8) as usize).map_err(text)?;
    let per_block = (size * 8) >> header.refcount_order;
    let needed = len.div_ceil(size).div_ceil(per_block) as usize;
    let missing = || "not all of its clusters have a reference count".to_owned();
    if blocks.get(..needed).ok_or_else(missing)?.contains(&0) {
        return Err(missing());
    }

    let mut own = vec![0];
    let l1 = header.l1_offset..header.l1_offset + header.l1.len() as u64 * 8;
    for range in [l1, table..table + (clusters << bits)] {
        own.extend((range.start >> bits)..range.end.div_ceil(size));
    }
    let tables = header.l1.iter().map(|entry| entry & OFFSET).chain(blocks.iter().copied());
    for at in tables.filter(|&at| at != 0) {
        if !at.is_multiple_of(size) || at.checked_add(size).is_none_or(|end| end > len) {
            return Err(format!("a table at {at:#x} is not where one can be"));
        }
        own.push(at >> bits);
    }
    own.sort_unstable();
    if own.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("two of its tables are in the same place".to_owned());
    }

    let (mut loaded, mut counts) = (None, vec![0; size as usize]);
    for cluster in own {
        let (block, index) = ((cluster / per_block) as usize, cluster % per_block);
        if loaded != Some(block) {
            let at = blocks.get(block).copied().filter(|&at| at != 0).ok_or_else(missing)?;
            file.read_exact_at(&mut counts, at).map_err(text)?;
            loaded = Some(block);
        }
        if refcount(&counts, index, header.refcount_order) == 0 {
            return Err(format!("its table at {:#x} counts as free room", cluster << bits));
        }
    }
    Ok(())
}

/// A count of a block: big-endian, or bits of a byte from its low end.
pub fn refcount(block: &[u8], index: u64, order: u32) -> u64 {
    let index = index as usize;
    if order < 3 {
        let (per_byte, width) = (8 >> order, 1 << order);
        let byte = block.get(index / per_byte).copied().unwrap_or(0);
        return u64::from(byte >> (index % per_byte * width)) & ((1 << width) - 1);
    }
    let width = 1 << (order - 3);
    block.iter().skip(index * width).take(width).fold(0, |count, &byte| count << 8 | u64::from(byte))
}
