//! What is done to images outside of machines: made, copied, looked at, checked, resized.

mod check;
mod copy;
mod create;
mod ext4;
mod info;
mod resize;

pub use check::{Check, check};
pub use copy::convert;
pub use create::{CreateOptions, create};
pub use ext4::create_ext4;
pub use info::{Info, info};
pub use resize::{NewSize, resize};

use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::BlockError;

/// Told how much of the work is done, of how much; false ends it.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// A file beside `path`, which becomes `path` when it is whole.
fn beside(path: &Path, force: bool) -> Result<NamedTempFile, BlockError> {
    if !force && path.symlink_metadata().is_ok() {
        return Err(BlockError::Exists { path: path.to_owned() });
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let make = || {
        let mut builder = tempfile::Builder::new();
        // As any file that a user makes.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        builder.prefix(".guesthouse-").permissions(mode).tempfile_in(folder)
    };
    make().map_err(|source| BlockError::Write { path: path.to_owned(), source })
}

/// Brings the file to the disk and gives it its name.
fn keep(file: NamedTempFile, path: &Path, force: bool) -> Result<(), BlockError> {
    let kept = || -> io::Result<()> {
        file.as_file().sync_all()?;
        match force {
            true => file.persist(path)?,
            false => file.persist_noclobber(path)?,
        };
        Ok(())
    };
    kept().map_err(|source| BlockError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
