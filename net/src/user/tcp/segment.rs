//! Segments as the relay looks at them, and sequence numbers (RFC 9293, 3.1 and 3.4).

use smoltcp::wire::{TcpOption, TcpPacket};

use crate::user::packet::Packet;

/// A sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seq(pub u32);

impl Seq {
    pub fn plus(self, count: usize) -> Self {
        Self(self.0.wrapping_add(count as u32))
    }

    /// How far it is behind `other`; negative if before it.
    pub fn minus(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }
}

/// Largest shift of a window (RFC 7323, 2.3).
const MOST_SCALE: u8 = 14;

/// A segment from the guest.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    pub seq: Seq,
    /// The acknowledgment, in segments that have one.
    pub ack: Option<Seq>,
    pub window: u16,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    /// Options of a SYN.
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    pub payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// The segment in a packet, and its ports: the guest's, the peer's.
    pub fn parse(packet: &Packet<'a>) -> Option<(Self, u16, u16)> {
        let tcp = TcpPacket::new_checked(packet.payload).ok()?;
        if !packet.checked && !tcp.verify_checksum(&packet.from.into(), &packet.to.into()) {
            return None;
        }
        let (mut mss, mut scale) = (None, None);
        if tcp.syn() {
            let mut options = tcp.options();
            while let Ok((rest, option)) = TcpOption::parse(options) {
                match option {
                    TcpOption::EndOfList => break,
                    TcpOption::MaxSegmentSize(size) => mss = Some(size),
                    TcpOption::WindowScale(shift) => scale = Some(shift.min(MOST_SCALE)),
                    _ => {}
                }
                if rest.is_empty() {
                    break;
                }
                options = rest;
            }
        }
        let segment = Self {
            seq: Seq(tcp.seq_number().0 as u32),
            ack: tcp.ack().then(|| Seq(tcp.ack_number().0 as u32)),
            window: tcp.window_len(),
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            mss,
            scale,
            payload: tcp.payload(),
        };
        Some((segment, tcp.src_port(), tcp.dst_port()))
    }

    /// How many sequence numbers it takes.
    pub fn len(&self) -> usize {
        self.payload.len() + usize::from(self.syn) + usize::from(self.fin)
    }
}
