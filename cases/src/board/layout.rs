//! Where things are in the memory of a board case.
#![allow(missing_docs)] // the names say it

/// RAM that the machine needs, bytes.
pub const RAM: u64 = 8 << 20;

/// Start-up code of application processors, and a page of 16-bit code that belongs to the case. Both are copied
/// here from the image.
pub const TRAMPOLINE: u64 = 0x8000;
pub const LOW_CODE: u64 = 0x9000;

/// The image: loaded where it says, anew at every reset.
pub(super) const LOAD: u64 = 0x10_0000;
pub(super) const ENTRY: u64 = LOAD + 0x20;
pub(super) const LONG: u64 = LOAD + 0x200;
pub(super) const LONG64: u64 = LOAD + 0x400;
pub(super) const IDTR: u64 = LOAD + 0x800;
pub const GDT: u64 = LOAD + 0x1000;
pub const IDT: u64 = LOAD + 0x2000;
pub(super) const STUBS: u64 = LOAD + 0x3000;
pub(super) const COMMON: u64 = LOAD + 0x4000;
/// Source of the two pages below 64 KiB.
pub(super) const LOW: u64 = LOAD + 0x5000;
pub const PML4: u64 = LOAD + 0x7000;
pub(super) const PDPT: u64 = LOAD + 0x8000;
/// Four of them.
pub(super) const PD: u64 = LOAD + 0x9000;
/// Maps [`DATA`] and the 2 MiB behind it by small pages.
pub const PT: u64 = LOAD + 0xd000;
/// Code of CPU `n` is `n` pages behind.
pub(super) const CODE: u64 = LOAD + 0x1_0000;
pub(super) const CPUS: u64 = 16;
/// Interrupt handlers and other pieces.
pub(super) const PIECES: u64 = CODE + CPUS * 0x1000;
pub(super) const END: u64 = PIECES + 0x8000;

/// Free for the case; zero at power-on, and a reset leaves it alone.
pub const DATA: u64 = 0x20_0000;
/// Bytes that [`Asm::log`](super::Asm::log) wrote.
pub const LOG: u64 = DATA + 0x800;
pub const LOG_LEN: u64 = DATA + 0x840;
/// The power button is pressed when this is not zero.
pub const READY: u64 = DATA + 0x880;
/// Application processors that came up, ever.
pub const STARTED: u64 = DATA + 0x8c0;
/// What a failed check saw.
pub(super) const SEEN: u64 = DATA + 0x900;
/// An unexpected exception: vector, error code, RIP, CR2, APIC base of GS.
pub(super) const FAULT: u64 = DATA + 0x940;
/// The page of a CPU: [`cpu_word`].
pub(super) const CPU: u64 = DATA + 0x1_0000;
pub(super) const STACKS: u64 = DATA + 0x4_0000;
/// Pages whose mapping the case changes.
pub const PAGE: u64 = DATA + 0x10_0000;

/// Word `n` of a CPU's own page, where its GS points.
pub const fn cpu_word(cpu: u64, n: u64) -> u64 {
    CPU + cpu * 0x1000 + n * 8
}
/// Word of a CPU's page: how often it came through the start-up code.
pub const STARTS: u64 = 0x1f0;
/// Word of a CPU's page: spurious vector register as the start-up code found it.
pub const FIRST_SVR: u64 = 0x1f1;

/// Page-table entry of a page in the 2 MiB from [`DATA`].
pub const fn pte(page: u64) -> u64 {
    PT + ((page - DATA) >> 12) * 8
}

pub mod sel {
    pub const CODE32: u16 = 0x08;
    pub const CODE64: u16 = 0x10;
    pub const DATA: u16 = 0x18;
    /// Free for the case.
    pub const FREE: u16 = 0x20;
}
