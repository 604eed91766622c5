//! Which pages of guest RAM were written: the host's page tables tell, so that it does not matter by whom, an engine, KVM, a
//! device, the host's kernel.
//!
//! Pages are write-protected by userfaultfd(2), and the kernel itself lets the first store to each go on
//! (UFFD_FEATURE_WP_ASYNC); PAGEMAP_SCAN says to which there was one, and protects them again
//! (Documentation/admin-guide/mm/pagemap.rst). Nobody is asked at a fault, so that it takes no rights. What does not
//! go by this process's page tables is noted beside ([`Noted`]). Pages that somebody has pinned for a device of the host's
//! (O_DIRECT, buffers of io_uring's) would be written unseen: nobody here does so with guest RAM.
// UNSAFETY: system calls with addresses: of mappings of guest RAM, and of what they fill.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::content::Place;
use crate::pagemap::{IS_FILE, IS_THERE, IS_WRITTEN, IS_ZEROS, Pagemap, Query};
use crate::{GuestRam, MemoryError, PAGE_SIZE, RamRange};

/// Requests of linux/userfaultfd.h, which `jail/src/calls.rs` lists, too.
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;

const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFD_API: u64 = 0xaa;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
/// For both requests that have a mode: which faults are wanted, and that pages are protected.
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;

/// Bytes that are protected and let go of together: as long as that takes, others wait with what they want of the mappings (8 to 20 ms
/// for 512 MiB at once).
const STEP: usize = 16 << 20;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}

/// Pages, by their number among all RAM, that are or were written past this process's page tables. Each is taken as written in every
/// round, since nobody knows when it was last.
pub(crate) struct Noted(Vec<AtomicU64>);

impl Noted {
    fn new(size: u64) -> Self {
        Self((0..(size / PAGE_SIZE).div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// The pages of a range, from an offset among all RAM on.
    pub fn note(&self, offset: u64, len: u64) {
        for page in offset / PAGE_SIZE..(offset + len).div_ceil(PAGE_SIZE) {
            if let Some(word) = self.0.get((page / 64) as usize) {
                word.fetch_or(1 << (page % 64), Ordering::SeqCst);
            }
        }
    }

    /// Gives runs of them, as offsets and lengths.
    fn each(&self, mut give: impl FnMut(u64, u64)) {
        for (word, first) in self.0.iter().zip((0u64..).step_by(64)) {
            let mut bits = word.load(Ordering::SeqCst);
            while bits != 0 {
                let from = bits.trailing_zeros();
                let count = (bits >> from).trailing_ones();
                give((first + u64::from(from)) * PAGE_SIZE, u64::from(count) * PAGE_SIZE);
                bits &= u64::MAX.checked_shl(from + count).unwrap_or(0);
            }
        }
    }
}

/// A mapping of RAM: where it is in this process, among all RAM, and for the guest.
struct Span {
    host: u64,
    offset: u64,
    range: RamRange,
}

/// How to tell that a page was not written.
#[derive(Clone, Copy)]
enum Kind {
    /// RAM is a file's: what is not there is protected, too, or to look at it would be to write it.
    Shared,
    /// Pages that were written are private: others are the file's, or the page of zeros. Where nothing is there, the kernel's mark of
    /// protection would look like a page that is in swap ([`GuestRam::look`]).
    Private,
}

impl Kind {
    /// What to look for. In memory or in swap, where that matters: the kernel takes for written what was never there.
    fn written(self) -> Query {
        match self {
            Self::Shared => Query { all: IS_WRITTEN, none: 0, any: 0, protect: true },
            Self::Private => {
                Query { all: IS_WRITTEN, none: IS_FILE | IS_ZEROS, any: IS_THERE, protect: true }
            }
        }
    }
}

/// A log of the pages of guest RAM that are written, as long as it lives: the first store to each page in each round takes a fault
/// of the host's, resolved by its kernel. See [`GuestRam::log_writes`].
pub struct WriteLog<'a> {
    ram: &'a GuestRam,
    spans: Vec<Span>,
    pagemap: Arc<Pagemap>,
    kind: Kind,
    noted: Arc<Noted>,
    faults: OwnedFd,
}

impl<'a> WriteLog<'a> {
    /// Begins it.
    pub(crate) fn begin(
        ram: &'a GuestRam,
        places: &[Place],
        pagemap: Option<Arc<Pagemap>>,
    ) -> Result<Self, MemoryError> {
        let log = |source| MemoryError::NoLog { source };
        let pagemap = pagemap.ok_or_else(|| log(io::ErrorKind::NotFound.into()))?;
        let faults = userfaultfd().map_err(log)?;
        let noted = Arc::new(Noted::new(ram.size()));
        // From here on others note what they do. All goes with `this`, whatever comes.
        ram.set_noted(Some(noted.clone()))?;
        let span =
            |(place, range): (&Place, _)| Span { host: place.host as u64, offset: place.offset, range };
        let spans = places.iter().zip(ram.ranges()).map(span).collect();
        let kind = if ram.file().is_some() { Kind::Shared } else { Kind::Private };
        let mut this = Self { ram, spans, pagemap, kind, noted, faults };
        for span in &this.spans {
            protect(&this.faults, span, kind).map_err(log)?;
        }
        // Of private pages, this protects those that are there.
        this.round(|_, _| ()).map(|()| this)
    }

    /// Gives each run of pages that were written since the last round, or since the log began: guest-physical address and length. What
    /// is written from the moment on at which a page is given is for the next round. A page may be given twice.
    ///
    /// # Errors
    /// What the host says: the log is not whole any more.
    pub fn round(&mut self, mut give: impl FnMut(u64, u64)) -> Result<(), MemoryError> {
        for &Span { host, offset, range } in &self.spans {
            let found = |start, len| give(range.start + (start - host), len);
            let written = self.kind.written();
            self.pagemap
                .scan(written, host, host + range.len, found)
                .map_err(|source| MemoryError::NoLog { source })?;
            self.noted.each(|first, len| {
                // A run may go on in the next range.
                let (from, to) = (first.max(offset), (first + len).min(offset + range.len));
                if from < to {
                    give(range.start + (from - offset), to - from);
                }
            });
        }
        Ok(())
    }
}

impl Drop for WriteLog<'_> {
    fn drop(&mut self) {
        for mut range in self.spans.iter().flat_map(steps) {
            // What is not let go of now is when the descriptor is closed.
            // SAFETY: the request's own structure; stores go on as they did without it.
            let _ = unsafe { request(&self.faults, UFFDIO_UNREGISTER, &mut range) };
        }
        let _ = self.ram.set_noted(None);
    }
}

/// Faults that the kernel resolves by itself.
fn userfaultfd() -> io::Result<OwnedFd> {
    // SAFETY: makes a descriptor and nothing else (userfaultfd(2)).
    let made = unsafe { libc::syscall(libc::SYS_userfaultfd, UFFD_USER_MODE_ONLY | libc::O_CLOEXEC) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made just now, and is nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(made as i32) };
    let mut api = Api { api: UFFD_API, features: FEATURE_WP_ASYNC, ioctls: 0 };
    // SAFETY: the request's own structure, which the kernel reads and fills.
    unsafe { request(&fd, UFFDIO_API, &mut api) }?;
    Ok(fd)
}

/// Stores to a mapping can be noticed from here on, and those to a shared one are.
fn protect(faults: &OwnedFd, span: &Span, kind: Kind) -> io::Result<()> {
    let range = Range { start: span.host, len: span.range.len };
    let mut register = Register { range, mode: REGISTER_MODE_WP, ioctls: 0 };
    // SAFETY: the request's own structure; the mapping's content and rights stay what they are for whoever uses it.
    unsafe { request(faults, UFFDIO_REGISTER, &mut register) }?;
    for range in steps(span).filter(|_| matches!(kind, Kind::Shared)) {
        let mut protect = WriteProtect { range, mode: WRITEPROTECT_MODE_WP };
        // SAFETY: as above: a store is let through by the kernel, once it is noted.
        unsafe { request(faults, UFFDIO_WRITEPROTECT, &mut protect) }?;
    }
    Ok(())
}

/// A mapping in parts.
fn steps(span: &Span) -> impl Iterator<Item = Range> + use<> {
    let (start, len) = (span.host, span.range.len);
    (0..len).step_by(STEP).map(move |at| Range { start: start + at, len: (len - at).min(STEP as u64) })
}

/// # Safety
/// The structure is the one that the request reads and fills, and so is what it points to.
unsafe fn request<T>(file: &impl AsRawFd, number: u64, what: &mut T) -> io::Result<usize> {
    // SAFETY: the caller's word.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), number as libc::Ioctl, std::ptr::from_mut(what)) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests;
