//! A TAP device of the host's (`--net tap=NAME`): frames go to the host's own network as they are, large ones whole.
//!
//! Somebody with the right to do so makes the device and gives it to a user; a guest of that user's needs none then.
// UNSAFETY: TUN/TAP has no interface but ioctls.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use jail::Kind;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, ioctl, opcode};
use serde::{Deserialize, Serialize};

use crate::bell::{Bell, Poller, Ready};
use crate::cable::Cable;
use crate::thread::{Network, Threaded};
use crate::{Abilities, Capture, Frame, GuestPort, MAX_FRAME, Mac, NetError, Offload, Put};

/// Requests (linux/if_tun.h), and the size of what the first takes.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<i32>(b'T', 216);
const NAME: usize = 16;
/// Frames with Ethernet headers, nothing else in front of them but what offloads need.
const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;
/// What the host may leave to the guest: checksums, large frames of TCP over IPv4 and IPv6.
const CHECKSUM: usize = 1;
const TCP4: usize = 2;
const TCP6: usize = 4;
/// Most frames in a row in one direction.
const BURST: usize = 64;
/// What descriptors are.
const BELL: u64 = 0;
const DEVICE: u64 = 1;

/// The definition of a network through a TAP device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TapConfig {
    /// The address of the guest's card; without it, another one each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The device.
    pub device: String,
    /// File for all frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<PathBuf>,
}

/// A network through a TAP device.
pub type TapNet = Threaded<Tap>;

impl TapNet {
    /// Opens the device.
    ///
    /// # Errors
    /// The host refuses it, or the capture.
    pub fn new(config: &TapConfig) -> Result<Self, NetError> {
        Ok(Self::of(Tap::new(config)?))
    }
}

/// A TAP device and the cable to the guest.
pub struct Tap {
    bell: Arc<Bell>,
    poller: Poller,
    ready: Vec<Ready>,
    device: OwnedFd,
    cable: Cable,
    abilities: Abilities,
    /// The device may have frames.
    readable: bool,
    frame: Frame,
    /// A frame from the device, and how much of it there is, header included.
    buffer: Vec<u8>,
    pending: Option<(Offload, usize)>,
    busy: bool,
}

/// What TUNSETIFF takes: a name, flags, and room that is not used.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: u16,
    rest: [u8; 22],
}

impl Tap {
    fn new(config: &TapConfig) -> Result<Self, NetError> {
        let error = |source| NetError::Tap { device: config.device.clone(), source };
        let device = open(&config.device).map_err(error)?;
        let (bell, poller) = (Arc::new(Bell::new()?), Poller::new()?);
        poller.watch_bell(&bell, BELL)?;
        poller.watch_edges(&device, DEVICE)?;
        let capture = config.capture.as_deref().map(Capture::create).transpose()?;
        Ok(Self {
            bell,
            poller,
            ready: Vec::new(),
            device,
            cable: Cable::new(capture),
            abilities: Abilities::default(),
            readable: true,
            frame: Frame::default(),
            buffer: vec![0; MAX_FRAME],
            pending: None,
            busy: false,
        })
    }

    fn drain_guest(&mut self) -> bool {
        for _ in 0..BURST {
            if !self.cable.take(&mut self.frame) {
                return false;
            }
            let header = self.frame.offload.encode(0);
            let parts = [IoSlice::new(&header), IoSlice::new(&self.frame.bytes)];
            // A device that is down or full loses frames, as any network does.
            let _ = rustix::io::writev(&self.device, &parts);
        }
        true
    }

    fn drain_device(&mut self) -> bool {
        for _ in 0..BURST {
            let Some((offload, len)) = self.pending.or_else(|| self.read()) else { return false };
            let data = self.buffer.get(..len).unwrap_or_default();
            match self.cable.put(0, &offload, &[data]) {
                Put::Full => {
                    // It goes on when the guest has room.
                    self.pending = Some((offload, len));
                    return false;
                }
                Put::Done | Put::Gone => self.pending = None,
            }
        }
        true
    }

    /// The next frame of the device's.
    fn read(&mut self) -> Option<(Offload, usize)> {
        while self.readable {
            let mut header = [0; Offload::LEN];
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut self.buffer)];
            match rustix::io::readv(&self.device, &mut parts) {
                Ok(len) => {
                    if let (Some(len), Some(offload)) =
                        (len.checked_sub(Offload::LEN), Offload::decode(&header))
                    {
                        return Some((offload, len));
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => self.readable = false, // nothing there, or the device is down
            }
        }
        None
    }

    /// The host may leave to the guest what it takes, and nothing else.
    fn negotiate(&mut self) {
        let abilities = self.cable.abilities();
        if abilities == self.abilities {
            return;
        }
        let Abilities { checksum, tcp4, tcp6 } = abilities;
        let flags = [(checksum, CHECKSUM), (tcp4, TCP4), (tcp6, TCP6)];
        let flags = flags.iter().filter(|(takes, _)| *takes).map(|(_, flag)| flag).sum();
        // SAFETY: the request takes a number and touches no memory.
        let done = unsafe { ioctl(&self.device, IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags)) };
        if let Err(error) = done {
            tracing::debug!("the TAP device completes all frames itself: {error}");
        }
        self.abilities = abilities;
    }
}

fn open(name: &str) -> io::Result<OwnedFd> {
    let mut request = Request { name: [0; NAME], flags: FLAGS, rest: [0; 22] };
    // The last byte ends the name.
    match request.name.get_mut(..name.len()).filter(|_| !name.is_empty() && name.len() < NAME) {
        Some(field) => field.copy_from_slice(name.as_bytes()),
        None => return Err(io::ErrorKind::InvalidInput.into()),
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: the request reads and writes an `ifreq`, which has 40 bytes as `Request` has; the other reads a number.
    unsafe {
        ioctl(&device, Setter::<TUNSETIFF, Request>::new(request))?;
        ioctl(&device, Setter::<TUNSETVNETHDRSZ, i32>::new(Offload::LEN as i32))?;
    }
    Ok(device)
}

impl Network for Tap {
    const NAME: &'static str = "net-tap";
    const KIND: Kind = Kind::Link;

    fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    fn plug(&mut self, port: Arc<dyn GuestPort>) {
        self.cable.plug(port);
    }

    fn turn(&mut self) {
        let timeout = self.busy.then_some(std::time::Duration::ZERO);
        self.poller.wait(timeout, &mut self.ready);
        for event in &self.ready {
            match event.token {
                BELL => self.bell.heard(),
                _ => self.readable |= event.readable,
            }
        }
        self.negotiate();
        self.busy = self.drain_guest();
        self.busy |= self.drain_device();
        self.cable.finish();
    }

    fn clear(&mut self) {
        self.pending = None;
    }
}
