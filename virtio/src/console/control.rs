//! The control queues (5.3.6.2): which ports there are, and who has opened them. What the driver is to be told is found
//! by comparison with what it was told, so a driver that does not listen costs nothing.

use super::port::Port;
use super::{Peer, Ports, bit};
use crate::queue::{read_at, total, write_at};
use crate::{Queue, QueueError, Session};

/// Events.
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_REMOVE: u16 = 2;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const RESIZE: u16 = 5;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// Port, event, value.
const HEADER: usize = 8;

fn message(id: usize, event: u16, value: u16, rest: &[u8]) -> Vec<u8> {
    let mut message = (id as u32).to_le_bytes().to_vec();
    message.extend(event.to_le_bytes());
    message.extend(value.to_le_bytes());
    message.extend(rest);
    message
}

impl Ports {
    /// Tells the driver what it does not know yet.
    pub fn tell(&self, session: &Session, queue: &Queue) -> bool {
        queue.mute();
        let mut left = queue.size();
        while left > 0 {
            let Some(chain) = queue.pop() else {
                if queue.listen() {
                    continue;
                }
                break;
            };
            let Some(message) = self.existing().find_map(|(id, port)| news(id, port, session.features))
            else {
                queue.untake(1);
                break;
            };
            if total(chain.writable()) < message.len() as u64 {
                queue.fail(&QueueError::Short("room for a control message"));
                return false;
            }
            write_at(queue.ram(), chain.writable(), 0, &message);
            queue.push(chain.head, message.len() as u32);
            left -= 1;
        }
        queue.signal();
        left == 0
    }

    /// Does what the driver says.
    pub fn hear(&self, queue: &Queue) -> bool {
        let more = crate::worker::each_chain(queue, |chain| {
            let mut header = [0; HEADER];
            if !read_at(queue.ram(), chain.readable(), 0, &mut header) {
                return queue.fail(&QueueError::Short("a control message"));
            }
            queue.push(chain.head, 0);
            let [a, b, c, d, event, high, value, upper] = header;
            let id = u32::from_le_bytes([a, b, c, d]);
            self.obey(id, u16::from_le_bytes([event, high]), u16::from_le_bytes([value, upper]) != 0);
        });
        queue.signal();
        more
    }

    fn obey(&self, id: u32, event: u16, yes: bool) {
        let port = usize::try_from(id).ok().and_then(|id| self.get(id));
        match (event, port) {
            (event::DEVICE_READY, _) => {
                for (_, port) in self.existing() {
                    port.change(|state| state.add = yes);
                }
            }
            (event::PORT_READY, Some(port)) => port.change(|state| state.set_ready(yes)),
            (event::PORT_OPEN, Some(port)) => port.change(|state| state.open = yes),
            _ => {}
        }
    }
}

/// The next thing to tell of a port, which counts as told.
fn news(id: usize, port: &Port, features: u64) -> Option<Vec<u8>> {
    let peer = match port.peer() {
        Peer::Gone => {
            let known = port.with(std::mem::take).added;
            return known.then(|| message(id, event::PORT_REMOVE, 1, &[]));
        }
        Peer::Nobody => None,
        Peer::Somebody(number) => Some(number),
    };
    let size = port.size().filter(|_| features & bit::SIZE != 0);
    port.with(|state| {
        if std::mem::take(&mut state.add) {
            state.added = true;
            return Some(message(id, event::PORT_ADD, 1, &[]));
        }
        if !state.ready {
            return None;
        }
        if std::mem::take(&mut state.describe) && port.is_terminal() {
            return Some(message(id, event::CONSOLE_PORT, 1, &[]));
        }
        if std::mem::take(&mut state.name) && !port.is_terminal() {
            return Some(message(id, event::PORT_NAME, 1, port.name.as_bytes()));
        }
        if let Some(new) = size
            && port.is_terminal()
            && state.size != size
        {
            state.size = size;
            let size = [new.columns, new.rows].map(u16::to_le_bytes).concat();
            return Some(message(id, event::RESIZE, 1, &size));
        }
        if state.peer == peer {
            return None;
        }
        // Somebody else in the same place: the first one has left.
        state.peer = if state.peer.is_some() { None } else { peer };
        Some(message(id, event::PORT_OPEN, state.peer.is_some().into(), &[]))
    })
}
