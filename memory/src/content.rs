//! What is behind the pages of guest RAM: one file that is RAM, as long as nobody shares it; or pages of the process's own
//! over files that several processes share (`layers.rs`), and where to look which ones those are.
// UNSAFETY: pages are replaced by system calls, whose range the caller vouches for.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create, seek};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};

use crate::layers::Run;
use crate::pagemap::Pagemap;
use crate::{Layers, PAGE_SIZE};

/// Pages that are looked at together.
const PAGES: usize = 1 << 15;
/// As many pages between two that were written are written down with them: a mapping more costs as much, here, where other threads
/// have to hear of it, and in each copy.
const GAP: usize = 16;
/// As many pages that were not written are written down with a run at each end, so that no slivers of older files stay there: copies
/// would have a mapping for each.
const SLIVERS: u64 = 4 * GAP as u64;
/// With more files or runs than these, all of RAM becomes one.
const MAX_FILES: usize = 16;
const MAX_RUNS: usize = 8192;

/// A mapping of RAM: where it is in the process, and its place among all RAM.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub host: *mut u8,
    pub offset: u64,
    pub len: u64,
}

/// Runs, and the mappings that they are in.
type Placed<'a> = Vec<(&'a Place, Run)>;

enum Backing {
    /// RAM is the file.
    Live(Arc<File>),
    /// Pages that were written are private.
    Layers(Layers),
    /// RAM is a file of huge pages, which stay.
    Huge,
}

/// Behind the mappings of guest RAM.
pub struct Content {
    backing: RwLock<Backing>,
    /// Which pages were written or read; without it, all may have been.
    pagemap: Option<Arc<Pagemap>>,
}

impl Content {
    fn new(backing: Backing) -> Self {
        Self { backing: RwLock::new(backing), pagemap: Pagemap::open().map(Arc::new) }
    }

    /// That of a file that will be mapped shared.
    pub fn live(file: Arc<File>) -> Self {
        Self::new(Backing::Live(file))
    }

    /// That of huge pages.
    pub fn huge() -> Self {
        Self::new(Backing::Huge)
    }

    /// Maps the runs over anonymous private memory.
    ///
    /// # Safety
    /// The places are whole mappings of guest RAM, in which only atomics are referred to, and together all of it.
    pub unsafe fn layered(layers: Layers, places: &[Place]) -> io::Result<Self> {
        for place in places {
            for run in layers.within(place.offset, place.len).filter(|run| run.file.is_some()) {
                // SAFETY: the caller's word, and the run is inside the place.
                unsafe { map(place, &run, layers.file(&run), MapFlags::PRIVATE) }?;
            }
        }
        Ok(Self::new(Backing::Layers(layers)))
    }

    fn write(&self) -> RwLockWriteGuard<'_, Backing> {
        self.backing.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that RAM is.
    pub fn file(&self) -> Option<Arc<File>> {
        match &*self.backing.read().unwrap_or_else(PoisonError::into_inner) {
            Backing::Live(file) => Some(file.clone()),
            Backing::Layers(_) | Backing::Huge => None,
        }
    }

    /// Where the host tells about pages.
    pub fn pagemap(&self) -> Option<Arc<Pagemap>> {
        self.pagemap.clone()
    }

    pub fn is_huge(&self) -> bool {
        matches!(*self.backing.read().unwrap_or_else(PoisonError::into_inner), Backing::Huge)
    }

    /// Reads from the file that RAM is, if it is one and the host can.
    pub fn peek(&self, offset: u64, data: &mut [u8]) -> bool {
        self.file().is_some_and(|file| file.read_exact_at(data, offset).is_ok())
    }

    /// Writes through the file, if RAM is one and the host can.
    pub fn load(&self, offset: u64, data: &[u8]) -> bool {
        match &*self.backing.read().unwrap_or_else(PoisonError::into_inner) {
            Backing::Live(file) => file.write_all_at(data, offset).is_ok(),
            Backing::Layers(_) | Backing::Huge => false,
        }
    }

    /// The pages hold zeros and take no memory. While writes are logged, those of files do: a mapping that is replaced is in no log.
    ///
    /// # Safety
    /// They are whole pages of a mapping of guest RAM, in which only atomics are referred to.
    pub unsafe fn forget(&self, place: Place, logged: bool) -> io::Result<()> {
        let Place { host, offset, len } = place;
        let mut backing = self.write();
        let layers = match &mut *backing {
            Backing::Live(_) => {
                // SAFETY: the caller's word; the mapping is shared, so that the file has a hole there.
                return Ok(unsafe { madvise(host.cast(), len as usize, Advice::LinuxRemove) }?);
            }
            Backing::Layers(layers) => layers,
            Backing::Huge => return Err(unsupported()),
        };
        if layers.within(offset, len).all(|run| run.file.is_none()) {
            // SAFETY: the caller's word; the mapping is private and anonymous.
            return Ok(unsafe { madvise(host.cast(), len as usize, Advice::LinuxDontNeed) }?);
        }
        if logged {
            // SAFETY: the caller's word; whoever reads meanwhile does so by volatile or atomic accesses.
            unsafe { std::ptr::write_bytes(host, 0, len as usize) };
            return Ok(());
        }
        // The file's content would come back, so the pages have to be others. The kernel has nobody see the gap.
        // SAFETY: the caller's word; what is replaced is a mapping of the same kind.
        match unsafe { map(&place, &Run { start: offset, len, file: None }, None, MapFlags::PRIVATE) } {
            Ok(()) => layers.replace(offset, len, None),
            // Too many mappings: zeros that take memory are right, too.
            // SAFETY: the caller's word; whoever reads meanwhile does so by volatile or atomic accesses.
            Err(Errno::NOMEM) => unsafe { std::ptr::write_bytes(host, 0, len as usize) },
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// Says which pages may hold anything but zeros.
    pub fn look(&self, host: u64, offset: u64, pages: &mut [bool]) {
        match &*self.backing.read().unwrap_or_else(PoisonError::into_inner) {
            Backing::Live(file) => {
                pages.fill(false);
                add_data(file, offset, pages);
            }
            Backing::Layers(layers) => {
                self.private(host, pages);
                layers.look(offset, pages);
            }
            Backing::Huge if present(host, pages) => {}
            Backing::Huge => pages.fill(true),
        }
    }

    /// Says which pages may be private.
    fn private(&self, host: u64, pages: &mut [bool]) {
        match &self.pagemap {
            Some(map) => map.private(host, pages),
            None => pages.fill(true),
        }
    }

    /// From now on what is in RAM is in files that nobody writes; what is written is in private pages.
    ///
    /// # Safety
    /// As for [`layered`](Self::layered), with the same places, and nobody uses RAM meanwhile.
    pub unsafe fn freeze(&self, places: &[Place]) -> io::Result<Layers> {
        let mut backing = self.write();
        let size = places.iter().map(|place| place.len).sum();
        match &mut *backing {
            Backing::Live(file) => {
                let layers = Layers::whole(size, file.clone());
                // SAFETY: the caller's word.
                let mapped = unsafe { remap(&layers, places, MapFlags::PRIVATE) };
                if let Err(error) = mapped.and_then(|()| seal(file)) {
                    // Nobody has written, so that it may be what it was.
                    // SAFETY: the caller's word.
                    unsafe { remap(&layers, places, MapFlags::SHARED) }?;
                    return Err(error);
                }
                *backing = Backing::Layers(layers.clone());
                Ok(layers)
            }
            Backing::Layers(layers) => {
                let all = layers.files().len() >= MAX_FILES || layers.runs().len() >= MAX_RUNS;
                // SAFETY: the caller's word.
                let (file, runs) = unsafe { self.write_down(layers, all, places, size) }?;
                if runs.is_empty() {
                    return Ok(layers.clone());
                }
                let index = layers.push(file.clone());
                for (place, run) in &runs {
                    // SAFETY: the caller's word; what is there is in the file as well.
                    unsafe { map(place, run, Some(&file), MapFlags::PRIVATE) }?;
                    layers.replace(run.start, run.len, Some(index));
                }
                if all {
                    *layers = Layers::whole(size, file);
                }
                Ok(layers.clone())
            }
            Backing::Huge => Err(unsupported()),
        }
    }

    /// A file that nobody will write, with the runs that may be private; or with all of RAM that may not be zero, and the runs are
    /// all places.
    ///
    /// # Safety
    /// As for [`freeze`](Self::freeze).
    unsafe fn write_down<'a>(
        &self,
        layers: &Layers,
        all: bool,
        places: &'a [Place],
        size: u64,
    ) -> io::Result<(Arc<File>, Placed<'a>)> {
        let file = memory_file(size)?;
        let mut written = Vec::new();
        for place in places {
            for start in (0..place.len).step_by(PAGES * PAGE_SIZE as usize) {
                let count = ((place.len - start) / PAGE_SIZE).min(PAGES as u64);
                let mut pages = vec![false; count as usize];
                self.private(place.host as u64 + start, &mut pages);
                if all {
                    layers.look(place.offset + start, &mut pages);
                } else {
                    add_slivers(layers, place.offset + start, &mut pages);
                }
                for run in runs(&pages) {
                    let at = start + run.start as u64 * PAGE_SIZE;
                    let len = run.len() as u64 * PAGE_SIZE;
                    // SAFETY: the caller's word, and the run is inside the place.
                    unsafe {
                        write_all(&file, place.host.add(at as usize), len as usize, place.offset + at)
                    }?;
                    written.push((place, Run { start: place.offset + at, len, file: None }));
                }
            }
        }
        seal(&file)?;
        if all {
            let whole = |place: &'a Place| (place, Run { start: place.offset, len: place.len, file: None });
            written = places.iter().map(whole).collect();
        }
        Ok((Arc::new(file), written))
    }
}

/// What is not done with huge pages.
fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "it is of huge pages, which stay where they are")
}

/// Says which pages from an address of the process on are in memory; false if the host does not tell.
pub fn present(host: u64, pages: &mut [bool]) -> bool {
    let mut state = vec![0u8; pages.len()];
    // SAFETY: the kernel looks at mappings, touches nothing of them, and writes a byte for each page (mincore(2)).
    let done = unsafe {
        libc::mincore(host as *mut libc::c_void, pages.len() * PAGE_SIZE as usize, state.as_mut_ptr())
    };
    pages.iter_mut().zip(state).for_each(|(page, state)| *page = state & 1 != 0);
    done == 0
}

/// A file in memory, of zeros, which can be sealed.
pub fn memory_file(len: u64) -> io::Result<File> {
    let file = File::from(memfd_create("guesthouse-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(len)?;
    Ok(file)
}

/// Nobody writes the file or changes its length any more, whoever has it.
fn seal(file: &File) -> io::Result<()> {
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    Ok(fcntl_add_seals(file, seals)?)
}

/// Maps a run, or zeros, over what is at its place.
///
/// # Safety
/// The place is a mapping of guest RAM, in which only atomics are referred to, and the run is inside it.
unsafe fn map(place: &Place, run: &Run, file: Option<&Arc<File>>, sharing: MapFlags) -> Result<(), Errno> {
    let flags = sharing | MapFlags::FIXED | MapFlags::NORESERVE;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the caller's word: what is replaced is guest RAM, which stays mapped.
    unsafe {
        let host = place.host.add((run.start - place.offset) as usize).cast();
        match file {
            Some(file) => mmap(host, run.len as usize, protection, flags, file, run.start),
            None => mmap_anonymous(host, run.len as usize, protection, flags),
        }
    }
    .map(drop)
}

/// Maps everything once more.
///
/// # Safety
/// As for [`map`].
unsafe fn remap(layers: &Layers, places: &[Place], sharing: MapFlags) -> io::Result<()> {
    for place in places {
        for run in layers.within(place.offset, place.len) {
            // SAFETY: the caller's word, and the run is inside the place.
            unsafe { map(place, &run, layers.file(&run), sharing) }?;
        }
    }
    Ok(())
}

/// Adds pages between runs of them and runs that go on elsewhere, where those are short.
fn add_slivers(layers: &Layers, offset: u64, pages: &mut [bool]) {
    let within = offset..offset + pages.len() as u64 * PAGE_SIZE;
    for run in runs(pages) {
        let range = offset + run.start as u64 * PAGE_SIZE..offset + run.end as u64 * PAGE_SIZE;
        let wide = layers.with_slivers(range, &within, GAP as u64 * PAGE_SIZE, SLIVERS * PAGE_SIZE);
        let [first, end] = [wide.start, wide.end].map(|at| ((at - offset) / PAGE_SIZE) as usize);
        pages.get_mut(first..end).into_iter().flatten().for_each(|page| *page = true);
    }
}

/// Runs of pages that are true, with small gaps between them.
fn runs(pages: &[bool]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (page, _) in pages.iter().enumerate().filter(|(_, is)| **is) {
        match runs.last_mut() {
            Some(run) if page - run.end <= GAP => run.end = page + 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}

/// Writes guest memory to a file.
///
/// # Safety
/// So many bytes from `host` on can be read; whoever changes them meanwhile changes what is written.
unsafe fn write_all(file: &File, host: *const u8, len: usize, offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        // SAFETY: the caller's word; the kernel reads them, and no Rust reference is made.
        let wrote = unsafe {
            let (from, at) = (host.add(done).cast(), (offset + done as u64) as libc::off_t);
            libc::pwrite(file.as_raw_fd(), from, len - done, at)
        };
        match usize::try_from(wrote) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(wrote) => done += wrote,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Adds the pages at which the file has data.
pub fn add_data(file: &File, offset: u64, pages: &mut [bool]) {
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
