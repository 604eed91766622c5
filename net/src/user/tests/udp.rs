//! Datagrams, of any size and in both directions.

use std::net::UdpSocket;
use std::time::Duration;

use smoltcp::socket::udp;
use smoltcp::wire::IpEndpoint;

use super::guest::{Guest, pattern};
use crate::user::lan::{GUEST, ROUTER};
use crate::{UserConfig, user::lan::ROUTER6};

fn loopback() -> UserConfig {
    UserConfig { loopback: true, ..UserConfig::default() }
}

fn host(address: &str) -> (UdpSocket, u16) {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[test]
fn datagrams_go_there_and_back() {
    for v6 in [false, true] {
        let (host, port) = host(if v6 { "[::1]:0" } else { "127.0.0.1:0" });
        let mut guest = Guest::new(&loopback(), 0);
        let handle = guest.udp(5000);
        let to: IpEndpoint = if v6 { (ROUTER6, port).into() } else { (ROUTER, port).into() };
        for len in [0, 1, 1400] {
            let data = pattern(len);
            guest.sockets.get_mut::<udp::Socket>(handle).send_slice(&data, to).unwrap();
            (0..5).for_each(|_| guest.step());
            let mut buffer = vec![0; 1 << 16];
            let (got, peer) = host.recv_from(&mut buffer).unwrap();
            assert!(buffer[..got] == data);
            host.send_to(&data, peer).unwrap();
            let (got, from) = guest.until(|guest| {
                let socket = guest.sockets.get_mut::<udp::Socket>(handle);
                socket.recv().ok().map(|(bytes, meta)| (bytes.to_vec(), meta.endpoint))
            });
            assert!(got == data && from == to);
        }
        assert_eq!(guest.nat.flows(), (0, 1));
        // Nobody uses it for a while.
        guest.nat.work(std::time::Instant::now() + Duration::from_secs(1000));
        assert_eq!(guest.nat.flows(), (0, 0));
    }
}

#[test]
fn large_datagrams_come_to_the_guest_in_pieces() {
    let (host, port) = host("127.0.0.1:0");
    let mut guest = Guest::new(&loopback(), 0);
    let handle = guest.udp(5000);
    guest.sockets.get_mut::<udp::Socket>(handle).send_slice(b"?", (ROUTER, port)).unwrap();
    (0..5).for_each(|_| guest.step());
    let (_, peer) = host.recv_from(&mut [0; 9]).unwrap();
    let data = pattern(20_000);
    host.send_to(&data, peer).unwrap();
    let mut parts = Vec::new();
    let start = std::time::Instant::now();
    while parts.iter().map(Vec::len).sum::<usize>() < data.len() + 8 && start.elapsed().as_secs() < 10 {
        guest.nat.wait(Some(Duration::from_millis(10)));
        guest.nat.work(std::time::Instant::now());
        for (_, frame) in guest.cable.to_guest.lock().drain(..).filter(|(_, f)| f[12..14] == [8, 0]) {
            assert!(frame.len() <= 1514);
            let place = u16::from_be_bytes([frame[20], frame[21]]);
            assert_eq!(usize::from(place & 0x1fff) * 8, parts.iter().map(Vec::len).sum::<usize>());
            parts.push(frame[34..].to_vec());
        }
    }
    assert!(parts.concat()[8..] == data);
}

#[test]
fn a_refusal_comes_back() {
    let port = host("127.0.0.1:0").1;
    let mut guest = Guest::new(&loopback(), 0);
    let handle = guest.udp(5000);
    // The second is refused: the host answers the first only after it was sent.
    let unreachable = guest.until(|guest| {
        guest.sockets.get_mut::<udp::Socket>(handle).send_slice(b"?", (ROUTER, port)).unwrap();
        guest.step();
        guest.nat.wait(Some(Duration::from_millis(1)));
        guest.nat.work(std::time::Instant::now());
        let frames = guest.cable.to_guest.lock();
        frames.iter().find(|(_, f)| f[23] == 1).map(|(_, f)| f[34..36].to_vec())
    });
    assert_eq!(unreachable, [3, 3]);
}

#[test]
fn forwarded_ports_lead_into_the_guest() {
    let config = UserConfig { forwards: vec!["udp:0:53".parse().unwrap()], ..UserConfig::default() };
    let mut guest = Guest::new(&config, 0);
    let handle = guest.udp(53);
    let address = guest.nat.addresses()[0];
    let peers = [host("127.0.0.1:0").0, host("127.0.0.1:0").0];
    for (i, peer) in peers.iter().enumerate() {
        peer.send_to(&[i as u8], address).unwrap();
        let (got, from) = guest.until(|guest| {
            let socket = guest.sockets.get_mut::<udp::Socket>(handle);
            socket.recv().ok().map(|(bytes, meta)| (bytes.to_vec(), meta.endpoint))
        });
        assert_eq!((got, from.addr), (vec![i as u8], ROUTER.into()));
        guest.sockets.get_mut::<udp::Socket>(handle).send_slice(&[7, i as u8], from).unwrap();
        (0..5).for_each(|_| guest.step());
        let mut answer = [0; 9];
        assert_eq!(peer.recv_from(&mut answer).unwrap(), (2, address));
        assert_eq!(answer[..2], [7, i as u8]);
    }
    assert_eq!((guest.nat.flows(), guest.address()), ((0, 2), Some(GUEST)));
}
