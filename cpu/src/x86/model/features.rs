//! Optional instruction-set features: what the models have, what the host has, what instructions need them.
#![allow(missing_docs)] // the names of features are the manual's

use std::arch::is_x86_feature_detected as host_has;
use std::sync::Arc;

use bitflags::bitflags;
use iced_x86::{Code, CpuidFeature};

bitflags! {
    /// Instruction-set features that decide whether an instruction exists.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Feature: u64 {
        const CX16 = 1 << 0;
        const SSE3 = 1 << 1;
        const SSSE3 = 1 << 2;
        const SSE41 = 1 << 3;
        const SSE42 = 1 << 4;
        const POPCNT = 1 << 5;
        const MOVBE = 1 << 6;
        const AES = 1 << 7;
        const PCLMULQDQ = 1 << 8;
        const XSAVE = 1 << 9;
        const AVX = 1 << 10;
        const AVX2 = 1 << 11;
        const F16C = 1 << 12;
        const FMA = 1 << 13;
        const BMI1 = 1 << 14;
        const BMI2 = 1 << 15;
        const LZCNT = 1 << 16;
        const ADX = 1 << 17;
        const SHA = 1 << 18;
        const RDRAND = 1 << 19;
        const RDSEED = 1 << 20;
        const CLFLUSHOPT = 1 << 21;
        const CLWB = 1 << 22;
        const VAES = 1 << 23;
        const VPCLMULQDQ = 1 << 24;
        const GFNI = 1 << 25;
        const RDPID = 1 << 26;
        const XSAVEOPT = 1 << 27;
        const XSAVEC = 1 << 28;
        const XGETBV1 = 1 << 29;
    }
}

impl Feature {
    /// x86-64-v2 of the psABI.
    pub(super) const V2: Self = Self::CX16
        .union(Self::SSE3)
        .union(Self::SSSE3)
        .union(Self::SSE41)
        .union(Self::SSE42)
        .union(Self::POPCNT);

    /// x86-64-v3 of the psABI, and what every CPU at that level also has.
    pub(super) const V3: Self = Self::V2
        .union(Self::MOVBE)
        .union(Self::XSAVE)
        .union(Self::AVX)
        .union(Self::AVX2)
        .union(Self::F16C)
        .union(Self::FMA)
        .union(Self::BMI1)
        .union(Self::BMI2)
        .union(Self::LZCNT)
        .union(Self::AES)
        .union(Self::PCLMULQDQ)
        .union(Self::RDRAND)
        .union(Self::XSAVEOPT)
        .union(Self::XSAVEC)
        .union(Self::XGETBV1)
        .union(Self::CLFLUSHOPT)
        .union(Self::CLWB)
        .union(Self::RDPID);

    /// What AMD's CPUs since Zen and Intel's since Ice Lake have beyond that.
    pub(super) const V3_SHA: Self = Self::V3.union(Self::ADX).union(Self::RDSEED).union(Self::SHA);

    /// Executed without help of the host's own instruction, so that no host lacks them.
    const SOFTWARE: Self = Self::MOVBE
        .union(Self::CLFLUSHOPT)
        .union(Self::CLWB)
        .union(Self::RDPID)
        .union(Self::XSAVEOPT)
        .union(Self::XSAVEC)
        .union(Self::XGETBV1);

    /// Their names, in lower case.
    pub fn names(self) -> Vec<String> {
        self.iter_names().map(|(name, _)| name.to_lowercase()).collect()
    }

    /// What this host has (the operating system's support for AVX included).
    pub fn of_host() -> Self {
        let detected = [
            (Self::CX16, host_has!("cmpxchg16b")),
            (Self::SSE3, host_has!("sse3")),
            (Self::SSSE3, host_has!("ssse3")),
            (Self::SSE41, host_has!("sse4.1")),
            (Self::SSE42, host_has!("sse4.2")),
            (Self::POPCNT, host_has!("popcnt")),
            (Self::AES, host_has!("aes")),
            (Self::PCLMULQDQ, host_has!("pclmulqdq")),
            (Self::XSAVE, host_has!("xsave")),
            (Self::AVX, host_has!("avx")),
            (Self::AVX2, host_has!("avx2")),
            (Self::F16C, host_has!("f16c")),
            (Self::FMA, host_has!("fma")),
            (Self::BMI1, host_has!("bmi1")),
            (Self::BMI2, host_has!("bmi2")),
            (Self::LZCNT, host_has!("lzcnt")),
            (Self::ADX, host_has!("adx")),
            (Self::SHA, host_has!("sha")),
            (Self::RDRAND, host_has!("rdrand")),
            (Self::RDSEED, host_has!("rdseed")),
            (Self::VAES, host_has!("vaes")),
            (Self::VPCLMULQDQ, host_has!("vpclmulqdq")),
            (Self::GFNI, host_has!("gfni")),
        ];
        detected.into_iter().filter(|d| d.1).fold(Self::SOFTWARE, |all, d| all | d.0)
    }
}

/// One bit per instruction code, for a model with `features`.
pub(super) fn allowed_codes(features: Feature) -> Arc<[u64]> {
    let mut bits = vec![0u64; Code::values().len().div_ceil(64)];
    for code in Code::values() {
        if exists(code, features) {
            let index = code as usize;
            bits[index / 64] |= 1 << (index % 64);
        }
    }
    bits.into()
}

fn exists(code: Code, features: Feature) -> bool {
    match code {
        // Without either extension, as hypervisors have it for their guests.
        Code::Vmcall | Code::Vmmcall => true,
        // Encodings that older CPUs execute as NOP: a model without the feature does the same.
        Code::Rdsspd_r32 | Code::Rdsspq_r64 | Code::Endbr32 | Code::Endbr64 => true,
        Code::Prefetch_m8 | Code::Prefetchw_m8 | Code::Prefetchwt1_m8 | Code::Cldemote_m8 => true,
        Code::Wbnoinvd => true,
        _ => code.cpuid_features().iter().all(|&f| available(f, features)),
    }
}

/// What `CpuidFeature`s every model has, which depend on the model; all others no model has.
fn available(needed: CpuidFeature, features: Feature) -> bool {
    use CpuidFeature as C;
    let optional = match needed {
        C::INTEL8086
        | C::INTEL186
        | C::INTEL286
        | C::INTEL386
        | C::INTEL486
        | C::X64
        | C::CMOV
        | C::CPUID
        | C::CX8
        | C::CLFSH
        | C::FPU
        | C::FPU287
        | C::FPU387
        | C::FSGSBASE
        | C::FXSR
        | C::INVPCID
        | C::MMX
        | C::MSR
        | C::MULTIBYTENOP
        | C::PAUSE
        | C::PREFETCHW
        | C::RDPMC
        | C::RDTSCP
        | C::SEP
        | C::SERIALIZE
        | C::SMAP
        | C::SSE
        | C::SSE2
        | C::SYSCALL
        | C::TSC => return true,
        C::CMPXCHG16B => Feature::CX16,
        C::SSE3 => Feature::SSE3,
        C::SSSE3 => Feature::SSSE3,
        C::SSE4_1 => Feature::SSE41,
        C::SSE4_2 => Feature::SSE42,
        C::POPCNT => Feature::POPCNT,
        C::MOVBE => Feature::MOVBE,
        C::AES => Feature::AES,
        C::PCLMULQDQ => Feature::PCLMULQDQ,
        C::XSAVE => Feature::XSAVE,
        C::XSAVEOPT => Feature::XSAVEOPT,
        C::XSAVEC => Feature::XSAVEC,
        C::AVX => Feature::AVX,
        C::AVX2 => Feature::AVX2,
        C::F16C => Feature::F16C,
        C::FMA => Feature::FMA,
        C::BMI1 => Feature::BMI1,
        C::BMI2 => Feature::BMI2,
        C::LZCNT => Feature::LZCNT,
        C::ADX => Feature::ADX,
        C::SHA => Feature::SHA,
        C::RDRAND => Feature::RDRAND,
        C::RDSEED => Feature::RDSEED,
        C::CLFLUSHOPT => Feature::CLFLUSHOPT,
        C::CLWB => Feature::CLWB,
        C::VAES => Feature::VAES,
        C::VPCLMULQDQ => Feature::VPCLMULQDQ,
        C::GFNI => Feature::GFNI,
        C::RDPID => Feature::RDPID,
        _ => return false,
    };
    features.contains(optional)
}
