//! Local APICs by MSRs (Intel SDM volume 3, 12.12).

use cpu::x86::msr;
use iced_x86::code_asm::*;

use crate::board::asm::Done;
use crate::board::layout::*;
use crate::board::part::{apic, icr};
use crate::board::{Asm, BoardCase, Expect};

const BASE: BoardCase = BoardCase::BASE;
const V: u32 = 0x51;

const ID: u32 = 0x802;
const TPR: u32 = 0x808;
const PPR: u32 = 0x80a;
const EOI: u32 = 0x80b;
const LDR: u32 = 0x80d;
const SVR: u32 = 0x80f;
const ESR: u32 = 0x828;
const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_ERROR: u32 = 0x837;
const INITIAL: u32 = 0x838;
const CURRENT: u32 = 0x839;
const DIVIDE: u32 = 0x83e;
const SELF_IPI: u32 = 0x83f;

/// Into x2APIC mode.
fn enter(a: &mut Asm) -> Done {
    a.msr(msr::APIC_BASE)?;
    a.or(eax, 0x400)?;
    a.wrmsr()
}

/// A counting handler that ends the interrupt by MSR.
fn count(p: &mut crate::board::Program, vector: u8) -> Done {
    p.on(vector, |a| {
        a.bump(vector.into())?;
        a.set_msr(EOI, 0)
    })
}

/// The bit of a vector in IRR.
const fn irr(vector: u32) -> (u32, u32) {
    (0x820 + vector / 32, 1 << (vector % 32))
}

const fn isr(vector: u32) -> (u32, u32) {
    (0x810 + vector / 32, 1 << (vector % 32))
}

fn check_vector(a: &mut Asm, (register, bit): (u32, u32), set: bool) -> Done {
    a.msr(register)?;
    a.check_bits(bit, set)
}

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "in x2apic mode the ids are whole, and the logical one follows from the physical",
        cpus: 3,
        build: |p| {
            for cpu in 0..3 {
                p.cpu(cpu, |a| {
                    if cpu == 0 {
                        a.start_others()?;
                    }
                    enter(a)?;
                    a.msr(ID)?;
                    a.check_eax(cpu as u32)?;
                    a.msr(LDR)?;
                    a.check_eax(1 << cpu)?;
                    a.mov(eax, 0xb)?;
                    a.xor(ecx, ecx)?;
                    a.cpuid()?;
                    a.mov(eax, edx)?;
                    a.check_eax(cpu as u32)?;
                    a.lock().inc(qword_ptr(DATA))?;
                    a.wait(DATA, 3)
                })?;
            }
            Ok(())
        },
        ..BASE
    },
    BoardCase {
        name: "the self-interrupt register",
        build: |p| {
            p.on(0x50, |a| {
                check_vector(a, irr(0x50), false)?;
                check_vector(a, isr(0x50), true)?;
                a.msr(PPR)?;
                a.check_eax(0x50)?;
                a.set_msr(EOI, 0)?;
                check_vector(a, isr(0x50), false)?;
                a.bump(0)
            })?;
            p.cpu(0, |a| {
                enter(a)?;
                a.set_msr(SELF_IPI, 0x50)?;
                check_vector(a, irr(0x50), true)?;
                a.sti()?;
                a.wait(cpu_word(0, 0), 1)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "TPR and CR8 are the same in x2apic mode",
        build: |p| {
            count(p, 0x5f)?;
            p.cpu(0, |a| {
                enter(a)?;
                a.sti()?;
                a.set_msr(TPR, 0x50)?;
                a.mov(rax, cr8)?;
                a.check_eax(5)?;
                a.set_msr(SELF_IPI, 0x5f)?;
                a.delay(1000)?;
                a.check_word(cpu_word(0, 0x5f), 0)?;
                a.mov(eax, 4)?;
                a.mov(cr8, rax)?;
                a.wait(cpu_word(0, 0x5f), 1)?;
                a.msr(TPR)?;
                a.check_eax(0x40)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "in x2apic mode the command register is one write",
        cpus: 4,
        build: |p| {
            count(p, V as u8)?;
            for cpu in 1..4 {
                p.cpu(cpu, |a| {
                    enter(a)?;
                    a.lock().inc(qword_ptr(DATA))?;
                    // Physical, logical, all, all but self; nothing for the CPU that is not there.
                    a.sleep(cpu_word(cpu, V.into()), if cpu == 2 { 4 } else { 3 })?;
                    a.lock().inc(qword_ptr(DATA))
                })?;
            }
            p.cpu(0, |a| {
                a.start_others()?;
                enter(a)?;
                a.wait(DATA, 3)?;
                let to =
                    |command: u32, destination: u64| destination << 32 | u64::from(command | icr::FIXED | V);
                a.set_msr(ICR, to(0, 7))?;
                a.set_msr(ICR, to(0, 0xff))?; // not everybody: that is 0xffffffff
                a.set_msr(ICR, to(icr::LOGICAL, 0x1_000f))?; // cluster 1
                a.set_msr(ICR, to(0, 2))?;
                a.wait(cpu_word(2, V.into()), 1)?;
                a.set_msr(ICR, to(icr::LOGICAL, 0b1110))?;
                for cpu in 1..4 {
                    a.wait(cpu_word(cpu, V.into()), if cpu == 2 { 2 } else { 1 })?;
                }
                a.set_msr(ICR, to(0, 0xffff_ffff))?;
                for cpu in 1..4 {
                    a.wait(cpu_word(cpu, V.into()), if cpu == 2 { 3 } else { 2 })?;
                }
                a.set_msr(ICR, to(icr::OTHERS, 0))?;
                a.wait(DATA, 6)?;
                a.sti()?;
                a.wait(cpu_word(0, V.into()), 1)?;
                a.msr(ICR)?;
                a.check_eax(icr::OTHERS | icr::FIXED | V)
            })
        },
        expect: &[
            Expect::Mem(cpu_word(0, V as u64), 1),
            Expect::Mem(cpu_word(1, V as u64), 3),
            Expect::Mem(cpu_word(2, V as u64), 4),
            Expect::Mem(cpu_word(3, V as u64), 3),
        ],
        ..BASE
    },
    BoardCase {
        name: "x2apic accesses that are #GP: wrong direction, no register, reserved bits",
        build: |p| {
            p.catch(13)?;
            p.cpu(0, |a| {
                enter(a)?;
                for write_only in [EOI, SELF_IPI] {
                    a.faults(|a| a.msr(write_only))?;
                }
                for read_only in [ID, 0x803, PPR, LDR, 0x810, 0x818, 0x820, CURRENT] {
                    a.faults(|a| a.set_msr(read_only, 0))?;
                }
                for absent in [0x800, 0x804, 0x809, 0x80c, 0x80e, 0x831, 0x840, 0x8ff] {
                    a.faults(|a| a.msr(absent))?;
                    a.faults(|a| a.set_msr(absent, 0))?;
                }
                let reserved = [
                    (TPR, 0x100),
                    (EOI, 1),
                    (ESR, 1),
                    (ICR, 1 << 20),
                    (ICR, 1 << 13),
                    (LVT_TIMER, 1 << 8),
                    (LVT_ERROR, 1 << 17),
                    (DIVIDE, 4),
                    (SELF_IPI, 0x100),
                    (SVR, 1 << 16),
                    (INITIAL, 1 << 32),
                ];
                for (register, value) in reserved {
                    a.faults(|a| a.set_msr(register, value))?;
                }
                Ok(())
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the timer in x2apic mode",
        build: |p| {
            count(p, 0x70)?;
            p.cpu(0, |a| {
                enter(a)?;
                a.set_msr(DIVIDE, apic::BY_1.into())?;
                a.set_msr(LVT_TIMER, 0x70)?;
                a.set_msr(INITIAL, 1_000_000)?;
                a.sleep(cpu_word(0, 0x70), 1)?;
                a.msr(CURRENT)?;
                a.check_eax(0)?;
                a.set_msr(LVT_TIMER, (apic::TSC_DEADLINE | 0x70).into())?;
                a.set_deadline(100_000)?;
                a.sleep(cpu_word(0, 0x70), 2)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "errors are latched in x2apic mode",
        build: |p| {
            count(p, 0x52)?;
            p.cpu(0, |a| {
                enter(a)?;
                a.set_msr(LVT_ERROR, 0x52)?;
                a.sti()?;
                a.set_msr(ICR, (icr::SELF | icr::FIXED | 5).into())?;
                a.wait(cpu_word(0, 0x52), 1)?;
                a.set_msr(ESR, 0)?;
                a.msr(ESR)?;
                a.check_bits(0x20, true)?;
                a.set_msr(ESR, 0)?;
                a.msr(ESR)?;
                a.check_eax(0)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a CPU in x2apic mode starts others, and INIT leaves it in that mode",
        cpus: 2,
        build: |p| {
            p.cpu(1, |a| {
                let mut again = a.create_label();
                a.cmp(qword_ptr(STARTS * 8).gs(), 1)?;
                a.jne(again)?;
                enter(a)?;
                a.lock().inc(qword_ptr(DATA))?;
                a.park()?;
                a.set_label(&mut again)?;
                a.msr(msr::APIC_BASE)?;
                a.check_eax(0xfee0_0c00)?;
                a.msr(ID)?;
                a.check_eax(1)?;
                a.msr(SVR)?;
                a.check_eax(0xff)?;
                a.lock().inc(qword_ptr(DATA))
            })?;
            p.cpu(0, |a| {
                enter(a)?;
                let to_1 = |command: u32| 1 << 32 | u64::from(command);
                for done in 1..=2 {
                    a.set_msr(ICR, to_1(icr::INIT))?;
                    a.delay(1000)?;
                    a.set_msr(ICR, to_1(icr::STARTUP | (TRAMPOLINE >> 12) as u32))?;
                    a.wait(DATA, done)?;
                }
                Ok(())
            })
        },
        ..BASE
    },
];
