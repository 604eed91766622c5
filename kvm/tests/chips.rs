//! All interrupt controllers in the kernel: what they are given is what comes back, and lines reach what they are wired to.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use cpu::x86::CpuModel;
use cpu::{
    ApicState, ChipsState, Clock, Engine, I8259Chip, I8259Init, I8259State, IoapicState, Irqchip, Signals,
    Vcpu, Vm, VmConfig,
};
use interp::Interp;
use kvm::{Helpers, Kvm};
use memory::GuestRam;

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;

/// Of one CPU, whose local APIC takes interrupts.
fn machine() -> (Box<dyn Vm>, Box<dyn Vcpu>) {
    let interp: Arc<dyn Engine> = Arc::new(Interp::new());
    let engine = Kvm::trusted(Helpers { step: interp.clone(), stretch: interp });
    let config = VmConfig {
        ram: Arc::new(GuestRam::new(0x8000).unwrap()),
        clock: Arc::new(Clock::new()),
        model: Arc::new(CpuModel::best_for_host()),
        vcpus: 1,
        irqchip: Irqchip::Kernel,
    };
    let vm = engine.create_vm(config).unwrap();
    let mut vcpu = vm.create_vcpu(0, Arc::new(Signals::new())).unwrap();
    let apic = ApicState {
        apic_base: 0xfee0_0900,
        svr: 0x1ff,
        dfr: u32::MAX,
        lvt: [0x1_0000; 6],
        ..ApicState::default()
    };
    vcpu.set_apic(&apic).unwrap();
    (vm, vcpu)
}

/// Initialised, all inputs masked.
fn chip(base: u8) -> I8259Chip {
    I8259Chip { imr: 0xff, base, lowest: 7, wants_icw4: true, ..I8259Chip::default() }
}

fn quiet() -> ChipsState {
    ChipsState {
        ioapic: IoapicState { id: 0, select: 0, table: [MASKED; 24], inputs: 0 },
        pic: I8259State { master: chip(0x20), slave: chip(0x28) },
    }
}

#[test]
fn what_is_given_comes_back() {
    let (vm, _vcpu) = machine();
    let apics = vm.apics().unwrap();
    let chips = apics.chips().unwrap();
    let mut state = quiet();
    state.ioapic.id = 5;
    state.ioapic.select = 0x13;
    state.ioapic.table[1] = 0x0100_0000_0000_0831;
    state.ioapic.table[9] = 0xff00_0000_0000_a939 | REMOTE_IRR;
    state.ioapic.table[23] = MASKED | LEVEL | 0x2047;
    state.pic.master = I8259Chip {
        irr: 0x90,
        imr: 0x7a,
        isr: 0x04,
        inputs: 0x10,
        elcr: 0x20,
        lowest: 2,
        init: I8259Init::Icw3,
        special_nested: true,
        poll: true,
        read_isr: true,
        ..chip(0x40)
    };
    state.pic.slave = I8259Chip {
        isr: 0x08,
        elcr: 0x0e,
        lowest: 0,
        init: I8259Init::Icw4,
        wants_icw4: false,
        auto_eoi: true,
        rotate_on_auto_eoi: true,
        special_mask: true,
        ..chip(0x70)
    };
    for init in [I8259Init::Icw2, I8259Init::Done] {
        chips.give(&state).unwrap();
        assert_eq!(chips.take().unwrap(), state);
        state.pic.master.init = init;
    }
    chips.give(&quiet()).unwrap();
    assert_eq!(chips.take().unwrap(), quiet());
}

#[test]
fn lines_reach_the_8259s_and_the_ioapic() {
    let (vm, mut vcpu) = machine();
    let apics = vm.apics().unwrap();
    let chips = apics.chips().unwrap();
    for line in (0..24).filter(|line| *line != 2) {
        let pin = if line == 0 { 2 } else { line as usize };
        let vector = 0x40 + line as u8;
        let mut state = quiet();
        state.ioapic.table[pin] = u64::from(vector);
        chips.give(&state).unwrap();
        chips.set_line(line, true);
        let apic = vcpu.apic().unwrap();
        let waiting: Vec<_> =
            (0..=u8::MAX).filter(|v| apic.irr[usize::from(v / 32)] >> (v % 32) & 1 != 0).collect();
        assert_eq!(waiting, [vector], "line {line}");
        let pic = chips.take().unwrap().pic;
        let latched = u16::from(pic.slave.irr) << 8 | u16::from(pic.master.irr);
        assert_eq!(u32::from(latched), if line < 16 { 1 << line } else { 0 }, "line {line}");
        chips.set_line(line, false);
        vcpu.set_apic(&ApicState { irr: [0; 8], ..apic }).unwrap();
    }
}

#[test]
fn an_input_that_was_asserted_before_interrupts_if_it_has_not() {
    let (vm, mut vcpu) = machine();
    let apics = vm.apics().unwrap();
    let chips = apics.chips().unwrap();
    let mut state = quiet();
    state.ioapic.inputs = 0x00ff_ffff;
    // A level that has been sent, one that has not, an edge, which has, and one that is unmasked later.
    state.ioapic.table[17] = 0x51 | LEVEL | REMOTE_IRR;
    state.ioapic.table[18] = 0x52 | LEVEL;
    state.ioapic.table[19] = 0x53;
    state.ioapic.table[20] = 0x54 | LEVEL | MASKED;
    chips.give(&state).unwrap();
    let apic = vcpu.apic().unwrap();
    assert_eq!(apic.irr, [0, 0, 1 << 0x12, 0, 0, 0, 0, 0]);
    let mut expected = state.clone();
    expected.ioapic.inputs = 0;
    expected.ioapic.table[18] |= REMOTE_IRR;
    assert_eq!(chips.take().unwrap(), expected);
}
