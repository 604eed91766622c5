//! Start, pause, reset, end.

use std::thread::sleep;
use std::time::Duration;

use super::*;
use crate::{MachineError, Outcome};

#[test]
fn the_debug_exit_port_ends_the_run() {
    let machine = Kernel::new(|a| exit(a, 42)).machine();
    machine.start().unwrap();
    assert!(matches!(machine.wait(), Outcome::DebugExit(42)));
    assert!(matches!(machine.wait(), Outcome::DebugExit(42)), "a second wait says the same");
    assert!(machine.instructions().unwrap() >= 3);
}

#[test]
fn acpi_power_off_ends_the_run() {
    let kernel = Kernel::new(|a| {
        a.mov(edx, 0x604)?;
        a.mov(ax, 5 << 10 | 1 << 13)?;
        a.out(dx, ax)?;
        halt(a)
    });
    let machine = kernel.machine();
    machine.start().unwrap();
    assert!(matches!(machine.wait(), Outcome::PowerOff));
}

/// Counts boots in memory that survives them; resets by `port` and `value` on the first, exits on the second.
fn resetting(port: u32, value: u32) -> Kernel {
    Kernel::new(|a| {
        let mut again = a.create_label();
        a.inc(dword_ptr(SCRATCH))?;
        a.cmp(dword_ptr(SCRATCH), 1)?;
        a.jne(again)?;
        out(a, port, value)?;
        halt(a)?;
        a.set_label(&mut again)?;
        a.mov(eax, dword_ptr(SCRATCH))?;
        exit_al(a)
    })
}

#[test]
fn a_reset_boots_again() {
    for (port, value) in [(0xcf9, 6), (0x64, 0xfe), (0x92, 3)] {
        let kernel = resetting(port, value);
        let machine = machine(MachineSpec { cpus: 3, ..kernel.spec() }, Arc::new(NullBackend));
        machine.start().unwrap();
        let outcome = machine.wait();
        assert!(matches!(outcome, Outcome::DebugExit(2)), "port {port:#x}: {outcome}");
    }
}

#[test]
fn a_reset_ends_the_run_if_wished() {
    let kernel = resetting(0xcf9, 6);
    let machine = machine(MachineSpec { no_reboot: true, ..kernel.spec() }, Arc::new(NullBackend));
    machine.start().unwrap();
    assert!(matches!(machine.wait(), Outcome::Reset));
}

#[test]
fn a_reset_without_a_kernel_ends_the_run() {
    let kernel = Kernel::new(halt);
    let machine = kernel.machine();
    machine.start().unwrap();
    drop(kernel);
    machine.reset();
    let Outcome::Failed(why) = machine.wait() else { panic!() };
    assert!(why.contains("cannot be read"), "{why}");
}

#[test]
fn the_reset_button_boots_again() {
    let kernel = resetting(0x80, 0); // a port that resets nothing
    let machine = kernel.machine();
    machine.start().unwrap();
    while machine.pc().ram.load_u32(SCRATCH.into()) == Some(0) {
        sleep(Duration::from_millis(1));
    }
    machine.reset();
    assert!(matches!(machine.wait(), Outcome::DebugExit(2)));
}

#[test]
fn a_triple_fault_is_reported_with_its_place() {
    let kernel = Kernel::new(|a| {
        a.mov(ebx, 0x1234_5678)?;
        a.ud2() // without an IDT
    });
    let machine = kernel.machine();
    machine.start().unwrap();
    let Outcome::TripleFault(report) = machine.wait() else { panic!() };
    assert_eq!(report.state.rip, u64::from(ENTRY) + 10);
    assert_eq!(report.mode, "32-bit protected");
    assert_eq!(report.bytes[..2], [0x0f, 0x0b]);
    assert!(report.to_string().contains("rbx 0000000012345678"), "{report}");
}

#[test]
fn a_halted_guest_sleeps() {
    let kernel = Kernel::new(halt);
    let machine = machine(MachineSpec { cpus: 2, ..kernel.spec() }, Arc::new(NullBackend));
    machine.start().unwrap();
    sleep(Duration::from_millis(50));
    machine.press_power_button(); // an interrupt that nobody listens to
    sleep(Duration::from_millis(50));
    assert!(machine.exits() < 10, "{}", machine.exits());
    machine.stop();
    assert!(matches!(machine.wait(), Outcome::Stopped));
}

/// Counts in memory for ever.
fn counting() -> Kernel {
    Kernel::new(|a| {
        let mut forever = a.create_label();
        a.set_label(&mut forever)?;
        a.inc(dword_ptr(SCRATCH))?;
        a.jmp(forever)
    })
}

#[test]
fn a_paused_guest_stands_still_and_its_time_with_it() {
    let kernel = counting();
    let machine = machine(MachineSpec { cpus: 2, ..kernel.spec() }, Arc::new(NullBackend));
    machine.start().unwrap();
    assert!(matches!(machine.cpu_states(), Err(MachineError::State { .. })));
    let count = || machine.pc().ram.load_u32(SCRATCH.into()).unwrap();
    while count() == 0 {
        sleep(Duration::from_millis(1));
    }
    machine.pause().unwrap();
    let (paused, time) = (count(), machine.pc().clock.ns());
    sleep(Duration::from_millis(200));
    assert_eq!(count(), paused);
    assert_eq!(machine.cpu_states().unwrap()[0].rip & !0xf, u64::from(ENTRY));
    machine.resume();
    assert!(machine.pc().clock.ns() < time + 150_000_000);
    while count() == paused {
        sleep(Duration::from_millis(1));
    }
    machine.pause().unwrap();
    machine.pause().unwrap();
    drop(machine);
}

#[test]
fn states_can_be_replaced_in_a_pause() {
    let kernel = counting();
    let machine = kernel.machine();
    machine.start().unwrap();
    machine.pause().unwrap();
    let mut states = machine.cpu_states().unwrap();
    // out 0xf4, al; hlt
    machine.pc().ram.write(SCRATCH.into(), &[0xe6, 0xf4, 0xf4]).unwrap();
    states[0].rip = SCRATCH.into();
    states[0].gpr[0] = 9;
    machine.set_cpu_states(&states).unwrap();
    machine.resume();
    assert!(matches!(machine.wait(), Outcome::DebugExit(9)));
}

#[test]
fn moving_the_state_to_a_new_vcpu_goes_unnoticed() {
    let kernel = Kernel::new(|a| {
        let mut next = a.create_label();
        a.xor(eax, eax)?;
        a.mov(ecx, 5000)?;
        a.set_label(&mut next)?;
        a.add(eax, ecx)?;
        a.rol(eax, 3)?;
        a.dec(ecx)?;
        a.jnz(next)?;
        a.mov(dword_ptr(SCRATCH), eax)?;
        exit(a, 1)
    });
    let expected = (1..=5000u32).rev().fold(0u32, |sum, i| sum.wrapping_add(i).rotate_left(3));
    for every in [None, Some(1), Some(7), Some(1000)] {
        let machine = kernel.machine();
        machine.reload_cpu_states_every(every);
        machine.start().unwrap();
        assert!(matches!(machine.wait(), Outcome::DebugExit(1)));
        assert_eq!(machine.pc().ram.load_u32(SCRATCH.into()), Some(expected), "{every:?}");
        assert!((20_000..20_020).contains(&machine.instructions().unwrap()));
    }
}

#[test]
fn a_machine_is_started_once_and_stops_when_dropped() {
    let kernel = counting();
    let machine = kernel.machine();
    assert!(machine.pause().is_err());
    machine.start().unwrap();
    assert!(machine.start().is_err());
    drop(machine);
    assert!(matches!(kernel.machine().wait(), Outcome::Stopped), "never started");
}
