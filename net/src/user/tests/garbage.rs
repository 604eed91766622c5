//! What no guest should send: nothing comes of it, and it costs little.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::guest::{Guest, MAC};
use crate::user::lan::{GUEST, ROUTER, ROUTER_MAC};
use crate::{Frame, Offload, Segmentation, UserConfig};

/// An IPv4 frame to the router, with whole checksums where they are the IP header's.
fn frame(protocol: u8, payload: &[u8], place: u16) -> Vec<u8> {
    let mut frame = [&ROUTER_MAC.0[..], &MAC.0, &[8, 0, 0x45, 0]].concat();
    frame.extend(((20 + payload.len()) as u16).to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(place.to_be_bytes());
    frame.extend([64, protocol, 0, 0]);
    frame.extend(GUEST.octets());
    frame.extend(ROUTER.octets());
    let mut sum = crate::user::checksum::Sum::default();
    sum.add(&frame[14..]);
    frame[24..26].copy_from_slice(&sum.finish().to_be_bytes());
    frame.extend(payload);
    frame
}

fn tcp(port: u16, to: u16, seq: u32, ack: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut segment = [port.to_be_bytes(), to.to_be_bytes()].concat();
    segment.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(data);
    segment
}

/// The card vouches for the checksum.
fn send(guest: &mut Guest, bytes: Vec<u8>) {
    let offload = Offload { checksum: Some((34, 16)), ..Offload::default() };
    guest.cable.to_nat.lock().push_back(Frame { bytes, offload, queue: 0 });
}

#[test]
fn a_flood_of_connections_is_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().port();
    let config = UserConfig { loopback: true, ..UserConfig::default() };
    let mut guest = Guest::new(&config, 0);
    *guest.cable.room.lock() = usize::MAX;
    for port in 1..5000 {
        send(&mut guest, frame(6, &tcp(port, to, 1, 0, 2, &[]), 0));
        if port % 64 == 0 {
            guest.nat.wait(Some(Duration::ZERO));
            guest.nat.work(Instant::now());
            guest.cable.to_guest.lock().clear();
        }
    }
    let (connections, _) = guest.nat.flows();
    assert!((1..=1024).contains(&connections), "{connections}");
    // They end when the guest does not go on with them.
    for seconds in 0..300 {
        guest.nat.wait(Some(Duration::ZERO));
        guest.nat.work(Instant::now() + Duration::from_secs(seconds));
        guest.cable.to_guest.lock().clear();
    }
    let (connections, _) = guest.nat.flows();
    assert!(connections <= 128, "{connections}");
}

#[test]
fn flows_of_datagrams_are_bounded() {
    let host = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = host.local_addr().unwrap().port();
    let config = UserConfig { loopback: true, ..UserConfig::default() };
    let mut guest = Guest::new(&config, 0);
    for port in 1..3000u16 {
        let datagram = [port.to_be_bytes(), to.to_be_bytes(), 9u16.to_be_bytes(), [0, 0], [1, 0]].concat();
        send(&mut guest, frame(17, &datagram[..9], 0));
        guest.nat.work(Instant::now());
    }
    assert!((1..=512).contains(&guest.nat.flows().1), "{:?}", guest.nat.flows());
}

fn any_tcp() -> impl Strategy<Value = Vec<u8>> {
    (
        0..3u16,
        0..4u16,
        0..4u32,
        0..4u32,
        0..64u8,
        proptest::collection::vec(any::<u8>(), 0..40),
        any::<bool>(),
    )
        .prop_map(|(port, to, seq, ack, flags, data, options)| {
            let edge = |n: u32| [0, 1, u32::MAX, 1 << 31][n as usize & 3];
            let mut segment = tcp(port, to, edge(seq), edge(ack), flags, &data);
            if options {
                segment[12] = (5 + (data.len() / 4).min(10) as u8) << 4;
            }
            segment
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any protocol's bytes, any fragment: the network lives, and answers the next question.
    #[test]
    fn any_packets_are_harmless(packets in proptest::collection::vec(
        prop_oneof![
            (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..200), any::<u16>()),
            (Just(6), any_tcp(), Just(0)),
            (Just(17), proptest::collection::vec(any::<u8>(), 8..300).prop_map(|mut d| { d[..4].copy_from_slice(&[0, 68, 0, 67]); d }), Just(0)),
            (Just(1), proptest::collection::vec(any::<u8>(), 8..50).prop_map(|mut d| { d[0] = 8; d }), Just(0)),
        ], 0..30), segments: bool)
    {
        // Nothing of the host's is reached.
        let config = UserConfig { outside: false, ..UserConfig::default() };
        let mut guest = Guest::new(&config, 0);
        for (protocol, payload, place) in packets {
            let mut bytes = frame(protocol, &payload, place);
            let sane = Frame { offload: Offload { segments: segments.then_some((Segmentation::Tcp4, 0)), checksum: Some((0xffff, 0xffff)), headers: 0 }, bytes: bytes.clone(), queue: 9 };
            guest.cable.to_nat.lock().push_back(sane);
            bytes[14] = protocol;
            send(&mut guest, bytes);
        }
        guest.nat.wait(Some(Duration::ZERO));
        guest.nat.work(Instant::now());
        guest.nat.work(Instant::now());
        prop_assert_eq!(guest.nat.flows(), (0, 0));
        guest.cable.to_guest.lock().clear();
        send(&mut guest, frame(1, &[8, 0, 0, 0, 0, 0, 0, 0], 0));
        guest.nat.work(Instant::now());
        let frames = guest.cable.to_guest.lock();
        prop_assert_eq!(frames.iter().filter(|(_, f)| f[34] == 0).count(), 1);
    }

    /// Frames that are nothing at all.
    #[test]
    fn any_bytes_are_harmless(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..20), kind in 0..3usize) {
        let mut guest = Guest::new(&UserConfig { outside: false, ..UserConfig::default() }, 0);
        for mut bytes in frames {
            if bytes.len() >= 14 {
                bytes[..12].copy_from_slice(&[&ROUTER_MAC.0[..], &MAC.0].concat());
                bytes[12..14].copy_from_slice(&[[8, 0], [8, 6], [0x86, 0xdd]][kind]);
            }
            send(&mut guest, bytes);
        }
        guest.nat.work(Instant::now());
        prop_assert_eq!(guest.nat.flows(), (0, 0));
    }
}
