//! Block device (5.2): reads, writes, flushes, discards and zeroing of a [`block::BlockBackend`], with several
//! queues and any number of requests in flight.
//!
//! NOT modelled: changing between write-through and write-back (CONFIG_WCE), lifetime, secure erase, zones;
//! discard and write-zeroes take one range in a request.

mod request;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ::block::{BlockBackend, SECTOR};
use jail::Kind;

use crate::device::read_image;
use crate::queue::total;
use crate::worker::{InFlight, Worker, each_chain_while};
use crate::{Session, Throttle, VirtioDevice};

/// Feature bits (5.2.3).
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const MULTI_QUEUE: u64 = 1 << 12;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// Entries of a queue.
const QUEUE_SIZE: u16 = 256;
/// Most queues.
const MAX_QUEUES: u16 = 16;
/// Most bytes of a buffer and buffers of a request, status and header aside.
const MAX_SEGMENT: u32 = 1 << 20;
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Most sectors of a discard or write-zeroes: what a host does in one go.
const MAX_RANGE: u32 = (1 << 30) / SECTOR as u32;
/// Bytes of a serial number.
const SERIAL: usize = 20;

/// What a disk is beside its image.
#[derive(Debug, Clone, Default)]
pub struct BlkOptions {
    /// Serial number, of which the guest sees the first 20 bytes.
    pub serial: String,
    /// Number of queues, 1 to 16.
    pub queues: u16,
}

/// A disk.
pub struct Blk {
    queues: Vec<u16>,
    features: u64,
    config: [u8; 60],
    worker: Worker,
    throttle: Arc<Throttle>,
}

/// What a request needs of the disk.
struct Disk {
    backend: Arc<dyn BlockBackend>,
    serial: [u8; SERIAL],
    /// A request failed on the host and the user was told.
    warned: Arc<AtomicBool>,
}

impl Blk {
    /// A disk of `backend` with a thread of its own.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn new(backend: Arc<dyn BlockBackend>, options: &BlkOptions) -> io::Result<Self> {
        let queues = vec![QUEUE_SIZE; options.queues.clamp(1, MAX_QUEUES).into()];
        let read_only = backend.is_read_only();
        let mut features = SIZE_MAX | SEG_MAX | BLK_SIZE | FLUSH | MULTI_QUEUE;
        features |= if read_only { READ_ONLY } else { DISCARD | WRITE_ZEROES };
        let config = config(backend.len() / SECTOR, queues.len() as u16);
        let mut serial = [0; SERIAL];
        for (byte, &value) in serial.iter_mut().zip(options.serial.as_bytes()) {
            *byte = value;
        }
        let disk = Arc::new(Disk { backend, serial, warned: Arc::default() });
        let throttle = Arc::new(Throttle::default());
        let theirs = throttle.clone();
        let worker = Worker::new(Kind::Disk, "virtio-blk", move |session, index, in_flight| {
            serve(&disk, &theirs, session, index, in_flight)
        })?;
        let (bell, bits) = (worker.bell(), (0..queues.len() as u16).fold(0, |all, q| all | Worker::bit(q)));
        throttle.connect(move || bell.ring(bits));
        Ok(Self { queues, features, config, worker, throttle })
    }

    /// The rate of all requests.
    pub fn throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }
}

/// Configuration (5.2.4). Fields of features that are not offered are zero.
fn config(sectors: u64, queues: u16) -> [u8; 60] {
    let mut image = [0; 60];
    let mut put = |at: usize, data: &[u8]| image[at..at + data.len()].copy_from_slice(data);
    put(0, &sectors.to_le_bytes());
    put(8, &MAX_SEGMENT.to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(34, &queues.to_le_bytes());
    let one = 1u32.to_le_bytes();
    // Discard: most sectors, ranges, and the alignment that a 4 KiB block of the host's file system asks for.
    put(36, &MAX_RANGE.to_le_bytes());
    put(40, &one);
    put(44, &8u32.to_le_bytes());
    // Write-zeroes: the same, and they may unmap.
    put(48, &MAX_RANGE.to_le_bytes());
    put(52, &one);
    put(56, &[1]);
    image
}

fn serve(
    disk: &Arc<Disk>,
    throttle: &Throttle,
    session: &Arc<Session>,
    index: u16,
    in_flight: &InFlight,
) -> bool {
    let Some(Some(queue)) = session.queues.get(usize::from(index)) else { return false };
    let more = each_chain_while(
        queue,
        || throttle.is_ready(),
        |chain| {
            throttle.spend(total(chain.readable()).saturating_add(total(chain.writable())));
            if let Err(why) = request::start(disk, session.features, queue, chain, in_flight.ticket()) {
                queue.fail(&why);
            }
        },
    );
    disk.backend.commit();
    more
}

impl VirtioDevice for Blk {
    fn name(&self) -> &'static str {
        "virtio-blk"
    }

    fn kind(&self) -> u16 {
        2
    }

    fn pci_class(&self) -> u32 {
        0x01_8000
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queues(&self) -> &[u16] {
        &self.queues
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
}

#[cfg(test)]
mod tests;
