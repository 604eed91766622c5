//! Raw images: a regular file or a block device, byte for byte.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::fdatasync;

use crate::lock::{self, Access};
use crate::{BlockError, Image, Operation, SECTOR, file};

/// A raw image, locked against other users of the same file.
#[derive(Debug)]
pub struct RawImage {
    file: File,
    len: u64,
    read_only: bool,
}

impl RawImage {
    /// Opens and locks the file.
    ///
    /// # Errors
    /// It cannot be opened, is no disk, or is in use: see [`BlockError`].
    pub fn open(path: &Path, read_only: bool) -> Result<Self, BlockError> {
        let file = file::open(path, !read_only)?;
        lock::lock(&file, path, if read_only { Access::Shared } else { Access::Exclusive })?;
        let len = file::len(&file).map_err(|source| BlockError::Open { path: path.to_owned(), source })?;
        if !len.is_multiple_of(SECTOR) {
            return Err(BlockError::Length { path: path.to_owned(), len });
        }
        Ok(Self { file, len, read_only })
    }

    /// The file, for those who have their own way to read and write it.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Image for RawImage {
    fn len(&self) -> u64 {
        self.len
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn perform(&self, operation: Operation) -> io::Result<()> {
        match operation {
            Operation::Read { offset, to } => file::read(&self.file, offset, to),
            Operation::Write { offset, from, durable } => {
                file::write(&self.file, offset, from)?;
                if durable { Ok(fdatasync(&self.file)?) } else { Ok(()) }
            }
            Operation::Flush => Ok(fdatasync(&self.file)?),
            Operation::Discard { offset, len } => file::punch(&self.file, offset, len),
            Operation::WriteZeroes { offset, len, unmap } => file::zero(&self.file, offset, len, unmap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Buffers;

    fn image(content: &[u8]) -> (tempfile::NamedTempFile, RawImage) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let image = RawImage::open(file.path(), false).unwrap();
        (file, image)
    }

    #[test]
    fn what_is_written_is_in_the_file_and_is_read_back() {
        let (file, image) = image(&[7; 4096]);
        let from = Buffers::owned(&[1; 512]);
        image.perform(Operation::Write { offset: 512, from, durable: true }).unwrap();
        image.perform(Operation::WriteZeroes { offset: 1024, len: 512, unmap: false }).unwrap();
        image.perform(Operation::WriteZeroes { offset: 1536, len: 512, unmap: true }).unwrap();
        file::write_zeroes(image.file(), 2048, 512).unwrap();
        image.perform(Operation::Flush).unwrap();
        let content = std::fs::read(file.path()).unwrap();
        let expected: Vec<u8> =
            [7u8, 1, 0, 0, 0, 7, 7, 7].iter().flat_map(|&b| std::iter::repeat_n(b, 512)).collect();
        assert!(content == expected);
        let to = Buffers::owned(&[9; 1024]);
        image.perform(Operation::Read { offset: 256, to: to.clone() }).unwrap();
        assert!(to.to_vec() == expected[256..1280]);
    }

    #[test]
    fn discarded_blocks_take_no_room() {
        use std::os::unix::fs::MetadataExt;
        let (file, image) = image(&vec![7; 1 << 20]);
        let blocks = |f: &tempfile::NamedTempFile| f.as_file().metadata().unwrap().blocks();
        image.perform(Operation::Flush).unwrap();
        let before = blocks(&file);
        image.perform(Operation::Discard { offset: 0, len: 1 << 19 }).unwrap();
        image.perform(Operation::Flush).unwrap();
        assert!(blocks(&file) < before, "{before}");
        assert_eq!(file.as_file().metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_file_that_shrank_is_an_error() {
        let (file, image) = image(&[7; 1024]);
        file.as_file().set_len(512).unwrap();
        let to = Buffers::owned(&[0; 1024]);
        let error = image.perform(Operation::Read { offset: 0, to }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("odd");
        std::fs::write(&odd, [0; 513]).unwrap();
        let missing = folder.path().join("missing");
        for (path, word) in [
            (folder.path(), "folder"),
            (&odd, "512"),
            (&missing, "No such file"),
            (Path::new("/dev/null"), "neither"),
        ] {
            let error = RawImage::open(path, true).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        }
    }
}
