//! The inode tables of an ext4 file system (Linux, `Documentation/filesystems/ext4/`): which inode mke2fs gave to which file
//! is told by the times that the files had.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Inodes before this one are the file system's own, but for the root.
const FIRST: u32 = 11;
/// The superblock's place and size.
const SUPER: (u64, usize) = (1024, 1024);
const MAGIC: u16 = 0xef53;
const INCOMPAT_64BIT: u32 = 0x80;
/// Flag of a group: its inode table was never written.
const INODE_UNINIT: u16 = 1;

/// Tells of every inode in use but the root: its number and when it was changed last.
///
/// # Errors
/// The file cannot be read, or has no such file system.
pub fn each(file: &File, mut tell: impl FnMut(u32, u32)) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it is no ext4 file system");
    let mut head = [0; SUPER.1];
    file.read_exact_at(&mut head, SUPER.0)?;
    let block = 1024u64.checked_shl(word(&head, 24)).filter(|size| *size <= 65_536).ok_or_else(wrong)?;
    let (inodes, of_group) = (word(&head, 0), word(&head, 40));
    let size = usize::from(half(&head, 88));
    let wide = word(&head, 96) & INCOMPAT_64BIT != 0;
    let descriptor = if wide { usize::from(half(&head, 254)) } else { 32 };
    if half(&head, 56) != MAGIC || of_group == 0 || size < 128 || !(32..=1024).contains(&descriptor) {
        return Err(wrong());
    }
    let descriptors = (u64::from(word(&head, 20)) + 1) * block;
    let mut table = vec![0; size * of_group.min(inodes) as usize];
    for group in 0..inodes.div_ceil(of_group) {
        let mut about = vec![0; descriptor];
        file.read_exact_at(&mut about, descriptors + u64::from(group) * descriptor as u64)?;
        if half(&about, 18) & INODE_UNINIT != 0 {
            continue;
        }
        let high = if descriptor >= 64 { u64::from(word(&about, 40)) << 32 } else { 0 };
        let at = (high | u64::from(word(&about, 8))).checked_mul(block).ok_or_else(wrong)?;
        file.read_exact_at(&mut table, at)?;
        for (index, inode) in (0..).zip(table.chunks_exact(size)) {
            let number: u32 = group * of_group + index + 1;
            let (mode, links) = (half(inode, 0), half(inode, 26));
            if number >= FIRST && mode != 0 && links != 0 {
                tell(number, word(inode, 16));
            }
        }
    }
    Ok(())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
