//! Guest RAM: at most two host mappings (below the 32-bit hole and above 4 GiB) and a table of pages.
// UNSAFETY: guest RAM is shared with the guest's vCPU threads, so it is reached by raw pointers with
// volatile or atomic accesses; every pointer is made from a range that was checked against the mapping.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use vm_memory::mmap::{GuestRegionMmap, MmapRegionBuilder};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::content::Content;
use crate::{HIGH_RAM_START, LOW_RAM_END, MemoryError, PAGE_SIZE, PageInfo, PageRef};

/// Copies of fewer bytes are made one by one: the string instruction has its start-up cost.
const SHORT: usize = 32;

/// A run of guest-physical RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamRange {
    /// Guest-physical address of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

struct Block {
    range: RamRange,
    host: NonNull<u8>,
    /// Where it is among all RAM, without the holes between.
    offset: u64,
    pages: Box<[PageInfo]>,
}

/// All RAM of a guest.
pub struct GuestRam {
    mmap: GuestMemoryMmap,
    blocks: Vec<Block>,
    /// What is in pages that were not written yet, and where to look which ones those are.
    content: Content,
}

// SAFETY: the raw pointers name mappings that `mmap` owns for as long as `self` lives; all access through
// them is volatile or atomic, and the guest itself is the only other party that interprets the bytes.
unsafe impl Send for GuestRam {}
// SAFETY: as above; shared access never forms a Rust reference to guest bytes other than to atomics.
unsafe impl Sync for GuestRam {}

macro_rules! typed {
    ($load:ident, $store:ident, $ty:ty, $atomic:ty) => {
        #[doc = concat!("Reads a naturally aligned little-endian `", stringify!($ty), "` in one access; `None` outside RAM or if misaligned.")]
        pub fn $load(&self, addr: u64) -> Option<$ty> {
            let atomic = self.aligned::<$atomic>(addr)?;
            Some(atomic.load(Ordering::Acquire))
        }

        #[doc = concat!("Writes a naturally aligned little-endian `", stringify!($ty), "` in one access; `None` outside RAM or if misaligned.")]
        pub fn $store(&self, addr: u64, value: $ty) -> Option<()> {
            self.aligned::<$atomic>(addr)?.store(value, Ordering::Release);
            self.note_store(addr, size_of::<$ty>() as u16);
            Some(())
        }
    };
}

impl GuestRam {
    /// Maps `size` bytes (a multiple of the page size) of zeroed RAM, lazily backed by the host.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        Self::with_content(size, None)
    }

    /// The same with what is in `file`, one range behind the other: it is read when it is touched, and never written.
    /// Whoever changes the file changes what the guest has not touched.
    ///
    /// # Errors
    /// As [`new`](Self::new); the file is shorter.
    pub fn from_file(size: u64, file: File) -> Result<Self, MemoryError> {
        let len = file.metadata().map_err(|source| MemoryError::Map { size, source })?.len();
        if len < size {
            return Err(MemoryError::ShortFile { size, len });
        }
        Self::with_content(size, Some(Arc::new(file)))
    }

    fn with_content(size: u64, file: Option<Arc<File>>) -> Result<Self, MemoryError> {
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
            return Err(MemoryError::BadSize(size));
        }
        let mut ranges = vec![RamRange { start: 0, len: size.min(LOW_RAM_END) }];
        if size > LOW_RAM_END {
            ranges.push(RamRange { start: HIGH_RAM_START, len: size - LOW_RAM_END });
        }
        let refused =
            |e: &dyn std::fmt::Display| MemoryError::Map { size, source: io::Error::other(e.to_string()) };
        let (mut regions, mut blocks, mut offset) = (Vec::new(), Vec::new(), 0);
        for &range in &ranges {
            let builder =
                MmapRegionBuilder::new(range.len as usize).with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
            let builder = match &file {
                None => {
                    builder.with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_PRIVATE)
                }
                Some(file) => builder
                    .with_mmap_flags(libc::MAP_NORESERVE | libc::MAP_PRIVATE)
                    .with_file_offset(FileOffset::from_arc(file.clone(), offset)),
            };
            let region = builder.build().map_err(|e| refused(&e))?;
            let host = NonNull::new(region.as_ptr()).ok_or(MemoryError::BadSize(size))?;
            let region =
                GuestRegionMmap::new(region, GuestAddress(range.start)).ok_or(MemoryError::BadSize(size))?;
            regions.push(region);
            blocks.push(Block { range, host, offset, pages: page_table(range.len / PAGE_SIZE) });
            offset += range.len;
        }
        let mmap = GuestMemoryMmap::from_regions(regions).map_err(|e| refused(&e))?;
        Ok(Self { mmap, blocks, content: Content::new(file) })
    }

    /// The mappings as vm-memory sees them, for virtqueues and loaders.
    pub fn mmap(&self) -> &GuestMemoryMmap {
        &self.mmap
    }

    /// The runs of RAM, lowest first.
    pub fn ranges(&self) -> impl Iterator<Item = RamRange> + '_ {
        self.blocks.iter().map(|b| b.range)
    }

    /// Bytes of RAM in total.
    pub fn size(&self) -> u64 {
        self.blocks.iter().map(|b| b.range.len).sum()
    }

    /// The page that holds `addr`, or `None` if that is no RAM.
    #[inline]
    pub fn page(&self, addr: u64) -> Option<PageRef<'_>> {
        let block = self.block(addr)?;
        let index = ((addr - block.range.start) / PAGE_SIZE) as usize;
        // SAFETY: `block` found `addr` inside this mapping, so the page's first byte is inside it too.
        let host = unsafe { block.host.add(index * PAGE_SIZE as usize) };
        Some(PageRef { host, info: block.pages.get(index)? })
    }

    /// Copies guest bytes out. The range may span pages but must be RAM throughout.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        let host = self.range(addr, data.len() as u64)?;
        // SAFETY: `range` checked that all bytes lie in one mapping, and `data` is ours alone.
        unsafe { copy(host, data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    /// Copies bytes into the guest. The range may span pages but must be RAM throughout.
    pub fn write(&self, addr: u64, data: &[u8]) -> Result<(), MemoryError> {
        let host = self.range(addr, data.len() as u64)?;
        // SAFETY: as in `read`.
        unsafe { copy(data.as_ptr(), host, data.len()) };
        self.note_stores(addr, data.len() as u64);
        Ok(())
    }

    /// Where a range that is RAM throughout is in this process, for system calls that read or write it. Whoever has
    /// it written calls [`note_stores`](Self::note_stores) afterwards.
    pub fn host_range(&self, addr: u64, len: u64) -> Result<NonNull<u8>, MemoryError> {
        NonNull::new(self.range(addr, len)?).ok_or(MemoryError::OutOfRange { addr, len })
    }

    /// Gives the host's memory behind the whole pages of a range back: they read as zero and take memory again when they
    /// are touched. The mapping stays, so that whoever uses the range meanwhile, an engine, a device, the host's kernel,
    /// reads zeros or loses what it writes, and no worse. As with any store, code that was there is code no more.
    ///
    /// # Errors
    /// The range is not RAM throughout, or the host refuses (locked memory).
    pub fn discard(&self, addr: u64, len: u64) -> Result<(), MemoryError> {
        self.range(addr, len)?;
        let start = addr.next_multiple_of(PAGE_SIZE);
        let len = (addr + len - (addr + len) % PAGE_SIZE).saturating_sub(start);
        if len == 0 {
            return Ok(());
        }
        let host = self.range(start, len)?;
        // SAFETY: whole pages of a private mapping of `self.mmap`'s, of which nobody has Rust references but to atomics, for
        // which a page of zeros is as good as any.
        let done = unsafe { self.content.forget(host, len as usize) };
        done.map_err(|source| MemoryError::Discard { addr: start, len, source })?;
        self.note_stores(start, len);
        Ok(())
    }

    /// Bytes that the host holds in memory for it.
    pub fn resident(&self) -> u64 {
        const PAGES: u64 = 1 << 14;
        let mut resident = 0;
        let mut state = vec![0u8; PAGES as usize];
        for block in &self.blocks {
            for start in (0..block.range.len).step_by((PAGES * PAGE_SIZE) as usize) {
                let len = (block.range.len - start).min(PAGES * PAGE_SIZE);
                // SAFETY: the range is inside this mapping; `state` has a byte for each of its pages.
                let done = unsafe {
                    libc::mincore(
                        block.host.add(start as usize).as_ptr().cast(),
                        len as usize,
                        state.as_mut_ptr(),
                    )
                };
                let pages = state.iter().take((len / PAGE_SIZE) as usize);
                if done == 0 {
                    resident += pages.filter(|&page| page & 1 != 0).count() as u64 * PAGE_SIZE;
                }
            }
        }
        resident
    }

    /// Pages that are not written from now on are the file's, which holds what is in RAM, one range behind the other: whoever
    /// else maps it shares them. Nobody uses RAM meanwhile.
    ///
    /// # Errors
    /// The host refuses it. Ranges before the one that was refused are the file's.
    pub fn share_with(&self, file: File) -> Result<(), MemoryError> {
        let file = Arc::new(file);
        for Block { range, host, offset, .. } in &self.blocks {
            // SAFETY: a whole mapping of `self.mmap`'s, of which nobody has Rust references but to atomics.
            let mapped = unsafe { self.content.map(&file, host.as_ptr(), range.len as usize, *offset) };
            mapped.map_err(|source| MemoryError::Map { size: range.len, source })?;
        }
        Ok(())
    }

    /// Says of each of the pages from `addr` on, which are RAM throughout, whether it may hold anything but zeros.
    ///
    /// # Errors
    /// They are not.
    pub fn look(&self, addr: u64, pages: &mut [bool]) -> Result<(), MemoryError> {
        let len = pages.len() as u64 * PAGE_SIZE;
        let host = self.range(addr, len)?;
        let block = self.block(addr).ok_or(MemoryError::OutOfRange { addr, len })?;
        self.content.look(host as u64, block.offset + (addr - block.range.start), pages);
        Ok(())
    }

    /// Tells the page table of stores to a range that went through a host pointer. What is no RAM is skipped.
    pub fn note_stores(&self, addr: u64, len: u64) {
        let Some(block) = self.block(addr) else { return };
        let end = addr + len.min(block.range.len - (addr - block.range.start));
        let mut at = addr;
        while at < end {
            let len = (PAGE_SIZE - at % PAGE_SIZE).min(end - at);
            self.note_store(at, len as u16);
            at += len;
        }
    }

    typed!(load_u8, store_u8, u8, AtomicU8);
    typed!(load_u16, store_u16, u16, AtomicU16);
    typed!(load_u32, store_u32, u32, AtomicU32);
    typed!(load_u64, store_u64, u64, AtomicU64);

    /// Atomically sets `bits` in the aligned 32-bit word at `addr` if it still equals `seen`.
    /// Page walks use it for accessed and dirty bits; `false` asks for another walk.
    pub fn update_u32(&self, addr: u64, seen: u32, new: u32) -> bool {
        self.aligned::<AtomicU32>(addr)
            .is_some_and(|a| a.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    /// The 64-bit form of [`update_u32`](Self::update_u32).
    pub fn update_u64(&self, addr: u64, seen: u64, new: u64) -> bool {
        self.aligned::<AtomicU64>(addr)
            .is_some_and(|a| a.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    /// Makes code marks visible to every thread of the process before the caller reads the code bytes; see
    /// the module documentation of `page`.
    pub fn publish_code(&self) {
        let command = rustix::thread::MembarrierCommand::PrivateExpedited;
        if rustix::thread::membarrier(command).is_err() {
            // The first call of a process has to register; a host without membarrier gets the strongest
            // fence there is, which narrows the race to the storer's store buffer.
            let _ = rustix::thread::membarrier(rustix::thread::MembarrierCommand::RegisterPrivateExpedited);
            let _ = rustix::thread::membarrier(command);
            std::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    /// Tells the page table of a store that went through a host pointer.
    pub fn note_store(&self, addr: u64, len: u16) {
        if let Some(page) = self.page(addr) {
            page.info.note_store((addr % PAGE_SIZE) as u16, len);
        }
    }

    #[inline]
    fn block(&self, addr: u64) -> Option<&Block> {
        self.blocks.iter().find(|b| addr.wrapping_sub(b.range.start) < b.range.len)
    }

    fn range(&self, addr: u64, len: u64) -> Result<*mut u8, MemoryError> {
        let block = self.block(addr).ok_or(MemoryError::OutOfRange { addr, len })?;
        let offset = addr - block.range.start;
        if len > block.range.len - offset {
            return Err(MemoryError::OutOfRange { addr, len });
        }
        // SAFETY: `offset` is below the mapping's length.
        Ok(unsafe { block.host.as_ptr().add(offset as usize) })
    }

    fn aligned<T>(&self, addr: u64) -> Option<&T> {
        let pointer = self.range(addr, size_of::<T>() as u64).ok()?.cast::<T>();
        // SAFETY: inside the mapping, aligned, and `T` is an atomic integer (private callers only), which
        // is valid for any bytes and tolerates concurrent access.
        pointer.is_aligned().then(|| unsafe { &*pointer })
    }
}

/// Copies bytes of which the guest may change some meanwhile.
///
/// # Safety
/// `from` can be read and `to` written for `len` bytes, and they do not overlap.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if len < SHORT {
        for i in 0..len {
            // SAFETY: within both by the contract; a byte is always aligned.
            unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        }
        return;
    }
    // A string instruction, since the language has no copy of memory that others write.
    // SAFETY: within both by the contract; the direction flag is clear in Rust code.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// A zeroed table; `vec![0]`-style allocation leaves untouched entries without host memory.
fn page_table(pages: u64) -> Box<[PageInfo]> {
    let layout = std::alloc::Layout::array::<PageInfo>(pages as usize);
    match layout {
        Ok(layout) if layout.size() > 0 => {
            // SAFETY: the layout has a size; all-zero bytes are a valid `PageInfo` (atomics of zero), and the
            // box takes the allocation over with the layout it was made with.
            unsafe {
                let raw = std::alloc::alloc_zeroed(layout).cast::<PageInfo>();
                if raw.is_null() {
                    std::alloc::handle_alloc_error(layout);
                }
                Box::from_raw(std::ptr::slice_from_raw_parts_mut(raw, pages as usize))
            }
        }
        _ => Box::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_above_three_gigabytes_continues_at_four() {
        let ram = GuestRam::new(LOW_RAM_END + 0x10_0000).unwrap();
        let ranges: Vec<_> = ram.ranges().collect();
        assert_eq!(ranges[1], RamRange { start: HIGH_RAM_START, len: 0x10_0000 });
        assert!(ram.page(LOW_RAM_END).is_none());
        assert!(ram.page(HIGH_RAM_START + 0xf_ffff).is_some());
        assert!(ram.page(HIGH_RAM_START + 0x10_0000).is_none());
    }

    #[test]
    fn ranges_are_checked_at_both_ends() {
        let ram = GuestRam::new(0x2000).unwrap();
        assert!(ram.write(0x1ffc, &[1, 2, 3, 4]).is_ok());
        assert!(ram.write(0x1ffd, &[1, 2, 3, 4]).is_err());
        assert!(ram.write(u64::MAX, &[1, 2]).is_err());
        assert_eq!(ram.load_u32(0x1ffc), Some(0x0403_0201));
        assert_eq!(ram.load_u32(0x1ffd), None);
        assert_eq!(ram.load_u64(0x2000), None);
    }

    #[test]
    fn copies_of_any_length_are_exact() {
        let ram = GuestRam::new(0x4000).unwrap();
        let data: Vec<u8> = (0..5000).map(|i| (i % 251) as u8 + 1).collect();
        for len in (0..70).chain([255, 4095, 5000]) {
            let at = 0x1ffd - len as u64 % 7;
            ram.write(0x1000, &[0; 0x3000]).unwrap();
            ram.write(at, &data[..len]).unwrap();
            let mut back = vec![0xff; len + 2];
            ram.read(at - 1, &mut back).unwrap();
            assert!(back[0] == 0 && back[1..=len] == data[..len] && back[len + 1] == 0, "{len}");
        }
    }

    #[test]
    fn what_was_touched_is_resident() {
        let ram = GuestRam::new(200 << 20).unwrap();
        assert_eq!(ram.resident(), 0);
        ram.write(150 << 20, &[1; 3 << 20]).unwrap();
        let resident = ram.resident();
        assert!((3 << 20..=8 << 20).contains(&resident), "{resident}"); // the host may give whole huge pages
    }

    #[test]
    fn what_is_discarded_reads_as_zero_holds_no_code_and_takes_no_memory() {
        const LEN: u64 = 64 << 20;
        let ram = GuestRam::new(LEN).unwrap();
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * PAGE_SIZE
        };
        ram.write(0, &vec![1; LEN as usize]).unwrap();
        let before = resident();
        let info = ram.page(0x2000).unwrap().info;
        info.mark_code(0, 8);
        ram.discard(0x1001, LEN - 0x1002).unwrap();
        assert!(resident() + LEN * 9 / 10 < before, "{} of {before}", resident());
        assert_eq!(
            [0x1fff, 0x2000, LEN - 0x1001, LEN - 0x1000].map(|a| ram.load_u8(a)),
            [1, 0, 0, 1].map(Some)
        );
        assert_eq!(info.generation(), 1);
        ram.write(0x2000, &[7]).unwrap();
        assert_eq!(ram.load_u8(0x2000), Some(7));
        for (addr, len) in [(0, LEN + 1), (LEN, 1), (u64::MAX, 2), (LEN - 1, u64::MAX)] {
            assert!(ram.discard(addr, len).is_err(), "{addr:#x} {len:#x}");
        }
        ram.discard(0x1001, 0x1ffe).unwrap();
        assert_eq!(ram.load_u8(0x2000), Some(7), "no whole page");
    }

    #[test]
    fn a_files_content_is_there_until_it_is_written_or_discarded() {
        const LEN: u64 = 16 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(LEN).unwrap();
        for at in [0x3000, 0x10_0000, 0x10_1000] {
            std::os::unix::fs::FileExt::write_all_at(&file, &[7; 0x1000], at).unwrap();
        }
        let ram = GuestRam::from_file(LEN, file.try_clone().unwrap()).unwrap();
        let other = GuestRam::new(LEN).unwrap();
        other.share_with(file.try_clone().unwrap()).unwrap();
        for ram in [ram, other] {
            ram.write(0x5000, &[9]).unwrap();
            ram.write(0x3000, &[9]).unwrap();
            let mut pages = [false; 16];
            ram.look(0, &mut pages).unwrap();
            let there: Vec<usize> = (0..16).filter(|&page| pages[page]).collect();
            assert_eq!(there, [3, 5]);
            ram.look(0x10_0000, &mut pages).unwrap();
            assert_eq!(pages[..3], [true, true, false]);
            ram.discard(0x10_0000, 0x1000).unwrap();
            assert_eq!(
                [0x3000, 0x3001, 0x10_0000, 0x10_1000].map(|at| ram.load_u8(at)),
                [9, 7, 0, 7].map(Some)
            );
            assert!(ram.look(LEN - 0x1000, &mut pages).is_err());
        }
        assert!(matches!(GuestRam::from_file(LEN + 0x1000, file), Err(MemoryError::ShortFile { .. })));
    }

    #[test]
    fn a_size_that_is_no_page_multiple_is_refused() {
        assert!(matches!(GuestRam::new(4097), Err(MemoryError::BadSize(4097))));
        assert!(matches!(GuestRam::new(0), Err(MemoryError::BadSize(0))));
    }

    #[test]
    fn writes_invalidate_decoded_code() {
        let ram = GuestRam::new(0x3000).unwrap();
        let info = ram.page(0x1000).unwrap().info;
        info.mark_code(0, 32);
        ram.write(0xff0, &[0; 0x20]).unwrap();
        assert_eq!(info.generation(), 1);
    }

    #[test]
    fn writes_through_host_pointers_invalidate_code_of_every_page() {
        let ram = GuestRam::new(0x4000).unwrap();
        let last = ram.page(0x3000).unwrap().info;
        last.mark_code(0, 8);
        assert!(ram.host_range(0xff0, 0x3010).is_ok() && ram.host_range(0xff0, 0x3011).is_err());
        ram.note_stores(0xff0, 0x2010);
        assert_eq!(last.generation(), 0, "ends before it");
        ram.note_stores(0xff0, u64::MAX);
        assert_eq!(last.generation(), 1);
        ram.note_stores(u64::MAX, 2);
    }
}
