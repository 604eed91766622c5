//! Trees of files as tar streams (POSIX.1-2017 pax, section 4 of `pax(1)`; of GNU's format long names are understood).
//! The program in the guest packs and unpacks, and so does the host: neither believes what the other sends.
//!
//! NOT kept: owners, hard links between packed files, extended attributes. Devices and FIFOs are left out.

mod at;
mod format;
mod pack;
mod place;
mod read;
mod unpack;

pub use at::Folder;
pub use format::{Entry, Node};
pub use pack::pack;
pub use place::{Place, source_name};
pub use read::Reader;
pub use unpack::{Rights, unpack};

/// Most bytes of a path, and of a header's additions.
pub const MAX_PATH: usize = 4096;

/// What to do with what could not be packed or unpacked, while the rest goes on: a line for each.
pub type Complain<'a> = dyn FnMut(String) + 'a;

/// A path as a person may read it on a line.
fn shown(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

#[cfg(test)]
mod tests;
