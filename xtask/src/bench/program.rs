//! Programs that run on the host and in guests alike.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use guest::cpio::{self, Node};

use crate::process::root;

/// A file of benches/.
pub fn source(name: &str) -> PathBuf {
    root().join("benches").join(name)
}

/// Compiles a program of benches/, which brings its own start code, to a static one that every x86-64 CPU runs.
pub fn compile(name: &str, main: &str, to: &Path) -> Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition=2024", "--crate-type=bin", "--crate-name", name]);
    command.arg(source(main)).arg("-o").arg(to);
    for option in [
        "panic=abort",
        "opt-level=3",
        "debuginfo=0",
        "strip=symbols",
        "target-cpu=x86-64",
        "relocation-model=static",
        "link-arg=-nostdlib",
        "link-arg=-nostartfiles",
        "link-arg=-static",
        "link-arg=-no-pie",
    ] {
        command.args(["-C", option]);
    }
    let status = command.status().context("rustc does not start")?;
    if !status.success() {
        bail!("{} does not compile ({status})", source(main).display());
    }
    Ok(())
}

/// Takes the guest's busybox out of its initramfs, to be run on the host.
pub fn extract_busybox(initramfs: &[u8], to: &Path) -> Result<()> {
    let (archive, _) = cpio::read(initramfs).context("the guest's initramfs is no archive")?;
    let busybox = archive.iter().find_map(|(path, _, node)| match node {
        Node::File(data) if path == b"bin/busybox" => Some(data),
        _ => None,
    });
    let write = || {
        fs::write(to, busybox.map_or(&[][..], Vec::as_slice))?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o755))
    };
    write().with_context(|| format!("{} cannot be written", to.display()))
}
