//! What the router does itself: addresses, names, echoes, advertisements.

use std::net::{Ipv6Addr, UdpSocket};
use std::time::Duration;

use smoltcp::socket::{dhcpv4, icmp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr};

use super::guest::{Guest, MAC};
use crate::UserConfig;
use crate::user::checksum::Sum;
use crate::user::lan::{GUEST, NAMES, ROUTER, ROUTER_MAC};
use crate::user::resolver::Resolver;

#[test]
fn an_address_is_handed_out() {
    let mut guest = Guest::bare(&UserConfig::default(), 4);
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let config = guest.until(|guest| match guest.sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
        Some(dhcpv4::Event::Configured(config)) => {
            Some((config.address, config.router, config.dns_servers.to_vec()))
        }
        _ => None,
    });
    assert_eq!((config.0.address(), config.0.prefix_len()), (GUEST, 24));
    assert_eq!((config.1, config.2), (Some(ROUTER), vec![NAMES]));
}

#[test]
fn names_are_asked_of_the_host_s_server() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(&UserConfig::default(), 0);
    guest.nat.set_resolver(Resolver::at(server.local_addr().unwrap()));
    let handle = guest.udp(5000);
    guest.sockets.get_mut::<udp::Socket>(handle).send_slice(b"who?", (NAMES, 53)).unwrap();
    (0..5).for_each(|_| guest.step());
    let mut buffer = [0; 16];
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (len, peer) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"who?");
    server.send_to(b"me", peer).unwrap();
    let (answer, from) = guest.until(|guest| {
        let socket = guest.sockets.get_mut::<udp::Socket>(handle);
        socket.recv().ok().map(|(bytes, meta)| (bytes.to_vec(), meta.endpoint))
    });
    assert_eq!((answer, from), (b"me".to_vec(), (NAMES, 53).into()));
}

#[test]
fn the_router_answers_echo_requests() {
    let mut guest = Guest::new(&UserConfig::default(), 0);
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(7)).unwrap();
    let handle = guest.sockets.add(socket);
    let repr = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 1, data: b"hello" };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[..]), &Default::default());
    guest.sockets.get_mut::<icmp::Socket>(handle).send_slice(&bytes, ROUTER.into()).unwrap();
    let answer = guest.until(|guest| {
        let socket = guest.sockets.get_mut::<icmp::Socket>(handle);
        socket.recv().ok().map(|(bytes, from)| (bytes.to_vec(), from))
    });
    let packet = Icmpv4Packet::new_checked(&answer.0[..]).unwrap();
    let answered = Icmpv4Repr::parse(&packet, &Default::default()).unwrap();
    assert_eq!(answered, Icmpv4Repr::EchoReply { ident: 7, seq_no: 1, data: b"hello" });
    assert_eq!(answer.1, ROUTER.into());
}

#[test]
fn routers_are_advertised_when_they_are_solicited() {
    let mut guest = Guest::bare(&UserConfig::default(), 0);
    let [from, to] = [[0xfe80, 0, 0, 0, 0, 0, 0, 1], [0xff02, 0, 0, 0, 0, 0, 0, 2]].map(Ipv6Addr::from);
    let mut message = [133, 0, 0, 0, 0, 0, 0, 0];
    let mut sum = Sum::default();
    sum.add_pseudo_header(from.into(), to.into(), 58, message.len());
    sum.add(&message);
    let checksum = sum.finish();
    let mut send = |checksum: u16| {
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let header = [0x60, 0, 0, 0, 0, 8, 58, 255];
        let parts = [
            &[0x33, 0x33, 0, 0, 0, 2][..],
            &MAC.0,
            &[0x86, 0xdd],
            &header,
            &from.octets(),
            &to.octets(),
            &message,
        ];
        guest.cable.send(parts.concat());
        guest.nat.work(std::time::Instant::now());
        guest.cable.to_guest.lock().len()
    };
    assert_eq!((send(checksum.wrapping_add(1)), send(checksum)), (0, 1));
    let frames: Vec<_> = guest.cable.to_guest.lock().drain(..).collect();
    let frame = &frames[0].1;
    assert_eq!((&frame[6..12], frame[54]), (&ROUTER_MAC.0[..], 134));
    assert!(frame.windows(4).any(|w| w == [3, 4, 64, 0xc0]), "a prefix of 64 bits for the guest's own use");
    // And again when the guest may have forgotten it.
    guest.nat.work(std::time::Instant::now() + Duration::from_secs(700));
    assert_eq!(guest.cable.to_guest.lock().len(), 1);
}
