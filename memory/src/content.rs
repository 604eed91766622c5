//! What pages hold that nobody has written: zeros, or a file's content; and which ones those are.
// UNSAFETY: pages are replaced by system calls, whose range the caller vouches for.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};

use crate::PAGE_SIZE;

/// Bits of a page in /proc/PID/pagemap: it is in memory, or in swap.
const THERE: u64 = 0b11 << 62;

/// Behind the private mappings of guest RAM.
pub struct Content {
    /// The file, if there is one.
    file: RwLock<Option<Arc<File>>>,
    /// Which pages were written or read. Opened early, since a jail may have no /proc; without it, all may have been.
    pagemap: Option<File>,
}

impl Content {
    pub fn new(file: Option<Arc<File>>) -> Self {
        Self { file: RwLock::new(file), pagemap: File::open("/proc/self/pagemap").ok() }
    }

    fn file(&self) -> Option<Arc<File>> {
        self.file.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on the file's content is in pages that nobody writes: that of `len` bytes from `offset` on at `host`.
    ///
    /// # Safety
    /// They are a whole mapping of guest RAM, in which only atomics are referred to.
    pub unsafe fn map(&self, file: &Arc<File>, host: *mut u8, len: usize, offset: u64) -> io::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the caller's word; what is replaced is a mapping of the same kind.
        unsafe { mmap(host.cast(), len, ProtFlags::READ | ProtFlags::WRITE, flags, file, offset) }?;
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = Some(file.clone());
        Ok(())
    }

    /// The pages hold zeros and take no memory.
    ///
    /// # Safety
    /// They are whole pages of a mapping of guest RAM, in which only atomics are referred to.
    pub unsafe fn forget(&self, host: *mut u8, len: usize) -> io::Result<()> {
        if self.file().is_none() {
            // SAFETY: the caller's word; the mapping is private and anonymous.
            return Ok(unsafe { madvise(host.cast(), len, Advice::LinuxDontNeed) }?);
        }
        // The file's content would come back, so the pages have to be others. The kernel has nobody see the gap.
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the caller's word; what is replaced is a mapping of the same kind.
        match unsafe { mmap_anonymous(host.cast(), len, ProtFlags::READ | ProtFlags::WRITE, flags) } {
            Ok(_) => Ok(()),
            // Too many mappings: zeros that take memory are right, too.
            Err(Errno::NOMEM) => {
                // SAFETY: the caller's word; whoever reads meanwhile does so by volatile or atomic accesses.
                unsafe { std::ptr::write_bytes(host, 0, len) };
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Says which pages may hold anything but zeros: `host` is the address of the first, `offset` its place in the file.
    pub fn look(&self, host: u64, offset: u64, pages: &mut [bool]) {
        let mut entries = vec![0u8; pages.len() * 8];
        let read = self.pagemap.as_ref().map(|map| map.read_exact_at(&mut entries, host / PAGE_SIZE * 8));
        if !matches!(read, Some(Ok(()))) {
            return pages.fill(true);
        }
        for (page, entry) in pages.iter_mut().zip(entries.as_chunks().0) {
            *page = u64::from_le_bytes(*entry) & THERE != 0;
        }
        if let Some(file) = self.file() {
            add_data(&file, offset, pages);
        }
    }
}

/// Adds the pages at which the file has data.
fn add_data(file: &File, offset: u64, pages: &mut [bool]) {
    let end = offset + pages.len() as u64 * PAGE_SIZE;
    let mut at = offset;
    while at < end {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return,
            Err(_) => at,
        };
        let hole = seek(file, SeekFrom::Hole(data)).unwrap_or(end).max(data + 1).min(end);
        let index = |at: u64| ((at - offset) / PAGE_SIZE) as usize;
        let touched = index(data.min(end))..index(hole.next_multiple_of(PAGE_SIZE).min(end));
        pages.get_mut(touched).into_iter().flatten().for_each(|page| *page = true);
        at = hole.max(data);
    }
}
