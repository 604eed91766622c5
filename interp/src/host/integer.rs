//! The commonest integer operations on XMM registers, all of SSE2, without a stub: legacy and VEX.128 encodings.
// UNSAFETY: loads memory operands through pointers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use iced_x86::{EncodingKind, Mnemonic};

use super::memory::copy16;
use crate::cpu::Cpu;
use crate::decode::{Lowering, register};
use crate::op::{Done, Op, Threaded, threaded};

/// `dst = first OP second`: `dst`, `src` and `aux` (or memory).
trait Compute {
    fn compute(first: __m128i, second: __m128i) -> __m128i;
}

/// Handlers in the order legacy, VEX; registers, memory.
type Handlers = [[Threaded; 2]; 2];

fn handlers<C: Compute>() -> Handlers {
    [
        [threaded(run::<C, false, false>), threaded(run::<C, false, true>)],
        [threaded(run::<C, true, false>), threaded(run::<C, true, true>)],
    ]
}

macro_rules! operations {
    ($($legacy:ident $vex:ident $intrinsic:ident;)*) => {
        $(
            struct $legacy;
            impl Compute for $legacy {
                #[inline(always)]
                fn compute(first: __m128i, second: __m128i) -> __m128i {
                    // SAFETY: the operation is of SSE2, which every x86-64 CPU has, and touches no memory.
                    unsafe { $intrinsic(first, second) }
                }
            }
        )*

        fn find(mnemonic: Mnemonic) -> Option<Handlers> {
            Some(match mnemonic {
                $(Mnemonic::$legacy | Mnemonic::$vex => handlers::<$legacy>(),)*
                Mnemonic::Xorps | Mnemonic::Xorpd | Mnemonic::Vxorps | Mnemonic::Vxorpd => handlers::<Pxor>(),
                Mnemonic::Andps | Mnemonic::Andpd | Mnemonic::Vandps | Mnemonic::Vandpd => handlers::<Pand>(),
                Mnemonic::Orps | Mnemonic::Orpd | Mnemonic::Vorps | Mnemonic::Vorpd => handlers::<Por>(),
                Mnemonic::Andnps | Mnemonic::Andnpd | Mnemonic::Vandnps | Mnemonic::Vandnpd => handlers::<Pandn>(),
                _ => return None,
            })
        }
    };
}

operations! {
    Pxor Vpxor _mm_xor_si128;
    Por Vpor _mm_or_si128;
    Pand Vpand _mm_and_si128;
    Pandn Vpandn _mm_andnot_si128;
    Paddb Vpaddb _mm_add_epi8;
    Paddw Vpaddw _mm_add_epi16;
    Paddd Vpaddd _mm_add_epi32;
    Paddq Vpaddq _mm_add_epi64;
    Psubb Vpsubb _mm_sub_epi8;
    Psubw Vpsubw _mm_sub_epi16;
    Psubd Vpsubd _mm_sub_epi32;
    Psubq Vpsubq _mm_sub_epi64;
    Pcmpeqb Vpcmpeqb _mm_cmpeq_epi8;
    Pcmpeqw Vpcmpeqw _mm_cmpeq_epi16;
    Pcmpeqd Vpcmpeqd _mm_cmpeq_epi32;
    Pcmpgtb Vpcmpgtb _mm_cmpgt_epi8;
    Pcmpgtd Vpcmpgtd _mm_cmpgt_epi32;
    Pminub Vpminub _mm_min_epu8;
    Pmaxub Vpmaxub _mm_max_epu8;
    Psubusb Vpsubusb _mm_subs_epu8;
    Punpcklbw Vpunpcklbw _mm_unpacklo_epi8;
    Punpcklwd Vpunpcklwd _mm_unpacklo_epi16;
    Punpckldq Vpunpckldq _mm_unpacklo_epi32;
    Punpcklqdq Vpunpcklqdq _mm_unpacklo_epi64;
    Punpckhqdq Vpunpckhqdq _mm_unpackhi_epi64;
    Pmuludq Vpmuludq _mm_mul_epu32;
    Pmullw Vpmullw _mm_mullo_epi16;
    Packuswb Vpackuswb _mm_packus_epi16;
}

/// Lowers one of these on XMM registers; false if the instruction is none.
pub(super) fn lower(l: &mut Lowering) -> bool {
    let insn = l.insn;
    let xmm = (0..insn.op_count()).all(|n| l.is_mem(n) || (l.is_reg(n) && insn.op_register(n).is_xmm()));
    let general = l.is_reg(0) && insn.op_register(0).is_gpr() && l.is_reg(1) && insn.op_register(1).is_xmm();
    let vex = insn.code().encoding() == EncodingKind::VEX;
    if matches!(insn.mnemonic(), Mnemonic::Pmovmskb | Mnemonic::Vpmovmskb) && general {
        l.op.dst = register(insn.op_register(0)).0;
        l.op.src = insn.op_register(1).number() as u8;
        return l.thread(if vex { threaded(byte_mask::<true>) } else { threaded(byte_mask::<false>) });
    }
    let Some(handlers) = find(insn.mnemonic()).filter(|_| xmm) else { return false };
    let last = insn.op_count() - 1;
    l.op.dst = insn.op_register(0).number() as u8;
    l.op.src = insn.op_register(last - 1).number() as u8;
    let memory = l.is_mem(last);
    if !memory {
        l.op.aux = insn.op_register(last).number() as u8;
    }
    l.thread(handlers[usize::from(vex)][usize::from(memory)])
}

#[inline(always)]
fn vector(value: u128) -> __m128i {
    // SAFETY: both are 16 bytes without invalid values.
    unsafe { std::mem::transmute(value) }
}

#[inline(always)]
fn value(vector: __m128i) -> u128 {
    // SAFETY: as in `vector`.
    unsafe { std::mem::transmute(vector) }
}

fn run<C: Compute, const VEX: bool, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    if VEX { cpu.avx() } else { cpu.sse() }?;
    let second = if MEMORY {
        let from = cpu.vector_source(op, 16, if VEX { 0 } else { 15 })?;
        let mut loaded = 0u128;
        // SAFETY: `vector_source` vouches for 16 bytes.
        unsafe { copy16(from, (&raw mut loaded).cast()) };
        loaded
    } else {
        cpu.host.reg(op.aux).lo
    };
    let result = C::compute(vector(cpu.host.reg(op.src).lo), vector(second));
    let to = cpu.host.reg(op.dst);
    to.lo = value(result);
    if VEX {
        to.hi = 0;
    }
    Ok(())
}

fn byte_mask<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    if VEX { cpu.avx() } else { cpu.sse() }?;
    let source = vector(cpu.host.reg(op.src).lo);
    // SAFETY: an operation of SSE2.
    let mask = unsafe { _mm_movemask_epi8(source) } as u32;
    cpu.set_gpr(usize::from(op.dst), mask);
    Ok(())
}
