//! Ways between the modes.

use cpu::x86::gpr::*;
use cpu::x86::{cr0, cr4, efer, vector};
use iced_x86::code_asm::*;

use crate::layout::{self, sel};
use crate::{Case, Expect, Mode};

/// JMP FAR to 32-bit code.
fn far32(selector: u16, offset: u64) -> [u8; 7] {
    let [a, b, c, d] = (offset as u32).to_le_bytes();
    [0xea, a, b, c, d, selector as u8, 0]
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "real mode to protected mode and back",
        mode: Mode::Real,
        build: |g| {
            // A table of its own at DATA: null, 32-bit code, data, 16-bit code.
            for (i, raw) in [
                (1, layout::descriptor(0, 0xf_ffff, 0x9b, 0xc)),
                (2, layout::descriptor(0, 0xf_ffff, 0x93, 0xc)),
                (3, layout::descriptor(0, 0xffff, 0x9b, 0)),
            ] {
                g.write_u64(0xc000 + i * 8, raw);
            }
            g.write_u16(0xc100, 0x1f);
            g.write_u32(0xc102, 0xc000);
            g.code_at(0xc200, 32, |a| {
                a.mov(eax, 0x10)?;
                a.mov(ds, eax)?;
                a.mov(dword_ptr(layout::DATA), 0x1234_5678)?;
                a.db(&far32(0x18, 0xc300))
            })?;
            g.code_at(0xc300, 16, |a| {
                a.mov(eax, cr0)?;
                a.and(al, 0xfe)?;
                a.mov(cr0, eax)?;
                a.db(&[0xea, 0x00, 0xc4, 0, 0])
            })?;
            g.code_at(0xc400, 16, |a| {
                a.xor(ax, ax)?;
                a.mov(fs, ax)?;
                a.mov(ecx, cs)?;
                a.mov(ebx, layout::DATA as u32)?;
                a.mov(ebx, dword_ptr(ebx))?; // DS keeps its limit
                a.hlt()
            })?;
            g.asm.lgdt(fword_ptr(0xc100))?;
            g.asm.mov(eax, cr0)?;
            g.asm.or(al, 1)?;
            g.asm.mov(cr0, eax)?;
            g.asm.db(&[0x66])?;
            g.asm.db(&far32(8, 0xc200))
        },
        expect: &[
            Expect::Reg(RBX, 0x1234_5678),
            Expect::Reg(RCX, 0),
            Expect::State("real mode", |s| s.cr0 & cr0::PE == 0),
        ],
    },
    Case {
        name: "protected mode to long mode and back",
        mode: Mode::Protected,
        build: |g| {
            g.write_u64(layout::PD, layout::PT | 7);
            g.code_at(layout::DATA, 64, |a| {
                a.mov(rax, 0x1122_3344_5566_7788u64)?;
                a.mov(ecx, 0xc000_0080u32)?;
                a.mov(rbx, rax)?;
                a.rdmsr()?;
                a.mov(esi, eax)?;
                a.mov(dword_ptr(layout::DATA + 0x800), layout::DATA as u32 + 0x100)?;
                a.mov(word_ptr(layout::DATA + 0x804), i32::from(sel::CODE32))?;
                a.jmp(fword_ptr(layout::DATA + 0x800))
            })?;
            g.code_at(layout::DATA + 0x100, 32, |a| {
                // Compatibility mode: INC EAX is no REX prefix here.
                a.db(&[0x40])?;
                a.mov(edi, cr0)?;
                a.btr(edi, 31)?;
                a.mov(cr0, edi)?;
                a.rdmsr()?;
                a.hlt()
            })?;
            g.asm.mov(eax, cr4)?;
            g.asm.or(eax, cr4::PAE as u32)?;
            g.asm.mov(cr4, eax)?;
            g.asm.mov(eax, layout::PML4 as u32)?;
            g.asm.mov(cr3, eax)?;
            g.asm.mov(ecx, 0xc000_0080u32)?;
            g.asm.mov(eax, efer::LME as u32)?;
            g.asm.xor(edx, edx)?;
            g.asm.wrmsr()?;
            g.asm.mov(eax, cr0)?;
            g.asm.bts(eax, 31)?;
            g.asm.mov(cr0, eax)?;
            g.asm.db(&far32(sel::CODE64, layout::DATA))
        },
        expect: &[
            Expect::Reg(RSI, efer::LME | efer::LMA),
            Expect::Reg32(RAX, efer::LME as u32),
            Expect::Reg32(RBX, 0x5566_7788),
        ],
    },
    Case {
        name: "long mode without PAE is #GP(0)",
        mode: Mode::Protected,
        build: |g| {
            g.state.efer = efer::LME;
            g.asm.mov(eax, cr0)?;
            g.asm.bts(eax, 31)?;
            g.mark()?;
            g.asm.mov(cr0, eax)
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "an interrupt in compatibility mode enters 64-bit code",
        mode: Mode::Long,
        build: |g| {
            g.idt(0x61, sel::CODE64, layout::DATA, 0x8e, 0);
            g.code_at(layout::DATA, 64, |a| {
                a.mov(rax, qword_ptr(rsp + 8))?;
                a.mov(rbx, qword_ptr(rsp + 24))?;
                a.mov(rcx, 0x1_0000_0001u64)?;
                a.hlt()
            })?;
            g.code_at(layout::DATA + 0x100, 32, |a| {
                a.mov(esp, layout::STACK3 as u32)?;
                a.int(0x61)
            })?;
            g.write_u32(layout::DATA + 0x800, layout::DATA as u32 + 0x100);
            g.write_u16(layout::DATA + 0x804, sel::CODE32);
            g.asm.jmp(fword_ptr(layout::DATA + 0x800))
        },
        expect: &[
            Expect::Reg(RAX, sel::CODE32 as u64),
            Expect::Reg(RBX, layout::STACK3),
            Expect::Reg(RCX, 0x1_0000_0001),
        ],
    },
    Case {
        name: "compatibility mode heeds segment limits, 64-bit mode does not",
        mode: Mode::Long,
        build: |g| {
            g.gdt(sel::FREE, layout::descriptor(0, 0xf, 0x93, 0x4));
            g.asm.mov(eax, i32::from(sel::FREE))?;
            g.asm.mov(ds, eax)?;
            g.asm.mov(ebx, dword_ptr(layout::DATA + 0x800))?;
            g.write_u32(layout::DATA + 0x800, layout::DATA as u32 + 0x100);
            g.write_u16(layout::DATA + 0x804, sel::CODE32);
            g.code_at(layout::DATA + 0x100, 32, |a| a.mov(ecx, dword_ptr(layout::DATA)))?;
            g.asm.jmp(fword_ptr(layout::DATA + 0x800))
        },
        expect: &[
            Expect::Fault(vector::GP, 0),
            Expect::FaultRip(layout::DATA + 0x100),
            Expect::FaultCs(sel::CODE32),
            Expect::Reg(RBX, layout::DATA + 0x100),
        ],
    },
    Case {
        name: "instructions of other modes are #UD in 64-bit mode",
        mode: Mode::Long,
        build: |g| {
            g.mark()?;
            g.asm.db(&[0xce]) // INTO
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::FaultAtMark],
    },
    Case {
        name: "swapgs is #UD outside 64-bit mode",
        mode: Mode::Protected,
        build: |g| {
            g.mark()?;
            g.asm.db(&[0x0f, 0x01, 0xf8])
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::FaultAtMark],
    },
];
