//! Disks with a file system from what is in a folder or an archive, by the host's mke2fs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::{beside, keep};
use crate::BlockError;

/// Folders in folders, at most.
const MAX_DEPTH: usize = 256;
/// What a file system takes beside its files, at least.
const OVERHEAD: u64 = 16 << 20;
const MIB: u64 = 1 << 20;

/// Makes a raw disk that is one ext4 file system with the content of a folder, or of a tar archive where mke2fs takes one
/// (1.47.1). Owners are those that the files have. Without a size there is some room left; the bytes of the disk.
///
/// # Errors
/// The source cannot be read, does not fit, or the host has no mke2fs.
pub fn create_ext4(source: &Path, path: &Path, len: Option<u64>, force: bool) -> Result<u64, BlockError> {
    let impossible = |fact: String| BlockError::Impossible { path: path.to_owned(), fact };
    let read_error = |e: io::Error| BlockError::Open { path: source.to_owned(), source: e };
    let content = size(source, 0).map_err(read_error)?;
    let len = len.unwrap_or_else(|| (content + content / 4 + OVERHEAD).next_multiple_of(MIB));
    if !len.is_multiple_of(4096) || len > i64::MAX as u64 {
        return Err(impossible(format!("{len} bytes are no size of a file system: give a multiple of 4K")));
    }
    let file = beside(path, force)?;
    file.as_file().set_len(len).map_err(|source| BlockError::Write { path: path.to_owned(), source })?;
    let tools = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .arg(source)
        .arg(file.path())
        .env("PATH", tools)
        .env("LC_ALL", "C")
        .output()
        .map_err(|e| impossible(format!("mke2fs does not start ({e}): install e2fsprogs")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed").trim();
        let hint = if source.is_dir() { "give it more room" } else { "mke2fs takes archives from 1.47.1 on" };
        return Err(impossible(format!("mke2fs says: {said}: {hint}, or give a folder that you can read")));
    }
    keep(file, path, force)?;
    Ok(len)
}

/// Bytes that the files take, with something for each.
fn size(path: &Path, depth: usize) -> io::Result<u64> {
    let metadata = if depth == 0 { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
    let mut total = metadata.len().min(metadata.blocks().saturating_mul(512)).next_multiple_of(4096) + 512;
    if metadata.is_dir() && depth < MAX_DEPTH {
        for entry in fs::read_dir(path)? {
            total = total.saturating_add(size(&entry?.path(), depth + 1)?);
        }
    }
    Ok(total)
}
