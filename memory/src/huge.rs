//! RAM of huge pages: files in memory whose pages the host's administrator has put aside
//! (Linux, Documentation/admin-guide/mm/hugetlbpage.rst).

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, memfd_create};

/// Where the kernel counts them.
const COUNTS: &str = "/sys/kernel/mm/hugepages";

/// A file of so many bytes, whole pages of `page` bytes, which is 2 MiB or 1 GiB. They are reserved when it is mapped.
pub fn file(size: u64, page: u64) -> io::Result<File> {
    let pages = if page >> 30 == 0 { MemfdFlags::HUGE_2MB } else { MemfdFlags::HUGE_1GB };
    let file = File::from(memfd_create("guesthouse-ram", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | pages)?);
    file.set_len(size)?;
    Ok(file)
}

/// How many of these pages the host has for whoever asks now.
pub fn free(page: u64) -> u64 {
    let count = |name: &str| {
        let path = format!("{}/{name}", folder(page));
        std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    count("free_hugepages").saturating_sub(count("resv_hugepages"))
}

/// Where their number is.
pub fn folder(page: u64) -> String {
    format!("{COUNTS}/hugepages-{}kB", page >> 10)
}
