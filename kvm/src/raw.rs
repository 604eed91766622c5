//! Requests that kvm-ioctls does not have, and slots of memory.
// UNSAFETY: system calls with pointers.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;

use cpu::Doorbell;
use kvm_bindings::{
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_IRQCHIP_IOAPIC, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO,
    kvm_device_attr, kvm_interrupt, kvm_ioapic_state, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch,
    kvm_ioeventfd_flag_nr_deassign, kvm_irqchip, kvm_pic_state,
    kvm_run__bindgen_ty_1__bindgen_ty_23 as MsrAccess, kvm_userspace_memory_region,
};
use kvm_ioctls::{VcpuFd, VmFd};
use memory::GuestRam;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::error::{Failure, failed};

ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);
ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);

/// Queues an external interrupt; the vCPU has to be ready for it.
pub fn interrupt(fd: &VcpuFd, vector: u8) -> Result<(), Failure> {
    let request = kvm_interrupt { irq: vector.into() };
    // SAFETY: a vCPU's descriptor and the argument that the request takes.
    let done = unsafe { ioctl_with_ref(fd, KVM_INTERRUPT(), &request) };
    if done == 0 { Ok(()) } else { Err(last("KVM_INTERRUPT")) }
}

/// Has writes to an address make an eventfd readable, or no longer.
pub fn doorbell(vm: &VmFd, bell: &Doorbell<'_>, on: bool) -> Result<(), Failure> {
    let matched = if bell.data.is_some() { 1 << kvm_ioeventfd_flag_nr_datamatch } else { 0 };
    let request = kvm_ioeventfd {
        datamatch: bell.data.unwrap_or(0).into(),
        addr: bell.addr,
        // Without a value, of any length.
        len: if bell.data.is_some() { 4 } else { 0 },
        fd: bell.event.as_raw_fd(),
        flags: matched | if on { 0 } else { 1 << kvm_ioeventfd_flag_nr_deassign },
        ..Default::default()
    };
    // SAFETY: a VM's descriptor and the argument that the request takes.
    let done = unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), &request) };
    if done == 0 { Ok(()) } else { Err(last("KVM_IOEVENTFD")) }
}

/// The state of one of KVM's 8259s.
pub fn pic(vm: &VmFd, id: u32) -> Result<kvm_pic_state, Failure> {
    let chip = irqchip(vm, id)?;
    // SAFETY: the part of the union that goes with this number; plain numbers, whatever it is.
    Ok(unsafe { chip.chip.pic })
}

/// The state of KVM's I/O APIC, and the entries of its table.
pub fn ioapic(vm: &VmFd) -> Result<(kvm_ioapic_state, [u64; 24]), Failure> {
    let chip = irqchip(vm, KVM_IRQCHIP_IOAPIC)?;
    // SAFETY: the part of the union that goes with this number; plain numbers, whatever it is.
    let state = unsafe { chip.chip.ioapic };
    // SAFETY: both parts of the union are plain numbers of 64 bits together.
    Ok((state, state.redirtbl.map(|entry| unsafe { entry.bits })))
}

fn irqchip(vm: &VmFd, chip_id: u32) -> Result<kvm_irqchip, Failure> {
    let mut chip = kvm_irqchip { chip_id, ..Default::default() };
    vm.get_irqchip(&mut chip).map_err(failed("KVM_GET_IRQCHIP"))?;
    Ok(chip)
}

/// The guest's TSC is the host's plus `offset`.
pub fn set_tsc_offset(fd: &VcpuFd, offset: u64) -> Result<(), Failure> {
    let attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: &raw const offset as u64,
    };
    // SAFETY: a vCPU's descriptor and the argument that the request takes, which names eight bytes of ours.
    let done = unsafe { ioctl_with_ref(fd, KVM_SET_DEVICE_ATTR(), &attribute) };
    if done == 0 { Ok(()) } else { Err(last("KVM_VCPU_TSC_OFFSET")) }
}

/// Makes RAM a guest's: a slot for each run of it. Should the mapping go before the VM does, the guest's accesses fail.
pub fn map(vm: &VmFd, ram: &GuestRam) -> Result<(), Failure> {
    for (slot, range) in (0..).zip(ram.ranges()) {
        let host = ram
            .host_range(range.start, range.len)
            .map_err(|_| Failure { call: "KVM_SET_USER_MEMORY_REGION", errno: libc::EFAULT })?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: range.start,
            memory_size: range.len,
            userspace_addr: host.as_ptr() as u64,
        };
        // SAFETY: the range is guest RAM, which any thread may change at any time, and of which there are no references.
        unsafe { vm.set_user_memory_region(region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

/// Calls `access` with the port and the data of each element of the port access, or string of them, that was the last exit;
/// true if the guest writes.
#[inline]
pub fn port_elements(fd: &mut VcpuFd, mut access: impl FnMut(u16, bool, &mut [u8])) {
    let run = fd.get_kvm_run();
    if run.exit_reason != KVM_EXIT_IO {
        return;
    }
    // SAFETY: the part of the union that goes with this reason, which is plain numbers.
    let io = unsafe { run.__bindgen_anon_1.io };
    let size = usize::from(io.size).max(1);
    let bytes = size * io.count as usize;
    // SAFETY: KVM has put that many bytes there, in pages that are mapped behind this one, and looks at them no sooner than
    // at the next entry.
    let data = unsafe {
        let start = (&raw mut *run).cast::<u8>().add(io.data_offset as usize);
        std::slice::from_raw_parts_mut(start, bytes)
    };
    let write = u32::from(io.direction) == KVM_EXIT_IO_OUT;
    data.chunks_exact_mut(size).for_each(|element| access(io.port, write, element));
}

/// Address and data of the access to no RAM that was the last exit; true if the guest writes.
pub fn mmio(fd: &mut VcpuFd) -> (u64, &mut [u8], bool) {
    // SAFETY: the part of the union that goes with KVM_EXIT_MMIO; plain numbers, whatever the reason was.
    let access = unsafe { &mut fd.get_kvm_run().__bindgen_anon_1.mmio };
    let len = access.data.len().min(access.len as usize);
    (access.phys_addr, &mut access.data[..len], access.is_write != 0)
}

/// RDMSR or WRMSR, which was the last exit.
pub fn msr(fd: &mut VcpuFd) -> &mut MsrAccess {
    // SAFETY: the part of the union that goes with KVM_EXIT_X86_RDMSR and WRMSR; plain numbers, whatever the reason was.
    unsafe { &mut fd.get_kvm_run().__bindgen_anon_1.msr }
}

/// The vector whose end was the last exit.
pub fn ended_interrupt(fd: &mut VcpuFd) -> u8 {
    // SAFETY: the part of the union that goes with KVM_EXIT_IOAPIC_EOI; plain numbers, whatever the reason was.
    unsafe { fd.get_kvm_run().__bindgen_anon_1.eoi.vector }
}

/// Why KVM gave up: KVM_INTERNAL_ERROR_*.
pub fn internal_error(fd: &mut VcpuFd) -> u32 {
    // SAFETY: the part of the union that goes with KVM_EXIT_INTERNAL_ERROR; plain numbers, whatever the reason was.
    unsafe { fd.get_kvm_run().__bindgen_anon_1.internal.suberror }
}

fn last(call: &'static str) -> Failure {
    Failure { call, errno: kvm_ioctls::Error::last().errno() }
}
