//! The two CPU states that boot protocols ask for: flat 32-bit protected mode, and long mode with the first
//! 4 GiB mapped to themselves.

use cpu::x86::{cr0, cr4, efer, gpr, seg};
use cpu::{CpuState, DescriptorTable, Segment};

use crate::BootError;
use crate::layout::Space;

/// Selectors of the Linux boot protocols (`__BOOT_CS`, `__BOOT_DS`), good for the others too.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TSS: u16 = 0x20;

/// Page-table entry: present, writable.
const PRESENT: u64 = 0x3;
/// Directory entry that maps 2 MiB itself. 1 GiB pages are not used: a CPU model may lack them.
const LARGE: u64 = 0x80;

/// IA32_MTRR_DEF_TYPE as firmware leaves it: MTRRs on, all memory write-back. Devices need no range of their
/// own: nothing is cached here.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// 32-bit protected mode, paging off, flat segments, interrupts off.
pub fn protected(space: &mut Space, entry: u32) -> Result<CpuState, BootError> {
    let mut state = CpuState::reset();
    state.cr0 = cr0::PE | cr0::ET;
    state.rip = u64::from(entry);
    flat(space, &mut state, 0xc09b)?;
    Ok(state)
}

/// Long mode on identity-mapped page tables, interrupts off.
pub fn long(space: &mut Space, entry: u64) -> Result<CpuState, BootError> {
    let mut state = CpuState::reset();
    state.cr0 = cr0::PE | cr0::ET | cr0::PG;
    state.cr4 = cr4::PAE;
    state.efer = efer::LME | efer::LMA;
    state.cr3 = identity_map(space)?;
    state.rip = entry;
    flat(space, &mut state, 0xa09b)?;
    Ok(state)
}

/// Six pages: PML4, PDPT, and four directories of 2 MiB pages.
fn identity_map(space: &mut Space) -> Result<u64, BootError> {
    const ENTRIES: u64 = 512;
    let root = space.low(6 * 4096, 4096)?;
    let mut tables = vec![0; 6 * ENTRIES as usize];
    tables[0] = (root + 0x1000) | PRESENT;
    for i in 0..4 {
        tables[(ENTRIES + i) as usize] = (root + 0x2000 + i * 0x1000) | PRESENT;
    }
    for i in 0..4 * ENTRIES {
        tables[(2 * ENTRIES + i) as usize] = (i << 21) | LARGE | PRESENT;
    }
    let bytes: Vec<u8> = tables.iter().flat_map(|entry: &u64| entry.to_le_bytes()).collect();
    space.ram.write(root, &bytes)?;
    Ok(root)
}

/// Loads flat segments and writes a GDT that agrees with them.
fn flat(space: &mut Space, state: &mut CpuState, code_attr: u32) -> Result<(), BootError> {
    let code = Segment { selector: CODE, base: 0, limit: u32::MAX, attr: code_attr };
    let data = Segment { selector: DATA, base: 0, limit: u32::MAX, attr: 0xc093 };
    state.segments = [data; 6];
    state.segments[seg::CS] = code;
    state.tr = Segment { selector: TSS, base: 0, limit: 0x67, attr: 0x8b };
    state.msrs.mtrr_def_type = MTRR_WRITE_BACK;
    state.idtr = DescriptorTable { base: 0, limit: 0 };
    state.gpr = [0; 16];
    state.gpr[gpr::RSP] = 0; // no protocol promises a stack
    let gdt = [0, 0, descriptor(code), descriptor(data), descriptor(state.tr), 0];
    let bytes: Vec<u8> = gdt.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    state.gdtr = DescriptorTable { base: space.put_low(&bytes, 16)?, limit: bytes.len() as u16 - 1 };
    Ok(())
}

/// The descriptor of a segment (Intel SDM volume 3, figure 3-8).
fn descriptor(segment: Segment) -> u64 {
    let granular = segment.attr & cpu::x86::seg_attr::G != 0;
    let limit = u64::from(if granular { segment.limit >> 12 } else { segment.limit });
    let attr = u64::from(segment.attr);
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | (attr & 0xff) << 40
        | (limit >> 16 & 0xf) << 48
        | (attr >> 12 & 0xf) << 52
        | (segment.base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_the_manual() {
        let code = Segment { selector: CODE, base: 0, limit: u32::MAX, attr: 0xa09b };
        assert_eq!(descriptor(code), 0x00af_9b00_0000_ffff);
        let data = Segment { selector: DATA, base: 0, limit: u32::MAX, attr: 0xc093 };
        assert_eq!(descriptor(data), 0x00cf_9300_0000_ffff);
        let tss = Segment { selector: TSS, base: 0x1234_5678, limit: 0x67, attr: 0x8b };
        assert_eq!(descriptor(tss), 0x1200_8b34_5678_0067);
    }
}
