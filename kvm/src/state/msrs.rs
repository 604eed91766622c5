//! The model-specific registers that belong to a CPU's state.

use cpu::Msrs;
use cpu::x86::msr;
use kvm_bindings::{Msrs as Entries, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::error::{Failure, failed};

/// The registers, by number, and where they are in the state. IA32_TSC_ADJUST is the engine's own affair.
fn each(msrs: &mut Msrs, mut visit: impl FnMut(u32, &mut u64)) {
    let named = [
        (msr::STAR, &mut msrs.star),
        (msr::LSTAR, &mut msrs.lstar),
        (msr::CSTAR, &mut msrs.cstar),
        (msr::SFMASK, &mut msrs.sfmask),
        (msr::KERNEL_GS_BASE, &mut msrs.kernel_gs_base),
        (msr::SYSENTER_CS, &mut msrs.sysenter_cs),
        (msr::SYSENTER_ESP, &mut msrs.sysenter_esp),
        (msr::SYSENTER_EIP, &mut msrs.sysenter_eip),
        (msr::TSC_AUX, &mut msrs.tsc_aux),
        (msr::PAT, &mut msrs.pat),
        (msr::MISC_ENABLE, &mut msrs.misc_enable),
        (msr::SPEC_CTRL, &mut msrs.spec_ctrl),
        (msr::MTRR_DEF_TYPE, &mut msrs.mtrr_def_type),
    ];
    for (number, place) in named {
        visit(number, place);
    }
    let fixed = [msr::MTRR_FIX64K_00000, msr::MTRR_FIX16K_80000, msr::MTRR_FIX16K_A0000]
        .into_iter()
        .chain(msr::MTRR_FIX4K_C0000..=msr::MTRR_FIX4K_F8000);
    for (number, place) in fixed.zip(&mut msrs.mtrr_fixed) {
        visit(number, place);
    }
    for (number, place) in (msr::MTRR_PHYSBASE0..=msr::MTRR_PHYSMASK7).zip(&mut msrs.mtrr_var) {
        visit(number, place);
    }
}

fn entries(numbers: impl Iterator<Item = (u32, u64)>) -> Result<Entries, Failure> {
    let list: Vec<_> =
        numbers.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    Entries::from_entries(&list).map_err(|_| Failure { call: "KVM_SET_MSRS", errno: libc::E2BIG })
}

/// One register; `None` if KVM has it not.
pub fn msr(fd: &VcpuFd, number: u32) -> Result<Option<u64>, Failure> {
    let mut list = entries([(number, 0)].into_iter())?;
    let count = fd.get_msrs(&mut list).map_err(failed("KVM_GET_MSRS"))?;
    Ok(list.as_slice().first().filter(|_| count > 0).map(|entry| entry.data))
}

/// Sets one, if KVM has it.
pub fn set_msr(fd: &VcpuFd, number: u32, value: u64) -> Result<(), Failure> {
    try_msr(fd, number, value).map(drop)
}

/// The same; false if KVM refuses the value, or has no such register.
pub fn try_msr(fd: &VcpuFd, number: u32, value: u64) -> Result<bool, Failure> {
    let list = entries([(number, value)].into_iter())?;
    Ok(fd.set_msrs(&list).map_err(failed("KVM_SET_MSRS"))? > 0)
}

/// Gives KVM the registers. What it refuses is skipped: KVM has it not, or knows better what may be in it.
pub fn store(fd: &VcpuFd, msrs: &Msrs) -> Result<(), Failure> {
    let mut list = Vec::new();
    each(&mut msrs.clone(), |number, value| list.push((number, *value)));
    let mut done = 0;
    while done < list.len() {
        let part = entries(list[done..].iter().copied())?;
        let count = fd.set_msrs(&part).map_err(failed("KVM_SET_MSRS"))?;
        done += count;
        if let Some((number, value)) = list.get(done) {
            tracing::debug!("kvm refuses {value:#x} in msr {number:#x}");
            done += 1;
        }
    }
    Ok(())
}

/// Takes the registers over; those that KVM does not give stay as they are.
pub fn load(fd: &VcpuFd, msrs: &mut Msrs) -> Result<(), Failure> {
    let mut numbers = Vec::new();
    each(msrs, |number, _| numbers.push(number));
    let mut values = Vec::with_capacity(numbers.len());
    while values.len() < numbers.len() {
        let mut part = entries(numbers[values.len()..].iter().map(|&number| (number, 0)))?;
        let count = fd.get_msrs(&mut part).map_err(failed("KVM_GET_MSRS"))?;
        values.extend(part.as_slice().iter().take(count).map(|entry| Some(entry.data)));
        if values.len() < numbers.len() {
            values.push(None);
        }
    }
    let mut values = values.into_iter();
    each(msrs, |_, place| {
        if let Some(Some(value)) = values.next() {
            *place = value;
        }
    });
    Ok(())
}
