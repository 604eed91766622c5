//! What is known about a page of guest RAM: whether it holds code that an engine has decoded, and how
//! often such code was overwritten.
//!
//! The protocol that makes self- and cross-modifying code exact, without locks:
//!
//! * An engine that decodes bytes of a page first calls [`PageInfo::mark_code`] for the 64-byte lines it
//!   reads, then [`GuestRam::publish_code`](crate::GuestRam::publish_code) if that call said the lines were
//!   new (an asymmetric barrier: every vCPU thread passes a full fence), then takes
//!   [`PageInfo::generation`], reads the bytes, and starts again unless [`PageInfo::is_marked`] still holds
//!   (else a store in between has taken the marks away).
//! * Whoever stores to RAM stores first and *then* calls [`PageInfo::note_store`]. Either the store was
//!   visible to the decoder, or the storer sees the mark and bumps the generation.
//! * Decoded code is valid as long as the generation is the one it was decoded under.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// State of one page of guest RAM.
#[derive(Debug, Default)]
pub struct PageInfo {
    /// One bit per 64-byte line from which code was decoded.
    code: AtomicU64,
    /// Counts overwrites of decoded lines.
    generation: AtomicU32,
    /// The generation, plus one, in which every store to the page is known to be looked at.
    sealed: AtomicU32,
}

impl PageInfo {
    /// Marks the lines that hold `len` bytes from `offset` as code; true if a line is newly marked.
    pub fn mark_code(&self, offset: u16, len: u16) -> bool {
        let mask = line_mask(offset, len);
        self.code.fetch_or(mask, Ordering::SeqCst) & mask != mask
    }

    /// True if all lines that hold `len` bytes from `offset` are marked.
    pub fn is_marked(&self, offset: u16, len: u16) -> bool {
        let mask = line_mask(offset, len);
        self.code.load(Ordering::SeqCst) & mask == mask
    }

    /// How often code of this page was overwritten.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// True if no engine stores to the page, as long as it is of this generation, without looking at its marks. Engines
    /// whose stores look always need not ask; those that keep pages for stores that do not look let go of this one before
    /// anybody calls [`seal`](Self::seal).
    pub fn is_sealed(&self, generation: u32) -> bool {
        self.sealed.load(Ordering::SeqCst) == generation.wrapping_add(1)
    }

    /// See [`is_sealed`](Self::is_sealed).
    pub fn seal(&self, generation: u32) {
        self.sealed.store(generation.wrapping_add(1), Ordering::SeqCst);
    }

    /// True if any line of the page is marked.
    #[inline(always)]
    pub fn has_code(&self) -> bool {
        self.code.load(Ordering::Relaxed) != 0
    }

    /// To be called after a store of `len` bytes at `offset`: true if it overwrote decoded code.
    #[inline(always)]
    pub fn note_store(&self, offset: u16, len: u16) -> bool {
        self.has_code() && self.overwrite(offset, len)
    }

    /// The marks of the whole page are dropped, since all its decoded code becomes invalid at once.
    #[cold]
    fn overwrite(&self, offset: u16, len: u16) -> bool {
        if self.code.load(Ordering::SeqCst) & line_mask(offset, len) == 0 {
            return false;
        }
        // Marks go before the generation moves: a decoder that still sees its marks afterwards has read the
        // old generation, so its code is invalid at the next check.
        self.code.store(0, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
        crate::overwrites::note(self);
        true
    }
}

/// One bit per 64-byte line touched by `len` bytes at `offset` (clipped to the page).
fn line_mask(offset: u16, len: u16) -> u64 {
    let first = u32::from(offset & 0xfff) / 64;
    let last = ((u32::from(offset & 0xfff) + u32::from(len.max(1)) - 1) / 64).min(63);
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

/// A page of guest RAM, by reference: where it is in the host and what is known about it.
#[derive(Clone, Copy)]
pub struct PageRef<'a> {
    /// First byte of the page in this process; the mapping is readable and writable and lives as long as
    /// the [`GuestRam`](crate::GuestRam).
    pub host: NonNull<u8>,
    /// The page's entry.
    pub info: &'a PageInfo,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_beside_code_is_no_overwrite() {
        let page = PageInfo::default();
        assert!(page.mark_code(128, 16));
        assert!(!page.mark_code(130, 4));
        assert!(!page.note_store(64, 64));
        assert!(!page.note_store(192, 8));
        assert_eq!(page.generation(), 0);
        assert!(page.note_store(127, 2));
        assert_eq!(page.generation(), 1);
        assert!(!page.has_code());
    }

    #[test]
    fn lines_at_the_page_end_are_clipped() {
        assert_eq!(line_mask(4095, 8), 1 << 63);
        assert_eq!(line_mask(0, 4096), u64::MAX);
        assert_eq!(line_mask(63, 2), 0b11);
    }
}
