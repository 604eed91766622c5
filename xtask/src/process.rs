//! Running other programs, loudly.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The folder of the workspace.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
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

/// True if a program of that name is in PATH.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
