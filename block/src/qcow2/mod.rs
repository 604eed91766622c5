//! Disks in layers: qcow2 images, with their backing chains, through `imago`. It says where the bytes of the disk
//! are; they go between there and the guest's memory without a copy.
//!
//! NOT modelled: internal snapshots, encryption, external data files, images that want to be repaired first.

mod chain;
pub mod header;
pub mod sound;
mod storage;

pub use chain::{Chain, Layers, backing_path};
pub use header::Header;
pub use storage::ImageFile;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use imago::format::PreallocateMode;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatCreateBuilder, Mapping, StorageExt};
use parking_lot::RwLock;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::{BlockError, Buffers, Format, Image, Operation, Overlay, file};

/// Most that is uncompressed at once.
const BOUNCE: u64 = 1 << 20;
/// Bytes of a cluster, unless told otherwise.
pub const CLUSTER: u64 = 1 << 16;

/// An image in layers.
pub struct LayeredImage {
    /// Whoever takes clusters away from the disk has it for himself: nobody else may know where they were.
    layers: RwLock<Layers>,
    len: u64,
    read_only: bool,
    /// Its metadata contradicted itself; what is in memory of it is worth nothing.
    broken: AtomicBool,
}

impl LayeredImage {
    /// The disk that these layers are.
    pub fn new(layers: Layers) -> Self {
        let (len, read_only) = (layers.size(), !layers.inner().writable());
        Self { layers: RwLock::new(layers), len, read_only, broken: AtomicBool::new(false) }
    }

    fn read(&self, mut offset: u64, mut to: Buffers) -> io::Result<()> {
        let layers = self.layers.read();
        while !to.is_empty() {
            let (mapping, len) = layers.get_mapping(offset, to.len())?;
            let len = len.min(to.len());
            let part = to.first(len);
            let done = match mapping {
                Mapping::Raw { storage, offset, .. } => {
                    let mut rest = part;
                    file::read_some(storage.file(), offset, &mut rest)?;
                    if !rest.is_empty() && storage.ends_before(offset + (len - rest.len()))? {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    rest.clear();
                    len
                }
                Mapping::Special { .. } => {
                    let mut plain = vec![0; len.min(BOUNCE) as usize];
                    layers.read(&mut plain[..], offset)?;
                    part.copy_from(&plain);
                    plain.len() as u64
                }
                // Nothing is beyond the end.
                _ if len == 0 => {
                    to.clear();
                    return Ok(());
                }
                _ => {
                    part.clear();
                    len
                }
            };
            to.advance(done);
            offset += done;
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, mut from: Buffers) -> io::Result<()> {
        let layers = self.layers.read();
        while !from.is_empty() {
            let mapping = layers.prepare_data_mapping(offset, from.len(), true)?;
            let (at, len) = (mapping.offset(), mapping.length());
            let end = at.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
            {
                let _guard = mapping.storage().weak_write_blocker(at..end);
                mapping.storage().write(at, from.first(len))?;
            }
            layers.commit_data_mapping(mapping)?;
            from.advance(len);
            offset += len;
        }
        Ok(())
    }

    /// How many bytes from `offset` on are alike, at most `len`, and whether they may be anything but zero.
    pub fn extent(&self, offset: u64, len: u64) -> io::Result<(u64, bool)> {
        let layers = self.layers.read();
        caught(|| {
            let (mapping, alike) = layers.get_mapping(offset, len)?;
            let alike = alike.min(len);
            let Mapping::Raw { storage, offset, .. } = mapping else {
                return Ok((
                    if alike == 0 { len } else { alike },
                    matches!(mapping, Mapping::Special { .. }),
                ));
            };
            // Where the file has holes, the disk has zeroes.
            let to = |at: Result<u64, Errno>| at.unwrap_or(u64::MAX).saturating_sub(offset).min(alike);
            match seek(storage.file(), SeekFrom::Data(offset)) {
                Err(error) if error != Errno::NXIO => Ok((alike, true)),
                data if to(data) > 0 => Ok((to(data), false)),
                _ => Ok((to(seek(storage.file(), SeekFrom::Hole(offset))), true)),
            }
        })
    }

    fn flush(&self) -> io::Result<()> {
        let layers = self.layers.read();
        layers.flush()?;
        layers.sync()
    }

    /// Takes clusters away from the disk, and gives the host back what they took.
    fn discard(&self, offset: u64, len: u64, zero: bool) -> io::Result<()> {
        let mut layers = self.layers.write();
        self.punch(&layers, offset, len)?;
        let result = match zero {
            true => layers.discard_to_zero(offset, len),
            false => layers.discard_to_any(offset, len),
        };
        match result {
            // Version 2 has no way to say that something is gone.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                drop(layers);
                if zero { self.write_zeroes(offset, len) } else { Ok(()) }
            }
            other => other,
        }
    }

    /// Makes holes in the file where it holds nothing but this range of the disk.
    fn punch(&self, layers: &Layers, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let (mapping, step) = layers.get_mapping(offset, len)?;
            let step = step.min(len);
            match mapping {
                Mapping::Raw { storage, offset, writable: true, .. } => storage.punch(offset, step)?,
                _ if step == 0 => return Ok(()),
                _ => {}
            }
            offset += step;
            len -= step;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
        let result = self.layers.read().write_zeroes(offset, len);
        match result {
            // Version 2 again: byte by byte.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let (layers, end) = (self.layers.read(), offset + len);
                (offset..end).step_by(ZEROES.len()).try_for_each(|at| {
                    layers.write(&ZEROES[..(end - at).min(ZEROES.len() as u64) as usize], at)
                })
            }
            other => other,
        }
    }

    /// Changes the size of the disk; what is beyond a smaller one is lost.
    pub fn resize(&mut self, len: u64) -> io::Result<()> {
        caught(|| self.layers.get_mut().resize(len, PreallocateMode::Zero))?;
        self.len = len;
        self.flush()
    }
}

impl Image for LayeredImage {
    fn len(&self) -> u64 {
        self.len
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn perform(&self, operation: Operation) -> io::Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(io::Error::other("the image contradicts itself: see guesthouse image check"));
        }
        caught(|| match operation {
            Operation::Read { offset, to } => self.read(offset, to),
            Operation::Write { offset, from, durable } => {
                self.write(offset, from)?;
                if durable { self.flush() } else { Ok(()) }
            }
            Operation::Flush => self.flush(),
            Operation::Discard { offset, len } => self.discard(offset, len, false),
            Operation::WriteZeroes { offset, len, unmap: true } => self.discard(offset, len, true),
            Operation::WriteZeroes { offset, len, unmap: false } => self.write_zeroes(offset, len),
        })
        .inspect_err(|error| {
            if error.get_ref().is_some_and(|e| e.is::<Panicked>()) {
                self.broken.store(true, Ordering::Relaxed);
            }
        })
    }
}

/// A library gave up on metadata that contradicts itself.
#[derive(Debug, thiserror::Error)]
#[error("its metadata contradicts itself")]
struct Panicked;

/// An image may be made to break the assumptions of who reads it; that is an error of the image's.
pub fn caught<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(io::Error::other(Panicked)))
}

/// Writes an empty qcow2 image of `len` bytes into an empty file; in its header stands the backing file, if there is one.
///
/// # Errors
/// What the host says.
pub fn create(
    file: ImageFile,
    len: u64,
    cluster: u64,
    backing: Option<(String, Format)>,
) -> io::Result<Qcow2<ImageFile>> {
    let mut builder = Qcow2::<ImageFile>::create_builder(file).size(len).cluster_size(cluster as usize);
    if let Some((name, format)) = backing {
        builder = builder.backing(name, format.to_string());
    }
    builder.create_open(DenyImplicitOpenGate::default(), |file| Ok(Qcow2::builder(file).backing(None)))
}

/// Where disks whose writes are not kept have their files.
pub fn temporary_folder() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// A disk like `base`, an image at `path` in this format, that takes writes, until it is dropped: they go into a file without
/// a name, which says what it is based on, in case somebody copies it.
///
/// # Errors
/// There is no room for a temporary file.
pub fn overlay(base: Layers, path: &Path, format: Format) -> Result<(LayeredImage, Overlay), BlockError> {
    let folder = temporary_folder();
    let make = || {
        let file = tempfile::tempfile_in(&folder)?;
        let copy = file.try_clone()?;
        let file = ImageFile::new(file, &folder, CLUSTER);
        let copy = Overlay::new(copy, file.changes());
        let name = std::path::absolute(path)?.into_os_string().into_string().ok();
        let backing = name.map(|name| (name, format));
        let mut image = create(file, base.size(), CLUSTER, backing)?;
        image.set_backing(Some(base));
        Ok((LayeredImage::new(Layers::new(image)), copy))
    };
    make().map_err(|source| BlockError::Overlay { path: folder.clone(), source })
}

#[cfg(test)]
mod tests;
