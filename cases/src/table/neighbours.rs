//! Accesses by the same registers, one behind the other: engines look the page up once for several of them.

use cpu::x86::gpr::*;
use cpu::x86::vector;
use iced_x86::code_asm::*;

use crate::layout::{DATA, PAGE, STACK};
use crate::{Case, Expect, Mode};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a structure in two pages that are not neighbours in memory",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, DATA | 3);
            g.write_u64(PAGE - 16, 1);
            g.write_u64(PAGE, 0xdead);
            let a = &mut g.asm;
            let mut again = a.create_label();
            a.mov(rbx, PAGE - 16)?;
            a.mov(ecx, 100)?;
            a.set_label(&mut again)?;
            a.mov(rax, qword_ptr(rbx))?;
            a.add(qword_ptr(rbx + 8), rax)?;
            a.add(qword_ptr(rbx + 16), rax)?;
            a.mov(rdx, qword_ptr(rbx + 8))?;
            a.add(rsi, qword_ptr(rbx + 12))?;
            a.mov(qword_ptr(rbx + 24), rdx)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.hlt()
        },
        expect: &[
            Expect::Mem(PAGE - 8, 100),
            Expect::Mem(PAGE, 0xdead),
            Expect::Mem(DATA, 100),
            Expect::Mem(DATA + 8, 100),
            Expect::Reg(RSI, 5050 << 32),
        ],
    },
    Case {
        name: "a neighbour of an access in two pages",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, DATA | 3);
            g.write_u64(PAGE - 8, 5 << 32);
            g.write_u64(DATA, 6);
            g.write_u64(DATA + 8, 7);
            let a = &mut g.asm;
            let mut again = a.create_label();
            a.mov(rbx, PAGE)?;
            a.mov(edi, 5)?;
            a.set_label(&mut again)?;
            // The stack is at hand, so that code may go on behind what the interpreter does.
            a.push(rbx)?;
            a.add(rax, qword_ptr(rbx - 4))?;
            a.mov(rcx, qword_ptr(rbx + 8))?;
            a.mov(qword_ptr(rbx - 16), rcx)?;
            a.mov(qword_ptr(rbx - 4), rcx)?;
            a.mov(rdx, qword_ptr(rbx))?;
            a.pop(rsi)?;
            a.dec(edi)?;
            a.jne(again)?;
            a.hlt()
        },
        expect: &[
            Expect::Reg(RAX, (6 << 32 | 5) + 4 * 7),
            Expect::Reg(RCX, 7),
            Expect::Mem(PAGE - 16, 7),
            Expect::Reg(RDX, 0),
            Expect::Mem(PAGE - 8, 7 << 32),
        ],
    },
    Case {
        name: "a store behind loads of a read-only page",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, PAGE | 5);
            g.user(2, |a| {
                a.mov(ebx, PAGE as u32)?;
                a.mov(eax, dword_ptr(rbx))?;
                a.mov(ecx, dword_ptr(rbx + 4))?;
                a.mov(dword_ptr(rbx + 8), eax)
            })
        },
        expect: &[Expect::Fault(vector::PF, 7), Expect::Cr2(PAGE + 8)],
    },
    Case {
        name: "a store behind a load of page 0, which is read-only",
        mode: Mode::Long,
        build: |g| {
            g.map(0, 5);
            g.user(2, |a| {
                a.xor(ebx, ebx)?;
                a.mov(eax, dword_ptr(rbx + 16))?;
                a.mov(dword_ptr(rbx + 24), eax)
            })
        },
        expect: &[Expect::Fault(vector::PF, 7), Expect::Cr2(24)],
    },
    Case {
        name: "a store to a read-only page that a branch leaves out",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, PAGE | 5);
            g.write_u64(PAGE, 2);
            g.user(2, |a| {
                let (mut again, mut past) = (a.create_label(), a.create_label());
                a.mov(ebx, PAGE as u32)?;
                a.mov(ecx, 100)?;
                a.set_label(&mut again)?;
                a.mov(eax, dword_ptr(rbx))?;
                a.add(esi, eax)?;
                a.cmp(eax, 2)?;
                a.je(past)?;
                a.mov(dword_ptr(rbx + 8), eax)?;
                a.set_label(&mut past)?;
                a.dec(ecx)?;
                a.jne(again)?;
                a.ud2()
            })
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::Reg(RSI, 200)],
    },
    Case {
        name: "a load, and a store next to it that changes the code behind",
        mode: Mode::Long,
        build: |g| {
            let a = &mut g.asm;
            let (mut again, mut patched) = (a.create_label(), a.create_label());
            a.lea(rbx, qword_ptr(patched))?;
            a.mov(edx, 20)?;
            a.set_label(&mut again)?;
            a.movzx(eax, byte_ptr(rbx))?;
            a.mov(byte_ptr(rbx + 1), dl)?;
            a.set_label(&mut patched)?;
            a.mov(ecx, 100)?;
            a.add(esi, ecx)?;
            a.dec(edx)?;
            a.jne(again)?;
            a.hlt()
        },
        expect: &[Expect::Reg(RSI, 210), Expect::Reg(RAX, 0xb9)],
    },
    Case {
        name: "a register that changes between accesses, and others without a home",
        mode: Mode::Long,
        build: |g| {
            for i in 0..4 {
                g.write_u64(DATA + i * 0x20, DATA + (i + 1) * 0x20);
                g.write_u64(DATA + i * 0x20 + 8, i + 1);
                g.write_u64(DATA + i * 0x20 + 16, 10);
            }
            let a = &mut g.asm;
            a.mov(ebx, DATA as u32)?;
            for _ in 0..3 {
                a.mov(r9, qword_ptr(rbx + 8))?;
                a.mov(r10, qword_ptr(rbx + 16))?;
                a.imul_2(r10, r9)?;
                a.mov(rbx, qword_ptr(rbx))?;
                a.add(r11, r10)?;
                a.add(qword_ptr(rbx + 16), r9)?;
                a.mov(qword_ptr(rbx + 24), r11)?;
            }
            a.hlt()
        },
        expect: &[
            Expect::Reg(11, 10 + 2 * 11 + 3 * 12),
            Expect::Mem(DATA + 0x38, 10),
            Expect::Mem(DATA + 0x58, 32),
            Expect::Mem(DATA + 0x78, 68),
        ],
    },
    Case {
        name: "a new stack pointer between two accesses by the same register",
        mode: Mode::Long,
        build: |g| {
            let a = &mut g.asm;
            let mut again = a.create_label();
            a.mov(rbx, DATA)?;
            a.mov(ecx, 10)?;
            a.set_label(&mut again)?;
            a.add(dword_ptr(rbx), ecx)?;
            a.mov(esp, STACK as u32 - 8)?;
            a.add(dword_ptr(rbx + 4), ecx)?;
            a.add(dword_ptr(rbx), ecx)?;
            a.mov(rsp, qword_ptr(rbx + 16))?;
            a.add(dword_ptr(rbx + 4), ecx)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.hlt()
        },
        expect: &[Expect::Mem(DATA, 110 << 32 | 110), Expect::Reg(RSP, 0)],
    },
];
