//! Console (5.3): a terminal as port 0, and ports with names behind it. Bytes go between the driver's queues and a
//! [`PortBackend`] on the device's own thread; whichever side does not take them, the other one waits, and nothing is
//! kept in between.
//!
//! With ports besides the terminal, its size is told by a control message whose two fields some drivers take for each
//! other (Linux until 2025, and some of its later releases). A terminal alone has its size in the configuration, which
//! all of them understand.
//!
//! NOT modelled: ports that come while the machine runs. Linux's driver for port 0 waits for its output without giving
//! the CPU away, so a terminal that takes nothing stops that CPU, as a serial port does.

mod control;
mod port;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

use device::{NullBackend, RestoreError};
use jail::Kind;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::device::{DeviceState, read_image};
use crate::worker::{Bell, InFlight, Worker};
use crate::{Session, VirtioDevice};
use port::{Port, PortState};

/// Feature bits (5.3.3).
mod bit {
    pub const SIZE: u64 = 1;
    pub const MULTIPORT: u64 = 1 << 1;
    pub const EMERG_WRITE: u64 = 1 << 2;
}

/// Entries of a port's queue, and of a control queue.
const QUEUE_SIZE: u16 = 128;
const CONTROL_SIZE: u16 = 64;
/// The register for what has to be said when nothing works yet (5.3.4).
const EMERGENCY: u64 = 8;

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Who is at a port's end on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Nobody: what the guest sends is lost, as on a cable without another end.
    Nobody,
    /// Somebody, who has this number and no one before or after it. Never zero.
    Somebody(u64),
    /// There will not be anybody any more: the port is taken away from the guest.
    Gone,
}

/// The host's end of a port. Its methods are called by the device's thread, which serves all ports: they do not block.
pub trait PortBackend: Send + Sync {
    /// What to ring from now on when there are bytes for the guest, when there is room for its own again, and when
    /// somebody has come or gone or the size is another one.
    fn connect(&self, bell: PortBell);
    /// Fills `data` with bytes for the guest; 0 if there are none now.
    fn read(&self, data: &mut [u8]) -> usize;
    /// Takes bytes of the guest; how many. Fewer than all: the bell rings when there is room.
    fn write(&self, data: &[u8]) -> usize;
    /// Who is there.
    fn peer(&self) -> Peer;
    /// Somebody in the guest has opened the port, or has closed it.
    fn opened(&self, _open: bool) {}
    /// What somebody in the guest has been given the beginning of, and does not understand the next one without.
    fn unfinished(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Somebody in the guest has the port open since before a snapshot, which found this `unfinished`. True if what he gets says
    /// that the end on the host is another one now; otherwise the driver is told that the first one has left.
    fn resumed(&self, _unfinished: &[u8]) -> bool {
        self.opened(true);
        false
    }
    /// Its size, if it is a terminal that knows it.
    fn size(&self) -> Option<ConsoleSize> {
        None
    }
}

impl PortBackend for NullBackend {
    fn connect(&self, _bell: PortBell) {}

    fn read(&self, _data: &mut [u8]) -> usize {
        0
    }

    fn write(&self, data: &[u8]) -> usize {
        data.len()
    }

    fn peer(&self) -> Peer {
        Peer::Nobody
    }
}

/// Wakes the device for a port.
#[derive(Clone)]
pub struct PortBell {
    bell: Arc<Bell>,
    bits: u64,
}

impl PortBell {
    /// The port's host end has changed. From any thread, with any lock held.
    pub fn ring(&self) {
        self.bell.ring(self.bits);
    }
}

/// Saved state of [`Console`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    ports: Vec<Option<PortState>>,
}

/// A console device.
pub struct Console {
    ports: Arc<Ports>,
    queues: Vec<u16>,
    worker: Worker,
    /// The size when it was last looked at, and how often it was another one.
    seen: Mutex<(Option<ConsoleSize>, u8)>,
}

/// Ports by their numbers. Without a terminal there is no port 0.
struct Ports(Vec<Option<Port>>);

/// What a queue is for (5.3.2).
enum Role {
    Input(usize),
    Output(usize),
    ControlInput,
    ControlOutput,
}

impl Role {
    fn of(queue: u16) -> Self {
        let port = match queue {
            0 | 1 => 0,
            2 => return Self::ControlInput,
            3 => return Self::ControlOutput,
            _ => usize::from(queue / 2 - 1),
        };
        if queue.is_multiple_of(2) { Self::Input(port) } else { Self::Output(port) }
    }

    /// The queue to the guest of a port; the one from the guest follows.
    fn input_of(port: usize) -> u16 {
        if port == 0 { 0 } else { 2 * port as u16 + 2 }
    }
}

impl Console {
    /// Most ports with names: each has two queues, and every queue of the device a bit of its thread's bell.
    pub const MAX_PORTS: usize = 29;

    /// A console with `terminal` as port 0 and named ports, the first [`MAX_PORTS`](Self::MAX_PORTS) of them.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn new(
        terminal: Option<Arc<dyn PortBackend>>,
        named: impl IntoIterator<Item = (String, Arc<dyn PortBackend>)>,
    ) -> io::Result<Self> {
        let named = named.into_iter().take(Self::MAX_PORTS);
        let first = terminal.map(|backend| Port::new(String::new(), backend));
        let rest = named.map(|(name, backend)| Some(Port::new(name, backend)));
        let ports = Arc::new(Ports([first].into_iter().chain(rest).collect()));
        let mut queues = vec![QUEUE_SIZE; 2];
        if ports.are_several() {
            queues.extend([CONTROL_SIZE; 2]);
            queues.resize(2 + 2 * ports.0.len(), QUEUE_SIZE);
        }
        let theirs = ports.clone();
        let worker = Worker::new(
            Kind::Device,
            "virtio-console",
            move |session: &Arc<Session>, queue, _: &InFlight| theirs.serve(session, queue),
        )?;
        for (id, port) in ports.existing() {
            let input = Role::input_of(id);
            let bits = [input, input + 1, 2].map(Worker::bit).iter().fold(0, |all, bit| all | bit);
            port.connect(PortBell { bell: worker.bell(), bits });
        }
        Ok(Self { ports, queues, worker, seen: Mutex::default() })
    }

    fn terminal(&self) -> Option<&Port> {
        self.ports.get(0)
    }

    fn config(&self) -> [u8; 12] {
        let size = self.terminal().and_then(Port::size);
        let (columns, rows) = size.map_or((0, 0), |size| (size.columns, size.rows));
        let mut image = [0; 12];
        image[..2].copy_from_slice(&columns.to_le_bytes());
        image[2..4].copy_from_slice(&rows.to_le_bytes());
        image[4..8].copy_from_slice(&(self.ports.0.len() as u32).to_le_bytes());
        image
    }
}

impl Ports {
    fn get(&self, id: usize) -> Option<&Port> {
        self.0.get(id)?.as_ref()
    }

    /// There is more than a terminal.
    fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    fn existing(&self) -> impl Iterator<Item = (usize, &Port)> {
        self.0.iter().enumerate().filter_map(|(id, port)| Some((id, port.as_ref()?)))
    }

    /// Works on a queue; true if it is to be called again for what is left.
    fn serve(&self, session: &Session, index: u16) -> bool {
        let several = session.features & bit::MULTIPORT != 0;
        let Some(Some(queue)) = session.queues.get(usize::from(index)) else { return false };
        match Role::of(index) {
            Role::ControlInput if several => self.tell(session, queue),
            Role::ControlOutput if several => self.hear(queue),
            Role::Input(0) if !several => {
                if session.features & bit::SIZE != 0 && self.get(0).is_some_and(Port::is_resized) {
                    session.link.configured();
                }
                self.get(0).is_some_and(|port| port.input(queue, false))
            }
            Role::Output(0) if !several => self.get(0).is_some_and(|port| port.output(queue)),
            Role::Input(id) if several => self.get(id).is_some_and(|port| port.input(queue, true)),
            Role::Output(id) if several => self.get(id).is_some_and(|port| port.output(queue)),
            _ => false,
        }
    }
}

impl VirtioDevice for Console {
    fn name(&self) -> &'static str {
        "virtio-console"
    }

    fn kind(&self) -> u16 {
        3
    }

    fn pci_class(&self) -> u32 {
        0x07_8000
    }

    fn features(&self) -> u64 {
        let several = if self.ports.are_several() { bit::MULTIPORT } else { 0 };
        several | if self.terminal().is_some() { bit::SIZE | bit::EMERG_WRITE } else { 0 }
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_image(&self.config(), offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        if let (EMERGENCY, Some(character), Some(terminal)) = (offset, data.get(..1), self.terminal()) {
            terminal.emergency(character);
        }
    }

    fn config_generation(&self) -> u8 {
        let size = self.terminal().and_then(Port::size);
        let mut seen = self.seen.lock();
        if seen.0 != size {
            *seen = (size, seen.1.wrapping_add(1));
        }
        seen.1
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

    fn reset(&self) {
        self.ports.existing().for_each(|(_, port)| port.reset());
    }

    fn save(&self) -> DeviceState {
        let ports = self.ports.0.iter().map(|port| Some(port.as_ref()?.save())).collect();
        DeviceState::Console(ConsoleState { ports })
    }

    fn check(&self, state: &DeviceState, kind: &'static str) -> Result<(), RestoreError> {
        let same = |state: &ConsoleState| {
            state.ports.iter().map(Option::is_some).eq(self.ports.0.iter().map(Option::is_some))
        };
        match state {
            DeviceState::Console(state) if same(state) => Ok(()),
            _ => Err(RestoreError { kind, reason: "it is of a console with other ports" }),
        }
    }

    fn restore(&self, state: &DeviceState) {
        if let DeviceState::Console(state) = state {
            for (port, state) in self.ports.0.iter().zip(&state.ports) {
                if let (Some(port), Some(state)) = (port, state) {
                    port.restore(state.clone());
                }
            }
        }
    }
}

/// A bell that comes later than what is to ring it.
type LateBell = OnceLock<PortBell>;

#[cfg(test)]
mod tests;
