//! The switch's loop: one thread, which reads what members send and writes to those for whom it is.

mod control;
mod port;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, accept_with};

use self::control::{Pending, Watcher};
use self::port::Port;
use super::fabric::{Fabric, Lost, To};
use super::frame::Parcel;
use super::services::{Served, serve};
use super::spec::SwitchSpec;
use super::uplink::{self, Uplink};
use super::{PortId, SERVICES, Vlan};
use crate::bell::{Bell, Poller, Ready};
use crate::{Capture, Mac, NetError, Offload};

/// Most frames of one member's in a row, before others have their turn.
const BURST: usize = 32;
/// Most connections that have not said yet what they want, and how long they may take.
const MOST_PENDING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);
/// Most captures at a time.
const MOST_WATCHERS: usize = 8;

/// What descriptors are: a kind, and a number of that kind.
mod token {
    pub const BELL: u64 = 0;
    pub const LISTENER: u64 = 1;
    pub const PENDING: u64 = 2;
    pub const PORT: u64 = 3;
    const SHIFT: u32 = 32;

    pub fn of(kind: u64, number: u32) -> u64 {
        kind << SHIFT | u64::from(number)
    }

    pub fn split(token: u64) -> (u64, u32) {
        (token >> SHIFT, token as u32)
    }
}

/// A switch.
pub struct Switch {
    bell: Arc<Bell>,
    poller: Poller,
    ready: Vec<Ready>,
    listener: OwnedFd,
    fabric: Fabric,
    spec: SwitchSpec,
    ports: BTreeMap<PortId, Port>,
    pending: BTreeMap<u32, Pending>,
    /// Number of the next connection.
    next: u32,
    watchers: Vec<Watcher>,
    uplinks: BTreeMap<Vlan, Uplink>,
    capture: Option<Capture>,
    parcel: Parcel,
    /// There is more to do than was done.
    busy: bool,
    ended: bool,
}

impl Switch {
    /// A switch whose members connect to `listener`, a socket that does not block. All frames are shown to `capture`, which
    /// is made before: the switch itself opens no files.
    ///
    /// # Errors
    /// The host refuses descriptors or threads.
    pub fn new(spec: &SwitchSpec, listener: OwnedFd, capture: Option<Capture>) -> Result<Self, NetError> {
        let (bell, poller) = (Arc::new(Bell::new()?), Poller::new()?);
        poller.watch_bell(&bell, token::of(token::BELL, 0))?;
        poller.watch(&listener, token::of(token::LISTENER, 0))?;
        let mut uplinks = BTreeMap::new();
        for vlan in &spec.vlans {
            if let Some(range) = vlan.subnet {
                uplinks.insert(vlan.id, Uplink::new(range, &spec.uplink(), bell.clone())?);
            }
        }
        Ok(Self {
            bell,
            poller,
            ready: Vec::new(),
            listener,
            fabric: Fabric::new(spec, Instant::now()),
            spec: spec.clone(),
            ports: BTreeMap::new(),
            pending: BTreeMap::new(),
            next: 0,
            watchers: Vec::new(),
            uplinks,
            capture,
            parcel: Parcel::default(),
            busy: false,
            ended: false,
        })
    }

    /// Works until somebody asks it to end.
    pub fn run(&mut self) {
        while !self.ended {
            self.turn(None);
        }
    }

    /// Waits for something to do, not longer than `most`, and does it.
    pub fn turn(&mut self, most: Option<Duration>) {
        let now = Instant::now();
        let alarm = self.alarm(now).map(|alarm| alarm.saturating_duration_since(now));
        let timeout =
            if self.busy { Some(Duration::ZERO) } else { [alarm, most].into_iter().flatten().min() };
        self.poller.wait(timeout, &mut self.ready);
        let now = Instant::now();
        for event in std::mem::take(&mut self.ready) {
            let (kind, number) = token::split(event.token);
            match kind {
                token::BELL => self.bell.heard(),
                token::LISTENER => self.accept(now),
                token::PENDING => self.asked(number, now),
                _ => {
                    if let Some(port) = self.ports.get_mut(&(number as PortId)) {
                        port.is_ready(event.readable, event.writable);
                    }
                }
            }
        }
        self.pending.retain(|_, pending| pending.until > now);
        self.busy = self.drain_uplinks(now);
        let ids: Vec<_> = self.ports.keys().copied().collect();
        for &id in &ids {
            self.busy |= self.drain_port(id, now);
        }
        for id in ids {
            if self.ports.get_mut(&id).is_some_and(|port| port.flush(now)) {
                self.leave(id);
            }
        }
        if let Some(capture) = &mut self.capture {
            capture.flush();
        }
    }

    /// When there is something to do by itself.
    fn alarm(&mut self, now: Instant) -> Option<Instant> {
        let ports = self.ports.values_mut().filter_map(|port| port.alarm(now));
        ports.chain(self.pending.values().map(|pending| pending.until)).min()
    }

    fn accept(&mut self, now: Instant) {
        // The listener is level-triggered: what is left is reported again.
        for _ in 0..MOST_PENDING {
            let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
                return;
            };
            if self.pending.len() >= MOST_PENDING {
                continue; // closed again
            }
            self.next = self.next.wrapping_add(1);
            if self.poller.watch(&socket, token::of(token::PENDING, self.next)).is_ok() {
                self.pending.insert(self.next, Pending { socket, until: now + PATIENCE });
            }
        }
    }

    /// Reads what a member has sent; true if there may be more.
    fn drain_port(&mut self, id: PortId, now: Instant) -> bool {
        for _ in 0..BURST {
            let mut parcel = std::mem::take(&mut self.parcel);
            let Some(port) = self.ports.get_mut(&id) else { return false };
            let read = port.read(&mut parcel, now);
            if read == port::Read::Frame {
                self.forward(id, &mut parcel, now);
            }
            self.parcel = parcel;
            match read {
                port::Read::Frame => {}
                port::Read::Nothing => return false,
                port::Read::End => {
                    self.leave(id);
                    return false;
                }
            }
        }
        true
    }

    fn forward(&mut self, id: PortId, parcel: &mut Parcel, now: Instant) {
        let lost = match self.fabric.ingress(id, parcel, now) {
            Ok((vlan, to)) => {
                self.seen(parcel.bytes());
                let for_services = matches!(to, To::One(SERVICES) | To::All { services: true });
                if for_services {
                    self.for_services(vlan, id, parcel, now);
                }
                self.deliver(vlan, id, to, parcel.bytes(), &parcel.offload, now);
                return;
            }
            Err(lost) => lost,
        };
        let Some(port) = self.ports.get_mut(&id) else { return };
        match lost {
            Lost::Vlan => port.counters.lost_vlan += 1,
            Lost::Spoofed => port.counters.lost_spoofed += 1,
            Lost::Flood => port.counters.lost_floods += 1,
            Lost::Nowhere => {}
        }
    }

    fn for_services(&mut self, vlan: Vlan, id: PortId, parcel: &Parcel, now: Instant) {
        match serve(&self.fabric, vlan, id, parcel.bytes(), !self.spec.no_uplink) {
            Served::Done(Some(answer)) => {
                self.seen(&answer);
                // The asker gets it even if it is for everybody: nobody else asked.
                self.deliver(vlan, SERVICES, To::One(id), &answer, &Offload::default(), now);
            }
            Served::Done(None) => {}
            Served::Pass => {
                if let Some(uplink) = self.uplinks.get(&vlan) {
                    uplink.send(parcel.bytes(), parcel.offload);
                }
            }
        }
    }

    /// Hands over what came back from the world; true if there may be more.
    fn drain_uplinks(&mut self, now: Instant) -> bool {
        let vlans: Vec<_> = self.uplinks.keys().copied().collect();
        let mut more = false;
        for vlan in vlans {
            for i in 0..=BURST {
                more |= i == BURST;
                let frame = self.uplinks.get(&vlan).filter(|_| i < BURST).and_then(Uplink::take);
                let Some((offload, mut bytes)) = frame else { break };
                if let Some(ip) = uplink::target(&bytes) {
                    let Some(mac) = self.card(vlan, ip) else { continue };
                    uplink::readdress(&mut bytes, mac);
                }
                let Some(to) = self.fabric.egress_of_services(vlan, &bytes, now) else { continue };
                self.seen(&bytes);
                self.deliver(vlan, SERVICES, to, &bytes, &offload, now);
            }
        }
        more
    }

    fn card(&self, vlan: Vlan, ip: IpAddr) -> Option<Mac> {
        let everybody = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if everybody { Some(Mac([0xff; 6])) } else { self.fabric.card(vlan, ip) }
    }

    fn deliver(&mut self, vlan: Vlan, from: PortId, to: To, bytes: &[u8], offload: &Offload, now: Instant) {
        let Self { fabric, ports, .. } = self;
        let mut send = |id: PortId, tagged: bool| {
            if let Some(port) = ports.get_mut(&id) {
                port.send(tagged.then_some(vlan), bytes, offload, now);
            }
        };
        match to {
            To::One(SERVICES) => {}
            To::One(id) => {
                if let Some(tagged) = fabric.egress(id, vlan) {
                    send(id, tagged);
                }
            }
            To::All { .. } => fabric.others(vlan, from).for_each(|(id, tagged)| send(id, tagged)),
        }
    }

    /// Shows a frame to captures.
    fn seen(&mut self, bytes: &[u8]) {
        if let Some(capture) = &mut self.capture {
            capture.add(&[bytes]);
        }
        if !self.watchers.is_empty() {
            self.watchers.retain_mut(|watcher| watcher.see(bytes));
        }
    }

    fn leave(&mut self, id: PortId) {
        if self.ports.remove(&id).is_some() {
            tracing::info!("member {id} has left");
            self.fabric.leave(id);
        }
    }
}

#[cfg(test)]
mod tests;
