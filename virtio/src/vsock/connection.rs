//! One stream between a socket of the guest's and one of the host's, and how much either may send (5.10.6.3).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::packet::{HOST, Header, STREAM, op, shut};

/// Bytes of the guest's that are kept for a host that does not read.
pub const BUFFER: u32 = 256 << 10;
/// Most bytes of a packet to the guest.
pub const PIECE: usize = 64 << 10;
/// The guest is told of room when this much has become free.
const NEWS: u32 = BUFFER / 2;
/// How long a client may take to say what it wants, and the guest to answer.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// `CONNECT ` and a port.
const GREETING: usize = 32;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A client of the host's has not said yet which port it wants. The guest knows nothing of it.
    Greeting,
    /// The guest was asked, or is going to be.
    Requested,
    /// Bytes flow.
    Open,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    On,
    /// It is over, and the guest is told so.
    Reset,
}

/// What a greeting says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// Not enough yet.
    More,
    /// The client wants this port of the guest's.
    Port(u32),
    /// Nothing that can be understood.
    Wrong,
}

/// What there is to tell the guest, besides bytes.
#[derive(Debug, Default)]
struct News {
    request: bool,
    response: bool,
    credit: bool,
    /// Credit was asked for and has not come.
    asked: bool,
    /// What the guest knows to be shut.
    shut: u32,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: OwnedFd,
    pub phase: Phase,
    pub guest_port: u32,
    pub host_port: u32,
    /// When a phase is taken for lost.
    pub deadline: Option<Instant>,
    /// It is in the list of those that may have something for the guest.
    pub listed: bool,
    news: News,
    /// The stream may have bytes, or room; both of its directions are closed; it has no more bytes.
    readable: bool,
    writable: bool,
    hung: bool,
    ended: bool,
    /// The guest will send, or receive, no more.
    guest_shut: u32,
    /// The stream was told that no more comes.
    finished: bool,
    /// Bytes from the guest that the stream has not taken.
    buffer: VecDeque<u8>,
    /// Of bytes from the guest: that came, that left, and that the guest knows to have left.
    received: u32,
    forwarded: u32,
    announced: u32,
    /// Of bytes to the guest: that went. The guest's buffer, and what it has taken out of it.
    sent: u32,
    guest_buffer: u32,
    guest_taken: u32,
}

impl Connection {
    fn new(stream: OwnedFd, phase: Phase) -> Self {
        Self {
            stream,
            phase,
            guest_port: 0,
            host_port: 0,
            deadline: None,
            listed: false,
            news: News::default(),
            readable: false,
            writable: true,
            hung: false,
            ended: false,
            guest_shut: 0,
            finished: false,
            buffer: VecDeque::new(),
            received: 0,
            forwarded: 0,
            announced: 0,
            sent: 0,
            guest_buffer: 0,
            guest_taken: 0,
        }
    }

    /// Of a client of the host's.
    pub fn from_host(stream: OwnedFd, now: Instant) -> Self {
        Self { deadline: now.checked_add(PATIENCE), ..Self::new(stream, Phase::Greeting) }
    }

    /// Of the guest, whose request is answered by a stream.
    pub fn from_guest(stream: OwnedFd, request: &Header) -> Self {
        let mut connection = Self::new(stream, Phase::Open);
        (connection.guest_port, connection.host_port) = (request.src_port, request.dst_port);
        connection.news.response = true;
        connection.hear(request);
        connection
    }

    /// Something has happened to the stream.
    pub fn wake(&mut self, readable: bool, writable: bool, hung: bool) {
        self.readable |= readable;
        self.writable |= writable;
        self.hung |= hung;
    }

    /// What the client wants. It may send bytes for the guest behind that at once, which stay in the stream.
    pub fn greeting(&self) -> Greeting {
        let mut line = [0; GREETING];
        let Ok((count, _)) = recv(&self.stream, &mut line[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) else {
            return Greeting::More;
        };
        let line = line.get(..count).unwrap_or_default();
        let Some(end) = line.iter().position(|&byte| byte == b'\n') else {
            return if count == 0 || count == GREETING { Greeting::Wrong } else { Greeting::More };
        };
        let (line, _) = line.split_at(end);
        let port = line.strip_prefix(b"CONNECT ").filter(|port| port.iter().all(u8::is_ascii_digit));
        let port = port.and_then(|port| std::str::from_utf8(port).ok()?.parse().ok());
        let mut taken = [0; GREETING];
        let taken = taken.get_mut(..end + 1).unwrap_or_default();
        match (port, recv(&self.stream, taken, RecvFlags::DONTWAIT)) {
            (Some(port), Ok(_)) => Greeting::Port(port),
            _ => Greeting::Wrong,
        }
    }

    /// Asks the guest for the port that the client wants.
    pub fn request(&mut self, guest_port: u32, host_port: u32, now: Instant) {
        (self.guest_port, self.host_port, self.phase) = (guest_port, host_port, Phase::Requested);
        self.deadline = now.checked_add(PATIENCE);
        self.news.request = true;
    }

    /// Credit, which every packet of the guest's carries.
    pub fn hear(&mut self, header: &Header) {
        (self.guest_buffer, self.guest_taken) = (header.buf_alloc, header.fwd_cnt);
        if self.credit() > 0 {
            self.news.asked = false;
        }
    }

    /// Bytes that the guest has room for.
    fn credit(&self) -> u32 {
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.guest_taken))
    }

    /// The guest takes the client's call.
    pub fn accepted(&mut self) -> Fate {
        if self.phase != Phase::Requested {
            return Fate::Reset;
        }
        (self.phase, self.deadline) = (Phase::Open, None);
        let line = format!("OK {}\n", self.host_port);
        // There is nothing else in the stream yet, so that it has room.
        match send(&self.stream, line.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) if count == line.len() => Fate::On,
            _ => Fate::Reset,
        }
    }

    /// The guest asks how much room there is.
    pub fn asked_for_credit(&mut self) {
        self.news.credit = true;
    }

    /// The guest will send or receive no more.
    pub fn shut(&mut self, flags: u32) -> Fate {
        self.guest_shut |= flags & shut::BOTH;
        self.flush()
    }

    /// Bytes from the guest. It may send as many as it was told that there is room for.
    pub fn take(&mut self, data: &[u8]) -> Fate {
        let room = BUFFER.saturating_sub(self.received.wrapping_sub(self.forwarded));
        if self.phase != Phase::Open || self.guest_shut & shut::SEND != 0 || data.len() > room as usize {
            return Fate::Reset;
        }
        self.received = self.received.wrapping_add(data.len() as u32);
        let mut rest = data;
        if self.buffer.is_empty() {
            let count = self.write(data);
            rest = data.get(count..).unwrap_or_default();
        }
        self.buffer.extend(rest);
        Fate::On
    }

    /// Hands over what is kept.
    pub fn flush(&mut self) -> Fate {
        while self.writable && !self.buffer.is_empty() {
            let buffer = std::mem::take(&mut self.buffer);
            let count = self.write(buffer.as_slices().0);
            self.buffer = buffer;
            self.buffer.drain(..count.min(self.buffer.len()));
        }
        if self.buffer.is_empty() {
            // A buffer that was needed once may not be needed again.
            self.buffer = VecDeque::new();
            if self.guest_shut == shut::BOTH {
                return Fate::Reset;
            }
            if self.guest_shut & shut::SEND != 0 && !self.finished {
                self.finished = true;
                let _ = shutdown(&self.stream, Shutdown::Write);
            }
        }
        Fate::On
    }

    /// Writes what the stream takes; the number of bytes that are done with.
    fn write(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty() && self.writable) {
            match send(&self.stream, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.writable = false,
                // Nobody reads any more: it is lost, as on its way to one who does not look.
                Err(_) => done = data.len(),
            }
        }
        self.forwarded = self.forwarded.wrapping_add(done as u32);
        if self.forwarded.wrapping_sub(self.announced) >= NEWS {
            self.news.credit = true;
        }
        done
    }

    /// A packet of this connection's.
    pub fn header(&mut self, cid: u64, op: u16) -> Header {
        (self.news.credit, self.announced) = (false, self.forwarded);
        Header {
            src_cid: HOST,
            dst_cid: cid,
            src_port: self.host_port,
            dst_port: self.guest_port,
            kind: STREAM,
            op,
            buf_alloc: BUFFER,
            fwd_cnt: self.forwarded,
            ..Header::default()
        }
    }

    /// The next packet for the guest, whose payload is put into `data`, which sets the most; None if there is none now.
    pub fn next(&mut self, cid: u64, data: &mut [u8]) -> Option<Header> {
        if std::mem::take(&mut self.news.request) {
            return Some(self.header(cid, op::REQUEST));
        }
        if std::mem::take(&mut self.news.response) {
            return Some(self.header(cid, op::RESPONSE));
        }
        if self.phase != Phase::Open {
            return None;
        }
        if self.guest_shut & shut::RECEIVE == 0 && self.readable && !self.ended {
            let most = data.len().min(self.credit() as usize);
            if most == 0 && !std::mem::replace(&mut self.news.asked, true) {
                return Some(self.header(cid, op::CREDIT_REQUEST));
            }
            let count = if most == 0 { 0 } else { self.read(data.get_mut(..most).unwrap_or_default()) };
            if count != 0 {
                self.sent = self.sent.wrapping_add(count as u32);
                return Some(Header { len: count as u32, ..self.header(cid, op::RW) });
            }
        }
        let flags = match (self.ended, self.hung) {
            (true, true) => shut::BOTH,
            (true, false) => shut::SEND,
            _ => 0,
        };
        if flags & !self.news.shut != 0 {
            self.news.shut = flags;
            return Some(Header { flags, ..self.header(cid, op::SHUTDOWN) });
        }
        self.news.credit.then(|| self.header(cid, op::CREDIT_UPDATE))
    }

    /// Reads what is there; 0 if there is nothing now, or nothing any more.
    fn read(&mut self, data: &mut [u8]) -> usize {
        loop {
            match recv(&self.stream, &mut *data, RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.ended = true,
                Ok((count, _)) => return count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => self.readable = false,
                Err(_) => (self.ended, self.hung) = (true, true),
            }
            return 0;
        }
    }
}
