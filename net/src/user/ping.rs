//! Echo requests to the world, by the host's ping sockets, which `net.ipv4.ping_group_range` opens to users.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use super::context::Context;
use super::icmp::{self, ECHO4, ECHO6, Echo, HEADER, Why};
use super::packet::Packet;
use super::table::{Id, Table};
use super::token;

/// Most peers that are pinged at the same time.
const MOST: usize = 64;
const IDLE: Duration = Duration::from_secs(30);
const LONGEST: usize = 65_535;

/// Who pings whom, under which number.
type Key = (IpAddr, IpAddr, u16);

struct Pinger {
    key: Key,
    socket: OwnedFd,
    queue: u16,
    used: Instant,
}

/// All of them.
pub struct Ping {
    pingers: Table<Key, Pinger>,
    buffer: Vec<u8>,
    refused: bool,
}

impl Ping {
    pub fn new() -> Self {
        Self { pingers: Table::new(), buffer: vec![0; LONGEST], refused: false }
    }

    /// An echo request of the guest's.
    pub fn ingress(&mut self, cx: &mut Context, packet: &Packet<'_>, echo: &Echo<'_>) {
        let key = (packet.from, packet.to, echo.id);
        let id = match self.pingers.find(&key) {
            Some(id) => Ok(id),
            None => self.open(cx, key, packet.queue),
        };
        let sent = id.and_then(|id| {
            let Some(pinger) = self.pingers.get_mut(id) else { return Ok(()) };
            pinger.used = cx.now;
            match rustix::net::send(&pinger.socket, echo.message, SendFlags::empty()) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
                Err(error) => Err(super::why(&error.into())),
            }
        });
        if let Err(why) = sent {
            icmp::unreachable(cx, packet.from, packet.queue, packet.whole, why);
        }
    }

    fn open(&mut self, cx: &mut Context, key: Key, queue: u16) -> Result<Id, Why> {
        // The port only has to be one.
        let to = cx.lan.translate(SocketAddr::new(key.1, 1))?;
        let socket = match socket(to) {
            Ok(socket) => socket,
            Err(error) => {
                if matches!(error.kind(), io::ErrorKind::PermissionDenied) {
                    if !std::mem::replace(&mut self.refused, true) {
                        tracing::info!(
                            "the guest cannot ping the world: allow it with sysctl net.ipv4.ping_group_range='0 2147483647'"
                        );
                    }
                    return Err(Why::Prohibited);
                }
                return Err(super::why(&error));
            }
        };
        if self.pingers.len() >= MOST
            && let Some((oldest, _)) = self.pingers.iter_mut().min_by_key(|(_, p)| p.used)
        {
            self.pingers.remove(oldest);
        }
        let id = self.pingers.next_id();
        cx.poller.watch(&socket, id.token(token::PING)).map_err(|_| Why::Host)?;
        cx.wake_at(cx.now + IDLE);
        Ok(self.pingers.insert(key, Pinger { key, socket, queue, used: cx.now }))
    }

    /// An answer has come.
    pub fn readable(&mut self, cx: &mut Context, id: Id) {
        let Some(pinger) = self.pingers.get_mut(id) else { return };
        let (guest, peer, number) = pinger.key;
        let received = rustix::net::recv(&pinger.socket, &mut self.buffer[..], RecvFlags::DONTWAIT);
        let Ok((len, _)) = received else {
            if received != Err(rustix::io::Errno::AGAIN) {
                self.pingers.remove(id);
            }
            return;
        };
        let Some((&header, data)) = self.buffer.get(..len).and_then(|m| m.split_first_chunk::<HEADER>())
        else {
            return;
        };
        let answer = if guest.is_ipv4() { ECHO4.0 } else { ECHO6.0 };
        if header[0] != answer {
            return;
        }
        let mut header = header;
        // The host's socket has a number of its own.
        header[4..6].copy_from_slice(&number.to_be_bytes());
        let queue = pinger.queue;
        icmp::send(cx, peer, guest, queue, header, data);
    }

    /// Ends those that nobody uses.
    pub fn expire(&mut self, cx: &mut Context) {
        let mut old = Vec::new();
        for (id, pinger) in self.pingers.iter_mut() {
            match pinger.used + IDLE {
                end if end <= cx.now => old.push(id),
                end => cx.wake_at(end),
            }
        }
        for id in old {
            self.pingers.remove(id);
        }
    }

    pub fn clear(&mut self) {
        self.pingers.clear();
    }
}

fn socket(to: SocketAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = match to {
        SocketAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        SocketAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
    let mut to = to;
    to.set_port(0);
    rustix::net::connect(&socket, &to)?;
    Ok(socket)
}
