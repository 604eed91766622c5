//! As much of a frame as a switch looks at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket};

use crate::{MAX_FRAME, Mac, Offload, complete};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
const TYPE_IPV4: u16 = 0x0800;
const TYPE_ARP: u16 = 0x0806;
const TYPE_IPV6: u16 = 0x86dd;
/// Below it is a length (IEEE 802.3).
const LEAST_TYPE: u16 = 0x0600;
/// Extension headers that are looked behind.
const MOST_HEADERS: usize = 4;

/// A frame without a tag.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub to: Mac,
    pub from: Mac,
    pub content: Content<'a>,
}

/// What is in it.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// An address asked for or told.
    Arp { sender: (Mac, Ipv4Addr), is_request: bool },
    /// An IPv4 packet.
    V4 { from: Ipv4Addr, to: Ipv4Addr, udp: Option<Udp<'a>> },
    /// An IPv6 packet, and its ICMPv6 message's type and first address if it has them.
    V6 { from: Ipv6Addr, icmp: Option<(u8, Option<Ipv6Addr>)> },
    /// A packet that claims to be one of those and is not.
    Broken,
    /// Something else with a type.
    Other,
    /// A frame of IEEE 802.2.
    Llc,
}

/// A datagram that is whole.
#[derive(Debug, Clone, Copy)]
pub struct Udp<'a> {
    pub from: u16,
    pub to: u16,
    pub payload: &'a [u8],
}

impl<'a> View<'a> {
    /// None for less than an Ethernet header.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let (header, payload) = bytes.split_first_chunk::<ETHERNET>()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, high, low] = *header;
        let kind = u16::from_be_bytes([high, low]);
        let content = match kind {
            TYPE_ARP => arp(payload),
            TYPE_IPV4 => v4(payload),
            TYPE_IPV6 => v6(payload),
            _ if kind < LEAST_TYPE => Some(Content::Llc),
            _ => Some(Content::Other),
        };
        let (to, from) = (Mac([a, b, c, d, e, f]), Mac([g, h, i, j, k, l]));
        Some(Self { to, from, content: content.unwrap_or(Content::Broken) })
    }

    /// For more than one.
    pub fn is_for_many(&self) -> bool {
        self.to.0[0] & 1 != 0
    }

    /// For the switches of a network and nobody behind them (IEEE 802.1Q, 8.6.3).
    pub fn is_for_switches(&self) -> bool {
        matches!(self.to.0, [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f])
    }

    /// Where the sender says it is, if it says so.
    pub fn source(&self) -> Option<IpAddr> {
        let ip: IpAddr = match self.content {
            Content::Arp { sender: (_, ip), .. } | Content::V4 { from: ip, .. } => ip.into(),
            Content::V6 { from, .. } => from.into(),
            _ => return None,
        };
        (!ip.is_unspecified()).then_some(ip)
    }
}

fn arp(payload: &[u8]) -> Option<Content<'_>> {
    let repr = ArpRepr::parse(&ArpPacket::new_checked(payload).ok()?).ok()?;
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, .. } = repr else {
        return None;
    };
    let sender = (Mac(source_hardware_addr.0), source_protocol_addr);
    Some(Content::Arp { sender, is_request: operation == ArpOperation::Request })
}

fn v4(payload: &[u8]) -> Option<Content<'_>> {
    let ip = Ipv4Packet::new_checked(payload).ok().filter(|ip| ip.version() == 4 && ip.header_len() >= 20)?;
    let first = ip.frag_offset() == 0;
    let udp = (first && ip.next_header() == IpProtocol::Udp).then(|| udp(ip.payload())).flatten();
    Some(Content::V4 { from: ip.src_addr(), to: ip.dst_addr(), udp })
}

/// The ports of a first fragment are told as well.
fn udp(payload: &[u8]) -> Option<Udp<'_>> {
    let ports = UdpPacket::new_unchecked(payload.get(..8)?);
    let (from, to) = (ports.src_port(), ports.dst_port());
    let payload = payload.get(8..usize::from(ports.len())).unwrap_or_default();
    Some(Udp { from, to, payload })
}

fn v6(payload: &[u8]) -> Option<Content<'_>> {
    let ip = Ipv6Packet::new_checked(payload).ok().filter(|ip| ip.version() == 6)?;
    let (mut protocol, mut rest) = (ip.next_header(), ip.payload());
    for _ in 0..=MOST_HEADERS {
        let skipped = match protocol {
            IpProtocol::HopByHop | IpProtocol::Ipv6Opts | IpProtocol::Ipv6Route => {
                (usize::from(*rest.get(1)?) + 1) * 8
            }
            // What is behind a first fragment's header is the message's beginning, and behind others' its middle.
            IpProtocol::Ipv6Frag if *rest.get(2)? == 0 && *rest.get(3)? & 0xf8 == 0 => 8,
            IpProtocol::Icmpv6 => {
                let target = rest.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(Ipv6Addr::from);
                return Some(Content::V6 { from: ip.src_addr(), icmp: Some((*rest.first()?, target)) });
            }
            _ => return Some(Content::V6 { from: ip.src_addr(), icmp: None }),
        };
        protocol = (*rest.first()?).into();
        rest = rest.get(skipped..)?;
    }
    None
}

/// A frame as it crosses a switch: a buffer that is used again and again, and where in it the frame begins.
#[derive(Debug, Default)]
pub struct Parcel {
    buffer: Vec<u8>,
    start: usize,
    /// What is left to do.
    pub offload: Offload,
}

impl Parcel {
    /// A whole frame.
    #[cfg(test)]
    pub fn of(bytes: Vec<u8>, offload: Offload) -> Self {
        Self { buffer: bytes, start: 0, offload }
    }

    /// From the Ethernet header on.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Room for a message of a socket's: a header and a frame, and a byte by which one that is too long is known.
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.buffer.clear();
        self.buffer.reserve(Offload::LEN + MAX_FRAME + 1);
        &mut self.buffer
    }

    /// Parses the message that was put there; false if it is none.
    pub fn arrived(&mut self) -> bool {
        self.start = Offload::LEN;
        let offload = self.buffer.first_chunk().and_then(Offload::decode);
        self.offload = offload.unwrap_or_default();
        offload.is_some() && self.buffer.len() <= Offload::LEN + MAX_FRAME
    }

    /// The checksum is filled in; false for a frame that has no place for it.
    pub fn complete(&mut self) -> bool {
        let offload = std::mem::take(&mut self.offload);
        let frame = self.buffer.get_mut(self.start..).unwrap_or_default();
        complete::checksum(frame, &offload)
    }

    /// Cuts `len` bytes out behind the addresses.
    pub fn untag(&mut self, at: usize, len: usize) {
        let end = self.start + at;
        if end + len <= self.buffer.len() {
            self.buffer.copy_within(self.start..end, self.start + len);
            self.start += len;
        }
    }
}
