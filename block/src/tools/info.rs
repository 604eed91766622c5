//! What an image says about itself, with the names that `qemu-img info --output=json` has for it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use imago::qcow2::Qcow2;
use serde::Serialize;

use crate::qcow2::{Header, ImageFile, backing_path};
use crate::{BlockError, Format, file};

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    /// The file.
    pub filename: PathBuf,
    /// How it holds the disk.
    pub format: Format,
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// Bytes that the file takes on the host.
    pub actual_size: u64,
    /// Bytes of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// The image it is based on, as it says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// That one's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<PathBuf>,
    /// That one's format, as it says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// It was not closed: its reference counts are not up to date.
    pub dirty_flag: bool,
    /// Number of snapshots inside it.
    pub snapshots: u32,
    /// Version of the format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compat: Option<&'static str>,
}

/// Looks at an image, and at nothing else: what it is based on is not opened. A running machine may use it.
///
/// # Errors
/// It cannot be read, or its header makes no sense.
pub fn info(path: &Path, format: Option<Format>) -> Result<Info, BlockError> {
    let refuse = |source| BlockError::Open { path: path.to_owned(), source };
    let file = file::open(path, false)?;
    let format = match format {
        Some(format) => format,
        None => Format::probe(&file).map_err(refuse)?,
    };
    let mut info = Info {
        filename: path.to_owned(),
        format,
        virtual_size: file::len(&file).map_err(refuse)?,
        actual_size: file.metadata().map_err(refuse)?.blocks().saturating_mul(512),
        cluster_size: None,
        backing_filename: None,
        full_backing_filename: None,
        backing_filename_format: None,
        dirty_flag: false,
        snapshots: 0,
        compat: None,
    };
    if format == Format::Raw {
        return Ok(info);
    }
    let bad = |fact: String| BlockError::Qcow2 { path: path.to_owned(), fact };
    let header = Header::read(&file).map_err(bad)?;
    info.virtual_size = header.len;
    info.cluster_size = Some(header.cluster());
    info.dirty_flag = header.features & 1 != 0;
    info.snapshots = header.snapshots.1;
    info.compat = Some(if header.version == 2 { "0.10" } else { "1.1" });
    // An image that wants to be repaired says no more.
    if header.check(&file).is_ok() {
        let open = || Qcow2::<ImageFile>::open_image(ImageFile::new(file, path, header.cluster()), false);
        let image = crate::qcow2::caught(open).map_err(|e| bad(e.to_string()))?;
        let image: Qcow2<ImageFile> = image;
        info.backing_filename = image.implicit_backing_file().cloned();
        info.backing_filename_format = image.implicit_backing_format().cloned();
        info.full_backing_filename = info.backing_filename.as_ref().and_then(|name| backing_path(path, name));
    }
    Ok(info)
}
