//! A running machine moves to another engine: its vCPUs are replaced by the other engine's between two instructions.
//!
//! What engines know of guest RAM stays true across a move. A page's marks are those of decoded code, whoever decoded it: all
//! stores look at them but those of translated code, which has no entry for a page with marks. That a page is sealed was said
//! of vCPUs that are gone, and a new one makes no such entry as long as the page's marks stand; without them, the page is of
//! another generation (`memory/src/page.rs`).

use cpu::x86::CpuModel;
use cpu::{Engine, Vcpu, Vm, VmConfig};

use crate::machine::Shared;
use crate::{Machine, MachineError};

/// The engine that runs a machine.
pub struct Running {
    /// Its name.
    pub name: &'static str,
    /// The machine as it sees it.
    pub vm: Box<dyn Vm>,
}

impl Machine {
    /// The name of the engine that runs it now.
    pub fn engine(&self) -> &'static str {
        self.shared().engine.lock().name
    }

    /// Goes on with another engine. The guest stands still for some milliseconds, which count as guest time.
    ///
    /// # Errors
    /// The machine is not running, or the engine refuses it or the state of one of its CPUs; it then stays with its engine.
    pub fn move_to(&self, engine: &dyn Engine) -> Result<(), MachineError> {
        self.running()?;
        if engine.name() == self.engine() {
            return Ok(());
        }
        let shared = self.shared();
        let vm = create_vm(engine, shared.config.clone())?;
        // What is replaced goes when the guest runs again.
        let replaced = shared.held(|| replace(shared, Running { name: engine.name(), vm }))?;
        let replaced = replaced.map_err(|error| explained(error, engine, &shared.config.model))?;
        tracing::info!("moved from engine {} to {}", replaced.0.name, engine.name());
        Ok(())
    }
}

/// Why an engine refuses a guest that was elsewhere: it may lack what the guest was given there.
pub fn explained(error: MachineError, engine: &dyn Engine, model: &CpuModel) -> MachineError {
    let missing = engine.lacking(model);
    match error {
        MachineError::Engine(source) if !missing.is_empty() => {
            MachineError::Lacks { engine: engine.name(), missing: missing.names().join(", "), source }
        }
        other => other,
    }
}

/// A machine on an engine, unless that says now that it cannot be.
pub fn create_vm(engine: &dyn Engine, config: VmConfig) -> Result<Box<dyn Vm>, MachineError> {
    let max = engine.capabilities().max_vcpus;
    if config.vcpus > max {
        return Err(MachineError::EngineCpus { engine: engine.name(), max });
    }
    Ok(engine.create_vm(config)?)
}

type Replaced = (Running, Vec<Box<dyn Vcpu>>);

/// All of it, or nothing. Everybody stands still.
fn replace(shared: &Shared, next: Running) -> Result<Replaced, MachineError> {
    let mut vcpus: Vec<_> = shared.slots().iter().map(|slot| slot.vcpu.lock()).collect();
    let (clock, offset) = (&shared.pc.clock, shared.pc.clock.offset());
    let bells: Vec<_> = shared.slots().iter().map(|slot| slot.signals.bell()).collect();
    let fresh: Result<Vec<_>, MachineError> = (0..)
        .zip(shared.slots())
        .zip(&vcpus)
        .map(|((index, slot), vcpu)| {
            // Neither may have come to look at its timers by itself.
            slot.lapic.poll();
            let mut fresh = next.vm.create_vcpu(index, slot.signals.clone())?;
            fresh.set_state(&vcpu.state())?;
            Ok(fresh)
        })
        .collect();
    let fresh = fresh.inspect_err(|_| {
        // Whoever came in their place took the bells away, and may have had the clock follow the host.
        clock.set_offset(offset);
        for (slot, bell) in shared.slots().iter().zip(bells) {
            bell.into_iter().for_each(|bell| slot.signals.hang(bell));
        }
    })?;
    shared.count_retired(vcpus.iter().map(|vcpu| vcpu.instructions()).sum());
    let old =
        vcpus.iter_mut().zip(fresh).map(|(vcpu, fresh)| std::mem::replace(&mut **vcpu, fresh)).collect();
    let replaced = std::mem::replace(&mut *shared.engine.lock(), next);
    shared.doorbells_anew();
    Ok((replaced, old))
}
