use super::*;

fn env() -> CpuidEnv {
    CpuidEnv { apic_id: 2, vcpus: 4, apic: true, osxsave: false, xcr0: 1, tsc_hz: 2_000_000_000 }
}

#[test]
fn names_lead_to_models() {
    assert_eq!(CpuModel::named(Some("x86-64-v1")).unwrap().name(), "x86-64-v1");
    assert_eq!(CpuModel::named(None).unwrap().name(), CpuModel::best_for_host().name());
    let error = CpuModel::named(Some("pentium")).unwrap_err().to_string();
    assert_eq!(
        error,
        "no cpu model \"pentium\": the models are x86-64-v1, x86-64-v2, x86-64-v3, x86-64-v3-sha, host"
    );
}

#[test]
fn instructions_follow_the_model() {
    let small = CpuModel::named(Some("x86-64-v1")).unwrap();
    let host = CpuModel::named(Some("host")).unwrap();
    for code in [
        Code::Add_rm32_r32,
        Code::Syscall,
        Code::Vmcall,
        Code::Vmmcall,
        Code::Addpd_xmm_xmmm128,
        Code::Rdsspq_r64,
    ] {
        assert!(small.allows(code), "{code:?}");
    }
    for code in [Code::Popcnt_r32_rm32, Code::Xgetbv, Code::VEX_Vaddps_xmm_xmm_xmmm128, Code::Movbe_r32_m32] {
        assert!(!small.allows(code), "{code:?}");
        assert_eq!(host.allows(code), code != Code::Xgetbv || host.has(Feature::XSAVE), "{code:?}");
    }
    for code in
        [Code::Vmlaunch, Code::Monitord, Code::Mwait, Code::Rsm, Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er]
    {
        assert!(!host.allows(code), "{code:?}");
    }
}

#[test]
fn leaves_agree_with_each_other() {
    let model = CpuModel::named(Some("host")).unwrap();
    let features = model.cpuid(1, 0, &env());
    assert_eq!(features.ebx >> 24, 2);
    assert_eq!(features.ecx >> 27 & 1, 0, "OSXSAVE mirrors CR4");
    assert_eq!(features.ecx >> 3 & 1, 0, "no MONITOR");
    assert_eq!(model.cpuid(0xb, 1, &env()).eax, 2);
    assert_eq!(model.cpuid(0xd, 0, &CpuidEnv { xcr0: 7, ..env() }).ebx, crate::XSAVE_LEN as u32);
    assert_eq!(model.cpuid(0x17, 0, &env()), model.cpuid(0x16, 0, &env()));
    assert_eq!(model.cpuid(7, 0, &env()).eax, 2, "subleaf 2 has BHI_CTRL");
    assert_eq!(model.cpuid(7, 2, &env()).edx >> 4 & 1, 1);
    let leaf = model.cpuid(0x15, 0, &env());
    assert_eq!(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax), 2_000_000_000);
}

#[test]
fn what_somebody_cannot_give_is_found_by_the_bits_of_cpuid() {
    let model = CpuModel::new("x86-64-v3", Feature::V3);
    let with = |features: Feature| {
        let other = CpuModel::new("x86-64-v3", features);
        model.lacking(move |leaf, subleaf| other.cpuid(leaf, subleaf, &env()))
    };
    assert_eq!(with(Feature::V3), Feature::empty());
    assert_eq!(with(Feature::V3_SHA), Feature::empty());
    for missing in [Feature::AVX2, Feature::CX16, Feature::XSAVEC, Feature::LZCNT | Feature::RDRAND] {
        assert_eq!(with(Feature::V3 - missing), missing);
    }
    let nothing = model.lacking(|_, _| CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 });
    assert_eq!(nothing, Feature::V3);
}
