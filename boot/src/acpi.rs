//! The ACPI tables of a PC (ACPI 6.5, chapter 5): RSDP, XSDT, FADT, FACS, MADT, DSDT; with PCI also MCFG (PCI
//! Firmware Specification 3.3, 4.1.2).
//!
//! The platform is not hardware-reduced: it has the fixed PM1 registers, the PM timer and an SCI. There is
//! no SMI command port, so ACPI mode is on from the start.

mod dsdt;
mod generation;
mod madt;
mod pci;
mod virtio;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use memory::{GuestRam, MemoryError};

pub use crate::layout::GENERATION;
use crate::layout::{ACPI_LEN, ACPI_START};
pub use generation::Generation;
pub use pci::PciRoot;
pub use virtio::VirtioMmio;

const OEM: [u8; 6] = *b"GUESTH";
const OEM_TABLE: [u8; 8] = *b"GUESTHSE";
const REVISION: u32 = 1;

/// The board as the tables describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Board {
    /// Number of CPUs; the APIC ids are 0 to `cpus - 1`. At most 4096 fit into the table area.
    pub cpus: u32,
    /// Local APICs, physical.
    pub lapic: u32,
    /// The IOAPIC, physical; its id is 0 and its first interrupt is GSI 0.
    pub ioapic: u32,
    /// First port of the PM block: PM1 event (4 bytes), PM1 control (2), and the timer at offset 8.
    pub pm_base: u16,
    /// The PM timer counts 32 bits, else 24.
    pub pm_timer_32bit: bool,
    /// The PM block has a power button.
    pub power_button: bool,
    /// Interrupt of the power-management block.
    pub sci: u8,
    /// SLP_TYP value that means power-off (\_S5).
    pub s5_type: u8,
    /// Reset port and the value that resets.
    pub reset: (u16, u8),
    /// First port and IRQ of each serial port.
    pub serial: &'static [(u16, u8)],
    /// Keyboard controller with keyboard (IRQ 1) at 0x60 and 0x64.
    pub i8042: bool,
    /// The PCI bus, if there is one.
    pub pci: Option<PciRoot>,
    /// Virtio devices that are not on it.
    pub virtio: Option<VirtioMmio>,
    /// VM Generation ID.
    pub generation: Option<Generation>,
    /// Timer and interrupt controllers of an AT.
    pub legacy: bool,
}

/// Writes the tables to [`ACPI_START`] and returns the address of the RSDP.
///
/// # Errors
/// Guest RAM that ends before the table area does, or more CPUs than fit into it.
pub fn install(ram: &GuestRam, board: &Board) -> Result<u64, MemoryError> {
    let too_long = |len| Err(MemoryError::OutOfRange { addr: ACPI_START, len });
    let least = madt::least_len(board.cpus);
    if least > ACPI_LEN {
        return too_long(least);
    }
    let tables = build(board);
    if tables.len() as u64 > ACPI_LEN {
        return too_long(tables.len() as u64);
    }
    ram.write(ACPI_START, &tables)?;
    Ok(ACPI_START)
}

/// All tables as they stand from [`ACPI_START`], the RSDP first.
fn build(board: &Board) -> Vec<u8> {
    let mut area = Area(vec![0; 64]); // room for the RSDP
    let facs = area.add(&FACS::new());
    let dsdt = area.add_bytes(&dsdt::build(board));
    let fadt = area.add(&fadt(board, facs, dsdt));
    let madt = area.add_bytes(&madt::build(board));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    if let Some(root) = &board.pci {
        xsdt.add_entry(area.add(&pci::mcfg(root)));
    }
    let xsdt = area.add(&xsdt);
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    area.0[..rsdp.len()].copy_from_slice(&rsdp);
    area.0
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut data = Vec::new();
    table.to_aml_bytes(&mut data);
    data
}

/// Tables one after the other, each on 64 bytes (the FACS asks for that).
struct Area(Vec<u8>);

impl Area {
    fn add(&mut self, table: &dyn Aml) -> u64 {
        self.add_bytes(&bytes(table))
    }

    fn add_bytes(&mut self, table: &[u8]) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(64), 0);
        let at = ACPI_START + self.0.len() as u64;
        self.0.extend(table);
        at
    }
}

fn fadt(board: &Board, facs: u64, dsdt: u64) -> impl Aml {
    /// IA-PC boot architecture: legacy devices, an 8042, no VGA.
    const LEGACY: u16 = 1 << 0;
    const I8042: u16 = 1 << 1;
    const NO_VGA: u16 = 1 << 2;

    let (event, control, timer) =
        (board.pm_base, board.pm_base.wrapping_add(4), board.pm_base.wrapping_add(8));
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, REVISION)
        .dsdt_32(dsdt as u32)
        .firmware_ctrl_32(facs as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton) // none
        .flag(Flags::FixRtc) // the RTC cannot wake
        .flag(Flags::ResetRegSup);
    if !board.power_button {
        fadt = fadt.flag(Flags::PwrButton);
    }
    if board.pm_timer_32bit {
        fadt = fadt.flag(Flags::TmrValExt);
    }
    fadt.sci_int = u16::from(board.sci).into();
    fadt.pm1a_evt_blk = u32::from(event).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(event, 4, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(control).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(control, 2, AccessSize::WordAccess);
    fadt.pm_tmr_blk = u32::from(timer).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = port(timer, 4, AccessSize::DwordAccess);
    fadt.p_lvl2_lat = 0xffff.into(); // no C2
    fadt.p_lvl3_lat = 0xffff.into(); // no C3
    fadt.century = 0x32;
    let legacy = if board.legacy { LEGACY } else { 0 };
    fadt.iapc_boot_arch = (legacy | NO_VGA | if board.i8042 { I8042 } else { 0 }).into();
    fadt.reset_reg = port(board.reset.0, 1, AccessSize::ByteAccess);
    fadt.reset_value = board.reset.1;
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE).into();
    fadt.finalize()
}

fn port(port: u16, bytes: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bytes * 8, 0, access, u64::from(port))
}

#[cfg(test)]
mod tests;
