//! New, empty images.

use std::path::{Path, PathBuf};

use super::{beside, keep};
use crate::qcow2::{self, CLUSTER, Chain, backing_path};
use crate::{BlockError, Format, SECTOR};

/// An image to make.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Where.
    pub path: PathBuf,
    /// As what.
    pub format: Format,
    /// Bytes of the disk; without, those of the base.
    pub len: Option<u64>,
    /// The image it is based on, by a name relative to its own folder, and that one's format.
    pub backing: Option<(String, Format)>,
    /// Bytes of a qcow2 image's cluster.
    pub cluster: u64,
    /// A file that is there already is replaced.
    pub force: bool,
}

impl CreateOptions {
    /// An image of that many bytes.
    pub fn new(path: impl Into<PathBuf>, format: Format, len: u64) -> Self {
        Self { path: path.into(), format, len: Some(len), backing: None, cluster: CLUSTER, force: false }
    }
}

/// Makes the image; the bytes of its disk.
///
/// # Errors
/// Impossible options, a base that cannot be used, or what the host says.
pub fn create(options: &CreateOptions) -> Result<u64, BlockError> {
    let path = &options.path;
    let impossible = |fact: String| BlockError::Impossible { path: path.to_owned(), fact };
    let base = match &options.backing {
        None => None,
        Some(_) if options.format == Format::Raw => {
            return Err(impossible("a raw image has no base: give --format qcow2".to_owned()));
        }
        Some((name, format)) => Some(base_len(path, name, *format)?),
    };
    let len = options.len.or(base).ok_or_else(|| impossible("how large? give a size".to_owned()))?;
    if !len.is_multiple_of(SECTOR) || len > i64::MAX as u64 {
        return Err(impossible(format!("{len} bytes are no size of a disk: give a multiple of 512")));
    }
    if !options.cluster.is_power_of_two() || !(512..=2 << 20).contains(&options.cluster) {
        return Err(impossible("clusters have 512 bytes to 2M, by powers of two".to_owned()));
    }
    let file = beside(path, options.force)?;
    let write = || -> std::io::Result<()> {
        match options.format {
            Format::Raw => file.as_file().set_len(len),
            Format::Qcow2 => {
                let handle = file.as_file().try_clone()?;
                let file = qcow2::ImageFile::new(handle, path, options.cluster);
                let image = qcow2::create(file, len, options.cluster, options.backing.clone())?;
                // Its caches go to the file with it.
                drop(imago::FormatAccess::new(image));
                Ok(())
            }
        }
    };
    write().map_err(|source| BlockError::Write { path: path.to_owned(), source })?;
    keep(file, path, options.force)?;
    Ok(len)
}

fn base_len(path: &Path, name: &str, format: Format) -> Result<u64, BlockError> {
    let place = backing_path(path, name)
        .ok_or_else(|| BlockError::BackingName { path: path.to_owned(), name: name.to_owned() })?;
    let (layers, _) = Chain::new(true).open(&place, Some(format), false)?;
    Ok(layers.size().next_multiple_of(SECTOR))
}
