//! The bytes that a block was decoded from, to be compared with what is there before the block runs: no store to them has to
//! be noticed. The page carries no marks, so that its stores cost nothing.
//!
//! A block runs as its bytes were when it was entered. Stores by others meanwhile are seen at the next block, sooner than
//! hardware promises; stores by the block itself at once, since nothing follows in it what may store.
// UNSAFETY: reads guest RAM through a pointer.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use memory::PageRef;

/// Words of a copy at most.
const WORDS: usize = 8;

/// See the module.
pub(crate) struct Copy {
    /// The first word, in a page of RAM.
    at: NonNull<u64>,
    words: [u64; WORDS],
    count: u8,
    /// Bits of the first and of the last word that count.
    first: u64,
    last: u64,
}

impl Copy {
    /// Bytes from `offset` of a page that a copy has room for.
    pub fn room(offset: usize) -> usize {
        (WORDS * 8 - offset % 8).min(4096 - offset % 4096)
    }

    /// Reads as much as there is room for from `offset` of a page. Whoever keeps the copy keeps the page's RAM.
    pub fn read(page: &PageRef, offset: usize) -> Self {
        let (offset, room) = (offset % 4096, Self::room(offset));
        // SAFETY: within the page, and pages are aligned.
        let at = unsafe { page.host.byte_add(offset & !7).cast::<u64>() };
        let mut copy = Self { at, words: [0; WORDS], count: 0, first: u64::MAX << (offset % 8 * 8), last: 0 };
        copy.truncate(offset % 8 + room);
        for i in 0..usize::from(copy.count) {
            copy.words[i] = copy.now(i);
        }
        copy
    }

    /// What was read, with up to seven bytes before it.
    pub fn bytes(&self) -> ([u8; WORDS * 8], usize) {
        let mut bytes = [0; WORDS * 8];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        (bytes, self.first.trailing_zeros() as usize / 8)
    }

    /// Keeps the first `len` bytes only.
    pub fn shorten(mut self, len: usize) -> Self {
        self.truncate((self.first.trailing_zeros() as usize / 8 + len).min(usize::from(self.count) * 8));
        self
    }

    fn truncate(&mut self, end: usize) {
        self.count = end.div_ceil(8).max(1) as u8;
        self.last = u64::MAX >> (end.wrapping_neg() % 8 * 8);
    }

    fn now(&self, word: usize) -> u64 {
        // SAFETY: a word of the page, which is mapped. Other vCPUs may write to it, hence the volatile read, which is one
        // access.
        unsafe { self.at.as_ptr().add(word).read_volatile() }
    }

    /// True if the bytes are the same now.
    #[inline]
    pub fn is_current(&self) -> bool {
        let last = usize::from(self.count - 1).min(WORDS - 1);
        let differs = |i: usize| self.words[i] ^ self.now(i);
        if last == 0 {
            return differs(0) & self.first & self.last == 0;
        }
        let mut difference = differs(0) & self.first | differs(last) & self.last;
        for i in 1..last {
            difference |= differs(i);
        }
        difference == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_that_count_are_those_of_the_block() {
        let ram = memory::GuestRam::new(4096).unwrap();
        let page = ram.page(0).unwrap();
        for offset in [0usize, 3, 7, 64, 4032, 4077, 4095] {
            for len in [1usize, 4, 5, 8, 9, 30, 64] {
                let len = len.min(Copy::room(offset));
                ram.write(0, &[0x90; 4096]).unwrap();
                let copy = Copy::read(&page, offset);
                let (bytes, at) = copy.bytes();
                assert_eq!(bytes[at..at + len], vec![0x90; len], "{offset} {len}");
                let copy = copy.shorten(len);
                assert!(copy.is_current());
                for byte in offset.saturating_sub(9)..(offset + len + 9).min(4096) {
                    ram.write(byte as u64, &[0xcc]).unwrap();
                    assert_eq!(
                        copy.is_current(),
                        !(offset..offset + len).contains(&byte),
                        "{offset} {len} {byte}"
                    );
                    ram.write(byte as u64, &[0x90]).unwrap();
                }
            }
        }
    }
}
