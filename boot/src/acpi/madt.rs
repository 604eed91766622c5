//! MADT: the interrupt controllers (ACPI 6.5, 5.2.12).

use acpi_tables::sdt::Sdt;

use super::{Board, OEM, OEM_TABLE, REVISION};

/// A dual 8259 is there as well.
const PCAT_COMPAT: u32 = 1;
const ENABLED: u32 = 1;
/// Interrupt source override: active high, level-triggered.
const HIGH_LEVEL: u16 = 0b1101;
/// As the bus has it (ISA: high, edge).
const BUS: u16 = 0;
/// APIC ids from here on do not fit the 8-bit structures.
const FIRST_X2APIC: u32 = 255;

pub fn build(board: &Board) -> Vec<u8> {
    let mut body = Vec::new();
    let mut add = |data: &[u8]| body.extend_from_slice(data);
    add(&board.lapic.to_le_bytes());
    add(&if board.legacy { PCAT_COMPAT } else { 0 }.to_le_bytes());
    for id in 0..board.cpus {
        if id < FIRST_X2APIC {
            add(&[0, 8, id as u8, id as u8]);
            add(&ENABLED.to_le_bytes());
        } else {
            add(&[9, 16, 0, 0]);
            add(&id.to_le_bytes());
            add(&ENABLED.to_le_bytes());
            add(&id.to_le_bytes()); // processor UID
        }
    }
    add(&[1, 12, 0, 0]); // IOAPIC 0
    add(&board.ioapic.to_le_bytes());
    add(&0u32.to_le_bytes());
    // The timer's IRQ 0 is wired to input 2, as on every PC; the SCI is level-triggered.
    if board.legacy {
        source_override(&mut add, 0, 2, BUS);
    }
    source_override(&mut add, board.sci, u32::from(board.sci), HIGH_LEVEL);
    // LINT1 is NMI on all CPUs.
    add(&[4, 6, 0xff]);
    add(&BUS.to_le_bytes());
    add(&[1]);
    if board.cpus > FIRST_X2APIC {
        add(&[10, 12]);
        add(&BUS.to_le_bytes());
        add(&u32::MAX.to_le_bytes());
        add(&[1, 0, 0, 0]);
    }
    let mut table = Sdt::new(*b"APIC", 36, 5, OEM, OEM_TABLE, REVISION);
    table.append_slice(&body); // at once: each time it sums up all that is there
    table.as_slice().to_vec()
}

/// Bytes that the entries of so many CPUs take at least.
pub fn least_len(cpus: u32) -> u64 {
    u64::from(cpus.min(FIRST_X2APIC)) * 8 + u64::from(cpus.saturating_sub(FIRST_X2APIC)) * 16
}

fn source_override(add: &mut impl FnMut(&[u8]), irq: u8, gsi: u32, flags: u16) {
    add(&[2, 10, 0, irq]);
    add(&gsi.to_le_bytes());
    add(&flags.to_le_bytes());
}
