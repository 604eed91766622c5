//! Those that are compared, and how each is told to run the same machine.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The other machine monitor.
pub const QEMU: &str = "qemu-system-x86_64";
/// What to do where it is missing.
pub const QEMU_REMEDY: &str = "apt-get install qemu-system-x86";

/// A machine monitor.
#[derive(Debug, Clone)]
pub enum Peer {
    /// Ours: the program, and the engine it takes.
    Guesthouse { program: PathBuf, engine: String },
    /// QEMU's translator with its smallest PC.
    Qemu,
}

/// What to run on it.
#[derive(Debug, Clone)]
pub struct Machine {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub append: String,
    /// Where the kernel came from.
    pub origin: String,
    pub cpus: u32,
    /// RAM in MiB.
    pub memory: u64,
}

impl Peer {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Guesthouse { .. } => "guesthouse",
            Self::Qemu => "qemu",
        }
    }

    /// The engine that runs the guest's code.
    pub fn engine(&self) -> &str {
        match self {
            Self::Guesthouse { engine, .. } => engine,
            Self::Qemu => "qemu",
        }
    }

    /// The command that runs `machine` with its serial line on the standard streams.
    pub fn command(&self, machine: &Machine) -> Command {
        let cpus = machine.cpus.to_string();
        let mut command = match self {
            Self::Guesthouse { program, engine } => {
                let mut command = Command::new(program);
                command.args(["run", "--engine", engine, "--memory", &format!("{}M", machine.memory)]);
                command.args(["--cpus", &cpus, "--no-reboot"]);
                command.args([
                    Path::new("--kernel"),
                    &machine.kernel,
                    Path::new("--initrd"),
                    &machine.initrd,
                ]);
                command.arg("--append");
                command
            }
            Self::Qemu => {
                let mut command = Command::new(QEMU);
                // Without ACPI: that of this board has no legacy devices, and a kernel that then cannot
                // calibrate its clock against the PIT waits for ever.
                command.args(["-M", "microvm,rtc=on,acpi=off", "-accel", "tcg", "-cpu", "max"]);
                command.args(["-m", &machine.memory.to_string(), "-smp", &cpus]);
                command.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
                command.args([Path::new("-kernel"), &machine.kernel, Path::new("-initrd"), &machine.initrd]);
                command.arg("-append");
                command
            }
        };
        command.arg(&machine.append);
        command
    }
}

/// QEMU's own word for its version; `None` where it is not installed.
pub fn qemu_version() -> Option<String> {
    let output = Command::new(QEMU).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}
