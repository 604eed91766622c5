//! A port: what the driver knows of it, and the way of its bytes.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{ConsoleSize, LateBell, Peer, PortBackend, PortBell};
use crate::Queue;
use crate::queue::{read_at, total, write_at};

/// Most bytes that are copied together, and that a port gets in a row.
const PIECE: usize = 1 << 16;
const TURN: u64 = 1 << 20;

/// A port.
pub struct Port {
    /// Empty for the terminal.
    pub name: String,
    backend: Arc<dyn PortBackend>,
    bell: LateBell,
    state: Mutex<PortState>,
}

/// What is told of a port, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortState {
    /// The driver has been told that there is such a port, and is to be told so.
    pub added: bool,
    pub add: bool,
    /// The driver has the port, and is to be told what it is.
    pub ready: bool,
    pub describe: bool,
    pub name: bool,
    /// Size and peer that it has been told of last.
    pub size: Option<ConsoleSize>,
    pub peer: Option<u64>,
    /// Somebody in the guest has opened it.
    pub open: bool,
    /// Bytes of the next chain from the guest that were taken already.
    taken: u64,
    /// See [`PortBackend::unfinished`].
    #[serde(default)]
    unfinished: Vec<u8>,
}

impl PortState {
    /// The driver has set the port up, or could not. In both cases it knows nothing more of it, whatever it was told.
    pub fn set_ready(&mut self, ready: bool) {
        (self.ready, self.describe, self.name) = (ready, ready, ready);
        (self.size, self.peer) = (None, None);
        self.open &= ready;
    }
}

impl Port {
    pub fn new(name: String, backend: Arc<dyn PortBackend>) -> Self {
        Self { name, backend, bell: LateBell::new(), state: Mutex::default() }
    }

    pub fn connect(&self, bell: PortBell) {
        // Before the driver comes, so it is the first and only one.
        let _ = self.bell.set(bell.clone());
        self.backend.connect(bell);
    }

    pub fn size(&self) -> Option<ConsoleSize> {
        self.backend.size()
    }

    pub fn peer(&self) -> Peer {
        self.backend.peer()
    }

    pub fn is_terminal(&self) -> bool {
        self.name.is_empty()
    }

    /// The size is not what it was at the last call.
    pub fn is_resized(&self) -> bool {
        let (size, mut state) = (self.size(), self.state.lock());
        std::mem::replace(&mut state.size, size) != size
    }

    pub fn save(&self) -> PortState {
        let mut state = self.state.lock().clone();
        if state.open {
            state.unfinished = self.backend.unfinished();
        }
        state
    }

    /// As at power-on.
    pub fn reset(&self) {
        if std::mem::take(&mut *self.state.lock()).open {
            self.backend.opened(false);
        }
    }

    /// The state of another process, after a reset. Whoever is there now is another one, which the driver is told if the new one
    /// cannot tell it himself.
    pub fn restore(&self, mut state: PortState) {
        let unfinished = std::mem::take(&mut state.unfinished);
        if !(state.open && self.backend.resumed(&unfinished)) {
            state.peer = state.peer.map(|_| 0);
        }
        *self.state.lock() = state;
    }

    /// Changes what is known of the driver, and has the port's queues looked at.
    pub fn change(&self, change: impl FnOnce(&mut PortState)) {
        let mut state = self.state.lock();
        let before = state.open;
        change(&mut state);
        let after = state.open;
        drop(state);
        if before != after {
            self.backend.opened(after);
        }
        if let Some(bell) = self.bell.get() {
            bell.ring();
        }
    }

    /// Looks at the state and maybe changes it.
    pub fn with<T>(&self, look: impl FnOnce(&mut PortState) -> T) -> T {
        look(&mut self.state.lock())
    }

    /// What the driver says by the register for emergencies. What has no room is lost.
    pub fn emergency(&self, character: &[u8]) {
        self.backend.write(character);
    }

    /// From the host to the guest; nothing if `asks` and nobody there has opened the port.
    pub fn input(&self, queue: &Queue, asks: bool) -> bool {
        if asks && !self.state.lock().open {
            return false;
        }
        let mut data = Vec::new();
        let (mut left, mut more) = (queue.size(), false);
        queue.mute();
        while left > 0 {
            let Some(chain) = queue.pop() else {
                if queue.listen() {
                    continue;
                }
                break;
            };
            data.resize(total(chain.writable()).min(PIECE as u64) as usize, 0);
            let count = if data.is_empty() { 0 } else { self.backend.read(&mut data) };
            if count == 0 && !data.is_empty() {
                queue.untake(1);
                break;
            }
            let bytes = data.get(..count).unwrap_or_default();
            let written = write_at(queue.ram(), chain.writable(), 0, bytes);
            queue.push(chain.head, written as u32);
            left -= 1;
            more = left == 0;
        }
        queue.signal();
        more
    }

    /// From the guest to the host. A chain that the host takes in part remains the next one.
    pub fn output(&self, queue: &Queue) -> bool {
        let mut state = self.state.lock();
        let mut data = Vec::new();
        let mut left = TURN;
        queue.mute();
        let more = loop {
            let Some(chain) = queue.pop() else {
                if queue.listen() {
                    continue;
                }
                break false;
            };
            let len = total(chain.readable());
            let count = len.saturating_sub(state.taken).min(left).min(PIECE as u64);
            data.resize(count as usize, 0);
            read_at(queue.ram(), chain.readable(), state.taken, &mut data);
            let written = self.backend.write(&data).min(data.len()) as u64;
            state.taken = state.taken.saturating_add(written);
            // An empty chain costs as much as a small one.
            left = left.saturating_sub(written.max(64));
            if state.taken >= len {
                state.taken = 0;
                queue.push(chain.head, 0);
            } else {
                queue.untake(1);
                if written < count {
                    break false;
                }
            }
            if left == 0 {
                break true;
            }
        };
        queue.signal();
        more
    }
}
