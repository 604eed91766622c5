//! What carries interrupt messages to local APICs.
//!
//! Destinations are found without a lock: the registers they depend on are mirrored in atomics. Delivery takes
//! the lock of one local APIC at a time.
//!
//! An engine may have the local APICs itself while it runs the machine, and the I/O APIC and the 8259s with them. Who has them
//! changes while no vCPU runs, under a lock that every message is sent under, and every line changes under: none is lost.

use std::sync::{Arc, OnceLock, Weak};

use cpu::{ApicState, Apics, Chips, ChipsState, Clock, EngineError, Signals};
use parking_lot::{RwLock, RwLockReadGuard};

use super::lapic::Core;
use super::{Delivery, Destination, I8259, Ioapic, Message};
use crate::{Device, RestoreError, SaveRestore};

/// All local APICs of a machine; vCPU `i` has APIC id `i`.
pub struct ApicBus {
    cores: Vec<Arc<Core>>,
    ioapic: OnceLock<Weak<Ioapic>>,
    pic: OnceLock<Weak<I8259>>,
    /// Has the local APICs, in place of `cores`. Taken before a local APIC's lock; whoever changes a line takes it before the
    /// controllers' locks, too, so that it is taken again by whoever sends a message.
    lent: RwLock<Option<Arc<dyn Apics>>>,
}

impl ApicBus {
    /// One local APIC for each vCPU's signal word; the first is the boot processor's.
    pub fn new(clock: &Arc<Clock>, signals: impl IntoIterator<Item = Arc<Signals>>) -> Self {
        let cores = signals
            .into_iter()
            .enumerate()
            .map(|(i, s)| Arc::new(Core::new(i as u32, clock.clone(), s)))
            .collect();
        Self { cores, ioapic: OnceLock::new(), pic: OnceLock::new(), lent: RwLock::default() }
    }

    /// Says where end-of-interrupt messages go. Once.
    pub fn connect_ioapic(&self, ioapic: &Arc<Ioapic>) {
        let _ = self.ioapic.set(Arc::downgrade(ioapic));
    }

    /// Says who acknowledges external interrupts. Once.
    pub fn connect_pic(&self, pic: &Arc<I8259>) {
        let _ = self.pic.set(Arc::downgrade(pic));
    }

    /// Number of local APICs.
    pub fn len(&self) -> usize {
        self.cores.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.cores.is_empty()
    }

    pub(super) fn core(&self, index: usize) -> Option<&Arc<Core>> {
        self.cores.get(index)
    }

    pub(super) fn cores(&self) -> &[Arc<Core>] {
        &self.cores
    }

    /// Delivers a message; true if a local APIC accepted it.
    pub fn send(&self, message: &Message) -> bool {
        let lent = self.lent.read_recursive();
        if let Some(apics) = &*lent {
            let (address, data) = message.to_msi();
            return apics.send(address, data);
        }
        if let (Destination::Physical(id), true) =
            (message.destination, message.delivery != Delivery::LowestPriority)
        {
            return self.cores.get(id as usize).is_some_and(|core| core.accept(message));
        }
        let targets = self.cores.iter().filter(|core| core.is_addressed(message.destination));
        if message.delivery == Delivery::LowestPriority {
            // Ties go to the lowest id: any choice is architectural, and this one repeats.
            return targets
                .filter(|core| core.is_software_enabled())
                .min_by_key(|core| core.processor_priority())
                .is_some_and(|core| core.accept(message));
        }
        targets.fold(false, |accepted, core| core.accept(message) | accepted)
    }

    /// Who has the controllers stays so as long as this lives.
    pub(super) fn owner(&self) -> Owner<'_> {
        Owner(self.lent.read())
    }

    fn board(&self) -> Option<(Arc<Ioapic>, Arc<I8259>)> {
        Some((self.ioapic.get()?.upgrade()?, self.pic.get()?.upgrade()?))
    }

    /// Has an engine have the local APICs: `give` hands the state of each over. True if it did not have them before. No
    /// vCPU runs.
    pub(super) fn lend(
        &self,
        apics: &Arc<dyn Apics>,
        mut give: impl FnMut(&ApicState) -> Result<(), EngineError>,
    ) -> Result<bool, EngineError> {
        let mut lent = self.lent.write();
        if lent.is_some() {
            return Ok(false);
        }
        let states: Vec<_> = self.cores.iter().map(|core| core.save()).collect();
        states.iter().try_for_each(&mut give)?;
        if let (Some(chips), Some((ioapic, pic))) = (apics.chips(), self.board()) {
            // Last: it may interrupt local APICs.
            chips.give(&ChipsState { ioapic: ioapic.save(), pic: pic.save() })?;
            // What is left has all inputs masked.
            pic.reset();
            ioapic.reset();
        }
        self.cores.iter().for_each(|core| core.lend());
        for state in states {
            // What had arrived and was not looked at arrives there.
            let waiting =
                [state.init.then_some((Delivery::Init, 0)), state.sipi.map(|v| (Delivery::Startup, v))];
            for (delivery, vector) in waiting.into_iter().flatten() {
                let destination = Destination::Physical(state.id);
                let (address, data) = Message { destination, delivery, vector, level: false }.to_msi();
                apics.send(address, data);
            }
        }
        *lent = Some(apics.clone());
        Ok(true)
    }

    /// Takes the local APICs back, if an engine has them: `take` asks it for the state of each. No vCPU runs.
    pub(super) fn recall(
        &self,
        mut take: impl FnMut(u32) -> Result<ApicState, EngineError>,
    ) -> Result<(), EngineError> {
        let bad = |e: RestoreError| EngineError::BadState(e.to_string());
        let mut lent = self.lent.write();
        let Some(apics) = &*lent else { return Ok(()) };
        // First: what it sends to a local APIC from here on, it sends again.
        let chips = apics.chips().map(Chips::take).transpose()?;
        let states = self.cores.iter().map(|core| take(core.id())).collect::<Result<Vec<_>, _>>()?;
        *lent = None;
        for (core, state) in self.cores.iter().zip(&states) {
            core.give_back(state).map_err(bad)?;
        }
        if let (Some(chips), Some((ioapic, pic))) = (chips, self.board()) {
            // Before the I/O APIC, whose inputs are masked until then: no message is sent under the lock.
            pic.give_back(&chips.pic);
            ioapic.give_back(&chips.ioapic).map_err(bad)?;
        }
        Ok(())
    }

    /// Input `pin` of the I/O APIC sends `message` from now on.
    pub(super) fn route(&self, pin: u32, message: &Message) {
        if let Some(apics) = &*self.lent.read_recursive() {
            let (address, data) = message.to_msi();
            apics.route(pin, address, data);
        }
    }

    /// Level of the 8259's INT output, wired to LINT0 of the boot processor.
    pub(super) fn set_lint0(&self, asserted: bool) {
        if let Some(core) = self.cores.first() {
            core.set_lint0(asserted);
        }
    }

    /// A pulse on the NMI line, wired to LINT1 of every processor.
    pub fn pulse_lint1(&self) {
        for core in &self.cores {
            core.pulse_lint1();
        }
    }

    pub(super) fn broadcast_eoi(&self, vector: u8) {
        if let Some(ioapic) = self.ioapic.get().and_then(Weak::upgrade) {
            ioapic.end_of_interrupt(vector);
        }
    }

    pub(super) fn acknowledge_pic(&self) -> Option<u8> {
        self.pic.get().and_then(Weak::upgrade).map(|pic| pic.acknowledge())
    }
}

/// See [`ApicBus::owner`].
pub(super) struct Owner<'a>(RwLockReadGuard<'a, Option<Arc<dyn Apics>>>);

impl Owner<'_> {
    /// The engine's I/O APIC and 8259s, if it has them.
    pub(super) fn chips(&self) -> Option<&dyn Chips> {
        self.0.as_ref()?.chips()
    }
}
