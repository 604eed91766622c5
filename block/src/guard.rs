//! A raw disk that was taken to be one by its content. Its guest could write another format's header, to be opened as
//! that the next time; so it must not.

use std::io;
use std::sync::Arc;

use crate::{BlockBackend, Buffers, Format, Operation, Patient, Request};

/// Refuses headers of image formats at the beginning of a disk.
pub struct Guard {
    disk: Arc<dyn BlockBackend>,
}

impl Guard {
    /// A guard for `disk`.
    pub fn new(disk: Arc<dyn BlockBackend>) -> Self {
        Self { disk }
    }
}

impl BlockBackend for Guard {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn is_read_only(&self) -> bool {
        self.disk.is_read_only()
    }

    fn submit(&self, mut request: Request) {
        if let Operation::Write { offset: 0, from, .. } = &mut request.operation {
            // What is looked at is what is written, whatever the guest does meanwhile.
            let content = from.to_vec();
            if Format::of(&content) != Format::Raw {
                tracing::warn!(
                    "a guest may not write an image's header to a disk whose format was guessed: give format=raw"
                );
                return (request.done)(Err(io::ErrorKind::PermissionDenied.into()));
            }
            *from = Buffers::owned(&content);
        }
        self.disk.submit(request);
    }

    fn commit(&self) {
        self.disk.commit();
    }

    fn patient(&self) -> Option<&Patient> {
        self.disk.patient()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::{Pool, RawImage};

    #[test]
    fn a_guest_cannot_turn_its_raw_disk_into_another() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1024).unwrap();
        let disk = Guard::new(Arc::new(Pool::new(RawImage::open(file.path(), false).unwrap()).unwrap()));
        let write = |offset, content: &[u8]| {
            let (sender, receiver) = channel();
            let from = Buffers::owned(content);
            let done = Box::new(move |result: io::Result<()>| sender.send(result.is_ok()).unwrap());
            disk.submit(Request { operation: Operation::Write { offset, from, durable: false }, done });
            disk.commit();
            receiver.recv().unwrap()
        };
        let mut header = [0; 512];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        assert!(!write(0, &header));
        assert!(write(512, &header));
        header[0] = b'q';
        assert!(write(0, &header));
        let content = std::fs::read(file.path()).unwrap();
        assert_eq!((&content[..4], &content[512..516]), (&b"qFI\xfb"[..], &b"QFI\xfb"[..]));
    }
}
