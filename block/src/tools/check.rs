//! Is a qcow2 image whole? Every cluster is counted by who refers to it, and the counts compared with the image's own
//! (Qcow2 format, "Host cluster management"). Nothing is repaired.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;

use super::Progress;
use crate::lock::{self, Access};
use crate::qcow2::Header;
use crate::qcow2::header::{OFFSET, entries};
use crate::qcow2::sound::refcount;
use crate::{BlockError, Format, file};

/// Most findings that are told one by one.
const MAX_TOLD: usize = 20;
/// Bits of an entry: nobody else refers to it; it is compressed.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Autoclear feature: bitmaps, whose clusters are not looked at.
const BITMAPS: u64 = 1;

/// What a check found, with the names that `qemu-img check --output=json` has for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    /// Contradictions: data was lost, or will be.
    pub corruptions: u64,
    /// Clusters that nothing refers to: room that is wasted.
    pub leaks: u64,
    /// Clusters of the disk that are in the image.
    pub allocated_clusters: u64,
    /// Those of them that are compressed.
    pub compressed_clusters: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Where the last cluster in use ends.
    pub image_end_offset: u64,
    /// The first findings, in words.
    #[serde(skip)]
    pub findings: Vec<String>,
}

/// Checks an image; a raw one is always whole.
///
/// # Errors
/// It cannot be read or is in use.
pub fn check(path: &Path, format: Option<Format>, progress: Progress<'_>) -> Result<Check, BlockError> {
    let refuse = |source| BlockError::Open { path: path.to_owned(), source };
    let opened = file::open(path, false)?;
    lock::lock(&opened, path, Access::Shared)?;
    let format = match format {
        Some(format) => format,
        None => Format::probe(&opened).map_err(refuse)?,
    };
    if format == Format::Raw {
        return Ok(Check::default());
    }
    let header = Header::read(&opened).map_err(|fact| BlockError::Qcow2 { path: path.to_owned(), fact })?;
    let len = file::len(&opened).map_err(refuse)?;
    let mut walk =
        Walk { file: &opened, header: &header, len, counts: HashMap::new(), check: Check::default() };
    match walk.all(progress) {
        Ok(true) => Ok(walk.check),
        Ok(false) => Err(BlockError::Interrupted { path: path.to_owned() }),
        Err(source) => Err(BlockError::Read { path: path.to_owned(), source }),
    }
}

struct Walk<'a> {
    file: &'a File,
    header: &'a Header,
    len: u64,
    /// References to each cluster.
    counts: HashMap<u64, u64>,
    check: Check,
}

impl Walk<'_> {
    fn all(&mut self, progress: Progress<'_>) -> io::Result<bool> {
        let header = self.header;
        self.check.total_clusters = header.len.div_ceil(header.cluster());
        if let Err(fact) = header.check(self.file) {
            self.corrupt(fact);
        }
        self.refer(0, header.cluster());
        self.refer(header.refcounts.0, header.refcounts.1 << header.cluster_bits);
        self.refer(header.l1_offset, header.l1.len() as u64 * 8);
        let (own, mut l1_entries) = (header.l1.len() as u64, header.l1.clone());
        l1_entries.extend(self.snapshots()?);
        let total = l1_entries.len() as u64 + header.refcounts.1;
        let mut copied = Vec::new();
        for (i, &entry) in l1_entries.iter().enumerate() {
            if !progress(i as u64, total) {
                return Ok(false);
            }
            self.l2_table(entry, (i as u64) < own, &mut copied)?;
        }
        self.compare(&copied, l1_entries.len() as u64, total, progress)
    }

    fn corrupt(&mut self, finding: String) {
        self.check.corruptions += 1;
        if self.check.findings.len() < MAX_TOLD {
            self.check.findings.push(finding);
        }
    }

    /// Something refers to these bytes; false if they are not there.
    fn refer(&mut self, offset: u64, len: u64) -> bool {
        if len == 0 {
            return true;
        }
        let bits = self.header.cluster_bits;
        match offset.checked_add(len) {
            // The last cluster may be cut short.
            Some(end) if offset < self.len && end <= self.len.saturating_add(1 << bits) => {
                for cluster in offset >> bits..=(end - 1) >> bits {
                    *self.counts.entry(cluster).or_default() += 1;
                }
                true
            }
            _ => {
                self.corrupt(format!("{len} bytes at {offset:#x} are beyond the end of the file"));
                false
            }
        }
    }

    /// Entries of the L1 tables of all snapshots.
    fn snapshots(&mut self) -> io::Result<Vec<u64>> {
        let (mut at, count) = self.header.snapshots;
        let (start, mut all) = (at, Vec::new());
        for _ in 0..count {
            let mut head = [0; 40];
            if at.checked_add(40).is_none_or(|end| end > self.len) {
                self.corrupt("a snapshot is beyond the end of the file".to_owned());
                return Ok(all);
            }
            self.file.read_exact_at(&mut head, at)?;
            let number =
                |range: std::ops::Range<usize>| head[range].iter().fold(0u64, |n, &b| n << 8 | u64::from(b));
            let (offset, len) = (number(0..8), number(8..12));
            let strings = number(12..14) + number(14..16) + number(36..40);
            at = (at + 40 + strings).next_multiple_of(8);
            if len <= 1 << 22 && self.refer(offset, len * 8) {
                all.extend(entries(self.file, offset, len as usize)?);
            }
        }
        self.refer(start, at - start);
        Ok(all)
    }

    fn l2_table(&mut self, entry: u64, own: bool, copied: &mut Vec<(u64, bool)>) -> io::Result<()> {
        let (offset, cluster) = (entry & OFFSET, self.header.cluster());
        if offset == 0 {
            return Ok(());
        }
        let seen = self.counts.contains_key(&(offset >> self.header.cluster_bits));
        if !offset.is_multiple_of(cluster) || offset + cluster > self.len {
            self.corrupt(format!("an L2 table at {offset:#x} is not where one can be"));
            return Ok(());
        }
        self.refer(offset, cluster);
        if own {
            copied.push((offset, entry & COPIED != 0));
            if seen {
                self.corrupt(format!("the L2 table at {offset:#x} is something else as well"));
                return Ok(());
            }
        }
        for entry in entries(self.file, offset, cluster as usize / 8)? {
            self.l2_entry(entry, own, copied);
        }
        Ok(())
    }

    fn l2_entry(&mut self, entry: u64, own: bool, copied: &mut Vec<(u64, bool)>) {
        let (offset, cluster) = (entry & OFFSET, self.header.cluster());
        if entry & COMPRESSED != 0 {
            // Where it begins, and further sectors of 512 bytes.
            let split = 62 - (self.header.cluster_bits - 8);
            let start = entry & ((1 << split) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> split;
            self.refer(start, (start & !511) + 512 * (sectors + 1) - start);
            self.check.compressed_clusters += u64::from(own);
        } else if offset == 0 {
            return;
        } else if !offset.is_multiple_of(cluster) {
            return self.corrupt(format!("a cluster at {offset:#x} does not begin where one can"));
        } else if self.refer(offset, cluster) && own {
            copied.push((offset, entry & COPIED != 0));
        }
        self.check.allocated_clusters += u64::from(own);
    }

    /// Compares with what the image counts.
    fn compare(
        &mut self,
        copied: &[(u64, bool)],
        done: u64,
        total: u64,
        progress: Progress<'_>,
    ) -> io::Result<bool> {
        let header = self.header;
        let (table, clusters) = header.refcounts;
        let blocks = entries(self.file, table, ((clusters << header.cluster_bits) / 8) as usize)?;
        let per_block = (header.cluster() * 8) >> header.refcount_order;
        for &block in &blocks {
            if block != 0 && (!block.is_multiple_of(header.cluster()) || block + header.cluster() > self.len)
            {
                self.corrupt(format!("a block of reference counts at {block:#x} is not where one can be"));
            } else if block != 0 {
                self.refer(block, header.cluster());
            }
        }
        let mut theirs = HashMap::new();
        let mut bytes = vec![0; header.cluster() as usize];
        for (i, &block) in blocks.iter().enumerate() {
            if i % 1024 == 0 && !progress(done + (i as u64 >> (header.cluster_bits - 3)), total) {
                return Ok(false);
            }
            if block == 0 || block.saturating_add(header.cluster()) > self.len {
                continue;
            }
            self.file.read_exact_at(&mut bytes, block)?;
            for index in 0..per_block {
                let count = refcount(&bytes, index, header.refcount_order);
                if count != 0 {
                    theirs.insert(i as u64 * per_block + index, count);
                }
            }
        }
        self.judge(&theirs, copied);
        progress(total, total);
        Ok(true)
    }

    fn judge(&mut self, theirs: &HashMap<u64, u64>, copied: &[(u64, bool)]) {
        let counts = std::mem::take(&mut self.counts);
        let bits = self.header.cluster_bits;
        // Beyond the end of the file is no room to waste.
        let there = theirs.keys().filter(|&&cluster| cluster << bits < self.len);
        let mut clusters: Vec<_> = counts.keys().chain(there).copied().collect();
        clusters.sort_unstable();
        clusters.dedup();
        self.check.image_end_offset = clusters.last().map_or(0, |last| (last + 1) << bits);
        for cluster in clusters {
            let count = |map: &HashMap<u64, u64>| map.get(&cluster).copied().unwrap_or(0);
            let (ours, theirs) = (count(&counts), count(theirs));
            if theirs < ours {
                self.corrupt(format!("cluster {cluster} has {ours} references and a count of {theirs}"));
            } else if theirs > ours && self.header.autoclear & BITMAPS == 0 {
                self.check.leaks += 1;
                if self.check.findings.len() < MAX_TOLD {
                    let finding =
                        format!("cluster {cluster} has {ours} references and a count of {theirs}: a leak");
                    self.check.findings.push(finding);
                }
            }
        }
        for &(offset, alone) in copied {
            let count = theirs.get(&(offset >> bits)).copied().unwrap_or(0);
            if alone != (count == 1) {
                self.corrupt(format!(
                    "the cluster at {offset:#x} says of itself {} copied",
                    if alone { "it is" } else { "it is not" }
                ));
            }
        }
    }
}
