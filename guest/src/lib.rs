//! Guests that the user need not bring: described in `guests.toml`, built on first use from packages of the
//! host's distribution, kept in the user's cache folder. Also both ends of the line between a command in such
//! a guest and the terminal it was called from ([`Session`], [`LineDecoder`]).
//!
//! Knows no machine: the outcome of everything here is files and bytes.

mod apt;
mod cache;
mod catalogue;
pub mod cpio;
mod deb;
mod disk;
mod error;
mod initramfs;
mod line;
mod programs;
mod rootless;
mod session;

pub use cache::{Built, Cache, Cancel, FileRecord, Manifest, PackageRecord, Step};
pub use catalogue::{Catalogue, DiskEntry, GuestEntry, PackageSource, Programs};
pub use deb::first_match;
pub use disk::{BuiltDisk, DiskManifest};
pub use error::{GuestError, REMEDY};
pub use line::{LineDecoder, LineEvent, encode_input, end_of_input};
pub use session::{CommandMode, Session, WindowSize};
