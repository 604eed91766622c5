use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, bind, connect, listen, recv, send,
    socket_with,
};

use super::*;
use crate::switch::hello::{Answer, Join, Request};
use crate::switch::report::Report;
use crate::switch::testing::{ALL, broadcast, ipv4, udp};
use crate::user::ROUTER_MAC;

/// A switch that works whenever somebody waits for it.
struct Setup {
    switch: Switch,
    address: SocketAddrUnix,
    _folder: tempfile::TempDir,
}

struct Member {
    socket: OwnedFd,
    mac: Mac,
    ip: Ipv4Addr,
}

fn mac(i: u8) -> Mac {
    Mac([0x52, 0x55, 0, 0, 0, i])
}

fn join(i: u8) -> Join {
    Join {
        mac: mac(i),
        name: Some(format!("m{i}")),
        vlan: None,
        trunk: Vec::new(),
        ip: None,
        rate: None,
        spoof: false,
    }
}

fn setup(spec: SwitchSpec) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let address = SocketAddrUnix::new(folder.path().join("socket")).unwrap();
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    bind(&listener, &address).unwrap();
    listen(&listener, 8).unwrap();
    Setup { switch: Switch::new(&spec, listener, None).unwrap(), address, _folder: folder }
}

fn plain() -> SwitchSpec {
    SwitchSpec { vlans: vec!["1=10.5.0.0/24".parse().unwrap()], no_uplink: true, ..SwitchSpec::default() }
}

impl Setup {
    fn connect(&self) -> OwnedFd {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        connect(&socket, &self.address).unwrap();
        socket
    }

    fn work(&mut self) {
        for _ in 0..4 {
            self.switch.turn(Some(Duration::from_millis(1)));
        }
    }

    /// Sends a message; what comes back.
    fn ask(&mut self, message: &[u8]) -> (OwnedFd, Option<Answer>) {
        let socket = self.connect();
        send(&socket, message, SendFlags::NOSIGNAL).unwrap();
        self.work();
        let answer = received(&socket).map(|bytes| Answer::decode(&bytes).unwrap());
        (socket, answer)
    }

    fn join(&mut self, join: &Join) -> Member {
        let (socket, answer) = self.ask(&Request::Join(join.clone()).encode().unwrap());
        let Some(Answer::Joined(given)) = answer else { panic!("{answer:?}") };
        Member { socket, mac: join.mac, ip: given[0].1 }
    }

    fn report(&mut self) -> Report {
        match self.ask(&Request::Inspect.encode().unwrap()).1 {
            Some(Answer::Report(report)) => report,
            other => panic!("{other:?}"),
        }
    }
}

/// The next message; None if there is none, or nobody any more.
fn received(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1 << 18);
    recv(socket, spare_capacity(&mut bytes), RecvFlags::DONTWAIT).ok()?;
    (!bytes.is_empty()).then_some(bytes)
}

impl Member {
    fn send(&self, bytes: &[u8]) -> bool {
        let message = [&Offload::default().encode(1)[..], bytes].concat();
        send(&self.socket, &message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| received(&self.socket)).map(|bytes| bytes[Offload::LEN..].to_vec()).collect()
    }

    fn to(&self, other: &Member) -> Vec<u8> {
        ipv4(other.mac, self.mac, self.ip, other.ip.octets())
    }
}

#[test]
fn members_reach_each_other_and_are_counted() {
    let mut s = setup(plain());
    let (a, b) = (s.join(&join(1)), s.join(&join(2)));
    assert!(a.send(&a.to(&b)) && a.send(&broadcast(a.mac)));
    s.work();
    assert_eq!(b.frames(), [a.to(&b), broadcast(a.mac)]);
    assert!(a.send(&ipv4(b.mac, a.mac, b.ip, [10, 5, 0, 9])));
    s.work();
    assert!(b.frames().is_empty() && a.frames().is_empty());
    let report = s.report();
    assert_eq!(report.vlans[0].gateway, Some([10, 5, 0, 1].into()));
    let [first, second] = &report.ports[..] else { panic!("{report:?}") };
    assert_eq!((first.name.as_deref(), first.pid), (Some("m1"), Some(std::process::id())));
    assert_eq!((first.counters.sent, first.counters.lost_spoofed, second.counters.received), (3, 1, 2));
    assert_eq!(first.addresses, [(Vlan::DEFAULT, a.ip.into())]);
    assert_eq!(second.counters.received_bytes, (a.to(&b).len() + broadcast(a.mac).len()) as u64);
    drop(b);
    s.work();
    assert_eq!(s.report().ports.len(), 1);
    let again = s.join(&join(2));
    assert_eq!(s.report().ports[1].addresses, [(Vlan::DEFAULT, again.ip.into())]);
}

#[test]
fn large_frames_cross_whole_and_too_large_ones_do_not() {
    let mut s = setup(plain());
    let (a, b) = (s.join(&join(1)), s.join(&join(2)));
    let mut large = a.to(&b);
    large[16..18].copy_from_slice(&u16::MAX.to_be_bytes());
    large.resize(14 + 65_535, 7);
    let offload =
        Offload { checksum: Some((34, 16)), segments: Some((crate::Segmentation::Tcp4, 1448)), headers: 54 };
    let message = [&offload.encode(9)[..], &large].concat();
    send(&a.socket, &message, SendFlags::empty()).unwrap();
    s.work();
    let arrived = received(&b.socket).unwrap();
    assert!(arrived == [&offload.encode(1)[..], &large].concat());
    for wrong in [&[0; 5][..], &[0; 12], &[0xff; 80], &vec![0; 70_000]] {
        send(&a.socket, wrong, SendFlags::empty()).unwrap();
        s.work();
    }
    assert!(b.frames().is_empty());
    assert!(a.send(&a.to(&b)));
    s.work();
    assert_eq!(b.frames().len(), 1, "it is still a member");
}

#[test]
fn who_does_not_read_loses_frames_and_nobody_else_does() {
    let mut s = setup(plain());
    let (a, idle, b) = (s.join(&join(1)), s.join(&join(2)), s.join(&join(3)));
    let mut big = a.to(&idle);
    big.resize(60_000, 1);
    big[16..18].copy_from_slice(&59_986u16.to_be_bytes());
    let mut sent = 0;
    let mut got = 0;
    while sent < 400 {
        sent += u32::from(a.send(&big));
        assert!(a.send(&a.to(&b)) || !b.frames().is_empty() || sent < 400);
        s.switch.turn(Some(Duration::ZERO));
        got += b.frames().len();
    }
    s.work();
    got += b.frames().len();
    assert!(got >= 390, "{got}");
    let report = s.report();
    let counters = report.ports[1].counters;
    assert!(counters.lost_full > 100 && report.ports[2].counters.lost_full == 0, "{report:?}");
    // Then it reads, and is a member as before.
    while !idle.frames().is_empty() {
        s.work();
    }
    assert!(a.send(&a.to(&idle)));
    s.work();
    assert_eq!(idle.frames(), [a.to(&idle)]);
}

#[test]
fn a_rate_holds_in_both_directions() {
    let mut s = setup(plain());
    let limited = Join { rate: Some(2_000_000), ..join(1) };
    let (a, b) = (s.join(&limited), s.join(&join(2)));
    for (from, to) in [(&a, &b), (&b, &a)] {
        let mut frame = from.to(to);
        frame.resize(10_000, 1);
        frame[16..18].copy_from_slice(&9_986u16.to_be_bytes());
        let (start, mut bytes) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(400) {
            while bytes < 8_000_000 && from.send(&frame) {}
            s.switch.turn(Some(Duration::from_millis(1)));
            bytes += to.frames().len() * frame.len();
        }
        // A burst of 128 KiB, and 2 MB/s for 0.4 s; a loaded host may let less through.
        assert!((200_000..1_100_000).contains(&bytes), "{bytes}");
        s.work();
        drop(to.frames());
    }
}

/// A query for a name's address.
fn query(name: &str) -> Vec<u8> {
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

#[test]
fn names_are_answered_by_the_switch() {
    let mut s = setup(plain());
    let (a, b) = (s.join(&join(1)), s.join(&join(2)));
    for (name, code, address) in
        [("m2", 0, Some(b.ip)), ("M2.lan", 0, Some(b.ip)), ("m3", 3, None), ("example.org", 5, None)]
    {
        assert!(a.send(&udp(ROUTER_MAC, a.mac, a.ip, [10, 5, 0, 1], (5000, 53), &query(name))));
        s.work();
        let [frame] = &a.frames()[..] else { panic!("{name}") };
        assert_eq!(
            (&frame[..12], &frame[34..38]),
            (&[a.mac.0, ROUTER_MAC.0].concat()[..], &[0, 53, 0x13, 0x88][..])
        );
        assert_eq!(frame[45] & 0xf, code, "{name}");
        assert_eq!(address.is_some_and(|ip| frame.ends_with(&ip.octets())), code == 0, "{name}");
    }
    // Another's server, and a broken question.
    assert!(a.send(&udp(b.mac, a.mac, a.ip, b.ip.octets(), (5000, 53), &query("m2"))));
    assert!(a.send(&udp(ROUTER_MAC, a.mac, a.ip, [10, 5, 0, 1], (5000, 53), b"?")));
    s.work();
    assert!(a.frames().is_empty() && b.frames().len() == 1);
}

#[test]
fn the_router_answers_where_there_is_no_way_out() {
    let mut s = setup(plain());
    let a = s.join(&join(1));
    let mut ask = crate::switch::testing::arp(a.mac, a.mac, a.ip, true);
    ask[38..42].copy_from_slice(&[10, 5, 0, 1]);
    assert!(a.send(&ask));
    let start = Instant::now();
    let frames = loop {
        s.work();
        let frames = a.frames();
        if !frames.is_empty() || start.elapsed() > Duration::from_secs(20) {
            break frames;
        }
    };
    assert_eq!(frames.len(), 1);
    assert_eq!(
        (&frames[0][..6], &frames[0][22..32]),
        (&a.mac.0[..], &[&ROUTER_MAC.0[..], &[10, 5, 0, 1]].concat()[..])
    );
}

#[test]
fn whoever_talks_nonsense_is_told_or_left() {
    let mut s = setup(plain());
    for wrong in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"{}", &[0xff; 3000]] {
        let answer = s.ask(wrong).1;
        assert!(
            matches!(&answer, Some(Answer::Refused(why)) if why.contains("not understood")),
            "{answer:?}"
        );
    }
    // More than can be, all silent; the first of them have the places until their time is over.
    let silent: Vec<_> = (0..MOST_PENDING + 10)
        .map(|_| {
            let socket = s.connect();
            s.work();
            socket
        })
        .collect();
    assert_eq!(s.switch.pending.len(), MOST_PENDING);
    assert_eq!(s.ask(&Request::Inspect.encode().unwrap()).1, None);
    s.switch.pending.values_mut().for_each(|pending| pending.until = Instant::now());
    s.work();
    assert!(s.switch.pending.is_empty());
    drop(silent);
    assert!(s.report().ports.is_empty());
}

#[test]
fn captures_see_all_and_disturb_nobody() {
    let mut s = setup(plain());
    let (a, b) = (s.join(&join(1)), s.join(&join(2)));
    let (watcher, answer) = s.ask(&Request::Capture.encode().unwrap());
    assert_eq!(answer, Some(Answer::Done));
    assert_eq!(received(&watcher).unwrap()[..4], 0xa1b2_3c4d_u32.to_ne_bytes());
    assert!(a.send(&a.to(&b)));
    s.work();
    assert_eq!(received(&watcher).unwrap()[16..], a.to(&b));
    for _ in 0..3000 {
        a.send(&a.to(&b));
        s.switch.turn(Some(Duration::ZERO));
        b.frames();
    }
    assert!(a.send(&a.to(&b)));
    s.work();
    assert_eq!(b.frames().len(), 1, "one that is not read is no matter");
    drop(watcher);
    assert!(a.send(&a.to(&b)));
    s.work();
    assert!(s.switch.watchers.is_empty());
}

#[test]
fn it_ends_when_it_is_asked_to() {
    let mut s = setup(plain());
    let a = s.join(&join(1));
    let (_, answer) = s.ask(&Request::Stop { force: false }.encode().unwrap());
    assert!(matches!(&answer, Some(Answer::Refused(why)) if why.contains("1 machines use it")), "{answer:?}");
    assert!(!s.switch.ended);
    drop(a);
    s.work();
    assert_eq!(s.ask(&Request::Stop { force: false }.encode().unwrap()).1, Some(Answer::Done));
    assert!(s.switch.ended);
}

#[test]
fn members_that_come_and_go_leave_nothing() {
    let mut s = setup(plain());
    let mut seen = HashSet::new();
    for i in 0..600u16 {
        let [high, low] = i.to_be_bytes();
        let member = s.join(&Join { mac: Mac([2, 0, 0, 0, high, low]), ..join(1) });
        assert!(member.send(&udp(ALL, member.mac, member.ip, [10, 5, 0, 255], (9, 9), b"hello")));
        seen.insert(member.ip);
        drop(member);
        s.work();
    }
    assert!(s.switch.ports.is_empty() && s.report().ports.is_empty());
    assert_eq!(seen.len(), 253, "all addresses have been somebody's");
}
