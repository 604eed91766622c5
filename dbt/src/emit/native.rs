//! Instructions that run as they are, with registers and address replaced.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::asm::{Section, at, reg};
use super::{Emitter, spilled};
use crate::frontend::class::Access;
use crate::frontend::parts::Parts;
use reg::{R9, R10, RSI};

impl Emitter<'_> {
    /// Emits the instruction; `None` if it has to be left to the interpreter, with nothing emitted.
    pub fn native(&mut self, insn: &Instruction, bytes: &[u8], access: Option<Access>) -> Option<()> {
        if self.stack_pointer(insn).is_some() {
            return Some(());
        }
        let parts = Parts::new(bytes, insn)?;
        let mut scratch = [None; 2];
        for register in parts.fields.registers().filter(|&r| spilled(r)) {
            if scratch.contains(&Some(register)) {
                continue;
            }
            *scratch.iter_mut().find(|s| s.is_none())? = Some(register);
        }
        match access {
            None => self.registers_only(insn, &parts, scratch),
            Some(access) => self.with_memory(insn, &parts, access, scratch),
        }
    }

    fn registers_only(&mut self, insn: &Instruction, parts: &Parts, scratch: [Option<u8>; 2]) -> Option<()> {
        let hosts = self.scratch_for(scratch);
        let pairs = [(scratch[0], hosts[0]), (scratch[1], hosts[1])];
        let map = |register: u8| pairs.iter().find(|p| p.0 == Some(register)).map_or(register, |p| p.1);
        self.unpark_for(insn);
        for (register, host) in pairs {
            if let Some(register) = register
                && !only_written(insn, register)
            {
                self.load_register(host, register);
            }
        }
        parts.encode(self.asm, map, None)?;
        for (register, host) in pairs {
            if let Some(register) = register
                && changes(insn, register)
            {
                self.store_register(register, host);
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
        let first = self.made.len();
        let mut operand = self.operand(insn, access)?;
        let misaligned = access.aligned.then(|| self.check_alignment(insn, operand, access.size));
        if scratch[0].is_some() {
            operand = self.without_r9(operand);
        }
        self.unpark_for(insn);
        if parts.high_byte {
            // With AH and the like goes no register above RDI; RSI is in no such instruction.
            self.asm.lea(R10, operand);
            self.asm.mov(R9, RSI);
            self.asm.mov(RSI, R10);
            operand = at(RSI, 0);
        }
        let map = |n: u8| if Some(n) == scratch[0] { R9 } else { n };
        if let Some(register) = scratch[0]
            && !only_written(insn, register)
        {
            self.load_register(R9, register);
        }
        parts.encode(self.asm, map, Some(operand))?;
        if parts.high_byte {
            self.asm.mov(RSI, R9);
        }
        if let Some(register) = scratch[0]
            && changes(insn, register)
        {
            self.store_register(register, R9);
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
        if self.stack_pointer(insn).is_some() {
            return Some(());
        }
        let register = insn.op0_register();
        let number = register.full_register().number() as u8;
        match register.size() {
            8 | 4 => {}
            _ => return None,
        }
        let wide = register.size() == 8;
        let to = if spilled(number) { R10 } else { number };
        self.effective_to(to, insn, wide)?;
        if spilled(number) {
            self.store_register(number, to);
        }
        Some(())
    }
}

/// The instruction replaces the whole register, its first operand, whatever that was.
fn only_written(insn: &Instruction, register: u8) -> bool {
    use Mnemonic as M;
    let first = insn.op0_register();
    let others = |n: u32| {
        insn.op_kind(n) == OpKind::Register && insn.op_register(n).full_register() == first.full_register()
    };
    matches!(
        insn.mnemonic(),
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Movd
            | M::Movq
            | M::Vmovd
            | M::Vmovq
            | M::Rorx
            | M::Andn
    ) && insn.op_kind(0) == OpKind::Register
        && (first.is_gpr32() || first.is_gpr64())
        && first.full_register().number() as u8 == register
        && !(1..insn.op_count()).any(others)
}

/// The instruction may change the register, which it names.
fn changes(insn: &Instruction, register: u8) -> bool {
    use Mnemonic as M;
    let names = |n: u32| {
        insn.op_kind(n) == OpKind::Register
            && insn.op_register(n).full_register().number() as u8 == register
            && insn.op_register(n).is_gpr()
    };
    let second = matches!(insn.mnemonic(), M::Xchg | M::Xadd | M::Mulx);
    insn.op_count() > 0 && names(0) && !matches!(insn.mnemonic(), M::Cmp | M::Test | M::Bt)
        || second && insn.op_count() > 1 && names(1)
}
