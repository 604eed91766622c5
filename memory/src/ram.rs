//! Guest RAM: at most two host mappings (below the 32-bit hole and above 4 GiB) and a table of pages.
// UNSAFETY: guest RAM is shared with the guest's vCPU threads, so it is reached by raw pointers with
// volatile or atomic accesses; every pointer is made from a range that was checked against the mapping.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use vm_memory::mmap::{GuestRegionMmap, MmapRegionBuilder};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::content::{Content, Place, memory_file, present};
use crate::written::{Noted, WriteLog};
use crate::{HIGH_RAM_START, LOW_RAM_END, Layers, MemoryError, PAGE_SIZE, PageInfo, PageRef, Run, huge};

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
    /// As long as writes are logged: those that the host's page tables do not tell.
    noted: RwLock<Option<Arc<Noted>>>,
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
        Self::from_layers(size, Layers::zeros(size))
    }

    /// The same, so that it costs little to [`freeze`](Self::freeze) it: a file in memory, whose pages cost the host somewhat more
    /// when they are first touched. Where the host has no such files it is as [`new`](Self::new).
    pub fn freezable(size: u64) -> Result<Self, MemoryError> {
        let Ok(file) = memory_file(size) else { return Self::new(size) };
        let file = Arc::new(file);
        let (mmap, blocks) = map(size, Some(&file), libc::MAP_NORESERVE)?;
        Ok(Self { mmap, blocks, content: Content::live(file), noted: RwLock::default() })
    }

    /// The same by huge pages of `page` bytes, 2 MiB or 1 GiB, of which `size` is a multiple. All of them are put aside now,
    /// and stay: nothing can be given back, or shared with copies.
    ///
    /// # Errors
    /// The host has not enough of them.
    pub fn huge(size: u64, page: u64) -> Result<Self, MemoryError> {
        let refused = |source| {
            let (needed, free, folder) = (size.div_ceil(page.max(1)), huge::free(page), huge::folder(page));
            MemoryError::Huge { page, needed, free, folder, source }
        };
        let file = Arc::new(huge::file(size, page).map_err(refused)?);
        match map(size, Some(&file), 0) {
            Ok((mmap, blocks)) => {
                Ok(Self { mmap, blocks, content: Content::huge(), noted: RwLock::default() })
            }
            Err(MemoryError::Map { source, .. }) => Err(refused(source)),
            Err(other) => Err(other),
        }
    }

    /// The same with what is in `file`, one range behind the other: it is read when it is touched, and never written.
    /// Whoever changes the file changes what the guest has not touched.
    ///
    /// # Errors
    /// As [`new`](Self::new); the file is shorter.
    pub fn from_file(size: u64, file: File) -> Result<Self, MemoryError> {
        Self::from_layers(size, Layers::new(size, vec![file], [Run { start: 0, len: size, file: Some(0) }])?)
    }

    /// The same with what was frozen.
    ///
    /// # Errors
    /// As [`new`](Self::new); the layers are of another size.
    pub fn from_layers(size: u64, layers: Layers) -> Result<Self, MemoryError> {
        if layers.runs().map(|run| run.len).sum::<u64>() != size {
            return Err(MemoryError::BadLayers);
        }
        let (mmap, blocks) = map(size, None, libc::MAP_NORESERVE)?;
        // SAFETY: mappings that nobody else knows.
        let content = unsafe { Content::layered(layers, &places(&blocks)) };
        let content = content.map_err(|source| MemoryError::Map { size, source })?;
        Ok(Self { mmap, blocks, content, noted: RwLock::default() })
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

    /// The file that is RAM, if it is one that others can map.
    pub fn file(&self) -> Option<Arc<File>> {
        self.content.file()
    }

    /// Where a guest-physical address is in it.
    pub fn file_offset(&self, addr: u64) -> Option<u64> {
        let block = self.blocks.iter().find(|b| addr.wrapping_sub(b.range.start) < b.range.len)?;
        Some(block.offset + (addr - block.range.start))
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

    /// The same, so that pages that are not there take no memory of the host's for it, where RAM is a file.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn peek(&self, addr: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        self.range(addr, data.len() as u64)?;
        match self.file_offset(addr) {
            Some(offset) if self.content.peek(offset, data) => Ok(()),
            _ => self.read(addr, data),
        }
    }

    /// Copies bytes into the guest. The range may span pages but must be RAM throughout.
    pub fn write(&self, addr: u64, data: &[u8]) -> Result<(), MemoryError> {
        let host = self.range(addr, data.len() as u64)?;
        // SAFETY: as in `read`.
        unsafe { copy(data.as_ptr(), host, data.len()) };
        self.note_stores(addr, data.len() as u64);
        Ok(())
    }

    /// The same for much that the guest has not asked for and may never read: a kernel, an initrd. Pages that nobody has touched get
    /// their content without being zeroed and mapped before.
    pub fn load(&self, addr: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.range(addr, data.len() as u64)?;
        let block = self.block(addr).ok_or(MemoryError::OutOfRange { addr, len: data.len() as u64 })?;
        let offset = block.offset + (addr - block.range.start);
        if self.content.load(offset, data) {
            self.note_unseen(offset, data.len() as u64);
            self.note_stores(addr, data.len() as u64);
            return Ok(());
        }
        self.write(addr, data)
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
        let block = self.block(start).ok_or(MemoryError::OutOfRange { addr: start, len })?;
        let offset = block.offset + (start - block.range.start);
        let noted = self.noted();
        // SAFETY: whole pages of a mapping of `self.mmap`'s, of which nobody has Rust references but to atomics, for which
        // a page of zeros is as good as any.
        let done = unsafe { self.content.forget(Place { host, offset, len }, noted.is_some()) };
        noted.iter().for_each(|noted| noted.note(offset, len));
        drop(noted);
        done.map_err(|source| MemoryError::Discard { addr: start, len, source })?;
        self.note_stores(start, len);
        Ok(())
    }

    /// Bytes that the host holds in memory for it.
    pub fn resident(&self) -> u64 {
        const PAGES: u64 = 1 << 14;
        let mut resident = 0;
        let mut pages = [false; PAGES as usize];
        for block in &self.blocks {
            for start in (0..block.range.len).step_by((PAGES * PAGE_SIZE) as usize) {
                let count = ((block.range.len - start) / PAGE_SIZE).min(PAGES) as usize;
                // SAFETY: the range is inside this mapping.
                let host = unsafe { block.host.add(start as usize) };
                if present(host.as_ptr() as u64, &mut pages[..count]) {
                    resident += pages[..count].iter().filter(|page| **page).count() as u64 * PAGE_SIZE;
                }
            }
        }
        resident
    }

    /// Has what is in RAM now in files that nobody writes: whoever else maps them shares the pages that neither writes. What
    /// is not there yet is copied. Nobody uses RAM meanwhile.
    ///
    /// # Errors
    /// The host refuses it: RAM is what it was.
    pub fn freeze(&self) -> Result<Layers, MemoryError> {
        let noted = self.noted();
        if noted.is_some() {
            return Err(MemoryError::Logged);
        }
        // SAFETY: whole mappings of `self.mmap`'s, of which nobody has Rust references but to atomics.
        let frozen = unsafe { self.content.freeze(&places(&self.blocks)) };
        frozen.map_err(|source| MemoryError::Freeze { source })
    }

    /// Begins to log which pages are written, by whomever; RAM may be in use. What other processes write by mappings of
    /// [`file`](Self::file) is known if they make them while the log is there, and say so
    /// ([`note_mapped`](Self::note_mapped)): those that have some have to give them up before the first round.
    ///
    /// # Errors
    /// The host has no such log (Linux before 6.7, or a list of calls without userfaultfd), RAM is of huge pages, or there is a
    /// log already.
    pub fn log_writes(&self) -> Result<WriteLog<'_>, MemoryError> {
        if self.content.is_huge() {
            return Err(MemoryError::HugeLog);
        }
        WriteLog::begin(self, &places(&self.blocks), self.content.pagemap())
    }

    /// Another process will write the page at `addr` whenever it pleases: to a log it is written, until the log ends.
    pub fn note_mapped(&self, addr: u64) {
        if let Some(offset) = self.file_offset(addr) {
            self.note_unseen(offset, 1);
        }
    }

    fn note_unseen(&self, offset: u64, len: u64) {
        self.noted().iter().for_each(|noted| noted.note(offset, len));
    }

    fn noted(&self) -> RwLockReadGuard<'_, Option<Arc<Noted>>> {
        self.noted.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log begins, if there is none, or ends.
    pub(crate) fn set_noted(&self, noted: Option<Arc<Noted>>) -> Result<(), MemoryError> {
        let mut place = self.noted.write().unwrap_or_else(PoisonError::into_inner);
        if place.is_some() && noted.is_some() {
            return Err(MemoryError::Logged);
        }
        *place = noted;
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

/// The mappings of so much RAM: of a file that is RAM, one behind the other, or private ones of zeros. `flags` may say that
/// the host is to promise nothing.
fn map(
    size: u64,
    file: Option<&Arc<File>>,
    flags: i32,
) -> Result<(GuestMemoryMmap, Vec<Block>), MemoryError> {
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
    for range in ranges {
        let builder =
            MmapRegionBuilder::new(range.len as usize).with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
        let builder = match file {
            None => builder.with_mmap_flags(flags | libc::MAP_ANONYMOUS | libc::MAP_PRIVATE),
            Some(file) => builder
                .with_mmap_flags(flags | libc::MAP_SHARED)
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
    Ok((GuestMemoryMmap::from_regions(regions).map_err(|e| refused(&e))?, blocks))
}

fn places(blocks: &[Block]) -> Vec<Place> {
    let place = |b: &Block| Place { host: b.host.as_ptr(), offset: b.offset, len: b.range.len };
    blocks.iter().map(place).collect()
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
mod tests;
