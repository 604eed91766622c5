//! What single instructions need of their surroundings to do more than fault.

use cpu::x86::{gpr, rflags};
use iced_x86::{Mnemonic as M, OpKind, Register};

use super::draft::Draft;
use super::values;
use crate::layout::{PAGE, STACK};

impl Draft<'_> {
    /// Implied registers, before operands are chosen.
    pub fn arrange_before(&mut self) {
        match self.mnemonic() {
            M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd => {
                let count = if self.rng.percent(60) { self.rng.below(70) } else { self.rng.next() };
                let old = self.regs.gpr[gpr::RCX];
                self.fix(gpr::RCX, (old & !0xff) | (count & 0xff));
            }
            M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz => {
                let count = if self.rng.percent(60) { self.rng.below(3) } else { values::integer(self.rng) };
                self.fix(gpr::RCX, count);
            }
            M::Enter | M::Leave => {
                self.stack_pointer();
                let frame = STACK + PAGE / 4 + self.rng.below(PAGE / 2);
                if self.rng.percent(90) {
                    self.fix(gpr::RBP, frame);
                }
            }
            M::Retf | M::Iret => self.stack_pointer(),
            _ if self.info.is_stack_instruction() => self.stack_pointer(),
            _ => {}
        }
    }

    /// RSP in the stack page: mostly with room around, sometimes at its edges or misaligned.
    fn stack_pointer(&mut self) {
        let value = match self.rng.below(100) {
            0..=69 => STACK + PAGE / 4 + self.rng.below(PAGE / 16) * 8,
            70..=84 => STACK + PAGE / 4 + self.rng.below(PAGE / 2),
            85..=91 => STACK + self.rng.below(40),
            92..=98 => STACK + PAGE - self.rng.below(40),
            _ => self.data_address(8),
        };
        self.fix(gpr::RSP, value);
    }

    /// Values that depend on the operands.
    pub fn arrange_after(&mut self) {
        match self.mnemonic() {
            M::Div | M::Idiv => self.divide(),
            M::Cmpxchg => self.compare_equal(),
            M::Cmpxchg8b | M::Cmpxchg16b => self.compare_equal_wide(),
            M::Bt | M::Bts | M::Btr | M::Btc => self.bit_offset(),
            M::Shld | M::Shrd => self.double_shift_count(),
            M::Enter => {
                let frame = if self.rng.percent(80) { self.rng.below(64) } else { self.rng.next() };
                let level = if self.rng.percent(80) { self.rng.below(4) } else { self.rng.next() };
                self.insn.set_immediate16(frame as u16);
                self.insn.set_immediate8_2nd(level as u8);
            }
            M::Int if self.insn.immediate8() == 0x80 => self.insn.set_immediate8(0x81),
            M::Popf | M::Popfd | M::Popfq => self.flags_image(),
            M::Jmp | M::Call | M::Ret => self.jump_operand(),
            M::Retf => self.far_return(),
            M::Pop => {
                let selector = u64::from(self.selector());
                if self.insn.op0_register().is_segment_register() {
                    let at = self.regs.gpr[gpr::RSP];
                    self.patch(at, &selector.to_le_bytes());
                }
            }
            M::Mov if self.insn.op0_register().is_segment_register() => self.selector_operand(),
            M::Wrfsbase | M::Wrgsbase => {
                let slot = self.insn.op0_register().full_register() as usize - Register::RAX as usize;
                if self.rng.percent(70) {
                    let base = self.rng.below(1 << 47);
                    self.fix(slot, base);
                }
            }
            _ => {}
        }
        if matches!(self.mnemonic(), M::Bound) {
            let low = self.rng.below(1 << 12) as u32;
            let at = self.target.unwrap_or_default();
            let half = self.memory_len() as usize / 2;
            let high = low + self.rng.below(1 << 12) as u32;
            let bytes = [&low.to_le_bytes()[..half], &high.to_le_bytes()[..half]].concat();
            self.patches.clear();
            self.patch(at, &bytes);
            let index = u64::from(low).wrapping_add(self.rng.below(1 << 13)).wrapping_sub(1 << 11);
            self.set_register(0, index);
        }
    }

    /// A LOCK prefix where one is legal.
    pub fn lock(&mut self, split_locks: bool) {
        let memory = self.insn.op0_kind() == OpKind::Memory;
        if self.info.can_use_lock_prefix() && memory && self.rng.percent(40) {
            let len = self.memory_len();
            let split = self.target.is_some_and(|at| at % 64 + len > 64);
            self.insn.set_has_lock_prefix(split_locks || !split);
        }
    }

    /// Sets the register that is operand `n`, unless an address depends on it.
    fn set_register(&mut self, n: u32, value: u64) -> bool {
        let register = self.insn.op_register(n);
        if self.insn.op_kind(n) != OpKind::Register || !register.is_gpr() {
            return false;
        }
        let slot = register.full_register() as usize - Register::RAX as usize;
        let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
        if self.is_fixed(slot) || high {
            return false;
        }
        let mask = u64::MAX >> (64 - register.size() as u32 * 8);
        let old = self.regs.gpr[slot];
        self.fix(slot, (old & !mask) | (value & mask));
        true
    }

    /// The value operand `n` has, a register or patched memory.
    fn value(&self, n: u32, size: usize) -> Option<u64> {
        if self.insn.op_kind(n) == OpKind::Register {
            let register = self.insn.op_register(n);
            let slot = (register.full_register() as usize).checked_sub(Register::RAX as usize)?;
            let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
            let value = self.regs.gpr.get(slot)? >> if high { 8 } else { 0 };
            return Some(value & (u64::MAX >> (64 - size as u32 * 8)));
        }
        let bytes = self.patched(self.target?, size)?;
        let mut word = [0; 8];
        word.get_mut(..size)?.copy_from_slice(&bytes);
        Some(u64::from_le_bytes(word))
    }

    fn operand_size(&self, n: u32) -> usize {
        match self.insn.op_kind(n) {
            OpKind::Register => self.insn.op_register(n).size(),
            _ => self.memory_len() as usize,
        }
    }

    /// A dividend whose quotient fits, in most cases.
    fn divide(&mut self) {
        let size = self.operand_size(0);
        let Some(divisor) = self.value(0, size).filter(|&d| d != 0 && size <= 8) else { return };
        if self.is_fixed(gpr::RAX) || self.is_fixed(gpr::RDX) || self.rng.percent(25) {
            return;
        }
        let bits = size as u32 * 8;
        let dividend: u128 = if self.mnemonic() == M::Div {
            let quotient = values::integer(self.rng) & (u64::MAX >> (64 - bits));
            u128::from(quotient) * u128::from(divisor) + u128::from(self.rng.below(divisor))
        } else {
            let signed = |value: u64| i128::from((value << (64 - bits)) as i64 >> (64 - bits));
            let quotient = signed(values::integer(self.rng));
            let divisor = signed(divisor);
            let rest = self.rng.below(divisor.unsigned_abs() as u64) as i128;
            let product = quotient * divisor;
            (if product < 0 { product - rest } else { product + rest }) as u128
        };
        let (low, high) = (dividend as u64, (dividend >> bits) as u64);
        let mask = u64::MAX >> (64 - bits);
        let (rax, rdx) = (self.regs.gpr[gpr::RAX], self.regs.gpr[gpr::RDX]);
        // The divisor itself must not be one of them.
        let slot = self.insn.op0_register().full_register();
        if matches!(slot, Register::RAX | Register::RDX) {
            return;
        }
        if size == 1 {
            self.fix(gpr::RAX, (rax & !0xffff) | (dividend as u64 & 0xffff));
        } else {
            self.fix(gpr::RAX, (rax & !mask) | (low & mask));
            self.fix(gpr::RDX, (rdx & !mask) | (high & mask));
        }
    }

    fn compare_equal(&mut self) {
        let size = self.operand_size(0);
        if self.rng.percent(50)
            && !self.is_fixed(gpr::RAX)
            && let Some(value) = self.value(0, size)
        {
            let mask = u64::MAX >> (64 - size as u32 * 8);
            let old = self.regs.gpr[gpr::RAX];
            self.fix(gpr::RAX, (old & !mask) | value);
        }
    }

    fn compare_equal_wide(&mut self) {
        let half = self.memory_len() as usize / 2;
        let Some(at) = self.target.filter(|_| self.rng.percent(50)) else { return };
        let low = self.regs.gpr[gpr::RAX].to_le_bytes();
        let high = self.regs.gpr[gpr::RDX].to_le_bytes();
        self.patches.clear();
        self.patch(at, &[&low[..half], &high[..half]].concat());
    }

    /// Bit strings reach beyond the operand: mostly not far.
    fn bit_offset(&mut self) {
        if self.insn.op_kind(0) == OpKind::Memory && self.rng.percent(75) {
            let offset = self.rng.between(-512, 511);
            self.set_register(1, offset as u64);
        }
    }

    /// With 16-bit operands, counts above 16 give undefined results.
    fn double_shift_count(&mut self) {
        if self.operand_size(0) == 2 {
            if self.insn.op_kind(2) == OpKind::Immediate8 {
                let count = self.rng.below(17) as u8 | (self.rng.next() as u8 & 0xe0);
                self.insn.set_immediate8(if count & 31 > 16 { 16 } else { count });
            }
            let rcx = self.regs.gpr[gpr::RCX];
            if rcx & 31 > 16 {
                self.regs.gpr[gpr::RCX] = rcx & !16;
            }
        }
    }

    /// Any flags but TF, whose trap would come before the end.
    fn flags_image(&mut self) {
        let image = self.rng.next() & !rflags::TF;
        let at = self.regs.gpr[gpr::RSP];
        self.patch(at, &image.to_le_bytes());
    }

    fn jump_operand(&mut self) {
        let target = self.jump_target().to_le_bytes();
        if self.mnemonic() == M::Ret {
            let at = self.regs.gpr[gpr::RSP];
            return self.patch(at, &target);
        }
        if self.insn.is_jmp_near_indirect() || self.insn.is_call_near_indirect() {
            match self.insn.op_kind(0) {
                OpKind::Register => {
                    self.set_register(0, u64::from_le_bytes(target));
                }
                _ => {
                    let len = self.memory_len().min(8) as usize;
                    let at = self.target.unwrap_or_default();
                    self.patches.clear();
                    self.patch(at, &target[..len]);
                }
            }
        }
    }

    /// Offset and selector on the stack.
    fn far_return(&mut self) {
        let size = match self.info.operand_size() {
            16 => 2,
            64 => 8,
            _ => 4,
        };
        let target = self.jump_target().to_le_bytes();
        let selector = u64::from(self.selector()).to_le_bytes();
        let at = self.regs.gpr[gpr::RSP];
        self.patch(at, &[&target[..size], &selector[..size]].concat());
    }

    fn selector_operand(&mut self) {
        let selector = self.selector();
        if self.set_register(1, u64::from(selector)) {
            return;
        }
        if let Some(at) = self.target {
            self.patches.clear();
            self.patch(at, &selector.to_le_bytes());
        }
    }
}
