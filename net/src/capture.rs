//! Frames in a file that packet analysers read: the classic format of libpcap with nanoseconds, in the host's byte
//! order.
//!
//! Frames are written as they cross the cable: large ones whole, and with checksums that are not complete.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::NetError;

const MAGIC: u32 = 0xa1b2_3c4d;
/// 2.4, as two 16-bit words on a little-endian host.
const VERSION: u32 = 0x0004_0002;
const ETHERNET: u32 = 1;
const LONGEST: u32 = 1 << 18;

/// A file that is being written.
pub struct Capture {
    file: Option<BufWriter<File>>,
}

impl Capture {
    /// Begins a file, in place of one that was there.
    ///
    /// # Errors
    /// The host refuses it.
    pub fn create(path: &Path) -> Result<Self, NetError> {
        let create = || {
            let mut file = BufWriter::new(File::create(path)?);
            file.write_all(&Self::header())?;
            file.flush()?;
            Ok(file)
        };
        let error = |source| NetError::Capture { path: path.to_owned(), source };
        Ok(Self { file: Some(create().map_err(error)?) })
    }

    /// Adds a frame. A host that cannot write it ends the capture.
    pub fn add(&mut self, parts: &[&[u8]]) {
        self.attempt(|file| {
            file.write_all(&mark(parts.iter().map(|p| p.len()).sum()))?;
            parts.iter().try_for_each(|part| file.write_all(part))
        });
    }

    /// A file's beginning.
    pub(crate) fn header() -> Vec<u8> {
        [MAGIC, VERSION, 0, 0, LONGEST, ETHERNET].iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// A frame as it is in a file.
    pub(crate) fn record(frame: &[u8]) -> Vec<u8> {
        [&mark(frame.len())[..], frame].concat()
    }

    /// What was added is in the file.
    pub fn flush(&mut self) {
        self.attempt(|file| if file.buffer().is_empty() { Ok(()) } else { file.flush() });
    }

    fn attempt(&mut self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) {
        if let Some(Err(error)) = self.file.as_mut().map(write) {
            tracing::warn!("the capture of network frames ends here ({error}): make room for it");
            self.file = None;
        }
    }
}

/// What is in front of a frame: the time, and its length twice.
fn mark(len: usize) -> [u8; 16] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let words = [now.as_secs() as u32, now.subsec_nanos(), len as u32, len as u32];
    let mut bytes = [0; 16];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_holds_the_frames() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pcap");
        let mut capture = Capture::create(&path).unwrap();
        capture.add(&[b"abc", b"de"]);
        capture.flush();
        let data = std::fs::read(&path).unwrap();
        let word = |at: usize| u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4), word(20)), (0xa1b2_3c4d, 0x0004_0002, 1));
        assert_eq!((word(32), word(36), &data[40..]), (5, 5, b"abcde".as_slice()));
        let error = Capture::create(folder.path()).err().unwrap().to_string();
        assert!(error.starts_with("capture file ") && error.contains("cannot be written"), "{error}");
    }

    #[test]
    fn a_full_disk_ends_the_capture_and_nothing_else() {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let mut capture = Capture { file: Some(BufWriter::new(file)) };
        capture.add(&[&[0; 1 << 16]]);
        capture.flush();
        assert!(capture.file.is_none());
        capture.add(&[&[0]]);
    }
}
