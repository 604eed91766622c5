//! The system that is on a disk: its kernel, initial RAM disk and command line, taken out of its own /boot as its
//! boot loader would take them.
//!
//! NOT modelled: file systems other than ext2, 3 and 4, volumes (LVM, RAID), encryption; a menu.

mod entries;
mod files;
mod grub;
mod partition;

use std::io;
use std::sync::Arc;

use thiserror::Error;

use files::Files;
use partition::partitions;

/// Most bytes of a configuration file, and of a kernel or initial RAM disk.
const MAX_TEXT: u64 = 4 << 20;
const MAX_FILE: u64 = 512 << 20;

/// Something with bytes at offsets.
pub trait ReadAt {
    /// Number of bytes.
    fn len(&self) -> u64;
    /// True if there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads bytes, all of them.
    ///
    /// # Errors
    /// They are beyond the end, or the host cannot read them.
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<()>;
}

/// Why a system on a disk cannot be booted.
#[derive(Debug, Error)]
#[error("{path} on the disk cannot be read ({fact}): boot another kernel with --kernel FILE")]
pub struct DiskError {
    path: String,
    fact: String,
}

/// What is to be booted, with names as in the file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Choice {
    kernel: String,
    initrds: Vec<String>,
    options: String,
}

/// A system that was found.
pub struct System {
    files: Files,
    kernel: String,
    initrds: Vec<String>,
    /// The kernel's command line.
    pub options: String,
}

/// Files of a system.
pub struct Loaded {
    /// The kernel.
    pub kernel: Vec<u8>,
    /// All its initial RAM disks, one behind the other.
    pub initrd: Option<Vec<u8>>,
}

impl System {
    /// Looks for a system on `disk`, which its kernel calls `name`, such as `vda`. None if there is no kernel.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn find(disk: &Arc<dyn ReadAt>, name: &str) -> io::Result<Option<Self>> {
        let mut systems = Vec::new();
        for partition in partitions(disk.as_ref())? {
            if let Some(files) = Files::open(disk, &partition.range) {
                systems.push((files, partition));
            }
        }
        // What a boot loader was told comes before what looks as if it could be booted.
        for (files, _) in &systems {
            if let Some(choice) = configured(files) {
                return Ok(Some(Self::new(files, choice)));
            }
        }
        Ok(systems.iter().find_map(|(files, partition)| {
            let number = partition.number.map(|n| n.to_string()).unwrap_or_default();
            Some(Self::new(files, newest(files, &format!("root=/dev/{name}{number} ro"))?))
        }))
    }

    fn new(files: &Files, choice: Choice) -> Self {
        // A boot partition of its own may be called /boot in its own entries.
        let there = |path: &str| files.has(path);
        let place = |path: String| match path.strip_prefix("/boot") {
            Some(short) if !there(&path) && short.starts_with('/') && there(short) => short.to_owned(),
            _ => path,
        };
        let absolute =
            |path: String| if path.starts_with('/') { place(path) } else { place(format!("/{path}")) };
        Self {
            files: files.clone(),
            kernel: absolute(choice.kernel),
            initrds: choice.initrds.into_iter().map(absolute).collect(),
            options: choice.options,
        }
    }

    /// Path of the kernel on the disk.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Reads kernel and initial RAM disks.
    ///
    /// # Errors
    /// One of them is not there, or larger than any.
    pub fn load(&self) -> Result<Loaded, DiskError> {
        let read = |path: &str| {
            self.files.read(path, MAX_FILE).map_err(|fact| DiskError { path: path.to_owned(), fact })
        };
        let mut initrd = Vec::new();
        for path in &self.initrds {
            // Archives begin at multiples of four.
            initrd.resize(initrd.len().next_multiple_of(4), 0);
            initrd.append(&mut read(path)?);
        }
        Ok(Loaded { kernel: read(&self.kernel)?, initrd: (!self.initrds.is_empty()).then_some(initrd) })
    }
}

/// What the configuration of a boot loader says.
fn configured(files: &Files) -> Option<Choice> {
    for prefix in ["/boot", ""] {
        let mut found: Vec<_> = files
            .names(&format!("{prefix}/loader/entries"))
            .into_iter()
            .filter(|name| name.ends_with(".conf"))
            .filter_map(|name| entries::parse(&text(files, &format!("{prefix}/loader/entries/{name}"))?))
            .collect();
        found.sort_by(|a, b| entries::compare(&a.0, &b.0));
        if let Some((_, choice)) = found.pop() {
            return Some(choice);
        }
        let grub =
            ["grub", "grub2"].iter().find_map(|folder| text(files, &format!("{prefix}/{folder}/grub.cfg")));
        if let Some(choice) = grub.and_then(|text| grub::parse(&text)) {
            return Some(choice);
        }
    }
    None
}

/// The kernel of the highest version, and what is named after it.
fn newest(files: &Files, options: &str) -> Option<Choice> {
    for folder in ["/boot", "/"] {
        let all = files.names(folder);
        let versions = all.iter().filter_map(|name| name.strip_prefix("vmlinuz-"));
        let Some(version) = versions.max_by(|a, b| entries::compare(a, b)) else { continue };
        let folder = folder.trim_end_matches('/');
        let initrd = [format!("initrd.img-{version}"), format!("initramfs-{version}.img")];
        let initrds = initrd.iter().filter(|name| all.contains(name)).map(|name| format!("{folder}/{name}"));
        return Some(Choice {
            kernel: format!("{folder}/vmlinuz-{version}"),
            initrds: initrds.collect(),
            options: options.to_owned(),
        });
    }
    None
}

fn text(files: &Files, path: &str) -> Option<String> {
    let bytes = files.read(path, MAX_TEXT).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
