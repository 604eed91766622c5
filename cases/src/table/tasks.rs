//! Hardware task switches.

use cpu::x86::gpr::*;
use cpu::x86::{cr0, rflags, vector};
use iced_x86::code_asm::*;

use crate::layout::{self, descriptor, gate, sel};
use crate::{Case, Expect, Guest, Mode};

/// Stack of the second task.
const STACK2: u64 = layout::STACK_IST;

/// Fills the second task-state segment: ring 0, code at DATA.
fn second_task(g: &mut Guest, eflags: u32) {
    let tss = layout::TSS2;
    for (offset, value) in [
        (0x1c, layout::PD as u32),
        (0x20, layout::DATA as u32),
        (0x24, eflags),
        (0x28, 0xaaaa),
        (0x34, 0xbbbb),
        (0x38, STACK2 as u32),
        (0x48, u32::from(sel::DATA)),
        (0x4c, u32::from(sel::CODE32)),
        (0x50, u32::from(sel::DATA)),
        (0x54, u32::from(sel::DATA)),
    ] {
        g.write_u32(tss + offset, value);
    }
}

const TSS2_BUSY: Expect =
    Expect::Mem(layout::GDT + sel::TSS2 as u64, descriptor(layout::TSS2 as u32, 0x67, 0x8b, 0));
const TSS_FREE: Expect =
    Expect::Mem(layout::GDT + sel::TSS as u64, descriptor(layout::TSS as u32, 0x67, 0x89, 0));
const TSS_BUSY: Expect =
    Expect::Mem(layout::GDT + sel::TSS as u64, descriptor(layout::TSS as u32, 0x67, 0x8b, 0));
const TSS2_FREE: Expect =
    Expect::Mem(layout::GDT + sel::TSS2 as u64, descriptor(layout::TSS2 as u32, 0x67, 0x89, 0));

fn far(opcode: u8, selector: u16) -> [u8; 7] {
    [opcode, 0, 0, 0, 0, selector as u8, (selector >> 8) as u8]
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a jump to a TSS switches tasks",
        mode: Mode::Protected,
        build: |g| {
            second_task(g, 0x2);
            g.code_at(layout::DATA, 32, |a| a.hlt())?;
            g.asm.mov(eax, 0x1111)?;
            g.asm.db(&far(0xea, sel::TSS2))
        },
        expect: &[
            Expect::Reg(RAX, 0xaaaa),
            Expect::Reg(RBX, 0xbbbb),
            Expect::Reg(RSP, STACK2),
            TSS2_BUSY,
            TSS_FREE,
            Expect::Mem32(layout::TSS + 0x20, layout::CODE as u32 + 12),
            Expect::Mem32(layout::TSS + 0x28, 0x1111),
            Expect::Mem16(layout::TSS + 0x4c, sel::CODE32),
            Expect::State("CR0.TS is set", |s| s.cr0 & cr0::TS != 0),
            Expect::State("TR", |s| s.tr.selector == sel::TSS2 && s.tr.base == layout::TSS2),
        ],
    },
    Case {
        name: "a called task returns by iret",
        mode: Mode::Protected,
        build: |g| {
            second_task(g, 0x2);
            g.code_at(layout::DATA, 32, |a| {
                a.pushfd()?;
                a.pop(ecx)?;
                a.mov(dword_ptr(layout::DATA + 0x800), ecx)?;
                a.iretd()
            })?;
            g.asm.mov(eax, 0x1111)?;
            g.asm.db(&far(0x9a, sel::TSS2))?;
            g.asm.mov(ebx, 0x2222)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg(RAX, 0x1111),
            Expect::Reg(RBX, 0x2222),
            Expect::Reg(RSP, layout::STACK),
            Expect::Mem32(layout::DATA + 0x800, 0x4002),
            Expect::Mem16(layout::TSS2, sel::TSS),
            TSS_BUSY,
            TSS2_FREE,
            Expect::Flags(rflags::NT, 0),
        ],
    },
    Case {
        name: "an exception through a task gate pushes its error code in the new task",
        mode: Mode::Protected,
        build: |g| {
            second_task(g, 0x2);
            g.write_u64(layout::IDT + 13 * 8, gate(sel::TSS2, 0, 0x85, 0));
            g.code_at(layout::DATA, 32, |a| {
                a.pop(edx)?;
                a.hlt()
            })?;
            g.asm.mov(eax, i32::from(sel::BEYOND))?;
            g.asm.mov(fs, eax)
        },
        expect: &[
            Expect::Reg(RDX, sel::BEYOND as u64),
            Expect::Reg(RSP, STACK2),
            Expect::Mem32(layout::TSS + 0x20, layout::CODE as u32 + 5),
            TSS2_BUSY,
            TSS_BUSY,
        ],
    },
    Case {
        name: "a task gate in the global table",
        mode: Mode::Protected,
        build: |g| {
            second_task(g, 0x2);
            g.gdt(sel::FREE, gate(sel::TSS2, 0, 0x85, 0));
            g.code_at(layout::DATA, 32, |a| a.hlt())?;
            g.asm.db(&far(0xea, sel::FREE))
        },
        expect: &[Expect::Reg(RAX, 0xaaaa), TSS2_BUSY],
    },
    Case {
        name: "a jump to the running task is #GP with its selector",
        mode: Mode::Protected,
        build: |g| {
            g.mark()?;
            g.asm.db(&far(0xea, sel::TSS))
        },
        expect: &[Expect::Fault(vector::GP, sel::TSS as u32), Expect::FaultAtMark, TSS_BUSY],
    },
    Case {
        name: "a TSS that is too small is #TS with its selector",
        mode: Mode::Protected,
        build: |g| {
            second_task(g, 0x2);
            g.gdt(sel::TSS2, descriptor(layout::TSS2 as u32, 0x66, 0x89, 0));
            g.mark()?;
            g.asm.db(&far(0xea, sel::TSS2))
        },
        expect: &[Expect::Fault(vector::TS, sel::TSS2 as u32), Expect::FaultAtMark],
    },
    Case {
        name: "a bad stack segment is #TS in the new task",
        mode: Mode::Protected,
        build: |g| {
            second_task(g, 0x2);
            g.write_u32(layout::TSS2 + 0x50, u32::from(sel::CODE32));
            // The new task has no stack: the handler is a task of its own.
            g.write_u64(layout::IDT + 10 * 8, gate(sel::FREE, 0, 0x85, 0));
            g.gdt(sel::FREE, descriptor(layout::DATA as u32 + 0x400, 0x67, 0x89, 0));
            let third = layout::DATA + 0x400;
            for (offset, value) in [
                (0x20, layout::DATA as u32 + 0x100),
                (0x24, 2),
                (0x38, layout::STACK as u32),
                (0x48, u32::from(sel::DATA)),
                (0x4c, u32::from(sel::CODE32)),
                (0x50, u32::from(sel::DATA)),
                (0x54, u32::from(sel::DATA)),
            ] {
                g.write_u32(third + offset, value);
            }
            g.code_at(layout::DATA + 0x100, 32, |a| {
                a.pop(edx)?;
                a.hlt()
            })?;
            g.asm.db(&far(0xea, sel::TSS2))
        },
        expect: &[
            Expect::Reg(RDX, sel::CODE32 as u64),
            Expect::Mem32(layout::TSS2 + 0x20, layout::DATA as u32),
            Expect::Mem16(layout::DATA + 0x400, sel::TSS2),
            TSS2_BUSY,
        ],
    },
    Case {
        name: "a task in ring 3",
        mode: Mode::Protected,
        build: |g| {
            second_task(g, 0x202);
            g.write_u32(layout::TSS2 + 4, layout::STACK0 as u32);
            g.write_u32(layout::TSS2 + 8, u32::from(sel::DATA));
            for (offset, selector) in
                [(0x4c, sel::USER_CODE32), (0x50, sel::USER_DATA), (0x54, sel::USER_DATA)]
            {
                g.write_u32(layout::TSS2 + offset, u32::from(selector));
            }
            g.write_u32(layout::TSS2 + 0x48, u32::from(sel::USER_DATA));
            g.code_at(layout::DATA, 32, |a| a.cli())?;
            g.asm.db(&far(0xea, sel::TSS2))
        },
        expect: &[
            Expect::Fault(vector::GP, 0),
            Expect::FaultCs(sel::USER_CODE32),
            Expect::FaultSp(STACK2),
            Expect::FaultFlags(rflags::IF, rflags::IF),
        ],
    },
    Case {
        name: "a task switch with paging loads CR3",
        mode: Mode::Paged32,
        build: |g| {
            second_task(g, 0x2);
            // The other page directory shares the tables.
            g.write_u32(layout::PDPT, layout::PT as u32 | 7);
            g.write_u32(layout::TSS2 + 0x1c, layout::PDPT as u32);
            g.code_at(layout::DATA, 32, |a| {
                a.mov(ecx, cr3)?;
                a.hlt()
            })?;
            g.asm.db(&far(0xea, sel::TSS2))
        },
        expect: &[Expect::Reg(RCX, layout::PDPT), TSS2_BUSY],
    },
    Case {
        name: "the T bit of a TSS is a debug trap",
        mode: Mode::Protected,
        build: |g| {
            second_task(g, 0x2);
            g.write_u16(layout::TSS2 + 0x64, 1);
            g.code_at(layout::DATA, 32, |a| a.hlt())?;
            g.asm.db(&far(0xea, sel::TSS2))
        },
        expect: &[Expect::Fault(vector::DB, 0), Expect::Dr(4, 0xffff_8ff0), Expect::Reg(RAX, 0xaaaa)],
    },
    Case {
        name: "a 16-bit TSS",
        mode: Mode::Protected,
        build: |g| {
            g.gdt(sel::FREE, descriptor(layout::TSS2 as u32, 0x2b, 0x81, 0));
            for (offset, value) in [
                (0xe, 0xc000),
                (0x10, 2),
                (0x12, 0x1234),
                (0x1a, 0x6000u16),
                (0x22, sel::DATA16),
                (0x24, sel::CODE16),
                (0x26, sel::DATA16),
                (0x28, sel::DATA16),
            ] {
                g.write_u16(layout::TSS2 + offset, value);
            }
            g.code_at(0xc000, 16, |a| a.hlt())?;
            g.asm.db(&far(0xea, sel::FREE))
        },
        expect: &[
            Expect::State("AX and SP", |s| s.gpr[RAX] as u16 == 0x1234 && s.gpr[RSP] as u16 == 0x6000),
            Expect::Selector(1, sel::CODE16),
            Expect::Selector(3, sel::DATA16),
        ],
    },
    Case {
        name: "there are no task switches in long mode",
        mode: Mode::Long,
        build: |g| {
            g.gdt(sel::FREE, descriptor(layout::TSS2 as u32, 0x67, 0x89, 0));
            g.gdt(sel::FREE_UPPER, 0);
            g.write_u16(layout::DATA + 0x104, sel::FREE);
            g.mark()?;
            g.asm.jmp(fword_ptr(layout::DATA + 0x100))
        },
        expect: &[Expect::Fault(vector::GP, sel::FREE as u32), Expect::FaultAtMark],
    },
];
