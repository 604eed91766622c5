use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What the user can do without a guest of ours.
pub const REMEDY: &str =
    "pass --kernel FILE --initrd FILE (the host's own /boot/vmlinuz and initrd work too)";

/// Why there is no guest. Each is one line with the object, the fact and the remedy.
#[derive(Debug, Error)]
pub enum GuestError {
    /// No such entry in `guests.toml`.
    #[error("no guest is named '{name}'; known: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names there are.
        known: String,
    },
    /// `guests.toml` is wrong.
    #[error("guests.toml: {0}; correct the entry")]
    Catalogue(String),
    /// There is no place for the cache.
    #[error("no cache folder: neither XDG_CACHE_HOME nor HOME names an absolute path; set one or {REMEDY}")]
    NoCache,
    /// A host program is missing.
    #[error("guest '{guest}' is built with {program}, which this host does not have; {REMEDY}")]
    NoProgram {
        /// The guest that was to be built.
        guest: String,
        /// The program that is not there.
        program: &'static str,
    },
    /// A host program that installs a whole system is missing.
    #[error(
        "guest '{guest}' is built with {program}, which this host does not have: install it, or boot an image of yours with --disk FILE"
    )]
    NoTool {
        /// The guest that was to be built.
        guest: String,
        /// The program that is not there.
        program: &'static str,
    },
    /// Installing a whole system failed.
    #[error(
        "guest '{guest}' cannot be built: {fact}; check the network and the free disk space, or boot an image of yours with --disk FILE"
    )]
    Install {
        /// The guest that was to be built.
        guest: String,
        /// What went wrong, on one line.
        fact: String,
    },
    /// The host does not let an ordinary user install a whole system.
    #[error(
        "guest '{guest}' cannot be built by an ordinary user: {fact} (as root, once), or boot an image of yours with --disk FILE"
    )]
    Rootless {
        /// The guest that was to be built.
        guest: String,
        /// What is missing, and what adds it.
        fact: String,
    },
    /// The package manager failed.
    #[error(
        "package {package}: {fact}; check the network, the free disk space and the host's package sources, or {REMEDY}"
    )]
    Package {
        /// The package.
        package: String,
        /// What the package manager said, on one line.
        fact: String,
    },
    /// A package is not what it should be.
    #[error("{}: {fact}; run again to fetch it anew, or {REMEDY}", path.display())]
    Deb {
        /// The package file.
        path: PathBuf,
        /// What is wrong with it.
        fact: String,
    },
    /// The file system refused.
    #[error("{}: cannot {action}: {source}; free the disk or set XDG_CACHE_HOME to a writable folder, or {REMEDY}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The caller cancelled the work.
    #[error("building guest '{0}' was interrupted; nothing was kept")]
    Interrupted(String),
}

impl GuestError {
    /// For `map_err`: an I/O error with what it was about.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
