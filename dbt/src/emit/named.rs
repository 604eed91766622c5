//! Operands whose address the instruction itself names. Which page that is depends on nothing but where the code page is
//! mapped, so one comparison of pages is the whole check, and the place in the page is a constant.

use iced_x86::{Instruction, Register};

use super::Emitter;
use super::asm::{Mem, Section, Target, at, cond, reg, sum};
use crate::analysis::stack;
use crate::cache::site::Pair;
use crate::cache::tlb::{Place, table};
use crate::frontend::class::Access;
use crate::frontend::code32;
use crate::runtime::context::field;
use reg::{R9, R10, RCX};

const PAGE: i32 = 4096;

/// The instruction itself names the address of its operand.
pub fn is_named(insn: &Instruction) -> bool {
    stack::has_operand(insn)
        && insn.memory_index() == Register::None
        && matches!(insn.memory_base(), Register::RIP | Register::None)
}

/// What the address is, from the first byte of the code page for operands relative to RIP. `None` if it is less constant
/// than that, or the operand lies in two pages.
fn distance(insn: &Instruction, access: Access) -> Option<Distance> {
    if !is_named(insn) || matches!(insn.memory_segment(), Register::FS | Register::GS) {
        return None;
    }
    let displacement = insn.memory_displacement64();
    let distance = match i32::try_from(displacement as i64) {
        Ok(distance) => Distance { low: distance, far: false },
        Err(_) if code32::is(insn) => Distance { low: displacement as i32, far: true },
        Err(_) => return None,
    };
    let inside = distance.low & (PAGE - 1) <= PAGE - i32::from(access.size);
    (inside && (distance.far || distance.low >= i32::MIN + PAGE)).then_some(distance)
}

/// How far an operand is away; `far`: beyond 2 GiB, an address of 32-bit code.
#[derive(Debug, Clone, Copy)]
struct Distance {
    low: i32,
    far: bool,
}

impl Emitter<'_> {
    /// The checked operand, if the instruction names its address, in one page. Clobbers R9 and R10, and flags that are dead
    /// or put aside.
    pub fn named(&mut self, insn: &Instruction, access: Access) -> Option<Mem> {
        let Distance { low: distance, far } = distance(insn, access)?;
        let (offset, page) = (distance & (PAGE - 1), distance & -PAGE);
        let relative = insn.is_ip_rel_memory_operand();
        let keeps = self.live && !self.parked;
        self.parked |= keeps;
        let site = self.site(insn, access);
        self.parked &= !keeps;
        let table = table(self.kind, access.store);
        let from = relative.then_some(self.page);
        let shared = self.sites.shared(Place { from, page, far, table });
        let pair = self.sites.pair(shared);
        let (neg_page, host) = (Mem::Data(pair + Pair::NEG_PAGE as u64), Mem::Data(pair + Pair::HOST as u64));
        let lin = self.lin_word();
        let asm = &mut *self.asm;
        // The sum of where the page is and minus where the site was last is zero if these are the same.
        let miss = if keeps {
            asm.mov(R9, RCX);
            asm.load(RCX, neg_page);
            if relative {
                asm.load(R10, lin);
                asm.lea(RCX, Mem::At { base: Some(RCX), index: Some(R10), scale: 0, disp: page });
            } else if far {
                asm.imm32(R10, page as u32);
                asm.lea(RCX, sum(RCX, R10));
            } else {
                asm.lea(RCX, at(RCX, page));
            }
            asm.jump_unless_zero(Target::Fixed(0))
        } else {
            asm.load(R10, neg_page);
            if relative {
                asm.add(R10, lin);
            }
            if far {
                asm.imm32(R9, page as u32);
                asm.lea(R10, sum(R10, R9));
                asm.test_reg(R10, true);
            } else if !relative || page != 0 {
                asm.cmp_imm(R10, -page);
            }
            asm.jcc(cond::NOT_EQUAL, Target::Fixed(0))
        };
        asm.load(R9, host);
        let resume = Target::Here(asm.here());
        self.aside(miss, |e| {
            e.park();
            if relative {
                e.asm.load(R10, lin);
                e.asm.lea(R10, at(R10, distance));
            } else if far {
                e.asm.imm32(R10, distance as u32);
            } else {
                e.asm.imm(R10, distance);
            }
            e.asm.add(R10, neg_page);
            e.asm.lea(R9, Mem::Data(pair));
            e.asm.store_imm32(Mem::Gs(field::ARGUMENT), site);
            let stub = e.stubs.access[table][access.size.trailing_zeros() as usize];
            let _ = e.asm.call(Target::Fixed(stub));
            if keeps {
                e.unpark();
            }
            e.asm.lea(R9, sum(R9, R10));
            e.asm.lea(R9, at(R9, -offset));
            let _ = e.asm.jmp(resume);
        });
        debug_assert_eq!(self.asm.section(), Section::Hot);
        Some(at(R9, offset))
    }
}
