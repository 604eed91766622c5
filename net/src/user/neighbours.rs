//! Neighbour discovery and router advertisements (RFC 4861, 8106), by which guests find addresses of IPv6 themselves.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use smoltcp::wire::{Icmpv6Message, Icmpv6Packet};

use super::context::Context;
use super::icmp;
use super::lan::{MTU, NAMES6, PREFIX6, ROUTER_MAC, ROUTER6_LINK};
use super::packet::Packet;

/// How long an advertisement is good for, in seconds, and how often there is one.
const LIFETIME: u16 = 1800;
pub const INTERVAL: Duration = Duration::from_secs(600);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Types.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Neighbour advertisement: a router sends it, it was asked for, it counts.
const FLAGS: u8 = 0xe0;
/// Options: link-layer addresses of the source and the target, prefix, MTU, name servers.
const SOURCE: u8 = 1;
const TARGET: u8 = 2;
const PREFIX: u8 = 3;
const LARGEST: u8 = 5;
const NAME_SERVERS: u8 = 25;
/// Prefix: on this link, and for addresses of the guest's making.
const ON_LINK_AUTONOMOUS: u8 = 0xc0;

/// Answers solicitations; true if that is what the packet was, or another message among neighbours.
pub fn ingress(cx: &mut Context, packet: &Packet<'_>) -> bool {
    let Ok(message) = Icmpv6Packet::new_checked(packet.payload) else { return true };
    let (IpAddr::V6(from), IpAddr::V6(to)) = (packet.from, packet.to) else { return true };
    match message.msg_type() {
        Icmpv6Message::NeighborSolicit | Icmpv6Message::RouterSolicit
            if !packet.checked && !message.verify_checksum(&from, &to) => {}
        Icmpv6Message::NeighborSolicit => {
            let target = message.target_addr();
            cx.lan.seen(packet.from);
            if icmp::is_ours(&cx.lan.subnet, target.into()) {
                let asked = if from.is_unspecified() { ALL_NODES } else { from };
                let mut data = target.octets().to_vec();
                data.extend([TARGET, 1]);
                data.extend(ROUTER_MAC.0);
                let header = [NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, FLAGS, 0, 0, 0];
                icmp::send(cx, target.into(), asked.into(), packet.queue, header, &data);
            }
        }
        Icmpv6Message::RouterSolicit => advertise(cx, packet.queue),
        Icmpv6Message::EchoRequest => return false,
        _ => {}
    }
    true
}

/// Tells all of the prefix and, if the host has a way out by IPv6, of a way out.
pub fn advertise(cx: &mut Context, queue: u16) {
    let lifetime = if cx.lan.outside && host_has_ipv6() { LIFETIME } else { 0 };
    let [high, low] = lifetime.to_be_bytes();
    let header = [ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0, high, low];
    let mut data = vec![0; 8]; // reachable and retransmission times: the guest's own
    data.extend([SOURCE, 1]);
    data.extend(ROUTER_MAC.0);
    data.extend([LARGEST, 1, 0, 0]);
    data.extend((MTU as u32).to_be_bytes());
    data.extend([PREFIX, 4, 64, ON_LINK_AUTONOMOUS]);
    for seconds in [4 * u32::from(LIFETIME), 2 * u32::from(LIFETIME), 0] {
        data.extend(seconds.to_be_bytes());
    }
    data.extend(PREFIX6.octets());
    data.extend([NAME_SERVERS, 3, 0, 0]);
    data.extend(u32::from(LIFETIME).to_be_bytes());
    data.extend(NAMES6.octets());
    icmp::send(cx, ROUTER6_LINK.into(), ALL_NODES.into(), queue, header, &data);
}

/// There is a default route that is not a rejection.
fn host_has_ipv6() -> bool {
    std::fs::read_to_string("/proc/net/ipv6_route").is_ok_and(|text| has_default_route(&text))
}

fn has_default_route(text: &str) -> bool {
    text.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let any =
            fields.first().is_some_and(|f| f.bytes().all(|b| b == b'0')) && fields.get(1) == Some(&"00");
        any && fields.get(9).is_some_and(|interface| *interface != "lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_is_one_that_leads_somewhere() {
        let zero = "0".repeat(32);
        let route = |to: &str, len: &str, interface: &str| {
            format!("{to} {len} {zero} 00 {zero} 00000400 00000001 00000000 00000003 {interface}\n")
        };
        let local = route("fd000000000000000000000000000000", "40", "eth0");
        assert!(!has_default_route(&(local.clone() + &route(&zero, "00", "lo"))));
        assert!(has_default_route(&(local + &route(&zero, "00", "eth0"))));
    }
}
