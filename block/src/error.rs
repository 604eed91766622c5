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
    /// A qcow2 image that cannot be used.
    #[error("disk {} cannot be used as qcow2: {fact}; see what guesthouse image check says", path.display())]
    Qcow2 {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fact: String,
    },
    /// It would make us open a file that the user has not named.
    #[error("disk {} is based on '{name}': if you trust the image, allow that with backing=yes", path.display())]
    Backing {
        /// The file.
        path: PathBuf,
        /// What it names.
        name: String,
    },
    /// Not the name of a file.
    #[error("disk {} is based on '{name}', which is no file: give it another base with qemu-img rebase", path.display())]
    BackingName {
        /// The file.
        path: PathBuf,
        /// What it names.
        name: String,
    },
    /// A backing file whose format is not told.
    #[error("disk {} does not say which format '{name}' has: tell it with qemu-img rebase -u -F", path.display())]
    BackingFormat {
        /// The file.
        path: PathBuf,
        /// What it names.
        name: String,
    },
    /// An image is based on itself, or too many on each other.
    #[error("disk {} comes twice in a chain of backing files, or too late: give one that ends", path.display())]
    Loop {
        /// The file.
        path: PathBuf,
    },
    /// A backing file cannot be used.
    #[error("disk {} is based on another: {source}", path.display())]
    Behind {
        /// The file.
        path: PathBuf,
        /// Why its backing file cannot be used.
        source: Box<BlockError>,
    },
    /// There is a file of that name.
    #[error("{} is there already: give another name, or --force to replace it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// An image that cannot be.
    #[error("image {}: {fact}", path.display())]
    Impossible {
        /// The file.
        path: PathBuf,
        /// Why not, and what to do.
        fact: String,
    },
    /// Reading fails.
    #[error("disk {} cannot be read ({source}): see what guesthouse image check says", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Writing fails.
    #[error("image {} cannot be written ({source}): check the folder's permissions and the room on its disk", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The user does not want to wait.
    #[error("image {}: the work was interrupted and nothing is left of it", path.display())]
    Interrupted {
        /// The file.
        path: PathBuf,
    },
    /// No room for what a guest writes.
    #[error("{} takes no temporary file ({source}): name another folder by TMPDIR", path.display())]
    Overlay {
        /// The folder.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
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
