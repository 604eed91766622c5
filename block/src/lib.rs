//! Disks: what a virtual disk asks of its image ([`BlockBackend`]), and images that can do it.
//!
//! Knows no machine. Requests name memory by [`Buffers`] and answer by a callback, from any thread.

pub mod archive;
mod backend;
mod buffers;
mod error;
mod file;
mod format;
mod guard;
mod lock;
mod open;
mod overlay;
mod patient;
mod pool;
mod qcow2;
mod raw;
pub mod tools;
mod uring;

pub use backend::{BlockBackend, Completion, Operation, Request, SECTOR};
pub use buffers::Buffers;
pub use error::BlockError;
pub use file::zero;
pub use format::Format;
pub use open::{ImageOptions, open, open_with_overlay};
pub use overlay::{Overlay, OverlayLog};
pub use patient::{Patient, Watcher};
pub use pool::{Image, Pool};
pub use qcow2::{LayeredImage, temporary_folder};
pub use raw::RawImage;
pub use uring::Uring;
