//! An ext2, 3 or 4 file system, to be read.

use std::error::Error;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read};

use super::ReadAt;

/// Bytes that are read at once where fewer are asked for.
const CHUNK: u64 = 1 << 16;
/// Where the superblock is, and fields of it: blocks (low and high half), the logarithm of a block's KiB, blocks of a
/// group, the magic number, features.
const SUPERBLOCK: u64 = 1024;
const BLOCKS: (usize, usize) = (0x04, 0x150);
const BLOCK_LOG: usize = 0x18;
const GROUP_BLOCKS: usize = 0x20;
const MAGIC: (usize, u64) = (0x38, 0xef53);
const FEATURES: usize = 0x60;
const FEATURE_64BIT: u64 = 0x80;
/// Fewest blocks of a group: the library keeps something for each.
const MIN_GROUP: u64 = 256;
/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 4096;

/// The file system of a partition.
#[derive(Clone)]
pub struct Files {
    ext4: Ext4,
    /// Bytes of the partition: no file that we want has more.
    len: u64,
}

impl Files {
    /// The file system in this part of the disk, if it is one that we read.
    pub fn open(disk: &Arc<dyn ReadAt>, range: &Range<u64>) -> Option<Self> {
        let range = range.start..range.end.min(disk.len());
        let len = range.end.checked_sub(range.start)?;
        let mut part = Part { disk: disk.clone(), range, chunk: (0, Vec::new()) };
        if !is_plausible(&mut part, len) {
            return None;
        }
        match caught(|| Ext4::load(Box::new(part))) {
            Ok(ext4) => Some(Self { ext4, len }),
            Err(fact) => {
                tracing::info!("a file system on the disk cannot be read: {fact}");
                None
            }
        }
    }

    /// There is something of that name.
    pub fn has(&self, path: &str) -> bool {
        caught(|| self.ext4.exists(path)) == Ok(true)
    }

    /// Names in a folder; nothing if there is none.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let name = |entry: Result<ext4_view::DirEntry, Ext4Error>| {
            Some(entry.ok()?.file_name().as_str().ok()?.to_owned())
        };
        let list = || Ok(self.ext4.read_dir(folder)?.take(MAX_ENTRIES).filter_map(name).collect());
        caught(list).unwrap_or_default()
    }

    /// A file, if it has no more than `max` bytes; or why it cannot be had.
    pub fn read(&self, path: &str, max: u64) -> Result<Vec<u8>, String> {
        let len = caught(|| self.ext4.metadata(path))?.len();
        if len > max.min(self.len) {
            return Err(format!("it has {len} bytes"));
        }
        caught(|| self.ext4.read(path))
    }
}

/// Errors in words. A file system may be made to break the assumptions of who reads it.
fn caught<T>(work: impl FnOnce() -> Result<T, Ext4Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|e| e.to_string().replace('\n', " ")),
        Err(_) => Err("the file system contradicts itself".to_owned()),
    }
}

/// The library believes the superblock; what is not on the disk costs no memory.
fn is_plausible(part: &mut Part, len: u64) -> bool {
    let mut block = [0; 1024];
    if part.read(SUPERBLOCK, &mut block).is_err() {
        return false;
    }
    let number =
        |at: usize, bytes: usize| block[at..at + bytes].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    let high = if number(FEATURES, 4) & FEATURE_64BIT != 0 { number(BLOCKS.1, 4) } else { 0 };
    let blocks = number(BLOCKS.0, 4) | high << 32;
    let size = 1024u64.checked_shl(number(BLOCK_LOG, 4) as u32).filter(|size| *size <= 1 << 16);
    let end = size.and_then(|size| blocks.checked_mul(size));
    number(MAGIC.0, 2) == MAGIC.1 && number(GROUP_BLOCKS, 4) >= MIN_GROUP && end.is_some_and(|end| end <= len)
}

/// A partition as the library reads it: often a few bytes, one behind the other.
struct Part {
    disk: Arc<dyn ReadAt>,
    range: Range<u64>,
    /// What was read last, and where it is on the disk.
    chunk: (u64, Vec<u8>),
}

impl Ext4Read for Part {
    fn read(&mut self, start: u64, to: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let beyond = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let at = self.range.start.checked_add(start).ok_or_else(beyond)?;
        let end = at.checked_add(to.len() as u64).filter(|end| *end <= self.range.end);
        let end = end.ok_or_else(beyond)?;
        if to.len() as u64 > CHUNK / 2 {
            return Ok(self.disk.read_at(at, to)?);
        }
        let (first, bytes) = &mut self.chunk;
        if at < *first || end > *first + bytes.len() as u64 {
            bytes.clear();
            bytes.resize(CHUNK.min(self.range.end - at) as usize, 0);
            *first = at;
            if let Err(error) = self.disk.read_at(at, bytes) {
                bytes.clear();
                return Err(error.into());
            }
        }
        let skip = (at - *first) as usize;
        to.copy_from_slice(&bytes[skip..skip + to.len()]);
        Ok(())
    }
}
