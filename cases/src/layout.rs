//! Where things are in the guest's memory, and the selectors of its descriptor table.
#![allow(missing_docs)] // the names say it

/// Bytes of RAM; every page is mapped to itself, writable by anyone.
pub const RAM: u64 = 2 << 20;

pub const PML4: u64 = 0x1000;
pub const PDPT: u64 = 0x2000;
pub const PD: u64 = 0x3000;
pub const PT: u64 = 0x4000;
pub const GDT: u64 = 0x5000;
pub const IDT: u64 = 0x6000;
/// The task-state segment that TR holds.
pub const TSS: u64 = 0x7000;
/// Another one, for task switches.
pub const TSS2: u64 = 0x7400;
pub const LDT: u64 = 0x7800;
/// What the exception handlers record.
pub const RECORD: u64 = 0x8000;
pub const STUBS: u64 = 0x9000;
pub const CODE: u64 = 0x1_0000;
/// Initial stack pointer.
pub const STACK: u64 = 0x2_0000;
/// Stack for ring 0 in the TSS.
pub const STACK0: u64 = 0x2_4000;
/// IST 1.
pub const STACK_IST: u64 = 0x2_8000;
/// Stack for code in ring 3.
pub const STACK3: u64 = 0x2_c000;
/// Free for the case.
pub const DATA: u64 = 0x3_0000;
/// The page of which cases change the mapping.
pub const PAGE: u64 = 0x4_0000;

/// Real mode: code and stack in segment 0.
pub const REAL_CODE: u64 = 0xb000;
pub const REAL_STACK: u64 = 0x7000;

pub mod sel {
    pub const CODE32: u16 = 0x08;
    pub const CODE64: u16 = 0x10;
    pub const DATA: u16 = 0x18;
    pub const USER_CODE32: u16 = 0x23;
    pub const USER_DATA: u16 = 0x2b;
    pub const USER_CODE64: u16 = 0x33;
    /// 16 bytes in long mode.
    pub const TSS: u16 = 0x38;
    pub const CONFORMING: u16 = 0x48;
    pub const ABSENT: u16 = 0x50;
    pub const CODE16: u16 = 0x58;
    pub const DATA16: u16 = 0x60;
    /// 16 bytes in long mode.
    pub const LDT: u16 = 0x68;
    pub const TSS2: u16 = 0x78;
    /// Free for the case; 16-byte descriptors fit.
    pub const FREE: u16 = 0x80;
    pub const FREE_UPPER: u16 = 0x88;
    pub const FREE2: u16 = 0x90;
    /// First selector beyond the table.
    pub const BEYOND: u16 = 0xa0;
}

/// An eight-byte descriptor: `access` is its byte 5, `flags` G, D/B, L, AVL in bits 3 to 0.
pub const fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (base as u64, limit as u64);
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (access as u64) << 40
        | (limit & 0xf_0000) << 32
        | (flags as u64) << 52
        | (base & 0xff00_0000) << 32
}

/// A gate of 8 bytes, or the lower half of one of 16.
pub const fn gate(selector: u16, offset: u64, access: u8, extra: u8) -> u64 {
    offset & 0xffff
        | (selector as u64) << 16
        | (extra as u64) << 32
        | (access as u64) << 40
        | (offset & 0xffff_0000) << 32
}
