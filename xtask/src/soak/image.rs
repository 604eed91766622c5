//! Images of disks that are written, and whether they are sound.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::tool;

/// An image in a folder.
pub struct Image {
    pub path: PathBuf,
    /// `raw` or `qcow2`.
    pub format: &'static str,
}

impl Image {
    /// An empty one.
    pub fn new(path: PathBuf, format: &'static str, mib: u64) -> Result<Self> {
        let image = Self { path, format };
        let size = format!("{mib}M");
        match format {
            "raw" => File::create(&image.path)?.set_len(mib << 20)?,
            _ => {
                let path = image.path.to_str().context("a path that is no text")?;
                let status =
                    Command::new("qemu-img").args(["create", "-q", "-f", format, path, &size]).status();
                if !status.context("qemu-img does not start")?.success() {
                    bail!("{path} cannot be made");
                }
            }
        }
        Ok(image)
    }

    /// One with an ext4 file system.
    pub fn with_ext4(path: PathBuf, format: &'static str, mib: u64) -> Result<Self> {
        let raw = path.with_extension("empty");
        File::create(&raw)?.set_len(mib << 20)?;
        tool("mke2fs", &["-q", "-t", "ext4"], &raw)?;
        convert(&raw, "raw", &path, format)?;
        fs::remove_file(&raw)?;
        Ok(Self { path, format })
    }

    /// Its own structure is sound. What a killed machine had not yet given back may be lost room, and nothing else.
    pub fn check(&self) -> Result<()> {
        if self.format == "raw" {
            return Ok(());
        }
        let output = Command::new("qemu-img").args(["check", "-f", self.format]).arg(&self.path).output();
        let output = output.context("qemu-img does not start")?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        match output.status.code() {
            Some(0 | 3) => Ok(()),
            _ => bail!("{}: {text}", self.path.display()),
        }
    }

    /// The file system on it is sound, without anything having to be repaired.
    pub fn check_ext4(&self) -> Result<()> {
        if self.format == "raw" {
            return tool("e2fsck", &["-fn"], &self.path);
        }
        let raw = self.path.with_extension("content");
        convert(&self.path, self.format, &raw, "raw")?;
        tool("e2fsck", &["-fn"], &raw)?;
        Ok(fs::remove_file(&raw)?)
    }
}

fn convert(from: &Path, format: &str, to: &Path, wanted: &str) -> Result<()> {
    let from = from.to_str().context("a path that is no text")?;
    tool("qemu-img", &["convert", "-f", format, "-O", wanted, from], to)
}
