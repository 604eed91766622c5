//! Between [`CpuState`] and what KVM keeps of a vCPU.

pub mod apic;
pub mod chips;
mod msrs;
mod segments;
mod xsave;

use cpu::{CpuState, PendingEvents};
use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_MOV_SS,
    KVM_X86_SHADOW_INT_STI, kvm_debugregs, kvm_regs, kvm_vcpu_events, kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;

pub use msrs::{msr, set_msr, try_msr};
pub use xsave::Image;

use crate::error::{Failure, failed};

/// Makes KVM's vCPU be in `state`. Nothing is pending afterwards.
pub fn store(fd: &VcpuFd, image: &mut Image, state: &CpuState) -> Result<(), Failure> {
    let mut sregs = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    segments::store(state, &mut sregs);
    fd.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
    fd.set_regs(&registers(state)).map_err(failed("KVM_SET_REGS"))?;
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0] = kvm_xcr { xcr: 0, reserved: 0, value: state.xcr0 };
    fd.set_xcrs(&xcrs).map_err(failed("KVM_SET_XCRS"))?;
    image.store(fd, &state.xsave)?;
    let [d0, d1, d2, d3, dr6, dr7] = state.dr;
    let debug = kvm_debugregs { db: [d0, d1, d2, d3], dr6, dr7, ..Default::default() };
    fd.set_debug_regs(&debug).map_err(failed("KVM_SET_DEBUGREGS"))?;
    msrs::store(fd, &state.msrs)?;
    fd.set_vcpu_events(&events(&state.events)).map_err(failed("KVM_SET_VCPU_EVENTS"))
}

/// Takes the state over. `state` has what KVM does not keep: registers that it refused, HLT.
pub fn load(fd: &VcpuFd, image: &mut Image, state: &mut CpuState) -> Result<(), Failure> {
    let regs = fd.get_regs().map_err(failed("KVM_GET_REGS"))?;
    state.gpr = [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9,
        regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ];
    (state.rip, state.rflags) = (regs.rip, regs.rflags);
    segments::load(&fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?, state);
    let xcrs = fd.get_xcrs().map_err(failed("KVM_GET_XCRS"))?;
    if let Some(first) = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize).find(|x| x.xcr == 0) {
        state.xcr0 = first.value;
    }
    state.xsave = image.load(fd)?;
    let debug = fd.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?;
    let [d0, d1, d2, d3] = debug.db;
    state.dr = [d0, d1, d2, d3, debug.dr6, debug.dr7];
    msrs::load(fd, &mut state.msrs)?;
    let events = fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
    let shadow = u32::from(events.interrupt.shadow);
    state.events.interrupt_shadow = shadow != 0;
    state.events.mov_ss_shadow = shadow & KVM_X86_SHADOW_INT_MOV_SS != 0;
    state.events.nmi_blocked = events.nmi.masked != 0;
    Ok(())
}

fn registers(state: &CpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    let (rip, rflags) = (state.rip, state.rflags);
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

fn events(pending: &PendingEvents) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    events.nmi.masked = u8::from(pending.nmi_blocked);
    events.interrupt.shadow = match (pending.interrupt_shadow, pending.mov_ss_shadow) {
        (false, _) => 0,
        (true, true) => KVM_X86_SHADOW_INT_MOV_SS as u8,
        (true, false) => KVM_X86_SHADOW_INT_STI as u8,
    };
    events
}
