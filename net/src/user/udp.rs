//! UDP: every flow of the guest's is a connected socket of the host's, so that nobody but the peer can answer, and a
//! refusal is heard. Forwarded ports are sockets that are shared by their peers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use smoltcp::wire::{IpProtocol, UdpPacket};

use super::context::Context;
use super::icmp::{self, Why};
use super::outlet::{Envelope, Outlet};
use super::packet::Packet;
use super::table::{Id, Table};
use super::{Flow, token};
use crate::{Forward, NetError, Put};

/// Most flows, where the host allows four times as many open files. The oldest goes when there is another.
const MOST: usize = 512;
/// How long a flow lives without a datagram: while nobody has answered, and then.
const UNANSWERED: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(180);
/// Most datagrams of a socket in a row.
const BURST: usize = 64;
const HEADER: usize = 8;
/// Most bytes of a datagram.
const LONGEST: usize = 65_535;

/// How a flow reaches its peer.
enum Way {
    /// By a socket of its own.
    Own(UdpSocket),
    /// By that of a forwarded port.
    Forwarded { listener: usize, peer: SocketAddr },
}

struct Session {
    flow: Flow,
    way: Way,
    queue: u16,
    answered: bool,
    used: Instant,
    /// The beginning of the last packet, for errors to quote.
    quote: [u8; 48],
}

impl Session {
    fn end(&self) -> Instant {
        self.used + if self.answered { IDLE } else { UNANSWERED }
    }
}

/// All flows, and the ports that lead in.
pub struct Udp {
    sessions: Table<Flow, Session>,
    listeners: Vec<(UdpSocket, u16)>,
    most: usize,
    buffer: Vec<u8>,
}

/// Sends a datagram to the guest.
pub fn send(out: &mut Outlet, envelope: &Envelope, (from, to): (u16, u16), data: &[u8]) -> Put {
    let len = HEADER + data.len();
    let mut header = [0; HEADER];
    header[..2].copy_from_slice(&from.to_be_bytes());
    header[2..4].copy_from_slice(&to.to_be_bytes());
    header[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    // Zero says that there is no checksum.
    let sum = match envelope.checksum(&[&header, data]) {
        0 => 0xffff,
        sum => sum,
    };
    header[6..].copy_from_slice(&sum.to_be_bytes());
    out.packet(envelope, &header, data)
}

impl Udp {
    /// Listens on the forwarded ports.
    pub fn new(forwards: &[Forward]) -> Result<Self, NetError> {
        let mut listeners = Vec::new();
        for forward in forwards {
            let bind = || -> io::Result<UdpSocket> {
                let socket = UdpSocket::bind(forward.host)?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            let socket = bind().map_err(|source| NetError::Forward {
                protocol: "udp",
                address: forward.host,
                source,
            })?;
            listeners.push((socket, forward.guest));
        }
        Ok(Self {
            sessions: Table::new(),
            listeners,
            most: MOST.min(super::open_files() / 4),
            buffer: vec![0; LONGEST],
        })
    }

    /// Where the forwarded ports are.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().filter_map(|(socket, _)| socket.local_addr().ok())
    }

    /// Begins to listen.
    pub fn watch(&self, cx: &Context) -> io::Result<()> {
        self.listeners
            .iter()
            .enumerate()
            .try_for_each(|(i, (socket, _))| cx.poller.watch(socket, token::udp_port(i)))
    }

    /// A datagram from the guest.
    pub fn ingress(&mut self, cx: &mut Context, packet: &Packet<'_>) {
        let Ok(datagram) = UdpPacket::new_checked(packet.payload) else { return };
        if !packet.checked && !datagram.verify_checksum(&packet.from.into(), &packet.to.into()) {
            return;
        }
        let (from, to) = (datagram.src_port(), datagram.dst_port());
        let broadcast = packet.to == std::net::IpAddr::V4(Ipv4Addr::BROADCAST);
        if to == super::dhcp::SERVER && (broadcast || icmp::is_ours(&cx.lan.subnet, packet.to)) {
            return super::dhcp::ingress(cx, datagram.payload(), packet.queue);
        }
        if from == 0 || broadcast || packet.to.is_multicast() {
            return;
        }
        let flow = Flow { guest: SocketAddr::new(packet.from, from), remote: SocketAddr::new(packet.to, to) };
        let id = match self.sessions.find(&flow) {
            Some(id) => id,
            None => match self.open(cx, flow, packet) {
                Ok(id) => id,
                Err(why) => return icmp::unreachable(cx, packet.from, packet.queue, packet.whole, why),
            },
        };
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.used = cx.now;
        session.queue = packet.queue;
        let quoted = packet.whole.len().min(session.quote.len());
        session.quote[..quoted].copy_from_slice(&packet.whole[..quoted]);
        let sent = match &session.way {
            Way::Own(socket) => socket.send(datagram.payload()),
            Way::Forwarded { listener, peer } => match self.listeners.get(*listener) {
                Some((socket, _)) => socket.send_to(datagram.payload(), peer),
                None => return,
            },
        };
        if let Err(error) = sent {
            self.failed(cx, id, &error);
        }
    }

    /// Makes a flow to where the packet is going.
    fn open(&mut self, cx: &mut Context, flow: Flow, packet: &Packet<'_>) -> Result<Id, Why> {
        let to = cx.lan.translate(flow.remote)?;
        let connect = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind(super::any(to))?;
            socket.set_nonblocking(true)?;
            socket.connect(to)?;
            Ok(socket)
        };
        let socket = connect().map_err(|error| {
            tracing::debug!("no datagrams to {to}: {error}");
            super::why(&error)
        })?;
        self.make_room();
        let id = self.sessions.next_id();
        cx.poller.watch(&socket, id.token(token::UDP)).map_err(|_| Why::Host)?;
        Ok(self.insert(cx, flow, Way::Own(socket), packet.queue))
    }

    fn insert(&mut self, cx: &mut Context, flow: Flow, way: Way, queue: u16) -> Id {
        let session = Session { flow, way, queue, answered: false, used: cx.now, quote: [0; 48] };
        cx.wake_at(session.end());
        self.sessions.insert(flow, session)
    }

    fn make_room(&mut self) {
        if self.sessions.len() >= self.most
            && let Some((oldest, _)) = self.sessions.iter_mut().min_by_key(|(_, session)| session.used)
        {
            self.sessions.remove(oldest);
        }
    }

    /// The host has something for a flow.
    pub fn readable(&mut self, cx: &mut Context, id: Id) {
        for _ in 0..BURST {
            let Some(session) = self.sessions.get_mut(id) else { return };
            let Way::Own(socket) = &session.way else { return };
            match socket.recv(&mut self.buffer) {
                Ok(len) => {
                    (session.used, session.answered) = (cx.now, true);
                    let data = self.buffer.get(..len).unwrap_or_default();
                    deliver(cx, session, data);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.failed(cx, id, &error),
            }
        }
    }

    /// Somebody sends to a forwarded port.
    pub fn arrived(&mut self, cx: &mut Context, listener: usize) {
        for _ in 0..BURST {
            let Some((socket, port)) = self.listeners.get(listener) else { return };
            let port = *port;
            let (len, peer) = match socket.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue, // the news that an answer was refused
            };
            let Some(id) = self.forwarded(cx, listener, peer, port) else { continue };
            let Some(session) = self.sessions.get_mut(id) else { continue };
            session.used = cx.now;
            let data = self.buffer.get(..len).unwrap_or_default();
            deliver(cx, session, data);
        }
    }

    /// The flow of a peer of a forwarded port, a new one if need be.
    fn forwarded(&mut self, cx: &mut Context, listener: usize, peer: SocketAddr, port: u16) -> Option<Id> {
        let guest = SocketAddr::new(cx.lan.guest.into(), port);
        let mut remote = cx.lan.disguise(peer, false);
        // Peers that look alike are told apart by their port.
        for _ in 0..MOST {
            let flow = Flow { guest, remote };
            match self.sessions.find(&flow) {
                None => {
                    self.make_room();
                    return Some(self.insert(cx, flow, Way::Forwarded { listener, peer }, 0));
                }
                Some(id) => match &self.sessions.get_mut(id)?.way {
                    Way::Forwarded { listener: l, peer: p } if (*l, *p) == (listener, peer) => {
                        return Some(id);
                    }
                    _ => remote.set_port(remote.port().checked_add(1).unwrap_or(1024)),
                },
            }
        }
        None
    }

    /// A flow has failed; the guest hears of it as of any refusal, and may try again.
    fn failed(&mut self, cx: &mut Context, id: Id, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
            return; // the datagram is lost, as datagrams are
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (guest, queue, quote) = (session.flow.guest.ip(), session.queue, session.quote);
        if matches!(session.way, Way::Own(_)) {
            self.sessions.remove(id);
        }
        icmp::unreachable(cx, guest, queue, &quote, super::why(error));
    }

    /// Ends flows that nobody uses.
    pub fn expire(&mut self, cx: &mut Context) {
        let mut old = Vec::new();
        for (id, session) in self.sessions.iter_mut() {
            match session.end() {
                end if end <= cx.now => old.push(id),
                end => cx.wake_at(end),
            }
        }
        for id in old {
            self.sessions.remove(id);
        }
    }

    pub fn clear(&mut self) {
        self.sessions.clear();
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }
}

fn deliver(cx: &mut Context, session: &Session, data: &[u8]) {
    let Flow { guest, remote } = session.flow;
    let envelope = cx.envelope(session.queue, remote.ip(), guest.ip(), IpProtocol::Udp);
    // A guest without room loses it, as on any network.
    send(&mut cx.out, &envelope, (remote.port(), guest.port()), data);
}
