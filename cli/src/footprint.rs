//! Memory of the process beyond the guest's: the C library's allocator is told to give large buffers back, and what only the
//! start needed goes when it is over.
// UNSAFETY: the allocator's options, the list of the program's segments and madvise(2) have no safe wrapper among our
// dependencies.
#![allow(unsafe_code)]

use std::{ptr, slice};

use libc::{c_int, c_void, dl_phdr_info};

/// Bytes from which an allocation is a mapping of its own.
const LARGE: libc::c_int = 128 << 10;

/// Heaps that threads share. Each takes system calls to make and some pages to keep, and most threads of a machine hardly
/// allocate anything; what vCPUs have is large and lasts.
const HEAPS: libc::c_int = 2;

/// By itself the library moves the limit of large buffers up when one is freed. The next ones, kernels and initrds that are read
/// only to be copied into the guest, would leave holes in the heap for as long as the guest lives. And it has a heap for each
/// thread.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets options; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Gives back what the start needed and the rest of a machine's life does not: pages of the program, which come again from the
/// host's page cache if they are wanted, and the free part of the heap.
pub fn give_back_the_start() {
    // SAFETY: the callback has the type that is asked for, and makes nothing of the third argument.
    unsafe { libc::dl_iterate_phdr(Some(drop_pages), ptr::null_mut()) };
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers, and may be called by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Of one part of the program: its segments that are never written.
extern "C" fn drop_pages(info: *mut dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    const PAGE: u64 = 4096;
    // SAFETY: the C library's, valid during the call; `dlpi_phnum` headers are at `dlpi_phdr`.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    let unwritten =
        |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
    for header in headers.iter().filter(unwritten) {
        let start = base + header.p_vaddr;
        let end = (start + header.p_memsz) & !(PAGE - 1);
        let start = (start + PAGE - 1) & !(PAGE - 1);
        if start < end {
            // SAFETY: pages of a file (or the kernel's, of its vDSO), whole ones of one segment, which nobody writes, as the header
            // says: what is read there next is what was there. Relocations are in segments that may be written.
            let _ =
                unsafe { libc::madvise(start as *mut c_void, (end - start) as usize, libc::MADV_DONTNEED) };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    use super::*;

    /// The program's code: start, end, and KiB of it that are resident.
    fn code() -> (u64, u64, u64) {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let program = std::env::current_exe().unwrap().display().to_string();
        let mut lines = smaps.lines();
        let head = lines.find(|line| line.contains(" r-xp ") && line.ends_with(&program)).unwrap();
        let resident = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        let (start, end) = head.split_once(' ').unwrap().0.split_once('-').unwrap();
        let number = |hex| u64::from_str_radix(hex, 16).unwrap();
        (number(start), number(end), resident.trim().trim_end_matches(" kB").parse().unwrap())
    }

    #[test]
    fn code_that_was_used_goes_and_comes_again() {
        let (start, end, _) = code();
        let mut before = vec![0; (end - start) as usize];
        let memory = File::open("/proc/self/mem").unwrap();
        memory.read_exact_at(&mut before, start).unwrap();
        let full = code().2;
        assert!(full * 1024 > (end - start) / 10 * 9, "{full} KiB of {start:x}-{end:x}");
        // Other tests use the same code until they are done.
        let mut left = (0..1000).map(|_| {
            give_back_the_start();
            std::thread::sleep(Duration::from_millis(10));
            code().2
        });
        assert!(left.any(|left| left < full / 2), "{full} KiB do not become less");
        let mut after = vec![0; before.len()];
        memory.read_exact_at(&mut after, start).unwrap();
        assert!(before == after);
    }
}
