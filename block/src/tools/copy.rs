//! Images into images of another format.

use std::io;
use std::path::Path;

use imago::raw::Raw;

use super::{CreateOptions, Progress, beside, keep};
use crate::qcow2::{self, Chain, ImageFile, LayeredImage, Layers};
use crate::{BlockError, Buffers, Format, Image, ImageOptions, Operation, SECTOR};

/// Bytes that are copied at once, and that are left out if they are zero.
const CHUNK: u64 = 2 << 20;
const BLOCK: usize = 4096;

/// Copies a disk with all it is based on into a new image, which is as the options say but for its size.
///
/// # Errors
/// The source cannot be used, or the host refuses what is written; there is no new file then.
pub fn convert(
    source: &ImageOptions,
    target: &CreateOptions,
    progress: Progress<'_>,
) -> Result<(), BlockError> {
    let (layers, _) = Chain::new(source.backing).open(&source.path, source.format, false)?;
    let from = LayeredImage::new(layers);
    let path = &target.path;
    let write_error = |source| BlockError::Write { path: path.to_owned(), source };
    // A raw file may end in the middle of a sector; the disk does not.
    let len = from.len().next_multiple_of(SECTOR);
    let file = beside(path, target.force)?;
    let make = || -> io::Result<LayeredImage> {
        let handle = file.as_file().try_clone()?;
        Ok(LayeredImage::new(match target.format {
            Format::Raw => {
                handle.set_len(len)?;
                Layers::new(Raw::open_image(ImageFile::new(handle, path, SECTOR), true)?)
            }
            Format::Qcow2 => Layers::new(qcow2::create(
                ImageFile::new(handle, path, target.cluster),
                len,
                target.cluster,
                None,
            )?),
        }))
    };
    let to = make().map_err(write_error)?;
    copy(&from, &to, &source.path, path, progress)?;
    to.perform(Operation::Flush).map_err(write_error)?;
    drop(to);
    keep(file, path, target.force)
}

fn copy(
    from: &LayeredImage,
    to: &LayeredImage,
    source: &Path,
    target: &Path,
    progress: Progress<'_>,
) -> Result<(), BlockError> {
    let read_error = |e| BlockError::Read { path: source.to_owned(), source: e };
    let write_error = |e| BlockError::Write { path: target.to_owned(), source: e };
    let (mut at, end) = (0, from.len());
    while at < end {
        if !progress(at, end) {
            return Err(BlockError::Interrupted { path: target.to_owned() });
        }
        let (len, data) = from.extent(at, (end - at).min(1 << 30)).map_err(read_error)?;
        let len = if data { len.min(CHUNK) } else { len };
        if data {
            let buffer = Buffers::owned(&vec![0; len as usize]);
            from.perform(Operation::Read { offset: at, to: buffer.clone() }).map_err(read_error)?;
            let content = buffer.to_vec();
            let mut offset = at;
            for run in content.chunk_by_blocks() {
                if run.iter().any(|&byte| byte != 0) {
                    let from = Buffers::owned(run);
                    to.perform(Operation::Write { offset, from, durable: false }).map_err(write_error)?;
                }
                offset += run.len() as u64;
            }
        }
        at += len;
    }
    progress(end, end);
    Ok(())
}

/// Runs of blocks that are all zero or all not.
trait Blocks {
    fn chunk_by_blocks(&self) -> impl Iterator<Item = &[u8]>;
}

impl Blocks for [u8] {
    fn chunk_by_blocks(&self) -> impl Iterator<Item = &[u8]> {
        let is_zero = |block: &[u8]| block.iter().all(|&byte| byte == 0);
        let mut rest = self;
        std::iter::from_fn(move || {
            let first = is_zero(rest.get(..BLOCK.min(rest.len())).filter(|b| !b.is_empty())?);
            let same = rest.chunks(BLOCK).take_while(|block| is_zero(block) == first).map(<[u8]>::len).sum();
            let (run, tail) = rest.split_at(same);
            rest = tail;
            Some(run)
        })
    }
}
