//! x87 and MMX state: who sees it, wherever the engine keeps it meanwhile. FXSAVE and XSAVE images have FCW at 0, FSW at
//! 2, the tags at 4, the instruction pointer at 8, the operand pointer at 16, ST(0) at 32.

use cpu::CpuState;
use cpu::x86::{gpr, vector};
use iced_x86::code_asm::*;

use crate::layout::{DATA, PAGE};
use crate::{Case, Expect, Mode};

const A: u64 = DATA + 0x200;
const B: u64 = DATA + 0x400;
/// The environment in the 32-bit protected format: FIP at 12, opcode at 18, FDP at 20.
const ENV: u64 = DATA + 0x100;

fn word(s: &CpuState, at: usize) -> u64 {
    s.xsave.get(at..at + 8).map_or(0, |b| b.iter().rev().fold(0, |all, b| all << 8 | u64::from(*b)))
}

fn status(s: &CpuState) -> u64 {
    word(s, 2) & 0xffff
}

fn tags(s: &CpuState) -> u64 {
    word(s, 4) & 0xff
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "two users of the x87 unit take turns by fxsave and fxrstor",
        mode: Mode::Long,
        build: |g| {
            let a = &mut g.asm;
            a.fninit()?;
            a.fld1()?;
            a.fld1()?;
            a.fadd_2(st1, st0)?; // 1, 2
            a.fxsave(ptr(A))?;
            a.fninit()?;
            a.fldz()?;
            a.fxsave(ptr(B))?;
            for _ in 0..3 {
                a.fxrstor(ptr(A))?;
                a.fadd_2(st0, st1)?;
                a.fxsave(ptr(A))?;
                a.fxrstor(ptr(B))?;
                a.fld1()?;
                a.faddp(st1, st0)?;
                a.fxsave(ptr(B))?;
            }
            a.fistp(qword_ptr(DATA))?;
            a.fxrstor(ptr(A))?;
            a.fistp(qword_ptr(DATA + 8))?;
            a.fistp(qword_ptr(DATA + 16))?;
            a.hlt()
        },
        expect: &[
            Expect::Mem(DATA, 3),
            Expect::Mem(DATA + 8, 7),
            Expect::Mem(DATA + 16, 2),
            Expect::State("an empty stack", |s| status(s) == 0 && tags(s) == 0),
        ],
    },
    Case {
        name: "native x87 leaves XMM registers alone",
        mode: Mode::Long,
        build: |g| {
            let a = &mut g.asm;
            a.fninit()?;
            a.mov(eax, 0x1234)?;
            a.movd(xmm5, eax)?;
            a.fldpi()?;
            a.fstp(st0)?;
            a.movd(ebx, xmm5)?;
            a.hlt()
        },
        expect: &[Expect::Reg(gpr::RBX, 0x1234)],
    },
    Case {
        name: "an exception that is pending when fldcw unmasks it is #MF at the next waiting instruction",
        mode: Mode::Long,
        build: |g| {
            g.write_u16(DATA, 0x37b); // all but division by zero
            g.asm.fninit()?;
            g.asm.fld1()?;
            g.asm.fldz()?;
            g.asm.fdivp(st1, st0)?;
            g.asm.fldcw(word_ptr(DATA))?;
            g.asm.fnstsw(ax)?;
            g.mark()?;
            g.asm.fld1()
        },
        expect: &[
            Expect::Fault(vector::MF, 0),
            Expect::FaultAtMark,
            Expect::Reg(gpr::RAX, 0xb884),
            Expect::State("infinity", |s| word(s, 32) == 1 << 63 && word(s, 40) & 0xffff == 0x7fff),
        ],
    },
    Case {
        name: "an unmasked exception is #MF at the next waiting instruction, after native use",
        mode: Mode::Long,
        build: |g| {
            g.write_u16(DATA, 0x37b);
            g.asm.fninit()?;
            g.asm.fld1()?;
            g.asm.fldz()?;
            g.asm.fldcw(word_ptr(DATA))?;
            g.asm.fdivp(st1, st0)?;
            g.mark()?;
            g.asm.wait()
        },
        expect: &[
            Expect::Fault(vector::MF, 0),
            Expect::FaultAtMark,
            Expect::State("zero over one", |s| word(s, 32) == 0 && word(s, 48) == 1 << 63),
        ],
    },
    Case {
        name: "fldcw changes rounding, and fnclex takes flags away",
        mode: Mode::Long,
        build: |g| {
            for (i, control) in [0xf7f, 0xb7f, 0x77f, 0x37f].into_iter().enumerate() {
                g.write_u16(DATA + 2 * i as u64, control);
            }
            g.write_u64(A, 0x400c_0000_0000_0000); // 3.5
            g.asm.fninit()?;
            g.asm.fld(qword_ptr(A))?;
            for i in 0..4 {
                g.asm.fldcw(word_ptr(DATA + 2 * i))?;
                g.asm.fist(dword_ptr(B + 4 * i))?;
                g.asm.fnstcw(word_ptr(ENV + 2 * i))?;
            }
            g.asm.fnstsw(ax)?;
            g.asm.fnclex()?;
            g.asm.fnstsw(word_ptr(DATA + 0x10))?;
            g.asm.movzx(ebx, word_ptr(DATA + 0x10))?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Mem(B, 4 << 32 | 3),
            Expect::Mem(B + 8, 4 << 32 | 3),
            Expect::Mem(ENV, 0x037f_077f_0b7f_0f7f),
            // Which way inexact results were rounded last is undefined.
            Expect::State("flags", |s| {
                s.gpr[gpr::RAX] & 0xfdff == 0x3820 && s.gpr[gpr::RBX] & 0xfdff == 0x3800
            }),
        ],
    },
    Case {
        name: "fnstenv names the last instruction that was no control instruction, and the last operand",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA, 0x3ff8_0000_0000_0000);
            let a = &mut g.asm;
            let mut square = a.create_label();
            a.fninit()?;
            a.mov(ebx, DATA as u32 - 16)?;
            a.fld(qword_ptr(rbx + 16))?;
            a.fld1()?;
            a.set_label(&mut square)?;
            a.fmul_2(st1, st0)?;
            a.fnstcw(word_ptr(A))?;
            a.fnstsw(ax)?;
            a.fnstenv(ptr(ENV))?;
            a.lea(rcx, ptr(square))?;
            a.mov(eax, dword_ptr(ENV + 12))?;
            a.sub(ecx, eax)?;
            a.movzx(edx, word_ptr(ENV + 18))?;
            a.mov(esi, dword_ptr(ENV + 20))?;
            a.movzx(edi, word_ptr(ENV + 24))?;
            a.mov(ebp, ds)?;
            a.sub(edi, ebp)?;
            a.hlt()
        },
        expect: &[
            Expect::Reg(gpr::RCX, 0),
            Expect::Reg(gpr::RDX, 0x4c9),
            Expect::Reg(gpr::RSI, DATA),
            Expect::Reg(gpr::RDI, 0),
        ],
    },
    Case {
        name: "a page fault of an x87 store changes neither stack nor pointers",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, 0);
            g.write_u64(DATA, 0x3ff8_0000_0000_0000);
            g.asm.fninit()?;
            g.asm.fld(qword_ptr(DATA))?;
            g.mark()?;
            g.asm.fstp(qword_ptr(PAGE + 8))
        },
        expect: &[
            Expect::Fault(vector::PF, 2),
            Expect::FaultAtMark,
            Expect::Cr2(PAGE + 8),
            Expect::State("one value", |s| status(s) == 0x3800 && tags(s) == 0x80),
            Expect::State("the load", |s| word(s, 16) == DATA && word(s, 6) & 0x7ff == 0x504),
        ],
    },
    Case {
        name: "x87 operands across pages, between others that are not",
        mode: Mode::Long,
        build: |g| {
            let a = &mut g.asm;
            a.fninit()?;
            a.fld1()?;
            a.fldpi()?;
            a.cmp(eax, eax)?; // flags are live from here on
            a.fstp(tbyte_ptr(PAGE - 3))?;
            a.fld(tbyte_ptr(PAGE - 3))?;
            a.fstp(tbyte_ptr(PAGE - 10))?;
            a.fld(tbyte_ptr(PAGE - 10))?;
            a.fstp(qword_ptr(PAGE - 1))?;
            a.fld(qword_ptr(PAGE - 1))?;
            a.fadd_2(st1, st0)?;
            a.fstp(st0)?;
            a.sete(bl)?;
            a.fistp(dword_ptr(DATA))?;
            a.hlt()
        },
        expect: &[
            Expect::Mem32(DATA, 4),
            Expect::State("flags", |s| s.gpr[gpr::RBX] & 0xff == 1),
            Expect::State("an empty stack", |s| status(s) & 0xfdff == 0x20 && tags(s) == 0),
        ],
    },
    Case {
        name: "x87 state across calls whose callees save and restore it",
        mode: Mode::Long,
        build: |g| {
            let a = &mut g.asm;
            let (mut around, mut callee) = (a.create_label(), a.create_label());
            a.fninit()?;
            a.fld1()?;
            a.jmp(around)?;
            a.set_label(&mut callee)?;
            a.fnsave(ptr(A))?;
            a.fldpi()?;
            a.frstor(ptr(A))?;
            a.ret()?;
            a.set_label(&mut around)?;
            for _ in 0..3 {
                a.fadd_2(st0, st0)?;
                a.call(callee)?;
            }
            a.fistp(dword_ptr(DATA))?;
            a.hlt()
        },
        expect: &[Expect::Mem32(DATA, 8)],
    },
    Case {
        name: "fcomi and fcmov, and fnstsw with sahf",
        mode: Mode::Long,
        build: |g| {
            let a = &mut g.asm;
            a.fninit()?;
            a.fldz()?;
            a.fldpi()?;
            a.fcomi(st0, st1)?;
            a.seta(bl)?;
            a.fcmovnbe(st0, st1)?;
            a.fxch(st0, st1)?;
            a.fcom_2(st0, st1)?;
            a.fnstsw(ax)?;
            a.sahf()?;
            a.sete(cl)?;
            a.hlt()
        },
        expect: &[Expect::State("comparisons", |s| {
            s.gpr[gpr::RBX] & 0xff == 1 && s.gpr[gpr::RCX] & 0xff == 1
        })],
    },
    Case {
        name: "MMX instructions after x87, and x87 after emms",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA, 0x0000_0003_0000_0002);
            let a = &mut g.asm;
            a.fninit()?;
            a.fld1()?;
            a.fldpi()?;
            a.mov(r9d, 5)?;
            a.movd(mm1, r9d)?;
            a.fnstenv(ptr(ENV))?;
            a.movzx(ebx, word_ptr(ENV + 4))?; // status
            a.movzx(ecx, word_ptr(ENV + 8))?; // tags
            a.punpckldq(mm1, mm1)?;
            a.paddd(mm1, qword_ptr(DATA))?;
            a.movq(qword_ptr(DATA + 8), mm1)?;
            a.movq2dq(xmm3, mm1)?;
            a.movd(edx, xmm3)?;
            a.emms()?;
            a.fld1()?;
            a.fistp(dword_ptr(DATA + 16))?;
            a.hlt()
        },
        expect: &[
            Expect::Reg(gpr::RBX, 0),
            // MM1 is special as a number, others hold what they held: only the empty ones must not be.
            Expect::State("tags", |s| (0..8).all(|n| s.gpr[gpr::RCX] >> (2 * n) & 3 != 3)),
            Expect::Mem(DATA + 8, 0x0000_0008_0000_0007),
            Expect::Reg(gpr::RDX, 7),
            Expect::Mem32(DATA + 16, 1),
            Expect::State("an empty stack", |s| tags(s) == 0),
        ],
    },
    Case {
        name: "an MMX register is its x87 register with an exponent of ones",
        mode: Mode::Long,
        build: |g| {
            let a = &mut g.asm;
            a.fninit()?;
            a.fld1()?;
            a.mov(rax, 0x1122_3344_5566_7788u64)?;
            a.movq(mm2, rax)?;
            a.hlt()
        },
        expect: &[Expect::State("the state", |s| {
            status(s) == 0
                && tags(s) == 0xff
                && word(s, 32 + 2 * 16) == 0x1122_3344_5566_7788
                && word(s, 40 + 2 * 16) & 0xffff == 0xffff
        })],
    },
    Case {
        name: "the state has what x87 instructions left, with pointers",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA, 0x4000_0000_0000_0000);
            let a = &mut g.asm;
            a.fninit()?;
            a.fld(qword_ptr(DATA))?;
            a.fld1()?;
            a.fadd_2(st0, st1)?;
            a.hlt()
        },
        expect: &[Expect::State("the state", |s| {
            status(s) == 0x3000
                && tags(s) == 0xc0
                && word(s, 32) == 3 << 62
                && word(s, 40) & 0xffff == 0x4000
                && word(s, 8) == s.rip - 3
                && word(s, 16) == DATA
                && word(s, 6) & 0x7ff == 0xc1
        })],
    },
];
