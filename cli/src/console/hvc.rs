//! The user's terminal as port 0 of a virtio console.

use std::sync::Arc;

use machine::{ConsoleSize, Peer, PortBackend, PortBell};
use parking_lot::Mutex;

use super::input::Input;
use super::output::Output;
use crate::terminal;

/// Most characters that wait for the guest.
const WAITING: usize = 4096;

/// The host's end of the port.
pub struct Hvc {
    input: Arc<Input>,
    output: Arc<Output>,
    /// Characters for the guest.
    typed: Mutex<Vec<u8>>,
    /// Of the machine that was made last.
    bell: Mutex<Option<PortBell>>,
    /// Size of the terminal of a client.
    told: Mutex<Option<ConsoleSize>>,
    /// The terminal on stdin is the guest's, and its size matters.
    raw: bool,
}

impl Hvc {
    pub(super) fn new(input: Arc<Input>, output: Arc<Output>, raw: bool) -> Arc<Self> {
        let (typed, bell, told) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { input, output, typed, bell, told, raw })
    }

    /// Offers bytes to the guest; how many were taken.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let mut typed = self.typed.lock();
        let taken = bytes.len().min(WAITING.saturating_sub(typed.len()));
        typed.extend(bytes.iter().take(taken));
        drop(typed);
        self.ring();
        taken
    }

    /// A client's terminal has this size.
    pub fn resize(&self, size: ConsoleSize) {
        *self.told.lock() = Some(size);
        self.ring();
    }

    /// True if it is the clients' terminals that count.
    pub fn is_the_clients(&self) -> bool {
        !self.raw
    }

    /// Something that concerns the guest is not as it was.
    pub fn ring(&self) {
        if let Some(bell) = &*self.bell.lock() {
            bell.ring();
        }
    }
}

impl PortBackend for Hvc {
    fn connect(&self, bell: PortBell) {
        let room = bell.clone();
        self.output.on_room(move || room.ring());
        *self.bell.lock() = Some(bell);
    }

    fn read(&self, data: &mut [u8]) -> usize {
        let mut typed = self.typed.lock();
        let count = data.len().min(typed.len());
        data.iter_mut().zip(typed.drain(..count)).for_each(|(to, from)| *to = from);
        drop(typed);
        if count != 0 {
            self.input.room();
        }
        count
    }

    fn write(&self, data: &[u8]) -> usize {
        self.output.offer(data)
    }

    fn peer(&self) -> Peer {
        Peer::Somebody(1)
    }

    fn size(&self) -> Option<ConsoleSize> {
        if self.raw { terminal::size() } else { *self.told.lock() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Style;

    #[test]
    fn no_more_waits_than_the_guest_reads() {
        let input = Arc::new(Input::new(Style::Plain { keys: false }, Arc::default()));
        let hvc = Hvc::new(input, Arc::default(), false);
        assert_eq!((hvc.push(&[1; 4000]), hvc.push(&[2; 4000]), hvc.push(&[3])), (4000, 96, 0));
        let mut data = [0; 4050];
        assert_eq!((hvc.read(&mut data), data[3999], data[4000]), (4050, 1, 2));
        assert_eq!((hvc.push(b"end"), hvc.read(&mut data), hvc.read(&mut data)), (3, 49, 0));
        assert_eq!(&data[46..49], b"end");
    }
}
