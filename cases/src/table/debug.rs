//! Single-stepping, breakpoints and the debug registers.

use cpu::x86::gpr::*;
use cpu::x86::{cr4, rflags, vector};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::layout::{self, sel};
use crate::{Case, Expect, Guest, Mode};

const DR6_FIXED: u64 = 0xffff_0ff0;
const DB: Expect = Expect::Fault(vector::DB, 0);
/// DR6.
const DR6: usize = 4;

/// Sets TF; the trap comes behind the next instruction.
fn step(g: &mut Guest) -> Result<(), IcedError> {
    g.asm.push(0x102)?;
    g.asm.popfq()
}

/// A breakpoint in DR0 with its bits of DR7.
fn breakpoint(g: &mut Guest, address: u64, dr7_bits: u32) -> Result<(), IcedError> {
    g.asm.mov(eax, address as u32)?;
    g.asm.mov(dr0, rax)?;
    g.asm.mov(eax, dr7_bits)?;
    g.asm.mov(dr7, rax)
}

const WRITE4: u32 = 1 | 0b1101 << 16;
const ACCESS4: u32 = 1 | 0b1111 << 16;
const IO1: u32 = 1 | 0b0010 << 16;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "popf with TF traps behind the next instruction",
        mode: Mode::Long,
        build: |g| {
            step(g)?;
            g.asm.nop()?;
            g.mark()?;
            g.asm.hlt()
        },
        expect: &[
            DB,
            Expect::FaultAtMark,
            Expect::FaultFlags(rflags::TF | rflags::RF, rflags::TF),
            Expect::Flags(rflags::TF, 0),
            Expect::Dr(DR6, DR6_FIXED | 1 << 14),
        ],
    },
    Case {
        name: "a stepped program traps at every instruction",
        mode: Mode::Long,
        build: |g| {
            g.idt(1, sel::CODE64, layout::DATA, 0x8e, 0);
            g.code_at(layout::DATA, 64, |a| {
                a.inc(ebx)?;
                a.iretq()
            })?;
            g.asm.xor(ebx, ebx)?;
            step(g)?;
            g.asm.nop()?;
            g.asm.mov(ecx, 1)?;
            let mut target = g.asm.create_label();
            g.asm.jmp(target)?;
            g.asm.ud2()?;
            g.asm.set_label(&mut target)?;
            g.asm.push(2)?;
            g.asm.popfq()?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RBX, 5)],
    },
    Case {
        name: "a repeated string instruction traps at every iteration",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(ecx, 3)?;
            g.asm.mov(edi, layout::DATA as u32)?;
            step(g)?;
            g.mark()?;
            g.asm.rep().stosb()?;
            g.asm.hlt()
        },
        expect: &[DB, Expect::FaultAtMark, Expect::Reg(RCX, 2)],
    },
    Case {
        name: "int n under TF enters the handler without a trap",
        mode: Mode::Long,
        build: |g| {
            step(g)?;
            g.asm.int(0x61)
        },
        expect: &[Expect::Fault(0x61, 0), Expect::FaultFlags(rflags::TF, rflags::TF)],
    },
    Case {
        name: "syscall that masks TF takes no trap",
        mode: Mode::Long,
        build: |g| {
            g.state.msrs.star = (0x20 << 48) | ((sel::CODE64 as u64) << 32);
            g.state.msrs.lstar = layout::DATA;
            g.state.msrs.sfmask = rflags::TF;
            g.code_at(layout::DATA, 64, |a| a.hlt())?;
            step(g)?;
            g.asm.syscall()
        },
        expect: &[Expect::Faults(0)],
    },
    Case {
        name: "mov ss holds the trap back for one instruction",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, ss)?;
            step(g)?;
            g.asm.mov(ss, eax)?;
            g.asm.nop()?;
            g.mark()?;
            g.asm.hlt()
        },
        expect: &[DB, Expect::FaultAtMark],
    },
    Case {
        name: "an instruction breakpoint faults before the instruction, RF clear",
        mode: Mode::Long,
        build: |g| {
            g.code_at(layout::DATA, 64, |a| {
                a.inc(ebx)?;
                a.inc(ebx)?;
                a.hlt()
            })?;
            g.asm.xor(ebx, ebx)?;
            breakpoint(g, layout::DATA + 2, 1)?;
            g.asm.mov(eax, layout::DATA as u32)?;
            g.asm.jmp(rax)
        },
        expect: &[
            DB,
            Expect::FaultRip(layout::DATA + 2),
            Expect::FaultFlags(rflags::RF, 0),
            Expect::Reg(RBX, 1),
            Expect::Dr(DR6, DR6_FIXED | 1),
        ],
    },
    Case {
        name: "RF in an iret frame lets one instruction pass its breakpoint",
        mode: Mode::Long,
        build: |g| {
            g.idt(1, sel::CODE64, layout::DATA, 0x8e, 0);
            g.code_at(layout::DATA, 64, |a| {
                a.inc(ecx)?;
                a.bts(qword_ptr(rsp + 16), 16)?;
                a.iretq()
            })?;
            g.code_at(layout::DATA + 0x100, 64, |a| {
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                a.inc(ebx)?;
                a.cmp(ebx, 3)?;
                a.jne(again)?;
                a.hlt()
            })?;
            g.asm.xor(ebx, ebx)?;
            g.asm.xor(ecx, ecx)?;
            breakpoint(g, layout::DATA + 0x100, 1)?;
            g.asm.mov(eax, layout::DATA as u32 + 0x100)?;
            g.asm.jmp(rax)
        },
        expect: &[Expect::Reg(RBX, 3), Expect::Reg(RCX, 3)],
    },
    Case {
        name: "a write breakpoint traps behind a store that overlaps it",
        mode: Mode::Long,
        build: |g| {
            breakpoint(g, layout::DATA, WRITE4)?;
            g.asm.mov(ebx, dword_ptr(layout::DATA))?;
            g.asm.mov(word_ptr(layout::DATA + 4), 1)?;
            g.asm.mov(word_ptr(layout::DATA + 3), 1)?;
            g.mark()?;
            g.asm.hlt()
        },
        expect: &[
            DB,
            Expect::FaultAtMark,
            Expect::Dr(DR6, DR6_FIXED | 1),
            Expect::Mem16(layout::DATA + 3, 1),
        ],
    },
    Case {
        name: "an access breakpoint traps behind a load",
        mode: Mode::Long,
        build: |g| {
            breakpoint(g, layout::DATA, ACCESS4)?;
            g.asm.mov(ebx, dword_ptr(layout::DATA))?;
            g.mark()?;
            g.asm.hlt()
        },
        expect: &[DB, Expect::FaultAtMark, Expect::Dr(DR6, DR6_FIXED | 1)],
    },
    Case {
        name: "a push hits a breakpoint on the stack",
        mode: Mode::Long,
        build: |g| {
            breakpoint(g, layout::STACK - 8, WRITE4)?;
            g.asm.push(rax)?;
            g.mark()?;
            g.asm.hlt()
        },
        expect: &[DB, Expect::FaultAtMark],
    },
    Case {
        name: "an I/O breakpoint traps behind out, with CR4.DE",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 |= cr4::DE;
            breakpoint(g, 0x80, IO1)?;
            g.asm.out(0x81, al)?;
            g.asm.out(0x80, al)?;
            g.mark()?;
            g.asm.hlt()
        },
        expect: &[DB, Expect::FaultAtMark, Expect::Dr(DR6, DR6_FIXED | 1)],
    },
    Case {
        name: "a breakpoint that is not enabled does nothing",
        mode: Mode::Long,
        build: |g| {
            breakpoint(g, layout::DATA, WRITE4 & !1)?;
            g.asm.mov(word_ptr(layout::DATA), 1)?;
            g.asm.hlt()
        },
        expect: &[],
    },
    Case {
        name: "general detect faults at an access of a debug register",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, 1 << 13)?;
            g.asm.mov(dr7, rax)?;
            g.mark()?;
            g.asm.mov(rbx, dr0)
        },
        expect: &[DB, Expect::FaultAtMark, Expect::Dr(DR6, DR6_FIXED | 1 << 13), Expect::Dr(5, 0x400)],
    },
    Case {
        name: "dr4 is dr6 without CR4.DE",
        mode: Mode::Long,
        build: |g| {
            g.asm.db(&[0x0f, 0x21, 0xe3])?; // MOV RBX, DR4
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RBX, DR6_FIXED)],
    },
    Case {
        name: "dr4 is #UD with CR4.DE",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 |= cr4::DE;
            g.mark()?;
            g.asm.db(&[0x0f, 0x21, 0xe3])
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::FaultAtMark],
    },
    Case {
        name: "upper bits of DR7 are #GP(0)",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rax, 1u64 << 32)?;
            g.mark()?;
            g.asm.mov(dr7, rax)
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "debug registers are #GP(0) in ring 3",
        mode: Mode::Long,
        build: |g| g.user(2, |a| a.mov(rax, dr7)),
        expect: &[Expect::Fault(vector::GP, 0)],
    },
    Case {
        name: "int1 traps behind itself whatever the gate's DPL",
        mode: Mode::Long,
        build: |g| g.user(2, |a| a.db(&[0xf1])),
        expect: &[DB, Expect::FaultRip(layout::CODE + 0x2001), Expect::Dr(DR6, DR6_FIXED)],
    },
];
