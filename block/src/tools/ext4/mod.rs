//! Disks with a file system from what is in a folder or an archive, by the host's mke2fs.

mod inodes;
mod staged;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::{beside, keep};
use crate::BlockError;
use staged::Staged;

/// Folders in folders, at most.
const MAX_DEPTH: usize = 1024;
/// What a file system takes beside its files, at least.
const OVERHEAD: u64 = 16 << 20;
const MIB: u64 = 1 << 20;

/// Makes a raw disk that is one ext4 file system with the content of a folder, or of a tar archive, which may be packed
/// by gzip, xz or zstd. Of a folder, owners are those that the files have; of an archive those that it tells, whoever the
/// user is. Without a size there is some room left; the bytes of the disk.
///
/// # Errors
/// The source cannot be read, does not fit, or the host has no mke2fs.
pub fn create_ext4(source: &Path, path: &Path, len: Option<u64>, force: bool) -> Result<u64, BlockError> {
    let impossible = |fact: String| BlockError::Impossible { path: path.to_owned(), fact };
    let read_error = |e: io::Error| BlockError::Open { path: source.to_owned(), source: e };
    let file = beside(path, force)?;
    let staged = match fs::metadata(source).map_err(read_error)?.is_dir() {
        true => None,
        false => Some(Staged::unpack(source, path)?),
    };
    let folder = staged.as_ref().map_or(source.to_owned(), Staged::folder);
    let mut need = Need::default();
    need.add(&folder, 0).map_err(read_error)?;
    let len = len.unwrap_or_else(|| (need.bytes + need.bytes / 4 + OVERHEAD).next_multiple_of(MIB));
    if !len.is_multiple_of(4096) || len > i64::MAX as u64 {
        return Err(impossible(format!("{len} bytes are no size of a file system: give a multiple of 4K")));
    }
    file.as_file().set_len(len).map_err(|source| BlockError::Write { path: path.to_owned(), source })?;
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&folder);
    if need.nodes > len / BYTES_OF_INODE {
        command.arg("-N").arg((need.nodes + need.nodes / 4).to_string());
    }
    command.arg(file.path());
    let output = tool(&mut command).map_err(|e| impossible(format!("{e}: install e2fsprogs")))?;
    if !output.status.success() {
        let said = first_line(&output.stderr, "");
        return Err(impossible(format!(
            "mke2fs says: {said}: give it more room, or a folder that you can read"
        )));
    }
    if let Some(staged) = staged {
        staged.finish(file.as_file(), file.path()).map_err(impossible)?;
    }
    keep(file, path, force)?;
    Ok(len)
}

/// Bytes of a file system for which mke2fs makes an inode by itself, at least.
const BYTES_OF_INODE: u64 = 16 << 10;

/// What files take.
#[derive(Default)]
struct Need {
    /// With something for each.
    bytes: u64,
    /// Nodes.
    nodes: u64,
}

impl Need {
    fn add(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let metadata = if depth == 0 { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
        let bytes = metadata.len().min(metadata.blocks().saturating_mul(512)).next_multiple_of(4096) + 512;
        self.bytes = self.bytes.saturating_add(bytes);
        self.nodes += 1;
        if metadata.is_dir() && depth < MAX_DEPTH {
            for entry in fs::read_dir(path)? {
                self.add(&entry?.path(), depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Runs a program that may be where only root looks.
fn tool(command: &mut Command) -> Result<std::process::Output, String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let name = command.get_program().display().to_string();
    command.env("PATH", path).env("LC_ALL", "C").output().map_err(|e| format!("{name} does not start ({e})"))
}

/// The first line that says something and is not the program's name.
fn first_line(said: &[u8], name: &str) -> String {
    let said = String::from_utf8_lossy(said);
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.find(|line| name.is_empty() || !line.starts_with(name));
    line.unwrap_or_default().to_owned()
}
