//! Disks of another size.

use std::path::Path;

use imago::raw::Raw;

use crate::lock::{self, Access};
use crate::qcow2::{Chain, ImageFile, LayeredImage, Layers};
use crate::{BlockError, Format, Image, SECTOR, file};

/// A size, or a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewSize {
    /// So many bytes.
    Exactly(u64),
    /// So many more.
    More(u64),
    /// So many fewer.
    Less(u64),
}

/// Changes the size of the disk in an image; its new size.
///
/// # Errors
/// The image is in use or cannot be used; a smaller disk without `shrink`.
pub fn resize(path: &Path, format: Option<Format>, size: NewSize, shrink: bool) -> Result<u64, BlockError> {
    let refuse = |source| BlockError::Open { path: path.to_owned(), source };
    let write_error = |source| BlockError::Write { path: path.to_owned(), source };
    let format = match format {
        Some(format) => format,
        None => Format::probe(&file::open(path, false)?).map_err(refuse)?,
    };
    let mut image = match format {
        Format::Raw => {
            let opened = file::open(path, true)?;
            lock::lock(&opened, path, Access::Exclusive)?;
            LayeredImage::new(Layers::new(
                Raw::open_image(ImageFile::new(opened, path, SECTOR), true).map_err(refuse)?,
            ))
        }
        // What it is based on is opened only to be read, and has to be: what is beyond its end is zero.
        Format::Qcow2 => LayeredImage::new(Chain::new(true).open(path, Some(format), true)?.0),
    };
    let old = image.len();
    let new = match size {
        NewSize::Exactly(len) => Some(len),
        NewSize::More(len) => old.checked_add(len),
        NewSize::Less(len) => old.checked_sub(len),
    };
    let impossible = |fact: &str| BlockError::Impossible { path: path.to_owned(), fact: fact.to_owned() };
    let new = new
        .filter(|len| len.is_multiple_of(SECTOR) && *len <= i64::MAX as u64)
        .ok_or_else(|| impossible("that is no size of a disk: give a multiple of 512"))?;
    if new < old && !shrink {
        return Err(impossible(
            "what is beyond the end of a smaller disk is lost: give --shrink if you mean it",
        ));
    }
    image.resize(new).map_err(write_error)?;
    Ok(new)
}
