//! INIT and start-up messages.

use iced_x86::code_asm::*;

use crate::board::asm::Done;
use crate::board::layout::*;
use crate::board::part::{apic, icr};
use crate::board::{BoardCase, Expect, Program};

const BASE: BoardCase = BoardCase::BASE;
const A: u64 = DATA;

/// Where the 16-bit code writes down what it finds, and its last word there, which says that it has.
const FOUND: u64 = LOW_CODE + 0x800;
const FOUND_ALL: u64 = LOW_CODE + 0xff0;

/// 16-bit code that writes down in what state it began, and halts.
fn write_down(p: &mut Program) -> Done {
    p.low(|a| {
        a.mov(dword_ptr(0x810).cs(), edx)?;
        a.mov(dword_ptr(0x814).cs(), esp)?;
        a.mov(dword_ptr(0x818).cs(), ebx)?;
        for (i, segment) in [(0, cs), (1, ds), (2, es), (3, ss)] {
            a.mov(word_ptr(0x800 + 2 * i).cs(), segment)?;
        }
        a.mov(eax, cr0)?;
        a.mov(dword_ptr(0x81c).cs(), eax)?;
        a.mov(eax, cr4)?;
        a.mov(dword_ptr(0x820).cs(), eax)?;
        a.mov(eax, cr3)?;
        a.mov(dword_ptr(0x824).cs(), eax)?;
        a.pushfd()?;
        a.pop(eax)?;
        a.mov(dword_ptr(0x828).cs(), eax)?;
        a.mov(ecx, cpu::x86::msr::EFER)?;
        a.rdmsr()?;
        a.mov(dword_ptr(0x82c).cs(), eax)?;
        a.mov(eax, dr7)?;
        a.mov(dword_ptr(0x830).cs(), eax)?;
        a.mov(dword_ptr(0xff0).cs(), 1)?;
        let mut forever = a.create_label();
        a.set_label(&mut forever)?;
        a.hlt()?;
        a.jmp(forever)
    })
}

/// What [`write_down`] finds after a start-up message. CR0.CD and NW are as they were before INIT.
const fn fresh(control: u64) -> [Expect; 5] {
    [
        Expect::Mem(FOUND, 0x0900),
        Expect::Mem(FOUND + 0x18, control << 32),
        Expect::Mem(FOUND + 0x20, 0),
        Expect::Mem(FOUND + 0x28, 2),
        Expect::Mem(FOUND + 0x30, 0x400),
    ]
}

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "four CPUs come to long mode, each once and with an id of its own",
        cpus: 4,
        build: |p| {
            for cpu in 1..4 {
                p.cpu(cpu, |a| {
                    a.mov(eax, 1)?;
                    a.cpuid()?;
                    a.mov(eax, ebx)?;
                    a.shr(eax, 24)?;
                    a.check_eax(cpu as u32)?;
                    a.mov(eax, 0xb)?;
                    a.xor(ecx, ecx)?;
                    a.cpuid()?;
                    a.mov(eax, edx)?;
                    a.check_eax(cpu as u32)?;
                    a.apic(apic::ID)?;
                    a.check_eax((cpu as u32) << 24)?;
                    a.check_word(cpu_word(cpu, FIRST_SVR), 0xff)?;
                    a.lock().inc(qword_ptr(A))
                })?;
            }
            p.cpu(0, |a| {
                a.start_others()?;
                a.wait(A, 3)?;
                a.delay(100_000)
            })
        },
        expect: &[
            Expect::Mem(STARTED, 3),
            Expect::Mem(cpu_word(0, STARTS), 1),
            Expect::Mem(cpu_word(1, STARTS), 1),
            Expect::Mem(cpu_word(2, STARTS), 1),
            Expect::Mem(cpu_word(3, STARTS), 1),
        ],
        ..BASE
    },
    BoardCase {
        name: "sixteen CPUs come to long mode",
        cpus: 16,
        build: |p| p.cpu(0, |a| a.start_others()),
        expect: &[Expect::Mem(STARTED, 15)],
        ..BASE
    },
    BoardCase {
        name: "a CPU starts in real mode at the page of its message",
        cpus: 2,
        build: |p| {
            write_down(p)?;
            p.cpu(0, |a| {
                a.restart(1, LOW_CODE)?;
                a.wait(FOUND_ALL, 1)
            })
        },
        expect: &fresh(0x6000_0010),
        ..BASE
    },
    BoardCase {
        name: "start-up messages to a CPU that runs are ignored",
        cpus: 3,
        build: |p| {
            p.cpu(1, |a| {
                a.lock().inc(qword_ptr(A))?;
                a.wait(A, 2)
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.wait(A, 1)?;
                for _ in 0..3 {
                    a.ipi(1, icr::STARTUP | (TRAMPOLINE >> 12) as u32)?;
                    a.ipi(2, icr::STARTUP | (LOW_CODE >> 12) as u32)?;
                    a.delay(10_000)?;
                }
                a.lock().inc(qword_ptr(A))
            })
        },
        expect: &[
            Expect::Mem(cpu_word(1, STARTS), 1),
            Expect::Mem(cpu_word(2, STARTS), 1),
            Expect::State(2, "it no longer halts in its own code", |s| s.cr0 & 1 != 0),
        ],
        ..BASE
    },
    BoardCase {
        name: "INIT takes a CPU out of a loop in long mode, start-up begins it anew in real mode",
        cpus: 2,
        build: |p| {
            write_down(p)?;
            p.cpu(1, |a| {
                a.mov(eax, 0x401)?;
                a.mov(dr7, rax)?;
                let mut forever = a.create_label();
                a.set_label(&mut forever)?;
                a.inc(qword_ptr(A))?;
                a.jmp(forever)
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.wait(A, 1000)?;
                a.ipi(1, icr::INIT)?;
                a.repeat(|a, again, end| {
                    // It counts no more, sooner or later.
                    a.mov(rbx, qword_ptr(A))?;
                    a.delay(100_000)?;
                    a.cmp(rbx, qword_ptr(A))?;
                    a.je(end)?;
                    a.jmp(again)
                })?;
                a.check_word(FOUND_ALL, 0)?;
                a.ipi(1, icr::STARTUP | (LOW_CODE >> 12) as u32)?;
                a.wait(FOUND_ALL, 1)?;
                a.mov(rbx, qword_ptr(A))?;
                a.delay(100_000)?;
                a.mov(rax, qword_ptr(A))?;
                a.cmp(rax, rbx)?;
                a.check(|a, good| a.je(good))
            })
        },
        expect: &fresh(0x10),
        ..BASE
    },
    BoardCase {
        name: "INIT ends a HLT with interrupts off",
        cpus: 2,
        build: |p| {
            p.cpu(0, |a| {
                a.start_others()?;
                for times in 2..=5 {
                    a.delay(10_000)?;
                    a.restart(1, TRAMPOLINE)?;
                    a.wait(STARTED, times)?;
                }
                Ok(())
            })
        },
        expect: &[Expect::Mem(cpu_word(1, STARTS), 5), Expect::Mem(cpu_word(0, STARTS), 1)],
        ..BASE
    },
    BoardCase {
        name: "INIT drops what is pending, in service and blocked",
        cpus: 2,
        build: |p| {
            p.count(0x55)?;
            p.on(2, |a| {
                let mut second = a.create_label();
                a.bump(2)?;
                a.cmp(qword_ptr(2 * 8).gs(), 1)?;
                a.jne(second)?;
                a.lock().inc(qword_ptr(A))?;
                a.park()?;
                a.set_label(&mut second)?;
                a.zero_bytes()
            })?;
            p.on(0x66, |a| {
                a.set_apic(apic::TPR, 0x20)?;
                a.set_apic(apic::LVT_TIMER, apic::PERIODIC | 0x55)?;
                a.set_apic(apic::INITIAL, 10_000)?;
                a.wait_vector(apic::irr(0x55))?;
                a.lock().inc(qword_ptr(A))?; // and never an EOI
                a.park()
            })?;
            p.cpu(1, |a| {
                let mut again = a.create_label();
                a.cmp(qword_ptr(STARTS * 8).gs(), 1)?;
                a.jne(again)?;
                a.set_apic(apic::ICR, icr::SELF | icr::FIXED | 0x66)?;
                a.sti()?;
                a.wait(A, 9)?;
                a.set_label(&mut again)?;
                a.check_vector(apic::irr(0x55), false)?;
                a.check_vector(apic::isr(0x66), false)?;
                a.apic(apic::TPR)?;
                a.check_eax(0)?;
                a.apic(apic::LVT_TIMER)?;
                a.check_eax(apic::MASKED)?;
                a.apic(apic::CURRENT)?;
                a.check_eax(0)?;
                a.sti()?;
                a.delay(10_000)?;
                a.check_word(cpu_word(1, 0x55), 0)?;
                a.set_apic(apic::ICR, icr::SELF | icr::NMI)?;
                a.wait(cpu_word(1, 2), 2)?;
                a.lock().inc(qword_ptr(A))
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.wait(A, 1)?;
                a.ipi(1, icr::NMI)?;
                a.wait(A, 2)?;
                a.restart(1, TRAMPOLINE)?;
                a.wait(A, 3)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the last start-up before a CPU runs decides; INIT without start-up leaves it waiting",
        cpus: 3,
        build: |p| {
            p.cpu(0, |a| {
                for _ in 0..3 {
                    a.ipi(1, icr::INIT)?;
                    a.ipi(2, icr::INIT)?;
                    a.delay(10_000)?;
                }
                a.check_word(STARTED, 0)?;
                a.ipi(2, icr::STARTUP | (TRAMPOLINE >> 12) as u32)?;
                a.wait(STARTED, 1)?;
                a.delay(10_000)
            })
        },
        expect: &[Expect::Mem(cpu_word(1, STARTS), 0), Expect::Mem(cpu_word(2, STARTS), 1)],
        ..BASE
    },
];
