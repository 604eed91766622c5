//! What the switch itself answers at the address of a VLAN: DHCP, and DNS for members' names. All else that is sent there
//! is the uplink's.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet,
    Ipv4Repr, UdpPacket, UdpRepr,
};

use super::fabric::Fabric;
use super::frame::{Content, ETHERNET, Udp, View};
use super::{PortId, Vlan, dhcp, dns};
use crate::Mac;
use crate::user::ROUTER_MAC;

const HOP_LIMIT: u8 = 64;

/// What became of a frame for the switch.
pub enum Served {
    /// Here is the answer, or there is none.
    Done(Option<Vec<u8>>),
    /// It is for the uplink.
    Pass,
}

/// Looks at a frame that came from a member and is for the switch, or for all.
pub fn serve(fabric: &Fabric, vlan: Vlan, port: PortId, frame: &[u8], uplink: bool) -> Served {
    let (Some(view), Some(range)) = (View::new(frame), fabric.range(vlan)) else { return Served::Done(None) };
    match view.content {
        Content::V4 { udp: Some(udp), to, .. } if udp.to == dhcp::SERVER => {
            let own = to == range.gateway() || to.is_broadcast() || to == range.broadcast();
            Served::Done(if own { lease(fabric, vlan, port, udp, uplink) } else { None })
        }
        Content::V4 { udp: Some(udp), from, to } if udp.to == dns::PORT && to == range.gateway() => {
            let Some(question) = dns::parse(udp.payload) else {
                return if uplink { Served::Pass } else { Served::Done(None) };
            };
            let Some(known) = known(fabric, vlan, &question, uplink) else { return Served::Pass };
            let answer = question.answer(&known);
            let from = (view.from, from, udp.from);
            Served::Done(Some(datagram((range.gateway(), dns::PORT), from, &answer)))
        }
        Content::V4 { .. } | Content::Arp { .. } => Served::Pass,
        _ => Served::Done(None),
    }
}

fn lease(fabric: &Fabric, vlan: Vlan, port: PortId, udp: Udp<'_>, routed: bool) -> Option<Vec<u8>> {
    let (member, range) = (fabric.member(port)?, fabric.range(vlan)?);
    let ip = fabric.address(vlan, port)?;
    let client = dhcp::Client { mac: member.mac, ip, name: member.name.as_deref(), range, routed };
    let answer = dhcp::answer(&client, udp.payload)?;
    Some(datagram((range.gateway(), dhcp::SERVER), (answer.mac, answer.ip, dhcp::CLIENT), &answer.message))
}

/// What there is to say to a question; None if somebody else knows.
fn known(fabric: &Fabric, vlan: Vlan, question: &dns::Question<'_>, uplink: bool) -> Option<dns::Known> {
    let range = fabric.range(vlan)?;
    if let Some(ip) = question.reverse()
        && (range.is_member(ip) || ip == range.gateway())
    {
        let name = fabric.name_of(vlan, ip);
        return Some(name.map_or(dns::Known::Nobody, |name| dns::Known::Name(name.to_owned())));
    }
    match question.member() {
        // The names of top-level domains are questions, too, but nobody asks for their addresses.
        Some(name) => Some(fabric.lookup(vlan, name).map_or(dns::Known::Nobody, dns::Known::Member)),
        None if uplink => None,
        None => Some(dns::Known::Refused),
    }
}

/// A frame from the switch with a datagram.
fn datagram(from: (Ipv4Addr, u16), to: (Mac, Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr { src_port: from.1, dst_port: to.2 };
    let ip = Ipv4Repr {
        src_addr: from.0,
        dst_addr: to.1,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: HOP_LIMIT,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(ROUTER_MAC.0),
        dst_addr: EthernetAddress(to.0.0),
        ethertype: EthernetProtocol::Ipv4,
    };
    let sums = ChecksumCapabilities::default();
    let mut bytes = vec![0; ETHERNET + ip.buffer_len() + ip.payload_len];
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    if let Some(packet) = bytes.get_mut(ETHERNET..) {
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut *packet), &sums);
        if let Some(rest) = packet.get_mut(ip.buffer_len()..) {
            let (source, target) = (IpAddress::from(from.0), IpAddress::from(to.1));
            let fill = |data: &mut [u8]| data.copy_from_slice(payload);
            udp.emit(&mut UdpPacket::new_unchecked(rest), &source, &target, payload.len(), fill, &sums);
        }
    }
    bytes
}
