//! What all images do with their files.
// UNSAFETY: vectored reads and writes take pointers to memory that a guest shares.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::{BlockError, Buffers};

/// Most pieces of one system call (IOV_MAX).
const MAX_PIECES: usize = 1024;

/// Opens a file or block device.
pub fn open(path: &Path, write: bool) -> Result<File, BlockError> {
    let refuse = |source| BlockError::Open { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).write(write).open(path).map_err(refuse)?;
    let kind = file.metadata().map_err(refuse)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let what = if kind.is_dir() { "a folder" } else { "neither a file nor a block device" };
        return Err(BlockError::Kind { path: path.to_owned(), what });
    }
    Ok(file)
}

/// Bytes of a file or block device: where its end is.
pub fn len(file: &File) -> io::Result<u64> {
    Ok(seek(file, SeekFrom::End(0))?)
}

/// Fills the buffers from `offset` on.
///
/// # Errors
/// `UnexpectedEof` if the file ends before, or what the host says.
pub fn read(file: &File, offset: u64, mut to: Buffers) -> io::Result<()> {
    match read_some(file, offset, &mut to)? {
        _ if to.is_empty() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads until the buffers are full or the file ends; what is left of them is beyond its end.
pub fn read_some(file: &File, offset: u64, to: &mut Buffers) -> io::Result<()> {
    transfer(file, offset, to, false)
}

/// Writes the buffers to `offset`.
pub fn write(file: &File, offset: u64, mut from: Buffers) -> io::Result<()> {
    transfer(file, offset, &mut from, true)?;
    if from.is_empty() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn transfer(file: &File, mut offset: u64, buffers: &mut Buffers, write: bool) -> io::Result<()> {
    while !buffers.is_empty() {
        let pieces = &buffers.pieces()[..buffers.pieces().len().min(MAX_PIECES)];
        let (fd, count) = (file.as_raw_fd(), pieces.len() as i32);
        let at = i64::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // SAFETY: the pieces are memory that `buffers` keeps; the kernel copies and forms no references.
        let done = unsafe {
            match write {
                true => libc::pwritev(fd, pieces.as_ptr(), count, at),
                false => libc::preadv(fd, pieces.as_ptr(), count, at),
            }
        };
        match done {
            0 => return Ok(()),
            1.. => {
                buffers.advance(done as u64);
                offset = offset.saturating_add(done as u64);
            }
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Makes a range of the file read as zeroes; it need not keep room for it with `unmap`.
pub fn zero(file: &File, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
    let flags = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
    match fallocate(file, flags | FallocateFlags::KEEP_SIZE, offset, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeroes(file, offset, len),
        other => Ok(other?),
    }
}

/// Writes zeroes one by one.
pub fn write_zeroes(file: &File, mut offset: u64, mut len: u64) -> io::Result<()> {
    static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
    while len > 0 {
        let part = &ZEROES[..len.min(ZEROES.len() as u64) as usize];
        std::os::unix::fs::FileExt::write_all_at(file, part, offset)?;
        offset += part.len() as u64;
        len -= part.len() as u64;
    }
    Ok(())
}

/// Gives a range back to the host, which may be unable to take it.
pub fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, offset, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}
