//! What can go wrong with guest memory.

use thiserror::Error;

/// Errors of guest memory.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The size is no multiple of a page or too small to hold anything.
    #[error("guest memory of {0} bytes is not a multiple of 4096: give a size such as 512M")]
    BadSize(u64),
    /// The host refused the mapping.
    #[error("the host cannot give {size} bytes of guest memory ({source}): ask for less with --memory")]
    Map {
        /// Requested bytes.
        size: u64,
        /// What the host said.
        source: std::io::Error,
    },
    /// The host has too few huge pages, or none of that size.
    #[error(
        "the host has {free} free pages of {} MiB, and guest memory takes {needed} ({source}): have more put aside, in {folder}/nr_hugepages, or go without --hugepages", page >> 20
    )]
    Huge {
        /// Bytes of a page.
        page: u64,
        /// Pages of guest memory.
        needed: u64,
        /// Pages that nobody has.
        free: u64,
        /// Where the kernel keeps their number.
        folder: String,
        /// What the host said.
        source: std::io::Error,
    },
    /// A file with RAM's content ends too soon.
    #[error(
        "{len} bytes are less than {size} bytes of guest memory: the file is not whole, take another one"
    )]
    ShortFile {
        /// Bytes of RAM.
        size: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// Content of RAM that is not all of it.
    #[error("the layers of guest memory are not whole pages, one behind the other: take another copy")]
    BadLayers,
    /// The host keeps memory that it was given back.
    #[error("the host does not take guest memory {addr:#x}+{len:#x} back ({source}): do not lock it")]
    Discard {
        /// First byte.
        addr: u64,
        /// Length in bytes.
        len: u64,
        /// What the host said.
        source: std::io::Error,
    },
    /// The host refuses files for what is in memory.
    #[error("guest memory cannot be shared with copies ({source}): see to the host's memory and its limits")]
    Freeze {
        /// What the host said.
        source: std::io::Error,
    },
    /// The host does not tell what is written.
    #[error(
        "this host does not say what is written to guest memory while the guest runs ({source}; it takes Linux 6.7 and userfaultfd): take the snapshot without --live"
    )]
    NoLog {
        /// What the host said.
        source: std::io::Error,
    },
    /// Pages that are too large for a log.
    #[error(
        "what is written to huge pages is not logged: take the snapshot without --live, or go without --hugepages"
    )]
    HugeLog,
    /// Somebody has a log already.
    #[error("writes to guest memory are logged for a snapshot: wait until it is taken")]
    Logged,
    /// A range is not wholly RAM.
    #[error("guest-physical range {addr:#x}+{len:#x} is not RAM")]
    OutOfRange {
        /// First byte.
        addr: u64,
        /// Length in bytes.
        len: u64,
    },
}
