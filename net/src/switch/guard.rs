//! Who may send what: a member is who it joined as.

use std::net::IpAddr;

use super::frame::{Content, View};
use super::owners::Owners;
use super::{PortId, Vlan};
use crate::Mac;
use crate::user::ROUTER_MAC;

/// The port that DHCP servers answer from.
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
/// ICMPv6 types of routers (advertisement, redirect), and of neighbours who tell their address.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Whom a frame comes from, as the switch knows.
pub struct Sender {
    pub port: PortId,
    pub mac: Mac,
    pub vlan: Vlan,
    /// The switch gives out the addresses of this VLAN.
    pub has_leases: bool,
    /// The member may be several: a bridge, or a router.
    pub spoof: bool,
}

/// The frame may pass.
pub fn admits(sender: &Sender, view: &View<'_>, owners: &mut Owners) -> bool {
    if !view.from.is_unicast() || view.from == ROUTER_MAC || view.is_for_switches() {
        return false;
    }
    if sender.spoof {
        if let Some(ip) = view.source() {
            // Whoever answers for it finds the way back, unless it is another's.
            owners.claim(sender.vlan, ip, sender.port, view.from);
        }
        return true;
    }
    if view.from != sender.mac {
        return false;
    }
    let mut owns = |ip: IpAddr| {
        if sender.has_leases && ip.is_ipv4() {
            owners.find(sender.vlan, ip).is_some_and(|(port, _)| port == sender.port)
        } else {
            owners.claim(sender.vlan, ip, sender.port, sender.mac)
        }
    };
    match view.content {
        // A probe (RFC 5227) tells no address.
        Content::Arp { sender: (mac, ip), is_request, .. } => {
            mac == sender.mac && (ip.is_unspecified() && is_request || owns(ip.into()))
        }
        Content::V4 { udp: Some(udp), .. } if udp.from == DHCP_SERVER => false,
        Content::V4 { from, udp: Some(udp), .. } if from.is_unspecified() => {
            udp.from == DHCP_CLIENT && udp.to == DHCP_SERVER
        }
        Content::V4 { from, .. } => is_host(from.into()) && owns(from.into()),
        Content::V6 { icmp: Some((ROUTER_ADVERTISEMENT | REDIRECT, _)), .. } => false,
        Content::V6 { icmp: Some((NEIGHBOUR_ADVERTISEMENT, target)), .. } => {
            target.is_some_and(|ip| is_host(ip.into()) && owns(ip.into()))
        }
        Content::V6 { from, .. } => from.is_unspecified() || is_host(from.into()) && owns(from.into()),
        Content::Other => true,
        Content::Broken | Content::Llc => false,
    }
}

/// An address that one machine has on a network.
fn is_host(ip: IpAddr) -> bool {
    let everybody = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !everybody && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback()
}
