//! Other engines on this vCPU's state: one instruction that KVM cannot execute, or a stretch in a mode that it refuses.
//!
//! KVM's stores do not tell the page table of overwritten code. A single step decodes anew and has nothing cached; a
//! stretch begins with a new vCPU.

use std::cell::Cell;
use std::sync::Arc;

use cpu::{CpuFault, CpuIo, CpuState, EngineError, Hypercall, Signals, Vcpu, VcpuExit};

use crate::engine::Shared;

/// Executes single instructions.
#[derive(Default)]
pub struct Stepper {
    vcpu: Option<(Box<dyn Vcpu>, Arc<Signals>)>,
}

impl Stepper {
    /// Executes the instruction that `state` is at, or delivers `interrupt` and executes the first one behind that.
    ///
    /// # Errors
    /// The stepper cannot do it either.
    pub fn step(
        &mut self,
        vm: &Shared,
        index: u32,
        state: &mut CpuState,
        interrupt: Option<u8>,
        io: &dyn CpuIo,
    ) -> Result<VcpuExit, CpuFault> {
        let (vcpu, signals) = match &mut self.vcpu {
            Some(pair) => pair,
            place => {
                // The machine's signals are looked at when the instruction is done.
                let signals = Arc::new(Signals::new());
                let made = vm.helpers.step.create_vm(vm.config.clone());
                let vcpu = made.and_then(|v| v.create_vcpu(index, signals.clone())).map_err(fault(state))?;
                place.insert((vcpu, signals))
            }
        };
        vcpu.set_state(state).map_err(fault(state))?;
        if interrupt.is_some() {
            signals.set(Signals::INTR);
        }
        let exit = vcpu.run_limited(&Once { io, interrupt: Cell::new(interrupt) }, 1);
        signals.clear(u32::MAX);
        *state = vcpu.state();
        exit
    }
}

fn fault(state: &CpuState) -> impl Fn(EngineError) -> CpuFault {
    let rip = state.rip;
    move |error| CpuFault { reason: error.to_string(), rip, bytes: Vec::new(), mode: "unknown" }
}

/// The machine, with an interrupt that was taken from it already.
struct Once<'a> {
    io: &'a dyn CpuIo,
    interrupt: Cell<Option<u8>>,
}

/// The rest of the machine is as it is.
macro_rules! forward {
    () => {
        fn port_read(&self, port: u16, data: &mut [u8]) {
            self.io.port_read(port, data);
        }
        fn port_write(&self, port: u16, data: &[u8]) {
            self.io.port_write(port, data);
        }
        fn mmio_read(&self, addr: u64, data: &mut [u8]) {
            self.io.mmio_read(addr, data);
        }
        fn mmio_write(&self, addr: u64, data: &[u8]) {
            self.io.mmio_write(addr, data);
        }
        fn task_priority(&self) -> u8 {
            self.io.task_priority()
        }
        fn set_task_priority(&self, priority: u8) {
            self.io.set_task_priority(priority);
        }
        fn apic_msr_read(&self, msr: u32) -> Option<u64> {
            self.io.apic_msr_read(msr)
        }
        fn apic_msr_write(&self, msr: u32, value: u64) -> bool {
            self.io.apic_msr_write(msr, value)
        }
        fn set_tsc_adjust(&self, adjust: u64) {
            self.io.set_tsc_adjust(adjust);
        }
        fn set_steal_time(&self, msr: u64) {
            self.io.set_steal_time(msr);
        }
        fn deadline(&self) -> Option<u64> {
            self.io.deadline()
        }
        fn hypercall(&self, call: &Hypercall) -> i64 {
            self.io.hypercall(call)
        }
    };
}

impl CpuIo for Once<'_> {
    forward!();

    fn take_interrupt(&self) -> Option<u8> {
        self.interrupt.take()
    }

    fn poll(&self) {
        self.io.poll();
    }
}

/// The machine, which whenever timers are looked at asks to come back: has the mode been left?
struct Watched<'a> {
    io: &'a dyn CpuIo,
    signals: &'a Signals,
}

impl CpuIo for Watched<'_> {
    forward!();

    fn take_interrupt(&self) -> Option<u8> {
        self.io.take_interrupt()
    }

    fn poll(&self) {
        self.io.poll();
        self.signals.set(Signals::EXIT);
    }
}

/// A vCPU of another engine in place of KVM's.
pub struct Stretch {
    vcpu: Box<dyn Vcpu>,
    signals: Arc<Signals>,
}

impl Stretch {
    /// Goes on from `state`.
    ///
    /// # Errors
    /// The engine cannot be used, or no CPU can be in that state.
    pub fn new(
        vm: &Shared,
        index: u32,
        signals: Arc<Signals>,
        state: &CpuState,
    ) -> Result<Self, EngineError> {
        let mut vcpu =
            vm.helpers.stretch.create_vm(vm.config.clone())?.create_vcpu(index, signals.clone())?;
        vcpu.set_state(state)?;
        Ok(Self { vcpu, signals })
    }

    /// Runs for a while. A machine whose vCPU comes out because of that finds nothing to do and lets it go on.
    pub fn run(&mut self, io: &dyn CpuIo) -> Result<VcpuExit, CpuFault> {
        self.vcpu.run(&Watched { io, signals: &self.signals })
    }

    /// Where it is.
    pub fn state(&self) -> CpuState {
        self.vcpu.state()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as no empty world does.
    struct World;

    impl CpuIo for World {
        fn hypercall(&self, call: &Hypercall) -> i64 {
            call.number as i64
        }
        fn deadline(&self) -> Option<u64> {
            Some(7)
        }
        fn apic_msr_read(&self, msr: u32) -> Option<u64> {
            Some(msr.into())
        }
    }

    #[test]
    fn helpers_reach_the_machine() {
        let (io, signals) = (&World, Signals::new());
        let call = Hypercall { number: 5, arguments: [0; 4] };
        let worlds: [&dyn CpuIo; 2] =
            [&Once { io, interrupt: Cell::default() }, &Watched { io, signals: &signals }];
        for io in worlds {
            assert_eq!((io.hypercall(&call), io.deadline(), io.apic_msr_read(3)), (5, Some(7), Some(3)));
        }
    }
}
