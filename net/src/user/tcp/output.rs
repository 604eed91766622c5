//! Segments to the guest: when there is something to say, and how it is put.

use std::time::Duration;

use smoltcp::wire::IpProtocol;

use super::connection::{Connection, State};
use super::segment::Seq;
use crate::user::context::Context;
use crate::user::outlet::{ETHERNET, Envelope, ip_len};
use crate::user::{Flow, lan};
use crate::{Offload, Put, Segmentation};

/// Bytes of a header without options.
const HEADER: usize = 20;
/// Where in it the checksum is.
const CHECKSUM: usize = 16;
/// How far our window is shifted.
pub const SCALE: u8 = 7;
/// What a packet may carry at most, whatever its headers are.
const LARGEST: usize = 65_535 - 60;
/// First wait for an acknowledgment, and the longest.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST_PATIENCE: Duration = Duration::from_secs(60);

/// Flags of a segment.
pub mod flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

/// A segment to the guest but its data.
pub struct Head {
    pub flow: Flow,
    pub queue: u16,
    pub seq: Seq,
    pub ack: Seq,
    pub flags: u8,
    pub window: u16,
    /// MSS and, if the guest can, the window's shift: for a SYN.
    pub options: Option<(u16, Option<u8>)>,
}

impl Head {
    /// Sends it with data, which is cut into segments of `mss` bytes by the guest if that is more.
    pub fn send(&self, cx: &mut Context, data: [&[u8]; 2], mss: u16) -> Put {
        let Flow { guest, remote } = self.flow;
        let envelope = cx.envelope(self.queue, remote.ip(), guest.ip(), IpProtocol::Tcp);
        let mut bytes = [0; HEADER + 8];
        let len = self.write(&mut bytes, remote.port(), guest.port());
        let header = &mut bytes[..len];
        let offload = self.offload(cx, &envelope, header, data, mss);
        if offload.checksum.is_none() {
            let sum = envelope.checksum(&[header, data[0], data[1]]);
            header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        }
        cx.out.whole(&envelope, &offload, [header, data[0], data[1]])
    }

    fn write(&self, bytes: &mut [u8; HEADER + 8], from: u16, to: u16) -> usize {
        bytes[..2].copy_from_slice(&from.to_be_bytes());
        bytes[2..4].copy_from_slice(&to.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        bytes[13] = self.flags;
        bytes[14..16].copy_from_slice(&self.window.to_be_bytes());
        let mut len = HEADER;
        if let Some((mss, scale)) = self.options {
            let [high, low] = mss.to_be_bytes();
            bytes[20..24].copy_from_slice(&[2, 4, high, low]);
            len += 4;
            if let Some(scale) = scale {
                bytes[24..28].copy_from_slice(&[1, 3, 3, scale]);
                len += 4;
            }
        }
        bytes[12] = (len as u8 / 4) << 4;
        len
    }

    /// What is left to the guest's card.
    fn offload(
        &self,
        cx: &Context,
        envelope: &Envelope,
        header: &mut [u8],
        data: [&[u8]; 2],
        mss: u16,
    ) -> Offload {
        let payload = data[0].len() + data[1].len();
        if !cx.out.abilities().checksum || payload == 0 {
            return Offload::default();
        }
        let sum = envelope.pseudo_sum(header.len() + payload);
        header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        let v6 = envelope.from.is_ipv6();
        let start = ETHERNET + ip_len(v6);
        let kind = if v6 { Segmentation::Tcp6 } else { Segmentation::Tcp4 };
        Offload {
            checksum: Some((start as u16, CHECKSUM as u16)),
            segments: (payload > usize::from(mss)).then_some((kind, mss)),
            headers: (start + header.len()) as u16,
        }
    }
}

/// Our own MSS.
pub fn mss(v6: bool) -> u16 {
    (lan::MTU - ip_len(v6) - HEADER) as u16
}

impl Connection {
    /// Sends what can be sent.
    ///
    /// # Errors
    /// The guest has no room; the rest is sent when it has.
    pub fn output(&mut self, cx: &mut Context) -> Result<(), Blocked> {
        match self.state {
            State::Connecting { .. } => Ok(()),
            State::SynSent | State::SynReceived => self.greet(cx),
            State::Established => self.stream(cx),
        }
    }

    fn greet(&mut self, cx: &mut Context) -> Result<(), Blocked> {
        if self.next != self.first {
            return Ok(());
        }
        let answer = matches!(self.state, State::SynReceived);
        let flags = if answer { flag::SYN | flag::ACK } else { flag::SYN };
        // An answer has a scale if the question had one.
        let scale = (!answer || self.scales).then_some(SCALE);
        let options = Some((mss(self.flow.guest.is_ipv6()), scale));
        let window = self.limit.min(0xffff) as u16;
        let head = Head { seq: self.first, window, flags, options, ..self.head() };
        not_full(head.send(cx, [&[], &[]], self.mss))?;
        self.edge = self.expected.plus(window.into());
        self.next = self.first.plus(1);
        self.furthest = self.next;
        self.ack_due = false;
        self.arm(cx);
        Ok(())
    }

    fn stream(&mut self, cx: &mut Context) -> Result<(), Blocked> {
        let abilities = cx.out.abilities();
        let large = if self.flow.guest.is_ipv6() { abilities.tcp6 } else { abilities.tcp4 };
        let mss = usize::from(self.mss);
        let most = if large && !self.recovering { (LARGEST / mss).max(1) * mss } else { mss };
        loop {
            let in_flight = self.next.minus(self.acked).max(0) as usize;
            let unsent = self.outgoing.len().saturating_sub(in_flight);
            let window = self.window.max(usize::from(self.probing));
            let len = unsent.min(window.saturating_sub(in_flight)).min(most);
            let fin = self.host_ended && len == unsent && in_flight <= self.outgoing.len();
            // Less than the guest's buffers take while more is under way: its window opens with that.
            let silly = len < unsent && len < mss && in_flight > 0;
            if len == 0 && !fin || silly {
                if unsent > 0 && in_flight == 0 {
                    self.arm(cx); // to ask whether the window has opened
                }
                break;
            }
            let mut flags = flag::ACK;
            flags |= if len == unsent && len > 0 { flag::PSH } else { 0 };
            flags |= if fin { flag::FIN } else { 0 };
            let head = Head { seq: self.next, flags, window: self.open(), ..self.head() };
            let data = self.outgoing.slices(in_flight, len);
            not_full(head.send(cx, data, self.mss))?;
            self.next = self.next.plus(len + usize::from(fin));
            if self.next.minus(self.furthest) > 0 {
                self.furthest = self.next;
            }
            self.ack_due = false;
            self.arm(cx);
            if self.recovering || self.probing {
                self.probing = false;
                break;
            }
        }
        if self.ack_due {
            let head = Head { seq: self.next, flags: flag::ACK, window: self.open(), ..self.head() };
            not_full(head.send(cx, [&[], &[]], self.mss))?;
            self.ack_due = false;
        }
        Ok(())
    }

    /// Ends the guest's side at once.
    pub fn send_reset(&mut self, cx: &mut Context) {
        let flags = flag::RST | flag::ACK;
        let head = Head { seq: self.next, flags, window: 0, ..self.head() };
        // A guest without room hears of it when it says something.
        head.send(cx, [&[], &[]], self.mss);
    }

    fn head(&self) -> Head {
        Head {
            flow: self.flow,
            queue: self.queue,
            seq: self.next,
            ack: self.expected,
            flags: 0,
            window: 0,
            options: None,
        }
    }

    /// The window to announce, which never takes back what was announced before.
    fn open(&mut self) -> u16 {
        let room = self.limit.saturating_sub(self.incoming.len());
        let shift = if self.scales { SCALE } else { 0 };
        let promised = self.edge.minus(self.expected).max(0) as usize;
        let window = (room.max(promised) >> shift).min(0xffff);
        let edge = self.expected.plus(window << shift);
        if edge.minus(self.edge) > 0 {
            self.edge = edge;
        }
        window as u16
    }

    /// Sets the deadline for an acknowledgment, if none is set.
    pub fn arm(&mut self, cx: &mut Context) {
        let patience = (PATIENCE * (1u32 << self.tries.min(6))).min(MOST_PATIENCE);
        let deadline = *self.deadline.get_or_insert(cx.now + patience);
        cx.wake_at(deadline);
    }
}

/// The guest has no room for a frame.
pub struct Blocked;

fn not_full(put: Put) -> Result<(), Blocked> {
    if put == Put::Full { Err(Blocked) } else { Ok(()) }
}
