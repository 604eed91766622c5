//! Opening an image and what it is based on.
//!
//! An image names its backing file itself, so that an image from a stranger can name any file of the host's. It is
//! opened only if the user allows it, and never as a format that the image does not name: what is in a raw file, a
//! guest may have written.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use imago::FormatAccess;
use imago::qcow2::Qcow2;
use imago::raw::Raw;

use super::{Header, ImageFile, sound};
use crate::lock::{self, Access};
use crate::{BlockError, Format, SECTOR, file};

/// Most images in a chain.
const MAX_LAYERS: usize = 64;

/// An image with all that is behind it.
pub type Layers = FormatAccess<ImageFile>;

/// Who may open what.
#[derive(Debug, Default)]
pub struct Chain {
    /// Backing files are opened.
    pub backing: bool,
    /// What was opened, by device and inode.
    seen: Vec<(u64, u64)>,
}

impl Chain {
    /// A chain that follows backing files if it may.
    pub fn new(backing: bool) -> Self {
        Self { backing, seen: Vec::new() }
    }

    /// Opens and locks an image and its backing chain. Without a format, the file's first bytes say it.
    ///
    /// # Errors
    /// Any file of the chain cannot be used.
    pub fn open(
        &mut self,
        path: &Path,
        format: Option<Format>,
        write: bool,
    ) -> Result<(Layers, Format), BlockError> {
        let refuse = |source| BlockError::Open { path: path.to_owned(), source };
        let opened = file::open(path, write)?;
        let metadata = opened.metadata().map_err(refuse)?;
        let id = (metadata.dev(), metadata.ino());
        if self.seen.contains(&id) || self.seen.len() >= MAX_LAYERS {
            return Err(BlockError::Loop { path: path.to_owned() });
        }
        self.seen.push(id);
        lock::lock(&opened, path, if write { Access::Exclusive } else { Access::Shared })?;
        let format = match format {
            Some(format) => format,
            None => Format::probe(&opened).map_err(refuse)?,
        };
        let layers = match format {
            Format::Raw => {
                let raw = Raw::open_image(ImageFile::new(opened, path, SECTOR), write).map_err(refuse)?;
                Layers::new(raw)
            }
            Format::Qcow2 => self.qcow2(opened, path, write)?,
        };
        Ok((layers, format))
    }

    fn qcow2(&mut self, opened: File, path: &Path, write: bool) -> Result<Layers, BlockError> {
        let bad = |fact: String| BlockError::Qcow2 { path: path.to_owned(), fact };
        let header = Header::read(&opened).map_err(bad)?;
        header.check(&opened).map_err(bad)?;
        if write {
            sound::check(&opened, &header).map_err(bad)?;
        }
        let storage = ImageFile::new(opened, path, header.cluster());
        let open = || Qcow2::<ImageFile>::open_image(storage, write);
        let mut image = super::caught(open).map_err(|e| bad(e.to_string()))?;
        if image.requires_external_data_file() {
            return Err(bad("its data is in another file, which is not supported".to_owned()));
        }
        image.set_data_file(None);
        let backing = match image.implicit_backing_file().cloned() {
            None => None,
            Some(name) => {
                let format = image.implicit_backing_format().cloned();
                Some(self.backing(path, &name, format.as_deref())?)
            }
        };
        image.set_backing(backing);
        let layers = Layers::new(image);
        let len = layers.size();
        if !len.is_multiple_of(SECTOR) {
            return Err(bad(format!("it is a disk of {len} bytes, which are no whole sectors")));
        }
        Ok(layers)
    }

    fn backing(&mut self, path: &Path, name: &str, format: Option<&str>) -> Result<Layers, BlockError> {
        if !self.backing {
            return Err(BlockError::Backing { path: path.to_owned(), name: name.to_owned() });
        }
        let place = backing_path(path, name)
            .ok_or_else(|| BlockError::BackingName { path: path.to_owned(), name: name.to_owned() })?;
        let behind = |source| BlockError::Behind { path: path.to_owned(), source: Box::new(source) };
        let format = match format {
            Some("file") => Format::Raw,
            Some(format) => {
                format.parse().map_err(|fact| BlockError::Qcow2 { path: path.to_owned(), fact })?
            }
            None => {
                let file = file::open(&place, false).map_err(behind)?;
                match Format::probe(&file) {
                    Ok(Format::Raw) => Format::Raw,
                    _ => {
                        return Err(BlockError::BackingFormat {
                            path: path.to_owned(),
                            name: name.to_owned(),
                        });
                    }
                }
            }
        };
        Ok(self.open(&place, Some(format), false).map_err(behind)?.0)
    }
}

/// Where a backing file is: names are relative to the image. None for what is no file.
pub fn backing_path(image: &Path, name: &str) -> Option<PathBuf> {
    let name = name.strip_prefix("file:").unwrap_or(name);
    let protocol = name.split_once(':').is_some_and(|(start, _)| !start.contains('/'));
    if name.is_empty() || protocol {
        return None;
    }
    Some(image.parent().unwrap_or(Path::new("")).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_backing_files_are_relative_to_the_image() {
        let place = |name| backing_path(Path::new("/a/b.qcow2"), name);
        assert_eq!(place("c.raw"), Some("/a/c.raw".into()));
        assert_eq!(place("file:../c.raw"), Some("/a/../c.raw".into()));
        assert_eq!(place("/c:d"), Some("/c:d".into()));
        assert_eq!(backing_path(Path::new("b"), "c"), Some("c".into()));
        for name in ["", "file:", "nbd://host/x", "json:{}", "fat:/etc"] {
            assert_eq!(place(name), None, "{name}");
        }
    }
}
