//! Fast system calls and the bases of FS and GS.

use cpu::x86::gpr::*;
use cpu::x86::{cr4, efer, rflags, vector};
use iced_x86::code_asm::*;

use crate::layout::{self, sel};
use crate::{Case, Expect, Guest, Mode};

/// STAR for the case table's GDT.
const STAR: u64 = (0x20 << 48) | ((sel::CODE64 as u64) << 32);

fn prepare(g: &mut Guest) {
    g.state.msrs.star = STAR;
    g.state.msrs.lstar = layout::DATA;
    g.state.msrs.sfmask = rflags::IF | rflags::DF;
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "syscall saves rip and rflags, masks flags and enters ring 0",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.code_at(layout::DATA, 64, |a| {
                a.pushfq()?;
                a.pop(rbx)?;
                a.mov(eax, cs)?;
                a.mov(edx, ss)?;
                a.hlt()
            })?;
            g.user(0x602, |a| a.syscall())
        },
        expect: &[
            Expect::Reg(RCX, layout::CODE + 0x2002),
            Expect::Reg(11, 0x602),
            Expect::Reg(RBX, 2),
            Expect::Reg(RAX, sel::CODE64 as u64),
            Expect::Reg(RDX, sel::DATA as u64),
            Expect::Reg(RSP, layout::STACK3),
        ],
    },
    Case {
        name: "sysret goes back to 64-bit ring 3",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.idt_access(0x61, 0xee);
            g.code_at(layout::DATA, 64, |a| a.sysretq())?;
            g.user(0x202, |a| {
                a.syscall()?;
                a.int(0x61)
            })
        },
        expect: &[
            Expect::Fault(0x61, 0),
            Expect::FaultCs(sel::USER_CODE64),
            Expect::FaultFlags(0xffff, 0x202),
            Expect::FaultSp(layout::STACK3),
        ],
    },
    Case {
        name: "sysretl goes to compatibility mode",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.idt_access(0x61, 0xee);
            g.code_at(layout::DATA + 0x100, 32, |a| a.int(0x61))?;
            g.asm.mov(ecx, layout::DATA as i32 + 0x100)?;
            g.asm.mov(r11d, 2)?;
            g.asm.sysret()
        },
        expect: &[Expect::Fault(0x61, 0), Expect::FaultCs(sel::USER_CODE32)],
    },
    Case {
        name: "sysret to a non-canonical address is #GP(0) in ring 0",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.asm.mov(rcx, 0x8000_0000_0000u64)?;
            g.mark()?;
            g.asm.sysretq()
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark, Expect::FaultCs(sel::CODE64)],
    },
    Case {
        name: "syscall is #UD without EFER.SCE",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.state.efer &= !efer::SCE;
            g.mark()?;
            g.asm.syscall()
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::FaultAtMark],
    },
    Case {
        name: "sysenter and sysexit between flat 32-bit segments",
        mode: Mode::Protected,
        build: |g| {
            // CS, SS, user CS and user SS follow each other: a set of descriptors at FREE.
            g.gdt(sel::FREE, layout::descriptor(0, 0xf_ffff, 0x9b, 0xc));
            g.gdt(sel::FREE_UPPER, layout::descriptor(0, 0xf_ffff, 0x93, 0xc));
            g.gdt(sel::FREE2, layout::descriptor(0, 0xf_ffff, 0xfb, 0xc));
            g.gdt(sel::FREE2 + 8, layout::descriptor(0, 0xf_ffff, 0xf3, 0xc));
            g.state.msrs.sysenter_cs = u64::from(sel::FREE);
            g.state.msrs.sysenter_esp = layout::STACK0;
            g.state.msrs.sysenter_eip = layout::DATA;
            g.idt_access(0x61, 0xee);
            g.code_at(layout::DATA, 32, |a| {
                a.mov(ebx, esp)?;
                a.mov(esi, cs)?;
                a.mov(edx, layout::DATA as i32 + 0x100)?;
                a.mov(ecx, layout::STACK3 as i32)?;
                a.sysexit()
            })?;
            g.code_at(layout::DATA + 0x100, 32, |a| a.int(0x61))?;
            g.user(0x202, |a| a.sysenter())
        },
        expect: &[
            Expect::Fault(0x61, 0),
            Expect::FaultCs(sel::FREE2 | 3),
            Expect::FaultSp(layout::STACK3),
            Expect::FaultFlags(rflags::IF, 0),
            Expect::Reg(RBX, layout::STACK0),
            Expect::Reg(RSI, sel::FREE as u64),
        ],
    },
    Case {
        name: "sysenter is #GP(0) with a null code segment",
        mode: Mode::Protected,
        build: |g| {
            g.mark()?;
            g.asm.sysenter()
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "swapgs exchanges the bases",
        mode: Mode::Long,
        build: |g| {
            g.state.segments[5].base = 0x1111;
            g.state.msrs.kernel_gs_base = layout::DATA;
            g.write_u64(layout::DATA + 8, 0x77);
            g.asm.swapgs()?;
            g.asm.mov(rax, qword_ptr(8).gs())?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg(RAX, 0x77),
            Expect::Base(5, layout::DATA),
            Expect::State("the old base is gone", |s| s.msrs.kernel_gs_base == 0x1111),
        ],
    },
    Case {
        name: "wrfsbase and rdfsbase with CR4.FSGSBASE",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 |= cr4::FSGSBASE;
            g.write_u64(layout::DATA + 0x10, 0x1234);
            g.asm.mov(eax, layout::DATA as i32)?;
            g.asm.wrfsbase(rax)?;
            g.asm.rdfsbase(rbx)?;
            g.asm.mov(rcx, qword_ptr(0x10).fs())?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RBX, layout::DATA), Expect::Reg(RCX, 0x1234)],
    },
    Case {
        name: "bases of fs and gs by registers of 32 and 64 bits keep flags",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 |= cr4::FSGSBASE;
            g.asm.mov(r10, 0xffff_8000_1234_5678u64)?;
            g.asm.mov(r11, r10)?;
            g.asm.stc()?;
            g.asm.wrgsbase(r10)?;
            g.asm.wrfsbase(r11d)?;
            g.asm.rdgsbase(r9d)?;
            g.asm.rdgsbase(rax)?;
            g.asm.rdfsbase(r11)?;
            g.asm.rdfsbase(rsp)?;
            g.asm.wrgsbase(rsp)?;
            g.asm.rdgsbase(rdx)?;
            g.asm.sbb(rbx, rbx)?;
            g.asm.mov(rcx, r9)?;
            g.asm.mov(rsi, r11)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg(RAX, 0xffff_8000_1234_5678),
            Expect::Reg(RBX, u64::MAX),
            Expect::Reg(RCX, 0x1234_5678),
            Expect::Reg(RDX, 0x1234_5678),
            Expect::Reg(RSI, 0x1234_5678),
            Expect::Reg(RSP, 0x1234_5678),
            Expect::Base(4, 0x1234_5678),
            Expect::Base(5, 0x1234_5678),
        ],
    },
    Case {
        name: "selectors in registers of 16, 32 and 64 bits",
        mode: Mode::Long,
        build: |g| {
            for register in [rax, rbx, r9, rsp] {
                g.asm.mov(register, -1i64 as u64)?;
            }
            g.asm.mov(ax, cs)?;
            g.asm.mov(ebx, cs)?;
            g.asm.mov(r9w, cs)?;
            g.asm.mov(sp, cs)?;
            g.asm.mov(rcx, r9)?;
            g.asm.mov(r10, ss)?;
            g.asm.mov(rdx, r10)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg(RAX, 0xffff_ffff_ffff_0000 | sel::CODE64 as u64),
            Expect::Reg(RBX, sel::CODE64 as u64),
            Expect::Reg(RCX, 0xffff_ffff_ffff_0000 | sel::CODE64 as u64),
            Expect::Reg(RSP, 0xffff_ffff_ffff_0000 | sel::CODE64 as u64),
            Expect::Reg(RDX, sel::DATA as u64),
        ],
    },
    Case {
        name: "wrgsbase with a non-canonical base is #GP(0)",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 |= cr4::FSGSBASE;
            g.asm.mov(rax, 0x8000_0000_0000u64)?;
            g.mark()?;
            g.asm.wrgsbase(rax)
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "rdgsbase is #UD without CR4.FSGSBASE",
        mode: Mode::Long,
        build: |g| {
            g.mark()?;
            g.asm.rdgsbase(rax)
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::FaultAtMark],
    },
];
