//! External interrupts and NMIs: when they are taken, what blocks them.

use cpu::x86::gpr::*;
use cpu::x86::rflags;
use iced_x86::code_asm::*;

use crate::io::{NMI, RAISE};
use crate::layout::{self, sel};
use crate::{Case, Expect, Mode};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "an interrupt is taken behind the instruction after sti",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, 0x61)?;
            g.asm.out(i32::from(RAISE as u8), al)?;
            g.asm.xor(ecx, ecx)?;
            g.asm.sti()?;
            g.asm.inc(ecx)?;
            g.mark()?;
            g.asm.inc(ecx)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Fault(0x61, 0),
            Expect::FaultAtMark,
            Expect::Reg(RCX, 1),
            Expect::FaultFlags(rflags::IF, rflags::IF),
            Expect::Flags(rflags::IF, 0),
        ],
    },
    Case {
        name: "an interrupt waits for IF",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, 0x61)?;
            g.asm.out(i32::from(RAISE as u8), al)?;
            g.asm.hlt()
        },
        expect: &[Expect::Faults(0)],
    },
    Case {
        name: "popf opens interrupts at once",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, 0x61)?;
            g.asm.out(i32::from(RAISE as u8), al)?;
            g.asm.push(0x202)?;
            g.asm.popfq()?;
            g.mark()?;
            g.asm.hlt()
        },
        expect: &[Expect::Fault(0x61, 0), Expect::FaultAtMark],
    },
    Case {
        name: "mov ss holds interrupts back for one instruction",
        mode: Mode::Protected,
        build: |g| {
            g.asm.mov(eax, 0x61)?;
            g.asm.out(i32::from(RAISE as u8), al)?;
            g.asm.mov(ebx, ss)?;
            g.asm.xor(ecx, ecx)?;
            g.asm.sti()?;
            g.asm.mov(ss, ebx)?;
            g.asm.inc(ecx)?;
            g.mark()?;
            g.asm.inc(ecx)?;
            g.asm.hlt()
        },
        expect: &[Expect::Fault(0x61, 0), Expect::FaultAtMark],
    },
    Case {
        name: "an interrupt ends hlt",
        mode: Mode::Long,
        build: |g| {
            g.idt(0x61, sel::CODE64, layout::DATA, 0x8e, 0);
            g.code_at(layout::DATA, 64, |a| {
                a.inc(ebx)?;
                a.iretq()
            })?;
            g.asm.xor(ebx, ebx)?;
            g.asm.xor(ecx, ecx)?;
            g.asm.mov(eax, 0x61)?;
            g.asm.out(i32::from(RAISE as u8), al)?;
            g.asm.sti()?;
            g.asm.hlt()?;
            g.asm.cli()?;
            g.asm.inc(ecx)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RBX, 1), Expect::Reg(RCX, 1)],
    },
    Case {
        name: "a trap gate leaves IF set, an interrupt gate clears it",
        mode: Mode::Long,
        build: |g| {
            g.idt(0x61, sel::CODE64, layout::DATA, 0x8f, 0);
            g.idt(0x62, sel::CODE64, layout::DATA + 0x100, 0x8e, 0);
            g.code_at(layout::DATA, 64, |a| {
                a.pushfq()?;
                a.pop(rbx)?;
                a.int(0x62)
            })?;
            g.code_at(layout::DATA + 0x100, 64, |a| {
                a.pushfq()?;
                a.pop(rcx)?;
                a.cli()?;
                a.hlt()
            })?;
            g.asm.sti()?;
            g.asm.int(0x61)
        },
        expect: &[Expect::Reg(RBX, 0x202), Expect::Reg(RCX, 2)],
    },
    Case {
        name: "an nmi ignores IF and blocks others until iret",
        mode: Mode::Long,
        build: |g| {
            g.idt(2, sel::CODE64, layout::DATA, 0x8e, 0);
            g.code_at(layout::DATA, 64, |a| {
                a.inc(ebx)?;
                a.cmp(ebx, 2)?;
                let mut second = a.create_label();
                a.je(second)?;
                a.out(i32::from(NMI as u8), al)?;
                a.mov(ecx, ebx)?; // the second one has not come yet
                a.set_label(&mut second)?;
                a.iretq()
            })?;
            g.asm.xor(ebx, ebx)?;
            g.asm.out(i32::from(NMI as u8), al)?;
            g.asm.nop()?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg(RBX, 2),
            Expect::Reg(RCX, 1),
            Expect::State("nmis are still blocked", |s| !s.events.nmi_blocked),
        ],
    },
    Case {
        name: "iretq goes back with flags and stack",
        mode: Mode::Long,
        build: |g| {
            let mut target = g.asm.create_label();
            g.asm.lea(rbx, ptr(target))?;
            g.asm.push(i32::from(sel::DATA))?;
            g.asm.push(0x2_1000)?;
            g.asm.push(0x8d7)?;
            g.asm.push(i32::from(sel::CODE64))?;
            g.asm.push(rbx)?;
            g.asm.iretq()?;
            g.asm.ud2()?;
            g.asm.set_label(&mut target)?;
            g.asm.hlt()
        },
        expect: &[Expect::Flags(0xfff, 0x8d7), Expect::Reg(RSP, 0x2_1000)],
    },
    Case {
        name: "iretq with a null stack selector keeps ring 0",
        mode: Mode::Long,
        build: |g| {
            let mut target = g.asm.create_label();
            g.asm.lea(rbx, ptr(target))?;
            g.asm.push(0)?;
            g.asm.push(0x2_1000)?;
            g.asm.push(2)?;
            g.asm.push(i32::from(sel::CODE64))?;
            g.asm.push(rbx)?;
            g.asm.iretq()?;
            g.asm.ud2()?;
            g.asm.set_label(&mut target)?;
            g.asm.push(0x77)?;
            g.asm.hlt()
        },
        expect: &[Expect::Selector(2, 0), Expect::Mem(0x2_0ff8, 0x77)],
    },
    Case {
        name: "iretq to a non-canonical address is #GP(0) at itself",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rbx, 0x8000_0000_0000u64)?;
            g.asm.push(i32::from(sel::DATA))?;
            g.asm.push(0x2_1000)?;
            g.asm.push(2)?;
            g.asm.push(i32::from(sel::CODE64))?;
            g.asm.push(rbx)?;
            g.mark()?;
            g.asm.iretq()
        },
        expect: &[Expect::Fault(13, 0), Expect::FaultAtMark],
    },
    Case {
        name: "iretq to an inner level is #GP with the selector",
        mode: Mode::Long,
        build: |g| {
            g.user(2, |a| {
                a.push(i32::from(sel::DATA))?;
                a.push(0x2_1000)?;
                a.push(2)?;
                a.push(i32::from(sel::CODE64))?;
                a.push(layout::CODE as i32)?;
                a.iretq()
            })
        },
        expect: &[Expect::Fault(13, sel::CODE64 as u32)],
    },
    Case {
        name: "iret with NT is #GP(0) in long mode",
        mode: Mode::Long,
        build: |g| {
            g.asm.push(0x4002)?;
            g.asm.popfq()?;
            g.mark()?;
            g.asm.iretq()
        },
        expect: &[Expect::Fault(13, 0), Expect::FaultAtMark, Expect::FaultFlags(rflags::NT, rflags::NT)],
    },
    Case {
        name: "a 16-bit interrupt gate pushes words",
        mode: Mode::Protected,
        build: |g| {
            g.idt(0x61, sel::CODE32, 0xc000, 0x86, 0);
            g.code_at(0xc000, 32, |a| {
                a.mov(eax, esp)?;
                a.movzx(ebx, word_ptr(esp + 2))?;
                a.hlt()
            })?;
            g.asm.int(0x61)
        },
        expect: &[Expect::Reg(RAX, layout::STACK - 6), Expect::Reg(RBX, sel::CODE32 as u64)],
    },
];
