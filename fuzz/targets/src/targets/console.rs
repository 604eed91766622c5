//! A virtio console: any bytes in the rings and in control messages, whatever the host's ends of the ports do.

use std::sync::Arc;

use ::device::IrqLine;
use memory::GuestRam;
use parking_lot::Mutex;
use virtio::{Console, ConsoleSize, Peer, PortBackend, PortBell, VirtioMmio};

use super::virtio::{drive, same};
use crate::Target;
use crate::input::Input;

/// The rings of a console with a terminal and two ports.
pub const CONSOLE: Target = Target {
    name: "virtio-console",
    about: "a virtio console behind memory-mapped registers, its rings, and the host's ends of its ports",
    seeds,
    words: &[],
    run,
};

/// All queues have the same rings: each chain is read as a message, as output, and as room for input and for messages.
const QUEUES: [u16; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// The host's end of a port.
#[derive(Default)]
struct End(Mutex<Mood>);

#[derive(Default)]
struct Mood {
    bell: Option<PortBell>,
    /// Bytes that there are for the guest, and room for its own.
    bytes: usize,
    room: usize,
    peer: u8,
}

impl PortBackend for End {
    fn connect(&self, bell: PortBell) {
        self.0.lock().bell = Some(bell);
    }

    fn read(&self, data: &mut [u8]) -> usize {
        assert!(!data.is_empty() && data.len() <= 1 << 16, "{} bytes", data.len());
        let mut mood = self.0.lock();
        let count = mood.bytes.min(data.len());
        mood.bytes -= count;
        count
    }

    fn write(&self, data: &[u8]) -> usize {
        assert!(data.len() <= 1 << 16, "{} bytes", data.len());
        let mut mood = self.0.lock();
        let count = mood.room.min(data.len());
        mood.room -= count;
        count
    }

    fn peer(&self) -> Peer {
        match self.0.lock().peer {
            0 => Peer::Nobody,
            0xff => Peer::Gone,
            number => Peer::Somebody(number.into()),
        }
    }

    fn size(&self) -> Option<ConsoleSize> {
        let rows = self.0.lock().peer.into();
        Some(ConsoleSize { columns: 80, rows })
    }
}

fn run(data: &[u8]) {
    let ends: [Arc<End>; 3] = Default::default();
    let [terminal, first, second] = ends.each_ref().map(|end| end.clone() as Arc<dyn PortBackend>);
    let made = || -> Result<_, Box<dyn std::error::Error>> {
        let console = Console::new(Some(terminal), [("a".to_owned(), first), ("b".to_owned(), second)])?;
        Ok((Arc::new(GuestRam::new(super::virtio::RAM)?), Arc::new(console)))
    };
    let (ram, console) = match made() {
        Ok(made) => made,
        Err(error) => panic!("{error}"),
    };
    let part = VirtioMmio::new(console, ram.clone(), IrqLine::unconnected());
    let mut input = Input::new(data);
    while !input.is_empty() {
        let what = input.u8();
        match what >> 4 {
            2 => {
                let end = &ends[usize::from(what % 3)];
                let mut mood = end.0.lock();
                mood.bytes += usize::from(input.u8()) << (what & 0xc);
                mood.room += usize::from(input.u8()) << (what & 0xc);
                mood.peer = input.u8();
                mood.bell.iter().for_each(PortBell::ring);
            }
            // A message: port, event, value.
            3 => drop(ram.write(0x8000, &[what & 3, 0, 0, 0, input.u8(), 0, what >> 2 & 3, 0])),
            _ => drive(&part, &ram, &QUEUES, what, &mut input),
        }
    }
    same(&part);
}

/// A driver that brings the ports up and opens them, with data both ways; one whose client comes and goes; one that is
/// confused.
fn seeds() -> Vec<Vec<u8>> {
    // Descriptor 0 holds the message, descriptor 1 is room.
    let mut up = vec![0x40, 0x90, 0, 8, 8, 0, 0, 0, 0x91, 0, 9, 64, 0, 2, 0];
    for (port, event) in [(0, 0), (0, 3), (0, 6), (1, 3), (1, 6), (2, 3), (2, 6)] {
        up.extend([0x34 | port, event, 0xc0, 0x47, 0xc1, 0x45, 0x49, 0x41, 0x4b]);
    }
    let talk =
        [&up[..], &[0x2d, 9, 1, 1, 0xc1, 0x49, 0xc0, 0x4b, 0x21, 200, 200, 2, 0x60, 0x21, 0, 0, 0xff, 0x45]]
            .concat();
    let clients =
        [&up[..], &[0x22, 0, 9, 5, 0x22, 0, 0, 6, 0xc1, 0x45, 0x22, 0, 0, 0, 0x50, 0x40, 0xc1, 0x70]]
            .concat();
    let rings = vec![
        0x40, 0xd1, 0xff, 0xff, 0x43, 0x46, 0xc0, 0xc1, 0x47, 0x70, 0x18, 8, 1, b'!', 0, 0, 0, 0, 0, 0, 0,
    ];
    vec![talk, clients, rings]
}
