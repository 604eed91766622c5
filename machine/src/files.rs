//! The files a machine boots from. They are read at every boot and not kept: a kernel and an initrd would
//! otherwise weigh on the host for as long as the guest lives.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use boot::{BootSpec, Entry, Image, Module};
use memory::GuestRam;

use crate::{MachineError, MachineSpec, Size};

/// Most that is read of a file: a vmlinux with debug information has a few hundred MiB.
const MAX_FILE: Size = Size::mib(2048);

/// Reads the files and loads them into guest RAM.
pub fn boot(spec: &MachineSpec, ram: &GuestRam, rsdp: u64) -> Result<Entry, MachineError> {
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
    let boot_spec = BootSpec {
        kernel: Image { name: &name, data: &kernel },
        modules: &modules,
        cmdline: &spec.cmdline,
        protocol: spec.boot,
        rsdp,
    };
    let entry = boot::load(ram, &boot_spec)?;
    tracing::info!(kernel = %name, protocol = %entry.protocol, rip = entry.state.rip, "loaded");
    Ok(entry)
}

fn read(path: &Path) -> Result<Vec<u8>, MachineError> {
    let error = |source| MachineError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(error)?;
    let kind = file.metadata().map_err(error)?.file_type();
    // A pipe has an end, a device may have none.
    if !kind.is_file() && !kind.is_fifo() {
        let what = if kind.is_dir() { "a directory" } else { "no regular file" };
        return Err(MachineError::NoFile { path: path.to_owned(), what });
    }
    let mut data = Vec::new();
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
    fn what_is_no_file_is_named() {
        let error = |path: &str| read(Path::new(path)).unwrap_err().to_string();
        assert!(error("/nonexistent/vmlinuz").starts_with("/nonexistent/vmlinuz cannot be read ("));
        assert_eq!(error("/proc"), "/proc is a directory: give a regular file");
        assert_eq!(error("/dev/zero"), "/dev/zero is no regular file: give a regular file");
    }
}
