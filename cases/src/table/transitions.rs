//! From ring 3 to ring 0 and back, as kernels do it all the time.

use cpu::x86::gpr::*;
use cpu::x86::{rflags, vector};
use iced_x86::code_asm::*;

use crate::io::RAISE;
use crate::layout::{self, sel};
use crate::{Case, Expect, Guest, Mode};

/// Where [`Guest::user`] puts code of ring 3.
const USER: u64 = layout::CODE + 0x2000;
/// What the kernel finds through GS: the caller's stack pointer, its own, a count.
const AREA: u64 = layout::DATA + 0x800;

/// Every flag that a kernel does not want to inherit.
const MASK: u64 = rflags::STATUS
    | rflags::TF
    | rflags::IF
    | rflags::DF
    | rflags::IOPL
    | rflags::NT
    | rflags::AC
    | rflags::ID;

fn prepare(g: &mut Guest) {
    g.state.msrs.star = (0x20 << 48) | (u64::from(sel::CODE64) << 32);
    g.state.msrs.lstar = layout::DATA;
    g.state.msrs.sfmask = MASK;
    g.state.msrs.kernel_gs_base = AREA;
    let unusable = cpu::x86::seg_attr::UNUSABLE;
    g.state.segments[5] = cpu::Segment { selector: 0, base: 0x1234_5000, limit: 0, attr: unusable };
    g.write_u64(AREA + 8, layout::STACK0);
    g.idt_access(0x61, 0xee);
}

/// All pages but [`layout::PAGE`] are the kernel's, and SMAP is on.
fn supervise(g: &mut Guest) {
    for page in 0..0x40 {
        g.map(page << 12, page << 12 | 3);
    }
    g.state.cr4 |= cpu::x86::cr4::SMAP;
}

/// SYSRET of the case's own code to [`USER`] with these flags.
fn sysret(g: &mut Guest, flags: u32) -> Result<(), IcedError> {
    g.asm.mov(ecx, USER as i32)?;
    g.asm.mov(r11d, flags)?;
    g.mark()?;
    g.asm.sysretq()
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "system calls in a loop keep flags, stack pointer and bases",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.code_at(layout::DATA, 64, |a| {
                a.swapgs()?;
                a.mov(qword_ptr(0).gs(), rsp)?;
                a.mov(rsp, qword_ptr(8).gs())?;
                a.push(r11)?;
                a.push(rcx)?;
                a.pushfq()?;
                a.pop(rax)?;
                a.or(rsi, rax)?;
                a.inc(qword_ptr(16).gs())?;
                a.pop(rcx)?;
                a.pop(r11)?;
                a.mov(rsp, qword_ptr(0).gs())?;
                a.swapgs()?;
                a.sysretq()
            })?;
            g.user(0x602, |a| {
                let mut again = a.create_label();
                a.xor(esi, esi)?;
                a.xor(ebx, ebx)?;
                a.mov(edi, 300)?;
                a.set_label(&mut again)?;
                a.push(rdi)?;
                a.cmp(edi, 200)?; // carry, sign, auxiliary carry as the count goes down
                a.syscall()?;
                a.adc(ebx, 1)?;
                a.pop(rdi)?;
                a.dec(edi)?;
                a.jne(again)?;
                a.stc()?;
                a.mov(eax, cs)?;
                a.mov(edx, ss)?;
                a.int(0x61)
            })
        },
        expect: &[
            Expect::Fault(0x61, 0),
            Expect::FaultCs(sel::USER_CODE64),
            Expect::FaultSs(sel::USER_DATA),
            Expect::FaultSp(layout::STACK3),
            Expect::FaultFlags(0x0f01, 0x601),
            Expect::Reg(RBX, 300 + 199),
            Expect::Reg(RSI, 2),
            Expect::Reg(RAX, sel::USER_CODE64 as u64),
            Expect::Reg(RDX, sel::USER_DATA as u64),
            Expect::Mem(AREA + 16, 300),
            Expect::Base(5, 0x1234_5000),
            Expect::State("the kernel's base is kept", |s| s.msrs.kernel_gs_base == AREA),
        ],
    },
    Case {
        name: "a page fault in a system call is one of ring 0",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.map(layout::PAGE, 0);
            g.code_at(layout::DATA, 64, |a| {
                a.mov(eax, layout::PAGE as i32)?;
                a.mov(ebx, dword_ptr(rax))
            })?;
            g.user(0x2, |a| a.syscall())
        },
        expect: &[
            Expect::Fault(vector::PF, 0),
            Expect::FaultCs(sel::CODE64),
            Expect::FaultRip(layout::DATA + 5),
            Expect::Cr2(layout::PAGE),
        ],
    },
    Case {
        name: "a system call loses ring 3's way into the kernel's pages",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            // A page of the kernel's, written by it through the stack of ring 3.
            g.map(layout::STACK3 - 0x1000, (layout::STACK3 - 0x1000) | 3);
            g.code_at(layout::DATA, 64, |a| {
                a.push(0x55)?;
                a.pop(rbx)?;
                a.sysretq()
            })?;
            g.user(0x2, |a| {
                a.syscall()?;
                a.syscall()?;
                a.nop()?;
                a.push(rbx)
            })
        },
        expect: &[
            Expect::Fault(vector::PF, 7),
            Expect::FaultRip(USER + 5),
            Expect::Cr2(layout::STACK3 - 8),
            Expect::Reg(RBX, 0x55),
        ],
    },
    Case {
        name: "sysret opens interrupts: one that has waited is taken in ring 3",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.code_at(USER, 64, |a| {
                a.inc(ebx)?;
                a.inc(ebx)?;
                a.int(0x61)
            })?;
            g.asm.xor(ebx, ebx)?;
            g.asm.mov(eax, 0x62)?;
            g.asm.out(i32::from(RAISE as u8), al)?;
            sysret(g, 0x202)
        },
        expect: &[
            Expect::Fault(0x62, 0),
            Expect::FaultRip(USER),
            Expect::FaultCs(sel::USER_CODE64),
            Expect::Reg(RBX, 0),
        ],
    },
    Case {
        name: "sysret with IF clear keeps interrupts out",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.code_at(USER, 64, |a| a.int(0x61))?;
            g.asm.mov(eax, 0x62)?;
            g.asm.out(i32::from(RAISE as u8), al)?;
            sysret(g, 0x2)
        },
        expect: &[Expect::Fault(0x61, 0), Expect::FaultFlags(rflags::IF, 0)],
    },
    Case {
        name: "sysret with TF traps behind ring 3's first instruction",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.code_at(USER, 64, |a| {
                a.nop()?;
                a.nop()
            })?;
            sysret(g, 0x302)
        },
        expect: &[Expect::Fault(vector::DB, 0), Expect::FaultRip(USER + 1)],
    },
    Case {
        name: "sysret loads no RF and no VM",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.code_at(USER, 64, |a| a.int(0x61))?;
            sysret(g, 0x3_0ad7)
        },
        expect: &[Expect::Fault(0x61, 0), Expect::FaultFlags(0x3_ffff, 0xad7)],
    },
    Case {
        name: "a system call with AC finds the kernel without it",
        mode: Mode::Long,
        build: |g| {
            prepare(g);
            g.code_at(layout::DATA, 64, |a| {
                a.pushfq()?;
                a.pop(rbx)?;
                a.sysretq()
            })?;
            g.user(0x4_0002, |a| {
                a.syscall()?;
                a.int(0x61)
            })
        },
        expect: &[Expect::Fault(0x61, 0), Expect::FaultFlags(rflags::AC, rflags::AC), Expect::Reg(RBX, 2)],
    },
    Case {
        name: "clac takes a stack in a user page away",
        mode: Mode::Long,
        build: |g| {
            supervise(g);
            g.asm.mov(esp, layout::PAGE as i32 + 0x800)?;
            g.asm.stac()?;
            g.asm.push(0x11)?;
            g.asm.pop(rbx)?;
            g.asm.clac()?;
            // Nor can the fault's frame be pushed.
            g.asm.push(0x22)?;
            g.asm.hlt()
        },
        expect: &[Expect::Shutdown, Expect::Reg(RBX, 0x11), Expect::Mem(layout::PAGE + 0x7f8, 0x11)],
    },
    Case {
        name: "stac and clac in a loop, with a call between them",
        mode: Mode::Long,
        build: |g| {
            supervise(g);
            g.code_at(layout::DATA, 64, |a| {
                a.mov(rax, qword_ptr(layout::PAGE as i32))?;
                a.mov(qword_ptr(layout::PAGE as i32 + 8), rcx)?;
                a.ret()
            })?;
            g.write_u64(layout::PAGE, 3);
            let mut again = g.asm.create_label();
            g.asm.xor(ebx, ebx)?;
            g.asm.mov(edi, layout::DATA as i32)?;
            g.asm.mov(ecx, 200)?;
            g.asm.set_label(&mut again)?;
            g.asm.stc()?;
            g.asm.stac()?;
            g.asm.call(rdi)?;
            g.asm.clac()?;
            g.asm.adc(rbx, rax)?;
            g.asm.dec(ecx)?;
            g.asm.jne(again)?;
            g.mark()?;
            g.asm.mov(eax, dword_ptr(layout::PAGE))
        },
        expect: &[
            Expect::Fault(vector::PF, 1),
            Expect::FaultAtMark,
            Expect::Reg(RBX, 800),
            Expect::Mem(layout::PAGE + 8, 1),
            Expect::FaultFlags(rflags::AC, 0),
        ],
    },
];
