//! A guest with a TCP/IP stack of its own at the end of a cable that loses frames if it is told to.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv6Address};

use crate::user::lan::{GUEST, ROUTER, ROUTER6};
use crate::{Abilities, Frame, GuestPort, Mac, Nat, Offload, Put, UserConfig};

pub const MAC: Mac = Mac([0x52, 0x55, 0x0a, 0, 2, 0x0f]);

/// What is on the cable.
#[derive(Default)]
pub struct Cable {
    pub to_nat: Mutex<VecDeque<Frame>>,
    pub to_guest: Mutex<VecDeque<(Offload, Vec<u8>)>>,
    pub abilities: Mutex<Abilities>,
    /// Frames that the guest has room for.
    pub room: Mutex<usize>,
    /// One in so many frames is lost.
    lossy: u32,
    state: Mutex<u32>,
}

impl Cable {
    fn loses(&self) -> bool {
        let mut state = self.state.lock();
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.lossy != 0 && (*state >> 8).is_multiple_of(self.lossy)
    }

    pub fn send(&self, bytes: Vec<u8>) {
        self.to_nat.lock().push_back(Frame { bytes, ..Frame::default() });
    }
}

impl GuestPort for Cable {
    fn abilities(&self) -> Abilities {
        *self.abilities.lock()
    }

    fn take(&self, frame: &mut Frame) -> bool {
        match self.to_nat.lock().pop_front() {
            Some(next) => {
                *frame = next;
                true
            }
            None => false,
        }
    }

    fn put(&self, _queue: u16, offload: &Offload, parts: &[&[u8]]) -> Put {
        let mut frames = self.to_guest.lock();
        if frames.len() >= *self.room.lock() {
            return Put::Full;
        }
        if !self.loses() {
            frames.push_back((*offload, parts.concat()));
        }
        Put::Done
    }

    fn finish(&self) {}
}

/// The stack's end of the cable.
struct Card(Arc<Cable>);

pub struct Received(Vec<u8>);
pub struct Sending(Arc<Cable>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        if !self.0.loses() {
            self.0.send(bytes);
        }
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sending)> {
        let (_, frame) = self.0.to_guest.lock().pop_front()?;
        Some((Received(frame), Sending(self.0.clone())))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending> {
        Some(Sending(self.0.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ethernet, 1514);
        capabilities
    }
}

/// A guest and its network. Time passes only in [`step`](Self::step)s.
pub struct Guest {
    pub nat: Nat,
    pub cable: Arc<Cable>,
    card: Card,
    interface: Interface,
    pub sockets: SocketSet<'static>,
    start: Instant,
    elapsed: Duration,
}

impl Guest {
    /// A guest that has its addresses. One in `lossy` frames is lost, none with zero.
    pub fn new(config: &UserConfig, lossy: u32) -> Self {
        let mut guest = Self::bare(config, lossy);
        guest.interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(GUEST.into(), 24)).unwrap();
            let own = Ipv6Address::new(0xfd67, 0x6573, 0x7468, 0, 0, 0, 0, 0x99);
            addresses.push(IpCidr::new(own.into(), 64)).unwrap();
        });
        guest.interface.routes_mut().add_default_ipv4_route(ROUTER).unwrap();
        guest.interface.routes_mut().add_default_ipv6_route(ROUTER6).unwrap();
        guest
    }

    /// A guest without addresses.
    pub fn bare(config: &UserConfig, lossy: u32) -> Self {
        let mut nat = Nat::new(config, MAC).unwrap();
        let cable = Arc::new(Cable { lossy, room: Mutex::new(64), ..Cable::default() });
        nat.plug(cable.clone());
        let mut card = Card(cable.clone());
        let config = Config::new(EthernetAddress(MAC.0).into());
        let interface = Interface::new(config, &mut card, smoltcp::time::Instant::ZERO);
        let sockets = SocketSet::new(Vec::new());
        Self { nat, cable, card, interface, sockets, start: Instant::now(), elapsed: Duration::ZERO }
    }

    /// Everybody does what there is to do; time passes if that is nothing.
    pub fn step(&mut self) {
        let now = smoltcp::time::Instant::from_micros(self.elapsed.as_micros() as i64);
        let idle = self.interface.poll(now, &mut self.card, &mut self.sockets) == PollResult::None
            && self.cable.to_nat.lock().is_empty();
        self.nat.wait(Some(Duration::from_millis(u64::from(idle))));
        self.nat.work(self.start + self.elapsed);
        self.elapsed += Duration::from_millis(if idle { 200 } else { 1 });
    }

    /// Steps until there is an answer.
    pub fn until<T>(&mut self, mut ask: impl FnMut(&mut Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "it does not come");
            self.step();
        }
    }

    pub fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 16]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    /// A socket that connects from `port`.
    pub fn connect(&mut self, to: impl Into<smoltcp::wire::IpEndpoint>, port: u16) -> SocketHandle {
        let handle = self.tcp();
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), to, port).unwrap();
        handle
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 1 << 16]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn address(&self) -> Option<Ipv4Addr> {
        self.interface.ipv4_addr()
    }
}

/// Bytes that tell where they are.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}
