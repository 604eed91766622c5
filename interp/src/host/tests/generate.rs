//! Random instructions of every form, and random register contents.

use iced_x86::{
    Code, CpuidFeature as C, Encoder, EncodingKind, Instruction, OpCodeOperandKind as K, OpKind, Register,
};

/// A small generator (xorshift64*), seeded per test so that failures repeat.
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    /// Sixteen bytes: integers, or floating-point numbers of one of the widths with many special values.
    pub fn lanes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        match self.below(4) {
            0 => bytes.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&self.next().to_le_bytes())),
            1 => bytes.chunks_exact_mut(4).for_each(|c| c.copy_from_slice(&self.single().to_le_bytes())),
            2 => bytes.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&self.double().to_le_bytes())),
            _ => bytes.chunks_exact_mut(2).for_each(|c| c.copy_from_slice(&self.small().to_le_bytes())),
        }
        bytes
    }

    fn small(&mut self) -> u16 {
        [0, 1, 0x7fff, 0x8000, 0xffff, self.next() as u16, self.next() as u16, 0xff][self.below(8) as usize]
    }

    fn single(&mut self) -> u32 {
        let sign = (self.next() as u32) & 0x8000_0000;
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7f80_0000,
            2 => 0x7fc0_0000 | self.next() as u32 & 0x3f_ffff,
            3 => 0x7f80_0001 | self.next() as u32 & 0x3f_ffff,
            4 => self.next() as u32 & 0x7f_ffff,
            5 => 0x7f7f_ffff,
            6 => 0x0080_0000 | self.next() as u32 & 0xff,
            7 => (self.below(2000) as f32).to_bits(),
            _ => 0x3f00_0000 + (self.next() as u32 & 0x1ff_ffff),
        }
    }

    fn double(&mut self) -> u64 {
        let sign = self.next() & 1 << 63;
        let mantissa = self.next() & ((1 << 52) - 1);
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7ff << 52,
            2 => 0x7ff << 52 | 1 << 51 | mantissa,
            3 => 0x7ff << 52 | (mantissa >> 2) | 1,
            4 => mantissa,
            5 => (0x7ff << 52) - 1,
            6 => 1 << 52 | mantissa & 0xff,
            7 => (self.below(5000) as f64).to_bits(),
            _ => (0x3fd + self.below(6)) << 52 | mantissa,
        }
    }

    /// An x87 register.
    pub fn extended(&mut self) -> [u8; 10] {
        let sign = (self.next() as u16) & 0x8000;
        let mantissa = self.next();
        let integer = 1 << 63;
        let (exponent, mantissa) = match self.below(14) {
            0 => (0, 0),
            1 => (0x7fff, integer),
            2 => (0x7fff, integer | 1 << 62 | mantissa),
            3 => (0x7fff, integer | (mantissa >> 2) | 1),
            4 => (0, mantissa >> 1),
            5 => (0, mantissa | integer),
            6 => (0x3fff + self.below(8) as u16, mantissa & !integer),
            7 => (0x7ffe, mantissa | integer),
            8 => (1, mantissa | integer),
            9 => (0x3fff + self.below(20) as u16, integer | (mantissa & 0xfff) << 48),
            _ => (0x3ff8 + self.below(16) as u16, mantissa | integer),
        };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
        bytes[8..].copy_from_slice(&(exponent | sign).to_le_bytes());
        bytes
    }
}

const FEATURES: [C; 29] = [
    C::ADX,
    C::AES,
    C::AVX,
    C::AVX2,
    C::BMI1,
    C::BMI2,
    C::CMOV,
    C::F16C,
    C::FMA,
    C::FPU,
    C::FPU287,
    C::FPU387,
    C::GFNI,
    C::LZCNT,
    C::MMX,
    C::PCLMULQDQ,
    C::POPCNT,
    C::RDRAND,
    C::RDSEED,
    C::SHA,
    C::SSE,
    C::SSE2,
    C::SSE3,
    C::SSE4_1,
    C::SSE4_2,
    C::SSSE3,
    C::VAES,
    C::VPCLMULQDQ,
    C::FXSR,
];

/// Every form whose result depends on registers and one memory operand only, in 64-bit mode. `features` of a form
/// say which CPUs have it.
pub(super) fn forms() -> Vec<Code> {
    Code::values()
        .filter(|code| {
            let op = code.op_code();
            let features = code.cpuid_features();
            op.is_instruction()
                && op.mode64()
                && matches!(op.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
                && !features.is_empty()
                && features.iter().all(|f| FEATURES.contains(f))
                && features.iter().any(|f| *f != C::CMOV)
                && !special(*code)
        })
        .collect()
}

/// What is tested by name, or does not compute.
fn special(code: Code) -> bool {
    use iced_x86::Mnemonic as M;
    matches!(
        code.mnemonic(),
        M::Fldenv
            | M::Fnstenv
            | M::Fstenv
            | M::Frstor
            | M::Fnsave
            | M::Fsave
            | M::Fstcw
            | M::Fstsw
            | M::Fclex
            | M::Finit
            | M::Feni
            | M::Fdisi
            | M::Fsetpm
            | M::Fxsave
            | M::Fxrstor
            | M::Fxsave64
            | M::Fxrstor64
            | M::Rdrand
            | M::Rdseed
            | M::Ldmxcsr
            | M::Vldmxcsr
            | M::Fldcw
            | M::Wait
            | M::Maskmovq
            | M::Maskmovdqu
            | M::Vmaskmovdqu
            | M::Lfence
            | M::Mfence
            | M::Sfence
            | M::Movnti
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Pause
    ) || (0..code.op_code().op_count()).any(|n| {
        matches!(code.op_code().op_kind(n), K::mem_vsib32x | K::mem_vsib32y | K::mem_vsib64x | K::mem_vsib64y)
    })
}

/// General registers for operands: not RSP, and not RBX, which addresses memory.
const GENERAL: [u32; 14] = [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The bytes of a random instance of a form. `memory`: whether an operand that may be memory is.
pub(super) fn instance(code: Code, random: &mut Random, memory: bool) -> (Vec<u8>, Instruction) {
    let op = code.op_code();
    let mut insn = Instruction::default();
    insn.set_code(code);
    for n in 0..op.op_count() {
        let general = GENERAL[random.below(14) as usize];
        let vector = random.below(16) as u32;
        let set = |insn: &mut Instruction, register: Register| {
            insn.set_op_kind(n, OpKind::Register);
            insn.set_op_register(n, register);
        };
        let kind = op.op_kind(n);
        let either = matches!(
            kind,
            K::xmm_or_mem
                | K::ymm_or_mem
                | K::mm_or_mem
                | K::r8_or_mem
                | K::r16_or_mem
                | K::r32_or_mem
                | K::r64_or_mem
        );
        if kind == K::mem || (either && memory) {
            insn.set_op_kind(n, OpKind::Memory);
            insn.set_memory_base(Register::RBX);
            continue;
        }
        match kind {
            K::xmm_reg | K::xmm_vvvv | K::xmm_rm | K::xmm_is4 | K::xmm_or_mem => {
                set(&mut insn, Register::XMM0 + vector);
            }
            K::ymm_reg | K::ymm_vvvv | K::ymm_rm | K::ymm_is4 | K::ymm_or_mem => {
                set(&mut insn, Register::YMM0 + vector);
            }
            K::mm_reg | K::mm_rm | K::mm_or_mem => set(&mut insn, Register::MM0 + vector % 8),
            K::r8_or_mem => {
                let high = [Register::AH, Register::CH, Register::DH][random.below(3) as usize];
                let rex = code == Code::Crc32_r64_rm8 || random.below(2) == 0;
                set(&mut insn, if rex { Register::AL } else { high });
            }
            K::r16_reg | K::r16_or_mem | K::r16_rm => set(&mut insn, Register::AX + general),
            K::r32_reg if code == Code::Crc32_r32_rm8 => {
                set(&mut insn, Register::EAX + GENERAL[random.below(6) as usize])
            }
            K::r32_reg | K::r32_or_mem | K::r32_rm | K::r32_vvvv => set(&mut insn, Register::EAX + general),
            K::r64_reg | K::r64_or_mem | K::r64_rm | K::r64_vvvv => set(&mut insn, Register::RAX + general),
            K::st0 => set(&mut insn, Register::ST0),
            K::sti_opcode => set(&mut insn, Register::ST0 + vector % 8),
            K::ax => set(&mut insn, Register::AX),
            K::imm8 => {
                insn.set_op_kind(n, OpKind::Immediate8);
                insn.set_immediate8(random.next() as u8);
            }
            other => panic!("{code:?} has an operand of kind {other:?}"),
        }
    }
    let mut encoder = Encoder::new(64);
    encoder.encode(&insn, 0).unwrap_or_else(|e| panic!("{code:?}: {e}"));
    (encoder.take_buffer(), insn)
}
