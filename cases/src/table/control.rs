//! Control registers, model-specific registers, extended control registers, and descriptor-table registers.

use cpu::x86::gpr::*;
use cpu::x86::{cr0, cr4, efer, vector};
use iced_x86::code_asm::*;

use crate::layout::{self, sel};
use crate::{Case, Expect, Guest, Mode};

const GP0: Expect = Expect::Fault(vector::GP, 0);

/// WRMSR of `value` to `msr` at the mark.
fn wrmsr(g: &mut Guest, msr: u32, value: u64) -> Result<(), iced_x86::IcedError> {
    g.asm.mov(ecx, msr)?;
    g.asm.mov(eax, value as u32)?;
    g.asm.mov(edx, (value >> 32) as u32)?;
    g.mark()?;
    g.asm.wrmsr()
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "paging without protection is #GP(0)",
        mode: Mode::Real,
        build: |g| {
            g.asm.mov(eax, 0x8000_0010u32)?;
            g.mark()?;
            g.asm.mov(cr0, eax)
        },
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "NW without CD is #GP(0)",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rax, cr0)?;
            g.asm.or(eax, 1 << 29)?;
            g.mark()?;
            g.asm.mov(cr0, rax)
        },
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "upper bits of CR0 are #GP(0)",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rax, cr0)?;
            g.asm.bts(rax, 40)?;
            g.mark()?;
            g.asm.mov(cr0, rax)
        },
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "paging cannot be turned off in 64-bit mode",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rax, cr0)?;
            g.asm.btr(eax, 31)?;
            g.mark()?;
            g.asm.mov(cr0, rax)
        },
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "PAE cannot be turned off in long mode",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rax, cr4)?;
            g.asm.btr(eax, 5)?;
            g.mark()?;
            g.asm.mov(cr4, rax)
        },
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "reserved bits of CR4 are #GP(0)",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rax, cr4)?;
            g.asm.bts(eax, 15)?;
            g.mark()?;
            g.asm.mov(cr4, rax)
        },
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "reserved bits of CR3 are #GP(0) in long mode",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rax, cr3)?;
            g.asm.bts(rax, 60)?;
            g.mark()?;
            g.asm.mov(cr3, rax)
        },
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "PCIDs need a page directory with PCID 0",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rax, cr3)?;
            g.asm.or(rax, 8)?;
            g.asm.mov(cr3, rax)?;
            g.asm.mov(rax, cr4)?;
            g.asm.bts(eax, 17)?;
            g.mark()?;
            g.asm.mov(cr4, rax)
        },
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "cr1 does not exist",
        mode: Mode::Long,
        build: |g| {
            g.mark()?;
            g.asm.db(&[0x0f, 0x20, 0xc8])
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::FaultAtMark],
    },
    Case {
        name: "cr8 is the task priority",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, 9)?;
            g.asm.mov(cr8, rax)?;
            g.asm.mov(rbx, cr8)?;
            g.asm.mov(eax, 16)?;
            g.mark()?;
            g.asm.mov(cr8, rax)
        },
        expect: &[GP0, Expect::FaultAtMark, Expect::Reg(RBX, 9)],
    },
    Case {
        name: "lmsw sets PE and never clears it, clts clears TS",
        mode: Mode::Protected,
        build: |g| {
            g.asm.mov(eax, 8)?;
            g.asm.lmsw(ax)?;
            g.asm.smsw(ebx)?;
            g.asm.clts()?;
            g.asm.smsw(ecx)?;
            g.asm.hlt()
        },
        expect: &[Expect::State("TS with PE, then PE alone", |s| {
            s.gpr[RBX] & 0xf == 9 && s.gpr[RCX] & 0xf == 1
        })],
    },
    Case {
        name: "an unknown model-specific register is #GP(0)",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(ecx, 0xc000_5000u32)?;
            g.mark()?;
            g.asm.rdmsr()
        },
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "LME cannot change while paging is on",
        mode: Mode::Long,
        build: |g| wrmsr(g, 0xc000_0080, efer::SCE | efer::NXE),
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "reserved bits of EFER are #GP(0)",
        mode: Mode::Long,
        build: |g| wrmsr(g, 0xc000_0080, efer::LME | efer::NXE | 1 << 16),
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "a write to LMA is ignored",
        mode: Mode::Long,
        build: |g| {
            wrmsr(g, 0xc000_0080, efer::LME)?;
            g.asm.rdmsr()?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, efer::LME | efer::LMA)],
    },
    Case {
        name: "a non-canonical LSTAR is #GP(0)",
        mode: Mode::Long,
        build: |g| wrmsr(g, 0xc000_0082, 0x8000_0000_0000),
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "a memory type that does not exist is #GP(0) in PAT",
        mode: Mode::Long,
        build: |g| wrmsr(g, 0x277, 0x0007_0402_0007_0406),
        expect: &[GP0, Expect::FaultAtMark],
    },
    Case {
        name: "the base of FS is a model-specific register",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(layout::DATA + 8, 0x55);
            wrmsr(g, 0xc000_0100, layout::DATA)?;
            g.asm.mov(rbx, qword_ptr(8).fs())?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RBX, 0x55)],
    },
    Case {
        name: "writing the TSC moves TSC_ADJUST by as much",
        mode: Mode::Long,
        build: |g| {
            wrmsr(g, 0x10, 0x5000_0000_0000)?;
            g.asm.rdtsc()?;
            g.asm.mov(ebx, edx)?;
            g.asm.mov(ecx, 0x3b)?;
            g.asm.rdmsr()?;
            g.asm.hlt()
        },
        expect: &[Expect::State("TSC and TSC_ADJUST", |s| {
            s.gpr[RBX] == 0x5000 && (0x4fff..=0x5000).contains(&s.gpr[RDX])
        })],
    },
    Case {
        name: "rdtscp gives TSC_AUX",
        mode: Mode::Long,
        build: |g| {
            wrmsr(g, 0xc000_0103, 0x1234)?;
            g.asm.rdtscp()?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RCX, 0x1234)],
    },
    Case {
        name: "cpuid clears the upper halves and follows CR4.OSXSAVE",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rax, -1i64)?;
            g.asm.mov(rbx, rax)?;
            g.asm.mov(rdx, rax)?;
            g.asm.mov(eax, 0)?;
            g.asm.cpuid()?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg(RBX, 0x756e_6547),
            Expect::Reg(RDX, 0x4965_6e69),
            Expect::Reg(RCX, 0x6c65_746e),
        ],
    },
    Case {
        name: "xsetbv without x87 is #GP(0)",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 |= cr4::OSXSAVE;
            g.asm.xor(ecx, ecx)?;
            g.asm.xgetbv()?;
            g.asm.mov(ebx, eax)?;
            g.asm.mov(eax, 3)?;
            g.asm.xor(edx, edx)?;
            g.asm.xsetbv()?;
            g.asm.xgetbv()?;
            g.asm.mov(esi, eax)?;
            g.asm.mov(eax, 2)?;
            g.mark()?;
            g.asm.xsetbv()
        },
        expect: &[GP0, Expect::FaultAtMark, Expect::Reg(RBX, 1), Expect::Reg(RSI, 3)],
    },
    Case {
        name: "xgetbv is #UD without CR4.OSXSAVE",
        mode: Mode::Long,
        build: |g| {
            g.asm.xor(ecx, ecx)?;
            g.mark()?;
            g.asm.xgetbv()
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::FaultAtMark],
    },
    Case {
        name: "ltr makes the TSS busy",
        mode: Mode::Long,
        build: |g| {
            g.gdt(sel::FREE, layout::descriptor(layout::TSS as u32, 0x67, 0x89, 0));
            g.gdt(sel::FREE_UPPER, 0xffff_ffff);
            g.asm.mov(eax, i32::from(sel::FREE))?;
            g.asm.ltr(ax)?;
            g.asm.str(ebx)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg(RBX, sel::FREE as u64),
            Expect::Mem(
                layout::GDT + sel::FREE as u64,
                layout::descriptor(layout::TSS as u32, 0x67, 0x8b, 0),
            ),
            Expect::State("the base has 64 bits", |s| s.tr.base == 0xffff_ffff_0000_7000),
        ],
    },
    Case {
        name: "ltr of a busy TSS is #GP with the selector",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, i32::from(sel::TSS))?;
            g.mark()?;
            g.asm.ltr(ax)
        },
        expect: &[Expect::Fault(vector::GP, sel::TSS as u32), Expect::FaultAtMark],
    },
    Case {
        name: "lldt and a selector of the local table",
        mode: Mode::Protected,
        build: |g| {
            g.write_u64(layout::LDT + 8, layout::descriptor(layout::DATA as u32, 0xff, 0x93, 0));
            g.write_u32(layout::DATA + 4, 0x99);
            g.asm.mov(eax, i32::from(sel::LDT))?;
            g.asm.lldt(ax)?;
            g.asm.mov(eax, 0xc)?;
            g.asm.mov(fs, eax)?;
            g.asm.mov(ebx, dword_ptr(4).fs())?;
            g.asm.sldt(ecx)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RBX, 0x99), Expect::Reg(RCX, sel::LDT as u64)],
    },
    Case {
        name: "without a local table its selectors are #GP",
        mode: Mode::Protected,
        build: |g| {
            g.asm.xor(eax, eax)?;
            g.asm.lldt(ax)?;
            g.asm.mov(eax, 0xc)?;
            g.mark()?;
            g.asm.mov(fs, eax)
        },
        expect: &[Expect::Fault(vector::GP, 0xc), Expect::FaultAtMark],
    },
    Case {
        name: "lgdt and lidt with 16-bit operands load 24 bits",
        mode: Mode::Protected,
        build: |g| {
            g.write_u16(layout::DATA, 0x1234);
            g.write_u32(layout::DATA + 2, 0xff00_5000);
            g.asm.db(&[0x66, 0x0f, 0x01, 0x15])?;
            g.asm.dd(&[layout::DATA as u32])?;
            g.asm.hlt()
        },
        expect: &[Expect::State("gdtr", |s| s.gdtr.base == 0x5000 && s.gdtr.limit == 0x1234)],
    },
    Case {
        name: "sldt is #UD in real mode",
        mode: Mode::Real,
        build: |g| {
            g.mark()?;
            g.asm.sldt(ax)
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::FaultAtMark],
    },
    Case {
        name: "an x87 instruction is #NM while CR0.TS is set",
        mode: Mode::Long,
        build: |g| {
            g.state.cr0 |= cr0::TS;
            g.mark()?;
            g.asm.fld1()
        },
        expect: &[Expect::Fault(vector::NM, 0), Expect::FaultAtMark],
    },
    Case {
        name: "an SSE instruction is #UD without CR4.OSFXSR",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 &= !cr4::OSFXSR;
            g.mark()?;
            g.asm.addps(xmm0, xmm1)
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::FaultAtMark],
    },
];
