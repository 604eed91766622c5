//! What a share is to be, and why there is none.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How long a guest may believe what it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// A second; data as long as the file's times and size say the same. What the host changes is seen after that.
    #[default]
    Auto,
    /// Not at all: every look is a request, data is never kept. Shared writable mappings are not possible.
    None,
    /// For ever, and what it writes may come later: for folders that nobody else changes.
    Always,
}

impl Cache {
    /// All of them, for help texts.
    pub const NAMES: [&'static str; 3] = ["auto", "none", "always"];
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Always => "always",
        })
    }
}

impl FromStr for Cache {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Auto, Self::None, Self::Always]
            .into_iter()
            .find(|k| k.to_string() == name)
            .ok_or_else(|| format!("no cache {name:?}: take one of {}", Self::NAMES.join(", ")))
    }
}

/// What a share is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareOptions {
    /// The folder.
    pub path: PathBuf,
    /// The guest cannot change anything.
    pub read_only: bool,
    /// How long the guest may believe what it has seen.
    pub cache: Cache,
    /// The guest may make set-user-id and set-group-id programs, which run on the host as well.
    pub set_id: bool,
    /// Most descriptors of this process that the share may hold.
    pub descriptors: usize,
}

/// Why a folder cannot be shared; one line: fact, object, remedy.
#[derive(Debug, Error)]
pub enum ShareError {
    /// The folder cannot be opened.
    #[error("{} cannot be shared ({source}): give a folder that you may read", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// There is no /proc, by which files are opened again.
    #[error("/proc/self/fd cannot be opened ({0}): shares need /proc to be mounted")]
    Proc(io::Error),
    /// There is no openat2.
    #[error("the host's kernel has no openat2 ({0}): shares need Linux 5.6")]
    Kernel(io::Error),
}
