//! The translator against the interpreter: memory images of any kind, code that rewrites itself and page tables that
//! point at themselves among them. Both survive, and where the outcome is the architecture's alone they agree.

use std::sync::Arc;

use cpu::{Engine, VcpuExit};
use dbt::Dbt;
use interp::Interp;
use memory::GuestRam;

use super::scenario::Scenario;
use super::step::{Outcome, difference, outcome, remapped};
use super::tables::{CODE, PAGE_TABLES};
use super::world::World;
use super::{Machine, seeds};

/// Instructions after which the interpreter gives up.
const LENGTH: u64 = 3000;
/// Arithmetic flags.
const STATUS: u64 = 0x8d5;
/// Modes of 32-bit and of 64-bit code, whose number is the first byte of an input.
const MODES: [std::ops::Range<u8>; 2] = [5..12, 13..16];

/// Sequences in such code: as they are, across pages, at the end of RAM, on damaged tables.
pub fn seeds() -> Vec<Vec<u8>> {
    let translated = |seed: &Vec<u8>| MODES.iter().any(|modes| modes.contains(&seed[0]));
    let plain: Vec<Vec<u8>> = seeds::seeds().into_iter().filter(translated).collect();
    let with = |option: u8| {
        let changed = plain.iter().step_by(3).cloned().map(move |mut seed| {
            seed[3] |= option;
            // Entries of the tables that are others than they were, by the number of the table.
            seed[38..54].copy_from_slice(&[0, 0, 1, 1, 2, 0, 1, 2, 3, 3, 1, 0, 3, 16, 4, 9]);
            seed
        });
        changed.collect::<Vec<_>>()
    };
    [plain.clone(), with(0x01), with(0x10)].concat()
}

pub fn run(data: &[u8]) {
    let scenario = Scenario::new(data);
    // With handlers, which step over what faults: nothing to compare, since flags that the code overwrites may be lost in
    // a frame.
    let _ = play(&scenario, &Dbt::with_threshold(0), true);
    let Some(expected) = play(&scenario, &Interp::new(), false) else { return };
    let Some(found) = play(&scenario, &Dbt::with_threshold(0), false) else {
        panic!("the interpreter takes a state that the translator refuses");
    };
    if agree(&scenario, &expected, &found) {
        return;
    }
    // Time and random numbers differ from run to run: only what repeats is a difference.
    for _ in 0..4 {
        let again =
            [&Interp::new() as &dyn Engine, &Dbt::with_threshold(0)].map(|e| play(&scenario, e, false));
        let [Some(a), Some(b)] = again else { return };
        if a.outcome != expected.outcome || b.outcome != found.outcome {
            return;
        }
    }
    panic!(
        "{:?} by the interpreter, {:?} by the translator; {}",
        expected.outcome.exit,
        found.outcome.exit,
        difference(&expected.outcome, &found.outcome)
    );
}

/// What came of a guest, and whether anything happened to it at an instant of its engine's choosing.
struct Played {
    outcome: Outcome,
    interrupted: bool,
}

/// `None` if the state is refused.
fn play(scenario: &Scenario, engine: &dyn Engine, handlers: bool) -> Option<Played> {
    let ram: Arc<GuestRam> = scenario.ram();
    let mut machine = Machine::on(engine, &ram, scenario.model);
    let world = World::new(scenario.outside, machine.signals.clone()).steady();
    let mut state = scenario.state();
    if !handlers {
        state.idtr.limit = 0;
    }
    if !machine.load(&state, scenario.wild()) {
        return None;
    }
    machine.signals.set(scenario.signals());
    let exit = machine.vcpu.run_limited(&world, LENGTH).ok();
    machine.fixpoint();
    let interrupted = world.has_signalled() || scenario.signals() != 0;
    Some(Played { outcome: outcome(&machine, &ram, exit), interrupted })
}

/// The outcomes are the same, or nobody promises that.
fn agree(scenario: &Scenario, expected: &Played, found: &Played) -> bool {
    let (a, b) = (&expected.outcome, &found.outcome);
    let ended = [Some(VcpuExit::Halt), Some(VcpuExit::Shutdown), None].contains(&a.exit);
    if !ended || expected.interrupted || found.interrupted || scenario.wild() {
        return true;
    }
    // What the TLB remembers of tables that were changed is its own affair.
    if remapped(scenario, [a, b]) {
        return true;
    }
    // Flags that the code ahead overwrites may be lost, which is seen if a store changes that code.
    let before = scenario.ram();
    let mut code = (CODE..CODE + 0x2000).step_by(8);
    if code.any(|at| before.load_u64(at) != Some(a.memory[at as usize / 8])) {
        return true;
    }
    let mut state = b.state.clone();
    state.rflags ^= (state.rflags ^ a.state.rflags) & STATUS;
    // Accessed bits may be set by fetches that nobody waits for (Intel SDM volume 3, 4.8).
    let fetched = |i: usize| if PAGE_TABLES.contains(&(i as u64 * 8)) { 0x20_0000_0020 } else { 0 };
    let mut words = a.memory.iter().zip(&b.memory).enumerate();
    a.exit == b.exit && a.state == state && words.all(|(i, (a, b))| (a ^ b) & !fetched(i) == 0)
}
