//! ARP: the router and the name server have the router's Ethernet address; nobody else is there.

use std::net::IpAddr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::context::Context;
use super::icmp::is_ours;
use super::lan::ROUTER_MAC;
use crate::Offload;

const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const LEN: usize = 28;

/// Answers a question of the guest's.
pub fn ingress(cx: &mut Context, payload: &[u8], queue: u16) {
    let repr = ArpPacket::new_checked(payload).ok().and_then(|packet| ArpRepr::parse(&packet).ok());
    let Some(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = repr
    else {
        return;
    };
    cx.lan.seen(source_protocol_addr.into());
    let target = IpAddr::from(target_protocol_addr);
    if operation != ArpOperation::Request || !is_ours(&cx.lan.subnet, target) {
        return;
    }
    let answer = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(ROUTER_MAC.0),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut data = [0; LEN];
    answer.emit(&mut ArpPacket::new_unchecked(&mut data));
    let header = [&source_hardware_addr.0[..], &ROUTER_MAC.0, &TYPE_ARP].concat();
    cx.out.cable.put(queue, &Offload::default(), &[&header, &data]);
}
