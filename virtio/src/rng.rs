//! Entropy device (5.4): the host kernel's random numbers.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use jail::Kind;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::device::read_image;
use crate::queue::{total, write_at};
use crate::worker::{InFlight, Worker, each_chain};
use crate::{Session, VirtioDevice};

/// Most bytes for one request; the driver sees how many it got.
const MOST: u64 = 1 << 16;

/// The device.
pub struct Rng {
    worker: Worker,
}

impl Rng {
    /// An entropy device with a thread of its own.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn new() -> io::Result<Self> {
        Ok(Self { worker: Worker::new(Kind::Device, "virtio-rng", serve)? })
    }
}

fn serve(session: &Arc<Session>, index: u16, _: &InFlight) -> bool {
    let Some(Some(queue)) = session.queues.get(usize::from(index)) else { return false };
    let more = each_chain(queue, |chain| {
        let mut data = vec![0; total(chain.writable()).min(MOST) as usize];
        let mut filled = 0;
        while let Some(rest) = data.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match getrandom(rest, GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break, // the driver gets what there is
            }
        }
        let written = write_at(queue.ram(), chain.writable(), 0, &data[..filled]);
        queue.push(chain.head, written as u32);
    });
    queue.signal();
    more
}

impl VirtioDevice for Rng {
    fn name(&self) -> &'static str {
        "virtio-rng"
    }

    fn kind(&self) -> u16 {
        4
    }

    fn pci_class(&self) -> u32 {
        0xff_0000
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &[u16] {
        &[64]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_image(&[], offset, data);
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
}

#[cfg(test)]
mod tests;
