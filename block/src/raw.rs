//! Raw images: a regular file or a block device, byte for byte.
// UNSAFETY: vectored reads and writes take pointers to memory that a guest shares.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fdatasync, seek};
use rustix::io::Errno;

use crate::lock::{self, Access};
use crate::{BlockError, Buffers, Image, Operation, SECTOR};

/// Most pieces of one system call (IOV_MAX).
const MAX_PIECES: usize = 1024;

/// A raw image, locked against other users of the same file.
#[derive(Debug)]
pub struct RawImage {
    file: File,
    len: u64,
    read_only: bool,
}

impl RawImage {
    /// Opens and locks the file.
    ///
    /// # Errors
    /// It cannot be opened, is no disk, or is in use: see [`BlockError`].
    pub fn open(path: &Path, read_only: bool) -> Result<Self, BlockError> {
        let refuse = |source| BlockError::Open { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(refuse)?;
        let kind = file.metadata().map_err(refuse)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let what = if kind.is_dir() { "a folder" } else { "neither a file nor a block device" };
            return Err(BlockError::Kind { path: path.to_owned(), what });
        }
        lock::lock(&file, path, if read_only { Access::Shared } else { Access::Exclusive })?;
        // The size of a block device is where its end is.
        let len = seek(&file, SeekFrom::End(0)).map_err(|e| refuse(e.into()))?;
        if !len.is_multiple_of(SECTOR) {
            return Err(BlockError::Length { path: path.to_owned(), len });
        }
        Ok(Self { file, len, read_only })
    }

    /// The file, for those who have their own way to read and write it.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let flags = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        match fallocate(&self.file, flags | FallocateFlags::KEEP_SIZE, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeroes(offset, len),
            other => Ok(other?),
        }
    }

    fn write_zeroes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
        while len > 0 {
            let part = &ZEROES[..len.min(ZEROES.len() as u64) as usize];
            std::os::unix::fs::FileExt::write_all_at(&self.file, part, offset)?;
            offset += part.len() as u64;
            len -= part.len() as u64;
        }
        Ok(())
    }

    fn transfer(&self, mut offset: u64, mut buffers: Buffers, write: bool) -> io::Result<()> {
        while !buffers.is_empty() {
            let pieces = &buffers.pieces()[..buffers.pieces().len().min(MAX_PIECES)];
            let (fd, count, at) = (self.file.as_raw_fd(), pieces.len() as i32, offset as i64);
            // SAFETY: the pieces are memory that `buffers` keeps; the kernel copies and forms no references.
            let done = unsafe {
                match write {
                    true => libc::pwritev(fd, pieces.as_ptr(), count, at),
                    false => libc::preadv(fd, pieces.as_ptr(), count, at),
                }
            };
            match done {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                1.. => {
                    buffers.advance(done as u64);
                    offset += done as u64;
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
}

impl Image for RawImage {
    fn len(&self) -> u64 {
        self.len
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn perform(&self, operation: Operation) -> io::Result<()> {
        match operation {
            Operation::Read { offset, to } => self.transfer(offset, to, false),
            Operation::Write { offset, from, durable } => {
                self.transfer(offset, from, true)?;
                if durable { Ok(fdatasync(&self.file)?) } else { Ok(()) }
            }
            Operation::Flush => Ok(fdatasync(&self.file)?),
            Operation::Discard { offset, len } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                match fallocate(&self.file, flags, offset, len) {
                    // Advice that the host cannot take.
                    Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
                    other => Ok(other?),
                }
            }
            Operation::WriteZeroes { offset, len, unmap } => self.zero(offset, len, unmap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(content: &[u8]) -> (tempfile::NamedTempFile, RawImage) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let image = RawImage::open(file.path(), false).unwrap();
        (file, image)
    }

    #[test]
    fn what_is_written_is_in_the_file_and_is_read_back() {
        let (file, image) = image(&[7; 4096]);
        let from = Buffers::owned(&[1; 512]);
        image.perform(Operation::Write { offset: 512, from, durable: true }).unwrap();
        image.perform(Operation::WriteZeroes { offset: 1024, len: 512, unmap: false }).unwrap();
        image.perform(Operation::WriteZeroes { offset: 1536, len: 512, unmap: true }).unwrap();
        image.write_zeroes(2048, 512).unwrap();
        image.perform(Operation::Flush).unwrap();
        let content = std::fs::read(file.path()).unwrap();
        let expected: Vec<u8> =
            [7u8, 1, 0, 0, 0, 7, 7, 7].iter().flat_map(|&b| std::iter::repeat_n(b, 512)).collect();
        assert!(content == expected);
        let to = Buffers::owned(&[9; 1024]);
        image.perform(Operation::Read { offset: 256, to: to.clone() }).unwrap();
        assert!(to.to_vec() == expected[256..1280]);
    }

    #[test]
    fn discarded_blocks_take_no_room() {
        use std::os::unix::fs::MetadataExt;
        let (file, image) = image(&vec![7; 1 << 20]);
        let blocks = |f: &tempfile::NamedTempFile| f.as_file().metadata().unwrap().blocks();
        image.perform(Operation::Flush).unwrap();
        let before = blocks(&file);
        image.perform(Operation::Discard { offset: 0, len: 1 << 19 }).unwrap();
        image.perform(Operation::Flush).unwrap();
        assert!(blocks(&file) < before, "{before}");
        assert_eq!(file.as_file().metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_file_that_shrank_is_an_error() {
        let (file, image) = image(&[7; 1024]);
        file.as_file().set_len(512).unwrap();
        let to = Buffers::owned(&[0; 1024]);
        let error = image.perform(Operation::Read { offset: 0, to }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("odd");
        std::fs::write(&odd, [0; 513]).unwrap();
        let missing = folder.path().join("missing");
        for (path, word) in [
            (folder.path(), "folder"),
            (&odd, "512"),
            (&missing, "No such file"),
            (Path::new("/dev/null"), "neither"),
        ] {
            let error = RawImage::open(path, true).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        }
    }
}
