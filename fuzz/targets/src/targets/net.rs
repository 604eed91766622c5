//! A user-mode network and a network card: any frames, any bytes in the rings. Nothing of the host's is reached but
//! sockets that a target makes itself.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::device::IrqLine;
use memory::GuestRam;
use net::{Abilities, Forward, Frame, GuestPort, Mac, Nat, Offload, Put, Segmentation, UserConfig, UserNet};
use parking_lot::Mutex;
use virtio::{Net, VirtioMmio};

use super::virtio::{drive, same};
use crate::Target;
use crate::input::Input;

/// What the guest sends, and what peers on the host do meanwhile.
pub const NAT: Target = Target {
    name: "nat",
    about: "a user-mode network: frames of the guest's, connections from the host, time",
    seeds: nat_seeds,
    words: &[],
    run: nat,
};

/// The rings of a card on such a network.
pub const CARD: Target = Target {
    name: "virtio-net",
    about: "a virtio network card behind memory-mapped registers, and its rings",
    seeds: card_seeds,
    words: &[],
    run: card,
};

const MAC: Mac = Mac([0x52, 0x55, 0x0a, 0, 2, 0x0f]);
const ROUTER_MAC: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 2];
const GUEST: [u8; 4] = [10, 0, 2, 15];
const ROUTER: [u8; 4] = [10, 0, 2, 2];
/// Most frames that wait for the guest, and connections from the host.
const ROOM: usize = 64;
const PEERS: usize = 4;

/// The guest's end of the cable.
#[derive(Default)]
struct Cable {
    frames: Mutex<VecDeque<Frame>>,
    state: Mutex<Seen>,
}

/// What the guest has seen last of a connection: ports, and the numbers to answer with.
#[derive(Default, Clone, Copy)]
struct Seen {
    waiting: usize,
    abilities: Abilities,
    from: u16,
    to: u16,
    next: u32,
    ack: u32,
}

impl GuestPort for Cable {
    fn abilities(&self) -> Abilities {
        self.state.lock().abilities
    }

    fn take(&self, frame: &mut Frame) -> bool {
        match self.frames.lock().pop_front() {
            Some(next) => {
                *frame = next;
                true
            }
            None => false,
        }
    }

    fn put(&self, _queue: u16, offload: &Offload, parts: &[&[u8]]) -> Put {
        let mut seen = self.state.lock();
        if seen.waiting >= ROOM {
            return Put::Full;
        }
        seen.waiting += 1;
        let frame = parts.concat();
        assert!(frame.len() <= net::MAX_FRAME, "{} bytes", frame.len());
        assert!(
            offload.segments.is_some() || frame.len() <= 1514,
            "{} bytes and not a large frame",
            frame.len()
        );
        if frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&6) {
            let word = |at: usize| {
                frame.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
            };
            let ports = word(34);
            let flags = frame.get(47).copied().unwrap_or(0);
            let headers = 34 + usize::from(frame.get(46).copied().unwrap_or(0) >> 4) * 4;
            let data = frame.len().saturating_sub(headers) as u32;
            let taken = data + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
            (seen.from, seen.to) = (ports as u16, (ports >> 16) as u16);
            (seen.next, seen.ack) = (word(38).wrapping_add(taken), word(42));
        }
        Put::Done
    }

    fn finish(&self) {}
}

impl Cable {
    fn send(&self, bytes: Vec<u8>, checked: bool, segments: bool) {
        let offload = Offload {
            checksum: checked.then_some((34, 16)),
            segments: segments.then_some((Segmentation::Tcp4, 1460)),
            headers: 54,
        };
        self.frames.lock().push_back(Frame { bytes, offload, queue: 0 });
    }

    /// An IPv4 packet to the router.
    fn ip(&self, protocol: u8, place: u16, payload: &[u8], segments: bool) {
        let mut ip = [&[0x45, 0][..], &((20 + payload.len()) as u16).to_be_bytes(), &[0, 1]].concat();
        ip.extend(place.to_be_bytes());
        ip.extend([64, protocol, 0, 0]);
        ip.extend(GUEST);
        ip.extend(ROUTER);
        let sum: u32 = ip.as_chunks::<2>().0.iter().map(|&w| u32::from(u16::from_be_bytes(w))).sum();
        let sum = !((sum >> 16) + (sum & 0xffff)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip.extend(payload);
        self.send([&ROUTER_MAC[..], &MAC.0, &[8, 0], &ip].concat(), true, segments);
    }
}

fn config(forwards: &[&str]) -> UserConfig {
    let forwards: Vec<Forward> = forwards.iter().filter_map(|text| text.parse().ok()).collect();
    UserConfig { forwards, outside: false, ..UserConfig::default() }
}

fn nat(data: &[u8]) {
    let mut input = Input::new(data);
    let mut nat = match Nat::new(&config(&["0:22", "udp:0:53"]), MAC) {
        Ok(nat) => nat,
        Err(error) => panic!("{error}"),
    };
    let ports = nat.addresses();
    let (cable, mut now) = (Arc::new(Cable::default()), Instant::now());
    nat.plug(cable.clone());
    let mut peers: VecDeque<TcpStream> = VecDeque::new();
    while !input.is_empty() {
        let what = input.u8();
        match what >> 4 {
            // Any frame, with headers that are right as far as they go.
            0 => {
                let kinds = [[8, 0], [8, 6], [0x86, 0xdd], [0x12, 0x34]];
                let kind = kinds[usize::from(what & 3)];
                let len = usize::from(input.u8());
                cable.send(
                    [&ROUTER_MAC[..], &MAC.0, &kind, input.take(len)].concat(),
                    what & 4 != 0,
                    what & 8 != 0,
                );
            }
            1 => {
                let (protocol, place, len) = (input.u8(), input.u16(), usize::from(input.u8()));
                cable.ip(protocol, place, input.take(len), what & 8 != 0);
            }
            2..=6 => segment(&cable, what, &mut input),
            7 | 8 => {
                let dhcp = if what & 1 == 0 { [0, 68, 0, 67] } else { [0, 53, 0, 53] };
                let len = usize::from(input.u16() & 0x3ff);
                let total = (8 + len.min(input.rest_len())) as u16;
                let header = [&dhcp[..], &total.to_be_bytes(), &[0, 0]].concat();
                cable.ip(17, 0, &[&header, input.take(len)].concat(), false);
            }
            9 if what & 8 == 0 => now += Duration::from_millis(u64::from(input.u16())),
            9 => {
                cable.state.lock().abilities =
                    Abilities { checksum: what & 1 != 0, tcp4: what & 3 == 3, tcp6: false }
            }
            10 | 11 => host(what, &ports, &mut peers, &mut input),
            12 if what & 7 == 7 => nat.clear(),
            12 => cable.state.lock().waiting = usize::from(what & 1) * (ROOM - 1),
            _ => {
                nat.wait(Some(Duration::ZERO));
                nat.work(now);
            }
        }
    }
    for _ in 0..4 {
        cable.state.lock().waiting = 0;
        nat.wait(Some(Duration::ZERO));
        nat.work(now);
    }
    // No ports of the host's are used up by connections that wait for stragglers.
    nat.clear();
    for peer in peers {
        let _ = rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO));
    }
}

/// A segment of the guest's, near what it should be.
fn segment(cable: &Cable, what: u8, input: &mut Input<'_>) {
    let seen = *cable.state.lock();
    let (flags, offsets) = (input.u8(), input.u8());
    let near = |number: u32, offset: u8| match offset & 15 {
        0..=8 => number,
        15 => number.wrapping_add(1 << 31),
        offset => number.wrapping_add(u32::from(offset)).wrapping_sub(12),
    };
    let mut tcp = [seen.from.to_be_bytes(), seen.to.to_be_bytes()].concat();
    tcp.extend(near(seen.ack, offsets).to_be_bytes());
    tcp.extend(near(seen.next, offsets >> 4).to_be_bytes());
    let options = if flags & 2 != 0 { usize::from(what & 3) } else { 0 };
    let window = if what & 8 == 0 { [0xff; 2] } else { [0, what & 4] };
    tcp.extend([(5 + options as u8) << 4, flags, window[0], window[1], 0, 0, 0, 0]);
    let option: [u8; 12] = input.array();
    tcp.extend(&option[..4 * options]);
    let len = if what & 4 == 0 { 0 } else { usize::from(input.u8()) << (3 * (what & 3)) };
    tcp.extend(input.take(len));
    cable.ip(6, 0, &tcp, what & 4 != 0);
}

/// Peers at the forwarded ports.
fn host(what: u8, ports: &[std::net::SocketAddr], peers: &mut VecDeque<TcpStream>, input: &mut Input<'_>) {
    let &[tcp, udp] = ports else { panic!("{ports:?}") };
    match what & 7 {
        0 | 1 if peers.len() < PEERS => {
            if let Ok(peer) = TcpStream::connect(tcp) {
                let _ = peer.set_nonblocking(true);
                peers.push_back(peer);
            }
        }
        2 | 3 => {
            let data = vec![what; usize::from(input.u16()) << (4 * (what & 1))];
            let _ = peers.front_mut().map(|peer| peer.write(&data));
        }
        4 => drop(peers.front_mut().map(|peer| peer.read(&mut [0; 4096]))),
        5 => drop(peers.front_mut().map(|peer| peer.shutdown(Shutdown::Write))),
        6 => {
            if let Some(peer) = peers.pop_front() {
                let _ = rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO));
            }
        }
        _ => {
            if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
                let _ = socket.send_to(&vec![what; usize::from(input.u16())], udp);
            }
        }
    }
}

fn nat_seeds() -> Vec<Vec<u8>> {
    // A connection from the host: SYN, the guest's answer, data both ways, both ends.
    let talk = vec![
        0x98 | 3,
        0xa0,
        0xd0,
        0x40,
        0x12,
        0,
        2,
        4,
        5,
        0xb4,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0xd0,
        0xa2,
        0,
        9,
        0xd0,
        0x40,
        0x10,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0x44,
        0x18,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        4,
        b'a',
        b'b',
        b'c',
        b'd',
        0xd0,
        0xa4,
        0xa5,
        0xd0,
        0x40,
        0x11,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0xd0,
        0xd0,
    ];
    let syn = [0x40, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xd0].repeat(3);
    let mut discover = vec![0x70, 0xff, 0, 1, 1, 6, 0];
    discover.resize(7 + 232, 7);
    discover.extend([99, 130, 83, 99, 53, 1, 1, 255, 0, 0, 0, 0, 0xd0]);
    let echo = vec![0x10, 1, 0, 0, 10, 8, 0, 0, 0, 0, 1, 0, 1, b'h', b'i', 0xd0, 0x90, 0xff, 0xff, 0xd0];
    let fragments = vec![0x10, 17, 0x20, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0x10, 17, 0, 1, 4, 1, 2, 3, 4, 0xd0];
    let datagrams = vec![0xa7, 0x20, 0, 0xd0, 0x71, 4, 0, 1, 2, 3, 4, 0xd0, 0xcf, 0xd0];
    let raw: Vec<_> = (0..4).flat_map(|kind| [vec![kind, 40], vec![0x45; 40], vec![0xd0]].concat()).collect();
    vec![talk, syn, discover, echo, fragments, datagrams, raw]
}

fn card(data: &[u8]) {
    let made = || -> Result<_, Box<dyn std::error::Error>> {
        let backend = Arc::new(UserNet::new(&config(&[]), MAC)?);
        Ok((Arc::new(GuestRam::new(super::virtio::RAM)?), Arc::new(Net::new(backend, MAC, 2)?)))
    };
    let (ram, net) = match made() {
        Ok(made) => made,
        Err(error) => panic!("{error}"),
    };
    let part = VirtioMmio::new(net, ram.clone(), IrqLine::unconnected());
    let mut input = Input::new(data);
    while !input.is_empty() {
        let what = input.u8();
        // The rings of queue 0 take what the network sends, those of queue 1 what the guest does.
        if what >> 4 == 3 {
            let len = usize::from(input.u8());
            drop(ram.write(0x8000 + 12 * u64::from(what & 1), input.take(len)));
        } else {
            drive(&part, &ram, &[u16::from(what >> 1 & 7)], what, &mut input);
        }
    }
    same(&part);
}

/// A driver that sends an ARP request, one that offers room only, and one that is confused.
fn card_seeds() -> Vec<Vec<u8>> {
    let mut arp = vec![0x42, 0x31, 42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    arp.extend(MAC.0);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(MAC.0);
    arp.extend(GUEST);
    arp.extend([0; 6]);
    arp.extend(ROUTER);
    arp.extend([0x90, 0, 8, 54, 0, 0, 0, 0xc0, 0x43]);
    let room = vec![0x40, 0x90, 0, 8, 0, 8, 2, 0, 0xc0, 0x41, 0x50, 0x40, 0xc0, 0xc1, 0x41];
    let control =
        vec![0x48, 0x30, 4, 4, 0, 2, 0, 0x90, 0, 8, 4, 0, 1, 1, 0x91, 0, 9, 1, 0, 2, 0, 0xc0, 0x49, 0x60];
    let rings = vec![0x42, 0xd1, 0xff, 0xff, 0x43, 0x46, 0xc0, 0xc1, 0x47, 0x70];
    vec![arp, room, control, rings]
}
