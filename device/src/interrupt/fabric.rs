//! A PC's interrupt wiring (ACPI MADT as `boot` writes it): ISA interrupt `n` reaches 8259 input `n` and
//! I/O APIC pin `n`, except that the timer (0) reaches pin 2, and pin 0 is the 8259's output. Global system
//! interrupts 16-23 reach the I/O APIC alone.

use std::sync::Arc;

use cpu::{ApicState, Apics, Clock, EngineError, Signals};

use super::{ApicBus, I8259, Ioapic, LocalApic, Message};
use crate::pci::MsiSink;
use crate::{Device, IrqLine, IrqSink};

/// I/O APIC pin of the ISA timer interrupt.
const TIMER_PIN: u32 = 2;

/// The interrupt controllers of a PC, connected.
pub struct InterruptFabric {
    apics: Arc<ApicBus>,
    ioapic: Arc<Ioapic>,
    pic: Arc<I8259>,
}

/// The 8259's INT output: LINT0 of the boot processor and I/O APIC pin 0.
struct PicOutput {
    apics: Arc<ApicBus>,
    ioapic: Arc<Ioapic>,
}

impl IrqSink for PicOutput {
    fn set_level(&self, _pin: u32, asserted: bool) {
        self.apics.set_lint0(asserted);
        self.ioapic.set_level(0, asserted);
    }
}

impl InterruptFabric {
    /// I/O APIC id, for the MADT.
    pub const IOAPIC_ID: u8 = 0;
    /// Global system interrupt of ISA interrupt 0, for the MADT's override.
    pub const TIMER_GSI: u32 = TIMER_PIN;

    /// Controllers for the vCPUs that own `signals`; the first is the boot processor.
    pub fn new(clock: &Arc<Clock>, signals: impl IntoIterator<Item = Arc<Signals>>) -> Arc<Self> {
        let apics = Arc::new(ApicBus::new(clock, signals));
        let ioapic = Arc::new(Ioapic::new(Self::IOAPIC_ID, apics.clone()));
        let output = PicOutput { apics: apics.clone(), ioapic: ioapic.clone() };
        let pic = Arc::new(I8259::new(IrqLine::new(Arc::new(output), 0)));
        apics.connect_ioapic(&ioapic);
        apics.connect_pic(&pic);
        Arc::new(Self { apics, ioapic, pic })
    }

    /// The local APIC of vCPU `index`.
    pub fn lapic(&self, index: u32) -> Option<LocalApic> {
        LocalApic::of(&self.apics, index)
    }

    /// The I/O APIC: [`Ioapic::LEN`] bytes of memory at [`Ioapic::BASE`].
    pub fn ioapic(&self) -> &Arc<Ioapic> {
        &self.ioapic
    }

    /// The 8259 pair, at [`I8259::PORTS`].
    pub fn pic(&self) -> &Arc<I8259> {
        &self.pic
    }

    /// The line of ISA interrupt 0-15 or global system interrupt 16-23.
    pub fn line(self: &Arc<Self>, irq: u32) -> IrqLine {
        IrqLine::new(self.clone(), irq)
    }

    /// A message-signalled interrupt; true if a local APIC accepted it.
    pub fn deliver_msi(&self, address: u64, data: u32) -> bool {
        Message::from_msi(address, data).is_some_and(|message| self.apics.send(&message))
    }

    /// A pulse on the NMI line (LINT1 of every processor).
    pub fn nmi(&self) {
        self.apics.pulse_lint1();
    }

    /// Has an engine have the local APICs, unless it has them already: `give` hands the state of each over. With them go the
    /// I/O APIC and the 8259s, to an engine that has some. No vCPU runs.
    ///
    /// # Errors
    /// That of `give`, or the engine refuses the others; all are still here.
    pub fn lend(
        &self,
        apics: &Arc<dyn Apics>,
        give: impl FnMut(&ApicState) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        if self.apics.lend(apics, give)? && apics.chips().is_none() {
            self.ioapic.announce();
        }
        Ok(())
    }

    /// Takes back what an engine has of the controllers, if so: `take` asks it for the state of each local APIC. No vCPU runs.
    ///
    /// # Errors
    /// That of `take`, or the engine gave a state that no controller can be in.
    pub fn recall(&self, take: impl FnMut(u32) -> Result<ApicState, EngineError>) -> Result<(), EngineError> {
        self.apics.recall(take)?;
        self.ioapic.settle();
        Ok(())
    }

    /// All controllers back to power-on.
    pub fn reset(&self) {
        for core in self.apics.cores() {
            core.reset();
        }
        self.ioapic.reset();
        self.pic.reset();
    }
}

impl MsiSink for InterruptFabric {
    fn send(&self, address: u64, data: u32) {
        self.deliver_msi(address, data);
    }
}

impl IrqSink for InterruptFabric {
    fn set_level(&self, pin: u32, asserted: bool) {
        let owner = self.apics.owner();
        if pin < 16 {
            self.pic.set_input(pin as u8, asserted);
        }
        let changed = match pin {
            0 => self.ioapic.set_input(TIMER_PIN, asserted),
            TIMER_PIN => false, // the cascade input, no line of its own
            _ => self.ioapic.set_input(pin, asserted),
        };
        // Ours have all inputs masked then, and know the levels.
        if let Some(chips) = owner.chips().filter(|_| changed) {
            chips.set_line(pin, asserted);
        }
    }
}

#[cfg(test)]
mod tests;
