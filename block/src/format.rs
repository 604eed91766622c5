//! Formats of images, and how one is recognised.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a file holds a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Byte for byte.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

impl Format {
    /// All of them, for help texts.
    pub const NAMES: [&'static str; 2] = ["raw", "qcow2"];

    /// What the first bytes of a disk say: raw, unless they are another format's mark.
    pub fn of(start: &[u8]) -> Self {
        if start.starts_with(b"QFI\xfb") { Self::Qcow2 } else { Self::Raw }
    }

    /// What a file's first bytes say.
    pub(crate) fn probe(file: &File) -> io::Result<Self> {
        let mut start = [0; 4];
        match file.read_exact_at(&mut start, 0) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            _ => Ok(Self::of(&start)),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Raw, Self::Qcow2]
            .into_iter()
            .find(|format| format.to_string() == name)
            .ok_or_else(|| format!("no image format {name:?}: take one of {}", Self::NAMES.join(", ")))
    }
}
