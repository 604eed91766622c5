//! What a machine is to be: one definition for files, the network and the command line.

mod paths;

use std::path::PathBuf;

use block::Format;
use boot::Protocol;
use net::switch::SwitchConfig;
use net::{TapConfig, UserConfig};
use serde::{Deserialize, Serialize};

use crate::{
    BoardKind, ConsoleKind, EngineKind, Irqchip, Limits, MachineError, PortSpec, ShareSpec, Size, VsockSpec,
    balloon, console, host, shares, vsock,
};

/// Most CPUs of a machine. Every vCPU is a host thread, and guests address this many in every APIC mode.
pub const MAX_CPUS: u32 = 64;
/// Least memory: below, there is no room for a kernel above 1 MiB.
const MIN_MEMORY: Size = Size::mib(2);

/// The definition of a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MachineSpec {
    /// A guest by its name, instead of kernel and initrd: whoever makes the machine puts the guest's files in their place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// What such a guest runs instead of a shell; its command line is added to the guest's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The kernel image; without, kernel, initrd and command line are those of the first disk with a system on it.
    #[serde(skip_serializing_if = "is_empty")]
    pub kernel: PathBuf,
    /// The initrd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Further modules, for protocols that have them; with Linux, archives that are unpacked after the
    /// initrd.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<ModuleSpec>,
    /// Disks, in the order in which the guest finds them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// Network cards and what they are plugged into, in the order in which the guest finds them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<NetSpec>,
    /// Folders of the host's that the guest may mount.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ShareSpec>,
    /// Where the user's terminal is plugged in.
    pub console: ConsoleKind,
    /// Ports between the guest and sockets of the host's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortSpec>,
    /// Sockets between the guest and the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockSpec>,
    /// The kernel's command line, or what is added to that of a system on a disk.
    pub cmdline: String,
    /// Guest RAM.
    pub memory: Size,
    /// RAM is made of huge pages of this size, 2M or 1G, that the host has put aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<Size>,
    /// Memory that the guest is asked to give up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<Size>,
    /// Number of CPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// What it may use of the host.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// What CPUID says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Which parts it has.
    pub board: BoardKind,
    /// How guest code is run.
    pub engine: EngineKind,
    /// Whose interrupt controllers it has on an engine that has some itself.
    #[serde(skip_serializing_if = "is_default")]
    pub irqchip: Irqchip,
    /// How the kernel is started.
    pub boot: Protocol,
    /// A reset by the guest ends the machine.
    pub no_reboot: bool,
    /// The first copy costs as little as others, and RAM somewhat more when it is first touched.
    #[serde(skip_serializing_if = "is_default")]
    pub clonable: bool,
    /// On `dbt`, programs of the guest that run for long run on the host's CPU as they are, in processes of their own, if RAM is
    /// neither of huge pages nor restored.
    #[serde(skip_serializing_if = "is_true")]
    pub direct: bool,
}

fn is_empty(path: &std::path::Path) -> bool {
    path.as_os_str().is_empty()
}

/// A module of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModuleSpec {
    /// The file.
    pub path: PathBuf,
    /// The module's command line.
    pub args: String,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskSpec {
    /// The image: a file or block device.
    pub path: PathBuf,
    /// What is in it; without, its first bytes say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The guest cannot write it.
    pub readonly: bool,
    /// What the guest writes is gone with the machine.
    pub snapshot: bool,
    /// Files that the image names as its base are opened.
    pub backing: bool,
    /// The machine stands still while the host cannot take what the guest writes, instead of telling the guest.
    pub patient: bool,
    /// Serial number; the guest sees 20 bytes of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
}

/// A network of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum NetSpec {
    /// One of its own, behind address translation.
    User(UserConfig),
    /// The host's, by a TAP device.
    Tap(TapConfig),
    /// One that machines share, by its switch.
    Switch(SwitchConfig),
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_true(value: &bool) -> bool {
    *value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for MachineSpec {
    fn default() -> Self {
        Self {
            guest: None,
            command: Vec::new(),
            kernel: PathBuf::new(),
            initrd: None,
            modules: Vec::new(),
            disks: Vec::new(),
            nets: Vec::new(),
            shares: Vec::new(),
            console: ConsoleKind::default(),
            ports: Vec::new(),
            vsock: None,
            cmdline: String::new(),
            memory: Size::mib(512),
            hugepages: None,
            balloon: None,
            cpus: 1,
            limits: Limits::default(),
            cpu_model: None,
            board: BoardKind::default(),
            engine: EngineKind::default(),
            irqchip: Irqchip::default(),
            boot: Protocol::default(),
            no_reboot: false,
            clonable: false,
            direct: true,
        }
    }
}

impl MachineSpec {
    /// Checks what can be checked without touching the files.
    ///
    /// # Errors
    /// Numbers out of range, and memory that the host does not have.
    pub fn validate(&self) -> Result<(), MachineError> {
        if self.kernel.as_os_str().is_empty() && self.disks.is_empty() {
            return Err(MachineError::NoKernel);
        }
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return Err(MachineError::Cpus(self.cpus));
        }
        if (self.irqchip, self.board) == (Irqchip::Kernel, BoardKind::Microvm) {
            return Err(MachineError::Irqchip { board: self.board });
        }
        if self.memory < MIN_MEMORY || !self.memory.get().is_multiple_of(1 << 20) {
            return Err(MachineError::MemorySize { memory: self.memory, least: MIN_MEMORY });
        }
        balloon::validate(self, self.balloon)?;
        self.limits.validate(self)?;
        console::validate(&self.ports)?;
        shares::validate(&self.shares)?;
        vsock::validate(self.vsock.as_ref())?;
        if let Some(page) = self.hugepages {
            return self.validate_huge(page);
        }
        let (available, limit) = host::memory();
        if self.memory.get() > available {
            return Err(MachineError::HostMemory { memory: self.memory, mib: available >> 20, limit });
        }
        Ok(())
    }

    /// What the host has of these pages is no part of what it has otherwise, and is seen when they are reserved.
    fn validate_huge(&self, page: Size) -> Result<(), MachineError> {
        if page != Size::mib(2) && page != Size::mib(1024) {
            return Err(MachineError::HugePage(page));
        }
        if !self.memory.get().is_multiple_of(page.get()) {
            return Err(MachineError::HugeMemory { memory: self.memory, page });
        }
        if self.clonable {
            return Err(MachineError::HugeStays("a copy"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> MachineSpec {
        MachineSpec { kernel: "k".into(), memory: Size::mib(64), ..MachineSpec::default() }
    }

    #[test]
    fn a_file_names_what_differs_from_the_default() {
        let text = "kernel = \"vmlinuz\"\nmemory = \"1G\"\ncpus = 4\nengine = \"interp\"\nboot = \"pvh\"\n";
        let spec: MachineSpec = toml::from_str(text).unwrap();
        assert_eq!((spec.memory, spec.cpus, spec.boot), (Size::mib(1024), 4, Protocol::Pvh));
        assert!(!spec.no_reboot);
        let again: MachineSpec = toml::from_str(&toml::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
        assert!(toml::from_str::<MachineSpec>("kernal = \"vmlinuz\"").is_err());
    }

    #[test]
    fn a_file_may_have_networks() {
        let text = "kernel = \"k\"\n[[nets]]\nkind = \"user\"\nforwards = [\"2222:22\"]\nloopback = true\n";
        let spec: MachineSpec = toml::from_str(text).unwrap();
        let [NetSpec::User(user)] = &spec.nets[..] else { panic!("{spec:?}") };
        assert!(user.loopback && user.outside && user.forwards[0].guest == 22);
        assert_eq!(toml::from_str::<MachineSpec>(&toml::to_string(&spec).unwrap()).unwrap(), spec);
        for wrong in
            ["kind = \"ether\"", "kind = \"user\"\nloopbakc = true", "kind = \"user\"\nforwards = [\"22\"]"]
        {
            assert!(toml::from_str::<MachineSpec>(&format!("[[nets]]\n{wrong}\n")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_may_have_ports() {
        let text =
            "kernel = \"k\"\nconsole = \"virtio\"\n[[ports]]\nname = \"agent\"\npath = \"agent.sock\"\n";
        let spec: MachineSpec = toml::from_str(text).unwrap();
        assert_eq!(spec.console, ConsoleKind::Virtio);
        assert_eq!(spec.ports, [PortSpec { name: "agent".into(), path: "agent.sock".into() }]);
        assert_eq!(toml::from_str::<MachineSpec>(&toml::to_string(&spec).unwrap()).unwrap(), spec);
        assert!(toml::from_str::<MachineSpec>("[[ports]]\nnam = \"agent\"\n").is_err());
        assert!(MachineSpec { ports: vec![PortSpec::default()], ..self::spec() }.validate().is_err());
    }

    #[test]
    fn impossible_numbers_are_refused() {
        spec().validate().unwrap();
        for cpus in [0, 65, u32::MAX] {
            let error = MachineSpec { cpus, ..spec() }.validate().unwrap_err().to_string();
            assert!(error.contains("1 to 64"), "{error}");
        }
        for memory in [Size::bytes(0), Size::mib(1), Size::bytes((4 << 20) + 1)] {
            assert!(MachineSpec { memory, ..spec() }.validate().is_err(), "{memory}");
        }
        assert!(matches!(MachineSpec::default().validate(), Err(MachineError::NoKernel)));
    }

    #[test]
    fn a_board_without_an_8259_gets_none_from_the_kernel() {
        let irqchip = |board, irqchip| MachineSpec { board, irqchip, ..spec() }.validate();
        irqchip(BoardKind::Pc, Irqchip::Kernel).unwrap();
        irqchip(BoardKind::Microvm, Irqchip::Split).unwrap();
        let error = irqchip(BoardKind::Microvm, Irqchip::Kernel).unwrap_err().to_string();
        assert_eq!(
            error,
            "a microvm has no 8259, and the kernel's interrupt controllers have: take --irqchip split"
        );
    }

    #[test]
    fn huge_pages_have_their_sizes_and_stay() {
        let huge = |page, memory| MachineSpec { hugepages: Some(page), memory, ..spec() };
        huge(Size::mib(2), Size::mib(64)).validate().unwrap();
        huge(Size::mib(1024), Size::mib(2048)).validate().unwrap();
        let clonable = MachineSpec { clonable: true, ..huge(Size::mib(2), Size::mib(64)) };
        let balloon = MachineSpec { balloon: Some(Size::mib(8)), ..huge(Size::mib(2), Size::mib(64)) };
        for (wrong, why) in [
            (huge(Size::mib(4), Size::mib(64)), "there are no huge pages of 4M"),
            (huge(Size::mib(2), Size::mib(63)), "63M of guest memory are no whole number of pages of 2M"),
            (huge(Size::mib(1024), Size::mib(64)), "no whole number of pages of 1G"),
            (clonable, "a copy is not possible with huge pages"),
            (balloon, "a balloon is not possible with huge pages"),
        ] {
            let error = wrong.validate().unwrap_err().to_string();
            assert!(error.starts_with(why) || error.contains(why), "{error}");
        }
    }

    #[test]
    fn more_memory_than_the_host_has_is_refused() {
        let memory = Size::mib(1 << 30);
        let error = MachineSpec { memory, ..spec() }.validate().unwrap_err().to_string();
        assert!(error.starts_with("1024T of guest memory are more than the host can give ("), "{error}");
    }
}
