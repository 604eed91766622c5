//! ICMP (RFC 792) and ICMPv6 (RFC 4443): the router's own answers, and the news that a packet has led nowhere.

use std::net::IpAddr;

use smoltcp::wire::IpProtocol;

use super::context::Context;
use super::lan::{Nowhere, ROUTER6, Subnet};
use super::outlet::Envelope;
use super::packet::Packet;

/// Most bytes that an error quotes.
const QUOTE4: usize = 548;
const QUOTE6: usize = 1232;
/// Types: answers, requests, unreachable.
pub const ECHO4: (u8, u8) = (0, 8);
pub const ECHO6: (u8, u8) = (129, 128);
const UNREACHABLE4: u8 = 3;
const UNREACHABLE6: u8 = 1;
/// Bytes in front of an echo's content, and of an error's quotation.
pub const HEADER: usize = 8;

/// An echo request: identifier, and all of the message.
pub struct Echo<'a> {
    pub id: u16,
    pub message: &'a [u8],
}

/// The echo request in a packet, if it is one.
pub fn echo<'a>(packet: &Packet<'a>) -> Option<Echo<'a>> {
    let message = packet.payload;
    let &[kind, code, _, _, high, low, _, _] = message.get(..HEADER)?.first_chunk::<HEADER>()?;
    let (_, request) = if packet.from.is_ipv4() { ECHO4 } else { ECHO6 };
    let id = u16::from_be_bytes([high, low]);
    (kind == request && code == 0 && (packet.checked || is_sound(packet))).then_some(Echo { id, message })
}

fn is_sound(packet: &Packet<'_>) -> bool {
    envelope_back(packet).is_some_and(|envelope| message_sum(&envelope, &[packet.payload]) == 0)
}

/// The checksum of a message: ICMP's covers the message alone, ICMPv6's also the addresses.
fn message_sum(envelope: &Envelope, parts: &[&[u8]]) -> u16 {
    if envelope.from.is_ipv6() {
        return envelope.checksum(parts);
    }
    let mut sum = super::checksum::Sum::default();
    parts.iter().for_each(|part| sum.add(part));
    sum.finish()
}

/// The envelope of an answer, from where the packet was sent to. The card is filled in later.
fn envelope_back(packet: &Packet<'_>) -> Option<Envelope> {
    let protocol = match (packet.from, packet.to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => IpProtocol::Icmp,
        (IpAddr::V6(_), IpAddr::V6(_)) => IpProtocol::Icmpv6,
        _ => return None,
    };
    let mac = super::lan::ROUTER_MAC;
    Some(Envelope { mac, queue: packet.queue, from: packet.to, to: packet.from, protocol })
}

/// Sends a message to the guest; its checksum is made here.
pub fn send(cx: &mut Context, from: IpAddr, to: IpAddr, queue: u16, header: [u8; HEADER], data: &[u8]) {
    let protocol = if from.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
    let envelope = Envelope { mac: cx.lan.guest_mac, queue, from, to, protocol };
    let mut header = header;
    (header[2], header[3]) = (0, 0);
    let sum = message_sum(&envelope, &[&header, data]);
    header[2..4].copy_from_slice(&sum.to_be_bytes());
    cx.out.packet(&envelope, &header, data);
}

/// The router answers echo requests to it and to the name server.
pub fn is_ours(subnet: &Subnet, to: IpAddr) -> bool {
    subnet.is_router(to) || subnet.is_names(to)
}

/// Answers an echo request in the place of whom it was sent to.
pub fn answer(cx: &mut Context, packet: &Packet<'_>, echo: &Echo<'_>) {
    let Some((&header, data)) = echo.message.split_first_chunk::<HEADER>() else { return };
    let kind = if packet.from.is_ipv4() { ECHO4.0 } else { ECHO6.0 };
    let mut header = header;
    header[0] = kind;
    send(cx, packet.to, packet.from, packet.queue, header, data);
}

/// Why a packet was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No network or host.
    Host,
    /// Nobody has the port.
    Port,
    /// It is not allowed.
    Prohibited,
}

impl From<Nowhere> for Why {
    fn from(nowhere: Nowhere) -> Self {
        match nowhere {
            Nowhere::Refused => Self::Port,
            Nowhere::Unreachable => Self::Host,
            Nowhere::Prohibited => Self::Prohibited,
        }
    }
}

/// Tells the guest that a packet, of which `whole` is the beginning, was not delivered.
pub fn unreachable(cx: &mut Context, guest: IpAddr, queue: u16, whole: &[u8], why: Why) {
    let (from, kind, code, most) = if guest.is_ipv4() {
        let code = match why {
            Why::Host => 1,
            Why::Port => 3,
            Why::Prohibited => 13,
        };
        (IpAddr::from(cx.lan.subnet.router), UNREACHABLE4, code, QUOTE4)
    } else {
        let code = match why {
            Why::Host => 3,
            Why::Port => 4,
            Why::Prohibited => 1,
        };
        (IpAddr::from(ROUTER6), UNREACHABLE6, code, QUOTE6)
    };
    let quote = whole.get(..most).unwrap_or(whole);
    send(cx, from, guest, queue, [kind, code, 0, 0, 0, 0, 0, 0], quote);
}
