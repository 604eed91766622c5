//! Time that a CPU loses to others (Linux, Documentation/virt/kvm/x86/msr.rst).

use cpu::x86::msr::KVM_STEAL_TIME;
use iced_x86::code_asm::*;

use crate::board::layout::*;
use crate::board::{BoardCase, Expect};

const BASE: BoardCase = BoardCase::BASE;
/// Below the end of a page, and its version.
const PLACE: u64 = DATA + 0xfc0;
const VERSION: u64 = PLACE + 8;
const ELSEWHERE: u64 = PAGE;

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "steal time has an even version where the guest wants it, from the first moment",
        build: |p| {
            p.cpu(0, |a| {
                a.set_msr(KVM_STEAL_TIME, PLACE | 1)?;
                a.mov(eax, dword_ptr(VERSION))?;
                a.check(|a, good| {
                    a.cmp(eax, 2)?;
                    a.jae(good)
                })?;
                a.check_bits(1, false)?;
                a.msr(KVM_STEAL_TIME)?;
                a.check_eax((PLACE | 1) as u32)
            })
        },
        expect: &[Expect::AtLeast(VERSION, 2), Expect::Mem(PLACE + 0x10, 0), Expect::Mem(PLACE + 0x40, 0)],
        ..BASE
    },
    BoardCase {
        name: "steal time that is switched off, or has no place, is written nowhere",
        build: |p| {
            p.catch(13)?;
            p.cpu(0, |a| {
                a.set_msr(KVM_STEAL_TIME, PLACE)?;
                a.set_msr(KVM_STEAL_TIME, 0xffff_ffff_ffff_ffc1)?;
                // Behind the RAM.
                a.set_msr(KVM_STEAL_TIME, RAM | 1)?;
                a.set_msr(KVM_STEAL_TIME, 0)?;
                a.faults(|a| a.set_msr(KVM_STEAL_TIME, ELSEWHERE | 0x21))?;
                a.msr(KVM_STEAL_TIME)?;
                a.check_eax(0)
            })
        },
        expect: &[Expect::Mem(PLACE, 0), Expect::Mem(VERSION, 0), Expect::Mem(ELSEWHERE + 0x28, 0)],
        ..BASE
    },
];
