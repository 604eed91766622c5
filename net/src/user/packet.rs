//! A packet from the guest, as far as it is whole and for us.

use std::net::IpAddr;

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6ExtHeader, Ipv6FragmentHeader, Ipv6Packet};

use super::fragments::Piece;

/// What an IP packet carries.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: IpProtocol,
    pub payload: &'a [u8],
    /// The packet from its IP header on, as errors quote it.
    pub whole: &'a [u8],
    /// The card vouches for the transport's checksum.
    pub checked: bool,
    /// Pair of queues it came by.
    pub queue: u16,
}

/// Extension headers in front of what is carried. Nobody has more than one of a kind.
const MOST_HEADERS: usize = 4;

impl<'a> Packet<'a> {
    /// Parses IPv4: the packet, and which piece of one it is if it is a fragment.
    pub fn v4(whole: &'a [u8], checked: bool, queue: u16) -> Option<(Self, Option<Piece>)> {
        let ip =
            Ipv4Packet::new_checked(whole).ok().filter(|ip| ip.version() == 4 && ip.verify_checksum())?;
        let from = ip.src_addr();
        if ip.header_len() < 20 || from.is_multicast() || from.is_broadcast() || from.is_loopback() {
            return None;
        }
        let packet = Self {
            from: from.into(),
            to: ip.dst_addr().into(),
            protocol: ip.next_header(),
            payload: ip.payload(),
            whole: whole.get(..ip.total_len().into())?,
            checked,
            queue,
        };
        let piece = Piece { id: ip.ident().into(), offset: ip.frag_offset(), more: ip.more_frags() };
        Some((packet, piece.is_part().then_some(piece)))
    }

    /// Parses IPv6 in the same way, over its extension headers.
    pub fn v6(whole: &'a [u8], checked: bool, queue: u16) -> Option<(Self, Option<Piece>)> {
        let ip = Ipv6Packet::new_checked(whole).ok().filter(|ip| ip.version() == 6)?;
        let from = ip.src_addr();
        if from.is_multicast() || from.is_loopback() {
            return None;
        }
        let mut packet = Self {
            from: from.into(),
            to: ip.dst_addr().into(),
            protocol: ip.next_header(),
            payload: ip.payload(),
            whole: whole.get(..ip.total_len())?,
            checked,
            queue,
        };
        for _ in 0..MOST_HEADERS {
            match packet.protocol {
                IpProtocol::HopByHop | IpProtocol::Ipv6Opts | IpProtocol::Ipv6Route => {
                    let header = Ipv6ExtHeader::new_checked(packet.payload).ok()?;
                    let len = (usize::from(header.header_len()) + 1) * 8;
                    packet.protocol = header.next_header();
                    packet.payload = packet.payload.get(len..)?;
                }
                IpProtocol::Ipv6Frag => {
                    let (head, payload) = packet.payload.split_at_checked(8)?;
                    // The header in front of its fields is the length that others have.
                    let header = Ipv6FragmentHeader::new_checked(head.get(2..)?).ok()?;
                    let (id, offset, more) = (header.ident(), header.frag_offset(), header.more_frags());
                    packet.protocol = head.first().copied()?.into();
                    packet.payload = payload;
                    let piece = Piece { id, offset: offset.checked_mul(8)?, more };
                    return Some((packet, piece.is_part().then_some(piece)));
                }
                _ => return Some((packet, None)),
            }
        }
        None
    }
}
