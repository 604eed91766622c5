//! Bit strings: bits of memory by numbers in registers, which reach any word before and behind the operand.

use cpu::x86::gpr::*;
use cpu::x86::vector;
use iced_x86::code_asm::*;

use crate::layout::{DATA, PAGE};
use crate::{Case, Expect, Mode};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "bits before and behind the operand, by numbers of 16, 32 and 64 bits",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA - 8, 1 << 63);
            g.asm.mov(ebx, DATA as u32)?;
            // -1 in each size; the upper parts do not count.
            g.asm.mov(rcx, 0x7777_7777_7777_ffffu64)?;
            g.asm.bt(word_ptr(rbx), cx)?;
            g.asm.adc(r8d, r8d)?;
            g.asm.mov(rcx, 0x7777_7777_ffff_ffffu64)?;
            g.asm.bt(dword_ptr(rbx), ecx)?;
            g.asm.adc(r8d, r8d)?;
            g.asm.mov(rcx, -1i64)?;
            g.asm.bt(qword_ptr(rbx), rcx)?;
            g.asm.adc(r8d, r8d)?;
            g.asm.mov(r10d, 8 * 0xffb)?;
            g.asm.lock().bts(qword_ptr(rbx), r10)?;
            g.asm.adc(r8d, r8d)?;
            g.asm.mov(r9, -64i64)?;
            g.asm.btc(dword_ptr(rbx + 8), r9d)?;
            g.asm.adc(r8d, r8d)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(8, 0b11100), Expect::Mem(DATA + 0xff8, 1 << 24), Expect::Mem32(DATA, 1)],
    },
    Case {
        name: "a bit of an absent page faults with the word's address",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, 0);
            g.asm.mov(ebx, (PAGE - 16) as u32)?;
            g.asm.mov(ecx, 16 * 8 + 70)?;
            g.mark()?;
            g.asm.bts(dword_ptr(rbx), ecx)
        },
        expect: &[Expect::Fault(vector::PF, 2), Expect::FaultAtMark, Expect::Cr2(PAGE + 8)],
    },
    Case {
        name: "a bit string's test leaves ZF",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA, 1 << 5);
            g.asm.mov(ebx, DATA as u32)?;
            g.asm.mov(ecx, 5)?;
            g.asm.xor(eax, eax)?;
            g.asm.bt(qword_ptr(rbx), rcx)?;
            g.asm.sete(al)?;
            g.asm.setb(ah)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, 0x101)],
    },
    Case {
        name: "AH to DH go to and from memory, and RSI stays",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA, 0x8877_6655_4433_2211);
            g.asm.mov(rsi, DATA)?;
            g.asm.mov(rax, -1i64)?;
            g.asm.mov(ah, byte_ptr(rsi + 1))?;
            g.asm.add(byte_ptr(rsi + 3), ah)?;
            g.asm.cmp(ah, byte_ptr(rsi + 1))?;
            g.asm.sete(byte_ptr(rsi))?;
            g.asm.push(0)?;
            g.asm.mov(byte_ptr(rsp + 1), ah)?;
            g.asm.pop(rdx)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg(RAX, 0xffff_ffff_ffff_22ff),
            Expect::Reg(RDX, 0x2200),
            Expect::Reg(RSI, DATA),
            Expect::Mem(DATA, 0x8877_6655_6633_2201),
        ],
    },
    Case {
        name: "CMPXCHG16B exchanges, or loads, and faults where it is not aligned",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA, 1);
            g.write_u64(DATA + 8, 2);
            g.asm.mov(ebp, DATA as u32)?;
            g.asm.mov(eax, 1)?;
            g.asm.mov(edx, 2)?;
            g.asm.mov(ebx, 3)?;
            g.asm.mov(ecx, 4)?;
            g.asm.lock().cmpxchg16b(xmmword_ptr(rbp))?;
            g.asm.sete(byte_ptr(rbp + 16))?;
            g.asm.lock().cmpxchg16b(xmmword_ptr(rbp))?;
            g.mark()?;
            g.asm.lock().cmpxchg16b(xmmword_ptr(rbp + 8))
        },
        expect: &[
            Expect::Fault(vector::GP, 0),
            Expect::FaultAtMark,
            Expect::Mem(DATA, 3),
            Expect::Mem(DATA + 8, 4),
            Expect::Mem32(DATA + 16, 1),
            Expect::Reg(RAX, 3),
            Expect::Reg(RDX, 4),
        ],
    },
];
