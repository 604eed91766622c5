//! KVM behind the engine contract.

use std::arch::x86_64::__cpuid;
use std::sync::Arc;

use cpu::x86::{CpuModel, Feature};
use cpu::{Apics, Capabilities, Doorbell, Engine, EngineError, Irqchip, Signals, Vcpu, Vm, VmConfig};
use kvm_bindings::{
    CpuId, KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_IOEVENTFD_ANY_LENGTH, KVM_CAP_X86_USER_SPACE_MSR,
    KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm as Device, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use crate::apics::KernelApics;
use crate::error::{Failure, failed};
use crate::modes::Modes;
use crate::probe::Speed;
use crate::vcpu::KvmVcpu;
use crate::{apics, chips, cpuid, probe, raw};

const NAME: &str = "kvm";
/// Where KVM has pages of its own that the guest does not see, should the host's CPU need them for real mode; no board has
/// anything there.
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TSS: usize = 0xfffb_d000;

/// Engines that do what KVM cannot.
#[derive(Clone)]
pub struct Helpers {
    /// Executes single instructions; has [`Capabilities::exact_limit`].
    pub step: Arc<dyn Engine>,
    /// Runs guests in modes that KVM refuses.
    pub stretch: Arc<dyn Engine>,
}

/// The engine on hardware virtualization.
#[derive(Clone)]
pub struct Kvm {
    helpers: Helpers,
    modes: Option<Modes>,
}

impl Kvm {
    /// The engine.
    pub fn new(helpers: Helpers) -> Self {
        Self { helpers, modes: None }
    }

    /// The engine, trusted with every mode but 32-bit paging, whatever this host's KVM makes of it. For tests.
    pub fn trusted(helpers: Helpers) -> Self {
        Self::with_modes(helpers, Modes::Unpaged)
    }

    /// The engine, trusted with `modes`.
    pub(crate) fn with_modes(helpers: Helpers, modes: Modes) -> Self {
        Self { helpers, modes: Some(modes) }
    }

    /// This host's KVM runs guests in every mode. One without hardware virtualization under it may not.
    pub fn is_complete(&self) -> bool {
        probe::modes(&self.helpers) == Modes::All
    }
}

/// What controllers of KVM's need to be told of lines and messages.
const ROUTING: (Cap, &str) = (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING");
const MESSAGES: (Cap, &str) = (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI");

/// What is missing for a machine with these interrupt controllers, with the remedy.
fn missing(irqchip: Irqchip) -> Option<String> {
    let device = match Device::new() {
        Ok(device) => device,
        Err(error) => {
            return Some(match error.errno() {
                libc::ENOENT => "there is no /dev/kvm: load the module kvm_intel or kvm_amd, or turn virtualization on (in \
                                 the firmware, or nested virtualization on the host of this machine)"
                    .to_owned(),
                libc::EACCES | libc::EPERM => {
                    "/dev/kvm may not be opened: add this user to the group kvm".to_owned()
                }
                libc::ENODEV | libc::ENXIO => {
                    "/dev/kvm has no driver: load the module kvm_intel or kvm_amd".to_owned()
                }
                _ => format!("/dev/kvm does not open: {error}"),
            });
        }
    };
    if device.get_api_version() != 12 {
        return Some("/dev/kvm does not answer as KVM does".to_owned());
    }
    let needed = [
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
        (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
        (Cap::Xcrs, "KVM_CAP_XCRS"),
        (Cap::Xsave, "KVM_CAP_XSAVE"),
        (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR"),
        (Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER"),
    ];
    let controllers: &[_] = match irqchip {
        Irqchip::Auto | Irqchip::Userspace => &[],
        Irqchip::Split => &[(Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"), ROUTING, MESSAGES],
        Irqchip::Kernel => &[(Cap::Irqchip, "KVM_CAP_IRQCHIP"), ROUTING, MESSAGES],
    };
    let lacking = |caps: &[(Cap, &'static str)]| {
        caps.iter().find(|(cap, _)| !device.check_extension(*cap)).map(|(_, name)| *name)
    };
    if let Some(name) = lacking(&needed) {
        return Some(format!("the host's KVM has no {name}: take Linux 5.16 or newer"));
    }
    let name = lacking(controllers)?;
    Some(format!("the host's KVM has no {name}, which --irqchip {irqchip} needs: take --irqchip userspace"))
}

impl Engine for Kvm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            unusable: missing(Irqchip::Auto),
            max_vcpus: 255,
            full_virtualization: true,
            exact_limit: false,
        }
    }

    fn drawback(&self) -> Option<String> {
        match Speed::measure(self, false) {
            Ok(speed) => speed.drawback(),
            Err(error) => Some(error.to_string()),
        }
    }

    fn lacking(&self, model: &CpuModel) -> Feature {
        // Without KVM no machine is made, and that says why.
        let supported =
            Device::new().map_err(failed("open(/dev/kvm)")).and_then(|kvm| cpuid::supported(&kvm));
        supported.map_or(Feature::empty(), |supported| cpuid::lacking(model, &supported))
    }

    fn create_vm(&self, config: VmConfig) -> Result<Box<dyn Vm>, EngineError> {
        if let Some(reason) = missing(config.irqchip) {
            return Err(EngineError::Unusable { engine: NAME, reason });
        }
        let shared = Arc::new(Shared::new(config, self.helpers.clone(), self.modes).map_err(refused)?);
        let apics = shared.has_apics().then(|| Arc::new(KernelApics::new(shared.clone())));
        Ok(Box::new(KvmVm { shared, apics }))
    }
}

/// A request that a working KVM carries out.
fn refused(failure: Failure) -> EngineError {
    EngineError::Unusable { engine: NAME, reason: format!("{failure}: take --engine dbt") }
}

/// What the vCPUs of a machine share. The VM goes before the RAM that is mapped into it.
pub struct Shared {
    pub vm: VmFd,
    pub config: VmConfig,
    pub supported: CpuId,
    pub helpers: Helpers,
    /// Which interrupt controllers are KVM's; not [`Irqchip::Auto`].
    pub irqchip: Irqchip,
    modes: Option<Modes>,
}

impl Shared {
    fn new(config: VmConfig, helpers: Helpers, modes: Option<Modes>) -> Result<Self, Failure> {
        let device = Device::new().map_err(failed("open(/dev/kvm)"))?;
        let supported = cpuid::supported(&device)?;
        let vm = create(&device)?;
        vm.set_identity_map_address(IDENTITY_MAP).map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(TSS).map_err(failed("KVM_SET_TSS_ADDR"))?;
        let irqchip = match config.irqchip {
            // One that lacks modes needs other engines, and those need our local APICs. Emulators need no guest to be known.
            Irqchip::Auto => {
                let split = vm.check_extension(Cap::SplitIrqchip)
                    && is_in_hardware()
                    && modes.unwrap_or_else(|| probe::modes(&helpers)) == Modes::All;
                if split { Irqchip::Split } else { Irqchip::Userspace }
            }
            asked => asked,
        };
        match irqchip {
            Irqchip::Kernel => chips::create(&vm)?,
            Irqchip::Split => apics::enable(&vm)?,
            _ => {}
        }
        leave_msrs_to_us(&vm, irqchip != Irqchip::Userspace)?;
        if vm.check_extension_raw(KVM_CAP_EXIT_ON_EMULATION_FAILURE.into()) > 0 {
            let cap = kvm_enable_cap {
                cap: KVM_CAP_EXIT_ON_EMULATION_FAILURE,
                args: [1, 0, 0, 0],
                ..Default::default()
            };
            vm.enable_cap(&cap).map_err(failed("KVM_CAP_EXIT_ON_EMULATION_FAILURE"))?;
        }
        raw::map(&vm, &config.ram)?;
        Ok(Self { vm, config, supported, helpers, irqchip, modes })
    }
}

impl Shared {
    /// Local APICs are KVM's.
    pub fn has_apics(&self) -> bool {
        self.irqchip != Irqchip::Userspace
    }

    /// What KVM is trusted with. The guest's kernel may never leave 64-bit mode: it is asked when it matters.
    pub fn modes(&self) -> Modes {
        let modes = self.modes.unwrap_or_else(|| probe::modes(&self.helpers));
        // Nobody can help.
        if self.has_apics() && modes == Modes::Long { Modes::Unpaged } else { modes }
    }
}

/// The host's CPU has VMX or SVM.
fn is_in_hardware() -> bool {
    __cpuid(1).ecx & 1 << 5 != 0 || __cpuid(0x8000_0001).ecx & 1 << 2 != 0
}

/// A signal may interrupt the making of a VM.
fn create(device: &Device) -> Result<VmFd, Failure> {
    loop {
        match device.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            other => return other.map_err(failed("KVM_CREATE_VM")),
        }
    }
}

/// Registers that the machine and its clock and, unless they are KVM's, local APICs have, and those that KVM does not know, are asked of us.
fn leave_msrs_to_us(vm: &VmFd, has_apics: bool) -> Result<(), Failure> {
    use cpu::x86::msr;
    let reasons = KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [reasons.into(), 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&cap).map_err(failed("KVM_CAP_X86_USER_SPACE_MSR"))?;
    let ours = |base, flags| MsrFilterRange { flags, base, msr_count: 1, bitmap: &[0] };
    let both = MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE;
    let ranges = [
        ours(msr::TSC, MsrFilterRangeFlags::WRITE),
        ours(msr::TSC_ADJUST, MsrFilterRangeFlags::WRITE),
        ours(msr::KVM_STEAL_TIME, both),
        ours(msr::APIC_BASE, both),
        ours(msr::TSC_DEADLINE, both),
    ];
    let ranges = if has_apics { &ranges[..3] } else { &ranges[..] };
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, ranges).map_err(failed("KVM_X86_SET_MSR_FILTER"))
}

struct KvmVm {
    shared: Arc<Shared>,
    apics: Option<Arc<KernelApics>>,
}

impl Vm for KvmVm {
    fn create_vcpu(&self, index: u32, signals: Arc<Signals>) -> Result<Box<dyn Vcpu>, EngineError> {
        Ok(Box::new(KvmVcpu::new(&self.shared, index, signals).map_err(refused)?))
    }

    fn has_doorbells(&self) -> bool {
        self.shared.vm.check_extension_raw(KVM_CAP_IOEVENTFD_ANY_LENGTH.into()) > 0
    }

    fn doorbell(&self, bell: &Doorbell<'_>, on: bool) -> bool {
        match raw::doorbell(&self.shared.vm, bell, on) {
            Ok(()) => true,
            Err(failure) => {
                tracing::debug!(?bell, on, "{failure}");
                false
            }
        }
    }

    fn apics(&self) -> Option<Arc<dyn Apics>> {
        Some(self.apics.clone()?)
    }
}
