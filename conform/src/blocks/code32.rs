//! 32-bit code: in compatibility mode, and in protected mode with and without PAE, with the same pages at the same
//! addresses. The first page of data is at zero, too, and the stack's below 4 GiB, so that addresses go around there.

use cpu::x86::{cr4, efer, seg};
use cpu::{CpuState, DescriptorTable, Segment};
use memory::{GuestRam, MemoryError};

use super::world::NO_RAM;
use crate::generate::{Block, Code32, Paging};
use crate::guest::phys;
use crate::layout::{ALIAS, CODE, CODE_LEN, DATA, DEVICE, PAGE, READ_ONLY, STACK, offset};

/// Linear address of the supervisor pages in protected mode.
const SYSTEM: u64 = 0xc000_0000;
const TSS: u64 = SYSTEM + 0x200;
/// Behind the stack.
const IDT: u64 = SYSTEM + 4 * PAGE;
/// One HLT per vector.
pub(super) const HANDLERS: u64 = SYSTEM + 2 * PAGE;
const STACK_TOP: u64 = SYSTEM + 4 * PAGE;
/// The last page below 4 GiB.
const LAST: u64 = 0xffff_f000;

const KERNEL_CODE: u16 = 0x50;
const KERNEL_DATA: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x58;

/// Pages beside those of all blocks.
mod page {
    pub const IDT: u64 = 0xd000;
    pub const PDPT: u64 = 0xe000;
    pub const DIRECTORY: u64 = 0xf000;
    /// Tables of the first and of the last two MiB below 4 GiB, in one.
    pub const EDGES: u64 = 0x1_6000;
    /// Tables of two levels, for four MiB each.
    pub const LOW: u64 = 0x1_7000;
    pub const CODE: u64 = 0x1_8000;
    pub const DATA: u64 = 0x1_9000;
    pub const SYSTEM: u64 = 0x1_a000;
    pub const HIGH: u64 = 0x1_b000;
}

const USER: u64 = 0x67; // present, writable, user, accessed, dirty
const SUPERVISOR: u64 = 0x163; // present, writable, accessed, dirty, global
const PRESENT: u64 = 1;
const NX: u64 = 1 << 63;

/// Everything that is different there.
pub(super) fn tables(ram: &GuestRam) -> Result<(), MemoryError> {
    three_levels(ram)?;
    two_levels(ram)?;
    let word = |at: u64, value: u64| ram.write(at, &value.to_le_bytes());
    let tss = TSS & 0xff_ffff;
    word(phys::SYSTEM + u64::from(KERNEL_CODE), 0x00cf_9b00_0000_ffff)?;
    word(phys::SYSTEM + u64::from(TSS_SELECTOR), 0x0000_8900_0000_0067 | tss << 16 | (TSS >> 24) << 56)?;
    // ESP0 and SS0, and an I/O bitmap beyond the limit.
    let stack = u64::from(KERNEL_DATA) << 32 | STACK_TOP;
    word(phys::SYSTEM + (TSS - SYSTEM) + 4, stack)?;
    ram.write(phys::SYSTEM + (TSS - SYSTEM) + 0x66, &0x68u16.to_le_bytes())?;
    for vector in 0..256 {
        let handler = HANDLERS + vector;
        let dpl = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let gate =
            handler & 0xffff | u64::from(KERNEL_CODE) << 16 | (0x8e | dpl << 5) << 40 | (handler >> 16) << 48;
        word(page::IDT + vector * 8, gate)?;
    }
    Ok(())
}

/// What compatibility mode and PAE have beside the tables of 64-bit code.
fn three_levels(ram: &GuestRam) -> Result<(), MemoryError> {
    let entry = |table: u64, index: u64, value: u64| ram.write(table + index * 8, &value.to_le_bytes());
    entry(phys::PDPT_LOW, 3, phys::PD_HIGH | USER)?;
    entry(page::PDPT, 0, phys::PD_LOW | PRESENT)?;
    entry(page::PDPT, 3, phys::PD_HIGH | PRESENT)?;
    entry(phys::PT_HIGH, 4, page::IDT | SUPERVISOR)?;
    entry(phys::PD_LOW, 0, page::EDGES | USER)?;
    entry(phys::PD_HIGH, 511, page::EDGES | USER)?;
    entry(page::EDGES, 0, phys::DATA | USER | NX)?;
    entry(page::EDGES, 511, (phys::DATA + 3 * PAGE) | USER | NX)
}

/// The same pages for protected mode without PAE.
fn two_levels(ram: &GuestRam) -> Result<(), MemoryError> {
    let map = |table: u64, lin: u64, value: u64| {
        let entry = |at: u64, value: u64| ram.write(at, &(value as u32).to_le_bytes());
        entry(page::DIRECTORY + (lin >> 22) * 4, table | USER)?;
        entry(table + (lin >> 12 & 0x3ff) * 4, value)
    };
    for at in (0..CODE_LEN).step_by(PAGE as usize) {
        map(page::CODE, CODE + at, (phys::CODE + at) | USER)?;
        map(page::CODE, ALIAS + at, (phys::CODE + at) | USER)?;
    }
    let pages = [(DATA, USER), (DATA + PAGE, USER), (READ_ONLY, USER & !2), (STACK, USER)];
    for (number, (lin, flags)) in (0..).zip(pages) {
        map(page::DATA, lin, (phys::DATA + number * PAGE) | flags)?;
    }
    map(page::DATA, DEVICE, NO_RAM | USER)?;
    for number in 0..4 {
        map(page::SYSTEM, SYSTEM + number * PAGE, (phys::SYSTEM + number * PAGE) | SUPERVISOR)?;
    }
    map(page::SYSTEM, IDT, page::IDT | SUPERVISOR)?;
    map(page::LOW, 0, phys::DATA | USER)?;
    map(page::HIGH, LAST, (phys::DATA + 3 * PAGE) | USER)
}

/// True if data is executed at `rip`: nobody knows what is undefined there.
pub(super) fn is_data(block: &Block, rip: u64) -> bool {
    let executable = block.code32.as_ref().is_some_and(|c| c.paging == Paging::TwoLevels);
    executable && (offset(rip).is_some() || !(PAGE..LAST).contains(&rip))
}

/// From the state of 64-bit code to that of 32-bit code.
pub(super) fn enter(state: &mut CpuState, code32: &Code32, kernel: bool) {
    if kernel {
        state.segments[seg::CS] = Segment { selector: KERNEL_CODE, base: 0, limit: u32::MAX, attr: 0xc09b };
    }
    for (index, limit) in [seg::FS, seg::GS].into_iter().zip(code32.limits) {
        state.segments[index].limit = limit;
    }
    if code32.paging == Paging::Long {
        return;
    }
    state.gpr[8..].fill(0);
    state.efer &= efer::NXE;
    state.cr3 = page::PDPT;
    if code32.paging == Paging::TwoLevels {
        state.cr4 &= !cr4::PAE;
        state.cr3 = page::DIRECTORY;
    }
    state.gdtr = DescriptorTable { base: SYSTEM, limit: 0x7f };
    state.idtr = DescriptorTable { base: IDT, limit: 0x7ff };
    state.tr = Segment { selector: TSS_SELECTOR, base: TSS, limit: 0x67, attr: 0x8b };
}
