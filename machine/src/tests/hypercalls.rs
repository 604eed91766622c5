//! A paravirtual guest: it boots, speaks, tells its CPUs of events and ends by hypercalls alone.

use std::time::Duration;

use device::interrupt::InterruptFabric;
use device::{Action, Device, SaveRestore};

use super::*;
use crate::{ChannelState, Hypercalls, Outcome};

const VERSION: u32 = 0x4748_0000;
const WRITE: u32 = VERSION + 1;
const EXIT: u32 = VERSION + 2;
const YIELD: u32 = VERSION + 3;
const BIND: u32 = VERSION + 4;
const SEND: u32 = VERSION + 5;
const TAKE: u32 = VERSION + 6;

fn call(a: &mut CodeAssembler, number: u32, first: u32, second: u32) -> Result<(), IcedError> {
    a.mov(eax, number)?;
    a.mov(ebx, first)?;
    a.mov(ecx, second)?;
    a.vmcall()
}

/// The call has to answer this; otherwise the run ends with `line`.
fn expect(
    a: &mut CodeAssembler,
    line: u32,
    [number, first, second]: [u32; 3],
    answer: i32,
) -> Result<(), IcedError> {
    let mut right = a.create_label();
    call(a, number, first, second)?;
    a.cmp(eax, answer)?;
    a.je(right)?;
    call(a, EXIT, line, 0)?;
    a.set_label(&mut right)
}

#[test]
fn a_guest_lives_by_hypercalls_alone() {
    let greeting = "no device was touched\n";
    let kernel = Kernel::new(|a| {
        // Behind the start of the kernel, which is a MOV of five bytes, and a CALL of as many.
        let (mut begin, text_at) = (a.create_label(), ENTRY + 10);
        a.call(begin)?;
        a.db(greeting.as_bytes())?;
        a.set_label(&mut begin)?;
        expect(a, 1, [VERSION, 0, 0], 1)?;
        a.mov(ebx, text_at)?;
        a.mov(ecx, greeting.len() as u32)?;
        a.mov(eax, WRITE)?;
        a.vmcall()?;
        expect(a, 2, [WRITE, 0xffff_ff00, 16], -14)?;
        expect(a, 3, [WRITE, LOAD, 4097], -22)?;
        expect(a, 4, [YIELD, 0, 0], 0)?;
        expect(a, 5, [SEND, 0, 5], 0)?;
        expect(a, 6, [SEND, 0, 0], 0)?;
        expect(a, 7, [SEND, 0, 63], -22)?;
        expect(a, 8, [SEND, 9, 0], -2)?;
        expect(a, 9, [TAKE, 0, 0], 1 << 5 | 1)?;
        expect(a, 10, [TAKE, 0, 0], 0)?;
        expect(a, 11, [BIND, 31, 0], -22)?;
        expect(a, 12, [TAKE + 1, 0, 0], -1000)?;
        expect(a, 13, [12, 0, 0], -1000)?;
        call(a, EXIT, 0, 0)?;
        halt(a)
    });
    for kind in [EngineKind::Interp, EngineKind::Dbt] {
        let screen = Arc::new(Screen::default());
        let machine = machine_on(kind, kernel.spec(), screen.clone());
        machine.start().unwrap();
        let outcome = machine.wait();
        assert!(matches!(outcome, Outcome::DebugExit(0)), "{kind}: {outcome}");
        assert_eq!(String::from_utf8_lossy(&screen.text.lock()), greeting);
        let exits = machine.counters().exits;
        let count = |name| exits.iter().find(|(n, _)| *n == name).map(|(_, count)| *count);
        assert_eq!((count("port"), count("mmio")), (Some(0), Some(0)), "{kind}: {exits:?}");
        assert_eq!(count("hypercall"), Some(15), "{kind}");
    }
}

/// One after the other, the guest has the CPU for itself; an event of the second ends the wait of the first.
#[test]
fn an_event_reaches_another_cpu() {
    let ap = {
        let mut a = CodeAssembler::new(16).unwrap();
        let mut next = a.create_label();
        a.mov(ebx, 0u32).unwrap();
        a.mov(ecx, 7u32).unwrap();
        a.mov(eax, SEND).unwrap();
        a.vmcall().unwrap();
        a.set_label(&mut next).unwrap();
        a.mov(eax, YIELD).unwrap();
        a.vmcall().unwrap();
        a.jmp(next).unwrap();
        a.assemble(0).unwrap()
    };
    let kernel = Kernel::new(|a| {
        let mut wait = a.create_label();
        smp::wake(a, &ap)?;
        a.set_label(&mut wait)?;
        call(a, YIELD, 0, 0)?;
        call(a, TAKE, 0, 0)?;
        a.test(eax, eax)?;
        a.jz(wait)?;
        a.mov(ebx, eax)?;
        a.mov(eax, EXIT)?;
        a.vmcall()?;
        halt(a)
    });
    for kind in [EngineKind::Interp, EngineKind::Dbt] {
        let spec = MachineSpec { cpus: 2, ..kernel.spec() };
        let machine = machine_on(kind, spec, Arc::new(NullBackend));
        machine.start().unwrap();
        let outcome = machine.wait();
        assert!(matches!(outcome, Outcome::DebugExit(0x80)), "{kind}: {outcome}");
    }
}

#[test]
fn the_generation_is_in_ram_and_changes() {
    let kernel = Kernel::new(halt);
    let machine = kernel.machine();
    let generation = machine.pc().generation.clone();
    let seen = || {
        let mut bytes = [0; 16];
        machine.pc().ram.read(boot::acpi::GENERATION, &mut bytes).unwrap();
        bytes
    };
    let first = generation.value();
    assert!(seen() == first && first != [0; 16]);
    generation.set([7; 16]);
    assert_eq!(seen(), [7; 16]);
    generation.renew();
    assert!(seen() == generation.value() && seen() != [7; 16] && seen() != first);
    // A reset does not make another guest, and undoes what the guest has done to the page.
    machine.pc().ram.write(boot::acpi::GENERATION, &[0; 16]).unwrap();
    machine.start().unwrap();
    machine.reset();
    machine.pause().unwrap();
    let start = std::time::Instant::now();
    while seen() != generation.value() {
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn events_are_saved_and_come_back() {
    let clock = Arc::new(cpu::Clock::new());
    let ram = Arc::new(memory::GuestRam::new(2 << 20).unwrap());
    let make = || {
        let signals = [(); 2].map(|()| Arc::new(cpu::Signals::new()));
        let fabric = InterruptFabric::new(&clock, signals);
        Hypercalls::new(ram.clone(), Arc::new(NullBackend), fabric, 2)
    };
    let ask = |calls: &Hypercalls, cpu, number: u32, first, second| {
        let call = cpu::Hypercall { number: number.into(), arguments: [first, second, 0, 0] };
        calls.call(cpu, &call)
    };
    let calls = make();
    assert_eq!(ask(&calls, 1, BIND, 40, 0), (0, Action::None));
    assert_eq!(ask(&calls, 0, SEND, 1, 62), (0, Action::None));
    let saved = calls.save();
    assert_eq!(saved[1], ChannelState { pending: 1 << 62, vector: 40 });
    let other = make();
    other.restore(&saved).unwrap();
    assert_eq!(other.save(), saved);
    assert_eq!(ask(&other, 1, TAKE, 0, 0), (1 << 62, Action::None));
    for wrong in [
        vec![],
        vec![saved[0]; 3],
        vec![saved[0], ChannelState { pending: 1 << 63, vector: 0 }],
        vec![saved[0], ChannelState { pending: 0, vector: 31 }],
    ] {
        assert!(make().restore(&wrong).is_err(), "{wrong:?}");
    }
    calls.reset();
    assert_eq!(calls.save(), vec![saved[0]; 2]);
}
