//! The tables of the guests: descriptors, gates, task states, page tables, and handlers that skip what faulted.

use std::ops::Range;

use memory::GuestRam;

/// Page tables of each kind.
const ROOT: u64 = 0x1000;
const POINTERS: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const PAGES: u64 = 0x4000;
const LEGACY_DIRECTORY: u64 = 0x5000;
const LEGACY_PAGES: u64 = 0x6000;
/// All of them.
pub const PAGE_TABLES: Range<u64> = ROOT..GDT;
/// Global descriptors.
pub const GDT: u64 = 0x8000;
/// Interrupt descriptors.
pub const IDT: u64 = 0x9000;
/// The task state: 32-bit or 64-bit, with an I/O bitmap.
pub const TSS: u64 = 0xa000;
/// Another task's.
const OTHER_TSS: u64 = 0xc800;
/// Local descriptors.
pub const LDT: u64 = 0xd000;
/// Exception handlers; at 0x40 that of SYSCALL.
pub const HANDLERS: u64 = 0xe000;
/// The code under test.
pub const CODE: u64 = 0x1_0000;
/// End of the stack.
pub const STACK: u64 = 0x3_8000;
/// Data.
pub const DATA: u64 = 0x4_0000;

/// Selectors of the GDT.
pub mod selector {
    pub const CODE64: u16 = 0x08;
    pub const CODE32: u16 = 0x10;
    pub const CODE16: u16 = 0x18;
    pub const DATA: u16 = 0x20;
    /// From a segment of ring 0 to that of ring 3.
    pub const USER: u16 = 0x20;
    pub const TSS: u16 = 0x70;
    pub const LDT: u16 = 0x80;
    pub const OTHER_TSS: u16 = 0x90;
}

/// Bytes of the GDT.
pub const GDT_LEN: u16 = 0x100;

/// How linear addresses are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paging {
    Off,
    Legacy,
    Pae,
    Long,
}

impl Paging {
    /// CR3.
    pub fn root(self) -> u64 {
        match self {
            Self::Off => 0,
            Self::Legacy => LEGACY_DIRECTORY,
            Self::Pae => POINTERS,
            Self::Long => ROOT,
        }
    }
}

/// What is in the IDT.
#[derive(Debug, Clone, Copy)]
pub enum Gates {
    Interrupts,
    Traps,
    Tasks,
    Noise(u64),
}

/// A table that may be damaged.
pub fn damageable(choice: u8) -> u64 {
    let all =
        [ROOT, POINTERS, DIRECTORY, PAGES, LEGACY_DIRECTORY, LEGACY_PAGES, GDT, IDT, TSS, OTHER_TSS, LDT];
    all[usize::from(choice) % all.len()]
}

fn put(ram: &GuestRam, at: u64, values: &[u64]) {
    for (i, &value) in values.iter().enumerate() {
        ram.store_u64(at + i as u64 * 8, value);
    }
}

/// All of RAM mapped to itself and, behind it, devices. All pages are for everyone; some are read-only, not
/// executable, not present, for the system only.
pub fn paging(ram: &GuestRam, paging: Paging) {
    let flags = |page: u64| match page {
        0x50 => 0,
        0x51 => 5,
        0x52 => 3,
        0x53 => 0x107,
        _ => 7,
    };
    if paging == Paging::Legacy {
        put(ram, LEGACY_DIRECTORY, &[LEGACY_PAGES | 7, 0x40_0087_0040_0087]);
        ram.store_u32(LEGACY_DIRECTORY, LEGACY_PAGES as u32 | 7);
        ram.store_u32(LEGACY_DIRECTORY + 4, 0x40_0087);
        ram.store_u32(LEGACY_DIRECTORY + 0xfec, 0xfec0_0087);
        for page in 0..512 {
            ram.store_u32(LEGACY_PAGES + page * 4, (page << 12 | flags(page)) as u32);
        }
        return;
    }
    put(ram, ROOT, &[POINTERS | 7]);
    put(ram, ROOT + 0xff8, &[ROOT | 7]);
    let pointer = if paging == Paging::Pae { 1 } else { 7 };
    put(ram, POINTERS, &[DIRECTORY | pointer, 0, 0, DIRECTORY | pointer]);
    put(ram, DIRECTORY, &[PAGES | 7, 0x20_0087, 0x1_0000_0087]);
    put(ram, DIRECTORY + 0xfb8, &[0xfee0_0087]);
    let no_execute = |page| if page == 0x54 && paging == Paging::Long { 1 << 63 } else { 0 };
    for page in 0..512 {
        ram.store_u64(PAGES + page * 8, page << 12 | flags(page) | no_execute(page));
    }
}

/// A segment descriptor: access byte and flags.
fn segment(base: u64, limit: u64, access: u64, flags: u64) -> u64 {
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

/// A gate: type and DPL in `access`.
fn gate(selector: u16, offset: u64, access: u64) -> u64 {
    (offset & 0xffff) | u64::from(selector) << 16 | access << 40 | (offset >> 16 & 0xffff) << 48
}

/// GDT, LDT and task states.
pub fn descriptors(ram: &GuestRam, long: bool, noise: u64) {
    let flat = 0xf_ffff;
    let kernel = if long { selector::CODE64 } else { selector::CODE32 };
    let tss_type = if long || noise & 1 == 0 { 0x89 } else { 0x81 };
    let call = if noise & 2 == 0 || long { 0xec } else { 0xe4 };
    let table = [
        0,
        segment(0, flat, 0x9b, 0xa),
        segment(0, flat, 0x9b, 0xc),
        segment(CODE, 0xffff, 0x9b, 0),
        segment(0, flat, 0x93, 0xc),
        segment(0, flat, 0xfb, 0xa),
        segment(0, flat, 0xfb, 0xc),
        segment(CODE, 0xffff, 0xfb, 0),
        segment(0, flat, 0xf3, 0xc),
        segment(0, flat, 0x9f, 0xc),     // conforming
        segment(0, 0xfff, 0x97, 0x4),    // expand-down
        segment(DATA, 0xfff, 0x10, 0x4), // not present
        gate(kernel, HANDLERS + 0x40, call),
        0,
        segment(TSS, 0x20ff, 0x8b, 0),
        0,
        segment(LDT, 0xff, 0x82, 0),
        0,
        segment(OTHER_TSS, 0x67, tss_type, 0),
        0,
        gate(selector::OTHER_TSS, 0, 0xe5),
        noise,
        noise.rotate_left(24),
        noise ^ 0x00af_9b00_0000_ffff,
        noise & 0x00ff_ffff_00ff_ffff | 0x9200_0000_0000,
    ];
    put(ram, GDT, &table);
    put(ram, LDT, &table[1..24]);
    if long {
        for stack in 0..3 {
            // RSP0-2, 4 bytes in: unaligned, so by halves.
            ram.store_u32(TSS + 4 + stack * 8, STACK as u32 + 0x800);
        }
        for stack in 0..7 {
            ram.store_u32(TSS + 36 + stack * 8, STACK as u32 + 0x1000 + stack as u32 * 0x100);
        }
    } else {
        task(ram, TSS, noise);
        task(ram, OTHER_TSS, noise.rotate_left(13));
    }
    ram.store_u16(TSS + 102, 0x68);
    for i in 0..32 {
        ram.store_u64(TSS + 0x68 + i * 8, if i & 1 == 0 { 0 } else { noise });
    }
}

/// A 32-bit task that can run.
fn task(ram: &GuestRam, at: u64, noise: u64) {
    let word = |offset: u64, value: u64| {
        ram.store_u32(at + offset, value as u32);
    };
    word(0, u64::from(selector::OTHER_TSS));
    for ring in 0..3 {
        word(4 + ring * 8, STACK + 0x800);
        word(8 + ring * 8, (selector::DATA).into());
    }
    word(0x1c, if noise & 4 == 0 { Paging::Legacy.root() } else { Paging::Pae.root() });
    word(0x20, CODE + (noise & 0x1f));
    word(0x24, 2 | noise & 0x3200);
    word(0x38, STACK);
    for (i, number) in [selector::DATA, selector::CODE32, selector::DATA].into_iter().enumerate() {
        word(0x48 + i as u64 * 4, number.into());
    }
    for i in 3..6 {
        word(0x48 + i * 4, noise >> (i * 8) & 0xfb);
    }
    word(0x60, if noise & 8 == 0 { 0 } else { selector::LDT.into() });
    word(0x64, (noise & 0x10) >> 4);
}

/// Handlers that step over one byte of what faulted, and gates to them.
pub fn interrupts(ram: &GuestRam, long: bool, gates: Gates) {
    let (plain, code): (&[u8], &[u8]) = if long {
        (b"\x48\xff\x04\x24\x48\xcf", b"\x48\x83\xc4\x08\x48\xff\x04\x24\x48\xcf")
    } else {
        (b"\xff\x04\x24\xcf", b"\x83\xc4\x04\xff\x04\x24\xcf")
    };
    let _ = ram.write(HANDLERS, plain);
    let _ = ram.write(HANDLERS + 0x20, code);
    // Of system calls and call gates: back.
    let _ = ram.write(HANDLERS + 0x40, if long { b"\x48\x0f\x07\xcb" } else { b"\xcb\x90\x90\x90" });
    let kernel = if long { selector::CODE64 } else { selector::CODE32 };
    let size = if long { 16 } else { 8 };
    for vector in 0..256u64 {
        let has_code = matches!(vector, 8 | 10..=14 | 17);
        let handler = HANDLERS + if has_code { 0x20 } else { 0 };
        // Software may use some of them.
        let dpl = if vector & 1 == 0 { 0x60 } else { 0 };
        let value = match gates {
            Gates::Interrupts => gate(kernel, handler, 0x8e | dpl),
            Gates::Traps => gate(kernel, handler, 0x8f | dpl),
            Gates::Tasks if vector & 3 == 1 && !long => gate(selector::OTHER_TSS, 0, 0x85 | dpl),
            Gates::Tasks if long => gate(kernel, handler, 0x8e | dpl) | (vector & 7) << 32,
            Gates::Tasks => gate(kernel, handler, 0x8e | dpl),
            Gates::Noise(noise) => {
                gate(kernel, handler, 0x8e) ^ noise.rotate_left(vector as u32) & 0xff << (vector & 0x38)
            }
        };
        if u64::from(u16::MAX) < vector * size {
            break;
        }
        if vector * size < 0x1000 {
            ram.store_u64(IDT + vector * size, value);
        }
    }
}

/// Interrupt vectors of real mode, all to a handler that steps over one byte.
pub fn vectors(ram: &GuestRam) {
    let _ = ram.write(HANDLERS, b"\x55\x89\xe5\xff\x46\x02\x5d\xcf");
    for vector in 0..256 {
        ram.store_u32(vector * 4, (HANDLERS >> 4 << 16) as u32);
    }
}
