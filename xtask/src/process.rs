//! Running other programs, loudly.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The folder of the workspace.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A program that ends with whoever has this.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs cargo in the workspace's folder; anything but success is an error.
pub fn cargo(arguments: &[&str], more: &[&str]) -> Result<()> {
    let mut command = cargo_command(arguments);
    command.args(more);
    eprintln!("xtask: cargo {} {}", arguments.join(" "), more.join(" "));
    let status = command.status().context("cargo does not start")?;
    if !status.success() {
        bail!("cargo {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// What cargo prints on stdout.
pub fn cargo_output(arguments: &[&str]) -> Result<Vec<u8>> {
    let output = cargo_command(arguments).output().context("cargo does not start")?;
    if !output.status.success() {
        bail!("cargo {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Where cargo puts what it builds.
pub fn target_folder() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let metadata = cargo_output(&["metadata", "--format-version", "1", "--no-deps", "--locked"])?;
    let metadata: Metadata = serde_json::from_slice(&metadata).context("the output of cargo metadata")?;
    Ok(metadata.target_directory)
}

/// Installs a package of the host's distribution if a program of it is missing.
pub fn provide(program: &str, package: &str) -> Result<()> {
    if installed(program) {
        return Ok(());
    }
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if root { "apt-get" } else { "sudo" });
    command.args(if root { &[][..] } else { &["-n", "apt-get"] });
    command.args(["-qy", "install", "--no-install-recommends", package]);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdout(std::io::stderr());
    eprintln!("xtask: apt-get install {package}");
    let done = command.status().is_ok_and(|status| status.success());
    if !done || !installed(program) {
        bail!("{program} is missing and cannot be installed: apt-get install {package}");
    }
    Ok(())
}

/// True if a program of that name is in PATH.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
