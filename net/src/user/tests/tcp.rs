//! Connections, with a guest whose stack is not ours, through the host's loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use super::guest::{Guest, pattern};
use crate::user::lan::{ROUTER, ROUTER6};
use crate::{Abilities, Segmentation, UserConfig};

fn loopback() -> UserConfig {
    UserConfig { loopback: true, ..UserConfig::default() }
}

/// A host that reads all that a connection brings, and then sends `answer`.
fn host(v6: bool, answer: Vec<u8>) -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind(if v6 { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || serve(listener.accept().unwrap().0, &answer));
    (port, thread)
}

fn serve(mut stream: TcpStream, answer: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    stream.write_all(answer).unwrap();
    all
}

/// Sends all of `data` and ends; then takes all that comes.
fn talk(guest: &mut Guest, handle: SocketHandle, data: &[u8]) -> Vec<u8> {
    let (mut sent, mut got) = (0, Vec::new());
    guest.until(|guest| {
        let socket = guest.socket(handle);
        if socket.can_send() && sent < data.len() {
            sent += socket.send_slice(&data[sent..]).unwrap();
            if sent == data.len() {
                socket.close();
            }
        }
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).unwrap();
        }
        matches!(socket.state(), State::Closed | State::TimeWait).then_some(())
    });
    assert_eq!(sent, data.len());
    got
}

#[test]
fn bytes_arrive_in_both_directions_and_each_side_ends_by_itself() {
    for v6 in [false, true] {
        let (there, back) = (pattern(3_000_000), pattern(2_000_001));
        let (port, host) = host(v6, back.clone());
        let mut guest = Guest::new(&loopback(), 0);
        let handle =
            if v6 { guest.connect((ROUTER6, port), 5000) } else { guest.connect((ROUTER, port), 5000) };
        let got = talk(&mut guest, handle, &there);
        assert!(host.join().unwrap() == there && got == back);
        guest.until(|guest| (guest.nat.flows() == (0, 0)).then_some(()));
    }
}

#[test]
fn what_is_lost_comes_again() {
    for lossy in [6, 17] {
        let (there, back) = (pattern(100_000), pattern(100_001));
        let (port, host) = host(false, back.clone());
        let mut guest = Guest::new(&loopback(), lossy);
        let handle = guest.connect((ROUTER, port), 5000);
        let got = talk(&mut guest, handle, &there);
        assert!(host.join().unwrap() == there && got == back);
    }
}

#[test]
fn a_guest_without_room_is_waited_for() {
    let (port, host) = host(false, pattern(500_000));
    let mut guest = Guest::new(&loopback(), 0);
    let handle = guest.connect((ROUTER, port), 5000);
    guest.until(|guest| guest.socket(handle).may_send().then_some(()));
    guest.socket(handle).close();
    *guest.cable.room.lock() = 0;
    (0..50).for_each(|_| guest.step());
    *guest.cable.room.lock() = 1;
    let got = talk(&mut guest, handle, &[]);
    assert!(host.join().unwrap().is_empty() && got == pattern(500_000));
}

#[test]
fn a_guest_that_does_not_read_stops_the_host_and_goes_on_later() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(&loopback(), 0);
    let handle = guest.connect((ROUTER, listener.local_addr().unwrap().port()), 5000);
    guest.until(|guest| guest.socket(handle).may_send().then_some(()));
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let data = pattern(1 << 20);
    let mut sent = 0usize;
    // Until nothing is taken any more: buffers of the host's, ours and the guest's are full.
    for _ in 0..200 {
        while let Ok(n) = stream.write(&data) {
            sent += n;
        }
        guest.step();
    }
    assert!(sent < 64 << 20, "{sent} bytes are somewhere");
    let mut got = 0;
    stream.shutdown(Shutdown::Write).unwrap();
    guest.until(|guest| {
        let socket = guest.socket(handle);
        while socket.can_recv() {
            got += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
        (socket.state() == State::CloseWait && !socket.can_recv()).then_some(())
    });
    assert_eq!(got, sent);
}

#[test]
fn a_guest_that_has_been_reset_has_no_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(&loopback(), 0);
    let handle = guest.connect((ROUTER, listener.local_addr().unwrap().port()), 5000);
    guest.until(|guest| guest.socket(handle).may_send().then_some(()));
    let (mut stream, _) = listener.accept().unwrap();
    guest.nat.clear();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // What the guest still sends belongs to nothing.
    guest.socket(handle).send_slice(b"?").unwrap();
    guest.until(|guest| (guest.socket(handle).state() == State::Closed).then_some(()));
}

#[test]
fn nothing_wakes_an_idle_network() {
    let (port, host) = host(false, pattern(300_000));
    let mut guest = Guest::new(&loopback(), 0);
    let handle = guest.connect((ROUTER, port), 5000);
    assert!(talk(&mut guest, handle, b"?").len() == 300_000 && host.join().unwrap() == b"?");
    // One connection stays.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let idle = guest.connect((ROUTER, listener.local_addr().unwrap().port()), 5001);
    guest.until(|guest| guest.socket(idle).may_send().then_some(()));
    (0..20).for_each(|_| guest.step());
    let mut now = std::time::Instant::now() + std::time::Duration::from_secs(3600);
    let mut wakes = 0;
    while let Some(alarm) = guest.nat.alarm() {
        now = now.max(alarm);
        guest.nat.work(now);
        wakes += 1;
        assert!(wakes < 10, "it wakes for ever");
    }
}

#[test]
fn a_refusal_is_one_and_only_a_connection_is_answered() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    for (config, to) in
        [(loopback(), SocketAddr::from((ROUTER, port))), (UserConfig::default(), (ROUTER, 80).into())]
    {
        let mut guest = Guest::new(&config, 0);
        let handle = guest.connect(to, 5000);
        guest.until(|guest| (guest.socket(handle).state() == State::Closed).then_some(()));
        assert_eq!(guest.nat.flows(), (0, 0));
    }
    let config = UserConfig { outside: false, ..loopback() };
    let mut guest = Guest::new(&config, 0);
    let handle = guest.connect(SocketAddr::from(([198, 51, 100, 7], 80)), 5000);
    (0..100).for_each(|_| guest.step());
    assert_eq!((guest.socket(handle).state(), guest.nat.flows()), (State::SynSent, (0, 0)));
}

#[test]
fn resets_go_through() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut guest = Guest::new(&loopback(), 0);
    let handle = guest.connect((ROUTER, port), 5000);
    guest.until(|guest| guest.socket(handle).may_send().then_some(()));
    let (mut stream, _) = listener.accept().unwrap();
    guest.socket(handle).abort();
    guest.until(|guest| (guest.nat.flows() == (0, 0)).then_some(()));
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    let handle = guest.connect((ROUTER, port), 5001);
    guest.until(|guest| guest.socket(handle).may_send().then_some(()));
    let (stream, _) = listener.accept().unwrap();
    // Unread bytes make a reset of the host's close.
    guest.socket(handle).send_slice(b"unread").unwrap();
    (0..20).for_each(|_| guest.step());
    drop(stream);
    guest.until(|guest| (guest.socket(handle).state() == State::Closed).then_some(()));
    assert_eq!(guest.nat.flows(), (0, 0));
}

#[test]
fn forwarded_ports_lead_into_the_guest() {
    let config = UserConfig { forwards: vec!["0:22".parse().unwrap()], ..UserConfig::default() };
    let mut guest = Guest::new(&config, 0);
    let address = guest.nat.addresses()[0];
    // Nobody listens yet.
    let mut stream = TcpStream::connect(address).unwrap();
    guest.until(|guest| {
        guest.step();
        stream.set_nonblocking(true).unwrap();
        matches!(stream.read(&mut [0]), Err(e) if e.kind() == ErrorKind::ConnectionReset).then_some(())
    });
    let handle = guest.tcp();
    guest.socket(handle).listen(22).unwrap();
    let back = pattern(300_000);
    let sent = back.clone();
    let thread = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        serve(stream, &[])
    });
    guest.until(|guest| guest.socket(handle).may_send().then_some(()));
    assert_eq!(guest.socket(handle).remote_endpoint().unwrap().addr, ROUTER.into());
    assert_eq!(talk(&mut guest, handle, &sent), b"hello");
    assert!(thread.join().unwrap() == back);
}

#[test]
fn many_come_to_a_forwarded_port_at_once() {
    let config = UserConfig { forwards: vec!["0:22".parse().unwrap()], ..UserConfig::default() };
    let mut guest = Guest::new(&config, 0);
    let address = guest.nat.addresses()[0];
    let _peers: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    guest.until(|guest| {
        guest.nat.wait(Some(std::time::Duration::ZERO));
        guest.nat.work(std::time::Instant::now());
        guest.cable.to_guest.lock().clear();
        (guest.nat.flows() == (100, 0)).then_some(())
    });
}

#[test]
fn a_port_that_is_taken_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config =
        UserConfig { forwards: vec![format!("{port}:22").parse().unwrap()], ..UserConfig::default() };
    let error = crate::Nat::new(&config, super::guest::MAC).err().unwrap().to_string();
    assert!(error.starts_with(&format!("tcp port 127.0.0.1:{port} cannot be forwarded (")), "{error}");
}

#[test]
fn large_frames_reach_guests_that_take_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(&loopback(), 0);
    let handle = guest.connect((ROUTER, listener.local_addr().unwrap().port()), 5000);
    guest.until(|guest| guest.socket(handle).may_send().then_some(()));
    let (mut stream, _) = listener.accept().unwrap();
    *guest.cable.abilities.lock() = Abilities { checksum: true, tcp4: true, tcp6: false };
    let data = pattern(40_000);
    stream.write_all(&data).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    guest.nat.wait(None);
    guest.nat.work(std::time::Instant::now());
    let frames: Vec<_> = guest.cable.to_guest.lock().drain(..).collect();
    let mut got = Vec::new();
    for (offload, frame) in &frames {
        assert_eq!(offload.checksum, Some((34, 16)));
        let large = frame.len() > 1514;
        assert_eq!(offload.segments, large.then_some((Segmentation::Tcp4, 1460)));
        got.extend_from_slice(&frame[54..]);
    }
    assert!(got == data && frames.len() <= 2, "{}", frames.len());
}
