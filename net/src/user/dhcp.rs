//! DHCP (RFC 2131): one guest, one address, for a day.

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, IpProtocol};

use super::context::Context;
use super::lan::Subnet;
use super::outlet::Envelope;
use crate::Mac;

/// Ports of servers and clients.
pub const SERVER: u16 = 67;
const CLIENT: u16 = 68;
const LEASE: u32 = 86_400;
/// Options that the library does not write: name server.
const OPTION_NAMES: u8 = 6;
const LONGEST: usize = 576;

/// Answers a datagram to the server.
pub fn ingress(cx: &mut Context, payload: &[u8], queue: u16) {
    let Ok(packet) = DhcpPacket::new_checked(payload) else { return };
    let Ok(asked) = DhcpRepr::parse(&packet) else { return };
    let subnet = cx.lan.subnet;
    let Subnet { router, names, guest, .. } = subnet;
    let ours = asked.server_identifier.is_none_or(|server| server == router);
    let wanted = asked.requested_ip.unwrap_or(asked.client_ip);
    let answer = match asked.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request if !ours => return,
        DhcpMessageType::Request if wanted == guest => DhcpMessageType::Ack,
        DhcpMessageType::Request => DhcpMessageType::Nak,
        DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return,
    };
    let granted = answer != DhcpMessageType::Nak;
    let leased = granted && asked.message_type != DhcpMessageType::Inform;
    if answer == DhcpMessageType::Ack && leased {
        cx.lan.guest = guest;
    }
    let names = [DhcpOption { kind: OPTION_NAMES, data: &names.octets() }];
    let reply = DhcpRepr {
        message_type: answer,
        your_ip: if leased { guest } else { Ipv4Addr::UNSPECIFIED },
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: granted.then_some(router),
        subnet_mask: granted.then(|| subnet.mask()),
        requested_ip: None,
        server_identifier: Some(router),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: leased.then_some(LEASE),
        additional_options: if granted { &names } else { &[] },
        ..asked
    };
    let mut data = [0; LONGEST];
    let len = reply.buffer_len();
    let Some(data) = data.get_mut(..len) else { return };
    if reply.emit(&mut DhcpPacket::new_unchecked(&mut data[..])).is_err() {
        return;
    }
    let EthernetAddress(mac) = reply.client_hardware_address;
    // A client without an address hears what is sent to its card, or to all if it says so.
    let (mac, to) = match (reply.broadcast, reply.client_ip) {
        (false, ip) if !ip.is_unspecified() && granted => (Mac(mac), ip),
        (false, _) if granted => (Mac(mac), guest),
        _ => (Mac([0xff; 6]), Ipv4Addr::BROADCAST),
    };
    let (from, to, protocol) = (router.into(), to.into(), IpProtocol::Udp);
    super::udp::send(&mut cx.out, &Envelope { mac, queue, from, to, protocol }, (SERVER, CLIENT), data);
}
