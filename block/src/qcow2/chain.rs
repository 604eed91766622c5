//! Opening an image and what it is based on.
//!
//! An image names its backing file itself, so that an image from a stranger can name any file of the host's. It is
//! opened only if the user allows it, and never as a format that the image does not name: what is in a raw file, a
//! guest may have written.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use imago::FormatAccess;
use imago::qcow2::Qcow2;
use imago::raw::Raw;

use super::ImageFile;
use crate::lock::{self, Access};
use crate::{BlockError, Format, SECTOR, file};

/// Most images in a chain.
const MAX_LAYERS: usize = 64;

/// Most entries of an L1 table: what QEMU takes.
const MAX_L1_ENTRIES: u64 = (32 << 20) / 8;
/// Where an L2 table is, in an entry of the L1 table.
const L2_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

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
        // Where nobody may be hurt yet, so that a file that ends early is named as such.
        let cluster = check_header(&opened).map_err(bad)?;
        let storage = ImageFile::new(opened, path, cluster);
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

/// Looks at the header (Qcow2 format, "Header"): tables that are to be read have to be in the file. Bytes of a
/// cluster.
fn check_header(file: &File) -> Result<u64, String> {
    let mut header = [0; 72];
    file.read_exact_at(&mut header, 0).map_err(|_| "the file ends in its header".to_owned())?;
    let word = |at: usize| {
        u64::from(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
    };
    let long = |at: usize| word(at) << 32 | word(at + 4);
    let (cluster_bits, encryption, l1_entries) = (word(20), word(32), word(36));
    if !(9..=21).contains(&cluster_bits) {
        return Err(format!("it has clusters of 2^{cluster_bits} bytes"));
    }
    if encryption != 0 {
        return Err("it is encrypted, which is not supported".to_owned());
    }
    let len = file::len(file).map_err(|e| e.to_string())?;
    let tables =
        [("L1 table", long(40), l1_entries * 8), ("refcount table", long(48), word(56) << cluster_bits)];
    if let Some((table, ..)) =
        tables.iter().find(|(_, offset, bytes)| offset.checked_add(*bytes).is_none_or(|end| end > len))
    {
        return Err(format!("the file ends before its {table}"));
    }
    if l1_entries > MAX_L1_ENTRIES {
        return Err(format!("its L1 table has {l1_entries} entries"));
    }
    let mut l1 = vec![0; l1_entries as usize * 8];
    file.read_exact_at(&mut l1, long(40)).map_err(|e| e.to_string())?;
    let (tables, _) = l1.as_chunks::<8>();
    match tables.iter().find(|entry| u64::from_be_bytes(**entry) & L2_OFFSET >= len) {
        Some(_) => Err("the file ends before one of its L2 tables".to_owned()),
        None => Ok(1 << cluster_bits),
    }
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
