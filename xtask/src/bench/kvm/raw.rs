//! The least that runs a guest on KVM: what an engine is measured against.
// UNSAFETY: KVM is told where the guest's RAM is.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MAX_CPUID_ENTRIES, KVMIO, KvmIrqRouting, kvm_enable_cap,
    kvm_interrupt, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use memory::GuestRam;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::{MESSAGE, RAM, STACK, START, VECTOR, place, used};

ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

/// A guest; its parts go in this order.
pub struct Guest {
    vcpu: VcpuFd,
    _vm: VmFd,
    _ram: Arc<GuestRam>,
}

impl Guest {
    pub fn new(code: &[u8]) -> Result<Self> {
        let ram = Arc::new(GuestRam::new(RAM)?);
        place(&ram, code)?;
        let kvm = Kvm::new()?;
        let vm = kvm.create_vm()?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: RAM,
            userspace_addr: ram.host_range(0, RAM)?.as_ptr() as u64,
        };
        // SAFETY: guest RAM, of which there are no references, and which lives longer than the VM.
        unsafe { vm.set_user_memory_region(region) }?;
        let vcpu = vm.create_vcpu(0)?;
        vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
        let mut sregs = vcpu.get_sregs()?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.set_sregs(&sregs)?;
        let mut regs = vcpu.get_regs()?;
        (regs.rip, regs.rsp, regs.rflags) = (START, STACK, 2);
        vcpu.set_regs(&regs)?;
        Ok(Self { vcpu, _vm: vm, _ram: ram })
    }

    /// How long so many exits take.
    pub fn exits(mut self, count: u32) -> Result<Duration> {
        let start = used();
        let mut left = count;
        while left > 0 {
            match self.vcpu.run()? {
                VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) => left -= 1,
                VcpuExit::Hlt => {
                    left -= 1;
                    let request = kvm_interrupt { irq: VECTOR.into() };
                    // SAFETY: a vCPU's descriptor and the argument that the request takes.
                    if unsafe { ioctl_with_ref(&self.vcpu, KVM_INTERRUPT(), &request) } != 0 {
                        bail!("kvm takes no interrupt: {}", std::io::Error::last_os_error());
                    }
                }
                other => bail!("the guest of the benchmark ended: {other:?}"),
            }
        }
        Ok(used() - start)
    }
}

/// A CPU whose local APIC is KVM's, and a descriptor that interrupts it when it is written to. It does not run.
pub struct Irqfd {
    event: EventFd,
    _vcpu: VcpuFd,
    _vm: VmFd,
}

impl Irqfd {
    pub fn new() -> Result<Self> {
        const SVR: usize = 0xf0;
        const GSI: u32 = 24;
        let vm = Kvm::new()?.create_vm()?;
        let split =
            kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [GSI.into(), 0, 0, 0], ..Default::default() };
        vm.enable_cap(&split)?;
        let vcpu = vm.create_vcpu(0)?;
        let mut apic = vcpu.get_lapic()?;
        (apic.regs[SVR], apic.regs[SVR + 1]) = (-1, 1);
        vcpu.set_lapic(&apic)?;
        let (address, data) = MESSAGE;
        let msi = kvm_irq_routing_msi { address_lo: address as u32, data, ..Default::default() };
        let u = kvm_irq_routing_entry__bindgen_ty_1 { msi };
        let route = kvm_irq_routing_entry { gsi: GSI, type_: KVM_IRQ_ROUTING_MSI, u, ..Default::default() };
        vm.set_gsi_routing(&KvmIrqRouting::from_entries(&[route])?)?;
        let event = EventFd::new(EFD_NONBLOCK)?;
        vm.register_irqfd(&event, GSI)?;
        Ok(Self { event, _vcpu: vcpu, _vm: vm })
    }

    /// How long so many interrupts take who causes them.
    pub fn interrupts(&self, count: u32) -> Result<Duration> {
        let start = used();
        for _ in 0..count {
            self.event.write(1)?;
        }
        Ok(used() - start)
    }
}
