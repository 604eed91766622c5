use cpu::VcpuExit;

use super::scenario::{HEADER, MODES, Scenario};
use super::tables::CODE;
use super::world::World;
use super::{Machine, sample_state};

fn input(mode: u8, options: u32, code: &[u8]) -> Vec<u8> {
    let mut data = vec![mode, 3];
    data.extend(options.to_le_bytes());
    data.resize(HEADER, 0);
    data.extend(code);
    data
}

fn run(data: &[u8], limit: u64) -> (VcpuExit, Machine) {
    let scenario = Scenario::new(data);
    let ram = scenario.ram();
    let mut machine = Machine::new(&ram, scenario.model);
    let world = World::new([0; 8], machine.signals.clone());
    assert!(machine.load(&scenario.state(), false));
    (machine.vcpu.run_limited(&world, limit).unwrap(), machine)
}

/// Where the code under test is at.
fn offset(machine: &Machine) -> u64 {
    let state = machine.vcpu.state();
    let flat = state.efer & 0x400 != 0 && state.segments[1].attr & 0x2000 != 0;
    let base = if flat { 0 } else { state.segments[1].base };
    state.rip.wrapping_add(base).wrapping_sub(CODE)
}

#[test]
fn code_runs_in_every_mode() {
    for mode in 0..MODES {
        let (exit, machine) = run(&input(mode, 0, &[0x90; 200]), 100);
        assert_eq!((exit, offset(&machine)), (VcpuExit::Limit, 100), "mode {mode}");
    }
}

#[test]
fn faults_are_stepped_over_in_every_mode() {
    // LOCK UD2, byte by byte, then NOPs.
    for mode in 0..MODES {
        for gates in [0, 2] {
            let data = input(mode, gates, b"\xf0\x0f\x0b\x90\x90\x90\x90\x90\x90\x90\x90");
            let (exit, machine) = run(&data, 1);
            let linear = offset(&machine).wrapping_add(CODE);
            assert_eq!((exit, linear & !0xff), (VcpuExit::Limit, 0xe000), "mode {mode} has a handler");
            let (exit, machine) = run(&data, 30);
            assert_eq!(exit, VcpuExit::Limit, "mode {mode}");
            assert!((3..100).contains(&offset(&machine)), "mode {mode} does not return");
        }
    }
}

#[test]
fn samples_differ_by_mode() {
    let (a, b) = (sample_state(0), sample_state(14));
    assert_ne!(a.cr0, b.cr0);
    assert_ne!(a.efer, b.efer);
}
