//! Why an image cannot be used.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Errors of images; each message is one line: fact, object, remedy.
#[derive(Debug, Error)]
pub enum BlockError {
    /// The host refuses the file.
    #[error("disk {} cannot be opened ({source}): check the path and its permissions", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Not a file with content.
    #[error("disk {} is {what}: give a regular file or a block device", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Not a number of sectors.
    #[error("disk {} has {len} bytes, which is not a multiple of 512: extend it with truncate -s %512", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its size.
        len: u64,
    },
    /// Somebody else uses it.
    #[error("disk {} is in use by process {}: end that one, or open it readonly in both", path.display(), holder(pid))]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who holds the lock, if the host says.
        pid: Option<i32>,
    },
    /// The host gives no threads.
    #[error("the host refuses a thread for disk {} ({source}): raise its limit of tasks", path.display())]
    Thread {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

fn holder(pid: &Option<i32>) -> String {
    pid.map_or_else(|| "that is not known".to_owned(), |pid| pid.to_string())
}
