//! What went through the machine's devices: counted where requests and frames pass on their way to the host.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use block::{BlockBackend, Operation, Patient, Request};
use net::{Abilities, Frame, GuestPort, NetBackend, Offload, Put};
use serde::Serialize;

/// Operations of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct IoStats {
    /// How many have ended.
    pub count: u64,
    /// Bytes they were about.
    pub bytes: u64,
    /// Nanoseconds that they took together.
    pub nanoseconds: u64,
}

/// What a disk did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct DiskStats {
    /// Reads.
    pub reads: IoStats,
    /// Writes.
    pub writes: IoStats,
    /// Flushes, discards and zeroing.
    pub others: IoStats,
    /// Operations that the host could not do.
    pub errors: u64,
}

/// Frames of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct FrameStats {
    /// How many; a large one that is cut later counts once.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a card did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct NetStats {
    /// To the guest.
    pub received: FrameStats,
    /// From the guest.
    pub sent: FrameStats,
}

/// Everything that a machine counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// Why guest code was left, and how often; ports and memory-mapped registers are accessed without leaving it.
    pub exits: Vec<(&'static str, u64)>,
    /// What the engine counts, by its own names.
    pub engine: Vec<(&'static str, u64)>,
    /// Disks, in the order of the definition.
    pub disks: Vec<DiskStats>,
    /// Cards, in the order of the definition.
    pub nets: Vec<NetStats>,
}

#[derive(Default)]
struct Io([AtomicU64; 3]);

impl Io {
    fn add(&self, bytes: u64, nanoseconds: u64) {
        for (counter, value) in self.0.iter().zip([1, bytes, nanoseconds]) {
            counter.fetch_add(value, Ordering::Relaxed);
        }
    }

    fn stats(&self) -> IoStats {
        let [count, bytes, nanoseconds] = &self.0;
        let [count, bytes, nanoseconds] =
            [count, bytes, nanoseconds].map(|counter| counter.load(Ordering::Relaxed));
        IoStats { count, bytes, nanoseconds }
    }
}

/// A disk whose requests are counted.
pub struct MeteredDisk {
    inner: Arc<dyn BlockBackend>,
    meter: Arc<DiskMeter>,
}

#[derive(Default)]
struct DiskMeter {
    reads: Io,
    writes: Io,
    others: Io,
    errors: AtomicU64,
}

impl MeteredDisk {
    pub fn new(inner: Arc<dyn BlockBackend>) -> Self {
        Self { inner, meter: Arc::default() }
    }

    pub fn stats(&self) -> DiskStats {
        let DiskMeter { reads, writes, others, errors } = &*self.meter;
        let (reads, writes, others) = (reads.stats(), writes.stats(), others.stats());
        DiskStats { reads, writes, others, errors: errors.load(Ordering::Relaxed) }
    }
}

impl BlockBackend for MeteredDisk {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn is_read_only(&self) -> bool {
        self.inner.is_read_only()
    }

    fn submit(&self, request: Request) {
        let Request { operation, done } = request;
        let (meter, began) = (self.meter.clone(), Instant::now());
        let (kind, bytes): (fn(&DiskMeter) -> &Io, _) = match &operation {
            Operation::Read { to, .. } => (|meter| &meter.reads, to.len()),
            Operation::Write { from, .. } => (|meter| &meter.writes, from.len()),
            Operation::Flush => (|meter| &meter.others, 0),
            Operation::Discard { len, .. } | Operation::WriteZeroes { len, .. } => {
                (|meter| &meter.others, *len)
            }
        };
        let done = Box::new(move |result: io::Result<()>| {
            kind(&meter).add(bytes, began.elapsed().as_nanos() as u64);
            meter.errors.fetch_add(result.is_err().into(), Ordering::Relaxed);
            done(result);
        });
        self.inner.submit(Request { operation, done });
    }

    fn commit(&self) {
        self.inner.commit();
    }

    fn patient(&self) -> Option<&Patient> {
        self.inner.patient()
    }
}

/// A network whose frames are counted.
pub struct MeteredNet {
    inner: Arc<dyn NetBackend>,
    meter: Arc<NetMeter>,
}

#[derive(Default)]
struct NetMeter {
    received: Io,
    sent: Io,
}

impl MeteredNet {
    pub fn new(inner: Arc<dyn NetBackend>) -> Self {
        Self { inner, meter: Arc::default() }
    }

    pub fn stats(&self) -> NetStats {
        let [received, sent] = [&self.meter.received, &self.meter.sent].map(|io| {
            let IoStats { count, bytes, .. } = io.stats();
            FrameStats { frames: count, bytes }
        });
        NetStats { received, sent }
    }
}

impl NetBackend for MeteredNet {
    fn connect(&self, port: Arc<dyn GuestPort>) -> io::Result<()> {
        self.inner.connect(Arc::new(MeteredPort { inner: port, meter: self.meter.clone() }))
    }

    fn wake(&self) {
        self.inner.wake();
    }

    fn reset(&self) {
        self.inner.reset();
    }
}

struct MeteredPort {
    inner: Arc<dyn GuestPort>,
    meter: Arc<NetMeter>,
}

impl GuestPort for MeteredPort {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn take(&self, frame: &mut Frame) -> bool {
        let taken = self.inner.take(frame);
        if taken {
            self.meter.sent.add(frame.bytes.len() as u64, 0);
        }
        taken
    }

    fn put(&self, queue: u16, offload: &Offload, parts: &[&[u8]]) -> Put {
        let put = self.inner.put(queue, offload, parts);
        if put == Put::Done {
            self.meter.received.add(parts.iter().map(|part| part.len() as u64).sum(), 0);
        }
        put
    }

    fn finish(&self) {
        self.inner.finish();
    }

    fn link(&self, up: bool) {
        self.inner.link(up);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use block::Buffers;

    use super::*;

    #[test]
    fn requests_are_counted_by_kind_when_they_have_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, [7; 8192]).unwrap();
        let options = block::ImageOptions { path, ..block::ImageOptions::default() };
        let disk = MeteredDisk::new(block::open(&options).unwrap());
        let ask = |operation| {
            let (sender, answer) = channel();
            let done = Box::new(move |result: io::Result<()>| sender.send(result).unwrap());
            disk.submit(Request { operation, done });
            disk.commit();
            answer.recv().unwrap().unwrap();
        };
        ask(Operation::Read { offset: 512, to: Buffers::owned(&[0; 1024]) });
        ask(Operation::Read { offset: 0, to: Buffers::owned(&[0; 512]) });
        ask(Operation::Write { offset: 0, from: Buffers::owned(&[1; 512]), durable: false });
        ask(Operation::Flush);
        let stats = disk.stats();
        assert_eq!((stats.reads.count, stats.reads.bytes), (2, 1536));
        assert_eq!(
            (stats.writes.count, stats.writes.bytes, stats.others.count, stats.errors),
            (1, 512, 1, 0)
        );
        assert!(stats.reads.nanoseconds > 0);
    }
}
