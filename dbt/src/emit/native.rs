//! Instructions that run as they are, with registers and address replaced.

use iced_x86::Instruction;

use super::asm::{Mem, Section, reg, sum};
use super::memory::OPERAND;
use super::{Emitter, home, spilled};
use crate::frontend::class::Access;
use crate::frontend::parts::Parts;
use crate::runtime::context::field;
use reg::{R9, R10};

impl Emitter<'_> {
    /// Emits the instruction; `None` if it has to be left to the interpreter, with nothing emitted.
    pub fn native(&mut self, insn: &Instruction, bytes: &[u8], access: Option<Access>) -> Option<()> {
        let parts = Parts::new(bytes, insn)?;
        let mut scratch = [None; 2];
        for register in parts.fields.registers().filter(|&r| spilled(r)) {
            if scratch.contains(&Some(register)) {
                continue;
            }
            *scratch.iter_mut().find(|s| s.is_none())? = Some(register);
        }
        match access {
            None => self.registers_only(&parts, scratch),
            Some(access) => self.with_memory(insn, &parts, access, scratch),
        }
    }

    fn registers_only(&mut self, parts: &Parts, scratch: [Option<u8>; 2]) -> Option<()> {
        let pairs = [(scratch[0], R9), (scratch[1], R10)];
        for (register, host) in pairs {
            if let Some(register) = register {
                self.asm.load(host, Mem::Gs(field::reg(register)));
            }
        }
        let map = |register: u8| {
            pairs.iter().find(|p| p.0 == Some(register)).map_or_else(|| home(register), |p| p.1)
        };
        parts.encode(self.asm, map, None)?;
        for (register, host) in pairs {
            if let Some(register) = register {
                self.asm.store(Mem::Gs(field::reg(register)), host);
            }
        }
        Some(())
    }

    fn with_memory(
        &mut self,
        insn: &Instruction,
        parts: &Parts,
        access: Access,
        scratch: [Option<u8>; 2],
    ) -> Option<()> {
        if scratch[1].is_some() || !parts.takes_memory() {
            return None;
        }
        self.address(insn)?;
        let first = self.made.len();
        self.check(insn, access);
        let misaligned = access.aligned.then(|| self.check_alignment(insn, access.size));
        match scratch[0] {
            None => parts.encode(self.asm, home, Some(OPERAND))?,
            Some(register) => {
                self.asm.lea(R10, sum(R10, R9));
                self.asm.load(R9, Mem::Gs(field::reg(register)));
                let map = |n: u8| if n == register { R9 } else { home(n) };
                let operand = Mem::At { base: Some(R10), index: None, scale: 0, disp: 0 };
                parts.encode(self.asm, map, Some(operand))?;
                self.asm.store(Mem::Gs(field::reg(register)), R9);
            }
        }
        debug_assert_eq!(self.asm.section(), Section::Hot);
        self.sites_end(first);
        if let Some(operation) = misaligned {
            self.continue_at(operation);
        }
        Some(())
    }

    /// LEA.
    pub fn lea(&mut self, insn: &Instruction) -> Option<()> {
        let register = insn.op0_register();
        let number = register.full_register().number() as u8;
        match register.size() {
            8 | 4 => {}
            _ => return None,
        }
        self.effective(insn)?;
        let wide = register.size() == 8;
        let to = if spilled(number) { R10 } else { home(number) };
        if wide && to != R10 {
            self.asm.mov(to, R10);
        } else if !wide {
            self.asm.mov32(to, R10);
        }
        if spilled(number) {
            self.asm.store(Mem::Gs(field::reg(number)), R10);
        }
        Some(())
    }
}
