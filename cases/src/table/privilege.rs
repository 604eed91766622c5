//! What ring 3 may and may not do, and the ways between the levels.

use cpu::x86::gpr::*;
use cpu::x86::{cr4, rflags, vector};
use iced_x86::code_asm::*;

use crate::layout::{self, sel};
use crate::{Case, Expect, Mode};

const GP0: Expect = Expect::Fault(vector::GP, 0);

pub(super) const CASES: &[Case] = &[
    Case {
        name: "an interrupt from ring 3 takes the stack of the TSS and a null SS",
        mode: Mode::Long,
        build: |g| {
            g.idt(0x61, sel::CODE64, layout::DATA, 0xee, 0);
            g.code_at(layout::DATA, 64, |a| {
                a.mov(rax, rsp)?;
                a.mov(rbx, qword_ptr(rsp + 32))?;
                a.mov(rcx, qword_ptr(rsp + 24))?;
                a.mov(rdx, qword_ptr(rsp + 8))?;
                a.hlt()
            })?;
            g.user(2, |a| a.int(0x61))
        },
        expect: &[
            Expect::Reg(RAX, layout::STACK0 - 40),
            Expect::Reg(RBX, sel::USER_DATA as u64),
            Expect::Reg(RCX, layout::STACK3),
            Expect::Reg(RDX, sel::USER_CODE64 as u64),
            Expect::Selector(2, 0),
        ],
    },
    Case {
        name: "an interrupt from ring 3 takes stack and segment of the 32-bit TSS",
        mode: Mode::Protected,
        build: |g| {
            g.idt(0x61, sel::CODE32, layout::DATA, 0xee, 0);
            g.code_at(layout::DATA, 32, |a| {
                a.mov(eax, esp)?;
                a.mov(ebx, dword_ptr(esp + 16))?;
                a.mov(ecx, dword_ptr(esp + 12))?;
                a.hlt()
            })?;
            g.user(2, |a| a.int(0x61))
        },
        expect: &[
            Expect::Reg(RAX, layout::STACK0 - 20),
            Expect::Reg(RBX, sel::USER_DATA as u64),
            Expect::Reg(RCX, layout::STACK3),
            Expect::Selector(2, sel::DATA),
        ],
    },
    Case {
        name: "int n through a gate of DPL 0 is #GP with the entry in ring 3",
        mode: Mode::Long,
        build: |g| g.user(2, |a| a.int(0x61)),
        expect: &[Expect::Fault(vector::GP, 0x61 * 8 + 2), Expect::FaultCs(sel::USER_CODE64)],
    },
    Case {
        name: "exceptions of ring 3 do not look at the gate's DPL",
        mode: Mode::Long,
        build: |g| g.user(2, |a| a.ud2()),
        expect: &[
            Expect::Fault(vector::UD, 0),
            Expect::FaultSp(layout::STACK3),
            Expect::FaultSs(sel::USER_DATA),
        ],
    },
    Case {
        name: "a conforming handler runs at the level of its caller",
        mode: Mode::Long,
        build: |g| {
            g.idt(0x61, sel::CONFORMING, layout::DATA, 0xee, 0);
            g.idt_access(0x62, 0xee);
            g.code_at(layout::DATA, 64, |a| a.int(0x62))?;
            g.user(2, |a| a.int(0x61))
        },
        expect: &[Expect::Fault(0x62, 0), Expect::FaultCs(sel::CONFORMING | 3)],
    },
    Case {
        name: "a stack pointer beyond the TSS limit is #TS with the TSS",
        mode: Mode::Long,
        build: |g| {
            g.state.tr.limit = 0xa;
            g.idt_access(0x61, 0xee);
            g.user(2, |a| a.int(0x61))?;
            // The handler of #TS needs a stack too: it runs in ring 3's way to a double fault otherwise.
            Ok(())
        },
        expect: &[Expect::Shutdown],
    },
    Case {
        name: "cli is #GP(0) in ring 3 below IOPL 3",
        mode: Mode::Long,
        build: |g| g.user(0x2002, |a| a.cli()),
        expect: &[GP0],
    },
    Case {
        name: "cli and sti work in ring 3 with IOPL 3",
        mode: Mode::Long,
        build: |g| {
            g.idt_access(0x61, 0xee);
            g.user(0x3202, |a| {
                a.cli()?;
                a.int(0x61)
            })
        },
        expect: &[Expect::Fault(0x61, 0), Expect::FaultFlags(rflags::IF | rflags::IOPL, rflags::IOPL)],
    },
    Case {
        name: "popf in ring 3 changes neither IF nor IOPL",
        mode: Mode::Long,
        build: |g| {
            g.idt_access(0x61, 0xee);
            g.user(0x1002, |a| {
                a.push(0x3ed7)?;
                a.popfq()?;
                a.int(0x61)
            })
        },
        expect: &[Expect::Fault(0x61, 0), Expect::FaultFlags(0xffff, 0x1cd7)],
    },
    Case {
        name: "hlt is #GP(0) in ring 3",
        mode: Mode::Protected,
        build: |g| g.user(2, |a| a.hlt()),
        expect: &[GP0],
    },
    Case {
        name: "mov to a control register is #GP(0) in ring 3",
        mode: Mode::Long,
        build: |g| g.user(2, |a| a.mov(cr3, rax)),
        expect: &[GP0],
    },
    Case {
        name: "rdmsr is #GP(0) in ring 3",
        mode: Mode::Long,
        build: |g| {
            g.user(2, |a| {
                a.mov(ecx, 0xc000_0080u32)?;
                a.rdmsr()
            })
        },
        expect: &[GP0],
    },
    Case {
        name: "invlpg is #GP(0) in ring 3",
        mode: Mode::Long,
        build: |g| g.user(2, |a| a.invlpg(byte_ptr(layout::PAGE))),
        expect: &[GP0],
    },
    Case {
        name: "lgdt is #GP(0) in ring 3",
        mode: Mode::Long,
        build: |g| g.user(2, |a| a.lgdt(tbyte_ptr(layout::DATA))),
        expect: &[GP0],
    },
    Case {
        name: "swapgs is #GP(0) in ring 3",
        mode: Mode::Long,
        build: |g| g.user(2, |a| a.swapgs()),
        expect: &[GP0],
    },
    Case {
        name: "sgdt works in ring 3 without UMIP",
        mode: Mode::Long,
        build: |g| {
            g.idt_access(0x61, 0xee);
            g.user(2, |a| {
                a.sgdt(tbyte_ptr(layout::DATA))?;
                a.int(0x61)
            })
        },
        expect: &[
            Expect::Fault(0x61, 0),
            Expect::Mem16(layout::DATA, sel::BEYOND - 1),
            Expect::Mem(layout::DATA + 2, layout::GDT),
        ],
    },
    Case {
        name: "with UMIP sgdt is #GP(0) in ring 3",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 |= cr4::UMIP;
            g.user(2, |a| a.sgdt(tbyte_ptr(layout::DATA)))
        },
        expect: &[GP0],
    },
    Case {
        name: "with UMIP smsw is #GP(0) in ring 3",
        mode: Mode::Protected,
        build: |g| {
            g.state.cr4 |= cr4::UMIP;
            g.user(2, |a| a.smsw(eax))
        },
        expect: &[GP0],
    },
    Case {
        name: "rdtsc is #GP(0) in ring 3 with CR4.TSD",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 |= cr4::TSD;
            g.user(2, |a| a.rdtsc())
        },
        expect: &[GP0],
    },
    Case {
        name: "out is #GP(0) in ring 3 without an I/O bitmap",
        mode: Mode::Long,
        build: |g| g.user(2, |a| a.out(0x80, al)),
        expect: &[GP0],
    },
    Case {
        name: "the I/O bitmap opens single ports",
        mode: Mode::Protected,
        build: |g| {
            g.state.tr.limit = 0x68 + 0x20;
            g.write(layout::TSS + 0x68, &[0xff; 0x21]);
            g.write(layout::TSS + 0x68 + 0x10, &[0xf3]); // ports 0x82 and 0x83
            g.user(2, |a| {
                a.mov(eax, 0x1234)?;
                a.out(0x82, ax)?;
                a.out(0x83, ax)
            })
        },
        expect: &[GP0, Expect::Out(0x82, 0x1234)],
    },
    Case {
        name: "with IOPL 3 every port is open",
        mode: Mode::Long,
        build: |g| {
            g.idt_access(0x61, 0xee);
            g.user(0x3002, |a| {
                a.mov(eax, 0x1234_5678)?;
                a.out(0x82, eax)?;
                a.mov(edx, 0x1234)?;
                a.in_(al, dx)?;
                a.int(0x61)
            })
        },
        expect: &[Expect::Fault(0x61, 0), Expect::Out(0x82, 0x1234_5678), Expect::Reg(RAX, 0x1234_5634)],
    },
    Case {
        name: "a return to ring 3 drops data segments of ring 0",
        mode: Mode::Protected,
        build: |g| {
            g.idt_access(0x61, 0xee);
            g.asm.mov(eax, i32::from(sel::USER_DATA))?;
            g.asm.mov(fs, eax)?;
            g.user(2, |a| {
                a.mov(eax, ds)?;
                a.mov(ebx, fs)?;
                a.int(0x61)
            })
        },
        expect: &[Expect::Fault(0x61, 0), Expect::Reg(RAX, 0), Expect::Reg(RBX, sel::USER_DATA as u64)],
    },
    Case {
        name: "a far return goes to ring 3",
        mode: Mode::Long,
        build: |g| {
            g.code_at(layout::DATA, 64, |a| a.ud2())?;
            g.asm.push(i32::from(sel::USER_DATA))?;
            g.asm.push(layout::STACK3 as i32)?;
            g.asm.push(i32::from(sel::USER_CODE64))?;
            g.asm.push(layout::DATA as i32)?;
            g.asm.db(&[0x48, 0xcb])
        },
        expect: &[
            Expect::Fault(vector::UD, 0),
            Expect::FaultCs(sel::USER_CODE64),
            Expect::FaultSp(layout::STACK3),
        ],
    },
    Case {
        name: "lar, lsl, verr and verw heed the privilege",
        mode: Mode::Long,
        build: |g| {
            g.idt_access(0x61, 0xee);
            g.user(2, |a| {
                a.mov(eax, i32::from(sel::DATA))?;
                a.mov(ebx, -1)?;
                a.lar(ebx, eax)?; // ZF 0, unchanged
                a.setz(cl)?;
                a.mov(eax, i32::from(sel::USER_DATA))?;
                a.lar(r8d, eax)?;
                a.setz(ch)?;
                a.lsl(r9d, eax)?;
                a.verr(ax)?;
                a.setz(dl)?;
                a.mov(eax, i32::from(sel::USER_CODE64))?;
                a.verw(ax)?;
                a.setz(dh)?;
                a.int(0x61)
            })
        },
        expect: &[
            Expect::Fault(0x61, 0),
            Expect::Reg(RBX, 0xffff_ffff),
            Expect::Reg(8, 0x00cf_f300),
            Expect::Reg(9, 0xffff_ffff),
            Expect::State("ZF of lar was not 0, then 1", |s| s.gpr[RCX] & 0xffff == 0x0100),
            Expect::State("ZF of verr, verw was not 1, then 0", |s| s.gpr[RDX] & 0xffff == 0x0001),
        ],
    },
];
