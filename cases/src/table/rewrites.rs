//! Code that is rewritten again and again: engines treat it otherwise than code that is rewritten once.

use cpu::x86::gpr::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::layout::{self, PAGE, sel};
use crate::{Case, Expect, Guest, Mode};

type Done = Result<(), IcedError>;

/// Rounds of a case; what they add up to is the sum of their numbers.
const ROUNDS: u32 = 20;
const SUM: u64 = 210;

/// Runs `body` with R8 from [`ROUNDS`] down to 1.
fn rounds(a: &mut CodeAssembler, body: impl FnOnce(&mut CodeAssembler) -> Done) -> Done {
    let mut again = a.create_label();
    a.mov(r8d, ROUNDS)?;
    a.set_label(&mut again)?;
    body(a)?;
    a.dec(r8d)?;
    a.jne(again)
}

/// For each of `stores`: stores RAX, which is a constant and four NOPs, to RDI, which is in the next instruction but for its
/// opcode, and adds that constant to RBX.
fn into_what_follows(g: &mut Guest, stores: &[fn(&mut CodeAssembler) -> Done]) -> Done {
    let a = &mut g.asm;
    a.xor(ebx, ebx)?;
    for store in stores {
        rounds(a, |a| {
            let mut patched = a.create_label();
            a.lea(rdi, ptr(patched))?;
            a.inc(rdi)?;
            a.mov(rax, 0x9090_9090_0000_0000u64)?;
            a.or(rax, r8)?;
            a.mov(qword_ptr(layout::DATA), rax)?;
            store(a)?;
            a.set_label(&mut patched)?;
            a.mov(ecx, 0)?;
            a.db(&[0x90; 4])?;
            a.add(ebx, ecx)
        })?;
    }
    a.mov(esp, layout::STACK as u32)?;
    a.hlt()
}

/// MOV EAX, 0; RET at `at`.
fn constant(g: &mut Guest, at: u64) -> Done {
    g.code_at(at, 64, |a| {
        a.mov(eax, 0)?;
        a.ret()
    })
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "stores to what follows, again and again: moves, exchanges, the stack",
        mode: Mode::Long,
        build: |g| {
            into_what_follows(
                g,
                &[
                    |a| a.mov(qword_ptr(rdi), rax),
                    |a| a.movnti(qword_ptr(rdi), rax),
                    |a| a.xchg(qword_ptr(rdi), rax),
                    |a| {
                        a.xor(ecx, ecx)?;
                        a.mov(qword_ptr(rdi), rcx)?;
                        a.lock().xadd(qword_ptr(rdi), rax)
                    },
                    |a| {
                        a.mov(rcx, rax)?;
                        a.mov(rax, qword_ptr(rdi))?;
                        a.lock().cmpxchg(qword_ptr(rdi), rcx)
                    },
                    |a| {
                        a.mov(qword_ptr(rdi), 0)?;
                        a.or(qword_ptr(rdi), rax)
                    },
                    |a| {
                        a.lea(rsp, qword_ptr(rdi + 8))?;
                        a.push(rax)
                    },
                    |a| {
                        a.lea(rsp, qword_ptr(rdi + 8))?;
                        a.push(qword_ptr(layout::DATA))
                    },
                    |a| {
                        a.mov(esp, layout::DATA as u32)?;
                        a.pop(qword_ptr(rdi))
                    },
                ],
            )
        },
        expect: &[Expect::Reg(RBX, 9 * SUM)],
    },
    Case {
        name: "stores to what follows, again and again: strings, vectors, the x87 unit",
        mode: Mode::Long,
        build: |g| {
            into_what_follows(
                g,
                &[
                    |a| a.stosq(),
                    |a| {
                        a.mov(esi, layout::DATA as u32)?;
                        a.movsq()
                    },
                    |a| {
                        a.mov(esi, layout::DATA as u32)?;
                        a.mov(ecx, 8)?;
                        a.rep().movsb()
                    },
                    |a| {
                        a.movq(xmm0, rax)?;
                        a.movq(qword_ptr(rdi), xmm0)
                    },
                    |a| {
                        a.movq(xmm0, rax)?;
                        a.mov(ecx, 0xffff_ffffu32)?;
                        a.movd(xmm1, ecx)?;
                        a.maskmovdqu(xmm0, xmm1)
                    },
                    |a| {
                        a.fild(qword_ptr(layout::DATA))?;
                        a.fistp(qword_ptr(rdi))
                    },
                ],
            )
        },
        expect: &[Expect::Reg(RBX, 6 * SUM)],
    },
    Case {
        name: "code rewritten often, then left alone, then rewritten often again",
        mode: Mode::Long,
        build: |g| {
            constant(g, PAGE)?;
            let a = &mut g.asm;
            a.xor(ebx, ebx)?;
            a.mov(edi, PAGE as u32)?;
            for _ in 0..2 {
                rounds(a, |a| {
                    a.mov(dword_ptr(rdi + 1), r8d)?;
                    a.call(rdi)?;
                    a.add(ebx, eax)
                })?;
                let mut again = a.create_label();
                a.mov(r8d, 3000)?;
                a.set_label(&mut again)?;
                a.call(rdi)?;
                a.add(ebx, eax)?;
                a.dec(r8d)?;
                a.jne(again)?;
            }
            a.hlt()
        },
        expect: &[Expect::Reg(RBX, 2 * (SUM + 3000))],
    },
    Case {
        name: "code rewritten often that a branch of the same page leads to",
        mode: Mode::Long,
        build: |g| {
            let target = PAGE + 0x800;
            g.code_at(PAGE, 64, |a| a.jmp(target))?;
            constant(g, target)?;
            let a = &mut g.asm;
            a.xor(ebx, ebx)?;
            a.mov(edi, PAGE as u32)?;
            rounds(a, |a| {
                a.mov(dword_ptr(rdi + 0x801), r8d)?;
                a.call(rdi)?;
                a.add(ebx, eax)?;
                a.call(rdi)?;
                a.add(ebx, eax)
            })?;
            a.hlt()
        },
        expect: &[Expect::Reg(RBX, 2 * SUM)],
    },
    Case {
        name: "an instruction rewritten often that crosses into another page",
        mode: Mode::Long,
        build: |g| {
            constant(g, PAGE + 0xffd)?;
            let a = &mut g.asm;
            a.xor(ebx, ebx)?;
            a.mov(edi, PAGE as u32 + 0xffd)?;
            rounds(a, |a| {
                a.mov(dword_ptr(rdi + 1), r8d)?;
                a.call(rdi)?;
                a.add(ebx, eax)
            })?;
            a.hlt()
        },
        expect: &[Expect::Reg(RBX, SUM)],
    },
    Case {
        name: "code rewritten often that becomes no instruction, and one again",
        mode: Mode::Long,
        build: |g| {
            constant(g, PAGE)?;
            // The handler puts the opcode back.
            g.code_at(PAGE + 0x1000, 64, |a| {
                a.mov(byte_ptr(rdi), 0xb8)?;
                a.inc(r9d)?;
                a.iretq()
            })?;
            g.idt(6, sel::CODE64, PAGE + 0x1000, 0x8e, 0);
            let a = &mut g.asm;
            a.xor(ebx, ebx)?;
            a.xor(r9d, r9d)?;
            a.mov(edi, PAGE as u32)?;
            rounds(a, |a| {
                a.mov(dword_ptr(rdi + 1), r8d)?;
                a.call(rdi)?;
                a.mov(byte_ptr(rdi), 0x06)?;
                a.call(rdi)?;
                a.add(ebx, eax)
            })?;
            a.hlt()
        },
        expect: &[Expect::Reg(RBX, SUM), Expect::Reg(9, ROUNDS as u64)],
    },
    Case {
        name: "what is no instruction becomes one by a byte of the next line",
        mode: Mode::Long,
        build: |g| {
            g.write(PAGE + 63, &[0x0f, 0x04, 0xc3]);
            g.code_at(PAGE + 0x1000, 64, |a| {
                a.mov(byte_ptr(PAGE + 64), 0x31)?; // RDTSC
                a.inc(ebx)?;
                a.iretq()
            })?;
            g.idt(6, sel::CODE64, PAGE + 0x1000, 0x8e, 0);
            g.asm.xor(ebx, ebx)?;
            g.asm.mov(edi, PAGE as u32 + 63)?;
            g.asm.call(rdi)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RBX, 1)],
    },
];
