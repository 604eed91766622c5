//! Frames for tests.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::Mac;
use crate::user::checksum::Sum;

pub const ALL: Mac = Mac([0xff; 6]);

fn frame(to: Mac, from: Mac, kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind, payload].concat()
}

/// A frame for everybody, of no protocol.
pub fn broadcast(from: Mac) -> Vec<u8> {
    frame(ALL, from, [0x88, 0xb5], b"experiment")
}

/// An ARP packet that tells of `sender` and `ip`.
pub fn arp(from: Mac, sender: Mac, ip: Ipv4Addr, is_request: bool) -> Vec<u8> {
    let operation = if is_request { 1 } else { 2 };
    let packet =
        [&[0, 1, 8, 0, 6, 4, 0, operation][..], &sender.0, &ip.octets(), &[0; 6], &[10, 5, 0, 200]].concat();
    frame(ALL, from, [8, 6], &packet)
}

/// An IPv4 packet of a protocol that nobody knows.
pub fn ipv4(to: Mac, from: Mac, ip: Ipv4Addr, target: [u8; 4]) -> Vec<u8> {
    frame(to, from, [8, 0], &packet(253, ip, target, b"experiment"))
}

/// A datagram.
pub fn udp(to: Mac, from: Mac, ip: Ipv4Addr, target: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let mut datagram = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    datagram.extend(payload);
    frame(to, from, [8, 0], &packet(17, ip, target, &datagram))
}

fn packet(protocol: u8, from: Ipv4Addr, to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut ip =
        [&[0x45, 0][..], &((20 + payload.len()) as u16).to_be_bytes(), &[0, 1, 0, 0, 64, protocol, 0, 0]]
            .concat();
    ip.extend(from.octets());
    ip.extend(to);
    let mut sum = Sum::default();
    sum.add(&ip);
    ip[10..12].copy_from_slice(&sum.finish().to_be_bytes());
    ip.extend(payload);
    ip
}

/// An IPv6 packet without a payload.
pub fn ipv6(to: Mac, from: Mac, ip: &str) -> Vec<u8> {
    frame(to, from, [0x86, 0xdd], &packet6(59, ip, &[]))
}

/// A message of neighbours, behind an extension header.
pub fn icmp6(to: Mac, from: Mac, ip: &str, kind: u8, target: &str) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    let message = [&options[..], &[kind, 0, 0, 0, 0, 0, 0, 0], &target.octets()].concat();
    frame(to, from, [0x86, 0xdd], &packet6(60, ip, &message))
}

fn packet6(next: u8, from: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to): (Ipv6Addr, Ipv6Addr) = (from.parse().unwrap(), "ff02::1".parse().unwrap());
    let len = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, len[0], len[1], next, 255][..], &from.octets(), &to.octets(), payload].concat()
}
