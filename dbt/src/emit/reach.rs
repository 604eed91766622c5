//! Accesses that follow another one by the same registers: what its look-up left in the scratch registers, the page and the
//! offset there, serves them as well. Whoever comes back from elsewhere in between brings an offset that none of them takes.

use iced_x86::Instruction;

use super::Emitter;
use super::asm::{Mem, Target, at, cond, reg};
use super::memory::CHECKED;
use crate::analysis::reach::{Form, Role, form, near};
use crate::cache::tlb::table;
use crate::frontend::class::Access;
use reg::{R9, R10};

/// No offset in a page, and at no distance from one that an access may have from another.
pub const BEYOND: i32 = i32::MIN;

/// What a look-up left: R9 is a page of the host's less the guest's, R10 the offset there.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    form: Form,
    disp: i32,
    store: bool,
}

impl Emitter<'_> {
    /// What the scratch registers hold, if it is that.
    pub fn reach(&self) -> Option<Reach> {
        self.reach.filter(|_| self.keeps(R9) && self.keeps(R10))
    }

    /// The checked operand, if its page has just been looked up for an access near it.
    pub fn follow(&mut self, insn: &Instruction, access: Access) -> Option<Mem> {
        let (reach, (form, disp)) = (self.reach()?, form(insn)?);
        let distance =
            near(reach.disp, disp).filter(|_| reach.form == form && reach.store >= access.store)?;
        self.park();
        let site = self.site(insn, access);
        let most = 4096 - i32::from(access.size);
        if distance != 0 {
            self.asm.lea(R10, at(R10, distance));
        }
        self.asm.cmp_imm(R10, most);
        let beyond = self.asm.jcc(cond::ABOVE, Target::Fixed(0));
        let resume = Target::Here(self.asm.here());
        let table = table(self.kind, reach.store);
        self.aside(beyond, |e| {
            // Both registers are where the guest's are.
            let _ = e.address(insn);
            let miss = e.asm.look_up(table, most);
            let _ = e.asm.jmp(resume);
            e.asm.bind(miss);
            e.asm.call_noting(e.stubs.miss[table], site);
            let _ = e.asm.jmp(resume);
        });
        self.reaches(Reach { disp, ..reach });
        Some(CHECKED)
    }

    /// Looks the page of the address in R10 up, which is the instruction's, for those behind it as well if there are any.
    pub fn look_up_for_all(&mut self, insn: &Instruction, access: Access) {
        let Role { leads, stores } = self.role;
        let store = access.store || stores;
        self.check_by(insn, access, table(self.kind, store));
        if let Some((form, disp)) = form(insn).filter(|_| leads) {
            self.reaches(Reach { form, disp, store });
        }
    }

    fn reaches(&mut self, reach: Reach) {
        self.held = [None; 2];
        self.asm.written &= !(1 << R9 | 1 << R10);
        self.reach = Some(reach).filter(|_| self.role.leads);
    }
}
