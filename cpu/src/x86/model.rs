//! CPU models: what CPUID says. A model is the same on every host that can run it, so that a guest can move.

use bitflags::bitflags;
use thiserror::Error;

bitflags! {
    /// Instruction-set features that decide whether an instruction exists.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[allow(missing_docs)] // the names are the manual's
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

/// EAX, EBX, ECX, EDX of a CPUID leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// A CPU model.
#[derive(Debug, Clone)]
pub struct CpuModel {
    name: &'static str,
    features: Feature,
}

/// A model that cannot be had.
#[derive(Debug, Error)]
pub enum ModelError {
    /// No such name.
    #[error("no cpu model {0:?}: the models are {1}")]
    Unknown(String, String),
    /// The host CPU lacks features the model promises.
    #[error("cpu model {model} needs {missing} of the host cpu: take a smaller model")]
    HostLacks {
        /// Model name.
        model: &'static str,
        /// Features that are missing.
        missing: String,
    },
}

impl CpuModel {
    /// The model's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// True if the model has all of `features`.
    pub fn has(&self, features: Feature) -> bool {
        self.features.contains(features)
    }

    /// True if 1 GiB pages exist.
    pub fn gigabyte_pages(&self) -> bool {
        true
    }
}
