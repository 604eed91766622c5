//! Between the states of I/O APIC and 8259s and KVM's.
//!
//! KVM knows no single 8259, and no way from its output to the I/O APIC's pin 0. Its I/O APIC has version 0x11: no register for
//! ends of interrupt. Inputs are told it as what they wait for, since they are asserted already.

use cpu::{I8259Chip, I8259Init, IoapicState};
use kvm_bindings::{kvm_ioapic_state, kvm_ioapic_state__bindgen_ty_1, kvm_pic_state};

/// Where the I/O APIC is.
const BASE: u64 = 0xfec0_0000;
/// Bits of an entry that software has written, and the remote IRR.
const ENTRY: u64 = 0xff00_0000_0001_efff;
const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
/// The 8259's output.
const PIC_PIN: u32 = 1;

/// The slave's input of the master.
const CASCADE: u8 = 1 << 2;

/// Which 8259: inputs that can be level-triggered, and the one that the other drives.
#[derive(Clone, Copy)]
pub struct Role {
    elcr: u8,
    cascade: u8,
}

pub const MASTER: Role = Role { elcr: 0xf8, cascade: CASCADE };
pub const SLAVE: Role = Role { elcr: 0xde, cascade: 0 };

/// `state` as KVM takes it.
pub fn ioapic(state: &IoapicState) -> kvm_ioapic_state {
    // An edge has been sent. What is masked waits: its entry may become level-triggered.
    let waits = |pin: &usize| state.table.get(*pin).is_some_and(|entry| entry & (LEVEL | MASKED) != 0);
    let waiting = (0..state.table.len()).filter(waits).fold(0, |pins, pin| pins | 1 << pin);
    kvm_ioapic_state {
        base_address: BASE,
        ioregsel: state.select.into(),
        id: state.id.into(),
        irr: state.inputs & waiting & !PIC_PIN,
        redirtbl: state.table.map(|bits| kvm_ioapic_state__bindgen_ty_1 { bits }),
        ..Default::default()
    }
}

/// KVM's state, with the entries of its table; without inputs.
pub fn ioapic_state(given: &kvm_ioapic_state, table: [u64; 24]) -> IoapicState {
    IoapicState {
        id: given.id as u8 & 0xf,
        select: given.ioregsel as u8,
        table: table.map(|entry| entry & ENTRY),
        inputs: 0,
    }
}

/// `state` as KVM takes it.
pub fn pic(state: &I8259Chip, role: Role) -> kvm_pic_state {
    kvm_pic_state {
        // KVM's slave drives the master by pulses, the first of them when it gets its state.
        last_irr: state.inputs & !role.cascade,
        irr: state.irr & !role.cascade,
        imr: state.imr,
        isr: state.isr,
        priority_add: state.lowest.wrapping_add(1) & 7,
        irq_base: state.base,
        read_reg_select: state.read_isr.into(),
        poll: state.poll.into(),
        special_mask: state.special_mask.into(),
        init_state: match state.init {
            I8259Init::Done => 0,
            I8259Init::Icw2 => 1,
            I8259Init::Icw3 => 2,
            I8259Init::Icw4 => 3,
        },
        auto_eoi: state.auto_eoi.into(),
        rotate_on_auto_eoi: state.rotate_on_auto_eoi.into(),
        special_fully_nested_mode: state.special_nested.into(),
        init4: state.wants_icw4.into(),
        elcr: state.elcr,
        elcr_mask: role.elcr,
    }
}

/// KVM's state; of inputs, which edges it has seen.
pub fn pic_state(given: &kvm_pic_state, role: Role) -> I8259Chip {
    I8259Chip {
        irr: given.irr & !role.cascade,
        imr: given.imr,
        isr: given.isr,
        inputs: given.last_irr & !role.cascade,
        elcr: given.elcr & role.elcr,
        base: given.irq_base & 0xf8,
        lowest: given.priority_add.wrapping_sub(1) & 7,
        init: match given.init_state {
            1 => I8259Init::Icw2,
            2 => I8259Init::Icw3,
            3 => I8259Init::Icw4,
            _ => I8259Init::Done,
        },
        wants_icw4: given.init4 != 0,
        single: false,
        auto_eoi: given.auto_eoi != 0,
        rotate_on_auto_eoi: given.rotate_on_auto_eoi != 0,
        special_mask: given.special_mask != 0,
        special_nested: given.special_fully_nested_mode != 0,
        poll: given.poll != 0,
        read_isr: given.read_reg_select != 0,
    }
}
