//! The files a machine boots from. They are read at every boot and not kept: a kernel and an initrd would
//! otherwise weigh on the host for as long as the guest lives.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use block::BlockBackend;
use boot::{BootSpec, Entry, Image, Module};
use memory::GuestRam;

use crate::{ConsoleKind, MachineError, MachineSpec, Size, disks};

/// Most that is read of a file: a vmlinux with debug information has a few hundred MiB.
const MAX_FILE: Size = Size::mib(2048);
/// What a system on a disk is told if it says nothing of a serial port itself.
const SERIAL_CONSOLE: &str = "console=ttyS0,115200";
/// And of a terminal that is a virtio console: one logs in there and nowhere else. It is no console of the kernel's, where Linux takes Ctrl-O
/// for SysRq; what the kernel says comes by the serial port.
const VIRTIO_LOGIN: &str = "systemd.wants=serial-getty@hvc0.service systemd.mask=serial-getty@ttyS0.service";

/// Loads the kernel, that of the definition or that of the first disk that has one, into guest RAM.
pub fn boot(
    spec: &MachineSpec,
    disks: &[Arc<dyn BlockBackend>],
    ram: &GuestRam,
    rsdp: u64,
) -> Result<Entry, MachineError> {
    if spec.kernel.as_os_str().is_empty() {
        return from_disk(spec, disks, ram, rsdp);
    }
    let kernel = read(&spec.kernel)?;
    let initrd = spec.initrd.iter().map(|path| (path.as_path(), ""));
    let modules = spec.modules.iter().map(|m| (m.path.as_path(), m.args.as_str()));
    let files: Vec<_> = initrd
        .chain(modules)
        .map(|(path, args)| Ok((path.display().to_string(), read(path)?, args)))
        .collect::<Result<_, MachineError>>()?;
    let modules: Vec<_> =
        files.iter().map(|(name, data, args)| Module { image: Image { name, data }, args }).collect();
    let name = spec.kernel.display().to_string();
    load(spec, ram, rsdp, Image { name: &name, data: &kernel }, &modules, &spec.cmdline)
}

fn from_disk(
    spec: &MachineSpec,
    disks: &[Arc<dyn BlockBackend>],
    ram: &GuestRam,
    rsdp: u64,
) -> Result<Entry, MachineError> {
    let system = disks::system(&spec.disks, disks)?.ok_or(MachineError::NoSystem)?;
    let loaded = system.load()?;
    let initrd =
        loaded.initrd.as_ref().map(|data| Module { image: Image { name: "its initrd", data }, args: "" });
    let cmdline = command_line(&system.options, spec.console, &spec.cmdline);
    let kernel = Image { name: system.kernel(), data: &loaded.kernel };
    load(spec, ram, rsdp, kernel, initrd.as_slice(), &cmdline)
}

/// What the disk's loader would say and what the user adds. Without a console on the serial port he would see nothing.
fn command_line(options: &str, console: ConsoleKind, added: &str) -> String {
    let has = |kind: &str| {
        let mut words = options.split_whitespace().chain(added.split_whitespace());
        words.any(|word| word.strip_prefix("console=").is_some_and(|name| name.starts_with(kind)))
    };
    let serial = if has("ttyS") { "" } else { SERIAL_CONSOLE };
    let login = if console != ConsoleKind::Virtio || has("hvc") { "" } else { VIRTIO_LOGIN };
    let parts = [options, serial, login, added];
    parts.iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

fn load(
    spec: &MachineSpec,
    ram: &GuestRam,
    rsdp: u64,
    kernel: Image<'_>,
    modules: &[Module<'_>],
    cmdline: &str,
) -> Result<Entry, MachineError> {
    let name = kernel.name;
    let entry = boot::load(ram, &BootSpec { kernel, modules, cmdline, protocol: spec.boot, rsdp })?;
    tracing::info!(kernel = %name, %cmdline, protocol = %entry.protocol, rip = entry.state.rip, "loaded");
    Ok(entry)
}

fn read(path: &Path) -> Result<Vec<u8>, MachineError> {
    let error = |source| MachineError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(error)?;
    let meta = file.metadata().map_err(error)?;
    let kind = meta.file_type();
    // A pipe has an end, a device may have none.
    if !kind.is_file() && !kind.is_fifo() {
        let what = if kind.is_dir() { "a directory" } else { "no regular file" };
        return Err(MachineError::NoFile { path: path.to_owned(), what });
    }
    let mut data = Vec::with_capacity(meta.len().min(MAX_FILE.get()) as usize + 1);
    file.take(MAX_FILE.get() + 1).read_to_end(&mut data).map_err(error)?;
    if data.len() as u64 > MAX_FILE.get() {
        return Err(MachineError::TooLarge { path: path.to_owned(), max: MAX_FILE });
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disks_command_line_gets_a_console_and_what_the_user_adds() {
        let serial = |options, added| command_line(options, ConsoleKind::Serial, added);
        assert_eq!(serial("root=/dev/vda1 ro", ""), "root=/dev/vda1 ro console=ttyS0,115200");
        assert_eq!(serial("ro console=ttyS0", "single"), "ro console=ttyS0 single");
        assert_eq!(serial("", "console=ttyS1"), "console=ttyS1");
        let virtio = |options, added| command_line(options, ConsoleKind::Virtio, added);
        assert_eq!(virtio("ro", "single"), format!("ro {SERIAL_CONSOLE} {VIRTIO_LOGIN} single"));
        assert_eq!(virtio("console=ttyS0", "console=hvc0"), "console=ttyS0 console=hvc0");
    }

    #[test]
    fn what_is_no_file_is_named() {
        let error = |path: &str| read(Path::new(path)).unwrap_err().to_string();
        assert!(error("/nonexistent/vmlinuz").starts_with("/nonexistent/vmlinuz cannot be read ("));
        assert_eq!(error("/proc"), "/proc is a directory: give a regular file");
        assert_eq!(error("/dev/zero"), "/dev/zero is no regular file: give a regular file");
    }
}
