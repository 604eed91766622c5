//! The engines' contract: the state can be taken and set at any instruction boundary, and nothing shows it.

use std::sync::Arc;

use cpu::{CpuState, VcpuExit};
use memory::GuestRam;

use super::scenario::Scenario;
use super::tables;
use super::world::World;
use super::{Machine, RAM, differences};

/// Instructions to compare.
const LENGTH: u64 = 60;

/// What came of a run.
#[derive(PartialEq)]
pub(super) struct Outcome {
    pub exit: Option<VcpuExit>,
    pub state: CpuState,
    pub memory: Vec<u64>,
}

pub fn run(data: &[u8]) {
    let scenario = Scenario::new(data);
    // Interrupts come between blocks.
    if scenario.wild() || scenario.signals() != 0 {
        return;
    }
    let (one_go, stepped) = (in_one_go(&scenario), in_steps(&scenario));
    let same = |a: &Outcome, b: &Outcome| a == b;
    // When timers are polled is nobody's promise, so a guest that was kicked may be anywhere.
    let kicked = [one_go.exit, stepped.exit].contains(&Some(VcpuExit::Kicked));
    if kicked || same(&one_go, &stepped) || scenario.paged() && remapped(&scenario, [&one_go, &stepped]) {
        return;
    }
    // Time and random numbers differ from run to run: only what repeats is a difference.
    for _ in 0..8 {
        if !same(&in_one_go(&scenario), &one_go) || !same(&in_steps(&scenario), &stepped) {
            return;
        }
    }
    panic!("{:?} in one go, {:?} in steps; {}", one_go.exit, stepped.exit, difference(&one_go, &stepped));
}

/// The guest has changed its own page tables or left them: what the TLB remembers is then its own affair.
pub(super) fn remapped(scenario: &Scenario, outcomes: [&Outcome; 2]) -> bool {
    let (start, ram) = (scenario.state(), scenario.ram());
    let marks = 0x60_0000_0060; // accessed and dirty, of one entry or two
    let tables = tables::PAGE_TABLES.step_by(8).filter_map(|at| Some((at, ram.load_u64(at)?)));
    let words: Vec<_> = tables.map(|(at, word)| (at as usize / 8, word | marks)).collect();
    outcomes.iter().any(|outcome| {
        let (a, b) = (&start, &outcome.state);
        (a.cr0, a.cr3, a.cr4, a.efer) != (b.cr0, b.cr3, b.cr4, b.efer)
            || words.iter().any(|&(i, word)| outcome.memory[i] | marks != word)
    })
}

/// The fields of the states that differ, and the first word of memory.
pub(super) fn difference(a: &Outcome, b: &Outcome) -> String {
    let mut found = differences(&a.state, &b.state);
    if let Some(i) = a.memory.iter().zip(&b.memory).position(|(a, b)| a != b) {
        found += &format!("memory at {:#x}: {:#x} and {:#x}", i * 8, a.memory[i], b.memory[i]);
    }
    found
}

fn in_one_go(scenario: &Scenario) -> Outcome {
    let ram = scenario.ram();
    let mut machine = Machine::new(&ram, scenario.model);
    let world = World::new(scenario.outside, machine.signals.clone());
    machine.load(&scenario.state(), false);
    let exit = machine.vcpu.run_limited(&world, LENGTH).ok();
    outcome(&machine, &ram, exit)
}

fn in_steps(scenario: &Scenario) -> Outcome {
    let ram = scenario.ram();
    let mut machine = Machine::new(&ram, scenario.model);
    let world = World::new(scenario.outside, machine.signals.clone());
    machine.load(&scenario.state(), false);
    let mut exit = None;
    for _ in 0..LENGTH {
        exit = machine.vcpu.run_limited(&world, 1).ok();
        if exit != Some(VcpuExit::Limit) {
            break;
        }
        // A restored vCPU has an empty TLB, which a guest with page tables may notice.
        if scenario.paged() {
            continue;
        }
        let state = machine.vcpu.state();
        let signals = machine.signals.load();
        machine = Machine::new(&ram, scenario.model);
        machine.load(&state, false);
        machine.signals.set(signals);
        // The world goes on with the new vCPU's signals.
        world.rewire(machine.signals.clone());
    }
    outcome(&machine, &ram, exit)
}

pub(super) fn outcome(machine: &Machine, ram: &Arc<GuestRam>, exit: Option<VcpuExit>) -> Outcome {
    let memory = (0..0x8_0000.min(RAM)).step_by(8).filter_map(|at| ram.load_u64(at)).collect();
    Outcome { exit, state: machine.vcpu.state(), memory }
}
