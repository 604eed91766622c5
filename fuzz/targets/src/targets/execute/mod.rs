//! Decode to execute: any bytes as code, in every mode, on tables that may be wrong in any way.
//!
//! Whatever the guest is, a run ends within bounded time: at the limit, in HLT, in shutdown, kicked by the machine,
//! or with a report. The state then is one that can be saved and resumed.

mod scenario;
mod seeds;
mod step;
mod tables;
mod translate;
mod world;

use std::sync::{Arc, OnceLock};

use cpu::x86::CpuModel;
use cpu::{Clock, CpuState, Engine, Irqchip, Signals, Vcpu, VcpuExit, VmConfig};
use interp::Interp;
use memory::GuestRam;
use serde_json::Value;

use self::scenario::Scenario;
use self::world::World;
use super::one_line;
use crate::Target;

/// Any code in any mode.
pub const EXECUTE: Target = Target {
    name: "execute",
    about: "decode to execute: any bytes in every mode, on any tables and control registers",
    seeds: seeds::seeds,
    words: &[],
    run: |data| {
        let scenario = Scenario::new(data);
        let ram = scenario.ram();
        let mut machine = Machine::new(&ram, scenario.model);
        let world = World::new(scenario.outside, machine.signals.clone());
        let state = scenario.state();
        if !machine.load(&state, scenario.wild()) {
            return;
        }
        machine.signals.set(scenario.signals());
        machine.play(&world, &state, 400);
    },
};

/// One by one, with saving and restoring in between, is the same as in one go.
pub const STEP: Target = Target {
    name: "step",
    about: "code run one instruction at a time on a vCPU that is saved and restored, against a run in one go",
    seeds: seeds::seeds,
    words: &[],
    run: step::run,
};

/// Translated, the same code does the same.
pub const TRANSLATE: Target = Target {
    name: "translate",
    about: "32-bit and 64-bit code on any tables, at the edge of RAM, rewriting itself: the translator against the interpreter",
    seeds: translate::seeds,
    words: &[],
    run: translate::run,
};

/// Bytes of RAM of the guests here.
const RAM: u64 = 2 << 20;

/// A vCPU with nothing but RAM.
struct Machine {
    vcpu: Box<dyn Vcpu>,
    signals: Arc<Signals>,
}

impl Machine {
    fn new(ram: &Arc<GuestRam>, model: u8) -> Self {
        Self::on(&Interp::new(), ram, model)
    }

    fn on(engine: &dyn Engine, ram: &Arc<GuestRam>, model: u8) -> Self {
        let signals = Arc::new(Signals::new());
        let config = VmConfig {
            ram: ram.clone(),
            clock: clock(),
            model: self::model(model),
            vcpus: 1,
            irqchip: Irqchip::Userspace,
        };
        let vcpu = engine.create_vm(config).and_then(|vm| vm.create_vcpu(0, signals.clone()));
        match vcpu {
            Ok(vcpu) => Self { vcpu, signals },
            Err(error) => panic!("{} does not run here: {error}", engine.name()),
        }
    }

    /// Sets the state; false if it is refused, which only a state that `may_be_bad` may be.
    fn load(&mut self, state: &CpuState, may_be_bad: bool) -> bool {
        let before = self.vcpu.state();
        match self.vcpu.set_state(state) {
            Ok(()) => {
                self.fixpoint();
                true
            }
            Err(error) => {
                assert!(may_be_bad, "{error}");
                one_line(&error);
                assert_eq!(self.vcpu.state(), before, "a refused state leaves its traces");
                false
            }
        }
    }

    /// Runs for a while, whatever happens. A guest that shuts down starts again a byte further on, so that all of
    /// its code gets a chance.
    fn play(&mut self, world: &World, start: &CpuState, limit: u64) {
        for round in 1..=6 {
            let before = self.vcpu.instructions();
            let exit = self.vcpu.run_limited(world, limit);
            let done = self.vcpu.instructions().wrapping_sub(before);
            assert!(done <= limit, "{done} instructions instead of {limit}");
            self.fixpoint();
            match exit {
                Ok(VcpuExit::Limit) => {
                    assert_eq!(done, limit);
                    return;
                }
                Ok(VcpuExit::Kicked) => {
                    assert!(self.signals.load() & Signals::EXIT != 0, "kicked by nobody");
                    return;
                }
                Ok(VcpuExit::Halt) => {
                    assert!(self.vcpu.state().events.halted);
                    self.signals.set(Signals::NMI);
                }
                Ok(VcpuExit::Shutdown) => {
                    let state = CpuState { rip: start.rip.wrapping_add(round), ..start.clone() };
                    self.load(&state, true);
                }
                Err(fault) => {
                    one_line(&fault);
                    let state = self.vcpu.state();
                    assert_eq!(state.rip, fault.rip, "the report names another place");
                    let state = CpuState { rip: state.rip.wrapping_add(1), ..state };
                    self.load(&state, true);
                }
            }
        }
    }

    /// The state of the vCPU can be set, and is then what it was.
    fn fixpoint(&mut self) {
        let state = self.vcpu.state();
        if let Err(error) = self.vcpu.set_state(&state) {
            panic!("the engine refuses its own state: {error}");
        }
        let again = self.vcpu.state();
        assert!(again == state, "the state is no fixpoint: {}", differences(&state, &again));
    }
}

/// Starts a loaded kernel: its state is a valid one, and runs.
pub fn start(ram: &Arc<GuestRam>, state: &CpuState) {
    let mut machine = Machine::new(ram, 3);
    let world = World::new([0; 8], machine.signals.clone());
    machine.load(state, false);
    machine.play(&world, state, 50);
}

/// Runs a state that comes from a file, if it is accepted.
pub fn resume(state: &CpuState) {
    let ram = Scenario::new(&[]).ram();
    let mut machine = Machine::new(&ram, 3);
    let world = World::new([7; 8], machine.signals.clone());
    if machine.load(state, true) {
        machine.play(&world, state, 200);
    }
}

/// A state as the scenarios have them, for seeds.
pub fn sample_state(mode: u8) -> CpuState {
    Scenario::new(&[mode]).state()
}

/// Modes that [`sample_state`] knows.
pub const MODES: u8 = scenario::MODES;

fn clock() -> Arc<Clock> {
    static CLOCK: OnceLock<Arc<Clock>> = OnceLock::new();
    CLOCK.get_or_init(|| Arc::new(Clock::new())).clone()
}

/// One of the models of this host.
fn model(choice: u8) -> Arc<CpuModel> {
    static MODELS: OnceLock<Vec<Arc<CpuModel>>> = OnceLock::new();
    let models = MODELS.get_or_init(|| {
        let names = CpuModel::names();
        names.iter().filter_map(|name| CpuModel::named(Some(name)).ok()).map(Arc::new).collect()
    });
    match models.get(usize::from(choice) % models.len().max(1)) {
        Some(model) => model.clone(),
        None => panic!("the host has no CPU model"),
    }
}

/// The fields in which two states differ.
fn differences(a: &CpuState, b: &CpuState) -> String {
    fn walk(path: &str, a: &Value, b: &Value, out: &mut String) {
        match (a, b) {
            _ if a == b => {}
            (Value::Object(a), Value::Object(b)) => {
                a.iter().zip(b.values()).for_each(|((k, a), b)| walk(&format!("{path}.{k}"), a, b, out));
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                a.iter().zip(b).enumerate().for_each(|(i, (a, b))| walk(&format!("{path}[{i}]"), a, b, out));
            }
            _ => *out += &format!("{path}: {a} and {b}; "),
        }
    }
    let mut out = String::new();
    let json = |state| serde_json::to_value(state).unwrap_or_default();
    walk("state", &json(a), &json(b), &mut out);
    out
}

#[cfg(test)]
mod tests;
