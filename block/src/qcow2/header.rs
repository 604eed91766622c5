//! The header of a qcow2 image (Qcow2 format, "Header"), as far as we look at it ourselves.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::file;

/// Most entries of an L1 table: what QEMU takes.
const MAX_L1_ENTRIES: u64 = (32 << 20) / 8;
/// Where a table or cluster is, in an entry of an L1 or L2 table.
pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Incompatible features: refcounts are not up to date; something is wrong with the image.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 2;

/// What a header says. Tables named here are in the file.
#[derive(Debug, Clone)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of the disk.
    pub len: u64,
    /// Bytes of a cluster are 2 to this.
    pub cluster_bits: u32,
    /// Bits of a refcount are 2 to this.
    pub refcount_order: u32,
    /// Where the refcount table is, and its clusters.
    pub refcounts: (u64, u64),
    /// Where the snapshots are described, and how many there are.
    pub snapshots: (u64, u32),
    /// Where the L1 table is.
    pub l1_offset: u64,
    /// Its entries.
    pub l1: Vec<u64>,
    /// Further features that a reader has to know.
    pub features: u64,
    /// Features that an unknowing writer clears.
    pub autoclear: u64,
}

impl Header {
    /// Reads the header and the L1 table.
    ///
    /// # Errors
    /// What is wrong with them, in a few words.
    pub fn read(file: &File) -> Result<Self, String> {
        let mut bytes = [0; 104];
        let len = file::len(file).map_err(|e| e.to_string())?;
        let known = len.min(104) as usize;
        file.read_exact_at(&mut bytes[..known], 0).map_err(|e| e.to_string())?;
        if known < 72 {
            return Err("the file ends in its header".to_owned());
        }
        let word =
            |at: usize| bytes[at..].iter().take(4).fold(0u32, |value, &byte| value << 8 | u32::from(byte));
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        let (version, cluster_bits) = (word(4), word(20));
        if word(0) != u32::from_be_bytes(*b"QFI\xfb") || !(2..=3).contains(&version) {
            return Err("it is no image of version 2 or 3".to_owned());
        }
        if version == 3 && known < 104 {
            return Err("the file ends in its header".to_owned());
        }
        if !(9..=21).contains(&cluster_bits) {
            return Err(format!("it has clusters of 2^{cluster_bits} bytes"));
        }
        if word(32) != 0 {
            return Err("it is encrypted, which is not supported".to_owned());
        }
        let (features, autoclear, refcount_order) =
            if version == 3 { (long(72), long(88), word(96)) } else { (0, 0, 4) };
        if refcount_order > 6 {
            return Err(format!("it has refcounts of 2^{refcount_order} bits"));
        }
        let (l1_offset, l1_entries) = (long(40), u64::from(word(36)));
        if l1_entries > MAX_L1_ENTRIES {
            return Err(format!("its L1 table has {l1_entries} entries"));
        }
        let refcounts = (long(48), u64::from(word(56)));
        let tables =
            [("L1", l1_offset, l1_entries * 8), ("refcount", refcounts.0, refcounts.1 << cluster_bits)];
        if let Some((name, ..)) =
            tables.iter().find(|(_, at, bytes)| at.checked_add(*bytes).is_none_or(|end| end > len))
        {
            return Err(format!("the file ends before its {name} table"));
        }
        let l1 = entries(file, l1_offset, l1_entries as usize).map_err(|e| e.to_string())?;
        Ok(Self {
            version,
            len: long(24),
            cluster_bits,
            refcount_order,
            refcounts,
            snapshots: (long(64), word(60)),
            l1_offset,
            l1,
            features,
            autoclear,
        })
    }

    /// Why the image is not to be used as it is, if it is not.
    ///
    /// # Errors
    /// It ends early or says itself that it is damaged.
    pub fn check(&self, file: &File) -> Result<(), String> {
        let len = file::len(file).map_err(|e| e.to_string())?;
        if self.l1.iter().any(|entry| entry & OFFSET >= len) {
            return Err("the file ends before one of its L2 tables".to_owned());
        }
        match self.features {
            features if features & CORRUPT != 0 => Err("it is marked as damaged".to_owned()),
            features if features & DIRTY != 0 => {
                Err("it was not closed: repair it with qemu-img check -r all".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }
}

/// Reads big-endian entries of a table.
pub fn entries(file: &File, offset: u64, count: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.as_chunks().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect())
}
