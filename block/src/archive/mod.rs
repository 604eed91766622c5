//! Tar archives (POSIX.1-2017, `pax(1)`, section 4; GNU's long names and sparse files), plain or packed, as they
//! describe whole systems: with owners, devices and extended attributes.
//!
//! NOT kept: access control lists, fractions of seconds, attributes of other name spaces than user, trusted and security.

mod packing;
mod reader;
mod sparse;
mod tree;

pub use packing::unpacked;
pub use reader::Reader;
pub use tree::{Content, Node, ROOT, Tree};

use std::io;

/// Most bytes of a path, and of a link's target.
pub const MAX_PATH: usize = 4096;
/// Bytes of a block, which everything in an archive is a multiple of.
const BLOCK: usize = 512;

/// What an archive says about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path, which may be anything.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Who may do what with it, and whose it is.
    pub meta: Meta,
}

/// What all nodes have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Permissions, 12 bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// When it was changed last, in seconds since 1970.
    pub modified: u64,
    /// Extended attributes: name and value.
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file of so many bytes, of which these pieces follow, and the others are zero.
    File(u64, Vec<Piece>),
    /// A folder.
    Folder,
    /// A symbolic link to this.
    Link(Vec<u8>),
    /// Another name of an earlier member.
    Hard(Vec<u8>),
    /// A node without content.
    Special(Special),
}

/// A node without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A character device by its numbers.
    Character(u32, u32),
    /// A block device by its numbers.
    Block(u32, u32),
    /// A FIFO.
    Fifo,
}

/// Bytes of a file that are in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where they are in the file.
    pub at: u64,
    /// How many.
    pub len: u64,
}

/// An archive that cannot be used, and why.
fn wrong(fact: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is no tar archive that is understood: {fact}"))
}

/// A path as a person may read it on a line.
fn shown(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

#[cfg(test)]
mod tests;
