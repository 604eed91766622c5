//! Messages to local APICs that are KVM's.

use std::sync::Arc;

use cpu::{Apics, Chips, Irqchip};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_enable_cap, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::VmFd;
use parking_lot::Mutex;

use crate::chips::KernelChips;
use crate::engine::Shared;
use crate::error::{Failure, failed};

/// Inputs of the I/O APIC, whose numbers are the first that KVM routes.
const PINS: usize = 24;

/// Has KVM make a local APIC with each vCPU, and leave all other controllers to us. Before there is a vCPU.
pub fn enable(vm: &VmFd) -> Result<(), Failure> {
    let cap =
        kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [PINS as u64, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&cap).map_err(failed("KVM_CAP_SPLIT_IRQCHIP"))
}

/// The local APICs of a VM.
pub struct KernelApics {
    shared: Arc<Shared>,
    /// What inputs of the I/O APIC send. KVM sends nothing by itself: it looks there whose end it has to tell of.
    routes: Mutex<[Option<(u64, u32)>; PINS]>,
    /// The other controllers, where KVM has all.
    chips: Option<KernelChips>,
}

impl KernelApics {
    /// Those of `shared`, whose KVM has them.
    pub fn new(shared: Arc<Shared>) -> Self {
        let chips = (shared.irqchip == Irqchip::Kernel).then(|| KernelChips::new(shared.clone()));
        Self { shared, routes: Mutex::new([None; PINS]), chips }
    }
}

impl Apics for KernelApics {
    fn send(&self, address: u64, data: u32) -> bool {
        let (address_lo, address_hi) = (address as u32, (address >> 32) as u32);
        let message = kvm_msi { address_lo, address_hi, data, ..Default::default() };
        self.shared.vm.signal_msi(message).is_ok_and(|accepted| accepted > 0)
    }

    fn route(&self, pin: u32, address: u64, data: u32) {
        let mut routes = self.routes.lock();
        let Some(route) = routes.get_mut(pin as usize) else { return };
        if *route == Some((address, data)) {
            return;
        }
        *route = Some((address, data));
        let entries: Vec<_> =
            (0..).zip(*routes).filter_map(|(pin, route)| Some(entry(pin, route?))).collect();
        let set = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| Failure { call: "KVM_SET_GSI_ROUTING", errno: libc::E2BIG })
            .and_then(|table| self.shared.vm.set_gsi_routing(&table).map_err(failed("KVM_SET_GSI_ROUTING")));
        if let Err(failure) = set {
            tracing::error!(pin, "level-triggered interrupts may come once and not again: {failure}");
        }
    }

    fn chips(&self) -> Option<&dyn Chips> {
        Some(self.chips.as_ref()?)
    }
}

fn entry(gsi: u32, (address, data): (u64, u32)) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = (address as u32, (address >> 32) as u32);
    let msi = kvm_irq_routing_msi { address_lo, address_hi, data, ..Default::default() };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}
