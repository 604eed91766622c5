//! A paravirtual guest: it boots, speaks, tells its CPUs of events and ends by hypercalls alone.

mod port;

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

/// Spurious-interrupt vector register: bit 8 is the local APIC's switch.
const SPURIOUS: u32 = 0xfee0_00f0;
const PORT: u32 = cpu::Hypercall::PORT as u32;
/// Where a CPU has its block, in reach of 16-bit code.
const BLOCKS: [u32; 2] = [0x9100, 0x9200];

/// How a guest calls.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Vmcall,
    Port,
}

/// All that there are here: KVM answers VMCALL itself.
fn ways() -> Vec<(Way, EngineKind)> {
    let engines = [EngineKind::Interp, EngineKind::Dbt];
    let mut ways = [Way::Vmcall, Way::Port].map(|way| engines.map(|engine| (way, engine))).concat();
    if std::path::Path::new("/dev/kvm").exists() {
        ways.push((Way::Port, EngineKind::Kvm));
    } else {
        eprintln!("there is no /dev/kvm here");
    }
    ways
}

impl Way {
    fn call(self, a: &mut CodeAssembler, number: u32, first: u32, second: u32) -> Result<(), IcedError> {
        a.mov(ebx, first)?;
        self.call_ebx(a, 0, number, second)
    }

    /// A CPU's call with EBX as the first argument.
    fn call_ebx(self, a: &mut CodeAssembler, cpu: usize, number: u32, second: u32) -> Result<(), IcedError> {
        let block = BLOCKS[cpu];
        match self {
            Self::Vmcall => {
                a.mov(ecx, second)?;
                a.mov(eax, number)?;
                a.vmcall()
            }
            Self::Port => {
                a.mov(dword_ptr(block), number)?;
                a.mov(dword_ptr(block + 8), ebx)?;
                a.mov(dword_ptr(block + 16), second)?;
                a.mov(eax, block)?;
                a.out(PORT, eax)?;
                a.mov(eax, dword_ptr(block + 24))
            }
        }
    }

    /// The call has to answer this; otherwise the run ends with `line`.
    fn expect(
        self,
        a: &mut CodeAssembler,
        line: u32,
        [number, first, second]: [u32; 3],
        answer: i32,
    ) -> Result<(), IcedError> {
        let mut right = a.create_label();
        self.call(a, number, first, second)?;
        a.cmp(eax, answer)?;
        a.je(right)?;
        self.call(a, EXIT, line, 0)?;
        a.set_label(&mut right)
    }
}

#[test]
fn a_guest_lives_by_hypercalls_alone() {
    let greeting = "no device was touched\n";
    for (way, kind) in ways() {
        let kernel = Kernel::new(|a| {
            // Behind the start of the kernel, which is a MOV of five bytes, and a CALL of as many.
            let (mut begin, text_at) = (a.create_label(), ENTRY + 10);
            a.call(begin)?;
            a.db(greeting.as_bytes())?;
            a.set_label(&mut begin)?;
            way.expect(a, 1, [VERSION, 0, 0], 2)?;
            way.call(a, WRITE, text_at, greeting.len() as u32)?;
            way.expect(a, 2, [WRITE, 0xffff_ff00, 16], -14)?;
            way.expect(a, 3, [WRITE, LOAD, 4097], -22)?;
            way.expect(a, 4, [YIELD, 0, 0], 0)?;
            way.expect(a, 5, [SEND, 0, 5], 0)?;
            way.expect(a, 6, [SEND, 0, 0], 0)?;
            way.expect(a, 7, [SEND, 0, 63], -22)?;
            way.expect(a, 8, [SEND, 9, 0], -2)?;
            way.expect(a, 9, [TAKE, 0, 0], 1 << 5 | 1)?;
            way.expect(a, 10, [TAKE, 0, 0], 0)?;
            way.expect(a, 11, [BIND, 31, 0], -22)?;
            way.expect(a, 12, [TAKE + 1, 0, 0], -1000)?;
            way.expect(a, 13, [12, 0, 0], -1000)?;
            way.call(a, EXIT, 0, 0)?;
            halt(a)
        });
        let screen = Arc::new(Screen::default());
        let machine = machine_on(kind, kernel.spec(), screen.clone());
        machine.start().unwrap();
        let outcome = machine.wait();
        assert!(matches!(outcome, Outcome::DebugExit(0)), "{way:?} {kind}: {outcome}");
        assert_eq!(String::from_utf8_lossy(&screen.text.lock()), greeting);
        let exits = machine.counters().exits;
        let count = |name| exits.iter().find(|(n, _)| *n == name).map(|(_, count)| *count);
        assert_eq!((count("port"), count("mmio")), (Some(0), Some(0)), "{way:?} {kind}: {exits:?}");
        assert_eq!(count("hypercall"), Some(15), "{way:?} {kind}");
    }
}

/// An event of the second CPU ends the wait of the first, which looks for it in a loop or is halted.
#[test]
fn an_event_reaches_another_cpu() {
    for ((way, kind), bound) in ways().into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let ap = {
            let mut a = CodeAssembler::new(16).unwrap();
            let mut next = a.create_label();
            a.xor(ax, ax).unwrap();
            a.mov(ds, ax).unwrap();
            // The event that it sends itself is its own, 1, and less 1 the other's number.
            a.mov(ebx, 1).unwrap();
            way.call_ebx(&mut a, 1, SEND, 0).unwrap();
            way.call_ebx(&mut a, 1, TAKE, 0).unwrap();
            a.lea(ebx, dword_ptr(eax - 1)).unwrap();
            way.call_ebx(&mut a, 1, SEND, 7).unwrap();
            a.set_label(&mut next).unwrap();
            way.call_ebx(&mut a, 1, YIELD, 0).unwrap();
            a.jmp(next).unwrap();
            a.assemble(0).unwrap()
        };
        let take = |a: &mut CodeAssembler| {
            way.call(a, TAKE, 0, 0)?;
            a.test(eax, eax)
        };
        let leave = |a: &mut CodeAssembler| {
            a.mov(ebx, eax)?;
            way.call_ebx(a, 0, EXIT, 0)
        };
        let kernel = Kernel::new(|a| {
            let mut wait = a.create_label();
            if bound {
                parts::gate(a, 0x40, |a| {
                    take(a)?;
                    leave(a)
                })?;
                a.mov(dword_ptr(SPURIOUS), 0x1ffu32)?;
                way.call(a, BIND, 0x40, 0)?;
                // Of the 8259s and their timer nothing is to come.
                out(a, 0x21, 0xff)?;
                smp::wake(a, &ap)?;
                a.sti()?;
                a.set_label(&mut wait)?;
                a.hlt()?;
                return a.jmp(wait);
            }
            smp::wake(a, &ap)?;
            a.set_label(&mut wait)?;
            way.call(a, YIELD, 0, 0)?;
            take(a)?;
            a.jz(wait)?;
            leave(a)?;
            halt(a)
        });
        let spec = MachineSpec { cpus: 2, ..kernel.spec() };
        let machine = machine_on(kind, spec, Arc::new(NullBackend));
        machine.start().unwrap();
        let outcome = machine.wait();
        assert!(matches!(outcome, Outcome::DebugExit(0x80)), "{way:?} {kind} {bound}: {outcome}");
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

/// For two CPUs, without a machine.
fn with_cpus(ram: &Arc<memory::GuestRam>) -> Hypercalls {
    let signals = [(); 2].map(|()| Arc::new(cpu::Signals::new()));
    let fabric = InterruptFabric::new(&Arc::new(cpu::Clock::new()), signals);
    Hypercalls::new(ram.clone(), Arc::new(NullBackend), fabric, 2)
}

#[test]
fn events_are_saved_and_come_back() {
    let ram = Arc::new(memory::GuestRam::new(2 << 20).unwrap());
    let make = || with_cpus(&ram);
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
