//! TCP: every connection of the guest's ends here and goes on as a connection of the host's. A SYN is answered when
//! the host has connected, so that the guest sees refusals as they are.

mod connection;
mod output;
mod ring;
mod segment;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use self::connection::{Connection, Fate, State};
use self::output::{Head, flag};
use self::segment::Segment;
use super::context::Context;
use super::icmp::{self, Why};
use super::packet::Packet;
use super::table::{Id, Table};
use super::{Flow, token};
use crate::{Forward, NetError};

/// Most connections, where the host allows twice as many open files, and of these in the making.
const MOST: usize = 1024;
const MOST_CONNECTING: usize = 128;
/// Bytes in each direction that a connection may keep, by how many there are: 144 MiB in all.
const LIMITS: [(usize, usize); 3] = [(16, 1 << 20), (256, 1 << 17), (MOST, 1 << 16)];
/// An idle connection makes room for others after that.
const IDLE: Duration = Duration::from_secs(600);
/// How often idle connections give memory back.
const TIDY: Duration = Duration::from_secs(10);
/// Most connections that are accepted in a row.
const BURST: usize = 16;
/// Bytes of a SYN's packet that an error quotes: the IP header and eight more.
const QUOTE: usize = 48;

/// All connections, and the ports that lead in.
pub struct Tcp {
    connections: Table<Flow, Connection>,
    listeners: Vec<(TcpListener, u16)>,
    most: usize,
    /// Those that have something to do.
    busy: VecDeque<Id>,
    /// Listeners at which more may wait.
    accepting: Vec<usize>,
    /// The guest had no room for a frame.
    blocked: bool,
    first: u32,
    tidied: Instant,
}

impl Tcp {
    /// Listens on the forwarded ports.
    pub fn new(forwards: &[Forward], now: Instant) -> Result<Self, NetError> {
        let mut listeners = Vec::new();
        for forward in forwards {
            let bind = || -> io::Result<TcpListener> {
                let listener = TcpListener::bind(forward.host)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            };
            let listener = bind().map_err(|source| NetError::Forward {
                protocol: "tcp",
                address: forward.host,
                source,
            })?;
            listeners.push((listener, forward.guest));
        }
        let mut seed = [0; 4];
        // Sequence numbers need not be secret between a guest and its host, only different.
        let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        let first = u32::from_ne_bytes(seed);
        Ok(Self {
            connections: Table::new(),
            listeners,
            most: MOST.min(super::open_files() / 2),
            busy: VecDeque::new(),
            accepting: Vec::new(),
            blocked: false,
            first,
            tidied: now,
        })
    }

    /// Where the forwarded ports are.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().filter_map(|(listener, _)| listener.local_addr().ok())
    }

    /// Begins to listen. A listener tells of new connections only: if the host has no descriptor for one that waits, it
    /// would tell without end.
    pub fn watch(&self, cx: &Context) -> io::Result<()> {
        self.listeners
            .iter()
            .enumerate()
            .try_for_each(|(i, (l, _))| cx.poller.watch_edges(l, token::tcp_port(i)))
    }

    /// A segment from the guest.
    pub fn ingress(&mut self, cx: &mut Context, packet: &Packet<'_>) {
        let Some((segment, from, to)) = Segment::parse(packet) else { return };
        if packet.to.is_multicast() || from == 0 {
            return;
        }
        let flow = Flow { guest: SocketAddr::new(packet.from, from), remote: SocketAddr::new(packet.to, to) };
        let Some(id) = self.connections.find(&flow) else {
            if segment.syn && segment.ack.is_none() && !segment.rst {
                return self.open(cx, flow, packet, &segment);
            }
            return refuse(cx, flow, packet.queue, &segment);
        };
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.queue = packet.queue;
        let fate = connection.segment(cx, &segment);
        self.settle(cx, id, fate);
    }

    /// The guest asks for a connection.
    fn open(&mut self, cx: &mut Context, flow: Flow, packet: &Packet<'_>, syn: &Segment<'_>) {
        let to = match cx.lan.translate(flow.remote).map_err(Why::from) {
            Ok(to) => to,
            Err(Why::Port) => return refuse(cx, flow, packet.queue, syn),
            Err(why) => return icmp::unreachable(cx, packet.from, packet.queue, packet.whole, why),
        };
        if !self.has_room() {
            return; // the guest asks again
        }
        match connect(to) {
            Ok(socket) => {
                let quote = packet.whole.get(..QUOTE).unwrap_or(packet.whole);
                let state = State::Connecting { syn: quote.into() };
                if let Some(id) = self.add(cx, flow, packet.queue, socket, state)
                    && let Some(connection) = self.connections.get_mut(id)
                {
                    connection.learn(syn);
                }
            }
            Err(error) => self.fail(cx, flow, packet.queue, packet.whole, syn, &error),
        }
    }

    fn fail(
        &self,
        cx: &mut Context,
        flow: Flow,
        queue: u16,
        whole: &[u8],
        syn: &Segment<'_>,
        error: &io::Error,
    ) {
        tracing::debug!("the guest gets no connection to {}: {error}", flow.remote);
        match super::why(error) {
            Why::Port => refuse(cx, flow, queue, syn),
            why => icmp::unreachable(cx, flow.guest.ip(), queue, whole, why),
        }
    }

    fn add(
        &mut self,
        cx: &mut Context,
        flow: Flow,
        queue: u16,
        socket: TcpStream,
        state: State,
    ) -> Option<Id> {
        let id = self.connections.next_id();
        cx.poller.watch_edges(&socket, id.token(token::TCP)).ok()?;
        let count = self.connections.len();
        let limit = LIMITS.iter().find(|(most, _)| count < *most).map_or(1 << 15, |(_, limit)| *limit);
        self.first = self.first.wrapping_add(0x0001_f3a7);
        let mut connection = Connection::new(flow, queue, socket, cx.now, self.first, limit);
        connection.state = state;
        Some(self.connections.insert(flow, connection))
    }

    /// True if there may be another connection, for which an idle one may have to go.
    fn has_room(&mut self) -> bool {
        if self.connections.len() < self.most {
            let connecting = |c: &Connection| matches!(c.state, State::Connecting { .. } | State::SynSent);
            // Only those in the making are counted, and few connections are.
            return self.connections.len() < MOST_CONNECTING
                || self.connections.iter_mut().filter(|(_, c)| connecting(c)).count() < MOST_CONNECTING;
        }
        let oldest = self.connections.iter_mut().min_by_key(|(_, c)| c.used).map(|(id, c)| (id, c.used));
        match oldest {
            Some((id, used)) if used.elapsed() > IDLE => {
                if let Some(connection) = self.connections.remove(id) {
                    connection.abort();
                }
                true
            }
            _ => false,
        }
    }

    /// A socket of the host's is ready.
    pub fn ready(&mut self, cx: &mut Context, id: Id, readable: bool, writable: bool) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.ready(readable, writable);
        if let State::Connecting { syn } = &connection.state {
            let quote = syn.clone();
            match connection.connected() {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    let (flow, queue) = (connection.flow, connection.queue);
                    let again = Segment {
                        seq: connection.expected.plus(u32::MAX as usize),
                        ack: None,
                        window: 0,
                        syn: true,
                        fin: false,
                        rst: false,
                        mss: None,
                        scale: None,
                        payload: &[],
                    };
                    self.connections.remove(id);
                    return self.fail(cx, flow, queue, &quote, &again, &error);
                }
            }
        }
        self.enqueue(id);
    }

    /// Somebody connects to a forwarded port.
    pub fn arrived(&mut self, cx: &mut Context, listener: usize) {
        for _ in 0..BURST {
            let Some((socket, port)) = self.listeners.get(listener) else { return };
            let (port, accepted) = (*port, socket.accept());
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return tracing::debug!("a connection to port {port} has to wait: {error}"),
            };
            if !self.has_room() || socket.set_nonblocking(true).is_err() {
                continue; // closed at once
            }
            let _ = socket.set_nodelay(true);
            let guest = SocketAddr::new(cx.lan.guest.into(), port);
            let Some(remote) = self.free_remote(cx.lan.disguise(peer, false), guest) else { continue };
            if let Some(id) = self.add(cx, Flow { guest, remote }, 0, socket, State::SynSent) {
                self.enqueue(id);
            }
        }
        self.accepting.push(listener);
    }

    /// Peers that look alike are told apart by their port.
    fn free_remote(&self, mut remote: SocketAddr, guest: SocketAddr) -> Option<SocketAddr> {
        for _ in 0..=MOST {
            if self.connections.find(&Flow { guest, remote }).is_none() {
                return Some(remote);
            }
            remote.set_port(remote.port().checked_add(1).unwrap_or(1024));
        }
        None
    }

    fn enqueue(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(id)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.busy.push_back(id);
        }
    }

    fn settle(&mut self, cx: &mut Context, id: Id, fate: Fate) {
        match fate {
            Fate::Live | Fate::Busy => self.enqueue(id),
            Fate::Gone => {
                if let Some(connection) = self.connections.remove(id) {
                    connection.close();
                }
            }
            Fate::Reset => {
                if let Some(mut connection) = self.connections.remove(id) {
                    connection.send_reset(cx);
                    connection.abort();
                }
            }
        }
    }

    /// Moves data and answers; true if there is more to do at once.
    pub fn flush(&mut self, cx: &mut Context) -> bool {
        self.blocked = false;
        for listener in std::mem::take(&mut self.accepting) {
            self.arrived(cx, listener);
        }
        for _ in 0..self.busy.len() {
            let Some(id) = self.busy.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.queued = false;
            match connection.pump(cx) {
                Ok(Fate::Live) => {}
                Ok(fate) => self.settle(cx, id, fate),
                Err(_) => {
                    // It goes on where it was, when the guest has room.
                    connection.queued = true;
                    self.busy.push_front(id);
                    self.blocked = true;
                    break;
                }
            }
        }
        // Nothing that happens later than the last tidying goes without one.
        if self.connections.len() > 0 && cx.now != self.tidied {
            cx.wake_at(self.tidied + TIDY);
        }
        !self.busy.is_empty() && !self.blocked || !self.accepting.is_empty()
    }

    /// Sends again what was not acknowledged in time.
    pub fn expire(&mut self, cx: &mut Context) {
        let mut due = Vec::new();
        let tidy = cx.now.saturating_duration_since(self.tidied) >= TIDY;
        for (id, connection) in self.connections.iter_mut() {
            match connection.deadline {
                Some(deadline) if deadline <= cx.now => due.push(id),
                Some(deadline) => cx.wake_at(deadline),
                None if tidy => connection.shrink(),
                None => {}
            }
        }
        if tidy {
            self.tidied = cx.now;
        }
        for id in due {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            let fate = if connection.overdue() { Fate::Live } else { Fate::Reset };
            self.settle(cx, id, fate);
        }
    }

    /// The guest knows of no connection any more: peers see a reset.
    pub fn clear(&mut self) {
        let all: Vec<_> = self.connections.iter_mut().map(|(id, _)| id).collect();
        for id in all {
            if let Some(connection) = self.connections.remove(id) {
                connection.abort();
            }
        }
        self.busy.clear();
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.connections.len()
    }
}

/// Begins to connect.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Answers a segment that belongs to no connection (RFC 9293, 3.5.2).
fn refuse(cx: &mut Context, flow: Flow, queue: u16, segment: &Segment<'_>) {
    if segment.rst {
        return;
    }
    let (seq, flags) = match segment.ack {
        Some(ack) => (ack, flag::RST),
        None => (segment::Seq(0), flag::RST | flag::ACK),
    };
    let ack = segment.seq.plus(segment.len());
    Head { flow, queue, seq, ack, flags, window: 0, options: None }.send(cx, [&[], &[]], 0);
}
