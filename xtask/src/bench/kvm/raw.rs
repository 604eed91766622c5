//! The least that runs a guest on KVM: what an engine is measured against.
// UNSAFETY: KVM is told where the guest's RAM is.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVMIO, kvm_interrupt, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use memory::GuestRam;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::{RAM, STACK, START, VECTOR, place, used};

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
