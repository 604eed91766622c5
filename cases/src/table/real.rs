//! Real mode.

use cpu::x86::gpr::*;
use cpu::x86::vector;
use iced_x86::code_asm::*;

use crate::layout;
use crate::{Case, Expect, Mode};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "int and iret through the interrupt vector table",
        mode: Mode::Real,
        build: |g| {
            g.write_u16(0x61 * 4, 0x0010);
            g.write_u16(0x61 * 4 + 2, 0x0c00);
            g.code_at(0xc010, 16, |a| {
                a.mov(bx, cs)?;
                a.pushf()?;
                a.pop(cx)?;
                a.iret()
            })?;
            g.asm.push(0x202)?;
            g.asm.popf()?;
            g.asm.int(0x61)?;
            g.asm.pushf()?;
            g.asm.pop(dx)?;
            g.asm.cli()?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg32(RBX, 0x0c00),
            Expect::Reg32(RCX, 0x0002),
            Expect::Reg32(RDX, 0x0202),
            Expect::Reg(RSP, layout::REAL_STACK),
        ],
    },
    Case {
        name: "segments are selectors times sixteen",
        mode: Mode::Real,
        build: |g| {
            g.write_u16(0x1_2345, 0xbeef);
            g.asm.mov(ax, 0x1234)?;
            g.asm.mov(es, ax)?;
            g.asm.mov(bx, word_ptr(5).es())?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg32(RBX, 0xbeef), Expect::Base(0, 0x1_2340)],
    },
    Case {
        name: "a word at offset ffff is beyond the segment",
        mode: Mode::Real,
        build: |g| {
            g.asm.mov(bx, 0xffff)?;
            g.mark()?;
            g.asm.mov(ax, word_ptr(bx))
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "a stack word at offset ffff is beyond the stack",
        mode: Mode::Real,
        build: |g| {
            // The handler's frame fits behind: SP wraps to it.
            g.write_u16(12 * 4, 0xc000);
            g.code_at(0xc000, 16, |a| {
                a.mov(bx, sp)?;
                a.hlt()
            })?;
            g.asm.mov(sp, 1)?;
            g.asm.push(ax)
        },
        expect: &[Expect::Shutdown],
    },
    Case {
        name: "far call and return",
        mode: Mode::Real,
        build: |g| {
            g.code_at(0xc010, 16, |a| {
                a.mov(bx, cs)?;
                a.retf_1(2)
            })?;
            g.asm.push(0x77)?;
            g.asm.db(&[0x9a, 0x10, 0x00, 0x00, 0x0c])?;
            g.asm.mov(cx, cs)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg32(RBX, 0x0c00), Expect::Reg32(RCX, 0), Expect::Reg(RSP, layout::REAL_STACK)],
    },
    Case {
        name: "a division overflow is vector 0 at the instruction",
        mode: Mode::Real,
        build: |g| {
            g.asm.mov(ax, 0x1000)?;
            g.asm.mov(cl, 1)?;
            g.mark()?;
            g.asm.div(cl)
        },
        expect: &[Expect::Fault(vector::DE, 0), Expect::FaultAtMark],
    },
    Case {
        name: "an entry beyond the table's limit is a double fault, then shutdown",
        mode: Mode::Real,
        build: |g| {
            g.state.idtr.limit = 0x10;
            g.asm.int(0x61)
        },
        expect: &[Expect::Shutdown],
    },
    Case {
        name: "a 16-bit jump keeps to 64 KiB",
        mode: Mode::Real,
        build: |g| {
            // JMP short at the very end of the segment wraps to its beginning.
            g.write(0xfffc, &[0xeb, 0x02]);
            g.write(0x0000, &[0x43, 0xf4]); // INC BX, HLT
            g.asm.xor(bx, bx)?;
            g.asm.mov(ax, 0xfffc)?;
            g.asm.jmp(ax)
        },
        expect: &[Expect::Reg32(RBX, 1)],
    },
    Case {
        name: "pushfd and popfd with a 32-bit operand",
        mode: Mode::Real,
        build: |g| {
            g.asm.mov(eax, 0x20_0002)?;
            g.asm.push(eax)?;
            g.asm.popfd()?;
            g.asm.pushfd()?;
            g.asm.pop(ebx)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg32(RBX, 0x20_0002)],
    },
    Case {
        name: "in and out of all sizes",
        mode: Mode::Real,
        build: |g| {
            g.asm.mov(eax, 0x1122_3344)?;
            g.asm.out(0x80, eax)?;
            g.asm.out(0x84, al)?;
            g.asm.in_(ax, 0x10)?;
            g.asm.mov(ebx, eax)?;
            g.asm.mov(dx, 0x20)?;
            g.asm.in_(eax, dx)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Out(0x80, 0x1122_3344),
            Expect::Out(0x84, 0x44),
            Expect::Reg32(RBX, 0x1122_1110),
            Expect::Reg32(RAX, 0x2322_2120),
        ],
    },
];
