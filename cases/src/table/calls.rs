//! Calls and returns that do not pair, and very many that do: engines keep a stack of return addresses of their own.

use cpu::x86::gpr::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::layout::{DATA, RAM};
use crate::{Case, Expect, Guest, Mode};

type Done = Result<(), IcedError>;

/// More than any engine's stack holds.
const MANY: u32 = 20_000;

/// Runs `body` with ECX from [`MANY`] down to 1, with a stack that has room for as many words.
fn many(a: &mut CodeAssembler, body: impl FnOnce(&mut CodeAssembler) -> Done) -> Done {
    let mut again = a.create_label();
    a.mov(rsp, RAM)?;
    a.xor(ebx, ebx)?;
    a.mov(ecx, MANY)?;
    a.set_label(&mut again)?;
    body(a)?;
    a.dec(ecx)?;
    a.jne(again)
}

/// RDX: 1 if CF lives through a call and a return, and what RSP has lost.
fn pair(g: &mut Guest) -> Done {
    let a = &mut g.asm;
    let (mut callee, mut behind) = (a.create_label(), a.create_label());
    a.mov(rbp, rsp)?;
    a.xor(edx, edx)?;
    a.stc()?;
    a.call(callee)?;
    a.adc(rdx, 0)?;
    a.sub(rbp, rsp)?;
    a.jmp(behind)?;
    a.set_label(&mut callee)?;
    a.ret()?;
    a.set_label(&mut behind)?;
    a.hlt()
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "calls that never return",
        mode: Mode::Long,
        build: |g| {
            many(&mut g.asm, |a| {
                let mut next = a.create_label();
                a.call(next)?;
                a.set_label(&mut next)?;
                a.adc(ebx, 1)?;
                a.lea(rsp, qword_ptr(rsp + 8))
            })?;
            pair(g)
        },
        expect: &[Expect::Reg(RBX, MANY as u64), Expect::Reg(RDX, 1), Expect::Reg(RBP, 0)],
    },
    Case {
        name: "calls that never return, between them another stack, and loads and stores all over memory",
        mode: Mode::Long,
        build: |g| {
            many(&mut g.asm, |a| {
                let mut next = a.create_label();
                a.call(next)?;
                a.set_label(&mut next)?;
                a.xor(rsp, 0x7000)?;
                a.lea(rsp, qword_ptr(rsp + 8))?;
                a.imul_3(esi, ecx, 0x1234_5678)?;
                a.and(esi, 0xf_f000)?;
                a.cmp(ecx, MANY as i32 / 2)?;
                a.mov(rax, qword_ptr(rsi + DATA))?;
                a.mov(qword_ptr(rsi + (DATA + 8)), rax)?;
                a.adc(ebx, 0)
            })?;
            pair(g)
        },
        expect: &[Expect::Reg(RBX, MANY as u64 / 2 - 1), Expect::Reg(RDX, 1), Expect::Reg(RBP, 0)],
    },
    Case {
        name: "calls into calls, each with flags and a frame, and all of them return",
        mode: Mode::Long,
        build: |g| {
            let a = &mut g.asm;
            let (mut down, mut bottom, mut behind) = (a.create_label(), a.create_label(), a.create_label());
            a.mov(rsp, RAM)?;
            a.xor(ebx, ebx)?;
            a.mov(ecx, MANY)?;
            a.call(down)?;
            a.jmp(behind)?;
            a.set_label(&mut down)?;
            a.push(rcx)?;
            a.dec(ecx)?;
            a.je(bottom)?;
            a.cmp(ecx, MANY as i32 / 2)?;
            a.call(down)?;
            a.set_label(&mut bottom)?;
            // CF of the last comparison.
            a.adc(rbx, 0)?;
            a.pop(rcx)?;
            a.cmp(ecx, MANY as i32 / 2)?;
            a.ret()?;
            a.set_label(&mut behind)?;
            pair(g)
        },
        expect: &[Expect::Reg(RBX, MANY as u64 / 2), Expect::Reg(RDX, 1), Expect::Reg(RBP, 0)],
    },
    Case {
        name: "flags go along with indirect calls, jumps and returns, behind loads",
        mode: Mode::Long,
        build: |g| {
            let a = &mut g.asm;
            let [mut again, mut callee, mut next, mut last] = [(); 4].map(|()| a.create_label());
            a.mov(esi, DATA as u32)?;
            a.lea(rdi, qword_ptr(callee))?;
            a.lea(r8, qword_ptr(next))?;
            a.lea(rbp, qword_ptr(last))?;
            a.mov(ecx, 60)?;
            a.set_label(&mut again)?;
            a.bt(ecx, 0)?;
            a.mov(rax, qword_ptr(rsi))?;
            a.call(rdi)?;
            a.adc(rbx, 0)?;
            a.bt(ecx, 2)?;
            a.mov(rax, qword_ptr(rsi))?;
            a.jmp(r8)?;
            a.set_label(&mut callee)?;
            a.adc(rbx, 0)?;
            a.bt(ecx, 1)?;
            a.mov(rax, qword_ptr(rsi))?;
            a.ret()?;
            a.set_label(&mut next)?;
            a.adc(rbx, 0)?;
            a.push(rbp)?;
            a.bt(ecx, 3)?;
            a.mov(rax, qword_ptr(rsi))?;
            a.ret()?;
            a.set_label(&mut last)?;
            a.adc(rbx, 0)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.hlt()
        },
        // The bits 0 to 3 that are set in the numbers to 60.
        expect: &[Expect::Reg(RBX, 118)],
    },
    Case {
        name: "returns that nobody called for",
        mode: Mode::Long,
        build: |g| {
            many(&mut g.asm, |a| {
                let mut next = a.create_label();
                a.lea(rax, ptr(next))?;
                a.push(rax)?;
                a.ret()?;
                a.set_label(&mut next)?;
                a.add(ebx, 1)
            })?;
            pair(g)
        },
        expect: &[Expect::Reg(RBX, MANY as u64), Expect::Reg(RDX, 1), Expect::Reg(RBP, 0)],
    },
    Case {
        name: "calls of registers and memory that never return, their stack going down",
        mode: Mode::Long,
        build: |g| {
            many(&mut g.asm, |a| {
                let (mut next, mut last) = (a.create_label(), a.create_label());
                a.lea(rax, ptr(next))?;
                a.call(rax)?;
                a.set_label(&mut next)?;
                a.lea(rax, ptr(last))?;
                a.push(rax)?;
                a.add(ebx, 1)?;
                a.call(qword_ptr(rsp))?;
                a.set_label(&mut last)?;
                a.adc(ebx, 0)
            })?;
            pair(g)
        },
        expect: &[Expect::Reg(RBX, MANY as u64), Expect::Reg(RDX, 1), Expect::Reg(RBP, 0)],
    },
];
