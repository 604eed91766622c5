//! File system device (5.11): a [`share::Share`] behind queues of FUSE requests.
//!
//! NOT modelled: the notification queue (VIRTIO_FS_F_NOTIFICATION), the DAX window, more than one request queue.

mod request;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use jail::Kind;
use share::Share;

use crate::device::read_image;
use crate::worker::{Worker, each_chain};
use crate::{Session, VirtioDevice};

/// Bytes of a tag.
const TAG: usize = 36;
/// Entries of a queue: a request of the largest size needs a descriptor for each page and a few more.
const QUEUE_SIZE: u16 = 512;

/// A file system.
pub struct Fs {
    share: Arc<Share>,
    config: [u8; TAG + 4],
    worker: Worker,
}

impl Fs {
    /// Longest tag, in bytes.
    pub const MAX_TAG: usize = TAG;

    /// A file system under a tag, which the driver sees 36 bytes of, with a thread of its own.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn new(share: Share, tag: &str) -> io::Result<Self> {
        let share = Arc::new(share);
        let mut config = [0; TAG + 4];
        let request_queues = 1u32.to_le_bytes();
        for (byte, value) in
            config.iter_mut().zip(tag.bytes().chain(std::iter::repeat(0)).take(TAG).chain(request_queues))
        {
            *byte = value;
        }
        let theirs = share.clone();
        let worker =
            Worker::new(Kind::Share, "virtio-fs", move |session, index, _| serve(&theirs, session, index))?;
        Ok(Self { share, config, worker })
    }
}

fn serve(share: &Share, session: &Arc<Session>, index: u16) -> bool {
    let Some(Some(queue)) = session.queues.get(usize::from(index)) else { return false };
    each_chain(queue, |chain| match request::carry_out(share, queue.ram(), &chain) {
        Ok(written) => {
            queue.push(chain.head, written);
            queue.signal();
        }
        Err(why) => queue.fail(&why),
    })
}

impl VirtioDevice for Fs {
    fn name(&self) -> &'static str {
        "virtio-fs"
    }

    fn kind(&self) -> u16 {
        26
    }

    fn pci_class(&self) -> u32 {
        0x01_8000
    }

    fn features(&self) -> u64 {
        0
    }

    /// What is not to wait for others (FORGET), and requests.
    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_image(&self.config, offset, data);
    }

    fn start(&self, session: Arc<Session>) {
        self.worker.start(session);
    }

    fn stop(&self) {
        self.worker.stop();
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        self.worker.event()
    }

    fn notify(&self, queue: u16) {
        self.worker.notify(queue);
    }

    fn reset(&self) {
        self.share.reset();
    }

    /// Nodes and open files are the host's, and this process's.
    fn can_be_kept(&self) -> bool {
        !self.share.is_used()
    }
}

#[cfg(test)]
mod tests;
