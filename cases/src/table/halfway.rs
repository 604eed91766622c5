//! Instructions of two accesses, the second of which faults: nothing has changed then.

use cpu::x86::gpr::*;
use cpu::x86::vector;
use iced_x86::code_asm::*;

use crate::layout::{self, DATA, PAGE, sel};
use crate::{Case, Expect, Mode};

const WRITE: Expect = Expect::Fault(vector::PF, 2);

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a push of memory to an absent stack leaves RSP",
        mode: Mode::Long,
        build: |g| {
            g.idt(vector::PF, sel::CODE64, layout::STUBS + u64::from(vector::PF) * 16, 0x8e, 1);
            g.map(PAGE, 0);
            g.asm.mov(rsp, PAGE + 0x800)?;
            g.asm.mov(rbx, DATA)?;
            g.mark()?;
            g.asm.push(qword_ptr(rbx))
        },
        expect: &[WRITE, Expect::FaultAtMark, Expect::FaultSp(PAGE + 0x800), Expect::Cr2(PAGE + 0x7f8)],
    },
    Case {
        name: "a pop to absent memory leaves RSP",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, 0);
            g.asm.push(0x55)?;
            g.asm.mov(rbx, PAGE)?;
            g.mark()?;
            g.asm.pop(qword_ptr(rbx + 8))
        },
        expect: &[WRITE, Expect::FaultAtMark, Expect::FaultSp(layout::STACK - 8), Expect::Cr2(PAGE + 8)],
    },
    Case {
        name: "pushes and pops of memory on the stack: RSP before the push, RSP behind the pop",
        mode: Mode::Long,
        build: |g| {
            g.asm.push(0x11)?;
            g.asm.push(0x22)?;
            g.asm.push(qword_ptr(rsp + 8))?; // 0x11
            g.asm.push(qword_ptr(rsp + 8))?; // 0x22
            g.asm.pop(qword_ptr(rsp + 16))?; // over the first one
            g.asm.pop(rax)?;
            g.asm.pop(rbx)?;
            g.asm.pop(rcx)?;
            g.asm.mov(rdx, rsp)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg(RAX, 0x11),
            Expect::Reg(RBX, 0x22),
            Expect::Reg(RCX, 0x22),
            Expect::Reg(RDX, layout::STACK),
        ],
    },
    Case {
        name: "pushes and pops of memory that lies in two pages",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(PAGE - 3, 0x1122_3344_5566_7788);
            g.asm.mov(ebx, PAGE as u32)?;
            g.asm.push(qword_ptr(rbx - 3))?;
            g.asm.pop(qword_ptr(rbx + 0xffd))?;
            g.asm.mov(rdx, rsp)?;
            g.asm.hlt()
        },
        expect: &[Expect::Mem(PAGE + 0xffd, 0x1122_3344_5566_7788), Expect::Reg(RDX, layout::STACK)],
    },
    Case {
        name: "a pop to an address of 32 bits from ESP finds ESP behind the pop",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(esp, (DATA + 0x100) as u32)?;
            g.asm.mov(r12d, 2)?;
            g.asm.push(0x77)?;
            g.asm.pop(qword_ptr(esp + r12d * 8))?;
            g.asm.hlt()
        },
        expect: &[Expect::Mem(DATA + 0x110, 0x77), Expect::Mem(DATA + 0x108, 0)],
    },
];
