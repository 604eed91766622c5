//! Memory that requests read and write, by pointers: a guest may change it meanwhile, so that it is never a
//! Rust slice.
// UNSAFETY: raw pointers to memory that others write; only system calls and volatile copies touch it.
#![allow(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

/// Pieces of memory in their order, and what keeps them there. Clones are the same memory.
#[derive(Clone)]
pub struct Buffers {
    pieces: Vec<libc::iovec>,
    len: u64,
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the pointers name memory that the owner keeps alive (see `new`) and that any thread may access.
unsafe impl Send for Buffers {}
// SAFETY: as above; shared access only reads the list itself.
unsafe impl Sync for Buffers {}

impl Buffers {
    /// Pieces that `owner` keeps mapped. Empty ones are left out.
    ///
    /// # Safety
    /// Every piece must be readable and writable for as long as `owner` lives, and nobody may hold a Rust
    /// reference to its bytes meanwhile.
    pub unsafe fn new(
        pieces: impl IntoIterator<Item = (NonNull<u8>, usize)>,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        let pieces: Vec<_> = pieces
            .into_iter()
            .filter(|&(_, len)| len != 0)
            .map(|(start, len)| libc::iovec { iov_base: start.as_ptr().cast(), iov_len: len })
            .collect();
        let len = pieces.iter().map(|p| p.iov_len as u64).sum();
        Self { pieces, len, _owner: owner }
    }

    /// Bytes in total.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, for system calls.
    pub fn pieces(&self) -> &[libc::iovec] {
        &self.pieces
    }

    /// Drops the first `count` bytes, which were dealt with.
    pub fn advance(&mut self, count: u64) {
        let mut left = count.min(self.len);
        self.len -= left;
        let mut done = 0;
        for piece in &mut self.pieces {
            let step = (piece.iov_len as u64).min(left);
            piece.iov_len -= step as usize;
            piece.iov_base = piece.iov_base.wrapping_byte_add(step as usize);
            left -= step;
            if piece.iov_len != 0 {
                break;
            }
            done += 1;
        }
        self.pieces.drain(..done);
    }

    /// The first `count` bytes, which are the same memory.
    pub fn first(&self, count: u64) -> Self {
        let mut first = self.clone();
        let mut left = count.min(self.len);
        first.len = left;
        for piece in &mut first.pieces {
            piece.iov_len = (piece.iov_len as u64).min(left) as usize;
            left -= piece.iov_len as u64;
        }
        first.pieces.retain(|piece| piece.iov_len != 0);
        first
    }

    /// Fills all of it with zeroes.
    pub fn clear(&self) {
        for piece in &self.pieces {
            // SAFETY: the piece is writable by the contract of `new`, and nobody has references to it.
            unsafe { piece.iov_base.cast::<u8>().write_bytes(0, piece.iov_len) };
        }
    }

    /// Copies bytes to the beginning, as many as there is room for.
    pub fn copy_from(&self, mut bytes: &[u8]) {
        for piece in &self.pieces {
            let (part, rest) = bytes.split_at(piece.iov_len.min(bytes.len()));
            // SAFETY: as in `clear`; a Rust slice is never the same memory.
            unsafe { piece.iov_base.cast::<u8>().copy_from_nonoverlapping(part.as_ptr(), part.len()) };
            bytes = rest;
        }
    }

    /// Memory of its own, for those that have none (tests, tools).
    pub fn owned(bytes: &[u8]) -> Self {
        let cells: Arc<[std::sync::atomic::AtomicU8]> = bytes.iter().map(|&b| b.into()).collect();
        let start = NonNull::from(&*cells).cast::<u8>();
        // SAFETY: the cells live as long as the owner, and atomics may be written behind shared references.
        unsafe { Self::new([(start, bytes.len())], Arc::new(cells)) }
    }

    /// A copy of the content.
    pub fn to_vec(&self) -> Vec<u8> {
        let byte = |piece: &libc::iovec, i| {
            // SAFETY: within the piece, which is readable by the contract of `new`.
            unsafe { piece.iov_base.cast::<u8>().add(i).read_volatile() }
        };
        self.pieces.iter().flat_map(|p| (0..p.iov_len).map(move |i| byte(p, i))).collect()
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in {}", self.len, self.pieces.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advancing_crosses_pieces() {
        let memory = Buffers::owned(b"abcdefgh");
        let at = |i: usize| NonNull::new(memory.pieces[0].iov_base.cast::<u8>().wrapping_add(i)).unwrap();
        let owner = memory._owner.clone();
        // SAFETY: parts of memory that the owner keeps.
        let mut parts = unsafe { Buffers::new([(at(0), 3), (at(3), 0), (at(5), 3)], owner) };
        assert_eq!((parts.len(), parts.pieces().len(), parts.to_vec()), (6, 2, b"abcfgh".to_vec()));
        assert_eq!((parts.first(4).to_vec(), parts.first(9).len()), (b"abcf".to_vec(), 6));
        parts.first(4).copy_from(b"1234xyz");
        assert_eq!(memory.to_vec(), b"123de4gh");
        parts.first(2).clear();
        parts.first(6).copy_from(b"ab");
        assert_eq!(memory.to_vec(), b"ab3de4gh");
        parts.copy_from(b"abcf");
        parts.advance(2);
        assert_eq!(parts.to_vec(), b"cfgh");
        parts.advance(2);
        assert_eq!((parts.to_vec(), parts.pieces().len()), (b"gh".to_vec(), 1));
        parts.advance(9);
        assert!(parts.is_empty() && parts.pieces().is_empty());
    }
}
