//! A file of an image, as `imago` wants it: every request goes to the file at once, nothing is cached here.
// UNSAFETY: the trait has unsafe methods; they call safe ones.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use rustix::io::{Errno, preadv, pwritev};

use crate::overlay::Changes;
use crate::{Buffers, file};

/// A file that holds a layer of a disk, or a part of it.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    path: PathBuf,
    helper: CommonStorageHelper,
    /// Data is where the file is: from this many bytes on beyond its end, something is missing.
    granule: u64,
    changes: Arc<Changes>,
}

impl ImageFile {
    /// `file`, which was opened from `path`, with clusters of `granule` bytes.
    pub fn new(file: File, path: &Path, granule: u64) -> Self {
        let (helper, changes) = Default::default();
        Self { file, path: path.to_owned(), helper, granule, changes }
    }

    /// Where writes are noted if somebody wants to know of them.
    pub fn changes(&self) -> Arc<Changes> {
        self.changes.clone()
    }

    /// Writes the buffers to `offset`.
    pub fn write(&self, offset: u64, from: Buffers) -> io::Result<()> {
        let len = from.len();
        self.noted(offset, len, || file::write(&self.file, offset, from))
    }

    /// Gives the host back what these bytes take.
    pub fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.noted(offset, len, || file::punch(&self.file, offset, len))
    }

    /// Notes it afterwards, whatever became of it.
    fn noted(&self, offset: u64, len: u64, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let done = write();
        self.changes.note(offset, len);
        done
    }

    /// The file itself, to read it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// True if there is nothing of the cluster that holds this byte.
    pub fn ends_before(&self, offset: u64) -> io::Result<bool> {
        Ok(file::len(&self.file)? <= offset - offset % self.granule)
    }
}

impl fmt::Display for ImageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// Calls `step` with the rest of the slices and the offset until nothing is left or it does nothing.
fn each(mut offset: u64, mut step: impl FnMut(u64) -> Result<usize, Errno>) -> io::Result<()> {
    loop {
        match step(offset) {
            Ok(0) => return Ok(()),
            Ok(count) => offset = offset.saturating_add(count as u64),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Storage for ImageFile {
    fn size(&self) -> io::Result<u64> {
        file::len(&self.file)
    }

    fn get_filename(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let mut slices = bufv.into_inner();
        let mut rest = &mut slices[..];
        each(offset, |offset| {
            let count = if rest.is_empty() { 0 } else { preadv(self.file.as_fd(), rest, offset)? };
            IoSliceMut::advance_slices(&mut rest, count);
            Ok(count)
        })?;
        // Beyond the end of the file is nothing.
        rest.iter_mut().for_each(|slice| slice.fill(0));
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let len = bufv.len();
        let mut slices = bufv.into_inner();
        let mut rest = &mut slices[..];
        self.noted(offset, len, || {
            each(offset, |offset| {
                let count = if rest.is_empty() { 0 } else { pwritev(self.file.as_fd(), rest, offset)? };
                IoSlice::advance_slices(&mut rest, count);
                Ok(count)
            })?;
            if rest.is_empty() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
        })
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).ok_or(io::ErrorKind::FileTooLarge)?;
        self.noted(offset, length, || {
            file::zero(&self.file, offset, length, true)?;
            // One that is too short grows by zeroes.
            if file::len(&self.file)? < end { self.file.set_len(end) } else { Ok(()) }
        })
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).ok_or(io::ErrorKind::FileTooLarge)?;
        self.noted(offset, length, || {
            file::zero(&self.file, offset, length, false)?;
            if file::len(&self.file)? < end { self.file.set_len(end) } else { Ok(()) }
        })
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.punch(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // After a crash of the host nobody finds a file without a name.
        if self.file.metadata()?.nlink() == 0 { Ok(()) } else { self.file.sync_data() }
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, new_size: u64, prealloc_mode: PreallocateMode) -> io::Result<()> {
        match prealloc_mode {
            PreallocateMode::None | PreallocateMode::Zero => {
                let len = file::len(&self.file)?;
                self.noted(len.min(new_size), len.abs_diff(new_size), || self.file.set_len(new_size))
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
