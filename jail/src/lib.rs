//! What the process of a machine or of a switch keeps when everything is set up: the files, the system calls and the capabilities it needs.
//!
//! A process enters a [`Jail`] once, for good. From then on its threads are limited by the kernel: all of them by one list
//! of system calls, by the paths that were named (Landlock), by what is left of root's capabilities, and by namespaces of their
//! own where the host allows them; a thread that was made by [`spawn`] by a shorter list, that of its [`Kind`]. Lists are data, in `calls.rs`; a call that is not on them
//! ends the process with a line that names it and exit status [`REFUSED_STATUS`].
//!
//! In a process that never enters a jail, [`spawn`] makes ordinary threads.
//!
//! # What else may be wanted later
//! Nothing outside can be opened any more. What a user names later is opened by whoever talks to the user: the client, who
//! sends the open *file* over the machine's socket. (A folder's descriptor does not help: Landlock looks at where a file is,
//! not at how it was reached.) What the machine itself is known to need is named at the start, as `/dev/kvm` is.

mod calls;
mod capabilities;
mod filter;
mod host;
mod jail;
mod kind;
mod namespaces;
mod paths;
mod refused;
mod thread;

pub use host::Host;
pub use jail::{Enforced, Jail};
pub use kind::Kind;
pub use paths::Access;
pub use refused::{REFUSED_STATUS, before_refusal, report_to};
pub use thread::{narrow, spawn};
