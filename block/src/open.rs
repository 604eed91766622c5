//! From what a user says about a disk to something that takes requests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::guard::Guard;
use crate::qcow2::{Chain, overlay};
use crate::{BlockBackend, BlockError, Format, Image, LayeredImage, Overlay, Patient, Pool, RawImage, Uring};

/// A disk as its user describes it.
#[derive(Debug, Clone, Default)]
pub struct ImageOptions {
    /// The file or block device.
    pub path: PathBuf,
    /// What is in it; without, its first bytes say it.
    pub format: Option<Format>,
    /// It is not written.
    pub read_only: bool,
    /// It is not written; what is, is kept elsewhere and gone with the disk.
    pub snapshot: bool,
    /// Files that an image names as its base are opened.
    pub backing: bool,
    /// Writes that the host cannot take wait; see [`BlockBackend::patient`].
    pub patient: bool,
}

/// Opens and locks a disk and what it is based on.
///
/// # Errors
/// See [`BlockError`]; each is one line.
pub fn open(options: &ImageOptions) -> Result<Arc<dyn BlockBackend>, BlockError> {
    open_with_overlay(options).map(|(disk, _)| disk)
}

/// The same, and the file that holds what is written, if that is gone with the disk.
///
/// # Errors
/// As [`open`].
pub fn open_with_overlay(
    options: &ImageOptions,
) -> Result<(Arc<dyn BlockBackend>, Option<Overlay>), BlockError> {
    let path = &options.path;
    let guessed = match options.format {
        Some(_) => None,
        None => Some(guess(path)?),
    };
    let format = options.format.or(guessed).unwrap_or(Format::Raw);
    if format == Format::Raw && !options.snapshot {
        let disk = patient(raw(RawImage::open(path, options.read_only)?, path)?, options)?;
        let guarded = guessed.is_some() && !options.read_only;
        return Ok((if guarded { Arc::new(Guard::new(disk)) } else { disk }, None));
    }
    let write = !options.read_only && !options.snapshot;
    let (layers, _) = Chain::new(options.backing).open(path, Some(format), write)?;
    let (image, file) = if options.snapshot && !options.read_only {
        let (image, file) = overlay(layers, path, format)?;
        (image, Some(file))
    } else {
        (LayeredImage::new(layers), None)
    };
    Ok((patient(pool(image, path)?, options)?, file))
}

fn patient(disk: Arc<dyn BlockBackend>, options: &ImageOptions) -> Result<Arc<dyn BlockBackend>, BlockError> {
    if !options.patient || disk.is_read_only() {
        return Ok(disk);
    }
    let thread = |source| BlockError::Thread { path: options.path.clone(), source };
    Ok(Arc::new(Patient::new(disk, &options.path).map_err(thread)?))
}

fn guess(path: &Path) -> Result<Format, BlockError> {
    let refuse = |source| BlockError::Open { path: path.to_owned(), source };
    Format::probe(&crate::file::open(path, false)?).map_err(refuse)
}

fn raw(image: RawImage, path: &Path) -> Result<Arc<dyn BlockBackend>, BlockError> {
    match Uring::new(image) {
        Ok(uring) => Ok(Arc::new(uring)),
        Err((image, error)) => {
            tracing::info!("disk {} has threads: io_uring is refused ({error})", path.display());
            pool(image, path)
        }
    }
}

fn pool(image: impl Image, path: &Path) -> Result<Arc<dyn BlockBackend>, BlockError> {
    let thread = |source| BlockError::Thread { path: path.to_owned(), source };
    Ok(Arc::new(Pool::new(image).map_err(thread)?))
}
