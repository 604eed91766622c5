//! IA32_APIC_BASE: modes and their transitions, another address.

use cpu::x86::msr;
use iced_x86::code_asm::*;

use crate::board::BoardCase;
use crate::board::part::apic;

const BASE: BoardCase = BoardCase::BASE;

const OFF: u64 = 0xfee0_0100;
const XAPIC: u64 = 0xfee0_0900;
const X2APIC: u64 = 0xfee0_0d00;
/// x2APIC without the APIC itself.
const NO_MODE: u64 = 0xfee0_0500;
/// Version register in x2APIC mode.
const X2_VERSION: u32 = 0x803;

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "IA32_APIC_BASE takes every legal way through its modes, and no other",
        build: |p| {
            p.catch(13)?;
            p.cpu(0, |a| {
                let good = |a: &mut crate::board::Asm, value: u64| {
                    a.set_msr(msr::APIC_BASE, value)?;
                    a.msr(msr::APIC_BASE)?;
                    a.check_eax(value as u32)
                };
                let bad = |a: &mut crate::board::Asm, value: u64| {
                    a.msr(msr::APIC_BASE)?;
                    a.mov(ebx, eax)?;
                    a.faults(|a| a.set_msr(msr::APIC_BASE, value))?;
                    a.msr(msr::APIC_BASE)?;
                    a.cmp(eax, ebx)?;
                    a.check(|a, good| a.je(good))
                };
                bad(a, NO_MODE)?;
                good(a, XAPIC)?;
                good(a, OFF)?;
                bad(a, X2APIC)?;
                bad(a, NO_MODE)?;
                good(a, XAPIC)?;
                good(a, X2APIC)?;
                bad(a, XAPIC)?;
                bad(a, NO_MODE)?;
                good(a, X2APIC)?;
                good(a, OFF)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "reserved bits of IA32_APIC_BASE cannot be set",
        build: |p| {
            p.catch(13)?;
            p.cpu(0, |a| {
                for bit in [0, 7, 9, 52, 63] {
                    a.faults(|a| a.set_msr(msr::APIC_BASE, XAPIC | 1 << bit))?;
                }
                a.msr(msr::APIC_BASE)?;
                a.check_eax(XAPIC as u32)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a local apic that is off is gone: no registers, no CPUID bit, and its registers are fresh when it is back",
        build: |p| {
            p.cpu(0, |a| {
                let cpuid_bit = |a: &mut crate::board::Asm, set: bool| {
                    a.mov(eax, 1)?;
                    a.cpuid()?;
                    a.mov(eax, edx)?;
                    a.check_bits(1 << 9, set)
                };
                cpuid_bit(a, true)?;
                a.set_apic(apic::TPR, 0x20)?;
                a.set_apic(apic::LVT_TIMER, 0x45)?;
                a.set_msr(msr::APIC_BASE, OFF)?;
                cpuid_bit(a, false)?;
                a.apic(apic::VERSION)?;
                a.check_eax(u32::MAX)?;
                a.set_apic(apic::TPR, 0x30)?;
                a.set_msr(msr::APIC_BASE, XAPIC)?;
                cpuid_bit(a, true)?;
                a.apic(apic::TPR)?;
                a.check_eax(0)?;
                a.apic(apic::SVR)?;
                a.check_eax(0xff)?;
                a.apic(apic::LVT_TIMER)?;
                a.check_eax(apic::MASKED)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the registers are where IA32_APIC_BASE says",
        build: |p| {
            p.cpu(0, |a| {
                a.set_msr(msr::APIC_BASE, 0xfec5_0900)?;
                a.mov(ebx, 0xfec5_0000u32)?;
                a.mov(dword_ptr(rbx + apic::TPR), 0x70)?;
                a.mov(rax, cr8)?;
                a.check_eax(7)?;
                a.apic(apic::TPR)?;
                a.check_eax(u32::MAX)?;
                a.set_msr(msr::APIC_BASE, XAPIC)?;
                a.apic(apic::TPR)?;
                a.check_eax(0x70)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "x2apic registers answer in x2apic mode only, the memory-mapped ones in xapic mode only",
        build: |p| {
            p.catch(13)?;
            p.cpu(0, |a| {
                a.faults(|a| a.msr(X2_VERSION))?;
                a.apic(apic::VERSION)?;
                a.mov(ebx, eax)?;
                a.set_msr(msr::APIC_BASE, X2APIC)?;
                a.msr(X2_VERSION)?;
                a.cmp(eax, ebx)?;
                a.check(|a, good| a.je(good))?;
                a.apic(apic::VERSION)?;
                a.check_eax(u32::MAX)?;
                a.set_msr(msr::APIC_BASE, OFF)?;
                a.faults(|a| a.msr(X2_VERSION))
            })
        },
        ..BASE
    },
];
