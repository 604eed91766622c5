//! The memory operand: where it is and what it holds.

use cpu::x86::gpr;
use iced_x86::{MemorySize, Mnemonic as M, OpCodeOperandKind as K, OpKind, Register};

use super::draft::Draft;
use super::{fp, values};
use crate::layout::{DATA, PAGE};

impl Draft<'_> {
    /// Bytes the memory operand has; for those without a size, what they touch.
    pub fn memory_len(&self) -> u64 {
        match self.info.memory_size().size() {
            0 => 1,
            n => n as u64,
        }
    }

    /// Makes operand `n` a memory operand.
    pub fn memory_operand(&mut self, n: u32, kind: K) -> Option<()> {
        let size = self.memory_len();
        match kind {
            K::seg_rSI | K::es_rDI | K::seg_rDI => return self.string_operands(),
            K::seg_rBX_al => return self.xlat(n),
            K::mem_vsib32x | K::mem_vsib32y => return self.gather(n, 4, kind == K::mem_vsib32y),
            K::mem_vsib64x | K::mem_vsib64y => return self.gather(n, 8, kind == K::mem_vsib64y),
            _ => {}
        }
        let target = self.data_address(size);
        self.target = Some(target);
        let content = self.content(size as usize);
        self.patch(target, &content);
        self.address_operand(n, kind, target)
    }

    /// A value that suits the operand's type.
    fn content(&mut self, len: usize) -> Vec<u8> {
        let integer = len <= 8 && !self.vector();
        let mnemonic = self.mnemonic();
        let rng = &mut *self.rng;
        let mut bytes = vec![0; len];
        match self.info.memory_size() {
            MemorySize::Float80 => {
                let (high, low) = values::f80(rng);
                bytes[..8].copy_from_slice(&low.to_le_bytes());
                bytes[8..10].copy_from_slice(&high.to_le_bytes());
            }
            MemorySize::Float32 => bytes.copy_from_slice(&values::f32(rng).to_le_bytes()),
            MemorySize::Float64 => bytes.copy_from_slice(&values::f64(rng).to_le_bytes()),
            MemorySize::Bcd => {
                for byte in &mut bytes {
                    *byte = (rng.below(10) | rng.below(10) << 4) as u8;
                }
                if rng.percent(20) {
                    bytes[rng.below(10) as usize] = rng.next() as u8;
                }
            }
            MemorySize::Fxsave_512Byte | MemorySize::Fxsave64_512Byte => {
                bytes = fp::state(rng)[..512].to_vec();
                if rng.percent(15) {
                    bytes[24..28].copy_from_slice(&(rng.next() as u32).to_le_bytes());
                }
                bytes.truncate(256);
            }
            MemorySize::FpuEnv14
            | MemorySize::FpuEnv28
            | MemorySize::FpuState94
            | MemorySize::FpuState108 => {
                let image = fp::state(rng);
                let wide = len == 28 || len == 108;
                rng_fill(rng, &mut bytes);
                let step = if wide { 4 } else { 2 };
                bytes[..2].copy_from_slice(&image[..2]);
                bytes[step..step + 2].copy_from_slice(&image[2..4]);
            }
            MemorySize::UInt32 if matches!(mnemonic, M::Ldmxcsr | M::Vldmxcsr) => {
                let mut value = fp::mxcsr(rng);
                if rng.percent(10) {
                    value = rng.next() as u32;
                }
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64 => {
                let target = self.jump_target().to_le_bytes();
                let selector = self.selector();
                bytes[..len - 2].copy_from_slice(&target[..len - 2]);
                bytes[len - 2..].copy_from_slice(&selector.to_le_bytes());
            }
            _ if len > 64 => rng_fill(rng, &mut bytes),
            _ if integer => {
                let value = values::integer(rng).to_le_bytes();
                bytes.copy_from_slice(&value[..len]);
            }
            _ => values::lanes(rng, &mut bytes),
        }
        bytes
    }

    /// An operand is a vector register.
    fn vector(&self) -> bool {
        (0..self.insn.op_count()).any(|i| {
            let register = self.insn.op_register(i);
            self.insn.op_kind(i) == OpKind::Register && (register.is_vector_register() || register.is_mm())
        })
    }

    /// XLATB: the table so that the entry of AL is at the target.
    fn xlat(&mut self, n: u32) -> Option<()> {
        let target = self.data_address(1);
        let size = if self.form.compat || self.rng.percent(12) { 4 } else { 8 };
        let base = target.wrapping_sub(self.regs.gpr[gpr::RAX] & 0xff);
        self.address_register(gpr::RBX, base, size);
        self.insn.set_op_kind(n, OpKind::Memory);
        self.insn.set_memory_base(if size == 4 { Register::EBX } else { Register::RBX });
        self.insn.set_memory_index(Register::AL);
        Some(())
    }

    /// String instructions, MASKMOVQ and MASKMOVDQU: RSI, RDI, RCX and a repeat prefix.
    fn string_operands(&mut self) -> Option<()> {
        let narrow = self.form.compat || self.rng.percent(12);
        let size = if narrow { 4 } else { 8 };
        for n in 0..self.info.op_count() {
            let kind = match (self.info.op_kind(n), narrow) {
                (K::seg_rSI, true) => OpKind::MemorySegESI,
                (K::seg_rSI, false) => OpKind::MemorySegRSI,
                (K::es_rDI, true) => OpKind::MemoryESEDI,
                (K::es_rDI, false) => OpKind::MemoryESRDI,
                (K::seg_rDI, true) => OpKind::MemorySegEDI,
                (K::seg_rDI, false) => OpKind::MemorySegRDI,
                _ => continue,
            };
            self.insn.set_op_kind(n, kind);
        }
        let len = self.memory_len();
        let (source, destination) = (self.data_address(len), self.data_address(len));
        let overlapping = self.rng.percent(20);
        let source =
            if overlapping { destination.wrapping_add_signed(self.rng.between(-12, 12)) } else { source };
        self.address_register(gpr::RSI, source, size);
        self.address_register(gpr::RDI, destination, size);
        if self.insn.is_string_instruction() {
            if self.rng.percent(40) {
                self.regs.rflags ^= cpu::x86::rflags::DF;
            }
            if self.rng.percent(60) {
                let count = match self.rng.below(100) {
                    0..=69 => self.rng.below(9),
                    70..=89 => self.rng.below(100),
                    90..=97 => self.rng.below(2 * PAGE),
                    _ => values::integer(self.rng),
                };
                self.address_register(gpr::RCX, count, size);
                if self.rng.percent(50) {
                    self.insn.set_has_rep_prefix(true);
                } else {
                    self.insn.set_has_repne_prefix(true);
                }
            }
            // Comparisons that go on for a while.
            if matches!(self.rng.below(3), 0) {
                let value = (values::integer(self.rng) & 0xff).wrapping_mul(0x0101_0101_0101_0101);
                let bytes = [value as u8; 64];
                for target in [source, destination] {
                    self.patch(target.wrapping_sub(32), &bytes);
                }
                self.fix(gpr::RAX, value);
            }
        }
        Some(())
    }

    /// Indices so that every element is somewhere in data, or a few are not.
    fn gather(&mut self, n: u32, index_size: usize, ymm: bool) -> Option<()> {
        let size = if self.form.compat || self.rng.percent(10) { 4 } else { 8 };
        let count = if self.form.compat { 8 } else { 16 };
        let scale = 1u64 << self.rng.below(4);
        let base = self.rng.below(count) as usize;
        let index = self.rng.below(count) as usize;
        let displacement = if self.rng.percent(50) { 0 } else { self.rng.between(-128, 127) };
        let segment = if self.rng.percent(10) && !self.form.compat {
            self.insn.set_segment_prefix(Register::FS);
            self.regs.fs_base
        } else {
            0
        };
        let origin = DATA + self.rng.below(2 * PAGE);
        let base_value = origin.wrapping_sub(displacement as u64).wrapping_sub(segment);
        self.address_register(base, base_value, size);
        let lanes = if ymm { 32 } else { 16 } / index_size;
        for lane in 0..lanes {
            let target =
                if self.rng.percent(93) { DATA + self.rng.below(2 * PAGE - 8) } else { self.data_address(4) };
            let value = (target.wrapping_sub(origin) as i64 / scale as i64) as u64;
            for byte in 0..index_size {
                let at = lane * index_size + byte;
                let place = if at < 16 { 160 + index * 16 + at } else { 576 + index * 16 + at - 16 };
                self.fp[place] = (value >> (byte * 8)) as u8;
            }
        }
        self.insn.set_op_kind(n, OpKind::Memory);
        self.insn.set_memory_base(if size == 8 { Register::RAX } else { Register::EAX } + base as u32);
        self.insn.set_memory_index(if ymm { Register::YMM0 } else { Register::XMM0 } + index as u32);
        self.insn.set_memory_index_scale(scale as u32);
        self.insn.set_memory_displ_size(u32::from(displacement != 0));
        self.insn
            .set_memory_displacement64(displacement as u64 & if size == 8 { u64::MAX } else { 0xffff_ffff });
        Some(())
    }
}

fn rng_fill(rng: &mut crate::rng::Rng, bytes: &mut [u8]) {
    for byte in bytes {
        *byte = rng.next() as u8;
    }
}
