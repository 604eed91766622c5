//! String instructions: how far they are when they fault, in which direction they go, and what counts of them.

use cpu::x86::gpr::*;
use cpu::x86::vector;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::layout::{DATA, PAGE};
use crate::{Case, Expect, Guest, Mode};

const WRITE: Expect = Expect::Fault(vector::PF, 2);

/// RSI, RDI and RCX.
fn operands(g: &mut Guest, from: u64, to: u64, count: u64) -> Result<(), IcedError> {
    g.asm.mov(rsi, from)?;
    g.asm.mov(rdi, to)?;
    g.asm.mov(rcx, count)
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a repeated move faults in the middle, with what is done done",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, 0);
            g.write(DATA, &[0x5a; 0x3000]);
            operands(g, DATA + 5, PAGE - 0x1803, 0x2000)?;
            g.mark()?;
            g.asm.rep().movsb()
        },
        expect: &[
            WRITE,
            Expect::FaultAtMark,
            Expect::Cr2(PAGE),
            Expect::Reg(RCX, 0x2000 - 0x1803),
            Expect::Reg(RSI, DATA + 5 + 0x1803),
            Expect::Reg(RDI, PAGE),
            Expect::Mem(PAGE - 8, 0x5a5a_5a5a_5a5a_5a5a),
        ],
    },
    Case {
        name: "a repeated move faults at its source, by elements that lie in two pages",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, 0);
            operands(g, PAGE - 0x14, DATA + 0xff9, 9)?;
            g.mark()?;
            g.asm.rep().movsq()
        },
        expect: &[
            Expect::Fault(vector::PF, 0),
            Expect::FaultAtMark,
            Expect::Cr2(PAGE),
            Expect::Reg(RCX, 7),
            Expect::Reg(RSI, PAGE - 4),
            Expect::Reg(RDI, DATA + 0x1009),
        ],
    },
    Case {
        name: "a repeated store faults in the middle, by elements of four bytes",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, PAGE | 5);
            g.asm.mov(eax, 0x0102_0304)?;
            operands(g, 0, PAGE - 0x100a, 0x1000)?;
            g.mark()?;
            g.asm.rep().stosd()
        },
        expect: &[
            Expect::Fault(vector::PF, 3),
            Expect::FaultAtMark,
            Expect::Cr2(PAGE),
            Expect::Reg(RCX, 0x1000 - 0x402),
            Expect::Reg(RDI, PAGE - 2),
            Expect::Mem(PAGE - 10, 0x0102_0304_0102_0304),
            Expect::Mem16(PAGE - 2, 0),
        ],
    },
    Case {
        name: "a count of zero touches nothing",
        mode: Mode::Long,
        build: |g| {
            operands(g, 0x8000_0000_0000, 0x8000_0000_0001, 0)?;
            g.asm.rep().movsb()?;
            g.asm.rep().stosq()?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RSI, 0x8000_0000_0000), Expect::Reg(RDI, 0x8000_0000_0001)],
    },
    Case {
        name: "overlapping moves repeat the pattern by elements, or not where the source is behind",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA + 0xffc, 0x8877_6655_4433_2211);
            operands(g, DATA + 0xffc, DATA + 0xffd, 7)?;
            g.asm.rep().movsb()?;
            g.write_u64(DATA + 0x200, 0x8877_6655_4433_2211);
            operands(g, DATA + 0x200, DATA + 0x203, 3)?;
            g.asm.rep().movsd()?;
            g.write_u64(DATA + 0x300, 0x8877_6655_4433_2211);
            operands(g, DATA + 0x301, DATA + 0x300, 7)?;
            g.asm.rep().movsb()?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Mem(DATA + 0xffc, 0x1111_1111_1111_1111),
            Expect::Mem(DATA + 0x203, 0x8844_3322_4433_2211),
            Expect::Mem(DATA + 0x300, 0x8888_7766_5544_3322),
        ],
    },
    Case {
        name: "with DF set strings go down, until CLD",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA, 0x8877_6655_4433_2211);
            g.asm.std()?;
            operands(g, DATA + 7, DATA + 0x107, 8)?;
            g.asm.rep().movsb()?;
            g.asm.mov(r12, rsi)?;
            g.asm.mov(r13, rdi)?;
            g.asm.mov(eax, 0x99)?;
            g.asm.mov(edi, (DATA + 0x208) as u32)?;
            g.asm.stosb()?;
            g.asm.cld()?;
            g.asm.stosb()?;
            g.asm.stosb()?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Mem(DATA + 0x100, 0x8877_6655_4433_2211),
            Expect::Reg(12, DATA - 1),
            Expect::Reg(13, DATA + 0xff),
            Expect::Mem(DATA + 0x201, 0x9999_0000_0000_0000),
            Expect::Reg(RDI, DATA + 0x209),
        ],
    },
    Case {
        name: "with 32-bit addresses the upper halves do not count, and are cleared",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA, 0x8877_6655_4433_2211);
            let high = 7 << 32;
            operands(g, high + DATA, high + DATA + 0x100, high + 8)?;
            g.asm.db(&[0x67, 0xf3, 0xa4])?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Mem(DATA + 0x100, 0x8877_6655_4433_2211),
            Expect::Reg(RCX, 0),
            Expect::Reg(RSI, DATA + 8),
            Expect::Reg(RDI, DATA + 0x108),
        ],
    },
    Case {
        name: "single elements: MOVS, LODS, SCAS, CMPS, with the flags of the comparisons",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA, 0x8877_6655_4433_2211);
            operands(g, DATA, DATA + 0xffb, 5)?;
            g.asm.movsq()?; // into two pages
            g.asm.lea(rdi, ptr(rdi - 8))?;
            g.asm.lea(rsi, ptr(rsi - 8))?;
            g.asm.cmpsd()?;
            g.asm.sete(r12b)?;
            g.asm.mov(rax, -1i64)?;
            g.asm.lodsw()?;
            g.asm.mov(r13, rax)?;
            g.asm.mov(al, 0x56)?;
            g.asm.scasb()?; // 0x55
            g.asm.seta(r14b)?;
            g.asm.lodsb()?;
            g.asm.cmpsb()?; // 0x88 and 0x66
            g.asm.setg(r15b)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Reg32(12, 1),
            Expect::Reg(13, 0xffff_ffff_ffff_6655),
            Expect::Reg32(14, 1),
            Expect::Reg32(15, 0),
            Expect::Reg(RAX, 0xffff_ffff_ffff_6677),
            Expect::Reg(RSI, DATA + 8),
            Expect::Reg(RDI, DATA + 0x1001),
        ],
    },
    Case {
        name: "a move faults at its target and leaves both pointers",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, 0);
            operands(g, DATA, PAGE + 4, 5)?;
            g.mark()?;
            g.asm.movsd()
        },
        expect: &[
            WRITE,
            Expect::FaultAtMark,
            Expect::Cr2(PAGE + 4),
            Expect::Reg(RSI, DATA),
            Expect::Reg(RDI, PAGE + 4),
        ],
    },
    Case {
        name: "a repeated store over the code behind it is seen",
        mode: Mode::Long,
        build: |g| {
            // MOV EAX, 1; RET becomes MOV EAX, 2; RET.
            g.code_at(PAGE, 64, |a| {
                a.mov(eax, 1)?;
                a.ret()
            })?;
            g.asm.mov(ebx, PAGE as u32)?;
            g.asm.call(rbx)?;
            g.asm.mov(r12d, eax)?;
            g.asm.mov(al, 2)?;
            operands(g, 0, PAGE + 1, 1)?;
            g.asm.rep().stosb()?;
            g.asm.call(rbx)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(12, 1), Expect::Reg(RAX, 2)],
    },
    Case {
        name: "a load of a string by FS has its base",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(DATA, 0x77);
            g.state.segments[4].base = 0x1000;
            operands(g, DATA - 0x1000, DATA + 8, 1)?;
            g.asm.db(&[0x64, 0xf3, 0xa4])?;
            g.asm.hlt()
        },
        expect: &[Expect::Mem32(DATA + 8, 0x77)],
    },
];
