//! All connections: packets of the guest's find theirs, and those that have something for the guest take turns.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::{Event, EventFlags};
use rustix::io::Errno;

use super::connection::{Connection, Fate, Greeting, PIECE, Phase};
use super::packet::{HEADER, HOST, Header, STREAM, op};
use super::poller::{LISTENER, Poller};
use super::{VsockHost, connection};
use crate::queue::{read_at, total, write_at};
use crate::{Chain, Queue, QueueError, Session};

/// Most connections, those of clients that have said nothing yet among them.
pub const MOST: usize = 256;
/// Refusals that wait for room in the guest's queue; with so many the guest is not listened to.
const REFUSALS: usize = 256;
/// Clients that are let in at once.
const CLIENTS: usize = 16;
/// The host's ports of its own calls begin here.
const FIRST_PORT: u32 = 1 << 30;
/// Queues.
const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
const EVENTS: usize = 2;

/// Connections and who they are.
pub struct Hub {
    cid: u64,
    host: Arc<dyn VsockHost>,
    connections: BTreeMap<u64, Connection>,
    /// By the ports of guest and host.
    by_ports: BTreeMap<(u32, u32), u64>,
    next_id: u64,
    next_port: u32,
    /// Connections that may have something for the guest.
    list: VecDeque<u64>,
    refusals: VecDeque<Header>,
    /// The guest has to be told that its connections are gone.
    lost: bool,
    data: Vec<u8>,
}

impl Hub {
    pub fn new(cid: u64, host: Arc<dyn VsockHost>) -> Self {
        Self {
            cid,
            host,
            connections: BTreeMap::new(),
            by_ports: BTreeMap::new(),
            next_id: LISTENER + 1,
            next_port: FIRST_PORT,
            list: VecDeque::new(),
            refusals: VecDeque::new(),
            lost: false,
            data: vec![0; PIECE],
        }
    }

    /// Nobody is connected.
    pub fn clear(&mut self) {
        self.connections.clear();
        self.by_ports.clear();
        self.list.clear();
        self.refusals.clear();
        self.lost = false;
    }

    /// The guest knows connections that there are none of.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// When there is something to do though nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.connections.values().filter_map(|connection| connection.deadline).min()
    }

    /// Lets clients in; true if there may be more.
    ///
    /// # Errors
    /// The host has no room for one more.
    pub fn accept(&mut self, poller: &Poller, listens: bool, now: Instant) -> Result<bool, Errno> {
        for _ in 0..CLIENTS {
            let stream = match self.host.accept() {
                Ok(stream) => stream,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(errno) => return Err(errno),
            };
            if !listens || self.connections.len() >= MOST {
                continue; // it sees the end of the stream
            }
            let id = self.fresh_id();
            if poller.add(&stream, id).is_ok() {
                self.connections.insert(id, Connection::from_host(stream, now));
            }
        }
        Ok(true)
    }

    /// Something has happened to a stream.
    pub fn wake(&mut self, event: &Event, now: Instant) {
        let (id, flags) = (event.data.u64(), event.flags);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let hung = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        let readable = hung || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        connection.wake(readable, hung || flags.contains(EventFlags::OUT), hung);
        match connection.phase {
            Phase::Greeting => self.greet(id, hung, now),
            // The guest need not answer any more.
            Phase::Requested if hung => self.reset(id),
            _ => {
                if connection.flush() == Fate::Reset {
                    return self.reset(id);
                }
                self.enlist(id);
            }
        }
    }

    fn greet(&mut self, id: u64, hung: bool, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.greeting() {
            Greeting::More if !hung => {}
            Greeting::Port(guest_port) if !hung => {
                let ports = &self.by_ports;
                // There are more ports than connections.
                while ports.contains_key(&(guest_port, self.next_port)) {
                    self.next_port = next_port(self.next_port);
                }
                connection.request(guest_port, self.next_port, now);
                self.by_ports.insert((guest_port, self.next_port), id);
                self.next_port = next_port(self.next_port);
                self.enlist(id);
            }
            _ => drop(self.connections.remove(&id)),
        }
    }

    /// Ends those that have waited too long.
    pub fn expire(&mut self, now: Instant) {
        let late = |(id, connection): (&u64, &Connection)| {
            connection.deadline.is_some_and(|deadline| deadline <= now).then_some(*id)
        };
        let late: Vec<u64> = self.connections.iter().filter_map(late).collect();
        late.into_iter().for_each(|id| self.reset(id));
    }

    /// Carries packets both ways; true if there is more to do at once.
    pub fn carry(&mut self, session: &Session, poller: &Poller) -> bool {
        let queue = |index: usize| session.queues.get(index).and_then(Option::as_ref);
        if let Some(queue) = queue(EVENTS).filter(|_| self.lost) {
            self.tell_loss(queue);
        }
        let mut more = queue(FROM_GUEST).is_some_and(|queue| self.hear(queue, poller));
        if let Some(queue) = queue(TO_GUEST) {
            let full = self.refusals.len() >= REFUSALS;
            more |= self.tell(queue);
            // The guest was not listened to, and is now.
            more |= full && self.refusals.len() < REFUSALS;
        }
        more
    }

    /// An event: the transport was reset (5.10.6.7), as after a restore, whose connections are others'.
    fn tell_loss(&mut self, queue: &Queue) {
        if let Some(chain) = next(queue) {
            let written = write_at(queue.ram(), chain.writable(), 0, &[0; 4]);
            queue.push(chain.head, written as u32);
            queue.signal();
            self.lost = false;
        }
    }

    fn hear(&mut self, queue: &Queue, poller: &Poller) -> bool {
        let mut left = queue.size();
        while left > 0 && self.refusals.len() < REFUSALS {
            let Some(chain) = next(queue) else { break };
            left -= 1;
            let mut header = [0; HEADER];
            if !read_at(queue.ram(), chain.readable(), 0, &mut header) {
                queue.fail(&QueueError::Short("a header"));
                return false;
            }
            self.packet(&Header::decode(&header), queue, &chain, poller);
            queue.push(chain.head, 0);
        }
        queue.signal();
        left == 0
    }

    fn packet(&mut self, header: &Header, queue: &Queue, chain: &Chain, poller: &Poller) {
        if header.src_cid != self.cid || header.dst_cid != HOST || header.kind != STREAM {
            return self.refuse(header);
        }
        let id = self.by_ports.get(&(header.src_port, header.dst_port)).copied();
        let Some((id, connection)) = id.and_then(|id| Some((id, self.connections.get_mut(&id)?))) else {
            return match header.op {
                op::REQUEST => self.call(header, poller),
                _ => self.refuse(header),
            };
        };
        connection.hear(header);
        let fate = match header.op {
            op::RESPONSE => connection.accepted(),
            op::SHUTDOWN => connection.shut(header.flags),
            op::CREDIT_UPDATE => Fate::On,
            op::CREDIT_REQUEST => {
                connection.asked_for_credit();
                Fate::On
            }
            op::RW if header.len <= connection::BUFFER => {
                let mut data = std::mem::take(&mut self.data);
                data.resize(PIECE.max(header.len as usize), 0);
                let part = data.get_mut(..header.len as usize).unwrap_or_default();
                let whole = read_at(queue.ram(), chain.readable(), HEADER as u64, part);
                let fate = if whole { connection.take(part) } else { Fate::Reset };
                self.data = data;
                fate
            }
            op::RST => {
                self.remove(id);
                return;
            }
            _ => Fate::Reset,
        };
        match fate {
            Fate::On => self.enlist(id),
            Fate::Reset => self.reset(id),
        }
    }

    /// The guest calls a port of the host's.
    fn call(&mut self, request: &Header, poller: &Poller) {
        if self.connections.len() >= MOST {
            return self.refuse(request);
        }
        let id = self.fresh_id();
        let stream = self.host.connect(request.dst_port).and_then(|stream| {
            poller.add(&stream, id)?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => {
                self.connections.insert(id, Connection::from_guest(stream, request));
                self.by_ports.insert((request.src_port, request.dst_port), id);
                self.enlist(id);
            }
            Err(errno) => {
                tracing::debug!("virtio-vsock: nobody is at port {} of the host ({errno})", request.dst_port);
                self.refuse(request);
            }
        }
    }

    /// Fills the guest's buffers; true if there is more.
    fn tell(&mut self, queue: &Queue) -> bool {
        let mut left = queue.size();
        while left > 0 && !(self.refusals.is_empty() && self.list.is_empty()) {
            let Some(chain) = next(queue) else { break };
            let Some(room) = total(chain.writable()).checked_sub(HEADER as u64) else {
                queue.fail(&QueueError::Short("room for a header"));
                return false;
            };
            let mut data = std::mem::take(&mut self.data);
            let most = data.len().min(PIECE).min(usize::try_from(room).unwrap_or(PIECE));
            let packet = self.next_packet(data.get_mut(..most).unwrap_or_default());
            if let Some(header) = packet {
                write_at(queue.ram(), chain.writable(), 0, &header.encode());
                let payload = data.get(..header.len as usize).unwrap_or_default();
                write_at(queue.ram(), chain.writable(), HEADER as u64, payload);
                queue.push(chain.head, HEADER as u32 + header.len);
                left -= 1;
            } else {
                queue.untake(1);
            }
            self.data = data;
        }
        queue.signal();
        left == 0
    }

    fn next_packet(&mut self, data: &mut [u8]) -> Option<Header> {
        if let Some(refusal) = self.refusals.pop_front() {
            return Some(refusal);
        }
        while let Some(id) = self.list.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.listed = false;
            if let Some(header) = connection.next(self.cid, data) {
                self.enlist(id);
                return Some(header);
            }
        }
        None
    }

    /// The connection may have something for the guest.
    fn enlist(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !std::mem::replace(&mut connection.listed, true)
        {
            self.list.push_back(id);
        }
    }

    fn refuse(&mut self, header: &Header) {
        if header.op != op::RST {
            self.refusals.push_back(header.refusal());
        }
    }

    /// Ends a connection, and tells the guest if it knows of it.
    fn reset(&mut self, id: u64) {
        if let Some(mut connection) = self.remove(id)
            && connection.phase != Phase::Greeting
        {
            self.refusals.push_back(connection.header(self.cid, op::RST));
        }
    }

    fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        let ports = (connection.guest_port, connection.host_port);
        if self.by_ports.get(&ports) == Some(&id) {
            self.by_ports.remove(&ports);
        }
        Some(connection)
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn next_port(port: u32) -> u32 {
    if port >= u32::MAX - 1 { FIRST_PORT } else { port + 1 }
}

/// The next chain of a queue; the driver notifies of one if there is none.
fn next(queue: &Queue) -> Option<Chain> {
    queue.pop().or_else(|| if queue.listen() { queue.pop() } else { None })
}
