//! CPUID: our model's leaves, without what this KVM does not have.

use cpu::VmConfig;
use cpu::x86::{CpuModel, CpuidEnv, CpuidResult, Feature};
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

use crate::error::{Failure, failed};

/// x2APIC, TSC deadline, hypervisor: ours, whatever KVM says.
const OURS: u32 = 1 << 21 | 1 << 24 | 1 << 31;
/// Leaves with subleaves, and how many we have of each.
const SUBLEAVES: [(u32, u32); 4] = [(4, 5), (7, 3), (0xb, 3), (0xd, 3)];
const RANGES: [(u32, u32); 4] =
    [(0, 0x16), (0x4000_0000, 0x4000_0010), (0x4000_0100, 0x4000_0101), (0x8000_0000, 0x8000_0008)];

/// What this host's KVM can give a guest.
pub fn supported(kvm: &Kvm) -> Result<CpuId, Failure> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_SUPPORTED_CPUID"))
}

/// The leaves of vCPU `index`.
pub fn leaves(config: &VmConfig, index: u32, supported: &CpuId) -> Result<CpuId, Failure> {
    let env = CpuidEnv {
        apic_id: index,
        vcpus: config.vcpus,
        apic: true,
        osxsave: false, // KVM follows CR4
        xcr0: config.model.xcr0(),
        tsc_hz: config.clock.tsc_hz(),
    };
    let mut entries = Vec::new();
    for (first, last) in RANGES {
        for leaf in first..=last {
            let subleaves = SUBLEAVES.iter().find(|s| s.0 == leaf).map(|s| s.1);
            for subleaf in 0..subleaves.unwrap_or(1) {
                let r = config.model.cpuid(leaf, subleaf, &env);
                let mut entry = kvm_cpuid_entry2 {
                    function: leaf,
                    index: subleaf,
                    flags: if subleaves.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
                    eax: r.eax,
                    ebx: r.ebx,
                    ecx: r.ecx,
                    edx: r.edx,
                    ..Default::default()
                };
                let has = supported.as_slice().iter().find(|e| e.function == leaf && e.index == subleaf);
                restrict(&mut entry, &has.copied().unwrap_or_default());
                entries.push(entry);
            }
        }
    }
    CpuId::from_entries(&entries).map_err(|_| Failure { call: "KVM_SET_CPUID2", errno: libc::E2BIG })
}

/// Features of a model that this KVM does not have.
pub fn lacking(model: &CpuModel, supported: &CpuId) -> Feature {
    model.lacking(|leaf, subleaf| {
        let has = supported.as_slice().iter().find(|e| e.function == leaf && e.index == subleaf);
        let has = has.copied().unwrap_or_default();
        CpuidResult { eax: has.eax, ebx: has.ebx, ecx: has.ecx, edx: has.edx }
    })
}

/// Takes away what is not there.
fn restrict(entry: &mut kvm_cpuid_entry2, has: &kvm_cpuid_entry2) {
    match (entry.function, entry.index) {
        (1, _) => {
            entry.ecx &= has.ecx | OURS;
            entry.edx &= has.edx;
        }
        (7, 0) => {
            entry.ebx &= has.ebx;
            entry.ecx &= has.ecx;
            entry.edx &= has.edx;
        }
        (7, _) => entry.edx &= has.edx,
        (0xd, 0) => entry.eax &= has.eax,
        (0xd, 1) => entry.eax &= has.eax,
        (0x8000_0001, _) => {
            entry.ecx &= has.ecx;
            entry.edx &= has.edx;
        }
        (0x8000_0008, _) if has.eax & 0xff != 0 => {
            entry.eax = entry.eax & !0xff | (entry.eax & 0xff).min(has.eax & 0xff);
        }
        _ => {}
    }
}

/// Registers in which what KVM took differs from what it was given, for the log: leaf, subleaf, given, taken.
pub fn differences(given: &CpuId, taken: &CpuId) -> Vec<String> {
    let registers = |e: &kvm_cpuid_entry2| [e.eax, e.ebx, e.ecx, e.edx];
    let other = |e: &kvm_cpuid_entry2| {
        taken.as_slice().iter().find(|t| t.function == e.function && t.index == e.index).map(registers)
    };
    let differing = given.as_slice().iter().filter(|e| other(e).is_some_and(|o| o != registers(e)));
    differing
        .map(|e| format!("{:#x}.{}: {:x?} is {:x?}", e.function, e.index, registers(e), other(e)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_not_promised_what_kvm_lacks() {
        let mut entry = kvm_cpuid_entry2 { function: 1, ecx: u32::MAX, edx: u32::MAX, ..Default::default() };
        let has = kvm_cpuid_entry2 { ecx: 1 << 28, edx: 1 << 25, ..Default::default() };
        restrict(&mut entry, &has);
        assert_eq!((entry.ecx, entry.edx), (1 << 28 | OURS, 1 << 25));
        let mut entry = kvm_cpuid_entry2 { function: 0x8000_0008, eax: 0x302e, ..Default::default() };
        restrict(&mut entry, &kvm_cpuid_entry2 { eax: 0x3027, ..Default::default() });
        assert_eq!(entry.eax, 0x3027);
    }
}
