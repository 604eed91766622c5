//! The guest's own network: who is there, and what of the world is reached through it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::resolver::Resolver;
use crate::Mac;

/// The router's Ethernet address.
pub const ROUTER_MAC: Mac = Mac([0x52, 0x55, 0x0a, 0x00, 0x02, 0x02]);
/// Who is where on 10.0.2.0/24.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const NAMES: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub const PREFIX_LEN: u8 = 24;
/// And on a unique local prefix (RFC 4193) of 64 bits.
pub const PREFIX6: Ipv6Addr = Ipv6Addr::new(0xfd67, 0x6573, 0x7468, 0, 0, 0, 0, 0);
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd67, 0x6573, 0x7468, 0, 0, 0, 0, 2);
pub const NAMES6: Ipv6Addr = Ipv6Addr::new(0xfd67, 0x6573, 0x7468, 0, 0, 0, 0, 3);
/// The router as its advertisements name it.
pub const ROUTER6_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// Bytes of the largest packet that is not a large one.
pub const MTU: usize = 1500;

/// The port of name servers.
const DNS: u16 = 53;

/// Why a destination is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nowhere {
    /// Somebody is there who does not want it.
    Refused,
    /// Nobody is there.
    Unreachable,
    /// The user does not want it.
    Prohibited,
}

/// Who is where on the network's IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    pub router: Ipv4Addr,
    /// The name server, which may be the router.
    pub names: Ipv4Addr,
    /// The guest that gets what comes from outside by itself.
    pub guest: Ipv4Addr,
    pub prefix_len: u8,
}

impl Default for Subnet {
    fn default() -> Self {
        Self { router: ROUTER, names: NAMES, guest: GUEST, prefix_len: PREFIX_LEN }
    }
}

impl Subnet {
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(self.prefix_len.min(32))).unwrap_or(0))
    }

    /// The router's address, by any of its names.
    pub fn is_router(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => ip == self.router,
            IpAddr::V6(ip) => ip == ROUTER6 || ip == ROUTER6_LINK,
        }
    }

    /// The name server's address.
    pub fn is_names(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => ip == self.names,
            IpAddr::V6(ip) => ip == NAMES6,
        }
    }

    /// On the guest's own network.
    pub fn is_local(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => ip & self.mask() == self.router & self.mask(),
            IpAddr::V6(ip) => ip.segments()[..4] == PREFIX6.segments()[..4] || is_link(ip),
        }
    }
}

/// What the guest may reach, and who it has turned out to be.
#[derive(Debug)]
pub struct Lan {
    pub subnet: Subnet,
    /// The router's address stands for the host's loopback.
    pub loopback: bool,
    /// There is a world outside.
    pub outside: bool,
    /// The guest's card.
    pub guest_mac: Mac,
    /// The guest's addresses.
    pub guest: Ipv4Addr,
    pub guest6: Option<Ipv6Addr>,
    pub resolver: Resolver,
}

impl Lan {
    /// Where on the host's side `to` is.
    pub fn translate(&mut self, to: SocketAddr) -> Result<SocketAddr, Nowhere> {
        let (ip, port) = (to.ip(), to.port());
        let loopback = match ip {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
        };
        if port == 0 {
            return Err(Nowhere::Refused);
        }
        if self.subnet.is_router(ip) && !(self.subnet.is_names(ip) && port == DNS) {
            return if self.loopback { Ok(SocketAddr::new(loopback, port)) } else { Err(Nowhere::Refused) };
        }
        if self.subnet.is_names(ip) {
            if !self.outside || port != DNS {
                return Err(Nowhere::Refused);
            }
            return self.resolver.server().ok_or(Nowhere::Refused);
        }
        if self.subnet.is_local(ip) || !is_elsewhere(ip) {
            return Err(Nowhere::Unreachable);
        }
        if self.outside { Ok(to) } else { Err(Nowhere::Prohibited) }
    }

    /// What the guest sees in place of a peer on the host's side.
    pub fn disguise(&self, peer: SocketAddr, v6: bool) -> SocketAddr {
        let ip = match peer.ip().to_canonical() {
            ip @ IpAddr::V4(_) if !v6 && is_elsewhere(ip) && !self.subnet.is_local(ip) => ip,
            ip @ IpAddr::V6(_) if v6 && is_elsewhere(ip) && !self.subnet.is_local(ip) => ip,
            _ if v6 => ROUTER6.into(),
            _ => self.subnet.router.into(),
        };
        SocketAddr::new(ip, peer.port())
    }

    /// Remembers where the guest has shown itself.
    pub fn seen(&mut self, source: IpAddr) {
        let subnet = &self.subnet;
        if !subnet.is_local(source) || subnet.is_router(source) || subnet.is_names(source) {
            return;
        }
        match source {
            IpAddr::V4(ip) => self.guest = ip,
            IpAddr::V6(ip) if !is_link(ip) => self.guest6 = Some(ip),
            IpAddr::V6(_) => {}
        }
    }
}

fn is_link(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

/// An address that names one machine other than this one. What the host takes for itself (0.0.0.0/8, an IPv4
/// address in IPv6's clothes) is none.
fn is_elsewhere(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let first = ip.octets()[0];
            first != 0 && !ip.is_loopback() && !ip.is_link_local() && first < 224
        }
        IpAddr::V6(ip) => {
            let embeds = ip.segments()[..5] == [0; 5];
            !embeds && !ip.is_multicast() && !is_link(ip)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lan(loopback: bool, outside: bool) -> Lan {
        let resolver = Resolver::of("nameserver 192.0.2.53\n");
        let subnet = Subnet::default();
        Lan { subnet, loopback, outside, guest_mac: ROUTER_MAC, guest: GUEST, guest6: None, resolver }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_host_s_loopback_is_the_router_s_address_if_it_is_allowed() {
        for (router, loopback) in [("10.0.2.2:80", "127.0.0.1:80"), ("[fd67:6573:7468::2]:80", "[::1]:80")] {
            assert_eq!(lan(true, true).translate(at(router)), Ok(at(loopback)));
            assert_eq!(lan(false, true).translate(at(router)), Err(Nowhere::Refused));
        }
        for host in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "[::]:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "[::127.0.0.1]:80",
        ] {
            assert_eq!(lan(true, true).translate(at(host)), Err(Nowhere::Unreachable), "{host}");
        }
    }

    #[test]
    fn the_world_is_reached_and_nobody_else() {
        for world in ["198.51.100.7:80", "[2001:db8::1]:443"] {
            assert_eq!(lan(false, true).translate(at(world)), Ok(at(world)));
            assert_eq!(lan(false, false).translate(at(world)), Err(Nowhere::Prohibited));
            assert_eq!(lan(false, true).disguise(at(world), world.contains('[')), at(world));
        }
        for nobody in [
            "10.0.2.99:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[ff02::1]:80",
            "[fe80::9]:80",
            "169.254.0.1:80",
        ] {
            assert_eq!(lan(false, true).translate(at(nobody)), Err(Nowhere::Unreachable), "{nobody}");
        }
        assert_eq!(lan(false, true).translate(at("198.51.100.7:0")), Err(Nowhere::Refused));
    }

    #[test]
    fn names_go_to_the_host_s_resolver() {
        for names in ["10.0.2.3:53", "[fd67:6573:7468::3]:53"] {
            assert_eq!(lan(false, true).translate(at(names)), Ok(at("192.0.2.53:53")));
            assert_eq!(lan(false, false).translate(at(names)), Err(Nowhere::Refused));
        }
        assert_eq!(lan(false, true).translate(at("10.0.2.3:80")), Err(Nowhere::Refused));
    }

    #[test]
    fn peers_that_the_guest_could_not_answer_look_like_the_router() {
        for (peer, v6, seen) in [
            ("127.0.0.1:5", false, "10.0.2.2:5"),
            ("[::1]:5", false, "10.0.2.2:5"),
            ("[::ffff:198.51.100.7]:5", false, "198.51.100.7:5"),
            ("10.0.2.15:5", false, "10.0.2.2:5"),
            ("198.51.100.7:5", true, "[fd67:6573:7468::2]:5"),
        ] {
            assert_eq!(lan(false, true).disguise(at(peer), v6), at(seen), "{peer}");
        }
    }
}
