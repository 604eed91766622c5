//! Segment registers: loads and their checks, limits, expand-down segments, far pointers.

use cpu::x86::gpr::*;
use cpu::x86::vector;
use iced_x86::code_asm::*;

use crate::layout::{self, sel};
use crate::{Case, Expect, Mode};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a selector beyond the table is #GP with the selector",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, i32::from(sel::BEYOND | 3))?;
            g.mark()?;
            g.asm.mov(ds, eax)
        },
        expect: &[Expect::Fault(vector::GP, sel::BEYOND as u32), Expect::FaultAtMark],
    },
    Case {
        name: "a data segment that is absent is #NP",
        mode: Mode::Protected,
        build: |g| {
            g.asm.mov(eax, i32::from(sel::ABSENT))?;
            g.mark()?;
            g.asm.mov(fs, eax)
        },
        expect: &[Expect::Fault(vector::NP, sel::ABSENT as u32), Expect::FaultAtMark],
    },
    Case {
        name: "a stack segment that is absent is #SS",
        mode: Mode::Protected,
        build: |g| {
            g.asm.mov(eax, i32::from(sel::ABSENT))?;
            g.mark()?;
            g.asm.mov(ss, eax)
        },
        expect: &[Expect::Fault(vector::SS, sel::ABSENT as u32), Expect::FaultAtMark],
    },
    Case {
        name: "a code segment is no stack",
        mode: Mode::Protected,
        build: |g| {
            g.asm.mov(eax, i32::from(sel::CODE32))?;
            g.mark()?;
            g.asm.mov(ss, eax)
        },
        expect: &[Expect::Fault(vector::GP, sel::CODE32 as u32), Expect::FaultAtMark],
    },
    Case {
        name: "a null stack segment is #GP(0) in protected mode",
        mode: Mode::Protected,
        build: |g| {
            g.asm.xor(eax, eax)?;
            g.mark()?;
            g.asm.mov(ss, eax)
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "a null stack segment is allowed in 64-bit ring 0",
        mode: Mode::Long,
        build: |g| {
            g.asm.xor(eax, eax)?;
            g.asm.mov(ss, eax)?;
            g.asm.push(0x77)?;
            g.asm.hlt()
        },
        expect: &[Expect::Selector(2, 0), Expect::Mem(layout::STACK - 8, 0x77)],
    },
    Case {
        name: "a null data segment may be loaded but not used",
        mode: Mode::Protected,
        build: |g| {
            g.asm.xor(eax, eax)?;
            g.asm.mov(fs, eax)?;
            g.mark()?;
            g.asm.mov(eax, dword_ptr(layout::DATA).fs())
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "loading a segment marks its descriptor accessed",
        mode: Mode::Protected,
        build: |g| {
            g.gdt(sel::FREE, layout::descriptor(0, 0xf_ffff, 0x92, 0xc));
            g.asm.mov(eax, i32::from(sel::FREE))?;
            g.asm.mov(fs, eax)?;
            g.asm.hlt()
        },
        expect: &[Expect::Mem(layout::GDT + sel::FREE as u64, layout::descriptor(0, 0xf_ffff, 0x93, 0xc))],
    },
    Case {
        name: "the limit is the last byte",
        mode: Mode::Protected,
        build: |g| {
            g.gdt(sel::FREE, layout::descriptor(layout::DATA as u32, 0xf, 0x93, 0x4));
            g.write_u32(layout::DATA + 0xc, 0x1122_3344);
            g.asm.mov(eax, i32::from(sel::FREE))?;
            g.asm.mov(fs, eax)?;
            g.asm.mov(ebx, dword_ptr(0xc).fs())?;
            g.mark()?;
            g.asm.mov(eax, dword_ptr(0xd).fs())
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark, Expect::Reg(RBX, 0x1122_3344)],
    },
    Case {
        name: "an expand-down segment begins above its limit",
        mode: Mode::Protected,
        build: |g| {
            g.gdt(sel::FREE, layout::descriptor(0, 0x2_ffff, 0x97, 0x4));
            g.write_u32(0x3_0000, 0x1122_3344);
            g.asm.mov(eax, i32::from(sel::FREE))?;
            g.asm.mov(fs, eax)?;
            g.asm.mov(ebx, dword_ptr(0x3_0000).fs())?;
            g.mark()?;
            g.asm.mov(eax, dword_ptr(0x2_ffff).fs())
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark, Expect::Reg(RBX, 0x1122_3344)],
    },
    Case {
        name: "read-only data cannot be written",
        mode: Mode::Protected,
        build: |g| {
            g.gdt(sel::FREE, layout::descriptor(0, 0xf_ffff, 0x91, 0xc));
            g.asm.mov(eax, i32::from(sel::FREE))?;
            g.asm.mov(fs, eax)?;
            g.asm.mov(ebx, dword_ptr(layout::DATA).fs())?;
            g.mark()?;
            g.asm.mov(dword_ptr(layout::DATA).fs(), eax)
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "code cannot be written through CS",
        mode: Mode::Protected,
        build: |g| {
            g.mark()?;
            g.asm.mov(dword_ptr(layout::DATA).cs(), eax)
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "running off the code segment is #GP(0)",
        mode: Mode::Protected,
        build: |g| {
            g.gdt(sel::FREE, layout::descriptor(layout::DATA as u32, 3, 0x9b, 0x4));
            g.write(layout::DATA, &[0x43, 0x43, 0x43, 0x43, 0x43]); // INC EBX
            g.asm.xor(ebx, ebx)?;
            g.asm.db(&[0xea, 0, 0, 0, 0, sel::FREE as u8, 0])
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::Reg(RBX, 4), Expect::FaultCs(sel::FREE)],
    },
    Case {
        name: "lss loads stack segment and pointer together",
        mode: Mode::Protected,
        build: |g| {
            g.write_u32(layout::DATA, 0x2_2000);
            g.write_u16(layout::DATA + 4, sel::DATA);
            g.asm.lss(esp, fword_ptr(layout::DATA))?;
            g.asm.push(0x77)?;
            g.asm.hlt()
        },
        expect: &[Expect::Mem32(0x2_1ffc, 0x77)],
    },
    Case {
        name: "a 16-bit stack wraps within 64 KiB",
        mode: Mode::Protected,
        build: |g| {
            g.asm.mov(eax, i32::from(sel::DATA16))?;
            g.asm.mov(ss, eax)?;
            g.asm.mov(esp, 0x1234_0000)?;
            g.asm.push(0x77)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RSP, 0x1234_fffc), Expect::Mem32(0xfffc, 0x77)],
    },
    Case {
        name: "push and pop of a segment register move a whole slot",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, i32::from(sel::USER_DATA))?;
            g.asm.mov(fs, eax)?;
            g.asm.push(fs)?;
            g.asm.pop(gs)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg(RSP, layout::STACK),
            Expect::Selector(5, sel::USER_DATA),
            Expect::Mem(layout::STACK - 8, sel::USER_DATA as u64),
        ],
    },
    Case {
        name: "arpl raises the requested privilege level",
        mode: Mode::Protected,
        build: |g| {
            g.asm.mov(eax, i32::from(sel::DATA))?;
            g.asm.mov(ebx, i32::from(sel::USER_CODE32))?;
            g.asm.arpl(ax, bx)?;
            g.asm.setz(cl)?;
            g.asm.arpl(ax, bx)?;
            g.asm.setz(ch)?;
            g.asm.movzx(ecx, cx)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, sel::DATA as u64 | 3), Expect::Reg(RCX, 1)],
    },
    Case {
        name: "mov from a segment register clears the rest of a register",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rax, -1i64)?;
            g.asm.mov(eax, ds)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, sel::DATA as u64)],
    },
];
