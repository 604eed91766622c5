//! The interpreter behind the engine contract.

use std::sync::Arc;

use ::cpu::{
    Capabilities, CpuFault, CpuIo, CpuState, Engine, EngineError, Signals, Vcpu, VcpuExit, Vm, VmConfig,
};

use crate::run::Runner;

/// Bytes of decoded code.
const DECODED: usize = 10 << 20;

/// The interpreting engine: every x86-64 host that allows executable memory, no hardware support, no privileges.
#[derive(Debug, Default, Clone, Copy)]
pub struct Interp;

impl Interp {
    /// The engine.
    pub fn new() -> Self {
        Self
    }
}

impl Engine for Interp {
    fn name(&self) -> &'static str {
        "interp"
    }

    fn capabilities(&self) -> Capabilities {
        let unusable = crate::host::refusal();
        Capabilities { unusable, max_vcpus: 255, full_virtualization: true, exact_limit: true }
    }

    fn create_vm(&self, config: VmConfig) -> Result<Box<dyn Vm>, EngineError> {
        Ok(Box::new(InterpVm { config }))
    }
}

struct InterpVm {
    config: VmConfig,
}

impl Vm for InterpVm {
    fn create_vcpu(&self, index: u32, signals: Arc<Signals>) -> Result<Box<dyn Vcpu>, EngineError> {
        Ok(Box::new(InterpVcpu { runner: Runner::new(&self.config, index, signals, DECODED) }))
    }
}

struct InterpVcpu {
    runner: Runner,
}

impl Vcpu for InterpVcpu {
    fn run(&mut self, io: &dyn CpuIo) -> Result<VcpuExit, CpuFault> {
        self.runner.run(io, u64::MAX)
    }

    fn run_limited(&mut self, io: &dyn CpuIo, instructions: u64) -> Result<VcpuExit, CpuFault> {
        self.runner.run(io, instructions)
    }

    fn state(&self) -> CpuState {
        self.runner.cpu.save_state()
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.runner.cpu.check_state(state)?;
        self.runner.cpu.load_state(state);
        Ok(())
    }

    fn instructions(&self) -> u64 {
        self.runner.retired
    }
}
