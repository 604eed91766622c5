//! Virtual-8086 mode.

use cpu::x86::gpr::*;
use cpu::x86::{rflags, vector};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::layout::{self, sel};
use crate::{Case, Expect, Guest, Mode};

const VM: u64 = rflags::VM;
/// Segment 0x1000 of the v8086 code: CODE.
const SEGMENT: u16 = 0x1200;

/// Enters v8086 mode by IRET: CS SEGMENT:0, SS 0x2000:0xc000, data segments 0x3000.
fn enter(
    g: &mut Guest,
    flags: u32,
    code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    for word in [0x3004, 0x3003, 0x3002, 0x3001, 0x2000, 0xc000] {
        g.asm.push(word)?;
    }
    g.asm.push((flags | VM as u32) as i32)?;
    g.asm.push(i32::from(SEGMENT))?;
    g.asm.push(0)?;
    g.asm.iretd()?;
    let mut asm = CodeAssembler::new(16)?;
    code(&mut asm)?;
    let bytes = asm.assemble(0)?;
    g.write(u64::from(SEGMENT) << 4, &bytes);
    Ok(())
}

const GP0: Expect = Expect::Fault(vector::GP, 0);

pub(super) const CASES: &[Case] = &[
    Case {
        name: "an exception in v8086 mode pushes the segments and nulls them",
        mode: Mode::Protected,
        build: |g| {
            g.idt(6, sel::CODE32, layout::DATA, 0x8e, 0);
            g.code_at(layout::DATA, 32, |a| {
                a.mov(eax, esp)?;
                a.mov(ebx, dword_ptr(esp + 20))?; // ES
                a.mov(ecx, dword_ptr(esp + 32))?; // GS
                a.mov(edx, dword_ptr(esp + 8))?; // EFLAGS
                a.mov(esi, dword_ptr(esp + 16))?; // SS
                a.mov(edi, ds)?;
                a.hlt()
            })?;
            enter(g, 0x2, |a| a.ud2())
        },
        expect: &[
            Expect::Reg(RAX, layout::STACK0 - 36),
            Expect::Reg(RBX, 0x3001),
            Expect::Reg(RCX, 0x3004),
            Expect::Reg(RDX, VM | rflags::RF | 2),
            Expect::Reg(RSI, 0x2000),
            Expect::Reg(RDI, 0),
            Expect::Flags(VM, 0),
        ],
    },
    Case {
        name: "segments are selectors times sixteen in v8086 mode",
        mode: Mode::Protected,
        build: |g| {
            g.write_u16(0x3_0020, 0xbeef);
            enter(g, 0x2, |a| {
                a.mov(bx, word_ptr(0x10))?; // DS 0x3002
                a.mov(dx, 0x1234)?;
                a.mov(es, dx)?;
                a.mov(cx, es)?;
                a.ud2()
            })?;
            g.write_u16(0x3_0030, 0xbeef);
            Ok(())
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::Reg32(RBX, 0xbeef), Expect::Reg32(RCX, 0x1234)],
    },
    Case {
        name: "int n is #GP(0) in v8086 mode below IOPL 3",
        mode: Mode::Protected,
        build: |g| {
            g.idt_access(0x61, 0xee);
            enter(g, 0x2, |a| a.int(0x61))
        },
        expect: &[GP0, Expect::FaultCs(SEGMENT), Expect::FaultRip(0), Expect::FaultFlags(VM, VM)],
    },
    Case {
        name: "int n goes through the IDT in v8086 mode with IOPL 3",
        mode: Mode::Protected,
        build: |g| {
            g.idt_access(0x61, 0xee);
            enter(g, 0x3002, |a| a.int(0x61))
        },
        expect: &[Expect::Fault(0x61, 0), Expect::FaultCs(SEGMENT), Expect::FaultRip(2)],
    },
    Case {
        name: "int3 does not depend on IOPL in v8086 mode",
        mode: Mode::Protected,
        build: |g| {
            g.idt_access(3, 0xee);
            enter(g, 0x2, |a| a.int3())
        },
        expect: &[Expect::Fault(vector::BP, 0), Expect::FaultRip(1)],
    },
    Case {
        name: "cli is #GP(0) in v8086 mode below IOPL 3",
        mode: Mode::Protected,
        build: |g| enter(g, 0x202, |a| a.cli()),
        expect: &[GP0],
    },
    Case {
        name: "pushf is #GP(0) in v8086 mode below IOPL 3",
        mode: Mode::Protected,
        build: |g| enter(g, 0x2, |a| a.pushf()),
        expect: &[GP0],
    },
    Case {
        name: "with IOPL 3 popf changes IF but not IOPL",
        mode: Mode::Protected,
        build: |g| {
            enter(g, 0x3002, |a| {
                a.push(0x202)?;
                a.popf()?;
                a.ud2()
            })
        },
        expect: &[
            Expect::Fault(vector::UD, 0),
            Expect::FaultFlags(rflags::IF | rflags::IOPL | VM, rflags::IF | rflags::IOPL | VM),
        ],
    },
    Case {
        name: "iret within v8086 mode with IOPL 3",
        mode: Mode::Protected,
        build: |g| {
            enter(g, 0x3002, |a| {
                a.push(0x202)?;
                a.push(i32::from(SEGMENT))?;
                a.push(0x40)?;
                a.iret()
            })?;
            g.write((u64::from(SEGMENT) << 4) + 0x40, &[0x0f, 0x0b]);
            Ok(())
        },
        expect: &[
            Expect::Fault(vector::UD, 0),
            Expect::FaultRip(0x40),
            Expect::FaultFlags(VM | rflags::IF | rflags::IOPL, VM | rflags::IF | rflags::IOPL),
        ],
    },
    Case {
        name: "hlt is #GP(0) in v8086 mode",
        mode: Mode::Protected,
        build: |g| enter(g, 0x3002, |a| a.hlt()),
        expect: &[GP0],
    },
    Case {
        name: "ports follow the I/O bitmap in v8086 mode whatever IOPL is",
        mode: Mode::Protected,
        build: |g| enter(g, 0x3002, |a| a.out(0x80, al)),
        expect: &[GP0],
    },
    Case {
        name: "str is #UD in v8086 mode",
        mode: Mode::Protected,
        build: |g| enter(g, 0x3002, |a| a.str(ax)),
        expect: &[Expect::Fault(vector::UD, 0)],
    },
    Case {
        name: "the segment limit is 64 KiB in v8086 mode",
        mode: Mode::Protected,
        build: |g| {
            enter(g, 0x2, |a| {
                a.mov(bx, -1)?;
                a.mov(ax, word_ptr(bx))
            })
        },
        expect: &[GP0, Expect::FaultRip(3)],
    },
    Case {
        name: "an interrupt gate to a conforming segment is #GP with it in v8086 mode",
        mode: Mode::Protected,
        build: |g| {
            g.idt(0x61, sel::CONFORMING, layout::DATA, 0xee, 0);
            enter(g, 0x3002, |a| a.int(0x61))
        },
        expect: &[Expect::Fault(vector::GP, sel::CONFORMING as u32)],
    },
];
