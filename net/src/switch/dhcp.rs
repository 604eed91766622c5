//! DHCP (RFC 2131): every member is told the address that it was given when it joined.

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};

use super::dns::DOMAIN;
use super::spec::Range;
use crate::Mac;

/// Ports of servers and clients.
pub const SERVER: u16 = 67;
pub const CLIENT: u16 = 68;
const LEASE: u32 = 86_400;
/// Options that the library does not write.
const OPTION_NAMES: u8 = 6;
const OPTION_HOST_NAME: u8 = 12;
const OPTION_DOMAIN: u8 = 15;
const LONGEST: usize = 576;

/// Who asks, and what he is told.
pub struct Client<'a> {
    pub mac: Mac,
    pub ip: Ipv4Addr,
    pub name: Option<&'a str>,
    pub range: Range,
    /// There is somewhere to go from here.
    pub routed: bool,
}

/// An answer, and whom it is for.
pub struct Answer {
    pub message: Vec<u8>,
    pub mac: Mac,
    pub ip: Ipv4Addr,
}

/// Answers a message, if it is one to be answered.
pub fn answer(client: &Client<'_>, payload: &[u8]) -> Option<Answer> {
    let packet = DhcpPacket::new_checked(payload).ok()?;
    let asked = DhcpRepr::parse(&packet).ok()?;
    if asked.client_hardware_address.0 != client.mac.0 {
        return None;
    }
    let server = client.range.gateway();
    let ours = asked.server_identifier.is_none_or(|other| other == server);
    let wanted = asked.requested_ip.unwrap_or(asked.client_ip);
    let answer = match asked.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request if !ours => return None,
        DhcpMessageType::Request if wanted != client.ip => DhcpMessageType::Nak,
        DhcpMessageType::Request | DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return None,
    };
    let granted = answer != DhcpMessageType::Nak;
    let leased = granted && asked.message_type != DhcpMessageType::Inform;
    let names = server.octets();
    let mut options = Vec::new();
    if granted {
        options.push(DhcpOption { kind: OPTION_NAMES, data: &names });
        options.push(DhcpOption { kind: OPTION_DOMAIN, data: DOMAIN.as_bytes() });
        options.extend(client.name.map(|name| DhcpOption { kind: OPTION_HOST_NAME, data: name.as_bytes() }));
    }
    let reply = DhcpRepr {
        message_type: answer,
        your_ip: if leased { client.ip } else { Ipv4Addr::UNSPECIFIED },
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: (granted && client.routed).then_some(server),
        subnet_mask: granted.then(|| client.range.mask()),
        requested_ip: None,
        server_identifier: Some(server),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: leased.then_some(LEASE),
        additional_options: &options,
        ..asked
    };
    let mut message = vec![0; reply.buffer_len().min(LONGEST)];
    reply.emit(&mut DhcpPacket::new_unchecked(&mut message[..])).ok()?;
    let EthernetAddress(mac) = reply.client_hardware_address;
    // A client without an address hears what is sent to its card, or to all if it says so.
    let (mac, ip) = match (reply.broadcast, reply.client_ip) {
        (false, ip) if !ip.is_unspecified() && granted => (Mac(mac), ip),
        (false, _) if granted => (Mac(mac), client.ip),
        _ => (Mac([0xff; 6]), Ipv4Addr::BROADCAST),
    };
    Some(Answer { message, mac, ip })
}
