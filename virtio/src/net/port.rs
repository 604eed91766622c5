//! The driver's queues as the end of a cable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use ::net::{Abilities, Frame, GuestPort, MAX_FRAME, Offload, Put};
use parking_lot::Mutex;

use super::{bit, control};
use crate::queue::{Writer, read_at, total};
use crate::worker::each_chain;
use crate::{Queue, QueueError, Session, Throttle};

/// Most buffers of a frame.
const MAX_BUFFERS: usize = 64;

/// What the backend's thread works on. The lock on the session is what `stop` waits for.
pub struct Port {
    session: Mutex<Option<Arc<Session>>>,
    /// Pairs of queues that there are, and that the driver uses.
    most: u16,
    active: AtomicU16,
    /// The pair whose turn it is.
    turn: AtomicU16,
    /// The network's end of the cable is plugged in.
    up: AtomicBool,
    /// Rates of frames from the guest and to it.
    sent: Arc<Throttle>,
    received: Arc<Throttle>,
}

impl Port {
    pub fn new(most: u16) -> Self {
        Self {
            session: Mutex::default(),
            most,
            active: AtomicU16::new(1),
            turn: AtomicU16::new(0),
            up: AtomicBool::new(true),
            sent: Arc::default(),
            received: Arc::default(),
        }
    }

    pub fn sent(&self) -> &Arc<Throttle> {
        &self.sent
    }

    pub fn received(&self) -> &Arc<Throttle> {
        &self.received
    }

    pub fn start(&self, session: Arc<Session>) {
        *self.session.lock() = Some(session);
    }

    pub fn stop(&self) {
        let session = self.session.lock().take();
        drop(session);
    }

    pub fn reset(&self) {
        self.active.store(1, Ordering::SeqCst);
    }

    /// Carries out what is in the control queue; false if `index` is not its number.
    pub fn control(&self, index: u16) -> bool {
        let guard = self.session.lock();
        let Some(session) = guard.as_ref() else { return false };
        // Without several pairs it follows the only one.
        let pairs = if session.features & bit::MQ != 0 { self.most } else { 1 };
        if index != 2 * pairs || session.features & bit::CTRL_VQ == 0 {
            return false;
        }
        let Some(queue) = queue(session, index) else { return true };
        // What is left after a whole queue's worth is done at the next notification, which the driver owes.
        each_chain(queue, |chain| {
            if let Some(pairs) = control::command(queue, &chain, pairs) {
                self.active.store(pairs, Ordering::SeqCst);
            }
        });
        queue.signal();
        true
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    /// The driver uses so many pairs.
    pub fn use_pairs(&self, pairs: u16) {
        self.active.store(pairs, Ordering::SeqCst);
    }

    pub fn pairs(&self) -> u16 {
        self.active.load(Ordering::SeqCst).clamp(1, self.most)
    }
}

fn queue(session: &Session, index: u16) -> Option<&Arc<Queue>> {
    session.queues.get(usize::from(index))?.as_ref()
}

/// The next chain of a queue; the driver notifies of one if there is none.
fn next(queue: &Queue) -> Option<crate::Chain> {
    queue.pop().or_else(|| if queue.listen() { queue.pop() } else { None })
}

impl GuestPort for Port {
    fn abilities(&self) -> Abilities {
        let features = self.session.lock().as_ref().map_or(0, |session| session.features);
        let checksum = features & bit::GUEST_CSUM != 0;
        Abilities {
            checksum,
            tcp4: checksum && features & bit::GUEST_TSO4 != 0,
            tcp6: checksum && features & bit::GUEST_TSO6 != 0,
        }
    }

    fn take(&self, frame: &mut Frame) -> bool {
        let guard = self.session.lock();
        let Some(session) = guard.as_ref() else { return false };
        if !self.sent.is_ready() {
            return false;
        }
        let pairs = self.pairs();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for pair in (0..pairs).map(|i| (turn % pairs + i) % pairs) {
            let Some(queue) = queue(session, 2 * pair + 1) else { continue };
            while let Some(chain) = next(queue) {
                let len = total(chain.readable());
                let mut header = [0; Offload::LEN];
                if !read_at(queue.ram(), chain.readable(), 0, &mut header) {
                    queue.fail(&QueueError::Short("a header"));
                    return false;
                }
                let len = (len as usize).saturating_sub(Offload::LEN);
                let offload = Offload::decode(&header).filter(|_| len <= MAX_FRAME);
                if let Some(offload) = offload {
                    frame.bytes.resize(len, 0);
                    read_at(queue.ram(), chain.readable(), Offload::LEN as u64, &mut frame.bytes);
                    (frame.offload, frame.queue) = (offload, pair);
                }
                queue.push(chain.head, 0);
                self.sent.spend(len as u64);
                if offload.is_some() {
                    return true;
                }
            }
        }
        false
    }

    fn put(&self, pair: u16, offload: &Offload, parts: &[&[u8]]) -> Put {
        let guard = self.session.lock();
        let Some(session) = guard.as_ref() else { return Put::Gone };
        let pair = if pair < self.pairs() { pair } else { 0 };
        let Some(queue) = queue(session, 2 * pair) else { return Put::Gone };
        if !self.received.is_ready() {
            return Put::Full;
        }
        let needed = (Offload::LEN + parts.iter().map(|p| p.len()).sum::<usize>()) as u64;
        let most = if session.features & bit::MRG_RXBUF != 0 { MAX_BUFFERS } else { 1 };
        let (mut chains, mut room) = (Vec::with_capacity(4), 0);
        while room < needed && chains.len() < most {
            match next(queue) {
                Some(chain) => {
                    room += total(chain.writable());
                    chains.push(chain);
                }
                None => {
                    queue.untake(chains.len() as u16);
                    return if session.link.is_broken() { Put::Gone } else { Put::Full };
                }
            }
        }
        if room < needed {
            // Buffers that are too small for it, however many there were: the frame is lost.
            queue.untake(chains.len() as u16);
            return Put::Done;
        }
        let mut used = Vec::with_capacity(chains.len());
        let header = offload.encode(chains.len() as u16);
        let mut left = needed;
        for chain in &chains {
            let written = total(chain.writable()).min(left);
            left -= written;
            used.push((chain.head, written as u32));
        }
        let mut writer = Writer::new(queue.ram(), chains.iter().flat_map(|chain| chain.writable()));
        writer.write(&header);
        parts.iter().for_each(|part| writer.write(part));
        queue.push_all(&used);
        self.received.spend(needed);
        Put::Done
    }

    fn finish(&self) {
        let guard = self.session.lock();
        let Some(session) = guard.as_ref() else { return };
        for index in 0..2 * self.pairs() {
            if let Some(queue) = queue(session, index) {
                queue.signal();
            }
        }
    }

    fn link(&self, up: bool) {
        if self.up.swap(up, Ordering::SeqCst) != up
            && let Some(session) = self.session.lock().as_ref()
        {
            session.link.configured();
        }
    }
}
