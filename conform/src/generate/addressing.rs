//! Base, index, scale, displacement and segment for a wanted linear address.

use iced_x86::{OpCodeOperandKind as K, OpKind, Register};

use super::draft::Draft;
use super::values;

/// How an address is formed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Base,
    BaseIndex,
    Index,
    Absolute,
    RipRelative,
}

impl Draft<'_> {
    /// Bytes of addresses for the memory operand.
    fn address_size(&mut self) -> u32 {
        match (self.form.compat, self.rng.below(100)) {
            (true, 0..=4) => 2,
            (true, _) | (false, 0..=11) => 4,
            (false, _) => 8,
        }
    }

    /// A segment override for the memory operand, and the base it adds.
    fn segment(&mut self) -> u64 {
        let (register, base) = match self.rng.below(100) {
            0..=7 => (Register::FS, self.regs.fs_base),
            8..=14 => (Register::GS, self.regs.gs_base),
            15 => (Register::ES, 0),
            16 => (Register::CS, 0),
            17 => (Register::SS, 0),
            18 => (Register::DS, 0),
            _ => return 0,
        };
        self.insn.set_segment_prefix(register);
        base
    }

    /// Makes operand `n` a memory operand at linear address `target`; `None` if registers with fixed values stand
    /// in the way.
    pub fn address_operand(&mut self, n: u32, kind: K, target: u64) -> Option<()> {
        self.insn.set_op_kind(n, OpKind::Memory);
        let offset = target.wrapping_sub(self.segment());
        if kind == K::mem_offs {
            return self.direct_offset(offset);
        }
        let size = self.address_size();
        if size == 2 {
            return self.sixteen_bits(offset);
        }
        let shape = match self.rng.below(100) {
            0..=44 => Shape::Base,
            45..=74 => Shape::BaseIndex,
            75..=81 => Shape::Index,
            82..=86 => Shape::Absolute,
            _ if self.form.compat => Shape::Base,
            _ => Shape::RipRelative,
        };
        match shape {
            Shape::RipRelative => self.rip_relative(offset, size),
            Shape::Absolute => self.absolute(offset, size),
            _ => self.registers(shape, offset, size),
        }
    }

    /// MOV with an absolute address in place of ModRM.
    fn direct_offset(&mut self, offset: u64) -> Option<()> {
        let size = self.address_size();
        let offset = truncate(offset, size);
        self.insn.set_memory_displ_size(size);
        self.insn.set_memory_displacement64(offset);
        Some(())
    }

    fn rip_relative(&mut self, offset: u64, size: u32) -> Option<()> {
        let distance = truncate(offset, size).wrapping_sub(self.at) as i64;
        i32::try_from(distance).ok().filter(|d| d.unsigned_abs() < 0x7fff_ff00)?;
        self.insn.set_memory_base(if size == 8 { Register::RIP } else { Register::EIP });
        self.insn.set_memory_displ_size(size);
        self.insn.set_memory_displacement64(truncate(offset, size));
        Some(())
    }

    fn absolute(&mut self, offset: u64, size: u32) -> Option<()> {
        let offset = truncate(offset, size);
        if size == 8 && i64::from(offset as i32) as u64 != offset {
            return None;
        }
        self.insn.set_memory_displ_size(size);
        self.insn.set_memory_displacement64(offset);
        Some(())
    }

    /// BX or BP, SI or DI: offsets below 64 KiB, where nothing is mapped.
    fn sixteen_bits(&mut self, offset: u64) -> Option<()> {
        let base = self.rng.pick(&[Register::BX, Register::BP, Register::None]);
        let index = self.rng.pick(&[Register::SI, Register::DI, Register::None]);
        self.insn.set_memory_base(base);
        self.insn.set_memory_index(index);
        self.insn.set_memory_displ_size(2);
        self.insn.set_memory_displacement64(offset & 0xffff);
        Some(())
    }

    fn registers(&mut self, shape: Shape, offset: u64, size: u32) -> Option<()> {
        let count = if self.form.compat { 8 } else { 16 };
        let base = (shape != Shape::Index).then(|| self.rng.below(count) as usize);
        // RSP is no index.
        let index = (shape != Shape::Base).then(|| self.rng.below(count) as usize).filter(|&i| i != 4);
        let unknown = |register: Option<usize>| register.is_some_and(|r| self.written >> r & 1 != 0);
        if unknown(base) || unknown(index) {
            return None;
        }
        let scale = if index.is_some() { 1u64 << self.rng.below(4) } else { 1 };
        let index_value = match index {
            Some(i) if self.is_fixed(i) => self.regs.gpr[i],
            Some(_) if self.rng.percent(50) => self.rng.below(4096),
            Some(_) => values::integer(self.rng),
            None => 0,
        };
        let (displacement, base_value) = match base {
            // Both are the same register: what it is multiplied with must leave a displacement.
            Some(b) if Some(b) == index => {
                let value = if self.is_fixed(b) { self.regs.gpr[b] } else { self.rng.below(0x1000_0000) };
                (fits(offset.wrapping_sub(value.wrapping_mul(scale + 1)), size)?, value)
            }
            Some(b) if !self.is_fixed(b) => {
                let displacement = self.displacement();
                let rest =
                    offset.wrapping_sub(index_value.wrapping_mul(scale)).wrapping_sub(displacement as u64);
                (displacement, rest)
            }
            Some(b) => {
                let value = self.regs.gpr[b];
                let rest = offset.wrapping_sub(value).wrapping_sub(index_value.wrapping_mul(scale));
                (fits(rest, size)?, value)
            }
            None => (fits(offset.wrapping_sub(index_value.wrapping_mul(scale)), size)?, 0),
        };
        let (first, full) = if size == 8 { (Register::RAX, 8) } else { (Register::EAX, 4) };
        if let Some(i) = index {
            let value = if Some(i) == base { base_value } else { index_value };
            self.address_register(i, value, size);
            self.insn.set_memory_index(first + i as u32);
            self.insn.set_memory_index_scale(scale as u32);
        }
        if let Some(b) = base {
            self.address_register(b, base_value, size);
            self.insn.set_memory_base(first + b as u32);
        }
        let short = i8::try_from(displacement).is_ok() && self.rng.percent(70);
        let none = displacement == 0 && base.is_some() && self.rng.percent(80);
        self.insn.set_memory_displ_size(if none {
            0
        } else if short && base.is_some() {
            1
        } else {
            full
        });
        self.insn
            .set_memory_displacement64(displacement as u64 & if size == 8 { u64::MAX } else { 0xffff_ffff });
        Some(())
    }

    fn displacement(&mut self) -> i64 {
        match self.rng.below(4) {
            0 => 0,
            1 | 2 => self.rng.between(-128, 127),
            _ => i64::from(self.rng.next() as i32),
        }
    }

    /// Sets a register for an address of `size` bytes; what is above does not count and is garbage.
    pub fn address_register(&mut self, register: usize, value: u64, size: u32) {
        if self.is_fixed(register) {
            return;
        }
        let garbage = if size == 4 && self.rng.percent(60) { self.rng.next() << 32 } else { 0 };
        let value = if size == 4 { (value & 0xffff_ffff) | garbage } else { value };
        self.fix(register, value);
    }
}

fn truncate(value: u64, size: u32) -> u64 {
    if size == 8 { value } else { value & 0xffff_ffff }
}

/// A displacement that is sign-extended to the address size.
fn fits(value: u64, size: u32) -> Option<i64> {
    let short = i64::from(value as i32);
    (size == 4 || short as u64 == value).then_some(short)
}
