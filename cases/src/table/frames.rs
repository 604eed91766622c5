//! Tables on the stack, and operands whose address the instruction names: engines check them in ways of their own.

use cpu::x86::gpr::*;
use cpu::x86::vector;
use iced_x86::code_asm::*;

use crate::layout::{self, DATA, PAGE};
use crate::{Case, Expect, Mode};

/// Words of a table that spans pages.
const WORDS: u32 = 1200;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a table on the stack that spans pages, by several index registers",
        mode: Mode::Long,
        build: |g| {
            let a = &mut g.asm;
            let (mut fill, mut add) = (a.create_label(), a.create_label());
            a.sub(rsp, (WORDS * 8 + 0x48) as i32)?;
            a.mov(ecx, WORDS)?;
            a.set_label(&mut fill)?;
            a.mov(qword_ptr(rsp + rcx * 8 + 8), rcx)?;
            a.mov(r10, rcx)?;
            a.add(qword_ptr(rsp + r10 * 8 + 8), 1)?;
            a.dec(ecx)?;
            a.jne(fill)?;
            a.xor(ebx, ebx)?;
            a.mov(r9d, WORDS)?;
            a.set_label(&mut add)?;
            // An operand of 16 bytes that lies in two pages now and then, with CF live.
            a.movdqu(xmm0, xmmword_ptr(rsp + r9 * 8))?;
            a.stc()?;
            a.adc(rbx, qword_ptr(rsp + r9 * 8 + 8))?;
            a.dec(r9d)?;
            a.jne(add)?;
            a.hlt()
        },
        expect: &[Expect::Reg(RBX, (WORDS as u64) * (WORDS as u64 + 1) / 2 + 2 * WORDS as u64)],
    },
    Case {
        name: "a fault at a table on the stack",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, 0);
            g.asm.mov(eax, (PAGE - layout::STACK) as u32)?;
            g.asm.mov(ebx, dword_ptr(rsp + rax - 16))?;
            g.mark()?;
            g.asm.mov(dword_ptr(rsp + rax + 16), ebx)
        },
        expect: &[Expect::Fault(vector::PF, 2), Expect::FaultAtMark, Expect::Cr2(PAGE + 16)],
    },
    Case {
        name: "operands at addresses that the instruction names, with flags that live on",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA, 5);
            let (mut again, mut seven) = (g.asm.create_label(), g.asm.create_label());
            g.asm.xor(ebx, ebx)?;
            g.asm.mov(ecx, 300)?;
            g.asm.set_label(&mut again)?;
            g.asm.cmp(ecx, 200)?;
            g.asm.mov(rax, qword_ptr(DATA))?;
            g.asm.adc(rbx, rax)?;
            g.asm.cmp(ecx, 100)?;
            g.asm.mov(rax, qword_ptr(seven))?;
            g.asm.adc(rbx, rax)?;
            g.asm.add(dword_ptr(DATA + 0x800), 3)?;
            g.asm.dec(ecx)?;
            g.asm.jne(again)?;
            g.asm.hlt()?;
            g.asm.set_label(&mut seven)?;
            g.asm.dq(&[7])
        },
        expect: &[Expect::Reg(RBX, 300 * 12 + 199 + 99), Expect::Mem(DATA + 0x800, 900)],
    },
    Case {
        name: "the page that an instruction names goes away",
        mode: Mode::Long,
        build: |g| {
            let mut again = g.asm.create_label();
            g.asm.mov(ecx, 100)?;
            g.asm.set_label(&mut again)?;
            g.asm.cmp(ecx, 50)?;
            g.mark()?;
            g.asm.mov(rax, qword_ptr(PAGE + 8))?;
            g.asm.adc(rbx, 0)?;
            g.asm.cmp(ecx, 10)?;
            let mut there = g.asm.create_label();
            g.asm.jne(there)?;
            g.asm.mov(qword_ptr(layout::PT + (PAGE >> 12) * 8), 0)?;
            g.asm.invlpg(byte_ptr(PAGE))?;
            g.asm.set_label(&mut there)?;
            g.asm.dec(ecx)?;
            g.asm.jne(again)
        },
        expect: &[
            Expect::Fault(vector::PF, 0),
            Expect::FaultAtMark,
            Expect::Cr2(PAGE + 8),
            Expect::Reg(RCX, 9),
            Expect::FaultFlags(1, 1),
        ],
    },
];
