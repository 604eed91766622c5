//! Far calls, jumps and returns, through call gates too.

use cpu::x86::gpr::*;
use cpu::x86::vector;
use iced_x86::code_asm::*;

use crate::layout::{self, gate, sel};
use crate::{Case, Expect, Mode};

/// CALL FAR to a selector, offset 0xbad: 32-bit code.
fn call(a: &mut CodeAssembler, selector: u16) -> Result<(), iced_x86::IcedError> {
    let [low, high] = selector.to_le_bytes();
    a.db(&[0x9a, 0xad, 0x0b, 0, 0, low, high])
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a call gate goes to ring 0 with parameters",
        mode: Mode::Protected,
        build: |g| {
            g.gdt(sel::FREE, gate(sel::CODE32, layout::DATA, 0xec, 2));
            g.code_at(layout::DATA, 32, |a| {
                a.mov(ecx, esp)?;
                a.mov(eax, dword_ptr(esp + 8))?;
                a.mov(ebx, dword_ptr(esp + 12))?;
                a.mov(edx, dword_ptr(esp + 16))?;
                a.mov(esi, cs)?;
                a.hlt()
            })?;
            g.user(2, |a| {
                a.push(0x22)?;
                a.push(0x11)?;
                call(a, sel::FREE)
            })
        },
        expect: &[
            Expect::Reg(RCX, layout::STACK0 - 24),
            Expect::Reg(RAX, 0x11),
            Expect::Reg(RBX, 0x22),
            Expect::Reg(RDX, layout::STACK3 - 8),
            Expect::Reg(RSI, sel::CODE32 as u64),
        ],
    },
    Case {
        name: "a far return through the gate drops the parameters on both stacks",
        mode: Mode::Protected,
        build: |g| {
            g.idt_access(0x61, 0xee);
            g.gdt(sel::FREE, gate(sel::CODE32, layout::DATA, 0xec, 2));
            g.code_at(layout::DATA, 32, |a| a.retf_1(8))?;
            g.user(2, |a| {
                a.push(0x22)?;
                a.push(0x11)?;
                call(a, sel::FREE)?;
                a.int(0x61)
            })
        },
        expect: &[Expect::Fault(0x61, 0), Expect::FaultCs(sel::USER_CODE32), Expect::FaultSp(layout::STACK3)],
    },
    Case {
        name: "a 64-bit call gate pushes eight-byte words and a null SS",
        mode: Mode::Long,
        build: |g| {
            g.gdt(sel::FREE, gate(sel::CODE64, layout::DATA, 0xec, 0));
            g.gdt(sel::FREE_UPPER, 0);
            g.write_u32(layout::DATA + 0x100, 0xbad);
            g.write_u16(layout::DATA + 0x104, sel::FREE | 3);
            g.code_at(layout::DATA, 64, |a| {
                a.mov(rcx, rsp)?;
                a.mov(rax, qword_ptr(rsp + 8))?;
                a.mov(rbx, qword_ptr(rsp + 16))?;
                a.mov(rdx, qword_ptr(rsp + 24))?;
                a.hlt()
            })?;
            g.user(2, |a| a.call(fword_ptr(layout::DATA + 0x100)))
        },
        expect: &[
            Expect::Reg(RCX, layout::STACK0 - 32),
            Expect::Reg(RAX, sel::USER_CODE64 as u64),
            Expect::Reg(RBX, layout::STACK3),
            Expect::Reg(RDX, sel::USER_DATA as u64),
            Expect::Selector(2, 0),
        ],
    },
    Case {
        name: "a call gate with a type in its upper half is #GP",
        mode: Mode::Long,
        build: |g| {
            g.gdt(sel::FREE, gate(sel::CODE64, layout::DATA, 0xec, 0));
            g.gdt(sel::FREE_UPPER, 0x0100_0000_0000);
            g.write_u32(layout::DATA + 0x100, 0xbad);
            g.write_u16(layout::DATA + 0x104, sel::FREE);
            g.mark()?;
            g.asm.call(fword_ptr(layout::DATA + 0x100))
        },
        expect: &[Expect::Fault(vector::GP, sel::FREE as u32), Expect::FaultAtMark],
    },
    Case {
        name: "a call gate of DPL 0 is #GP in ring 3",
        mode: Mode::Protected,
        build: |g| {
            g.gdt(sel::FREE, gate(sel::CODE32, layout::DATA, 0x8c, 0));
            g.user(2, |a| call(a, sel::FREE))
        },
        expect: &[Expect::Fault(vector::GP, sel::FREE as u32)],
    },
    Case {
        name: "a call gate that is absent is #NP",
        mode: Mode::Protected,
        build: |g| {
            g.gdt(sel::FREE, gate(sel::CODE32, layout::DATA, 0x0c, 0));
            g.mark()?;
            call(&mut g.asm, sel::FREE)
        },
        expect: &[Expect::Fault(vector::NP, sel::FREE as u32), Expect::FaultAtMark],
    },
    Case {
        name: "a jump through a gate cannot go inward",
        mode: Mode::Protected,
        build: |g| {
            g.gdt(sel::FREE, gate(sel::CODE32, layout::DATA, 0xec, 0));
            g.user(2, |a| a.db(&[0xea, 0, 0, 0, 0, sel::FREE as u8, 0]))
        },
        expect: &[Expect::Fault(vector::GP, sel::CODE32 as u32)],
    },
    Case {
        name: "a conforming segment is called at the caller's level",
        mode: Mode::Protected,
        build: |g| {
            g.idt_access(0x61, 0xee);
            g.code_at(0xbad, 32, |a| {
                a.mov(eax, dword_ptr(esp))?;
                a.mov(ebx, dword_ptr(esp + 4))?;
                a.int(0x61)
            })?;
            g.user(2, |a| call(a, sel::CONFORMING))
        },
        expect: &[
            Expect::Fault(0x61, 0),
            Expect::FaultCs(sel::CONFORMING | 3),
            Expect::Reg(RAX, layout::CODE + 0x2007),
            Expect::Reg(RBX, sel::USER_CODE32 as u64),
        ],
    },
    Case {
        name: "a far call to a null selector is #GP(0)",
        mode: Mode::Protected,
        build: |g| {
            g.mark()?;
            call(&mut g.asm, 0)
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "a far call to a data segment is #GP with it",
        mode: Mode::Protected,
        build: |g| {
            g.mark()?;
            call(&mut g.asm, sel::DATA)
        },
        expect: &[Expect::Fault(vector::GP, sel::DATA as u32), Expect::FaultAtMark],
    },
    Case {
        name: "a far call and return change CS and come back",
        mode: Mode::Protected,
        build: |g| {
            g.code_at(0xbad, 32, |a| {
                a.mov(ebx, cs)?;
                a.retf()
            })?;
            call(&mut g.asm, sel::CONFORMING)?;
            g.asm.mov(ecx, cs)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg(RBX, sel::CONFORMING as u64),
            Expect::Reg(RCX, sel::CODE32 as u64),
            Expect::Reg(RSP, layout::STACK),
        ],
    },
    Case {
        name: "a segment with both L and D is #GP in long mode",
        mode: Mode::Long,
        build: |g| {
            g.gdt(sel::FREE, layout::descriptor(0, 0xf_ffff, 0x9b, 0xe));
            g.write_u32(layout::DATA + 0x100, 0xbad);
            g.write_u16(layout::DATA + 0x104, sel::FREE);
            g.mark()?;
            g.asm.jmp(fword_ptr(layout::DATA + 0x100))
        },
        expect: &[Expect::Fault(vector::GP, sel::FREE as u32), Expect::FaultAtMark],
    },
];
