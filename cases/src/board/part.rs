//! Ports and registers of the parts that cases use.
#![allow(missing_docs)] // the names are the manuals'

pub const LAPIC: u64 = 0xfee0_0000;
pub const IOAPIC: u64 = 0xfec0_0000;

/// Local APIC: offsets of registers (Intel SDM volume 3, table 12-1).
pub mod apic {
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TPR: u32 = 0x80;
    pub const PPR: u32 = 0xa0;
    pub const EOI: u32 = 0xb0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SVR: u32 = 0xf0;
    pub const ESR: u32 = 0x280;
    pub const ICR: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_ERROR: u32 = 0x370;
    pub const INITIAL: u32 = 0x380;
    pub const CURRENT: u32 = 0x390;
    pub const DIVIDE: u32 = 0x3e0;

    /// The register of a set of vectors in which this one is, and its bit.
    pub const fn isr(vector: u32) -> (u32, u32) {
        (0x100 + vector / 32 * 0x10, 1 << (vector % 32))
    }
    pub const fn tmr(vector: u32) -> (u32, u32) {
        (0x180 + vector / 32 * 0x10, 1 << (vector % 32))
    }
    pub const fn irr(vector: u32) -> (u32, u32) {
        (0x200 + vector / 32 * 0x10, 1 << (vector % 32))
    }

    pub const MASKED: u32 = 1 << 16;
    pub const PERIODIC: u32 = 1 << 17;
    pub const TSC_DEADLINE: u32 = 2 << 17;
    pub const EXT_INT: u32 = 0x700;
    /// The divide register's code for 1.
    pub const BY_1: u32 = 0xb;
}

/// Low half of the interrupt command register.
pub mod icr {
    pub const NMI: u32 = 0x4400;
    pub const INIT: u32 = 0x4500;
    pub const STARTUP: u32 = 0x4600;
    pub const FIXED: u32 = 0x4000;
    pub const LOWEST: u32 = 0x4100;
    pub const LOGICAL: u32 = 0x800;
    pub const SELF: u32 = 1 << 18;
    pub const ALL: u32 = 2 << 18;
    pub const OTHERS: u32 = 3 << 18;
}

pub const PIC1: u32 = 0x20;
pub const PIC2: u32 = 0xa0;
pub const ELCR1: u32 = 0x4d0;
pub const PIT: u32 = 0x40;
pub const PIT_CONTROL: u32 = 0x43;
pub const PORT_B: u32 = 0x61;
pub const RTC: u32 = 0x70;
pub const COM1: u32 = 0x3f8;
pub const I8042: u32 = 0x64;
pub const PORT_92: u32 = 0x92;
pub const RESET_CONTROL: u32 = 0xcf9;
pub const DEBUG_EXIT: u32 = 0xf4;
/// Power management block: PM1 status and enable, control, timer.
pub const PM1_STATUS: u32 = 0x600;
pub const PM1_ENABLE: u32 = 0x602;
pub const PM1_CONTROL: u32 = 0x604;
pub const PM_TIMER: u32 = 0x608;
pub const PM_TIMER_HZ: u64 = 3_579_545;
