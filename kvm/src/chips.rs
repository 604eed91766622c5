//! I/O APIC and 8259s that are KVM's.
//!
//! NOT taken: KVM's 8254 (KVM_CREATE_PIT2), which does not tell how far its channel 0 has counted. The board's own drives their
//! inputs.

use std::sync::Arc;

use cpu::{Chips, ChipsState, EngineError, I8259State};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip,
    kvm_irqchip, kvm_irqchip__bindgen_ty_1,
};
use kvm_ioctls::VmFd;

use crate::engine::Shared;
use crate::error::{Failure, failed};
use crate::raw;
use crate::state::chips::{self, MASTER, SLAVE};

/// Lines that reach the 8259s, and all.
const ISA: u32 = 16;
const LINES: u32 = 24;
/// The board's timer, where it reaches the I/O APIC, and the 8259s' cascade, which is no line.
const TIMER: u32 = 0;
const TIMER_PIN: u32 = 2;
const CASCADE: u32 = 2;

/// Has KVM make all controllers, with the board's wiring. Before there is a vCPU.
pub fn create(vm: &VmFd) -> Result<(), Failure> {
    vm.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
    let lines = (0..LINES).filter(|line| *line != CASCADE);
    let routes: Vec<_> =
        lines.flat_map(|line| [pic_input(line), Some(ioapic_input(line))]).flatten().collect();
    let call = "KVM_SET_GSI_ROUTING";
    let table = KvmIrqRouting::from_entries(&routes).map_err(|_| Failure { call, errno: libc::E2BIG })?;
    vm.set_gsi_routing(&table).map_err(failed(call))
}

fn pic_input(line: u32) -> Option<kvm_irq_routing_entry> {
    let chip = if line < ISA / 2 { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
    (line < ISA).then(|| route(line, chip, line % 8))
}

fn ioapic_input(line: u32) -> kvm_irq_routing_entry {
    route(line, KVM_IRQCHIP_IOAPIC, if line == TIMER { TIMER_PIN } else { line })
}

fn route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 { irqchip },
        ..Default::default()
    }
}

/// Those of a VM.
pub struct KernelChips(Arc<Shared>);

impl KernelChips {
    /// Those of `shared`, whose KVM has them.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    fn set(&self, chip_id: u32, chip: kvm_irqchip__bindgen_ty_1) -> Result<(), Failure> {
        let chip = kvm_irqchip { chip_id, chip, ..Default::default() };
        self.0.vm.set_irqchip(&chip).map_err(failed("KVM_SET_IRQCHIP"))
    }

    fn store(&self, state: &ChipsState) -> Result<(), Failure> {
        let pic = |chip, role| kvm_irqchip__bindgen_ty_1 { pic: chips::pic(chip, role) };
        self.set(KVM_IRQCHIP_PIC_MASTER, pic(&state.pic.master, MASTER))?;
        self.set(KVM_IRQCHIP_PIC_SLAVE, pic(&state.pic.slave, SLAVE))?;
        self.set(KVM_IRQCHIP_IOAPIC, kvm_irqchip__bindgen_ty_1 { ioapic: chips::ioapic(&state.ioapic) })
    }

    fn load(&self) -> Result<ChipsState, Failure> {
        let pic = |id, role| Ok(chips::pic_state(&raw::pic(&self.0.vm, id)?, role));
        let (ioapic, table) = raw::ioapic(&self.0.vm)?;
        Ok(ChipsState {
            ioapic: chips::ioapic_state(&ioapic, table),
            pic: I8259State {
                master: pic(KVM_IRQCHIP_PIC_MASTER, MASTER)?,
                slave: pic(KVM_IRQCHIP_PIC_SLAVE, SLAVE)?,
            },
        })
    }
}

impl Chips for KernelChips {
    fn set_line(&self, line: u32, asserted: bool) {
        if let Err(failure) = self.0.vm.set_irq_line(line, asserted).map_err(failed("KVM_IRQ_LINE")) {
            tracing::error!(line, asserted, "an interrupt is lost: {failure}");
        }
    }

    fn give(&self, state: &ChipsState) -> Result<(), EngineError> {
        self.store(state).map_err(|e| EngineError::BadState(e.to_string()))
    }

    fn take(&self) -> Result<ChipsState, EngineError> {
        self.load().map_err(|e| EngineError::BadState(e.to_string()))
    }
}
