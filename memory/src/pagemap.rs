//! What the host's page tables say of this process's pages (Documentation/admin-guide/mm/pagemap.rst): PAGEMAP_SCAN gives runs of those
//! that are asked for and passes over what is not there (Linux 6.7); before, there is a word to be read for each page.
// UNSAFETY: a system call that fills what its argument points to.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::PAGE_SIZE;

/// A request of linux/fs.h, which `jail/src/calls.rs` lists, too.
const PAGEMAP_SCAN: u64 = 0xc060_6610;
/// Categories of pages; those that are there are in memory or in swap.
pub const IS_WRITTEN: u64 = 1 << 1;
pub const IS_FILE: u64 = 1 << 2;
pub const IS_THERE: u64 = 1 << 3 | 1 << 4;
pub const IS_ZEROS: u64 = 1 << 5;
/// Pages that are found are protected again, all of them by userfaultfd.
const WP_MATCHING: u64 = 1 << 0;
const CHECK_WPASYNC: u64 = 1 << 1;

/// Bits of a page's word: it is in memory, or in swap; it is a file's.
const THERE: u64 = 0b11 << 62;
const FILE: u64 = 1 << 61;

/// Runs of pages that are asked for together.
const RUNS: usize = 512;

#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Pages that are looked for: of all these categories, of none of those, and of any of the last.
#[derive(Clone, Copy)]
pub struct Query {
    pub all: u64,
    pub none: u64,
    pub any: u64,
    /// They are protected again.
    pub protect: bool,
}

/// Pages that were written and are nobody else's. The kernel's page of zeros may have taken the place of one (KSM, `use_zero_pages`),
/// over a file that holds something else.
const PRIVATE: Query = Query { all: 0, none: IS_FILE, any: IS_THERE, protect: false };

/// The host's page tables. Opened early, since a jail may have no /proc.
pub struct Pagemap(File);

impl Pagemap {
    /// None where there is no /proc.
    pub fn open() -> Option<Self> {
        File::open("/proc/self/pagemap").ok().map(Self)
    }

    /// Gives runs of pages by their addresses and lengths.
    ///
    /// # Errors
    /// The host has no such look, or not there.
    pub fn scan(
        &self,
        query: Query,
        mut start: u64,
        end: u64,
        mut give: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let mut regions = [Region::default(); RUNS];
        let Query { all, none, any, protect } = query;
        while start < end {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                flags: if protect { WP_MATCHING | CHECK_WPASYNC } else { 0 },
                start,
                end,
                walk_end: start,
                vec: regions.as_mut_ptr() as u64,
                vec_len: RUNS as u64,
                max_pages: 0,
                category_inverted: none,
                category_mask: all | none,
                category_anyof_mask: any,
                return_mask: all,
            };
            // SAFETY: the request's own structure, and regions that are ours alone and as many as it says.
            let found = unsafe {
                libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN as libc::Ioctl, std::ptr::from_mut(&mut scan))
            };
            let found = usize::try_from(found).map_err(|_| io::Error::last_os_error())?;
            for region in regions.iter().take(found) {
                give(region.start, region.end - region.start);
            }
            if scan.walk_end <= start {
                return Err(io::Error::other("the kernel's look at pages does not get on"));
            }
            start = scan.walk_end;
        }
        Ok(())
    }

    /// Says which pages from an address on may be private, in private mappings of files and of nothing.
    pub fn private(&self, host: u64, pages: &mut [bool]) {
        pages.fill(false);
        let end = host + pages.len() as u64 * PAGE_SIZE;
        let scanned = self.scan(PRIVATE, host, end, |start, len| {
            let page = ((start - host) / PAGE_SIZE) as usize;
            let run = pages.get_mut(page..page + (len / PAGE_SIZE) as usize);
            run.into_iter().flatten().for_each(|page| *page = true);
        });
        if scanned.is_err() && !self.read(host, pages) {
            pages.fill(true);
        }
    }

    /// The same, page by page; false if the host does not tell.
    fn read(&self, host: u64, pages: &mut [bool]) -> bool {
        let mut entries = vec![0u8; pages.len() * 8];
        let read = self.0.read_exact_at(&mut entries, host / PAGE_SIZE * 8);
        for (page, entry) in pages.iter_mut().zip(entries.as_chunks().0) {
            let entry = u64::from_le_bytes(*entry);
            *page = entry & THERE != 0 && entry & FILE == 0;
        }
        read.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, ProtFlags, mmap};

    #[test]
    fn both_ways_to_look_agree() {
        const PAGES: usize = 2048;
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGES as u64 * PAGE_SIZE).unwrap();
        let (flags, size) = (ProtFlags::READ | ProtFlags::WRITE, PAGES * PAGE_SIZE as usize);
        // SAFETY: a new mapping.
        let ram = unsafe { mmap(std::ptr::null_mut(), size, flags, MapFlags::PRIVATE, &file, 0) }.unwrap();
        let at = |page: usize| ram.cast::<u8>().wrapping_add(page * PAGE_SIZE as usize);
        let mut written: Vec<usize> = (0..2000).step_by(3).chain(1200..1300).collect();
        for &page in &written {
            // SAFETY: inside the mapping, which is ours alone.
            unsafe { at(page).write(1) };
        }
        // SAFETY: as above: one that is read is the file's.
        assert_eq!(unsafe { at(2001).read() }, 0);
        written.sort_unstable();
        written.dedup();
        let map = Pagemap::open().unwrap();
        let [mut scanned, mut read] = [[true; PAGES]; 2];
        map.private(ram as u64, &mut scanned);
        assert!(map.read(ram as u64, &mut read));
        assert!(scanned == read);
        let found: Vec<usize> = (0..PAGES).filter(|page| scanned[*page]).collect();
        assert_eq!(found, written);
    }
}
