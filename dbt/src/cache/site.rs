//! Sites: what every memory access of translated code knows of the page it touched last. A site that holds a page is
//! on the list of the TLB entry it was filled from, so that the entry can take it back.

use std::mem::offset_of;

/// No site.
pub const NONE: u32 = 0;
/// A page that only addresses which are not canonical lie in, negated. Code checks those against it and would find a
/// match: the host page of an empty site is a page of its own, which belongs to the vCPU and to no guest.
pub const NO_PAGE: u64 = 0x6b5a_3000_0000_0000u64.wrapping_neg();
/// Most repeated misses of a site before it is filled again. The number doubles each time: a site that goes from page to
/// page is better served by the look-up.
pub const PATIENCE: u8 = 32;

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
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Site {
    /// Address of the code behind the instruction.
    pub after: u64,
    /// Neighbours on the list; the entry's number with [`HEAD`] where there is none before.
    pub prev: u32,
    pub next: u32,
    /// Low bits of the number of the page missed last.
    pub missed: u32,
    /// Code page, offset and length of the instruction.
    pub code: u32,
    pub offset: u16,
    pub len: u8,
    /// Repeated misses until it is filled.
    pub count: u8,
    /// Bytes of the access, and whether it is a store.
    pub size: u8,
    pub store: bool,
    /// What `count` begins with next time.
    pub patience: u8,
}

/// Marks [`Site::prev`] as the number of a TLB entry.
pub const HEAD: u32 = 1 << 31;

impl Pair {
    /// Offsets for emitted code.
    pub const NEG_PAGE: i32 = offset_of!(Self, neg_page) as i32;
    pub const HOST: i32 = offset_of!(Self, host) as i32;
}

impl Site {
    /// Offsets for emitted code.
    pub const MISSED: i32 = offset_of!(Self, missed) as i32;
    pub const COUNT: i32 = offset_of!(Self, count) as i32;
}

// Emitted code finds a site from its pair by doubling the distance.
const _: () = assert!(size_of::<Pair>() == 16 && size_of::<Site>() == 32);
