//! Why a guest cannot be booted.

use memory::MemoryError;
use thiserror::Error;

use crate::Protocol;

/// Errors of loading a kernel; each message is one line: file, fact, remedy.
#[derive(Debug, Error)]
#[allow(missing_docs)] // the fields are what the messages say
pub enum BootError {
    /// A file without content.
    #[error("{file} is empty: give {what}")]
    Empty { file: String, what: &'static str },
    /// A file that ends too early.
    #[error("{file} is truncated: its {what} ends at byte {need}, the file at {have}: fetch it again")]
    Truncated { file: String, what: &'static str, need: u64, have: u64 },
    /// A file whose fields contradict each other.
    #[error("{file} is corrupt: {fact}: fetch it again")]
    Corrupt { file: String, fact: String },
    /// No format that is known here.
    #[error("{file} is no {what} (it starts with {start}): give {remedy}")]
    Unrecognized { file: String, what: &'static str, start: String, remedy: &'static str },
    /// A kernel for another instruction set.
    #[error("{file} is a kernel for {isa}, this machine is x86-64: give a kernel built for x86-64")]
    WrongIsa { file: String, isa: String },
    /// The file is fine but does not fit the protocol.
    #[error("{file} cannot be booted by the {protocol} protocol: {fact}: {remedy}")]
    Unsupported { file: String, protocol: Protocol, fact: String, remedy: &'static str },
    /// Guest RAM is too small.
    #[error("{file} needs {} MiB of guest memory, the guest has {} MiB: give --memory {}M or more", mib(*.need), .have >> 20, mib(*.need))]
    MemoryTooSmall { file: String, need: u64, have: u64 },
    /// The kernel wants to be where no free RAM is.
    #[error(
        "{file} loads at {start:#x} to {end:#x}, which is {fact}: give a kernel linked at 1 MiB or above"
    )]
    Placement { file: String, start: u64, end: u64, fact: &'static str },
    /// The command line does not fit.
    #[error("the command line has {len} bytes, {file} takes at most {max}: shorten it")]
    CommandLine { file: String, len: usize, max: u64 },
    /// The command line holds a NUL byte.
    #[error("the command line holds a NUL byte: remove it")]
    CommandLineNul,
    /// Too many modules for the tables.
    #[error("{0} modules are more than the {max} a guest can be given: give fewer", max = crate::layout::MAX_MODULES)]
    TooManyModules(usize),
    /// Guest memory said no.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Rounded up to whole MiB.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
