//! Local APICs on an engine that has some itself: they are the engine's while vCPUs run, and the board's while somebody looks
//! at the machine's state.

use cpu::EngineError;
use parking_lot::MutexGuard;

use crate::machine::Shared;
use crate::vcpu::Slot;
use crate::{MachineError, Outcome};

impl Shared {
    /// Before a vCPU runs: its thread calls this, and the first does it for all. Those threads may ask an engine's host for
    /// something, which whoever ends a pause may not.
    pub fn lend_apics(&self) {
        let Some(apics) = self.engine.lock().vm.apics() else { return };
        // No vCPU runs before the lock is free.
        let mut anew = self.lending.lock();
        let recalled = if std::mem::take(&mut *anew) { self.recall_apics() } else { Ok(()) };
        let lent = recalled
            .and_then(|()| Ok(self.pc.fabric.lend(&apics, |state| self.vcpu(state.id)?.set_apic(state))?));
        if let Err(error) = lent {
            self.end(Outcome::Failed(error.to_string()));
        }
    }

    /// Guest time was set: timers that an engine has are to be given to it anew.
    pub fn lend_anew(&self) {
        *self.lending.lock() = true;
    }

    /// Before somebody looks at the state of interrupt controllers, or changes it. All vCPUs stand still.
    pub fn recall_apics(&self) -> Result<(), MachineError> {
        Ok(self.pc.fabric.recall(|index| self.vcpu(index)?.apic())?)
    }

    fn vcpu(&self, index: u32) -> Result<MutexGuard<'_, Box<dyn cpu::Vcpu>>, EngineError> {
        let slot: Option<&Slot> = self.slots().get(index as usize);
        slot.map(|slot| slot.vcpu.lock())
            .ok_or_else(|| EngineError::BadState(format!("there is no vcpu {index}")))
    }
}
