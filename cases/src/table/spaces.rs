//! Address spaces with numbers of their own (PCIDs) that are loaded in turns and keep their translations (CR3 bit 63).

use cpu::x86::cr4;
use cpu::x86::gpr::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::layout::{self, PAGE};
use crate::{Case, Expect, Guest, Mode};

/// In a value for CR3: the address space's translations stay.
const KEEP: u64 = 1 << 63;
const GLOBAL: u64 = 1 << 8;
const TURNS: u32 = 50;

/// Tables of the second address space.
const PML4: u64 = 0x5_0000;
const PDPT: u64 = 0x5_1000;
const PD: u64 = 0x5_2000;
const PT: u64 = 0x5_3000;
/// What `PAGE` is there.
const OTHER_PAGE: u64 = PAGE + 0x1000;
/// A function, and where that is in the second one.
const FUNCTION: u64 = PAGE + 0x2000;
const OTHER_FUNCTION: u64 = PAGE + 0x3000;

/// Two address spaces: R12 loads the one there is, number 0, R13 the other, number 1. What is at `PAGE` is 3 and 5, the function
/// there counts in RSI and RDI.
fn two(g: &mut Guest) -> Result<(), IcedError> {
    g.state.cr4 |= cr4::PCIDE;
    g.write_u64(PML4, PDPT | 7);
    g.write_u64(PDPT, PD | 7);
    g.write_u64(PD, PT | 7);
    for page in 0..512 {
        g.write_u64(PT + 8 * page, page << 12 | 7);
    }
    g.write_u64(PT + (PAGE >> 9), OTHER_PAGE | 7);
    g.write_u64(PT + (FUNCTION >> 9), OTHER_FUNCTION | 7);
    g.write_u32(PAGE, 3);
    g.write_u32(OTHER_PAGE, 5);
    g.write(FUNCTION, &[0x48, 0x83, 0xc6, 1, 0xc3]); // add rsi, 1; ret
    g.write(OTHER_FUNCTION, &[0x48, 0x83, 0xc7, 1, 0xc3]); // add rdi, 1; ret
    // What INVPCID is to drop: a page of the second one.
    g.write_u64(layout::DATA, 1);
    g.write_u64(layout::DATA + 8, PAGE);
    g.asm.mov(r8, FUNCTION)?;
    g.asm.mov(r12, layout::PML4 | KEEP)?;
    g.asm.mov(r13, PML4 | 1 | KEEP)?;
    g.asm.mov(ecx, TURNS)
}

/// Does something in each space, in turns.
fn turns(
    g: &mut Guest,
    here: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    there: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    two(g)?;
    let mut again = g.asm.create_label();
    g.asm.set_label(&mut again)?;
    g.asm.mov(cr3, r12)?;
    here(&mut g.asm)?;
    g.asm.mov(cr3, r13)?;
    there(&mut g.asm)?;
    g.asm.dec(ecx)?;
    g.asm.jnz(again)?;
    g.asm.hlt()
}

/// Has the second space's `PAGE` changed each time, and what is known of it dropped by `drop`; RBX is the sum of what is seen there.
fn changes(g: &mut Guest, drop: fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Result<(), IcedError> {
    let change = |a: &mut CodeAssembler| {
        a.xor(dword_ptr(PT + (PAGE >> 9)), 0x1000)?;
        drop(a)
    };
    turns(g, change, |a| a.add(ebx, dword_ptr(PAGE)))
}

const SUM: u64 = TURNS as u64 / 2 * (3 + 5);

pub(super) const CASES: &[Case] = &[
    Case {
        name: "address spaces that take turns have their own data and code",
        mode: Mode::Long,
        build: |g| {
            let add_here = |a: &mut CodeAssembler| {
                a.add(eax, dword_ptr(PAGE))?;
                a.call(r8)
            };
            turns(g, add_here, |a| {
                a.add(ebx, dword_ptr(PAGE))?;
                a.call(r8)
            })
        },
        expect: &[
            Expect::Reg(RAX, 3 * TURNS as u64),
            Expect::Reg(RBX, 5 * TURNS as u64),
            Expect::Reg(RSI, TURNS as u64),
            Expect::Reg(RDI, TURNS as u64),
        ],
    },
    Case {
        name: "code of an address space is overwritten in another one",
        mode: Mode::Long,
        build: |g| {
            // The number that is added.
            turns(g, |a| a.mov(byte_ptr(OTHER_FUNCTION + 3), cl), |a| a.call(r8))
        },
        expect: &[Expect::Reg(RDI, TURNS as u64 * (TURNS as u64 + 1) / 2)],
    },
    Case {
        name: "invpcid drops a page of an address space that is not loaded",
        mode: Mode::Long,
        build: |g| {
            changes(g, |a| {
                a.xor(edx, edx)?;
                a.invpcid(rdx, xmmword_ptr(layout::DATA))
            })
        },
        expect: &[Expect::Reg(RBX, SUM)],
    },
    Case {
        name: "invpcid drops an address space that is not loaded",
        mode: Mode::Long,
        build: |g| {
            changes(g, |a| {
                a.mov(edx, 1)?;
                a.invpcid(rdx, xmmword_ptr(layout::DATA))
            })
        },
        expect: &[Expect::Reg(RBX, SUM)],
    },
    Case {
        name: "an address space that is loaded without its translations",
        mode: Mode::Long,
        build: |g| changes(g, |a| a.btr(r13, 63)),
        expect: &[Expect::Reg(RBX, SUM)],
    },
    Case {
        name: "invlpg drops a global page of every address space",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 |= cr4::PGE;
            g.map(PAGE, OTHER_PAGE | GLOBAL | 7);
            changes(g, |a| {
                a.or(dword_ptr(PT + (PAGE >> 9)), GLOBAL as i32)?;
                a.xor(dword_ptr(layout::PT + (PAGE >> 9)), 0x1000)?;
                a.invlpg(byte_ptr(PAGE))
            })
        },
        expect: &[Expect::Reg(RBX, SUM)],
    },
];
