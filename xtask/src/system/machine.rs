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

/// What a card is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// A user network which has the host's loopback at [`HOST`](super::HOST).
    User,
    /// What two machines share: a switch of ours, or a socket of QEMU's, at which the first of them listens.
    Shared { switch: &'static str, port: u16, end: u8 },
}

impl Net {
    fn ours(self) -> String {
        match self {
            Self::User => "user,loopback=yes".to_owned(),
            Self::Shared { switch, .. } => switch.to_owned(),
        }
    }

    /// QEMU's, and the end of the card's address.
    fn of_qemu(self) -> (String, u8) {
        match self {
            Self::User => ("user,id=net".to_owned(), 0x56),
            Self::Shared { port, end, .. } => {
                let role = if end == 1 { "listen" } else { "connect" };
                (format!("socket,id=net,{role}=127.0.0.1:{port}"), end)
            }
        }
    }
}

/// A PC with virtio disks and a card.
#[derive(Debug, Clone)]
pub struct Machine {
    pub system: System,
    pub cpus: u32,
    /// RAM.
    pub mib: u64,
    pub disks: Vec<Disk>,
    pub net: Net,
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
                command.args(["run", "--engine", engine, "--cpus", &cpus, "--net", &self.net.ours()]);
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
                let (netdev, end) = self.net.of_qemu();
                let card = format!("virtio-net-pci,netdev=net,romfile=,mac=52:54:00:12:34:{end:02x}");
                command.args(["-netdev", &netdev, "-device", &card]);
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
