//! How each machine monitor is told to run the same machine.

use std::path::PathBuf;
use std::process::Command;

use super::System;
use crate::bench::peer::{Peer, QEMU};

/// A virtio disk.
#[derive(Debug, Clone)]
pub struct Disk {
    pub path: PathBuf,
    /// `raw` or `qcow2`.
    pub format: &'static str,
    /// What is written is gone at the end.
    pub snapshot: bool,
}

/// A PC with virtio disks and a card at a user network which has the host's loopback at [`HOST`](super::HOST).
#[derive(Debug, Clone)]
pub struct Machine {
    pub system: System,
    pub cpus: u32,
    /// RAM.
    pub mib: u64,
    pub disks: Vec<Disk>,
    /// It starts again when its system asks for it, instead of ending.
    pub reboots: bool,
}

impl Machine {
    /// The command that runs it with its serial line on the standard streams.
    pub fn command(&self, peer: &Peer) -> Command {
        let cpus = self.cpus.to_string();
        let mut command;
        match peer {
            Peer::Guesthouse { program, engine } => {
                command = Command::new(program);
                command.args(["run", "--engine", engine, "--cpus", &cpus, "--net", "user,loopback=yes"]);
                command.args(["--memory", &format!("{}M", self.mib)]);
                for Disk { path, format, snapshot } in &self.disks {
                    let snapshot = if *snapshot { ",snapshot" } else { "" };
                    command.args(["--disk", &format!("{},format={format}{snapshot}", path.display())]);
                }
                if !self.reboots {
                    command.arg("--no-reboot");
                }
                command.arg("--kernel").arg(&self.system.kernel).arg("--initrd").arg(&self.system.initrd);
                command.args(["--append", &self.system.append]);
            }
            Peer::Qemu => {
                command = Command::new(QEMU);
                command.args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", &cpus]);
                command.args(["-m", &self.mib.to_string(), "-nodefaults", "-display", "none"]);
                command.args(["-serial", "stdio", "-device", "virtio-rng-pci"]);
                command.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
                for (i, Disk { path, format, snapshot }) in self.disks.iter().enumerate() {
                    let snapshot = if *snapshot { ",snapshot=on" } else { "" };
                    let drive =
                        format!("if=none,id=disk{i},file={},format={format}{snapshot}", path.display());
                    command.args(["-drive", &drive, "-device", &format!("virtio-blk-pci,drive=disk{i}")]);
                }
                if !self.reboots {
                    command.arg("-no-reboot");
                }
                command.arg("-kernel").arg(&self.system.kernel).arg("-initrd").arg(&self.system.initrd);
                command.args(["-append", &self.system.append]);
            }
        }
        command
    }
}
