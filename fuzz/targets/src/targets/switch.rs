//! A switch: any requests, any frames of its members', who come and go. Nothing of the host's is reached but its socket.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use net::Offload;
use net::switch::{Switch, SwitchSpec};
use rustix::buffer::spare_capacity;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen,
    recv, send, socket_with,
};

use crate::Target;
use crate::input::Input;

/// Requests and frames.
pub const SWITCH: Target = Target {
    name: "switch",
    about: "a switch: requests at its socket, members' frames in two VLANs",
    seeds,
    words: &["inspect", "capture", "{\"version\":1,\"content\":", "{\"join\":{\"mac\":\"52:55:00:00:00:09\""],
    run: switch,
};

/// Members are numbers: even ones are in VLAN 1 and odd ones in VLAN 2, but for these.
const TRUNK: u8 = 6;
const SPOOFER: u8 = 8;
const MEMBERS: u8 = 9;
const ROUTER: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 2];
/// The address that is asked for by a member.
const fn ip(member: u8) -> [u8; 4] {
    [10, 5, 0, 10 + member]
}

fn mac(member: u8) -> [u8; 6] {
    [0x52, 0x55, 0, 0, 0, member]
}

fn socket() -> Option<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()
}

struct Setup {
    switch: Switch,
    address: SocketAddrUnix,
    members: BTreeMap<u8, OwnedFd>,
    /// Frames that it has not looked at: whoever leaves has left when those are gone.
    sent: u32,
}

/// Most of them.
const BACKLOG: u32 = 16;

fn setup() -> Option<Setup> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("guesthouse-fuzz-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let (listener, address) = (socket()?, SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?);
    bind(&listener, &address).ok()?;
    listen(&listener, 8).ok()?;
    let vlans = ["1=10.5.0.0/24", "2"].iter().filter_map(|text| text.parse().ok()).collect();
    let spec = SwitchSpec { vlans, no_uplink: true, ..SwitchSpec::default() };
    let switch = Switch::new(&spec, listener, None).ok()?;
    Some(Setup { switch, address, members: BTreeMap::new(), sent: 0 })
}

impl Setup {
    fn ask(&mut self, message: &[u8]) -> Option<OwnedFd> {
        let asker = socket()?;
        connect(&asker, &self.address).ok()?;
        send(&asker, message, SendFlags::NOSIGNAL).ok()?;
        self.work();
        let mut answer = Vec::with_capacity(1 << 18);
        recv(&asker, spare_capacity(&mut answer), RecvFlags::DONTWAIT).ok()?;
        assert!(
            answer.is_empty() || answer.starts_with(b"{\"version\":1,"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
        answer.windows(9).any(|word| word == b"\"joined\":").then_some(asker)
    }

    fn join(&mut self, member: u8) {
        let ([.., last], ip) = (mac(member), Ipv4Addr::from(ip(member)));
        let place = match member {
            TRUNK => format!("\"vlan\":1,\"trunk\":[2],\"ip\":\"{ip}\""),
            SPOOFER => format!("\"spoof\":true,\"ip\":\"{ip}\""),
            _ if member % 2 == 1 => "\"vlan\":2".to_owned(),
            _ => format!("\"name\":\"m{member}\",\"ip\":\"{ip}\""),
        };
        let join = format!(
            "{{\"version\":1,\"content\":{{\"join\":{{\"mac\":\"52:55:00:00:00:{last:02x}\",{place}}}}}}}"
        );
        let joined = self.ask(join.as_bytes());
        assert!(joined.is_some() || self.members.contains_key(&member), "member {member} is not taken");
        // Who is there already stays.
        if let (Some(socket), false) = (joined, self.members.contains_key(&member)) {
            self.members.insert(member, socket);
        }
    }

    fn send(&mut self, member: u8, header: &[u8], frame: &[u8]) {
        self.sent += 1;
        if self.sent > BACKLOG {
            self.work();
        }
        if let Some(socket) = self.members.get(&member) {
            let _ = send(socket, &[header, frame].concat(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
    }

    fn work(&mut self) {
        self.sent = 0;
        (0..3).for_each(|_| self.switch.turn(Some(Duration::ZERO)));
    }

    /// Reads what has arrived at a member: nobody gets what is another VLAN's, and nobody a tag who has none.
    fn read(&self, member: u8) {
        let Some(socket) = self.members.get(&member) else { return };
        let mut message = Vec::with_capacity(1 << 17);
        while matches!(recv(socket, spare_capacity(&mut message), RecvFlags::DONTWAIT), Ok((1.., _))) {
            let frame = message.get(Offload::LEN..).unwrap_or_default();
            assert!(frame.len() >= 14 && frame.len() <= net::MAX_FRAME, "{} bytes for {member}", frame.len());
            let (from, kind) = (&frame[6..12], &frame[12..14]);
            assert!(member == TRUNK || kind != [0x81, 0], "a tag for {member}");
            if member % 2 == 1 {
                let known = (0..MEMBERS).filter(|other| other % 2 == 1 || *other == TRUNK);
                assert!(known.into_iter().any(|other| from == mac(other)), "{from:x?} in VLAN 2");
            }
            message.clear();
        }
    }
}

/// A frame that a member may send as far as its headers go.
fn frame(what: u8, member: u8, input: &mut Input<'_>) -> Vec<u8> {
    let to = match input.u8() {
        0xff => [0xff; 6],
        0xfe => ROUTER,
        other => mac(other % MEMBERS),
    };
    let len = usize::from(input.u16() & 0x7ff);
    let payload = input.take(len);
    let mut packet =
        [&[0x45, 0][..], &((28 + payload.len()) as u16).to_be_bytes(), &[0, 1, 0, 0, 64, 17, 0, 0]].concat();
    packet.extend(ip(member));
    let (target, port) = if to == ROUTER { ([10, 5, 0, 1], 53u16) } else { ([10, 5, 0, 255], 67) };
    packet.extend(target);
    packet.extend(
        [68u16.to_be_bytes(), port.to_be_bytes(), ((8 + payload.len()) as u16).to_be_bytes(), [0; 2]]
            .concat(),
    );
    packet.extend(payload);
    let tag: &[u8] = match what & 0xc {
        4 => &[0x81, 0, 0, 2],
        8 => &[0x81, 0, 0, 1, 0x81, 0, 0, 2],
        _ => &[],
    };
    let kind = if what & 3 == 3 { [0x86, 0xdd] } else { [8, if what & 3 == 2 { 6 } else { 0 }] };
    let body = if what & 3 < 2 { &packet[..] } else { payload };
    [&to[..], &mac(member), tag, &kind, body].concat()
}

fn switch(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(mut setup) = setup() else { panic!("no switch") };
    while !input.is_empty() {
        let what = input.u8();
        match what >> 4 {
            0 => {
                let len = usize::from(input.u8());
                drop(setup.ask(input.take(len)));
            }
            1 => setup.join(what % MEMBERS),
            2 => drop(setup.members.remove(&(what % MEMBERS))),
            3 => {
                let len = usize::from(input.u16() & 0xfff);
                setup.send(what % MEMBERS, &[], input.take(len));
            }
            4..=9 => {
                let member = (what >> 4) % MEMBERS;
                let frame = frame(what, member, &mut input);
                setup.send(member, &Offload::default().encode(1), &frame);
            }
            10 | 11 => {
                let (member, header) = (what % MEMBERS, input.array::<{ Offload::LEN }>());
                let frame = frame(input.u8(), member, &mut input);
                setup.send(member, &header, &frame);
            }
            12 => {
                drop(setup.ask(b"{\"version\":1,\"content\":\"capture\"}"));
                drop(setup.ask(b"{\"version\":1,\"content\":\"inspect\"}"));
            }
            13 => setup.read(what % MEMBERS),
            _ => setup.work(),
        }
    }
    setup.work();
    (0..MEMBERS).for_each(|member| setup.read(member));
}

fn seeds() -> Vec<Vec<u8>> {
    let all: Vec<u8> = (0..MEMBERS).map(|member| 0x10 + (member + 2) % MEMBERS).collect();
    let question = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, b'm', b'4', 0, 0, 1, 0, 1];
    let names = [&all[..], &[0x40, 0xfe, 20, 0], &question, &[0xf0, 0xd4]].concat();
    let floods = [&all[..], &[0x60, 0xff, 4, 0, 1, 2, 3, 4, 0xf0].repeat(9)].concat();
    let tags = [&all[..], &[0x64, 0xff, 4, 0, 1, 2, 3, 4, 0x78, 0xff, 2, 0, 1, 2, 0xf0]].concat();
    let neighbours =
        [&all[..], &[0x43, 3, 60, 0, 0x60, 0, 0, 0, 0, 20, 58, 255], &[0xfe; 48], &[0xf0, 0xc0]].concat();
    let requests =
        [&[0x00, 33][..], b"{\"version\":1,\"content\":\"inspect\"}", &[0xc0, 0x10, 0x21, 0xf0]].concat();
    let raw = [&all[..], &[0x30, 80, 0], &[7; 80], &[0xf0]].concat();
    vec![names, floods, tags, neighbours, requests, raw]
}
