//! How a machine ends or begins anew.

use cpu::x86::msr;
use iced_x86::code_asm::*;

use crate::board::asm::Done;
use crate::board::layout::*;
use crate::board::part::*;
use crate::board::{Asm, BoardCase, Expect, Outcome, Program};

const BASE: BoardCase = BoardCase::BASE;
/// Counts the boots.
const BOOTS: u64 = DATA;

/// Does `first` in the first boot, which is to reset the machine; the second one does `second` and ends.
fn twice(
    p: &mut Program,
    first: impl FnOnce(&mut Asm) -> Done,
    second: impl FnOnce(&mut Asm) -> Done,
) -> Done {
    p.cpu(0, |a| {
        let mut again = a.create_label();
        a.inc(qword_ptr(BOOTS))?;
        a.cmp(qword_ptr(BOOTS), 1)?;
        a.jne(again)?;
        first(a)?;
        a.park()?;
        a.set_label(&mut again)?;
        a.check_word(BOOTS, 2)?;
        second(a)
    })
}

fn nothing(_: &mut Asm) -> Done {
    Ok(())
}

/// RBX: the FADT, found as kernels find it.
fn find_fadt(a: &mut Asm) -> Done {
    a.mov(esi, 0xe_0000)?;
    a.mov(rax, u64::from_le_bytes(*b"RSD PTR "))?;
    a.repeat(|a, again, end| {
        a.cmp(qword_ptr(rsi), rax)?;
        a.je(end)?;
        a.add(esi, 16)?;
        a.cmp(esi, 0x10_0000)?;
        a.check(|a, good| a.jb(good))?;
        a.jmp(again)
    })?;
    let mut have = a.create_label();
    a.mov(ecx, 4)?;
    a.mov(ebx, dword_ptr(rsi + 16))?; // RSDT
    a.cmp(byte_ptr(rsi + 15), 2)?;
    a.jb(have)?;
    a.mov(ecx, 8)?;
    a.mov(rbx, qword_ptr(rsi + 24))?; // XSDT
    a.set_label(&mut have)?;
    a.mov(edx, dword_ptr(rbx + 4))?;
    a.add(rdx, rbx)?;
    a.add(rbx, 36)?;
    a.repeat(|a, again, end| {
        a.cmp(rbx, rdx)?;
        a.check(|a, good| a.jb(good))?;
        a.mov(eax, dword_ptr(rbx))?;
        a.cmp(dword_ptr(rax), u32::from_le_bytes(*b"FACP"))?;
        a.je(end)?;
        a.add(rbx, rcx)?;
        a.jmp(again)
    })?;
    a.mov(ebx, eax)
}

/// Writes SLP_TYP and SLP_EN of S5 to PM1a_CNT, both as the tables say.
fn power_off_by_tables(a: &mut Asm) -> Done {
    find_fadt(a)?;
    a.mov(esi, dword_ptr(rbx + 40))?; // DSDT
    a.mov(ecx, dword_ptr(rsi + 4))?;
    a.add(ecx, esi)?;
    a.repeat(|a, again, end| {
        a.cmp(dword_ptr(rsi), u32::from_le_bytes(*b"_S5_"))?;
        a.je(end)?;
        a.inc(esi)?;
        a.cmp(esi, ecx)?;
        a.check(|a, good| a.jb(good))?;
        a.jmp(again)
    })?;
    let mut value = a.create_label();
    a.movzx(eax, byte_ptr(rsi + 4))?;
    a.check_eax(0x12)?; // a package, of fewer than 64 bytes
    a.movzx(eax, byte_ptr(rsi + 7))?;
    a.cmp(al, 0x0a)?;
    a.jne(value)?;
    a.movzx(eax, byte_ptr(rsi + 8))?;
    a.set_label(&mut value)?;
    a.shl(eax, 10)?;
    a.or(eax, 0x2000)?;
    a.mov(edx, dword_ptr(rbx + 64))?; // PM1a_CNT
    a.out(dx, ax)
}

/// Every exception is one more: a triple fault.
fn triple_fault(a: &mut Asm) -> Done {
    a.mov(qword_ptr(SPARE), 0)?;
    a.lidt(tword_ptr(SPARE))?;
    a.ud2()
}

const SPARE: u64 = DATA + 0x100;

/// A case that resets the machine once by a port.
macro_rules! reset_by_port {
    ($name:literal, $port:expr, $value:expr) => {
        BoardCase {
            name: $name,
            build: |p| twice(p, |a| a.outb($port, $value), nothing),
            expect: &[Expect::Mem(BOOTS, 2)],
            ..BASE
        }
    };
}

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "the debug-exit port ends the run with its value",
        build: |p| p.cpu(0, |a| a.exit(0x5a)),
        outcome: Outcome::Exit(0x5a),
        ..BASE
    },
    BoardCase {
        name: "a wide write to the debug-exit port counts with its low byte, whichever CPU writes",
        cpus: 3,
        build: |p| {
            p.cpu(2, |a| {
                a.mov(eax, 0x1234_5677)?;
                a.out(DEBUG_EXIT, eax)
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.park()
            })
        },
        outcome: Outcome::Exit(0x77),
        ..BASE
    },
    reset_by_port!("the keyboard controller resets the machine", I8042, 0xfe),
    reset_by_port!("the reset control register resets the machine", RESET_CONTROL, 6),
    reset_by_port!("the reset control register resets the machine, in full", RESET_CONTROL, 0xe),
    reset_by_port!("system control port A resets the machine", PORT_92, 3),
    BoardCase {
        name: "ACPI's reset register resets the machine",
        build: |p| {
            let reset = |a: &mut Asm| {
                find_fadt(a)?;
                a.mov(eax, dword_ptr(rbx + 112))?;
                a.check_bits(1 << 10, true)?; // it is there
                a.movzx(eax, byte_ptr(rbx + 116))?;
                a.check_eax(1)?; // in port space
                a.mov(edx, dword_ptr(rbx + 120))?;
                a.mov(al, byte_ptr(rbx + 128))?;
                a.out(dx, al)
            };
            twice(p, reset, nothing)
        },
        ..BASE
    },
    BoardCase {
        name: "INIT to the boot processor resets the machine",
        cpus: 2,
        build: |p| {
            p.cpu(1, |a| a.ipi(0, icr::INIT))?;
            twice(p, |a| a.start_others(), nothing)
        },
        ..BASE
    },
    BoardCase {
        name: "a reset finds every CPU, wherever it is, and all start again",
        cpus: 4,
        build: |p| {
            p.on(2, |a| {
                a.lock().inc(qword_ptr(SPARE))?;
                a.park()
            })?;
            p.cpu(1, |a| {
                a.set_apic(apic::ICR, icr::SELF | icr::NMI)?;
                a.park()
            })?;
            p.cpu(2, |a| {
                a.lock().inc(qword_ptr(SPARE))?;
                let mut forever = a.create_label();
                a.set_label(&mut forever)?;
                a.jmp(forever)
            })?;
            // CPU 3 halts with interrupts off.
            let first = |a: &mut Asm| {
                a.start_others()?;
                a.wait(SPARE, 2)?;
                a.outb(RESET_CONTROL, 6)
            };
            twice(p, first, |a| {
                a.start_others()?;
                a.wait(STARTED, 6)?;
                a.wait(SPARE, 4)
            })
        },
        expect: &[
            Expect::Mem(BOOTS, 2),
            Expect::Mem(STARTED, 6),
            Expect::State(1, "the NMI is in service", |s| s.events.nmi_blocked),
        ],
        ..BASE
    },
    BoardCase {
        name: "another CPU than the first resets the machine",
        cpus: 2,
        build: |p| {
            p.cpu(1, |a| a.outb(I8042, 0xfe))?;
            twice(p, |a| a.start_others(), nothing)
        },
        ..BASE
    },
    BoardCase {
        name: "a reset leaves nothing of the interrupt controllers and timers",
        build: |p| {
            let first = |a: &mut Asm| {
                a.init_pic(0x101)?;
                a.pit(2, 1000)?;
                a.route(2, 0, 0x42)?;
                a.set_rtc(0x0b, 0x42)?;
                a.mov(edx, PM1_ENABLE)?;
                a.mov(eax, 0x120)?;
                a.out(dx, ax)?;
                a.set_apic(apic::TPR, 0x30)?;
                a.set_apic(apic::LDR, 0x0100_0000)?;
                a.set_apic(apic::LVT_TIMER, apic::PERIODIC | 0x70)?;
                a.set_apic(apic::INITIAL, 1000)?;
                a.wait_vector(apic::irr(0x70))?;
                a.set_msr(msr::APIC_BASE, 0xfee0_0d00)?;
                a.outb(RESET_CONTROL, 6)
            };
            twice(p, first, |a| {
                a.msr(msr::APIC_BASE)?;
                a.check_eax(0xfee0_0900)?;
                for (register, value) in [
                    (apic::TPR, 0),
                    (apic::LDR, 0),
                    (apic::LVT_TIMER, apic::MASKED),
                    (apic::INITIAL, 0),
                    (apic::CURRENT, 0),
                    (apic::irr(0x70).0, 0),
                    (apic::irr(0x42).0, 0),
                ] {
                    a.apic(register)?;
                    a.check_eax(value)?;
                }
                a.ioapic(0x14)?;
                a.check_bits(1 << 16, true)?;
                a.rtc(0x0b)?;
                a.check_bits(0x70, false)?;
                a.mov(edx, PM1_ENABLE)?;
                a.in_(ax, dx)?;
                a.check_bits(0x721, false)?;
                a.sti()?;
                a.delay(100_000)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a triple fault",
        build: |p| p.cpu(0, triple_fault),
        outcome: Outcome::TripleFault(0),
        ..BASE
    },
    BoardCase {
        name: "a triple fault of another CPU than the first",
        cpus: 3,
        build: |p| {
            p.cpu(2, triple_fault)?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.park()
            })
        },
        outcome: Outcome::TripleFault(2),
        ..BASE
    },
    BoardCase {
        name: "PM1a control with sleep type 5 switches the machine off",
        build: |p| {
            p.cpu(0, |a| {
                a.mov(edx, PM1_CONTROL)?;
                a.mov(eax, 5 << 10)?;
                a.out(dx, ax)?; // the type alone does nothing
                a.mov(eax, 4 << 10 | 1 << 13)?;
                a.out(dx, ax)?; // nor does another type
                a.inc(qword_ptr(BOOTS))?;
                a.mov(eax, 5 << 10 | 1 << 13)?;
                a.out(dx, ax)?;
                a.park()
            })
        },
        outcome: Outcome::PowerOff,
        expect: &[Expect::Mem(BOOTS, 1)],
        ..BASE
    },
    BoardCase {
        name: "the machine is switched off as the ACPI tables say, while others run",
        cpus: 2,
        build: |p| {
            p.cpu(1, |a| {
                let mut forever = a.create_label();
                a.set_label(&mut forever)?;
                a.jmp(forever)
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                power_off_by_tables(a)?;
                a.park()
            })
        },
        outcome: Outcome::PowerOff,
        ..BASE
    },
];
