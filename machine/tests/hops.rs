//! A guest of our own hops from KVM to the translator, to the interpreter and back to KVM, all the time: ring 0 sets
//! everything up, ring 3 computes with integers, SSE and AVX while its pages go and come and a timer interrupts it. All that
//! it has computed has to be right in the end.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cases::board::layout::{DATA, GDT, IDT, PAGE, PML4, RAM, pte, sel};
use cases::board::{Asm, BoardCase, Outcome, Program};
use cpu::Engine;
use cpu::x86::{cr4, xcr0};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use machine::snapshot::{After, Files, How, Paths, file};
use machine::{Backends, Irqchip, Machine, MachineSpec, NullBackend, Size, Snapshot, engine};

const MOVES: usize = 1000;
/// Time with an engine.
const STAY: Duration = Duration::from_millis(1);
/// Steps of a round.
const STEPS: u32 = 5000;
const FACTOR: u64 = 6_364_136_223_846_793_005;
const ADDEND: u64 = 1_442_695_040_888_963_407;

/// Ring 3's pages: code, data, one that comes and goes, stack.
const USER_CODE: u64 = PAGE;
const USER_DATA: u64 = PAGE + 0x1000;
const FLEETING: u64 = PAGE + 0x2000;
const USER_STACK: u64 = PAGE + 0x4000;

/// Words of the data page: set by the host to stop; rounds; what the rounds gave.
const STOP: u64 = USER_DATA;
const ROUNDS: u64 = USER_DATA + 0x40;
const INTEGER: u64 = USER_DATA + 0x80;
const SSE: u64 = USER_DATA + 0xc0;
const AVX: u64 = USER_DATA + 0x100;
/// Ring 0's words.
const FAULTS: u64 = DATA;
const TICKS: u64 = DATA + 8;
const TSS: u64 = DATA + 0x1000;
const RING0_STACK: u64 = DATA + 0x3000;

const USER_DATA_SELECTOR: u16 = 0x2b;
const USER_CODE_SELECTOR: u16 = 0x33;
const TSS_SELECTOR: u16 = 0x38;
const VECTOR: u32 = 0x40;
const LINT0: u32 = 0x350;
const LINT0_MASKED: u32 = 1 << 16;
/// Of the timer, in nanoseconds.
const PERIOD: u32 = 2_000_000;

/// The same in counts of the 8254.
const PIT_PERIOD: u32 = 2386;

/// What interrupts the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    /// The local APIC's, started again by each of its interrupts: if one is lost, there are no more.
    OneShot,
    /// The local APIC's.
    Periodic,
    /// The 8254, by the I/O APIC.
    Ioapic,
    /// The 8254, by the 8259.
    Pic,
}

impl Timer {
    fn start(self, a: &mut Asm) -> Done {
        match self {
            Self::OneShot | Self::Periodic => {
                let mode = if self == Self::Periodic { 1 << 17 } else { 0 };
                a.set_apic(0x3e0, 0xb)?;
                a.set_apic(0x320, mode | VECTOR)?;
                a.set_apic(0x380, PERIOD)
            }
            Self::Ioapic => {
                a.set_apic(LINT0, LINT0_MASKED)?;
                a.route(2, 0, VECTOR)?;
                a.pit(2, PIT_PERIOD)
            }
            Self::Pic => {
                a.init_pic(1 << 0)?;
                a.pit(2, PIT_PERIOD)
            }
        }
    }

    /// At the end of its interrupt.
    fn end(self, a: &mut Asm) -> Done {
        if self == Self::Pic { a.outb(0x20, 0x20) } else { a.eoi() }
    }

    fn vector(self) -> u8 {
        if self == Self::Pic { 0x20 } else { VECTOR as u8 }
    }
}

type Done = Result<(), IcedError>;

/// An interrupt gate to 64-bit code of ring 0.
fn gate(p: &mut Program, vector: u64, to: u64) {
    let low = to & 0xffff | u64::from(sel::CODE64) << 16 | 0x8e << 40 | (to & 0xffff_0000) << 32;
    p.put_u64(IDT + vector * 16, low);
    p.put_u64(IDT + vector * 16 + 8, to >> 32);
}

/// Makes a word of memory have more bits. Changes RAX.
fn set_bits(a: &mut Asm, at: u64, bits: i32) -> Done {
    a.mov(rax, qword_ptr(at))?;
    a.or(rax, bits)?;
    a.mov(qword_ptr(at), rax)
}

fn ring0(a: &mut Asm, timer: Timer) -> Done {
    // Everything on the way to ring 3's pages is ring 3's.
    set_bits(a, PML4, 4)?;
    a.mov(rbx, qword_ptr(PML4))?;
    a.and(rbx, -0x1000)?;
    a.or(qword_ptr(rbx), 4)?;
    a.mov(rbx, qword_ptr(rbx))?;
    a.and(rbx, -0x1000)?;
    a.or(qword_ptr(rbx + 8), 4)?; // 2 MiB to 4 MiB
    for page in [USER_CODE, USER_DATA, FLEETING, USER_STACK - 0x1000] {
        set_bits(a, pte(page), 4)?;
    }
    a.mov(rax, cr3)?;
    a.mov(cr3, rax)?;
    // Descriptors and a stack for the way back.
    let limit = 0x67;
    let tss = limit | (TSS & 0xff_ffff) << 16 | 0x89 << 40 | (TSS >> 24 & 0xff) << 56;
    let user = 0x0000_f300_0000_0000 | 0x00cf << 48 | 0xffff;
    let code = 0x0000_fb00_0000_0000 | 0x00af << 48 | 0xffff;
    for (selector, descriptor) in
        [(USER_DATA_SELECTOR, user), (USER_CODE_SELECTOR, code), (TSS_SELECTOR, tss)]
    {
        a.mov(rax, descriptor)?;
        a.mov(qword_ptr(GDT + u64::from(selector & !7)), rax)?;
    }
    a.mov(qword_ptr(GDT + u64::from(TSS_SELECTOR) + 8), 0)?;
    a.mov(rax, RING0_STACK)?;
    a.mov(qword_ptr(TSS + 4), rax)?;
    // GDTR on the stack: limit and base.
    a.sub(rsp, 16)?;
    a.mov(word_ptr(rsp), 0x4f)?;
    a.mov(rax, GDT)?;
    a.mov(qword_ptr(rsp + 2), rax)?;
    a.lgdt(tbyte_ptr(rsp))?;
    a.mov(eax, u32::from(TSS_SELECTOR))?;
    a.ltr(ax)?;
    // SSE and AVX.
    a.mov(rax, cr4)?;
    a.or(rax, (cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE) as i32)?;
    a.mov(cr4, rax)?;
    a.xor(ecx, ecx)?;
    a.xor(edx, edx)?;
    a.mov(eax, (xcr0::X87 | xcr0::SSE | xcr0::AVX) as u32)?;
    a.xsetbv()?;
    timer.start(a)?;
    // To ring 3.
    a.mov(rax, u64::from(USER_DATA_SELECTOR))?;
    a.push(rax)?;
    a.mov(rax, USER_STACK)?;
    a.push(rax)?;
    a.push(0x202)?;
    a.mov(rax, u64::from(USER_CODE_SELECTOR))?;
    a.push(rax)?;
    a.mov(rax, USER_CODE)?;
    a.push(rax)?;
    a.iretq()
}

fn ring3(a: &mut CodeAssembler) -> Done {
    let (mut round, mut step) = (a.create_label(), a.create_label());
    a.mov(rbx, FACTOR)?;
    a.mov(rcx, ADDEND)?;
    a.mov(r8, rcx)?; // the integer
    a.pxor(xmm0, xmm0)?;
    a.movq(xmm1, rbx)?;
    a.vpxor(ymm2, ymm2, ymm2)?;
    a.vpcmpeqd(ymm3, ymm3, ymm3)?;
    a.set_label(&mut round)?;
    a.mov(esi, STEPS)?;
    a.set_label(&mut step)?;
    a.imul_2(r8, rbx)?;
    a.add(r8, rcx)?;
    a.paddq(xmm0, xmm1)?;
    a.vpsubq(ymm2, ymm2, ymm3)?; // one more in each of four
    a.dec(esi)?;
    a.jnz(step)?;
    a.mov(qword_ptr(INTEGER), r8)?;
    a.movq(qword_ptr(SSE), xmm0)?;
    a.vmovdqu(ymmword_ptr(AVX), ymm2)?;
    a.inc(qword_ptr(ROUNDS))?;
    a.mov(qword_ptr(FLEETING), r8)?;
    a.cmp(qword_ptr(STOP), 0)?;
    a.je(round)?;
    a.ud2()
}

fn build(p: &mut Program, timer: Timer) -> Done {
    let code = {
        let mut asm = CodeAssembler::new(64)?;
        ring3(&mut asm)?;
        asm.assemble(USER_CODE)?
    };
    // Its page is behind the image: ring 0 copies it there.
    let words: Vec<u64> = code
        .chunks(8)
        .map(|chunk| {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(bytes)
        })
        .collect();
    p.cpu(0, |a| {
        for (i, word) in words.iter().enumerate() {
            a.mov(rax, *word)?;
            a.mov(qword_ptr(USER_CODE + i as u64 * 8), rax)?;
        }
        ring0(a, timer)
    })?;
    p.on(timer.vector(), |a| {
        a.inc(qword_ptr(TICKS))?;
        if timer == Timer::OneShot {
            a.set_apic(0x380, PERIOD)?;
        }
        a.mov(rax, qword_ptr(pte(FLEETING)))?;
        a.and(rax, -2)?;
        a.mov(qword_ptr(pte(FLEETING)), rax)?;
        a.invlpg(byte_ptr(FLEETING))?;
        timer.end(a)
    })?;
    let fault = p.piece(|a| {
        a.push(rax)?;
        a.inc(qword_ptr(FAULTS))?;
        set_bits(a, pte(FLEETING), 1)?;
        a.pop(rax)?;
        a.add(rsp, 8)?;
        a.iretq()
    })?;
    gate(p, 14, fault);
    let end = p.piece(|a| a.exit(0))?;
    gate(p, 6, end);
    Ok(())
}

fn backends() -> Backends {
    let nothing = Arc::new(NullBackend);
    Backends { console: nothing.clone(), terminal: nothing.clone(), debug: nothing }
}

fn machine(engine: &dyn Engine, irqchip: Irqchip, timer: Timer) -> (Machine, tempfile::NamedTempFile) {
    let case = BoardCase {
        name: "hops",
        cpus: 1,
        build: match timer {
            Timer::OneShot => |p| build(p, Timer::OneShot),
            Timer::Periodic => |p| build(p, Timer::Periodic),
            Timer::Ioapic => |p| build(p, Timer::Ioapic),
            Timer::Pic => |p| build(p, Timer::Pic),
        },
        outcome: Outcome::Exit(0),
        expect: &[],
        power_button: false,
        limit: Duration::from_secs(60),
    };
    let mut kernel = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut kernel, &case.image().unwrap()).unwrap();
    let spec = MachineSpec {
        kernel: kernel.path().to_owned(),
        memory: Size::bytes(RAM),
        irqchip,
        ..MachineSpec::default()
    };
    let machine = Machine::new(spec, engine, backends()).unwrap();
    machine.start().unwrap();
    (machine, kernel)
}

/// Has the guest end, and checks all that it did; rounds, ticks and faults.
fn conclude(machine: &Machine) -> [u64; 3] {
    let ram = machine.pc().ram.clone();
    let word = |at| ram.load_u64(at).unwrap();
    let start = Instant::now();
    while word(ROUNDS) == 0 && machine.outcome().is_none() && start.elapsed() < Duration::from_secs(30) {
        sleep(Duration::from_millis(1));
    }
    ram.store_u64(STOP, 1);
    while machine.outcome().is_none() && start.elapsed() < Duration::from_secs(60) {
        sleep(Duration::from_millis(1));
    }
    let states = machine.cpu_states();
    machine.stop();
    let outcome = machine.wait();
    assert!(matches!(outcome, machine::Outcome::DebugExit(0)), "{outcome}: {states:x?}");
    let rounds = word(ROUNDS);
    let steps = rounds * u64::from(STEPS);
    let integer = (0..steps).fold(ADDEND, |x, _| x.wrapping_mul(FACTOR).wrapping_add(ADDEND));
    assert_eq!(word(INTEGER), integer);
    assert_eq!(word(SSE), FACTOR.wrapping_mul(steps));
    for lane in 0..4 {
        assert_eq!(word(AVX + lane * 8), steps);
    }
    [rounds, word(TICKS), word(FAULTS)]
}

#[test]
fn the_guest_is_right_on_each_engine() {
    for engine in engine::all() {
        for irqchip in [Irqchip::Userspace, Irqchip::Split, Irqchip::Kernel] {
            for timer in [Timer::Periodic, Timer::Ioapic, Timer::Pic] {
                let (machine, _kernel) = machine(engine.as_ref(), irqchip, timer);
                wait_for_tick(&machine, 10);
                let [rounds, ticks, faults] = conclude(&machine);
                let name = engine.name();
                println!("{name}, {irqchip}, {timer:?}: {rounds} rounds, {ticks} ticks, {faults} faults");
                assert!(rounds > 0 && ticks > 0 && faults > 0);
            }
        }
    }
}

#[test]
fn hops_between_all_engines_leave_it_right() {
    hop(Irqchip::Userspace, Timer::Periodic, MOVES);
}

#[test]
fn so_do_hops_from_and_to_local_apics_of_the_kernels() {
    hop(Irqchip::Split, Timer::Periodic, MOVES / 5);
}

#[test]
fn so_do_hops_from_and_to_all_controllers_of_the_kernels() {
    hop(Irqchip::Kernel, Timer::Ioapic, MOVES);
    hop(Irqchip::Kernel, Timer::Pic, MOVES / 5);
}

#[test]
fn controllers_of_ours_go_on_beside_local_apics_of_the_kernels() {
    hop(Irqchip::Split, Timer::Ioapic, MOVES / 5);
    hop(Irqchip::Split, Timer::Pic, MOVES / 5);
}

#[test]
fn no_timer_is_lost_on_the_way() {
    hop(Irqchip::Split, Timer::OneShot, MOVES);
}

/// On to the next tick.
fn ticks_on(machine: &Machine) {
    wait_for_tick(machine, machine.pc().ram.load_u64(TICKS).unwrap() + 1);
}

#[test]
fn pauses_and_snapshots_leave_timers_running_on_any_engine() {
    stand_still_on_any_engine(Irqchip::Split, Timer::OneShot);
    stand_still_on_any_engine(Irqchip::Kernel, Timer::Ioapic);
    stand_still_on_any_engine(Irqchip::Kernel, Timer::Pic);
}

fn stand_still_on_any_engine(irqchip: Irqchip, timer: Timer) {
    for from in engine::all() {
        let (machine, _kernel) = machine(from.as_ref(), irqchip, timer);
        ticks_on(&machine);
        machine.pause().unwrap();
        sleep(5 * STAY);
        machine.resume();
        ticks_on(&machine);
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| File::create(folder.path().join(name)).unwrap();
        let (state, memory) = (make(file::STATE), Some(make(file::MEMORY)));
        let files = Files { state, memory, how: How::Still, disks: Vec::new() };
        machine.snapshot(&files, After::GoOn).unwrap();
        ticks_on(&machine);
        conclude(&machine);
        for to in engine::all() {
            let snapshot = Snapshot::open(Paths::in_folder(folder.path())).unwrap();
            let machine = Machine::restore(&snapshot, snapshot.spec(), to.as_ref(), backends()).unwrap();
            machine.start().unwrap();
            ticks_on(&machine);
            conclude(&machine);
        }
    }
}

#[test]
fn a_reset_begins_with_controllers_that_are_reset() {
    for timer in [Timer::Ioapic, Timer::Pic] {
        let (machine, _kernel) = machine(engine::all()[0].as_ref(), Irqchip::Kernel, timer);
        for _ in 0..3 {
            wait_for_tick(&machine, 3);
            machine.pause().unwrap();
            machine.pc().ram.store_u64(TICKS, 0);
            machine.reset();
            machine.resume();
        }
        wait_for_tick(&machine, 3);
    }
}

fn wait_for_tick(machine: &Machine, number: u64) {
    let start = Instant::now();
    let ticks = || machine.pc().ram.load_u64(TICKS).unwrap();
    while ticks() < number {
        assert!(start.elapsed() < Duration::from_secs(30), "there is no tick {number} after {}", ticks());
        sleep(STAY);
    }
}

fn hop(irqchip: Irqchip, timer: Timer, moves: usize) {
    let engines = engine::all();
    let (machine, _kernel) = machine(engines[0].as_ref(), irqchip, timer);
    let start = Instant::now();
    for engine in (0..engines.len()).cycle().skip(1).take(moves).map(|i| &engines[i]) {
        sleep(STAY);
        machine.move_to(engine.as_ref()).unwrap();
        assert_eq!(machine.engine(), engine.name());
    }
    let took = start.elapsed();
    ticks_on(&machine);
    let [rounds, ticks, faults] = conclude(&machine);
    println!("{moves} moves in {took:?}: {rounds} rounds, {ticks} ticks, {faults} faults");
    assert!(ticks > 10 && faults > 10, "{ticks} {faults}");
}
