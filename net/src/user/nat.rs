//! The network as its one thread works on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jail::{Jail, Kind};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol};

use super::context::Context;
use super::fragments::{self, Fragments};
use super::icmp::{self, Why};
use super::lan::{Lan, ROUTER_MAC, Subnet};
use super::outlet::Outlet;
use super::packet::Packet;
use super::ping::Ping;
use super::resolver::Resolver;
use super::table::Id;
use super::tcp::Tcp;
use super::udp::Udp;
use super::{UserConfig, arp, neighbours, token};
use crate::bell::{Bell, Poller, Ready};
use crate::thread::{Network, Threaded};
use crate::{Capture, Frame, GuestPort, Mac, NetError, Transport};

/// Most frames of the guest's in a row, before sockets have their turn.
const BURST: usize = 64;

/// The network.
pub struct Nat {
    bell: Arc<Bell>,
    cx: Context,
    tcp: Tcp,
    udp: Udp,
    ping: Ping,
    fragments: Fragments,
    frame: Frame,
    ready: Vec<Ready>,
    /// There is more to do than was done.
    busy: bool,
    /// When routers are advertised next, once the guest has shown interest in IPv6.
    advertise: Option<Instant>,
}

/// A user-mode network.
pub type UserNet = Threaded<Nat>;

impl UserNet {
    /// What such a network needs of its host, in the jail of its process: without a way out, nothing.
    pub fn allow(jail: &mut Jail, config: &UserConfig) {
        jail.kind(Kind::Net);
        if config.outside || config.loopback || !config.forwards.is_empty() {
            jail.allow_tcp();
            Resolver::allow(jail);
        }
    }

    /// Makes the network; forwarded ports are taken from now on. `mac` is the guest's card.
    ///
    /// # Errors
    /// A port or a file that the host refuses.
    pub fn new(config: &UserConfig, mac: Mac) -> Result<Self, NetError> {
        Ok(Self::of(Nat::new(config, mac)?))
    }

    /// The same for a network with these addresses.
    pub(crate) fn for_subnet(config: &UserConfig, mac: Mac, subnet: Subnet) -> Result<Self, NetError> {
        Ok(Self::of(Nat::for_subnet(config, mac, subnet)?))
    }
}

impl Network for Nat {
    const NAME: &'static str = "net-user";
    const KIND: Kind = Kind::Net;

    fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    fn plug(&mut self, port: Arc<dyn GuestPort>) {
        Nat::plug(self, port);
    }

    fn turn(&mut self) {
        self.wait(None);
        self.work(Instant::now());
    }

    fn clear(&mut self) {
        Nat::clear(self);
    }
}

impl Nat {
    /// A network without a guest, whose forwarded ports are taken already. `mac` is the guest's card.
    ///
    /// # Errors
    /// A port or a file that the host refuses.
    pub fn new(config: &UserConfig, mac: Mac) -> Result<Self, NetError> {
        Self::for_subnet(config, mac, Subnet::default())
    }

    fn for_subnet(config: &UserConfig, mac: Mac, subnet: Subnet) -> Result<Self, NetError> {
        let (now, bell, poller) = (Instant::now(), Arc::new(Bell::new()?), Poller::new()?);
        poller.watch_bell(&bell, token::BELL)?;
        let of = |transport| -> Vec<_> {
            config.forwards.iter().filter(|f| f.transport == transport).copied().collect()
        };
        let (tcp, udp) = (Tcp::new(&of(Transport::Tcp), now)?, Udp::new(&of(Transport::Udp))?);
        let capture = config.capture.as_deref().map(Capture::create).transpose()?;
        let lan = Lan {
            subnet,
            loopback: config.loopback,
            outside: config.outside,
            guest_mac: mac,
            guest: subnet.guest,
            guest6: None,
            resolver: Resolver::default(),
        };
        let cx = Context::new(Outlet::new(capture), lan, poller, now);
        tcp.watch(&cx)?;
        udp.watch(&cx)?;
        Ok(Self {
            bell,
            cx,
            tcp,
            udp,
            ping: Ping::new(),
            fragments: Fragments::default(),
            frame: Frame::default(),
            ready: Vec::new(),
            busy: false,
            advertise: None,
        })
    }

    /// Where the forwarded ports are, those of TCP first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.addresses().chain(self.udp.addresses()).collect()
    }

    /// Plugs the guest in.
    pub fn plug(&mut self, port: Arc<dyn GuestPort>) {
        self.cx.out.cable.plug(port);
    }

    /// Waits for something to do, but not longer than `most`.
    pub fn wait(&mut self, most: Option<Duration>) {
        let alarm = self.cx.alarm().map(|alarm| alarm.saturating_duration_since(Instant::now()));
        let timeout =
            if self.busy { Some(Duration::ZERO) } else { [alarm, most].into_iter().flatten().min() };
        self.cx.poller.wait(timeout, &mut self.ready);
    }

    /// Does what there is to do at the time `now`.
    pub fn work(&mut self, now: Instant) {
        self.cx.now = now;
        self.cx.out.look();
        let ready = std::mem::take(&mut self.ready);
        for event in &ready {
            self.event(event);
        }
        self.ready = ready;
        self.busy = self.drain_guest();
        if self.cx.take_alarm() {
            self.expire();
        }
        self.busy |= self.tcp.flush(&mut self.cx);
        self.cx.out.cable.finish();
    }

    /// The guest knows of nothing any more.
    pub fn clear(&mut self) {
        self.tcp.clear();
        self.udp.clear();
        self.ping.clear();
        self.fragments.clear();
        self.cx.lan.guest = self.cx.lan.subnet.guest;
        self.cx.lan.guest6 = None;
        self.advertise = None;
    }

    fn event(&mut self, event: &Ready) {
        let cx = &mut self.cx;
        let (kind, id) = Id::of_token(event.token);
        let index = event.token as u32 as usize;
        match kind {
            token::BELL => self.bell.heard(),
            token::TCP => self.tcp.ready(cx, id, event.readable, event.writable),
            token::TCP_PORT => self.tcp.arrived(cx, index),
            token::UDP => self.udp.readable(cx, id),
            token::UDP_PORT => self.udp.arrived(cx, index),
            _ => self.ping.readable(cx, id),
        }
    }

    fn drain_guest(&mut self) -> bool {
        let mut frame = std::mem::take(&mut self.frame);
        let mut more = false;
        for i in 0..=BURST {
            more = i == BURST;
            if more || !self.cx.out.cable.take(&mut frame) {
                break;
            }
            self.ingress(&frame);
        }
        self.frame = frame;
        more
    }

    fn expire(&mut self) {
        self.tcp.expire(&mut self.cx);
        self.udp.expire(&mut self.cx);
        self.ping.expire(&mut self.cx);
        if let Some(when) = self.advertise {
            if when <= self.cx.now {
                neighbours::advertise(&mut self.cx, 0);
                self.advertise = Some(self.cx.now + neighbours::INTERVAL);
            }
            self.cx.wake_at(self.advertise.unwrap_or(when));
        }
    }

    fn ingress(&mut self, frame: &Frame) {
        let Ok(ethernet) = EthernetFrame::new_checked(&frame.bytes[..]) else { return };
        let (from, to) = (Mac(ethernet.src_addr().0), ethernet.dst_addr());
        if !from.is_unicast() || to.0 != ROUTER_MAC.0 && to.is_unicast() {
            return;
        }
        self.cx.lan.guest_mac = from;
        let (payload, checked) = (ethernet.payload(), frame.offload.checksum.is_some());
        let parsed = match ethernet.ethertype() {
            EthernetProtocol::Arp => return arp::ingress(&mut self.cx, payload, frame.queue),
            EthernetProtocol::Ipv4 => Packet::v4(payload, checked, frame.queue),
            EthernetProtocol::Ipv6 => Packet::v6(payload, checked, frame.queue),
            _ => None,
        };
        match parsed {
            Some((packet, None)) => self.packet(&packet),
            Some((packet, Some(piece))) => {
                if let Some(whole) = self.fragments.add(&packet, piece, self.cx.now) {
                    self.packet(&fragments::whole(&packet, &whole));
                }
            }
            None => {}
        }
    }

    fn packet(&mut self, packet: &Packet<'_>) {
        let cx = &mut self.cx;
        if packet.protocol == IpProtocol::Icmpv6 && packet.from.is_ipv6() {
            self.advertise.get_or_insert(cx.now + neighbours::INTERVAL);
            cx.wake_at(cx.now + neighbours::INTERVAL);
            if neighbours::ingress(cx, packet) {
                return;
            }
        }
        if packet.from.is_unspecified() && packet.protocol != IpProtocol::Udp {
            return;
        }
        match packet.protocol {
            IpProtocol::Tcp => self.tcp.ingress(cx, packet),
            IpProtocol::Udp => self.udp.ingress(cx, packet),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => {
                if packet.from.is_ipv4() != (packet.protocol == IpProtocol::Icmp) {
                    return;
                }
                match icmp::echo(packet) {
                    Some(echo) if icmp::is_ours(&cx.lan.subnet, packet.to) => icmp::answer(cx, packet, &echo),
                    Some(echo) if !packet.to.is_multicast() => self.ping.ingress(cx, packet, &echo),
                    _ => {}
                }
            }
            _ if packet.to.is_multicast() => {}
            _ => icmp::unreachable(cx, packet.from, packet.queue, packet.whole, Why::Prohibited),
        }
    }

    /// When it wakes by itself.
    #[cfg(test)]
    pub(super) fn alarm(&self) -> Option<Instant> {
        self.cx.alarm()
    }

    /// Asks another server for names.
    #[cfg(test)]
    pub(super) fn set_resolver(&mut self, resolver: Resolver) {
        self.cx.lan.resolver = resolver;
    }

    /// Connections and flows of datagrams.
    #[cfg(test)]
    pub fn flows(&self) -> (usize, usize) {
        (self.tcp.len(), self.udp.len())
    }
}
