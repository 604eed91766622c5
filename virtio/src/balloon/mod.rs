//! Memory balloon (5.5): pages that the driver gives up, or reports to be free, go back to the host.
//!
//! The mapping of guest RAM stays whatever the driver names ([`GuestRam::discard`]): a disk or a card with a buffer in
//! flight to a page that is given back writes to a page that nobody reads, or to a fresh one, and the host is none the
//! worse.
//!
//! NOT modelled: hints of free pages (FREE_PAGE_HINT), which serve migration; MUST_TELL_HOST, since pages come back by
//! being touched.

mod statistics;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use device::RestoreError;
use jail::Kind;
use memory::{GuestRam, PAGE_SIZE};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::device::read_image;
use crate::queue::{read_at, total};
use crate::worker::{InFlight, Worker, each_chain};
use crate::{Chain, DeviceState, Session, VirtioDevice};
pub use statistics::BalloonStatistics;
use statistics::Desk;

/// Feature bits (5.5.3).
mod bit {
    pub const STATS_VQ: u64 = 1 << 1;
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub const PAGE_POISON: u64 = 1 << 4;
    pub const PAGE_REPORTING: u64 = 1 << 5;
}

/// Entries of a queue. Linux reports 32 ranges at once.
const QUEUE_SIZE: u16 = 128;
/// Most pages of a chain that are looked at, and most bytes of it that are given back when they are reported: drivers
/// send 256 and 128 MiB. What is beyond stays where it is.
const MOST_PAGES: u64 = 4096;
const MOST_REPORTED: u64 = 256 << 20;
/// Bytes of a page's number.
const NUMBER: usize = 4;
/// Configuration (5.5.4): what the device wants, what the driver has done, and what free pages hold.
const ACTUAL: u64 = 4;
const POISON: u64 = 12;

/// A balloon.
pub struct Balloon {
    shared: Arc<Shared>,
    worker: Worker,
}

/// Saved state of [`Balloon`]. Pages are of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BalloonState {
    /// Pages that the driver is asked to give up, and that it says it has.
    target: u32,
    actual: u32,
    /// What free pages hold.
    poison: u32,
}

#[derive(Default)]
struct Shared {
    /// Pages: wanted, and what the driver says.
    target: AtomicU32,
    actual: AtomicU32,
    poison: AtomicU32,
    generation: AtomicU8,
    /// Bytes that were given back so far, by the balloon and by reports.
    inflated: AtomicU64,
    reported: AtomicU64,
    desk: Desk,
    session: Mutex<Option<Arc<Session>>>,
}

/// What a queue is for (5.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

impl Role {
    /// By the standard queues have fixed numbers; drivers number those that they use, without gaps.
    fn of(queue: u16, features: u64) -> Self {
        match queue {
            0 => Self::Inflate,
            1 => Self::Deflate,
            2 if features & bit::STATS_VQ != 0 => Self::Statistics,
            _ => Self::Reporting,
        }
    }
}

impl Balloon {
    /// An empty balloon with a thread of its own.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let worker = Worker::new(
            Kind::Device,
            "virtio-balloon",
            move |session: &Arc<Session>, index, _: &InFlight| theirs.serve(session, index),
        )?;
        Ok(Self { shared, worker })
    }

    /// Asks the driver to give up so much, in bytes, whole pages of 4 KiB. It does so as it can; see
    /// [`size`](Self::size).
    pub fn set_target(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        if self.shared.target.swap(pages, Ordering::SeqCst) != pages {
            self.shared.generation.fetch_add(1, Ordering::SeqCst);
            if let Some(session) = self.shared.session.lock().as_ref() {
                session.link.configured();
            }
        }
    }

    /// What the driver is asked to give up, in bytes.
    pub fn target(&self) -> u64 {
        u64::from(self.shared.target.load(Ordering::SeqCst)) * PAGE_SIZE
    }

    /// What it has given up, in bytes, as it says.
    pub fn size(&self) -> u64 {
        u64::from(self.shared.actual.load(Ordering::SeqCst)) * PAGE_SIZE
    }

    /// Bytes that went back to the host so far: pages that were given up, and pages that were reported to be free.
    pub fn returned(&self) -> (u64, u64) {
        (self.shared.inflated.load(Ordering::Relaxed), self.shared.reported.load(Ordering::Relaxed))
    }

    /// Asks the driver how its memory is used, waits so long for the answer, and gives the last that there was. None: it
    /// has never said.
    pub fn statistics(&self, patience: Duration) -> Option<BalloonStatistics> {
        self.shared.desk.ask(|| self.worker.notify(2), patience)
    }
}

impl Shared {
    /// Works on a queue; true if it is to be called again for what is left.
    fn serve(&self, session: &Session, index: u16) -> bool {
        let Some(Some(queue)) = session.queues.get(usize::from(index)) else { return false };
        let more = match Role::of(index, session.features) {
            Role::Inflate => each_chain(queue, |chain| {
                self.inflate(queue.ram(), &chain);
                queue.push(chain.head, 0);
            }),
            // They come back by being touched.
            Role::Deflate => each_chain(queue, |chain| queue.push(chain.head, 0)),
            Role::Statistics => self.desk.serve(queue),
            Role::Reporting => each_chain(queue, |chain| {
                if session.features & bit::PAGE_POISON == 0 || self.poison.load(Ordering::SeqCst) == 0 {
                    self.report(queue.ram(), &chain);
                }
                queue.push(chain.head, 0);
            }),
        };
        queue.signal();
        more
    }

    /// Gives up the pages whose numbers are in a chain.
    fn inflate(&self, ram: &GuestRam, chain: &Chain) {
        let count = (total(chain.readable()) / NUMBER as u64).min(MOST_PAGES);
        let mut numbers = vec![0; count as usize * NUMBER];
        read_at(ram, chain.readable(), 0, &mut numbers);
        let page = |bytes: &[u8]| u64::from(bytes.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b)));
        let mut run = 0..0;
        for number in numbers.chunks_exact(NUMBER).map(page) {
            if number == run.end {
                run.end += 1;
            } else if run.start.checked_sub(1) == Some(number) {
                run.start = number;
            } else {
                self.discard_run(ram, run);
                run = number..number + 1;
            }
        }
        self.discard_run(ram, run);
    }

    fn discard_run(&self, ram: &GuestRam, run: std::ops::Range<u64>) {
        let len = (run.end - run.start) * PAGE_SIZE;
        // A run with a page that is no RAM stays.
        if len != 0 && discard(ram, run.start * PAGE_SIZE, len) {
            self.inflated.fetch_add(len, Ordering::Relaxed);
        }
    }

    /// Gives up the pages of buffers, until the driver touches them again (5.5.6.7).
    fn report(&self, ram: &GuestRam, chain: &Chain) {
        let mut left = MOST_REPORTED;
        for segment in chain.writable() {
            let len = u64::from(segment.len).min(left);
            left -= len;
            if len != 0 && discard(ram, segment.addr, len) {
                self.reported.fetch_add(len, Ordering::Relaxed);
            }
        }
    }
}

fn discard(ram: &GuestRam, addr: u64, len: u64) -> bool {
    ram.discard(addr, len).inspect_err(|error| tracing::debug!("virtio-balloon: {error}")).is_ok()
}

impl VirtioDevice for Balloon {
    fn name(&self) -> &'static str {
        "virtio-balloon"
    }

    fn kind(&self) -> u16 {
        5
    }

    fn pci_class(&self) -> u32 {
        0xff_0000
    }

    fn features(&self) -> u64 {
        bit::STATS_VQ | bit::DEFLATE_ON_OOM | bit::PAGE_POISON | bit::PAGE_REPORTING
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 5]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let load = |word: &AtomicU32| word.load(Ordering::SeqCst).to_le_bytes();
        let shared = &self.shared;
        let image = [load(&shared.target), load(&shared.actual), [0; 4], load(&shared.poison)].concat();
        read_image(&image, offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else { return };
        match offset {
            ACTUAL => self.shared.actual.store(value, Ordering::SeqCst),
            POISON => self.shared.poison.store(value, Ordering::SeqCst),
            _ => {}
        }
    }

    fn config_generation(&self) -> u8 {
        self.shared.generation.load(Ordering::SeqCst)
    }

    fn start(&self, session: Arc<Session>) {
        *self.shared.session.lock() = Some(session.clone());
        self.worker.start(session);
    }

    fn stop(&self) {
        *self.shared.session.lock() = None;
        self.worker.stop();
        self.shared.desk.put_back();
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        self.worker.event()
    }

    fn notify(&self, queue: u16) {
        self.worker.notify(queue);
    }

    fn reset(&self) {
        self.shared.actual.store(0, Ordering::SeqCst);
        self.shared.poison.store(0, Ordering::SeqCst);
        self.shared.desk.clear();
    }

    fn save(&self) -> DeviceState {
        let load = |word: &AtomicU32| word.load(Ordering::SeqCst);
        let Shared { target, actual, poison, .. } = &*self.shared;
        DeviceState::Balloon(BalloonState {
            target: load(target),
            actual: load(actual),
            poison: load(poison),
        })
    }

    fn check(&self, state: &DeviceState, kind: &'static str) -> Result<(), RestoreError> {
        match state {
            DeviceState::Balloon(_) => Ok(()),
            _ => Err(RestoreError { kind, reason: "it is of another type of device" }),
        }
    }

    fn restore(&self, state: &DeviceState) {
        if let DeviceState::Balloon(state) = state {
            self.shared.target.store(state.target, Ordering::SeqCst);
            self.shared.actual.store(state.actual, Ordering::SeqCst);
            self.shared.poison.store(state.poison, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests;
