//! 32-bit code in loops: the ends of the address space, segments with limits, and the way to 64-bit code and back.

use cpu::x86::gpr::*;
use cpu::x86::{seg, vector};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::guest::Guest;
use crate::layout::{self, DATA, PAGE, descriptor, sel};
use crate::{Case, Expect, Mode};

/// Maps [`PAGE`] as the last page below 4 GiB.
fn map_last(g: &mut Guest) {
    g.write_u32(layout::PD + 1023 * 4, layout::PT as u32 | 7);
    g.write_u32(layout::PT + 1023 * 4, PAGE as u32 | 7);
}

/// Pushes and pops four words a hundred times, from where ESP is.
fn pushes(g: &mut Guest, top: u32) -> Result<(), IcedError> {
    map_last(g);
    let a = &mut g.asm;
    let mut again = a.create_label();
    a.mov(esp, top)?;
    a.mov(ecx, 100)?;
    a.set_label(&mut again)?;
    [0x11, 0x22, 0x33, 0x44].into_iter().try_for_each(|value| a.push(value))?;
    a.add(eax, dword_ptr(esp + 8))?;
    a.pop(ebx)?;
    a.pop(edx)?;
    a.add(esp, 4)?;
    a.pop(esi)?;
    a.dec(ecx)?;
    a.jne(again)?;
    a.hlt()
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "the stack lies on both sides of address zero",
        mode: Mode::Paged32,
        build: |g| pushes(g, 8),
        expect: &[
            Expect::Reg(RSP, 8),
            Expect::Mem32(4, 0x11),
            Expect::Mem32(0, 0x22),
            Expect::Mem32(PAGE + 0xffc, 0x33),
            Expect::Mem32(PAGE + 0xff8, 0x44),
            Expect::Reg(RAX, 2200 + 1200),
            Expect::Reg(RBX, 0x44),
            Expect::Reg(RSI, 0x11),
        ],
    },
    Case {
        name: "the stack ends where addresses do",
        mode: Mode::Paged32,
        build: |g| pushes(g, 0),
        expect: &[
            Expect::Reg(RSP, 0),
            Expect::Mem32(PAGE + 0xffc, 0x11),
            Expect::Mem32(PAGE + 0xff0, 0x44),
            Expect::Reg(RAX, 2200 + 1200),
            Expect::Reg(RSI, 0x11),
        ],
    },
    Case {
        name: "what lies below a segment's base is at the end of its offsets",
        mode: Mode::Protected,
        build: |g| {
            g.gdt(sel::FREE, descriptor(DATA as u32 + 0x100, 0xf_ffff, 0x93, 0xc));
            g.write_u32(DATA + 0xfc, 7);
            let a = &mut g.asm;
            let mut again = a.create_label();
            a.mov(eax, i32::from(sel::FREE))?;
            a.mov(gs, eax)?;
            a.mov(ecx, 100)?;
            a.mov(ebx, -8)?;
            a.xor(edx, edx)?;
            a.set_label(&mut again)?;
            a.add(edx, dword_ptr(-4).gs())?;
            a.add(esi, dword_ptr(ebx + 4).gs())?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.hlt()
        },
        expect: &[Expect::Reg(RDX, 700), Expect::Reg(RSI, 700), Expect::Base(seg::GS, DATA + 0x100)],
    },
    Case {
        name: "a limit of FS is heeded in every round of a loop",
        mode: Mode::Pae,
        build: |g| {
            g.gdt(sel::FREE, descriptor(DATA as u32, 0x9f, 0x93, 0x4));
            g.asm.mov(eax, i32::from(sel::FREE))?;
            g.asm.mov(fs, eax)?;
            let mut again = g.asm.create_label();
            g.asm.mov(ecx, -1)?;
            g.asm.set_label(&mut again)?;
            g.asm.inc(ecx)?;
            g.mark()?;
            g.asm.add(edx, dword_ptr(ecx * 4).fs())?;
            g.asm.jmp(again)
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark, Expect::Reg(RCX, 40)],
    },
    Case {
        name: "a limit of SS is heeded behind a loop without one",
        mode: Mode::Pae,
        build: |g| {
            g.gdt(sel::FREE, descriptor(0, 0x1_ffff, 0x93, 0x4));
            let mut again = g.asm.create_label();
            let a = &mut g.asm;
            a.mov(eax, i32::from(sel::FREE))?;
            a.mov(ecx, 100)?;
            a.mov(esp, layout::STACK as u32 - 0x100)?;
            a.set_label(&mut again)?;
            a.push(ecx)?;
            a.pop(edx)?;
            a.add(ebx, dword_ptr(esp + 0x100))?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.mov(ss, eax)?;
            a.push(ecx)?;
            a.pop(edx)?;
            g.mark()?;
            g.asm.add(ebx, dword_ptr(esp + 0x100))
        },
        expect: &[Expect::Fault(vector::SS, 0), Expect::FaultAtMark, Expect::Reg(RDX, 0)],
    },
    Case {
        name: "a null DS is #GP in code that has done without the check",
        mode: Mode::Protected,
        build: |g| {
            let mut again = g.asm.create_label();
            let a = &mut g.asm;
            a.mov(ecx, 100)?;
            a.mov(ebx, DATA as u32)?;
            a.set_label(&mut again)?;
            a.inc(dword_ptr(ebx))?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.mov(ds, ecx)?;
            g.mark()?;
            g.asm.inc(dword_ptr(ebx))
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark, Expect::Mem32(DATA, 100)],
    },
    Case {
        name: "from 64-bit code to 32-bit code and back, a hundred times",
        mode: Mode::Long,
        build: |g| {
            let (there, back) = (DATA as u32 + 0x800, DATA as u32 + 0x808);
            for (pointer, target, selector) in
                [(there, DATA + 0x100, sel::CODE32), (back, DATA + 0x300, sel::CODE64)]
            {
                g.write_u32(u64::from(pointer), target as u32);
                g.write_u16(u64::from(pointer) + 4, selector);
            }
            g.code_at(DATA + 0x100, 32, |a| {
                a.push(ecx)?;
                a.add(eax, dword_ptr(esp))?;
                a.pop(ecx)?;
                a.inc(esi)?;
                a.jmp(fword_ptr(back))
            })?;
            g.code_at(DATA + 0x300, 64, |a| {
                let mut end = a.create_label();
                a.dec(rcx)?;
                a.je(end)?;
                a.jmp(fword_ptr(there))?;
                a.set_label(&mut end)?;
                a.hlt()
            })?;
            g.asm.mov(ecx, 100)?;
            g.asm.jmp(fword_ptr(there))
        },
        expect: &[Expect::Reg(RAX, 5050), Expect::Reg(RSI, 100), Expect::Reg(RSP, layout::STACK)],
    },
];
