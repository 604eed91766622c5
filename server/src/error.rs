//! Why there is no answer.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Errors of the registry, the server and its client; each message is one line: fact, object, remedy.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The host refuses something in the folders of machines.
    #[error("{} cannot be used ({source}): set XDG_RUNTIME_DIR to a folder of yours with room", path.display())]
    Folder {
        /// File or folder.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The folder of machines is somebody else's, or open to others.
    #[error("{} is {what}: remove it, or set XDG_RUNTIME_DIR to a folder of yours", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A name that no machine can have.
    #[error(
        "name {0:?} is not possible: give up to 63 letters, digits, dots, dashes and underscores, a letter or digit first"
    )]
    Name(String),
    /// A name that is in use.
    #[error("name {name} is taken by machine {id}: {remedy}")]
    Taken {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
        /// What to do.
        remedy: String,
    },
    /// Nobody is called so.
    #[error("no machine is called {0:?}: guesthouse ps -a lists them")]
    Unknown(String),
    /// The beginning of several ids.
    #[error("{0:?} is the beginning of several ids: give more digits")]
    Ambiguous(String),
    /// The machine has to run for this.
    #[error("machine {0} is not running: guesthouse ps -a says how it ended")]
    Ended(String),
    /// The machine must not run for this.
    #[error("machine {0} is running: stop it first, or remove it with --force")]
    Running(String),
    /// The machine's process does not answer as it should.
    #[error("machine {id} does not answer ({what}): try again, or end it with guesthouse kill")]
    NoAnswer {
        /// The machine.
        id: String,
        /// What came instead.
        what: String,
    },
    /// The machine refuses.
    #[error("machine {id}: {message}")]
    Refused {
        /// The machine.
        id: String,
        /// Its words.
        message: String,
    },
    /// A snapshot's folder.
    #[error("{} cannot be made a snapshot ({source}): give a folder that is not there yet, in one with room", path.display())]
    Snapshot {
        /// The folder.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Files for a machine's state.
    #[error("there is no place for the machine's state ({0}): see to room and permissions")]
    Files(io::Error),
    /// The host refuses a socket or a thread.
    #[error("the control socket cannot be served ({0}): raise the host's limits of tasks and files")]
    Host(#[from] io::Error),
}
