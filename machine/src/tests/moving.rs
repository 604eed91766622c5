//! Moves to an engine that refuses them. That others succeed is seen with Linux (`machine/tests/linux/moving.rs`).

use std::time::{Duration, Instant};

use cpu::x86::{CpuModel, Feature};
use cpu::{Capabilities, Clock, Engine, EngineError, Signals, Vcpu, Vm, VmConfig};
use dbt::Dbt;

use super::*;
use crate::MachineError;

/// The translator, but for the second CPU of a machine, or for more CPUs than it says to have.
struct Refusing {
    max_vcpus: u32,
    lacks: Feature,
}

struct RefusingVm(Box<dyn Vm>, Arc<Clock>);

impl Engine for Refusing {
    fn name(&self) -> &'static str {
        "refusing"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { max_vcpus: self.max_vcpus, ..Dbt::new().capabilities() }
    }
    fn lacking(&self, model: &CpuModel) -> Feature {
        model.features() & self.lacks
    }
    fn create_vm(&self, config: VmConfig) -> Result<Box<dyn Vm>, EngineError> {
        let clock = config.clock.clone();
        Ok(Box::new(RefusingVm(Dbt::new().create_vm(config)?, clock)))
    }
}

impl Vm for RefusingVm {
    fn create_vcpu(&self, index: u32, signals: Arc<Signals>) -> Result<Box<dyn Vcpu>, EngineError> {
        // As one does that cannot shift the guest's.
        self.1.follow_host();
        match index {
            0 => self.0.create_vcpu(index, signals),
            _ => Err(EngineError::BadState("a register".to_owned())),
        }
    }
}

/// Waits until the guest has counted on.
fn counts(machine: &Machine) {
    let count = || machine.pc().ram.load_u32(u64::from(SCRATCH));
    let (start, before) = (Instant::now(), count());
    while count() == before {
        assert!(start.elapsed() < Duration::from_secs(60), "the guest stands still");
    }
}

#[test]
fn a_machine_that_is_refused_goes_on_where_it_is() {
    let kernel = Kernel::new(|a| {
        let mut next = a.create_label();
        a.set_label(&mut next)?;
        a.inc(dword_ptr(SCRATCH))?;
        a.jmp(next)
    });
    let spec = MachineSpec { cpus: 2, ..kernel.spec() };
    let backends = Backends {
        console: Arc::new(NullBackend),
        terminal: Arc::new(NullBackend),
        debug: Arc::new(NullBackend),
    };
    let machine = Machine::new(spec, &Dbt::new(), backends).unwrap();
    let refusing = Refusing { max_vcpus: 2, lacks: Feature::empty() };
    assert!(matches!(machine.move_to(&refusing), Err(MachineError::State { state: "not started", .. })));
    machine.start().unwrap();
    counts(&machine);
    let one = Refusing { max_vcpus: 1, ..refusing };
    assert!(matches!(machine.move_to(&one), Err(MachineError::EngineCpus { .. })));
    let model = CpuModel::best_for_host();
    let lacking = Refusing { lacks: Feature::SSE3 | Feature::CX16, ..refusing };
    let refused = machine.move_to(&lacking).unwrap_err().to_string();
    let expected = "engine refusing lacks cx16, sse3 here, which the guest was given (cpu state is not valid: a register): take another engine";
    assert!(refused == expected || !model.has(lacking.lacks), "{refused}");
    for _ in 0..3 {
        let refused = machine.move_to(&refusing).unwrap_err().to_string();
        assert_eq!(refused, "cpu state is not valid: a register");
        assert_eq!(machine.engine(), "dbt");
        counts(&machine);
        assert!(machine.pc().clock.ns() < 60_000_000_000, "the host's time");
        // Kicks reach the CPU that stayed.
        machine.pause().unwrap();
        machine.resume();
    }
    machine.stop();
    machine.wait();
    assert!(matches!(machine.move_to(&refusing), Err(MachineError::State { state: "at its end", .. })));
}
