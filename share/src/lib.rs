//! Folders of the host's as a guest sees them: requests of Linux's FUSE protocol (linux/fuse.h, version 7.31 and later)
//! carried out below one directory. Knows no machine: a request is bytes, file data is wherever its [`Data`] says.
//!
//! # Confinement
//! The host's kernel is only ever asked for one name in a directory that is held open, or for a file that is held open
//! itself. Names have no `/`, are neither `.` nor `..`, and a symbolic link is read for the guest and never followed. What
//! is no regular file and no directory is not opened: the guest's own kernel makes of device nodes, pipes and sockets what
//! they are there.
//!
//! # Bounds
//! A guest decides how much it looks at. Nodes, open files, descriptors and the size of answers have limits, beyond which
//! it gets ENFILE; see [`nodes`] and [`handles`].
//!
//! # NOT modelled
//! Extended attributes and access control lists (ENOSYS, so that the guest does not ask again), locks between guest and
//! host (the guest keeps its own), ioctls, files without a name (O_TMPFILE), notifications to the guest, the DAX window.

mod config;
mod handles;
mod host;
mod identity;
mod nodes;
mod server;
mod wire;

pub use config::{Cache, ShareError, ShareOptions};
pub use server::{Data, MAX_DATA, MAX_REQUEST, Share};
