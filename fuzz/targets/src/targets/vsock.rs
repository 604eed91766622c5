//! A socket device: any packets in the rings, whatever the programs on the host do.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use ::device::IrqLine;
use memory::GuestRam;
use parking_lot::Mutex;
use rustix::io::Errno;
use virtio::{VirtioMmio, Vsock, VsockHost};

use super::virtio::{RAM, drive, same};
use crate::Target;
use crate::input::Input;

/// The rings of a socket device.
pub const VSOCK: Target = Target {
    name: "virtio-vsock",
    about: "a virtio socket device behind memory-mapped registers, packets of any kind, and programs on the host",
    seeds,
    words: &[],
    run,
};

/// All queues have the same rings: each chain is a packet, room for one, and room for an event.
const QUEUES: [u16; 3] = [0, 1, 2];
const CID: u64 = 3;
/// Most programs on the host.
const PROGRAMS: usize = 8;

/// Programs on the host: the other ends of all streams, and clients that have not been let in.
struct Host {
    listener: UnixStream,
    door: UnixStream,
    streams: Mutex<Vec<UnixStream>>,
    waiting: Mutex<Vec<OwnedFd>>,
}

impl Host {
    fn new() -> std::io::Result<Self> {
        let (listener, door) = UnixStream::pair()?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, door, streams: Mutex::default(), waiting: Mutex::default() })
    }

    fn stream(&self) -> Result<OwnedFd, Errno> {
        let (theirs, ours) = UnixStream::pair().map_err(|_| Errno::MFILE)?;
        theirs.set_nonblocking(true).and_then(|()| ours.set_nonblocking(true)).map_err(|_| Errno::IO)?;
        let mut streams = self.streams.lock();
        if streams.len() >= PROGRAMS {
            streams.remove(0);
        }
        streams.push(ours);
        Ok(theirs.into())
    }

    fn call(&self) {
        if let Ok(stream) = self.stream() {
            self.waiting.lock().push(stream);
            let _ = (&self.door).write(&[1]);
        }
    }
}

impl VsockHost for Host {
    fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn accept(&self) -> Result<OwnedFd, Errno> {
        let _ = (&self.listener).read(&mut [0; 16]);
        self.waiting.lock().pop().ok_or(Errno::AGAIN)
    }

    fn connect(&self, port: u32) -> Result<OwnedFd, Errno> {
        if port.is_multiple_of(2) { self.stream() } else { Err(Errno::CONNREFUSED) }
    }
}

fn run(data: &[u8]) {
    let made = || -> Result<_, Box<dyn std::error::Error>> {
        let host = Arc::new(Host::new()?);
        Ok((Arc::new(GuestRam::new(RAM)?), Arc::new(Vsock::new(CID, host.clone())?), host))
    };
    let (ram, vsock, host) = match made() {
        Ok(made) => made,
        Err(error) => panic!("{error}"),
    };
    let part = VirtioMmio::new(vsock, ram.clone(), IrqLine::unconnected());
    let mut input = Input::new(data);
    while !input.is_empty() {
        let what = input.u8();
        match what >> 4 {
            2 => program(&host, what, &mut input),
            // A packet at 0x8000: operation, ports, length, room.
            3 => {
                let (ports, len) = (input.u8(), input.u16());
                let mut packet = [0; 44];
                let mut put = |at: usize, value: u8| packet[at] = value;
                put(0, CID as u8);
                put(8, 2);
                put(16, ports >> 4);
                put(20, ports & 0xf);
                put(23, if ports & 0x80 == 0 { 0 } else { 0x40 });
                put(24, len as u8);
                put(25, (len >> 8) as u8);
                put(28, 1);
                put(30, what & 0xf);
                put(32, ports & 3);
                put(37, input.u8());
                put(40, input.u8());
                drop(ram.write(0x8000, &packet));
            }
            _ => drive(&part, &ram, &QUEUES, what, &mut input),
        }
    }
    same(&part);
}

/// What a program on the host does.
fn program(host: &Host, what: u8, input: &mut Input<'_>) {
    let which = usize::from(input.u8());
    let mut streams = host.streams.lock();
    let index = which % streams.len().max(1);
    match (what & 7, streams.get_mut(index)) {
        (0, _) => {
            drop(streams);
            host.call();
        }
        (1, Some(stream)) => drop(stream.write(b"CONNECT 5\n")),
        (2, Some(stream)) => drop(stream.write(&vec![7; usize::from(input.u16())])),
        (3, Some(stream)) => drop(stream.write(&input.array::<12>())),
        (4, Some(stream)) => drop(stream.read(&mut vec![0; usize::from(input.u16())])),
        (5, Some(stream)) => drop(stream.shutdown(std::net::Shutdown::Write)),
        (_, Some(_)) => drop(streams.remove(index)),
        (_, None) => {}
    }
}

/// A driver that calls the host and talks; one that is called; one that is confused.
fn seeds() -> Vec<Vec<u8>> {
    // Descriptors 0 and 1 are a packet with its payload, descriptor 2 is room.
    let up = [0x40, 0x90, 0, 8, 44, 0, 1, 1, 0x91, 0, 9, 0, 4, 0, 0, 0x92, 0, 0xa, 0, 0x10, 2, 0];
    let room = [0xc2, 0xc2, 0xc2, 0xc2, 0x41, 0x50];
    let send = [0xc0, 0x43, 0x50];
    let mut calls = [&up[..], &room].concat();
    for op in [1, 5, 5, 7, 6, 4, 3] {
        calls.extend([0x30 | op, 0x12, 64, 0, 0x10, 0]);
        calls.extend(send);
        calls.extend([0x22, 0, 0, 8, 0x24, 0, 0, 1]);
    }
    let mut called = [&up[..], &room, &[0x20, 0, 0x21, 0]].concat();
    for op in [2, 5, 4] {
        called.extend([0x30 | op, 0xd0, 16, 0, 0x10, 0]);
        called.extend(send);
        called.extend([0x23, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x60, 0x25, 0]);
    }
    let rings = vec![0x40, 0xd1, 0xff, 0xff, 0x41, 0x43, 0xc0, 0xc1, 0x45, 0x70, 0x20, 0, 0x27, 0];
    vec![calls, called, rings]
}
