//! Sites: what every memory access of translated code knows of the page it touched last. A site that holds a page is
//! on the list of the TLB entry it was filled from, so that the entry can take it back.

use std::mem::offset_of;

/// No site.
pub const NONE: u32 = 0;
/// What code reads at every access. The pairs of a block's sites lie side by side, apart from the rest.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Pair {
    /// Minus the linear address of the page.
    pub neg_page: u64,
    /// First byte of the page in this process.
    pub host: u64,
}

/// What is needed when a site misses.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Site {
    /// Address of the code behind the instruction.
    pub after: u64,
    /// Neighbours on the list; the entry's number with [`HEAD`] where there is none before.
    pub prev: u32,
    pub next: u32,
    /// Code page, offset and length of the instruction.
    pub code: u32,
    pub offset: u16,
    pub len: u8,
    /// Bytes of the access, negative for a store.
    pub size: i8,
}

/// Marks [`Site::len`]: flags are put aside there.
pub const PARKED: u8 = 0x80;

/// Marks [`Site::prev`] as the number of a TLB entry.
pub const HEAD: u32 = 1 << 31;

impl Pair {
    /// Offsets for emitted code.
    pub const NEG_PAGE: i32 = offset_of!(Self, neg_page) as i32;
    pub const HOST: i32 = offset_of!(Self, host) as i32;
}

const _: () = assert!(size_of::<Pair>() == 16 && size_of::<Site>() == 24);
