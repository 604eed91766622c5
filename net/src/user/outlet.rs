//! The way to the guest: packets get their headers, and are cut where they are too long for the network.

use std::net::IpAddr;

use smoltcp::wire::IpProtocol;

use super::checksum::Sum;
use super::lan::{MTU, ROUTER_MAC};
use crate::cable::Cable;
use crate::{Abilities, Capture, Mac, Offload, Put};

/// Bytes of headers.
pub const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const FRAGMENT: usize = 8;
/// Ethernet types.
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Addresses of a packet on the guest's network.
#[derive(Debug, Clone, Copy)]
pub struct Envelope {
    /// The guest's card, or all.
    pub mac: Mac,
    /// Pair of queues.
    pub queue: u16,
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: IpProtocol,
}

/// What leads to the guest.
pub struct Outlet {
    pub cable: Cable,
    abilities: Abilities,
    identification: u32,
}

impl Outlet {
    pub fn new(capture: Option<Capture>) -> Self {
        Self { cable: Cable::new(capture), abilities: Abilities::default(), identification: 0 }
    }

    /// Looks at what the guest takes, which holds until the next look.
    pub fn look(&mut self) {
        self.abilities = self.cable.abilities();
    }

    pub fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// Sends a packet of `header` and `data`, in fragments if it is longer than the network takes.
    pub fn packet(&mut self, envelope: &Envelope, header: &[u8], data: &[u8]) -> Put {
        let v6 = envelope.from.is_ipv6();
        self.identification = self.identification.wrapping_add(1);
        if header.len() + data.len() <= MTU - ip_len(v6) {
            return self.whole(envelope, &Offload::default(), [header, data, &[]]);
        }
        let step = (MTU - ip_len(v6) - if v6 { FRAGMENT } else { 0 }) & !7;
        let all = [header, data].concat();
        let mut at = 0;
        for piece in all.chunks(step) {
            let more = at + piece.len() < all.len();
            let put = if v6 {
                let place = (at as u16 & !7) | u16::from(more);
                let mut extension = [envelope.protocol.into(), 0, 0, 0, 0, 0, 0, 0];
                extension[2..4].copy_from_slice(&place.to_be_bytes());
                extension[4..].copy_from_slice(&self.identification.to_be_bytes());
                let outer = Envelope { protocol: IpProtocol::Ipv6Frag, ..*envelope };
                self.whole(&outer, &Offload::default(), [&extension, piece, &[]])
            } else {
                let place = (at / 8) as u16 | if more { MORE_FRAGMENTS } else { 0 };
                self.ip(envelope, &Offload::default(), place, [piece, &[], &[]])
            };
            if put != Put::Done {
                return put;
            }
            at += piece.len();
        }
        Put::Done
    }

    /// Sends a packet as it is, which may be a large one.
    pub fn whole(&mut self, envelope: &Envelope, offload: &Offload, parts: [&[u8]; 3]) -> Put {
        self.ip(envelope, offload, DONT_FRAGMENT, parts)
    }

    fn ip(&mut self, envelope: &Envelope, offload: &Offload, place: u16, parts: [&[u8]; 3]) -> Put {
        let mut headers = [0; ETHERNET + IPV6];
        let len = parts.iter().map(|p| p.len()).sum::<usize>();
        headers[..6].copy_from_slice(&envelope.mac.0);
        headers[6..12].copy_from_slice(&ROUTER_MAC.0);
        let ip = &mut headers[ETHERNET..];
        let end = match (envelope.from, envelope.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ip[0] = 0x45;
                ip[2..4].copy_from_slice(&((IPV4 + len) as u16).to_be_bytes());
                ip[4..6].copy_from_slice(&(self.identification as u16).to_be_bytes());
                ip[6..8].copy_from_slice(&place.to_be_bytes());
                (ip[8], ip[9]) = (HOP_LIMIT, envelope.protocol.into());
                ip[12..16].copy_from_slice(&from.octets());
                ip[16..20].copy_from_slice(&to.octets());
                let mut sum = Sum::default();
                sum.add(&ip[..IPV4]);
                ip[10..12].copy_from_slice(&sum.finish().to_be_bytes());
                headers[12..14].copy_from_slice(&TYPE_IPV4);
                ETHERNET + IPV4
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ip[0] = 0x60;
                ip[4..6].copy_from_slice(&(len as u16).to_be_bytes());
                (ip[6], ip[7]) = (envelope.protocol.into(), hops(envelope.protocol));
                ip[8..24].copy_from_slice(&from.octets());
                ip[24..40].copy_from_slice(&to.octets());
                headers[12..14].copy_from_slice(&TYPE_IPV6);
                ETHERNET + IPV6
            }
            _ => return Put::Done, // no packet has addresses of both kinds
        };
        let [a, b, c] = parts;
        self.cable.put(envelope.queue, offload, &[&headers[..end], a, b, c])
    }
}

/// Messages of neighbour discovery are taken only from neighbours (RFC 4861, 7.1).
fn hops(protocol: IpProtocol) -> u8 {
    if protocol == IpProtocol::Icmpv6 { 255 } else { HOP_LIMIT }
}

/// Bytes of an IP header.
pub fn ip_len(v6: bool) -> usize {
    if v6 { IPV6 } else { IPV4 }
}

impl Envelope {
    /// The checksum over a transport's parts.
    pub fn checksum(&self, parts: &[&[u8]]) -> u16 {
        let mut sum = Sum::default();
        sum.add_pseudo_header(self.from, self.to, self.protocol.into(), parts.iter().map(|p| p.len()).sum());
        parts.iter().for_each(|part| sum.add(part));
        sum.finish()
    }

    /// What is in the field of a checksum that is left to others.
    pub fn pseudo_sum(&self, len: usize) -> u16 {
        let mut sum = Sum::default();
        sum.add_pseudo_header(self.from, self.to, self.protocol.into(), len);
        sum.folded()
    }
}
