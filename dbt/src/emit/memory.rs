//! Memory operands: the linear address, the check of its page, and what happens on a miss.
//!
//! The check compares with the page that the site touched last. Where flags are dead that is an addition and a
//! comparison; where they are live, address and page are subtracted and masked by instructions that leave flags alone.

use iced_x86::{Instruction, OpKind, Register};

use super::asm::{Mem, Section, Target, at, cond, reg, sum};
use super::{Emitter, home, spilled};
use crate::cache::site::Pair;
use crate::cache::tlb::{INDEX, table};
use crate::frontend::class::Access;
use crate::runtime::context::{Left, field};
use reg::{R9, R10, R11, RCX};

/// The checked operand.
pub const OPERAND: Mem = Mem::At { base: Some(R10), index: Some(R9), scale: 0, disp: 0 };

impl Emitter<'_> {
    /// R10 becomes the linear address of the memory operand; R9 is clobbered. `None` if the form is too rare to care.
    pub fn address(&mut self, insn: &Instruction) -> Option<()> {
        self.effective(insn)?;
        let base = match insn.memory_segment() {
            Register::FS => field::FS_BASE,
            Register::GS => field::GS_BASE,
            _ => return Some(()),
        };
        self.asm.load(R9, Mem::Gs(base));
        self.asm.lea(R10, sum(R10, R9));
        Some(())
    }

    /// R10 becomes the effective address.
    pub fn effective(&mut self, insn: &Instruction) -> Option<()> {
        let (base, index) = (insn.memory_base(), insn.memory_index());
        if insn.is_ip_rel_memory_operand() {
            if base != Register::RIP {
                return None;
            }
            let disp = i32::try_from(insn.memory_displacement64() as i64).ok()?;
            self.asm.load(R10, self.lin_word());
            self.asm.lea(R10, at(R10, disp));
            return Some(());
        }
        let narrow = base.is_gpr32() || index.is_gpr32() || insn.memory_displ_size() == 4 && base == index;
        let displacement = insn.memory_displacement64();
        let disp = if narrow { displacement as i32 } else { i32::try_from(displacement as i64).ok()? };
        let mut locate = |register: Register, scratch: u8| {
            if register == Register::None {
                return Some(None);
            }
            if !register.is_gpr() {
                return None;
            }
            let number = register.full_register().number() as u8;
            Some(Some(if spilled(number) {
                self.asm.load(scratch, Mem::Gs(field::reg(number)));
                scratch
            } else {
                home(number)
            }))
        };
        let base = locate(base, R10)?;
        let index = locate(index, R9)?;
        let scale = insn.memory_index_scale().trailing_zeros() as u8;
        let mem = Mem::At { base, index, scale, disp };
        if narrow {
            self.asm.lea32(R10, mem);
        } else {
            self.asm.lea(R10, mem);
        }
        Some(())
    }

    /// Checks the access at R10. Behind it R9 plus R10 is the host address. Flags survive if they are live.
    pub fn check(&mut self, insn: &Instruction, access: Access) {
        let site = self.sites.add();
        self.describe(site, insn, access);
        let pair = self.sites.pair(site);
        let table = table(self.kind, access.store);
        let most = 4096 - i32::from(access.size);
        if !self.live && !steady(insn) {
            return self.check_by_table(pair, table, most);
        }
        let field = |offset: i32| Mem::Data(pair + offset as u64);
        let asm = &mut *self.asm;
        let miss = if self.live {
            asm.mov(R9, RCX);
            asm.load(RCX, field(Pair::NEG_PAGE));
            asm.lea(R10, sum(R10, RCX));
            asm.imm(RCX, -4096 | i32::from(access.size - 1));
            asm.pext(RCX, R10, RCX);
            let hit = asm.jrcxz();
            let miss = asm.jmp(Target::Fixed(0));
            asm.bind_short(hit);
            asm.mov(RCX, R9);
            miss
        } else {
            asm.add(R10, field(Pair::NEG_PAGE));
            asm.cmp_imm(R10, most);
            asm.jcc(cond::ABOVE, Target::Fixed(0))
        };
        asm.load(R9, field(Pair::HOST));
        let resume = Target::Here(asm.here());
        asm.switch(Section::Cold);
        asm.bind(miss);
        if self.live {
            asm.mov(RCX, R9);
        }
        self.note_x87_aside();
        let asm = &mut *self.asm;
        asm.lea(R9, Mem::Data(pair));
        let stub = self.stubs.access[usize::from(self.live)][table][access.size.trailing_zeros() as usize];
        let _ = asm.call(Target::Fixed(stub));
        let _ = asm.jmp(resume);
        asm.switch(Section::Hot);
    }

    /// The same by the first-level TLB itself: for addresses that go from page to page it is cheaper than a site, and it is
    /// in the caches where the sites of a large program are not.
    fn check_by_table(&mut self, pair: u64, table: usize, most: i32) {
        let entry = |offset: i32| Mem::GsAt(R9, field::table(table) + offset as u32);
        let asm = &mut *self.asm;
        asm.mov32(R9, R10);
        asm.shr32(R9, 8);
        asm.and_imm32(R9, INDEX);
        asm.add(R10, entry(Pair::NEG_PAGE));
        asm.cmp_imm(R10, most);
        let miss = asm.jcc(cond::ABOVE, Target::Fixed(0));
        asm.load(R9, entry(Pair::HOST));
        let resume = Target::Here(asm.here());
        asm.switch(Section::Cold);
        asm.bind(miss);
        asm.sub(R10, entry(Pair::NEG_PAGE));
        self.note_x87_aside();
        let asm = &mut *self.asm;
        asm.lea(R9, Mem::Data(pair));
        let _ = asm.call(Target::Fixed(self.stubs.exits[Left::Access as usize]));
        let _ = asm.jmp(resume);
        asm.switch(Section::Hot);
    }

    /// The instruction wants an address that is a multiple of its operand's size; R9 and R10 are as `check` left them.
    /// Gives the operation that raises the fault.
    pub fn check_alignment(&mut self, insn: &Instruction, size: u8) -> usize {
        if self.live {
            // R9 plus R10 is wanted afterwards, and RCX has to be kept too.
            let asm = &mut *self.asm;
            asm.lea(R10, sum(R10, R9));
            asm.mov(R9, RCX);
            asm.imm(RCX, i32::from(size - 1));
            asm.pext(RCX, R10, RCX);
            let fine = asm.jrcxz();
            let wrong = asm.jmp(Target::Fixed(0));
            asm.bind_short(fine);
            asm.mov(RCX, R9);
            asm.imm(R9, 0);
            self.cold_operation(insn, true, wrong)
        } else {
            self.asm.test8(R10, size - 1);
            let wrong = self.asm.jcc(cond::NOT_EQUAL, Target::Fixed(0));
            self.cold_operation(insn, false, wrong)
        }
    }

    fn describe(&mut self, site: u32, insn: &Instruction, access: Access) {
        let place = (insn.ip() as u16, insn.len() as u8);
        self.sites.describe(site, self.page, place, (access.size, access.store));
        self.made.push((site, None));
    }

    /// Sites made since `first` continue here.
    pub fn sites_end(&mut self, first: usize) {
        let here = self.asm.here();
        for (_, place) in &mut self.made[first..] {
            *place = Some(here);
        }
    }

    /// `lea rsp, [rsp + change]` of the guest.
    pub fn move_stack(&mut self, change: i32) {
        self.asm.lea(R11, at(R11, change));
    }
}

/// The address stays on its page from one execution to the next, most likely: the stack's top, and addresses that the
/// instruction itself names.
fn steady(insn: &Instruction) -> bool {
    let explicit = (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory);
    let base = insn.memory_base();
    !explicit
        || insn.memory_index() == Register::None
            && matches!(base, Register::RSP | Register::RIP | Register::None)
}
