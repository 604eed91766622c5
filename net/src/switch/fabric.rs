//! Where frames go. Knows no sockets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use super::bucket::Bucket;
use super::frame::{Parcel, View};
use super::guard::{self, Sender};
use super::hello::Join;
use super::leases::Leases;
use super::macs::Macs;
use super::owners::Owners;
use super::spec::{Range, SwitchSpec};
use super::vlan::Membership;
use super::{MAX_PORTS, PortId, SERVICES, Vlan};
use crate::Mac;
use crate::user::ROUTER_MAC;

/// Frames in a second that a member may send to all, and in a burst.
const FLOOD_RATE: u64 = 1000;
const FLOOD_BURST: u64 = 2000;

/// A member as the fabric knows it.
pub struct Member {
    pub mac: Mac,
    pub name: Option<String>,
    pub membership: Membership,
    pub spoof: bool,
    floods: Bucket,
}

/// Whom a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// One of them, which may be [`SERVICES`].
    One(PortId),
    /// All of the VLAN but the sender; the switch itself only if the frame is for everybody.
    All { services: bool },
}

/// Why a frame is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Its VLAN is not one that it may be in.
    Vlan,
    /// The sender is not who it claims to be.
    Spoofed,
    /// There were too many frames for everybody.
    Flood,
    /// Nobody else is there.
    Nowhere,
}

/// Members, and what is known of them.
pub struct Fabric {
    vlans: BTreeMap<Vlan, Option<Leases>>,
    ranges: BTreeMap<Vlan, Range>,
    members: BTreeMap<PortId, Member>,
    macs: Macs,
    owners: Owners,
}

impl Fabric {
    /// A switch without members.
    pub fn new(spec: &SwitchSpec, now: Instant) -> Self {
        let mut fabric = Self {
            vlans: BTreeMap::new(),
            ranges: BTreeMap::new(),
            members: BTreeMap::new(),
            macs: Macs::default(),
            owners: Owners::default(),
        };
        for vlan in &spec.vlans {
            fabric.vlans.insert(vlan.id, vlan.subnet.map(Leases::new));
            if let Some(range) = vlan.subnet {
                fabric.ranges.insert(vlan.id, range);
                fabric.macs.fix(vlan.id, ROUTER_MAC, SERVICES, now);
                fabric.owners.give(vlan.id, range.gateway().into(), SERVICES, ROUTER_MAC);
            }
        }
        fabric
    }

    /// Lets a member in; its number, and the addresses that it has in its VLANs.
    ///
    /// # Errors
    /// What it asks for is not here, or another member's; the reason tells what to do.
    pub fn join(&mut self, join: &Join, now: Instant) -> Result<(PortId, Vec<(Vlan, Ipv4Addr)>), String> {
        let membership = Membership::new(join.vlan, &join.trunk);
        for (i, vlan) in membership.all().enumerate() {
            if !self.vlans.contains_key(&vlan) {
                let all: Vec<_> = self.vlans.keys().map(Vlan::to_string).collect();
                return Err(format!("there is no VLAN {vlan}: it has {}", all.join(", ")));
            }
            if membership.all().skip(i + 1).any(|other| other == vlan) {
                return Err(format!(
                    "VLAN {vlan} is named twice: a trunk's native VLAN is none of its others"
                ));
            }
        }
        if !join.mac.is_unicast() || join.mac == ROUTER_MAC {
            return Err(format!("{} is no member's address: choose another", join.mac));
        }
        for member in self.members.values() {
            if member.mac == join.mac && membership.all().any(|vlan| member.membership.egress(vlan).is_some())
            {
                return Err(format!("card {} is there already: choose another with mac=ADDRESS", join.mac));
            }
            if member.name.is_some() && member.name == join.name {
                let name = join.name.as_deref().unwrap_or_default();
                return Err(format!("a member is called {name} already: choose another with name=NAME"));
            }
        }
        let free = (0..MAX_PORTS as PortId).find(|id| !self.members.contains_key(id));
        let port =
            free.ok_or_else(|| format!("{MAX_PORTS} members are there already: make another switch"))?;
        let given = self.give(port, join, &membership);
        let given = given.inspect_err(|_| self.owners.forget(port))?;
        for vlan in membership.all() {
            self.macs.fix(vlan, join.mac, port, now);
        }
        let floods = Bucket::new(FLOOD_RATE, FLOOD_BURST, now);
        let (mac, name, spoof) = (join.mac, join.name.clone(), join.spoof);
        self.members.insert(port, Member { mac, name, membership, spoof, floods });
        Ok((port, given))
    }

    /// Gives a member its addresses.
    fn give(
        &mut self,
        port: PortId,
        join: &Join,
        membership: &Membership,
    ) -> Result<Vec<(Vlan, Ipv4Addr)>, String> {
        let (mut given, mut wish) = (Vec::new(), join.ip);
        for vlan in membership.all() {
            let Some(Some(leases)) = self.vlans.get_mut(&vlan) else { continue };
            let here = self.ranges.get(&vlan);
            let wanted = wish.take_if(|ip| here.is_some_and(|range| range.is_member(*ip)));
            let owners = &self.owners;
            let ip = leases.grant(join.mac, wanted, |ip| owners.find(vlan, ip.into()).is_some())?;
            self.owners.give(vlan, ip.into(), port, join.mac);
            given.push((vlan, ip));
        }
        match wish {
            Some(ip) => {
                Err(format!("address {ip} is no member's address of any of its VLANs: choose another"))
            }
            None => Ok(given),
        }
    }

    /// A member has gone.
    pub fn leave(&mut self, port: PortId) {
        self.members.remove(&port);
        self.macs.forget(port);
        self.owners.forget(port);
    }

    /// A frame from a member; its tag is taken off.
    pub fn ingress(&mut self, port: PortId, frame: &mut Parcel, now: Instant) -> Result<(Vlan, To), Lost> {
        let member = self.members.get_mut(&port).ok_or(Lost::Vlan)?;
        let vlan = member.membership.ingress(frame).ok_or(Lost::Vlan)?;
        let view = View::new(frame.bytes()).ok_or(Lost::Spoofed)?;
        let has_leases = self.ranges.contains_key(&vlan);
        let sender = Sender { port, mac: member.mac, vlan, has_leases, spoof: member.spoof };
        if !guard::admits(&sender, &view, &mut self.owners) || !self.macs.learn(vlan, view.from, port, now) {
            return Err(Lost::Spoofed);
        }
        let to = match self.macs.find(vlan, view.to, now).filter(|_| !view.is_for_many()) {
            Some(to) if to == port => return Err(Lost::Nowhere),
            Some(to) => return Ok((vlan, To::One(to))),
            None => To::All { services: has_leases && view.is_for_many() },
        };
        if member.floods.take(1, now) { Ok((vlan, to)) } else { Err(Lost::Flood) }
    }

    /// Whom a frame of the switch's own is for.
    pub fn egress_of_services(&self, vlan: Vlan, bytes: &[u8], now: Instant) -> Option<To> {
        let view = View::new(bytes)?;
        if view.is_for_many() {
            return Some(To::All { services: false });
        }
        self.macs.find(vlan, view.to, now).filter(|to| *to != SERVICES).map(To::One)
    }

    /// The members in a VLAN but one, and whether they get its frames with a tag.
    pub fn others(&self, vlan: Vlan, but: PortId) -> impl Iterator<Item = (PortId, bool)> {
        let all = self.members.iter().filter(move |(port, _)| **port != but);
        all.filter_map(move |(port, member)| Some((*port, member.membership.egress(vlan)?)))
    }

    /// How a member gets frames of a VLAN.
    pub fn egress(&self, port: PortId, vlan: Vlan) -> Option<bool> {
        self.members.get(&port)?.membership.egress(vlan)
    }

    /// A member.
    pub fn member(&self, port: PortId) -> Option<&Member> {
        self.members.get(&port)
    }

    /// The card behind an address of a VLAN.
    pub fn card(&self, vlan: Vlan, ip: IpAddr) -> Option<Mac> {
        self.owners.find(vlan, ip).map(|(_, mac)| mac)
    }

    /// A VLAN's addresses, if the switch hands them out.
    pub fn range(&self, vlan: Vlan) -> Option<Range> {
        self.ranges.get(&vlan).copied()
    }

    /// The address that a member was given.
    pub fn address(&self, vlan: Vlan, port: PortId) -> Option<Ipv4Addr> {
        let range = self.range(vlan)?;
        self.owners.of_port(port).into_iter().find_map(|(at, ip)| match ip {
            IpAddr::V4(ip) if at == vlan && range.is_member(ip) => Some(ip),
            _ => None,
        })
    }

    /// The address of a name in a VLAN; the outer None if nobody has that name.
    pub fn lookup(&self, vlan: Vlan, name: &str) -> Option<Option<Ipv4Addr>> {
        let named =
            |member: &Member| member.name.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name));
        let (port, _) = self.members.iter().find(|(_, member)| named(member))?;
        Some(self.address(vlan, *port))
    }

    /// The name of an address.
    pub fn name_of(&self, vlan: Vlan, ip: Ipv4Addr) -> Option<&str> {
        let (port, _) = self.owners.find(vlan, ip.into())?;
        self.member(port)?.name.as_deref()
    }

    /// All addresses of a member.
    pub fn addresses_of(&self, port: PortId) -> Vec<(Vlan, IpAddr)> {
        self.owners.of_port(port)
    }

    /// The cards behind a port, and how many seconds ago each was seen.
    pub fn cards_of(&self, port: PortId, now: Instant) -> Vec<(Vlan, Mac, u64)> {
        self.macs.of_port(port, now)
    }
}

#[cfg(test)]
mod tests;
