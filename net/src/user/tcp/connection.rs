//! One connection: the guest's side by RFC 9293, the host's side a socket.
//!
//! NOT modelled: urgent data, selective acknowledgments, timestamps, congestion control: nothing is lost between a
//! guest and its host but what the guest itself throws away.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use super::output::{Blocked, mss};
use super::ring::Ring;
use super::segment::{Segment, Seq};
use crate::user::Flow;
use crate::user::context::Context;

/// How often a SYN is repeated.
const GREETINGS: u8 = 6;
/// Acknowledgments of the same that ask for it again (RFC 5681, 3.2).
const DUPLICATES: u8 = 3;
/// Most bytes that are read from the host in a row.
const BURST: usize = 1 << 18;

/// How far a connection is.
pub enum State {
    /// The host is connecting; the guest's SYN waits. Kept is its packet's beginning, for errors to quote.
    Connecting { syn: Box<[u8]> },
    /// The guest was asked, for somebody at a forwarded port.
    SynSent,
    /// The guest's SYN was answered.
    SynReceived,
    /// Data flows, in one direction at least.
    Established,
}

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Live,
    /// There is more to do at once.
    Busy,
    /// It has ended, or the guest has ended it.
    Gone,
    /// The host has ended it: the guest is told.
    Reset,
}

/// A connection.
pub struct Connection {
    pub flow: Flow,
    pub queue: u16,
    pub state: State,
    socket: TcpStream,
    readable: bool,
    writable: bool,
    /// It is in the list of those that have something to do.
    pub queued: bool,
    /// When anything last happened.
    pub used: Instant,
    /// Most bytes in either direction.
    pub limit: usize,

    /// To the guest: our first sequence number, what it has acknowledged, what is sent next, what was sent at most.
    pub first: Seq,
    pub acked: Seq,
    pub next: Seq,
    pub furthest: Seq,
    /// From `acked` on (the SYN aside).
    pub outgoing: Ring,
    /// No more comes from the host.
    pub host_ended: bool,
    /// The guest has acknowledged that.
    end_acked: bool,
    /// The guest's window, in bytes from `acked` on, and the shift of its announcements.
    pub window: usize,
    guest_scale: u8,
    pub mss: u16,
    duplicates: u8,
    /// One segment at a time, until an acknowledgment comes.
    pub recovering: bool,
    /// A byte is sent into a closed window.
    pub probing: bool,
    /// When an acknowledgment is overdue, and how often it has been.
    pub deadline: Option<Instant>,
    pub tries: u8,

    /// From the guest: what comes next, and up to where it may send.
    pub expected: Seq,
    pub edge: Seq,
    /// Both sides scale their windows.
    pub scales: bool,
    pub ack_due: bool,
    /// What the host has not taken yet.
    pub incoming: Ring,
    guest_ended: bool,
    /// The host knows that.
    shut: bool,
}

impl Connection {
    /// A connection that the guest asks for by `syn`, or one to the guest without.
    pub fn new(flow: Flow, queue: u16, socket: TcpStream, now: Instant, first: u32, limit: usize) -> Self {
        let first = Seq(first);
        Self {
            flow,
            queue,
            state: State::SynSent,
            socket,
            readable: false,
            writable: false,
            queued: false,
            used: now,
            limit,
            first,
            acked: first,
            next: first,
            furthest: first,
            outgoing: Ring::default(),
            host_ended: false,
            end_acked: false,
            window: 0,
            guest_scale: 0,
            mss: 536,
            duplicates: 0,
            recovering: false,
            probing: false,
            deadline: None,
            tries: 0,
            expected: Seq::default(),
            edge: Seq::default(),
            scales: false,
            ack_due: false,
            incoming: Ring::default(),
            guest_ended: false,
            shut: false,
        }
    }

    /// Takes over what a SYN of the guest's says.
    pub fn learn(&mut self, syn: &Segment<'_>) {
        self.expected = syn.seq.plus(1);
        self.edge = self.expected;
        self.scales = syn.scale.is_some();
        self.guest_scale = syn.scale.unwrap_or(0);
        self.window = syn.window.into();
        let ours = mss(self.flow.guest.is_ipv6());
        self.mss = syn.mss.unwrap_or(536).clamp(64, ours);
    }

    /// The host's socket is ready for something.
    pub fn ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// While connecting: whether the host has come to an end with it.
    pub fn connected(&mut self) -> Option<io::Result<()>> {
        if !self.writable {
            return None;
        }
        match self.socket.take_error() {
            Ok(None) => {
                self.state = State::SynReceived;
                // Small writes of the guest's are its own affair.
                let _ = self.socket.set_nodelay(true);
                Some(Ok(()))
            }
            Ok(Some(error)) | Err(error) => Some(Err(error)),
        }
    }

    /// A segment from the guest.
    pub fn segment(&mut self, cx: &mut Context, segment: &Segment<'_>) -> Fate {
        self.used = cx.now;
        match self.state {
            // It asks again.
            State::Connecting { .. } => return if segment.rst { Fate::Gone } else { Fate::Live },
            State::SynSent => return self.answer(segment),
            State::SynReceived | State::Established => {}
        }
        if segment.rst {
            // Only one that the guest could have sent now (RFC 5961, 3.2); it is no stranger, so that is enough.
            let inside = segment.seq.minus(self.expected) >= 0 && segment.seq.minus(self.edge) <= 0;
            return if inside { Fate::Gone } else { Fate::Live };
        }
        if segment.syn {
            // The same again, or another one: the guest hears what is known here, and resets it if it is not so.
            if matches!(self.state, State::SynReceived) {
                self.next = self.first;
            }
            self.ack_due = true;
            return Fate::Live;
        }
        let Some(ack) = segment.ack else { return Fate::Live };
        if ack.minus(self.furthest) > 0 {
            self.ack_due = true;
            return Fate::Live;
        }
        if matches!(self.state, State::SynReceived) {
            if ack != self.first.plus(1) {
                return Fate::Live;
            }
            self.established();
        }
        self.acknowledged(cx, ack, segment);
        self.receive(segment);
        if self.is_over() { Fate::Gone } else { Fate::Live }
    }

    /// The answer to our SYN.
    fn answer(&mut self, segment: &Segment<'_>) -> Fate {
        let acks = segment.ack == Some(self.first.plus(1)) && self.next != self.first;
        match segment {
            Segment { rst: true, .. } => return if acks { Fate::Gone } else { Fate::Live },
            Segment { syn: true, .. } if acks => {}
            // Both sides asking at the same time, and whatever else: the guest answers our SYN in the end.
            _ => return Fate::Live,
        }
        let (expected, edge) = (segment.seq.plus(1), self.edge);
        let promised = edge.minus(self.expected).max(0) as usize;
        self.learn(segment);
        self.edge = expected.plus(promised);
        self.established();
        self.ack_due = true;
        Fate::Live
    }

    fn established(&mut self) {
        self.state = State::Established;
        self.acked = self.first.plus(1);
        self.next = self.acked;
        self.furthest = self.acked;
        (self.deadline, self.tries) = (None, 0);
        (self.readable, self.writable) = (true, true);
    }

    fn acknowledged(&mut self, cx: &mut Context, ack: Seq, segment: &Segment<'_>) {
        let window = usize::from(segment.window) << self.guest_scale;
        let progress = ack.minus(self.acked);
        if progress < 0 {
            return; // old news
        }
        let data = (progress as usize).min(self.outgoing.len());
        if progress > 0 {
            self.end_acked |= self.host_ended && progress as usize > self.outgoing.len();
            self.outgoing.consume(data);
            self.acked = ack;
            if self.next.minus(ack) < 0 {
                self.next = ack;
            }
            (self.duplicates, self.tries, self.recovering, self.deadline) = (0, 0, false, None);
            if self.next != ack {
                self.arm(cx);
            }
        } else if self.next != self.acked
            && segment.payload.is_empty()
            && window == self.window
            && !segment.fin
        {
            self.duplicates = self.duplicates.saturating_add(1);
            if self.duplicates == DUPLICATES {
                self.next = self.acked;
                self.recovering = true;
            }
        }
        self.window = window;
    }

    /// Takes data in its order; what is out of order comes again.
    fn receive(&mut self, segment: &Segment<'_>) {
        if segment.payload.is_empty() && !segment.fin {
            // A probe of a connection that is idle is behind what is expected.
            self.ack_due |= segment.seq.minus(self.expected) < 0;
            return;
        }
        self.ack_due = true;
        let old = self.expected.minus(segment.seq);
        if old < 0 || old as usize > segment.payload.len() || self.guest_ended {
            return;
        }
        let fresh = segment.payload.get(old as usize..).unwrap_or_default();
        let room = self.edge.minus(self.expected).max(0) as usize;
        let taken = fresh.get(..room.min(fresh.len())).unwrap_or_default();
        let count = self.forward(taken);
        self.expected = self.expected.plus(count);
        if segment.fin && count == fresh.len() {
            self.expected = self.expected.plus(1);
            self.guest_ended = true;
        }
    }

    /// Hands data to the host, and keeps what it does not take now; how much is off the guest's hands.
    fn forward(&mut self, data: &[u8]) -> usize {
        let mut sent = 0;
        while self.incoming.is_empty() && self.writable && sent < data.len() {
            match self.socket.write(data.get(sent..).unwrap_or_default()) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another error comes again when the rest is tried.
                Err(_) => self.writable = false,
            }
        }
        sent + self.incoming.push(data.get(sent..).unwrap_or_default(), self.limit)
    }

    /// Moves what can be moved between the host and the guest.
    ///
    /// # Errors
    /// The guest has no room.
    pub fn pump(&mut self, cx: &mut Context) -> Result<Fate, Blocked> {
        if matches!(self.state, State::Established) {
            if self.push_to_host().is_err() {
                return Ok(Fate::Reset);
            }
            match self.pull_from_host(cx)? {
                Fate::Live => {}
                other => return Ok(other),
            }
        }
        self.output(cx)?;
        Ok(if self.is_over() { Fate::Gone } else { Fate::Live })
    }

    fn push_to_host(&mut self) -> io::Result<()> {
        let before = self.incoming.len();
        while self.writable && !self.incoming.is_empty() {
            let [front, _] = self.incoming.slices(0, usize::MAX);
            match self.socket.write(front) {
                Ok(count) => self.incoming.consume(count),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.writable = false,
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        // The guest hears of room if it may be waiting for it.
        let announced = self.edge.minus(self.expected).max(0) as usize;
        self.ack_due |= self.incoming.len() < before && announced < self.limit / 2;
        if self.guest_ended && self.incoming.is_empty() && !self.shut {
            self.shut = true;
            // It fails if the host's side is at its end already, as reading says.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Reads and sends by turns, so that much goes out in large frames and nothing waits.
    fn pull_from_host(&mut self, cx: &mut Context) -> Result<Fate, Blocked> {
        let mut total = 0;
        while self.readable && !self.host_ended {
            if total >= BURST {
                return Ok(Fate::Busy);
            }
            let spare = self.outgoing.spare(self.limit);
            if spare.is_empty() {
                break;
            }
            match self.socket.read(spare) {
                Ok(0) => self.host_ended = true,
                Ok(count) => {
                    self.outgoing.commit(count);
                    total += count;
                    self.used = cx.now;
                    self.output(cx)?;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.readable = false,
                    io::ErrorKind::Interrupted => {}
                    _ => return Ok(Fate::Reset),
                },
            }
        }
        Ok(Fate::Live)
    }

    /// Both sides have ended and know it of each other.
    fn is_over(&self) -> bool {
        self.end_acked && self.guest_ended && self.shut
    }

    /// The deadline has passed: what was sent is sent again. False if the guest is given up.
    pub fn overdue(&mut self) -> bool {
        self.deadline = None;
        self.tries = self.tries.saturating_add(1);
        match self.state {
            State::Connecting { .. } => {}
            State::SynSent | State::SynReceived => {
                self.next = self.first;
                return self.tries <= GREETINGS;
            }
            State::Established if self.next == self.acked => self.probing = true,
            State::Established => {
                self.next = self.acked;
                self.recovering = true;
            }
        }
        true
    }

    /// Gives back memory that is not in use.
    pub fn shrink(&mut self) {
        self.outgoing.shrink();
        self.incoming.shrink();
    }

    /// Ends the host's side: in peace if both sides have ended, else so that the peer sees a reset.
    pub fn close(self) {
        if !self.is_over() {
            self.abort();
        }
    }

    /// Ends the host's side so that the peer sees a reset.
    pub fn abort(self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(std::time::Duration::ZERO));
    }
}
