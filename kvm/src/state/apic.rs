//! The local APIC: KVM's register page, and what of it is elsewhere.

use cpu::x86::msr;
use cpu::{ApicState, Clock};
use kvm_bindings::kvm_lapic_state;
use kvm_ioctls::VcpuFd;

use super::{msr, set_msr};
use crate::error::{Failure, failed};

const ID: usize = 0x20;
const TPR: usize = 0x80;
const LDR: usize = 0xd0;
const DFR: usize = 0xe0;
const SVR: usize = 0xf0;
const ISR: usize = 0x100;
const TMR: usize = 0x180;
const IRR: usize = 0x200;
const ESR: usize = 0x280;
const ICR_LOW: usize = 0x300;
const ICR_HIGH: usize = 0x310;
const LVT: usize = 0x320;
const LINT0: usize = 0x350;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

/// IA32_APIC_BASE.
const ENABLE: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits that software has written there, and no status.
const SVR_WRITTEN: u32 = 0x13ff;
const LVT_WRITTEN: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
const MASKED: u32 = 1 << 16;
/// LINT0 passes the 8259's interrupts: not masked, ExtINT.
const LINT0_MODE: u32 = 0x1_0700;
const EXTINT: u32 = 0x700;

/// The register page.
struct Page(kvm_lapic_state);

impl Page {
    fn of(fd: &VcpuFd) -> Result<Self, Failure> {
        fd.get_lapic().map(Self).map_err(failed("KVM_GET_LAPIC"))
    }

    fn get(&self, offset: usize) -> u32 {
        let bytes = self.0.regs.iter().skip(offset).take(4);
        bytes.rev().fold(0, |value, &byte| value << 8 | u32::from(byte as u8))
    }

    fn set(&mut self, offset: usize, value: u32) {
        for (place, byte) in self.0.regs.iter_mut().skip(offset).zip(value.to_le_bytes()) {
            *place = byte as _;
        }
    }

    fn vectors(&self, offset: usize) -> [u32; 8] {
        std::array::from_fn(|i| self.get(offset + 16 * i))
    }

    fn set_vectors(&mut self, offset: usize, vectors: &[u32; 8]) {
        for (i, word) in vectors.iter().enumerate() {
            self.set(offset + 16 * i, *word);
        }
    }
}

#[derive(PartialEq)]
enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

fn mode(lvt: u32) -> Mode {
    match lvt >> 17 & 3 {
        1 => Mode::Periodic,
        2 => Mode::TscDeadline,
        _ => Mode::OneShot,
    }
}

/// Nanoseconds of so many counts: KVM's timer has the same frequency as ours, 1 GHz.
fn nanoseconds(count: u32, divide: u32) -> u64 {
    let code = divide & 3 | divide >> 1 & 4;
    u64::from(count) << ((code + 1) & 7)
}

/// A register of the page, as the guest reads it.
pub fn register(fd: &VcpuFd, offset: usize) -> Result<u32, Failure> {
    Ok(Page::of(fd)?.get(offset & 0xff0))
}

/// Where the register page is, with this IA32_APIC_BASE.
pub fn page(base: u64) -> Option<u64> {
    (base & (ENABLE | X2APIC) == ENABLE).then_some(base & ADDRESS)
}

/// IA32_APIC_BASE.
fn base(fd: &VcpuFd) -> Result<u64, Failure> {
    Ok(fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?.apic_base)
}

/// The 8259's interrupts reach the CPU.
pub fn passes_external(fd: &VcpuFd) -> Result<bool, Failure> {
    Ok(base(fd)? & ENABLE == 0 || Page::of(fd)?.get(LINT0) & LINT0_MODE == EXTINT)
}

/// Makes KVM's local APIC be in `state`.
pub fn store(fd: &VcpuFd, clock: &Clock, state: &ApicState) -> Result<(), Failure> {
    let mut sregs = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    (sregs.apic_base, sregs.cr8) = (state.apic_base, u64::from(state.tpr >> 4));
    fd.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
    let mut page = Page(kvm_lapic_state::default());
    page.set(ID, state.id << 24);
    page.set(TPR, state.tpr.into());
    page.set(LDR, state.ldr);
    page.set(DFR, state.dfr);
    page.set(SVR, state.svr);
    page.set(ESR, state.esr);
    page.set(ICR_LOW, state.icr as u32);
    page.set(ICR_HIGH, (state.icr >> 32) as u32);
    for (i, entry) in state.lvt.iter().enumerate() {
        page.set(LVT + 16 * i, *entry);
    }
    page.set_vectors(ISR, &state.isr);
    page.set_vectors(TMR, &state.tmr);
    page.set_vectors(IRR, &state.irr);
    page.set(DIVIDE, state.divide);
    let [timer, ..] = state.lvt;
    // A count that has run out would run out again.
    if let Some(expiry) = state.timer_expiry.filter(|_| mode(timer) != Mode::TscDeadline) {
        let left = clock.ns_until(expiry);
        let count = left / nanoseconds(1, state.divide);
        page.set(INITIAL_COUNT, state.initial_count);
        page.set(CURRENT_COUNT, count.clamp(1, state.initial_count.max(1).into()) as u32);
    }
    fd.set_lapic(&page.0).map_err(failed("KVM_SET_LAPIC"))?;
    if mode(timer) == Mode::TscDeadline {
        set_msr(fd, msr::TSC_DEADLINE, state.tsc_deadline)?;
    }
    Ok(())
}

/// A one-shot count has run out, by KVM's registers, and its interrupt is not masked.
pub fn has_run_out(state: &ApicState) -> bool {
    let [timer, ..] = state.lvt;
    let runs = state.timer_expiry.is_some() || state.timer_start == 0;
    mode(timer) == Mode::OneShot && timer & MASKED == 0 && state.initial_count != 0 && !runs
}

/// The state that it is in; `ran_out` is the initial count of a timer that had run out when the state was stored, and
/// `tsc_adjust` what the guest's TSC is ahead.
pub fn load(
    fd: &VcpuFd,
    clock: &Clock,
    id: u32,
    ran_out: u32,
    tsc_adjust: u64,
) -> Result<ApicState, Failure> {
    let sregs = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    let page = Page::of(fd)?;
    let now = clock.tsc();
    let pending = |offset| {
        let mut vectors = page.vectors(offset);
        vectors[0] &= !0xffff;
        vectors
    };
    let mut state = ApicState {
        id,
        apic_base: sregs.apic_base,
        tpr: page.get(TPR) as u8,
        // In x2APIC mode it follows from the id.
        ldr: if sregs.apic_base & X2APIC == 0 { page.get(LDR) & 0xff00_0000 } else { 0 },
        dfr: page.get(DFR) | 0x0fff_ffff,
        svr: page.get(SVR) & SVR_WRITTEN,
        esr: page.get(ESR),
        icr: u64::from(page.get(ICR_LOW) & !(1 << 12)) | u64::from(page.get(ICR_HIGH)) << 32,
        lvt: std::array::from_fn(|i| page.get(LVT + 16 * i) & LVT_WRITTEN[i]),
        irr: pending(IRR),
        isr: pending(ISR),
        tmr: page.vectors(TMR),
        initial_count: page.get(INITIAL_COUNT),
        divide: page.get(DIVIDE) & 0xb,
        tsc_adjust,
        ..ApicState::default()
    };
    let mode = mode(state.lvt[0]);
    if mode == Mode::TscDeadline {
        state.tsc_deadline = msr(fd, msr::TSC_DEADLINE)?.unwrap_or(0);
        let ahead = state.tsc_deadline.saturating_sub(now.wrapping_add(tsc_adjust));
        state.tsc_expiry = (state.tsc_deadline != 0).then(|| now.saturating_add(ahead));
    } else if state.initial_count != 0 {
        let ticks = |count| clock.ns_to_tsc(nanoseconds(count, state.divide));
        let left = page.get(CURRENT_COUNT);
        let expiry = now.saturating_add(ticks(left));
        state.timer_start = expiry.saturating_sub(ticks(state.initial_count));
        state.timer_expiry = (left != 0 || mode == Mode::Periodic).then_some(expiry);
    } else {
        state.initial_count = ran_out;
    }
    Ok(state)
}
