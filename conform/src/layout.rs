//! Where a case's code and data are: the same linear addresses in the child process and in the guest.
//!
//! ```text
//! 0x1000_0000  code      2 pages, executable, filled with INT3; nothing behind
//! 0x2000_1000  data      2 pages, writable; nothing in front
//! 0x2000_3000  constants 1 page, read-only; nothing behind
//! 0x2000_5000  stack     1 page, writable; nothing around
//! ```

/// Page size.
pub const PAGE: u64 = 4096;
/// First byte of the code pages.
pub const CODE: u64 = 0x1000_0000;
/// Bytes of code pages.
pub const CODE_LEN: u64 = 2 * PAGE;
/// Where blocks can write to the code pages: they are mapped a second time.
pub const ALIAS: u64 = CODE + 4 * PAGE;
/// A page that is no RAM, for blocks.
pub const DEVICE: u64 = 0x2000_8000;
/// First byte of the writable data pages; the read-only page follows.
pub const DATA: u64 = 0x2000_1000;
/// The read-only page.
pub const READ_ONLY: u64 = DATA + 2 * PAGE;
/// First byte behind data.
pub const DATA_END: u64 = READ_ONLY + PAGE;
/// The stack page.
pub const STACK: u64 = 0x2000_5000;
/// Bytes of all data: data, constants, stack.
pub const MEMORY_LEN: usize = 4 * PAGE as usize;
/// What is left of a code page without code.
pub const INT3: u8 = 0xcc;

/// User selectors of 64-bit Linux, which the guest's GDT has too.
pub mod selector {
    /// 32-bit code.
    pub const CODE32: u16 = 0x23;
    /// Flat data.
    pub const DATA: u16 = 0x2b;
    /// 64-bit code.
    pub const CODE64: u16 = 0x33;
}

/// Place of a linear address in a memory image of [`MEMORY_LEN`] bytes.
pub fn offset(addr: u64) -> Option<usize> {
    if (DATA..DATA_END).contains(&addr) {
        Some((addr - DATA) as usize)
    } else if (STACK..STACK + PAGE).contains(&addr) {
        Some((addr - STACK + DATA_END - DATA) as usize)
    } else {
        None
    }
}

/// The linear address of a place in a memory image.
pub fn address(offset: usize) -> u64 {
    let offset = offset as u64;
    if offset < DATA_END - DATA { DATA + offset } else { offset - (DATA_END - DATA) + STACK }
}

/// What memory holds before a case's own values are put in: bytes without a pattern that an instruction could
/// reproduce by chance.
pub fn fill_pattern(image: &mut [u8; MEMORY_LEN]) {
    let mut rng = crate::rng::Rng::from_parts(&[0x6d65_6d6f]);
    for byte in image.iter_mut() {
        *byte = rng.next() as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_offsets_agree() {
        for offset_in in [0, 1, 4095, 0x2fff, 0x3000, MEMORY_LEN - 1] {
            assert_eq!(offset(address(offset_in)), Some(offset_in));
        }
        assert_eq!(offset(DATA - 1), None);
        assert_eq!(offset(DATA_END), None);
        assert_eq!(offset(STACK + PAGE), None);
    }
}
