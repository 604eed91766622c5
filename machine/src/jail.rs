//! What a machine's process keeps when it is in its jail: what the definition names, and what every machine needs.

use std::path::{Path, PathBuf};

use block::Format;
use block::tools::info;
use jail::{Access, Jail, Kind};
use net::UserNet;
use net::switch::Home;

use crate::snapshot::file::INHERITED;
use crate::{DiskSpec, MachineSpec, NetSpec};

/// Threads that every machine has.
const KINDS: [Kind; 7] =
    [Kind::Main, Kind::Vcpu, Kind::KvmVcpu, Kind::Timer, Kind::Board, Kind::Device, Kind::Disk];
/// Most images in a chain that are looked for.
const MAX_LAYERS: usize = 64;

impl MachineSpec {
    /// The jail of a process that makes this machine, again if need be, and does nothing else. It has to be entered before
    /// the machine is made: threads that are there already keep their files.
    #[must_use]
    pub fn jail(&self) -> Jail {
        // Threads of guests cannot get executable memory; it stays, whatever engine will want it.
        let _ = interp::refusal();
        let mut jail = Jail::default();
        for kind in KINDS {
            jail.kind(kind);
        }
        if self.direct {
            jail.kind(Kind::DirectVcpu);
        }
        jail.allow("/proc/self", Access::Write).allow("/proc/meminfo", Access::Read);
        jail.allow("/proc/locks", Access::Read).allow("/sys/fs/cgroup", Access::Read);
        jail.allow("/sys/devices/system/cpu", Access::Read).allow("/proc/sys/vm", Access::Read);
        // A machine can move to another engine while it runs.
        jail.allow("/dev/kvm", Access::Device);
        let files =
            [&self.kernel].into_iter().chain(&self.initrd).chain(self.modules.iter().map(|m| &m.path));
        for file in files.filter(|path| !path.as_os_str().is_empty()) {
            jail.allow(file, Access::Read);
        }
        if let Some(group) = &self.limits.cgroup {
            jail.allow(group, Access::Write);
        }
        if self.hugepages.is_some() {
            jail.allow("/sys/kernel/mm/hugepages", Access::Read);
        }
        for disk in &self.disks {
            allow_disk(&mut jail, disk);
        }
        for net in &self.nets {
            allow_net(&mut jail, net);
        }
        for share in &self.shares {
            jail.kind(Kind::Share);
            jail.allow(&share.path, if share.readonly { Access::Read } else { Access::All });
        }
        let sockets =
            self.ports.iter().map(|port| &port.path).chain(self.vsock.iter().map(|vsock| &vsock.path));
        for socket in sockets {
            jail.kind(Kind::Socket);
            jail.allow(folder_of(socket), Access::Sockets);
        }
        jail
    }
}

fn allow_disk(jail: &mut Jail, disk: &DiskSpec) {
    let writable = !disk.readonly && !disk.snapshot;
    // A file without a name is this process's anyway, and no rule can be about it.
    if !disk.path.starts_with(INHERITED) {
        jail.allow(&disk.path, if writable { Access::Write } else { Access::Read });
    }
    if disk.snapshot {
        jail.allow(block::temporary_folder(), Access::Files);
    }
    // A user who does not want what the image names is told so when it is opened.
    let (mut path, mut format) = (disk.path.clone(), disk.format);
    for _ in 0..if disk.backing { MAX_LAYERS } else { 0 } {
        let Ok(image) = info(&path, format) else { return };
        let Some(behind) = image.full_backing_filename else { return };
        format = match image.backing_filename_format.as_deref() {
            Some("file") => Some(Format::Raw),
            name => name.and_then(|name| name.parse().ok()),
        };
        jail.allow(&behind, Access::Read);
        path = behind;
    }
}

fn allow_net(jail: &mut Jail, net: &NetSpec) {
    let capture = match net {
        NetSpec::User(config) => {
            UserNet::allow(jail, config);
            &config.capture
        }
        NetSpec::Tap(config) => {
            jail.kind(Kind::Link).allow("/dev/net/tun", Access::Device).share_network();
            &config.capture
        }
        NetSpec::Switch(config) => {
            jail.kind(Kind::Link).allow(Home::of_user().path(), Access::Read);
            &config.capture
        }
    };
    if let Some(capture) = capture {
        jail.allow(folder_of(capture), Access::Make).allow(capture, Access::Write);
    }
}

fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}
