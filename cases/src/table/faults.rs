//! Exceptions: vectors, error codes, what the frame holds, and exceptions in their own delivery.

use cpu::x86::gpr::*;
use cpu::x86::{rflags, vector};
use iced_x86::code_asm::*;

use crate::layout::{self, sel};
use crate::{Case, Expect, Mode};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "ud2 faults at itself with RF in the frame",
        mode: Mode::Long,
        build: |g| {
            g.mark()?;
            g.asm.ud2()
        },
        expect: &[
            Expect::Fault(vector::UD, 0),
            Expect::FaultAtMark,
            Expect::FaultCs(sel::CODE64),
            Expect::FaultSp(layout::STACK),
            Expect::FaultFlags(rflags::RF | rflags::FIXED, rflags::RF | rflags::FIXED),
        ],
    },
    Case {
        name: "division by zero faults at itself and changes nothing",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, 7)?;
            g.asm.xor(ecx, ecx)?;
            g.asm.cdq()?;
            g.mark()?;
            g.asm.div(ecx)
        },
        expect: &[Expect::Fault(vector::DE, 0), Expect::FaultAtMark, Expect::Reg(RAX, 7)],
    },
    Case {
        name: "int3 traps behind itself without RF",
        mode: Mode::Long,
        build: |g| {
            g.asm.int3()?;
            g.mark()?;
            g.asm.hlt()
        },
        expect: &[Expect::Fault(vector::BP, 0), Expect::FaultAtMark, Expect::FaultFlags(rflags::RF, 0)],
    },
    Case {
        name: "a load from a non-canonical address is #GP(0)",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rbx, 0x8000_0000_0000u64)?;
            g.mark()?;
            g.asm.mov(rax, qword_ptr(rbx))
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "a push to a non-canonical address is #SS(0)",
        mode: Mode::Long,
        build: |g| {
            g.idt(vector::SS, sel::CODE64, stub(vector::SS), 0x8e, 1);
            g.asm.mov(rsp, 0x8000_0000_0008u64)?;
            g.mark()?;
            g.asm.push(rax)
        },
        expect: &[Expect::Fault(vector::SS, 0), Expect::FaultAtMark, Expect::FaultSp(0x8000_0000_0008)],
    },
    Case {
        name: "a jump to a non-canonical address is #GP(0)",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(rbx, 0x8000_0000_0000u64)?;
            g.mark()?;
            g.asm.jmp(rbx)
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "an interrupt stack table entry gives the handler its stack",
        mode: Mode::Long,
        build: |g| {
            g.idt(vector::UD, sel::CODE64, layout::DATA, 0x8e, 1);
            g.code_at(layout::DATA, 64, |a| {
                a.mov(rax, rsp)?;
                a.hlt()
            })?;
            g.asm.ud2()
        },
        expect: &[Expect::Reg(RAX, layout::STACK_IST - 40)],
    },
    Case {
        name: "a handler's frame is aligned to 16 bytes",
        mode: Mode::Long,
        build: |g| {
            g.idt(vector::UD, sel::CODE64, layout::DATA, 0x8e, 0);
            g.code_at(layout::DATA, 64, |a| {
                a.mov(rax, rsp)?;
                a.mov(rbx, qword_ptr(rsp + 24))?;
                a.hlt()
            })?;
            g.asm.mov(rsp, layout::STACK - 5)?;
            g.asm.ud2()
        },
        expect: &[Expect::Reg(RAX, layout::STACK - 16 - 40), Expect::Reg(RBX, layout::STACK - 5)],
    },
    Case {
        name: "a gate beyond the IDT limit is #GP with the entry and IDT bits",
        mode: Mode::Long,
        build: |g| {
            g.state.idtr.limit = 0x40 * 16 - 1;
            g.mark()?;
            g.asm.int(0x40)
        },
        expect: &[Expect::Fault(vector::GP, 0x40 * 8 + 2), Expect::FaultAtMark],
    },
    Case {
        name: "a gate that is not present is #NP with the entry, EXT clear for INT n",
        mode: Mode::Long,
        build: |g| {
            g.idt_access(0x40, 0x0e);
            g.asm.int(0x40)
        },
        expect: &[Expect::Fault(vector::NP, 0x40 * 8 + 2)],
    },
    Case {
        name: "a benign exception whose gate is absent is #NP with EXT set",
        mode: Mode::Long,
        build: |g| {
            g.idt_access(vector::UD, 0x0e);
            g.mark()?;
            g.asm.ud2()
        },
        expect: &[Expect::Fault(vector::NP, 6 * 8 + 3), Expect::FaultAtMark],
    },
    Case {
        name: "a gate of a wrong type is #GP",
        mode: Mode::Long,
        build: |g| {
            g.idt_access(0x40, 0x85);
            g.asm.int(0x40)
        },
        expect: &[Expect::Fault(vector::GP, 0x40 * 8 + 2)],
    },
    Case {
        name: "a gate to a 32-bit segment is #GP with the selector in long mode",
        mode: Mode::Long,
        build: |g| {
            g.idt(0x40, sel::CODE32, layout::DATA, 0x8e, 0);
            g.asm.int(0x40)
        },
        expect: &[Expect::Fault(vector::GP, sel::CODE32 as u32)],
    },
    Case {
        name: "a contributory exception in the delivery of one is a double fault",
        mode: Mode::Long,
        build: |g| {
            g.idt_access(vector::GP, 0x0e);
            g.asm.mov(rbx, 0x8000_0000_0000u64)?;
            g.mark()?;
            g.asm.mov(rax, qword_ptr(rbx))
        },
        expect: &[Expect::Fault(vector::DF, 0), Expect::FaultAtMark, Expect::Faults(1)],
    },
    Case {
        name: "a page fault on the way to the page fault handler is a double fault",
        mode: Mode::Long,
        build: |g| {
            g.map(layout::PAGE, 0);
            g.idt(vector::DF, sel::CODE64, stub(vector::DF), 0x8e, 1);
            g.asm.mov(rsp, layout::PAGE + 0x800)?;
            g.mark()?;
            g.asm.push(rax)
        },
        expect: &[Expect::Fault(vector::DF, 0), Expect::FaultAtMark, Expect::Cr2(layout::PAGE + 0x7f8)],
    },
    Case {
        name: "a page fault in the delivery of #GP is delivered as such",
        mode: Mode::Long,
        build: |g| {
            g.map(layout::PAGE, 0);
            g.idt(vector::PF, sel::CODE64, stub(vector::PF), 0x8e, 1);
            g.asm.mov(rsp, layout::PAGE + 0x800)?;
            g.asm.mov(rbx, 0x8000_0000_0000u64)?;
            g.mark()?;
            g.asm.mov(rax, qword_ptr(rbx))
        },
        expect: &[Expect::Fault(vector::PF, 2), Expect::FaultAtMark, Expect::Cr2(layout::PAGE + 0x7f8)],
    },
    Case {
        name: "without an IDT an exception shuts the machine down",
        mode: Mode::Long,
        build: |g| {
            g.state.idtr.limit = 0;
            g.asm.ud2()
        },
        expect: &[Expect::Shutdown],
    },
    Case {
        name: "an exception in the delivery of a double fault shuts the machine down",
        mode: Mode::Protected,
        build: |g| {
            g.idt_access(vector::GP, 0x0e);
            g.idt_access(vector::DF, 0x0e);
            g.asm.int(0x40)?;
            g.asm.hlt()?;
            g.state.idtr.limit = 0x3f * 8;
            Ok(())
        },
        expect: &[Expect::Shutdown],
    },
    Case {
        name: "sixteen bytes are too long for an instruction",
        mode: Mode::Long,
        build: |g| {
            g.mark()?;
            g.asm.db(&[0x66; 15])?;
            g.asm.db(&[0x90])
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "lock on an instruction that cannot be locked is #UD",
        mode: Mode::Protected,
        build: |g| {
            g.mark()?;
            g.asm.db(&[0xf0, 0x90])
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::FaultAtMark],
    },
    Case {
        name: "instructions that no model has are #UD",
        mode: Mode::Long,
        build: |g| {
            g.mark()?;
            g.asm.db(&[0x0f, 0x01, 0xc2]) // VMLAUNCH
        },
        expect: &[Expect::Fault(vector::UD, 0), Expect::FaultAtMark],
    },
    Case {
        name: "misaligned accesses of ring 3 are #AC where CR0.AM and EFLAGS.AC say so",
        mode: Mode::Long,
        build: |g| {
            g.state.cr0 |= cpu::x86::cr0::AM;
            g.user(rflags::AC as u32 | 2, |a| {
                a.mov(eax, dword_ptr(layout::DATA))?;
                a.mov(eax, dword_ptr(layout::DATA + 1))
            })
        },
        expect: &[Expect::Fault(vector::AC, 0), Expect::FaultCs(sel::USER_CODE64)],
    },
    Case {
        name: "bound faults outside the bounds",
        mode: Mode::Protected,
        build: |g| {
            g.write_u32(layout::DATA, 0xffff_fffe);
            g.write_u32(layout::DATA + 4, 5);
            g.asm.mov(eax, -2)?;
            g.asm.bound(eax, qword_ptr(layout::DATA))?;
            g.asm.mov(eax, 6)?;
            g.mark()?;
            g.asm.bound(eax, qword_ptr(layout::DATA))
        },
        expect: &[Expect::Fault(vector::BR, 0), Expect::FaultAtMark],
    },
    Case {
        name: "into traps only on overflow",
        mode: Mode::Protected,
        build: |g| {
            g.asm.xor(eax, eax)?;
            g.asm.db(&[0xce])?;
            g.asm.mov(eax, 0x7fff_ffff)?;
            g.asm.inc(eax)?;
            g.asm.db(&[0xce])?;
            g.mark()?;
            g.asm.hlt()
        },
        expect: &[Expect::Fault(vector::OF, 0), Expect::FaultAtMark, Expect::Faults(1)],
    },
];

/// Where the recorder of a vector is.
fn stub(vector: u8) -> u64 {
    layout::STUBS + u64::from(vector) * 16
}
