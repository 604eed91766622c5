//! The rings of a split queue: what is available, what was used, and who wants to be told (2.7.6 to 2.7.10).

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use memory::GuestRam;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::chain::{DESCRIPTOR, Table};
use super::{Chain, QueueError};
use crate::{DriverLink, feature};

/// Available ring, flags: no interrupts please. Used ring, flags: no notifications please.
const SUPPRESS: u16 = 1;
/// Offsets in both rings.
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;

/// Where the driver put a queue, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueLayout {
    /// Entries.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring ("driver area").
    pub available: u64,
    /// Used ring ("device area").
    pub used: u64,
}

/// How far the device is in its rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueuePosition {
    /// Next entry of the available ring.
    pub available: u16,
    /// Next entry of the used ring.
    pub used: u16,
}

/// A queue in use. Several threads may take from it and give back to it.
pub struct Queue {
    ram: Arc<GuestRam>,
    link: Arc<DriverLink>,
    index: u16,
    layout: QueueLayout,
    event_index: bool,
    indirect: bool,
    state: Mutex<State>,
}

struct State {
    position: QueuePosition,
    /// Used index when an interrupt was last considered.
    signalled: u16,
    /// Chains taken and not given back.
    in_use: u16,
}

impl Queue {
    /// Queue number `index` at `layout`; `features` are the negotiated ones.
    ///
    /// # Errors
    /// A layout that no queue can have.
    pub fn new(
        ram: Arc<GuestRam>,
        link: Arc<DriverLink>,
        index: u16,
        layout: QueueLayout,
        features: u64,
        position: QueuePosition,
    ) -> Result<Self, QueueError> {
        let QueueLayout { size, descriptors, available, used } = layout;
        if !size.is_power_of_two() {
            return Err(QueueError::Size(size));
        }
        let n = u64::from(size);
        // The last two bytes of each ring are the other side's wish with EVENT_IDX.
        let parts = [
            ("descriptor table", descriptors, DESCRIPTOR * n, 16),
            ("available ring", available, ENTRIES + 2 * n + 2, 2),
            ("used ring", used, ENTRIES + 8 * n + 2, 4),
        ];
        for (part, addr, len, align) in parts {
            if addr % align != 0 || ram.host_range(addr, len).is_err() {
                return Err(QueueError::Ring { part, addr });
            }
        }
        let state = Mutex::new(State { position, signalled: position.used, in_use: 0 });
        let (event_index, indirect) =
            (features & feature::EVENT_IDX != 0, features & feature::INDIRECT_DESC != 0);
        Ok(Self { ram, link, index, layout, event_index, indirect, state })
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// The memory that chains lie in.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// How far the device is.
    pub fn position(&self) -> QueuePosition {
        self.state.lock().position
    }

    /// The driver made a mistake in this queue: the device needs a reset.
    pub fn fail(&self, why: &QueueError) {
        self.link.fail(self.index, why);
    }

    /// Takes the next chain. None if there is none, or nothing that can be one, which
    /// [`fail`](Self::fail)s.
    pub fn pop(&self) -> Option<Chain> {
        if self.link.is_broken() {
            return None;
        }
        let mut state = self.state.lock();
        self.take(&mut state).unwrap_or_else(|why| {
            drop(state);
            self.fail(&why);
            None
        })
    }

    fn take(&self, state: &mut State) -> Result<Option<Chain>, QueueError> {
        let (size, next) = (self.layout.size, state.position.available);
        let index = self.available_index();
        match index.wrapping_sub(next) {
            0 => return Ok(None),
            n if n > size => return Err(QueueError::Available { index, seen: next }),
            _ => {}
        }
        if state.in_use >= size {
            return Err(QueueError::InUse);
        }
        let entry = ENTRIES + 2 * u64::from(next & (size - 1));
        let head = self.load(self.layout.available + entry);
        let table = Table { addr: self.layout.descriptors, size };
        let chain = Chain::walk(&self.ram, table, head, self.indirect)?;
        state.position.available = next.wrapping_add(1);
        state.in_use += 1;
        Ok(Some(chain))
    }

    /// Gives a chain back with the number of bytes that were written to it. [`signal`](Self::signal) later.
    pub fn push(&self, head: u16, written: u32) {
        self.push_all(&[(head, written)]);
    }

    /// Gives chains back, which the driver sees all at once.
    pub fn push_all(&self, chains: &[(u16, u32)]) {
        let mut state = self.state.lock();
        for &(head, written) in chains {
            let used = state.position.used;
            let entry = self.layout.used + ENTRIES + 8 * u64::from(used & (self.layout.size - 1));
            // The rings were checked to be RAM, which stays where it is.
            let _ = self.ram.store_u32(entry, head.into());
            let _ = self.ram.store_u32(entry + 4, written);
            state.position.used = used.wrapping_add(1);
            state.in_use = state.in_use.saturating_sub(1);
        }
        self.store(self.layout.used + INDEX, state.position.used);
    }

    /// The last `count` chains that were taken are as if they had not been. Nobody else takes from the queue, and
    /// nothing was done with them.
    pub fn untake(&self, count: u16) {
        let mut state = self.state.lock();
        let count = count.min(state.in_use);
        state.position.available = state.position.available.wrapping_sub(count);
        state.in_use -= count;
    }

    /// Interrupts the driver if it wants to hear of what was given back.
    pub fn signal(&self) {
        let wanted = {
            let mut state = self.state.lock();
            let new = state.position.used;
            let old = std::mem::replace(&mut state.signalled, new);
            // What was given back is visible before the driver's wish is read; it does the reverse.
            fence(Ordering::SeqCst);
            if self.event_index {
                let event = self.load(self.layout.available + ENTRIES + 2 * u64::from(self.layout.size));
                new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
            } else {
                new != old && self.load(self.layout.available) & SUPPRESS == 0
            }
        };
        if wanted && !self.link.is_broken() {
            self.link.used(self.index);
        }
    }

    /// The driver need not notify: the device looks by itself until [`listen`](Self::listen).
    pub fn mute(&self) {
        // With EVENT_IDX the wish stays behind at an index that was passed.
        if !self.event_index {
            self.store(self.layout.used, SUPPRESS);
        }
    }

    /// The driver shall notify of the next chain; true if there is one already.
    pub fn listen(&self) -> bool {
        let state = self.state.lock();
        let next = state.position.available;
        if self.event_index {
            self.store(self.layout.used + ENTRIES + 8 * u64::from(self.layout.size), next);
        } else {
            self.store(self.layout.used, 0);
        }
        fence(Ordering::SeqCst);
        self.available_index() != next && !self.link.is_broken()
    }

    fn available_index(&self) -> u16 {
        self.load(self.layout.available + INDEX)
    }

    fn load(&self, addr: u64) -> u16 {
        self.ram.load_u16(addr).unwrap_or(0)
    }

    fn store(&self, addr: u64, value: u16) {
        let _ = self.ram.store_u16(addr, value);
    }
}
