//! Disks: what a virtual disk asks of its image ([`BlockBackend`]), and images that can do it.
//!
//! Knows no machine. Requests name memory by [`Buffers`] and answer by a callback, from any thread.

mod backend;
mod buffers;
mod error;
mod lock;
mod pool;
mod raw;
mod uring;

pub use backend::{BlockBackend, Completion, Operation, Request, SECTOR};
pub use buffers::Buffers;
pub use error::BlockError;
pub use pool::{Image, Pool};
pub use raw::RawImage;
pub use uring::Uring;
