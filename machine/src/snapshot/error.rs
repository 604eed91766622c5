//! Why there is no snapshot, or no machine from it.

use std::io;
use std::path::PathBuf;

use cpu::x86::ModelError;
use device::RestoreError;
use thiserror::Error;

use super::VERSION;

/// Errors of snapshots; each message is one line: fact, object, remedy.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The host refuses a file.
    #[error(
        "the snapshot's {what} cannot be written ({source}): see to room and permissions; the machine goes on"
    )]
    Write {
        /// Which file.
        what: String,
        /// What the host said.
        source: io::Error,
    },
    /// A file of the folder cannot be read.
    #[error("{} cannot be read ({source}): give a folder that guesthouse snapshot has made", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Something else.
    #[error("this is no snapshot: give a folder that guesthouse snapshot has made")]
    Foreign,
    /// One of a later program.
    #[error("the snapshot has format {0}, and this program knows formats to {VERSION}: take a newer program")]
    Newer(u32),
    /// It is not what was written.
    #[error("the snapshot is damaged ({0}): take another one")]
    Damaged(String),
    /// A part of the machine is not in it, or the other way round.
    #[error("the snapshot has {kind} {instance} {what}: it is of another machine")]
    Part {
        /// Which kind of part.
        kind: String,
        /// Which of them.
        instance: u16,
        /// What is wrong.
        what: String,
    },
    /// A part cannot be in this state.
    #[error(transparent)]
    State(#[from] RestoreError),
    /// The host's CPU is another one.
    #[error("the snapshot's guest was given another cpu: {0}")]
    Cpu(#[from] ModelError),
    /// The host's clock is another one.
    #[error(
        "the guest was told that its clock runs at {theirs} Hz, and this host's runs at {ours} Hz: restore it on a host like the first"
    )]
    Clock {
        /// This host's.
        ours: u64,
        /// The guest's.
        theirs: u64,
    },
    /// A folder of the host's is in use.
    #[error("the guest uses a shared folder, whose open files are not kept: unmount it first")]
    Share,
    /// A disk is not what it was.
    #[error("disk {} was written after the snapshot, which its guest would not know: take the snapshot with --stop, or run the disk with `snapshot`", .0.display())]
    Disk(PathBuf),
    /// A disk is not where it was.
    #[error("disk {} cannot be looked at ({source}): put it where it was when the snapshot was taken", path.display())]
    NoDisk {
        /// The disk.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A disk of a copy's.
    #[error("the machine is a copy, and its disk {} is based on memory of its own: copy or save the original", .0.display())]
    Nameless(PathBuf),
    /// A disk that two machines would write.
    #[error("the guest writes to disk {}, which a copy cannot share: run it with `snapshot`, or use snapshot --stop and restore", .0.display())]
    Written(PathBuf),
    /// A disk waits for the host.
    #[error("a disk of the machine waits for room on the host: make some first")]
    Stuck,
}

/// What is wrong with a text, which may be quoted in it: a line, in which nothing is a terminal's.
pub fn in_a_line(error: &serde_json::Error) -> String {
    error.to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_a_file_says_is_no_command_to_a_terminal() {
        let error = serde_json::from_str::<crate::MachineSpec>(r#"{"eng\ne\u001b[2J": 1}"#).unwrap_err();
        assert!(error.to_string().contains('\n'));
        let line = super::in_a_line(&error);
        assert!(line.contains("eng?e?[2J"), "{line}");
    }
}
