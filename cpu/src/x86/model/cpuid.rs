//! CPUID leaves (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E for 0x8000_0000 and above).

use super::{CpuModel, Feature};
use crate::Hypercall;

/// EAX, EBX, ECX, EDX of a CPUID leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What CPUID depends on beside the model.
#[derive(Debug, Clone, Copy)]
pub struct CpuidEnv {
    /// The vCPU's APIC id.
    pub apic_id: u32,
    /// vCPUs of the machine: cores of one package, numbered from APIC id 0.
    pub vcpus: u32,
    /// IA32_APIC_BASE: the local APIC is on.
    pub apic: bool,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0.
    pub xcr0: u64,
    /// TSC ticks per second.
    pub tsc_hz: u64,
}

/// Guest-physical address bits.
pub const PHYS_BITS: u32 = 46;
/// Frequency of the local APIC timer, which is also the crystal of leaf 0x15.
pub const APIC_TIMER_HZ: u64 = 1_000_000_000;

/// Leaves 0 to this exist.
const MAX_BASIC: u32 = 0x16;
const MAX_EXTENDED: u32 = 0x8000_0008;
/// Hypervisors introduce themselves, each at the next multiple of 0x100: first as one whose paravirtual interfaces guests know
/// (Linux, Documentation/virt/kvm/x86/cpuid.rst).
const KVM: u32 = 0x4000_0000;
const KVM_FEATURES: u32 = KVM + 1;
const HYPERVISOR_TIMING: u32 = KVM + 0x10;
/// Then as ourselves: version of the hypercalls, how many there are, and their port (docs/hypercalls.md).
const OURS: u32 = 0x4000_0100;
const OUR_HYPERCALLS: u32 = OURS + 1;
/// The clock by either pair of MSRs, always the same on all CPUs; no delays by writes to port 0x80; steal time.
const KVM_OFFERS: u32 = bits32(&[0, 1, 3, 5, 24]);
/// Family 6, model 0x8f, stepping 8: recent enough that kernels know no defect of it which
/// [`ARCH_CAPABILITIES`] does not deny.
const SIGNATURE: u32 = 0x0008_06f8;

/// RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO,
/// BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO: a guest kernel needs no page-table isolation, retpolines or buffer
/// clearing.
pub(super) const ARCH_CAPABILITIES: u64 = bits(&[0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62]);

const fn bits(numbers: &[u32]) -> u64 {
    let mut all = 0;
    let mut i = 0;
    while i < numbers.len() {
        all |= 1 << numbers[i];
        i += 1;
    }
    all
}

const fn bits32(numbers: &[u32]) -> u32 {
    bits(numbers) as u32
}

fn regs(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidResult {
    CpuidResult { eax, ebx, ecx, edx }
}

pub(super) fn cpuid(model: &CpuModel, leaf: u32, subleaf: u32, env: &CpuidEnv) -> CpuidResult {
    let known = leaf <= MAX_BASIC
        || (KVM..OURS + 0x100).contains(&leaf)
        || (0x8000_0000..=MAX_EXTENDED).contains(&leaf);
    // Beyond the last leaf, as Intel CPUs do, the highest basic leaf is returned.
    match if known { leaf } else { MAX_BASIC } {
        0 => name(MAX_BASIC, b"GenuineIntel", [0, 2, 1]),
        1 => family_and_features(model, env),
        2 => regs(0x00fe_ff01, 0xf0, 0, 0), // caches: leaf 4; 64-byte prefetch
        4 => cache(subleaf, env),
        6 => regs(bits32(&[2]), 0, 0, 0), // ARAT: the APIC timer never stops
        7 => match subleaf {
            0 => structured_features(model),
            2 => regs(0, 0, 0, bits32(&[4, 5])), // BHI_CTRL, MCDT_NO
            _ => CpuidResult::default(),
        },
        0xb => topology(subleaf, env),
        0xd if model.has(Feature::XSAVE) => xsave(model, subleaf, env),
        0x15 => {
            let (numerator, denominator) = ratio(env.tsc_hz, APIC_TIMER_HZ, MAX_NUMERATOR);
            regs(denominator, numerator, APIC_TIMER_HZ as u32, 0)
        }
        0x16 => {
            let mhz = (env.tsc_hz / 1_000_000) as u32;
            regs(mhz, mhz, 100, 0)
        }
        KVM => name(HYPERVISOR_TIMING, b"KVMKVMKVM\0\0\0", [0, 1, 2]),
        KVM_FEATURES => regs(KVM_OFFERS, 0, 0, 0),
        OURS => name(OUR_HYPERCALLS, b"GuesthouseVM", [0, 1, 2]),
        OUR_HYPERCALLS => regs(Hypercall::VERSION, 7, Hypercall::PORT.into(), 0),
        HYPERVISOR_TIMING => regs((env.tsc_hz / 1000) as u32, (APIC_TIMER_HZ / 1000) as u32, 0, 0),
        0x8000_0000 => regs(MAX_EXTENDED, 0, 0, 0),
        0x8000_0001 => {
            // LAHF, PREFETCHW; SYSCALL, NX, 1 GiB pages, RDTSCP, long mode
            let ecx = bits32(&[0, 8]) | has(model, Feature::LZCNT, 5);
            regs(0, 0, ecx, bits32(&[11, 20, 26, 27, 29]))
        }
        0x8000_0002..=0x8000_0004 => brand(model, (leaf - 0x8000_0002) as usize),
        0x8000_0006 => regs(0, 0, (2048 << 16) | (8 << 12) | 64, 0), // L2: 2 MiB, 16 ways
        0x8000_0007 => regs(0, 0, 0, bits32(&[8])),                  // invariant TSC
        0x8000_0008 => regs(PHYS_BITS | (48 << 8), 0, 0, 0),
        _ => CpuidResult::default(),
    }
}

fn has(model: &CpuModel, feature: Feature, bit: u32) -> u32 {
    u32::from(model.has(feature)) << bit
}

/// Twelve characters in three registers; `order` names the part that goes to EBX, ECX and EDX.
fn name(eax: u32, text: &[u8; 12], order: [usize; 3]) -> CpuidResult {
    let part =
        |i: usize| u32::from_le_bytes([text[i * 4], text[i * 4 + 1], text[i * 4 + 2], text[i * 4 + 3]]);
    regs(eax, part(order[0]), part(order[1]), part(order[2]))
}

fn family_and_features(model: &CpuModel, env: &CpuidEnv) -> CpuidResult {
    let ebx = (8 << 8) | (env.vcpus.min(255) << 16) | (env.apic_id.min(255) << 24);
    // PCID, x2APIC, TSC-deadline, hypervisor
    let ecx = bits32(&[17, 21, 24, 31])
        | has(model, Feature::SSE3, 0)
        | has(model, Feature::PCLMULQDQ, 1)
        | has(model, Feature::SSSE3, 9)
        | has(model, Feature::FMA, 12)
        | has(model, Feature::CX16, 13)
        | has(model, Feature::SSE41, 19)
        | has(model, Feature::SSE42, 20)
        | has(model, Feature::MOVBE, 22)
        | has(model, Feature::POPCNT, 23)
        | has(model, Feature::AES, 25)
        | has(model, Feature::XSAVE, 26)
        | (u32::from(env.osxsave) << 27)
        | has(model, Feature::AVX, 28)
        | has(model, Feature::F16C, 29)
        | has(model, Feature::RDRAND, 30);
    // FPU DE PSE TSC MSR PAE MCE CX8 SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 SS
    let edx = bits32(&[0, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27])
        | (u32::from(env.apic) << 9)
        | (u32::from(env.vcpus > 1) << 28);
    regs(SIGNATURE, ebx, ecx, edx)
}

fn structured_features(model: &CpuModel) -> CpuidResult {
    // FSGSBASE, TSC_ADJUST, SMEP, ERMS, INVPCID, SMAP
    let ebx = bits32(&[0, 1, 7, 9, 10, 20])
        | has(model, Feature::BMI1, 3)
        | has(model, Feature::AVX2, 5)
        | has(model, Feature::BMI2, 8)
        | has(model, Feature::RDSEED, 18)
        | has(model, Feature::ADX, 19)
        | has(model, Feature::CLFLUSHOPT, 23)
        | has(model, Feature::CLWB, 24)
        | has(model, Feature::SHA, 29);
    let ecx = bits32(&[2]) // UMIP
        | has(model, Feature::GFNI, 8)
        | has(model, Feature::VAES, 9)
        | has(model, Feature::VPCLMULQDQ, 10)
        | has(model, Feature::RDPID, 22);
    // FSRM, SERIALIZE, IBRS and IBPB, STIBP, ARCH_CAPABILITIES, SSBD
    regs(2, ebx, ecx, bits32(&[4, 14, 26, 27, 29, 31]))
}

/// Leaf 4: level 1 data and code, level 2, level 3 shared by all.
fn cache(subleaf: u32, env: &CpuidEnv) -> CpuidResult {
    // kind (1 data, 2 code, 3 unified), level, ways, sets
    let (kind, level, ways, sets) = match subleaf {
        0 => (1, 1, 8, 64),
        1 => (2, 1, 8, 64),
        2 => (3, 2, 16, 2048),
        3 => (3, 3, 16, 16384),
        _ => return CpuidResult::default(),
    };
    let cores = env.vcpus.clamp(1, 64).next_power_of_two();
    let sharing = if level == 3 { env.vcpus.clamp(1, 4096).next_power_of_two() } else { 1 };
    let eax = kind | (level << 5) | (1 << 8) | ((sharing - 1) << 14) | ((cores - 1) << 26);
    regs(eax, 63 | ((ways - 1) << 22), sets - 1, 0)
}

/// Leaf 0xb: one thread per core, all cores in one package.
fn topology(subleaf: u32, env: &CpuidEnv) -> CpuidResult {
    let cores = env.vcpus.max(1);
    match subleaf {
        0 => regs(0, 1, 1 << 8, env.apic_id),
        1 => regs(32 - (cores - 1).leading_zeros(), cores, (2 << 8) | 1, env.apic_id),
        _ => regs(0, 0, subleaf & 0xff, env.apic_id),
    }
}

/// Legacy area and header, then the AVX component.
fn xsave(model: &CpuModel, subleaf: u32, env: &CpuidEnv) -> CpuidResult {
    const LEGACY: u32 = 512 + 64;
    const AVX: u32 = 256;
    let size =
        |components: u64| if components & super::super::xcr0::AVX != 0 { LEGACY + AVX } else { LEGACY };
    match subleaf {
        0 => regs(model.xcr0() as u32, size(env.xcr0), size(model.xcr0()), 0),
        1 => {
            let eax = has(model, Feature::XSAVEOPT, 0)
                | has(model, Feature::XSAVEC, 1)
                | has(model, Feature::XGETBV1, 2);
            regs(eax, if model.has(Feature::XSAVEC) { size(env.xcr0) } else { 0 }, 0, 0)
        }
        2 if model.has(Feature::AVX) => regs(AVX, LEGACY, 0, 0),
        _ => CpuidResult::default(),
    }
}

/// 48 characters, the rest NUL.
fn brand(model: &CpuModel, part: usize) -> CpuidResult {
    let mut text = [0u8; 48];
    for (to, from) in text.iter_mut().zip(b"Guesthouse virtual CPU ".iter().chain(model.name().as_bytes())) {
        *to = *from;
    }
    let word = |i: usize| {
        let at = part * 16 + i * 4;
        u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]])
    };
    regs(word(0), word(1), word(2), word(3))
}

/// Kernels multiply the crystal in kHz by the numerator in 32 bits; this is the largest that fits.
const MAX_NUMERATOR: u64 = u32::MAX as u64 / (APIC_TIMER_HZ / 1000);

/// The fraction closest to `value / unit` among the convergents with a numerator of at most `max` (continued
/// fraction): good to about one part in ten million.
fn ratio(value: u64, unit: u64, max: u64) -> (u32, u32) {
    let (mut a, mut b) = (value.max(1), unit.max(1));
    let (mut n0, mut d0, mut n, mut d) = (0u64, 1u64, 1u64, 0u64);
    while b != 0 {
        let whole = a / b;
        let next_n = whole.saturating_mul(n).saturating_add(n0);
        let next_d = whole.saturating_mul(d).saturating_add(d0);
        if next_n > max || next_d > u64::from(u32::MAX) {
            break;
        }
        (n0, d0, n, d) = (n, d, next_n, next_d);
        (a, b) = (b, a % b);
    }
    if d == 0 { (1, 1) } else { (n as u32, d as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crystal_ratio_gives_the_frequency_within_a_millionth() {
        for khz in [800_000u64, 1_996_249, 2_100_000, 2_445_424, 2_893_201, 3_999_999, 4_200_001] {
            let (n, d) = ratio(khz * 1000, APIC_TIMER_HZ, MAX_NUMERATOR);
            let crystal_khz = (APIC_TIMER_HZ / 1000) as u32;
            let seen = u64::from(crystal_khz.checked_mul(n).unwrap() / d);
            assert!(seen.abs_diff(khz) * 1_000_000 <= khz.max(2_000_000), "{khz} {seen}");
        }
    }
}
