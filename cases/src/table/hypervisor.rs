//! What a hypervisor offers its guests: hypercalls, KVM's clock, steal time.

use cpu::x86::gpr::*;
use cpu::x86::{msr, vector};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::layout;
use crate::{Case, Expect, Mode};

/// A number that is nobody's.
const NUMBER: u32 = 0x4748_0fff;
/// KVM's ENOSYS, and EPERM.
const UNKNOWN: u64 = -1000i64 as u64;
const NOT_PERMITTED: u64 = -1i64 as u64;

/// WRMSR of a value of 32 bits.
fn set(a: &mut CodeAssembler, number: u32, value: u32) -> Result<(), IcedError> {
    a.mov(ecx, number)?;
    a.mov(eax, value)?;
    a.xor(edx, edx)?;
    a.wrmsr()
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "an unknown hypercall is an error by either instruction",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, NUMBER)?;
            g.asm.vmcall()?;
            g.asm.mov(rdi, rax)?;
            g.asm.mov(eax, NUMBER)?;
            g.asm.vmmcall()?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RDI, UNKNOWN), Expect::Reg(RAX, UNKNOWN)],
    },
    Case {
        name: "a hypercall's answer has 32 bits outside 64-bit mode",
        mode: Mode::Protected,
        build: |g| {
            g.asm.mov(eax, NUMBER)?;
            g.asm.vmcall()?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg32(RAX, UNKNOWN as u32)],
    },
    Case {
        name: "a hypercall of ring 3 is refused without a fault",
        mode: Mode::Long,
        build: |g| {
            g.idt_access(0x61, 0xee);
            g.user(2, |a| {
                a.mov(eax, NUMBER)?;
                a.vmcall()?;
                a.mov(rdi, rax)?;
                a.int(0x61)
            })
        },
        expect: &[Expect::Fault(0x61, 0), Expect::Reg(RDI, NOT_PERMITTED)],
    },
    Case {
        name: "the signature of KVM leads to its clock and to steal time",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, 0x4000_0000)?;
            g.asm.cpuid()?;
            g.asm.mov(edi, ebx)?;
            g.asm.mov(eax, 0x4000_0001)?;
            g.asm.cpuid()?;
            g.asm.and(eax, 1 << 3 | 1 << 5 | 1 << 24)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg32(RDI, u32::from_le_bytes(*b"KVMK")),
            Expect::Reg32(RAX, 1 << 3 | 1 << 5 | 1 << 24),
        ],
    },
    Case {
        name: "the second signature leads to the hypercalls and their port",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, 0x4000_0100)?;
            g.asm.cpuid()?;
            g.asm.mov(edi, ebx)?;
            g.asm.cpuid()?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg32(RDI, u32::from_le_bytes(*b"Gues")),
            Expect::Reg32(RAX, 2),
            Expect::Reg32(RBX, 7),
            Expect::Reg32(RCX, 0xf8),
        ],
    },
    Case {
        name: "KVM's clock is written with an even version, and runs by a TSC that is stable",
        mode: Mode::Long,
        build: |g| {
            set(&mut g.asm, msr::KVM_SYSTEM_TIME, layout::DATA as u32 | 1)?;
            g.asm.mov(edi, dword_ptr(layout::DATA))?;
            g.asm.and(edi, 1)?;
            // Of the multiplier, the upper half; of the flags, bit 0.
            g.asm.mov(esi, dword_ptr(layout::DATA + 24))?;
            g.asm.shr(esi, 16)?;
            g.asm.neg(esi)?;
            g.asm.sbb(esi, esi)?;
            g.asm.mov(ebx, dword_ptr(layout::DATA + 29))?;
            g.asm.and(ebx, 1)?;
            g.asm.rdmsr()?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg32(RDI, 0),
            Expect::Reg32(RSI, u32::MAX),
            Expect::Reg32(RBX, 1),
            Expect::Reg32(RAX, layout::DATA as u32 | 1),
        ],
    },
    Case {
        name: "a clock that is switched off is written no more, and one beyond RAM nowhere",
        mode: Mode::Long,
        build: |g| {
            set(&mut g.asm, msr::KVM_SYSTEM_TIME, layout::DATA as u32)?;
            set(&mut g.asm, msr::KVM_SYSTEM_TIME, 0xfff0_0001)?;
            set(&mut g.asm, msr::KVM_WALL_CLOCK, 0xfff0_0000)?;
            set(&mut g.asm, msr::KVM_SYSTEM_TIME, 0)?;
            g.asm.hlt()
        },
        expect: &[Expect::Mem(layout::DATA, 0)],
    },
    Case {
        name: "KVM's wall clock is later than 2020",
        mode: Mode::Long,
        build: |g| {
            set(&mut g.asm, msr::KVM_WALL_CLOCK, layout::DATA as u32)?;
            g.asm.mov(eax, dword_ptr(layout::DATA + 4))?;
            g.asm.cmp(eax, 1_577_836_800)?;
            g.asm.sbb(edi, edi)?;
            g.asm.mov(esi, dword_ptr(layout::DATA))?;
            g.asm.and(esi, 1)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg32(RDI, 0), Expect::Reg32(RSI, 0)],
    },
    Case {
        name: "steal time's MSR keeps what a guest writes, and reserved bits are #GP",
        mode: Mode::Long,
        build: |g| {
            set(&mut g.asm, msr::KVM_STEAL_TIME, layout::DATA as u32 | 1)?;
            g.asm.rdmsr()?;
            g.asm.mov(edi, eax)?;
            set(&mut g.asm, msr::KVM_STEAL_TIME, layout::DATA as u32 | 2)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg32(RDI, layout::DATA as u32 | 1), Expect::Fault(vector::GP, 0)],
    },
    Case {
        name: "a number beside KVM's is #GP",
        mode: Mode::Long,
        build: |g| {
            set(&mut g.asm, msr::KVM_WALL_CLOCK + 0x100, 0)?;
            g.asm.hlt()
        },
        expect: &[Expect::Fault(vector::GP, 0)],
    },
];
