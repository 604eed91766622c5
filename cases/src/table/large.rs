//! Pages larger than 4 KiB that are replaced: no part of theirs stays in a TLB, whichever was named.

use cpu::x86::cr4;
use cpu::x86::gpr::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::paging::UPPER;
use crate::layout::{self, PAGE};
use crate::{Case, Expect, Guest, Mode};

/// In a value for CR3: the address space's translations stay.
const KEEP: u64 = 1 << 63;
const GLOBAL: u64 = 1 << 8;
/// Where the same 4 KiB of a large page are, and where they go when the tables behind it take its place.
const PART: u64 = PAGE + 0x1000;
const NEW_PART: u64 = PAGE + 0x2000;

/// A page larger than 4 KiB that maps RAM a second time.
struct Large {
    /// Its first address.
    at: u64,
    /// An address far from [`PART`] in it.
    other_part: u64,
    /// Where its entry is, what that says, and what it says later: tables that map `PART` elsewhere.
    entry: u64,
    before: u64,
    after: u64,
}

const LARGE_2M: Large = Large {
    at: 0x20_0000,
    other_part: 0x3f_f000,
    entry: layout::PD + 8,
    before: 0xe7,
    after: layout::PT | 7,
};
const LARGE_1G: Large = Large {
    at: 0x4000_0000,
    other_part: 0x7fff_f000,
    entry: layout::PDPT + 8,
    before: 0xe7,
    after: layout::PD | 7,
};
/// With CR4.PSE.
const LARGE_4M: Large = Large {
    at: 0x40_0000,
    other_part: 0x7f_f000,
    entry: layout::PD + 4,
    before: 0xe7,
    after: layout::PT | 7,
};

impl Large {
    const fn upper(self) -> Self {
        Self { at: UPPER + self.at, other_part: UPPER + self.other_part, ..self }
    }

    const fn global(self) -> Self {
        Self { before: self.before | GLOBAL, ..self }
    }

    /// Maps it.
    fn set_up(&self, g: &mut Guest) {
        g.write_u64(layout::PML4 + 256 * 8, layout::PDPT | 7);
        g.write_u32(self.entry, self.before as u32);
        g.map(PART, NEW_PART | 7);
    }

    /// Replaces it.
    fn replace(&self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        a.mov(dword_ptr(self.entry), self.after as i32)
    }

    /// Replaces it and says so by another part's address.
    fn replace_and_flush(&self, g: &mut Guest) -> Result<(), IcedError> {
        self.replace(&mut g.asm)?;
        g.asm.mov(r9, self.other_part)?;
        g.asm.invlpg(byte_ptr(r9))
    }

    /// Loads of and stores to a part before and after.
    fn data(&self, g: &mut Guest) -> Result<(), IcedError> {
        self.set_up(g);
        g.write_u32(PART, 0x11);
        g.write_u32(NEW_PART, 0x22);
        g.asm.mov(r8, self.at + PART)?;
        g.asm.mov(eax, dword_ptr(r8))?;
        g.asm.mov(dword_ptr(r8 + 4), 0x33)?;
        self.replace_and_flush(g)?;
        g.asm.mov(dword_ptr(r8 + 8), 0x44)?;
        g.asm.mov(ebx, dword_ptr(r8))?;
        g.asm.hlt()
    }

    /// Calls of a part before and after.
    fn code(&self, g: &mut Guest) -> Result<(), IcedError> {
        self.set_up(g);
        g.write(PART, &[0xbe, 1, 0, 0, 0, 0xc3]); // mov esi, 1; ret
        g.write(NEW_PART, &[0xbe, 2, 0, 0, 0, 0xc3]);
        g.asm.mov(r8, self.at + PART)?;
        g.asm.call(r8)?;
        g.asm.mov(edi, esi)?;
        self.replace_and_flush(g)?;
        g.asm.call(r8)?;
        g.asm.hlt()
    }
}

/// What [`Large::data`] leaves: only what came before the flush is in the old frame.
const NEW_DATA: &[Expect] = &[
    Expect::Reg(RAX, 0x11),
    Expect::Reg(RBX, 0x22),
    Expect::Mem32(PART + 4, 0x33),
    Expect::Mem32(PART + 8, 0),
    Expect::Mem32(NEW_PART + 8, 0x44),
];
const NEW_CODE: &[Expect] = &[Expect::Reg(RDI, 1), Expect::Reg(RSI, 2)];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "invlpg drops all data of a page of 2 MiB",
        mode: Mode::Long,
        build: |g| LARGE_2M.data(g),
        expect: NEW_DATA,
    },
    Case {
        name: "invlpg drops all code of a page of 2 MiB",
        mode: Mode::Long,
        build: |g| LARGE_2M.code(g),
        expect: NEW_CODE,
    },
    Case {
        name: "invlpg drops all data of a page of 2 MiB in the upper half",
        mode: Mode::Long,
        build: |g| LARGE_2M.upper().data(g),
        expect: NEW_DATA,
    },
    Case {
        name: "invlpg drops all code of a page of 2 MiB in the upper half",
        mode: Mode::Long,
        build: |g| LARGE_2M.upper().code(g),
        expect: NEW_CODE,
    },
    Case {
        name: "invlpg drops all data of a global page of 2 MiB in the upper half",
        mode: Mode::Long,
        build: |g| LARGE_2M.upper().global().data(g),
        expect: NEW_DATA,
    },
    Case {
        name: "invlpg drops all code of a global page of 2 MiB in the upper half",
        mode: Mode::Long,
        build: |g| LARGE_2M.upper().global().code(g),
        expect: NEW_CODE,
    },
    Case {
        name: "invlpg drops all data of a page of 1 GiB",
        mode: Mode::Long,
        build: |g| LARGE_1G.data(g),
        expect: NEW_DATA,
    },
    Case {
        name: "invlpg drops all code of a global page of 1 GiB in the upper half",
        mode: Mode::Long,
        build: |g| LARGE_1G.upper().global().code(g),
        expect: NEW_CODE,
    },
    Case {
        name: "invlpg drops all data of a page of 4 MiB",
        mode: Mode::Paged32,
        build: |g| {
            g.state.cr4 |= cr4::PSE;
            LARGE_4M.set_up(g);
            g.write_u32(PART, 0x11);
            g.write_u32(NEW_PART, 0x22);
            g.asm.mov(eax, dword_ptr(LARGE_4M.at + PART))?;
            LARGE_4M.replace(&mut g.asm)?;
            g.asm.invlpg(byte_ptr(LARGE_4M.other_part))?;
            g.asm.mov(ebx, dword_ptr(LARGE_4M.at + PART))?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, 0x11), Expect::Reg(RBX, 0x22)],
    },
    Case {
        name: "invpcid drops all of another address space's page of 2 MiB",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 |= cr4::PCIDE;
            LARGE_2M.set_up(g);
            g.write_u32(PART, 0x11);
            g.write_u32(NEW_PART, 0x22);
            g.write_u64(layout::DATA, 1); // the PCID
            g.write_u64(layout::DATA + 8, LARGE_2M.other_part);
            g.asm.mov(rcx, layout::PML4 | 1)?;
            g.asm.mov(cr3, rcx)?;
            g.asm.mov(eax, dword_ptr(LARGE_2M.at + PART))?;
            g.asm.mov(rdx, layout::PML4 | KEEP)?;
            g.asm.mov(cr3, rdx)?;
            LARGE_2M.replace(&mut g.asm)?;
            g.asm.xor(edx, edx)?;
            g.asm.invpcid(rdx, xmmword_ptr(layout::DATA))?;
            g.asm.bts(rcx, 63)?;
            g.asm.mov(cr3, rcx)?;
            g.asm.mov(ebx, dword_ptr(LARGE_2M.at + PART))?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, 0x11), Expect::Reg(RBX, 0x22)],
    },
];
