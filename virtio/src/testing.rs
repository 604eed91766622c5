//! The guest's side in tests: a driver that lays queues out in RAM, puts chains into them and takes them back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use memory::GuestRam;
use parking_lot::Mutex;

use crate::frontend::status;
use crate::queue::QueuePosition;
use crate::{DriverLink, Frontend, Interrupt, Queue, QueueLayout, VirtioDevice, feature};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Counts interrupts.
#[derive(Default)]
pub struct Interrupts {
    pub queues: AtomicU32,
    pub config: AtomicU32,
}

impl Interrupt for Interrupts {
    fn queue(&self, _index: u16) {
        self.queues.fetch_add(1, Ordering::SeqCst);
    }

    fn config(&self) {
        self.config.fetch_add(1, Ordering::SeqCst);
    }
}

impl Interrupts {
    /// Interrupts of queues so far; they count from zero again.
    pub fn take(&self) -> u32 {
        self.queues.swap(0, Ordering::SeqCst)
    }
}

/// A queue of the driver's: rings in a page each from `base`, buffers behind them.
pub struct DriverQueue {
    pub ram: Arc<GuestRam>,
    pub layout: QueueLayout,
    available: Mutex<u16>,
    seen: Mutex<u16>,
}

/// Where a queue's buffers may lie.
pub const BUFFERS: u64 = 0x10_0000;

impl DriverQueue {
    pub fn new(ram: &Arc<GuestRam>, base: u64, size: u16) -> Self {
        let layout = QueueLayout { size, descriptors: base, available: base + 0x4000, used: base + 0x8000 };
        Self { ram: ram.clone(), layout, available: Mutex::new(0), seen: Mutex::new(0) }
    }

    pub fn describe(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.describe_at(self.layout.descriptors + 16 * u64::from(index), addr, len, flags, next);
    }

    pub fn describe_at(&self, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
        let mut data = [0; 16];
        data[..8].copy_from_slice(&addr.to_le_bytes());
        data[8..12].copy_from_slice(&len.to_le_bytes());
        data[12..14].copy_from_slice(&flags.to_le_bytes());
        data[14..].copy_from_slice(&next.to_le_bytes());
        self.ram.write(at, &data).unwrap();
    }

    /// Makes the chain that begins with a descriptor available.
    pub fn offer(&self, head: u16) {
        let mut index = self.available.lock();
        let slot = self.layout.available + 4 + 2 * u64::from(*index % self.layout.size);
        self.ram.store_u16(slot, head).unwrap();
        *index = index.wrapping_add(1);
        self.ram.store_u16(self.layout.available + 2, *index).unwrap();
    }

    /// Describes buffers (address, length, whether the device writes) from descriptor `head` on, and offers them.
    pub fn offer_chain(&self, head: u16, buffers: &[(u64, u32, bool)]) {
        for (i, &(addr, len, write)) in buffers.iter().enumerate() {
            let index = head + i as u16;
            let next = if i + 1 < buffers.len() { NEXT } else { 0 };
            self.describe(index, addr, len, next | if write { WRITE } else { 0 }, index + 1);
        }
        self.offer(head);
    }

    /// The next chain that was given back: its head and the bytes written.
    pub fn used(&self) -> Option<(u32, u32)> {
        let mut seen = self.seen.lock();
        if self.ram.load_u16(self.layout.used + 2).unwrap() == *seen {
            return None;
        }
        let entry = self.layout.used + 4 + 8 * u64::from(*seen % self.layout.size);
        *seen = seen.wrapping_add(1);
        Some((self.ram.load_u32(entry).unwrap(), self.ram.load_u32(entry + 4).unwrap()))
    }

    /// Waits for the next chain.
    pub fn wait_used(&self) -> (u32, u32) {
        eventually(|| self.used())
    }

    /// With EVENT_IDX: interrupt when the used index passes this.
    pub fn set_used_event(&self, index: u16) {
        let at = self.layout.available + 4 + 2 * u64::from(self.layout.size);
        self.ram.store_u16(at, index).unwrap();
    }

    /// What the device asks for with EVENT_IDX.
    pub fn available_event(&self) -> u16 {
        self.ram.load_u16(self.layout.used + 4 + 8 * u64::from(self.layout.size)).unwrap()
    }

    pub fn fill(&self, addr: u64, data: &[u8]) {
        self.ram.write(addr, data).unwrap();
    }

    pub fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.ram.read(addr, &mut data).unwrap();
        data
    }
}

/// Polls until there is an answer.
pub fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it does not come");
        std::thread::yield_now();
    }
}

pub fn ram() -> Arc<GuestRam> {
    Arc::new(GuestRam::new(4 << 20).unwrap())
}

/// A queue from both sides, without a device.
pub struct Pair {
    pub driver: DriverQueue,
    pub queue: Queue,
    pub interrupts: Arc<Interrupts>,
    pub link: Arc<DriverLink>,
}

pub fn pair(size: u16, features: u64) -> Pair {
    let (ram, interrupts) = (ram(), Arc::new(Interrupts::default()));
    let link = Arc::new(DriverLink::new("test", interrupts.clone()));
    let driver = DriverQueue::new(&ram, 0x1_0000, size);
    let position = QueuePosition::default();
    let queue = Queue::new(ram, link.clone(), 0, driver.layout, features, position).unwrap();
    Pair { driver, queue, interrupts, link }
}

/// A device with its driver, without a transport.
pub struct Bench {
    pub ram: Arc<GuestRam>,
    pub frontend: Frontend,
    pub interrupts: Arc<Interrupts>,
    pub queues: Vec<DriverQueue>,
}

impl Bench {
    /// Resets the device and negotiates all features but `without`, with queues of 16 entries.
    pub fn new(device: Arc<dyn VirtioDevice>, without: u64) -> Self {
        let (ram, interrupts) = (ram(), Arc::new(Interrupts::default()));
        let frontend = Frontend::new(device, ram.clone(), interrupts.clone());
        let mut bench = Self { ram, frontend, interrupts, queues: Vec::new() };
        bench.negotiate(without);
        bench
    }

    pub fn negotiate(&mut self, without: u64) {
        self.agree(without);
        let f = &self.frontend;
        self.queues.clear();
        for index in 0..f.queue_count() {
            let queue = DriverQueue::new(&self.ram, 0x1_0000 * u64::from(index + 1), 16);
            let clear = [0; 0x100];
            queue.fill(queue.layout.available, &clear);
            queue.fill(queue.layout.used, &clear);
            self.queues.push(queue);
        }
        self.set_up(|_| true);
        self.go();
    }

    /// Resets the device and agrees with it on all features but `without`.
    pub fn agree(&self, without: u64) {
        let f = &self.frontend;
        for value in [0, 1, 3] {
            f.set_status(value);
        }
        let features = f.offered() & !without | feature::VERSION_1;
        f.accept(0, features as u32);
        f.accept(1, (features >> 32) as u32);
        f.set_status(3 | status::FEATURES_OK);
        assert_eq!(f.status(), 11);
    }

    /// Tells the device where its queues are, and enables some of them.
    pub fn set_up(&self, enabled: impl Fn(u16) -> bool) {
        for (index, queue) in (0..).zip(&self.queues) {
            self.frontend.set_queue(index, |q| q.layout = queue.layout);
            self.frontend.set_queue(index, |q| q.enabled = enabled(index));
        }
    }

    /// The driver is ready.
    pub fn go(&self) {
        self.frontend.set_status(11 | status::DRIVER_OK);
    }

    pub fn notify(&self, queue: u16) {
        self.frontend.device().notify(queue);
    }

    pub fn needs_reset(&self) -> bool {
        self.frontend.status() & status::NEEDS_RESET != 0
    }
}
