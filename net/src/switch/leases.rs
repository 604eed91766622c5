//! Which IPv4 address a member gets: the same one every time, as long as there are enough of them.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use super::spec::Range;
use crate::Mac;

/// Most cards that are remembered.
const MOST: usize = 4096;

/// The addresses of one subnet. The switch's own is its first.
pub struct Leases {
    range: Range,
    by_mac: HashMap<Mac, Ipv4Addr>,
    by_ip: BTreeMap<Ipv4Addr, Mac>,
}

impl Leases {
    pub fn new(range: Range) -> Self {
        Self { range, by_mac: HashMap::new(), by_ip: BTreeMap::new() }
    }

    /// The address of a card, the `wanted` one if there is such a wish; `in_use` says which addresses are members'.
    ///
    /// # Errors
    /// The wish cannot be granted, or no address is left.
    pub fn grant(
        &mut self,
        mac: Mac,
        wanted: Option<Ipv4Addr>,
        in_use: impl Fn(Ipv4Addr) -> bool,
    ) -> Result<Ipv4Addr, String> {
        let ip = match wanted {
            Some(ip) if !self.range.is_member(ip) => {
                return Err(format!("address {ip} is no member's address of {}: choose another", self.range));
            }
            Some(ip) if in_use(ip) => return Err(format!("address {ip} is in use: choose another")),
            Some(ip) => ip,
            None => match self.by_mac.get(&mac).filter(|ip| !in_use(**ip)) {
                Some(&ip) => return Ok(ip),
                None => self.free(mac, &in_use)?,
            },
        };
        self.forget(ip, mac);
        if self.by_mac.len() >= MOST
            && let Some(old) = self.by_ip.keys().copied().find(|ip| !in_use(*ip))
        {
            self.forget(old, mac);
        }
        self.by_mac.insert(mac, ip);
        self.by_ip.insert(ip, mac);
        Ok(ip)
    }

    /// An address that was nobody's, from a place on that depends on the card; or somebody's who has gone.
    fn free(&self, mac: Mac, in_use: &impl Fn(Ipv4Addr) -> bool) -> Result<Ipv4Addr, String> {
        let (first, count) = self.range.members();
        let start = hash(&mac.0) % u64::from(count);
        let at = |i: u32| {
            let offset = (start + u64::from(i)) % u64::from(count);
            Ipv4Addr::from(u32::from(first).wrapping_add(offset as u32))
        };
        // As many as are remembered can be taken at most, so that one of the next is free.
        let tries = count.min(MOST as u32 + 1);
        let fresh = (0..tries).map(at).find(|ip| !self.by_ip.contains_key(ip) && !in_use(*ip));
        let ip = fresh.or_else(|| (0..tries).map(at).find(|ip| !in_use(*ip)));
        ip.ok_or_else(|| {
            format!("all addresses of {} are in use: make a switch with a larger subnet", self.range)
        })
    }

    /// Neither the address nor the card has a lease.
    fn forget(&mut self, ip: Ipv4Addr, mac: Mac) {
        if let Some(other) = self.by_ip.remove(&ip) {
            self.by_mac.remove(&other);
        }
        if let Some(other) = self.by_mac.remove(&mac) {
            self.by_ip.remove(&other);
        }
    }
}

/// FNV-1a, 64 bits: the same in every release, and nobody gains by a collision.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(i: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, i])
    }

    fn leases(text: &str) -> Leases {
        Leases::new(text.parse().unwrap())
    }

    #[test]
    fn a_card_gets_its_address_again() {
        let (mut a, mut b) = (leases("10.5.0.0/24"), leases("10.5.0.0/24"));
        let first = a.grant(mac(1), None, |_| false).unwrap();
        assert_ne!(a.grant(mac(2), None, |ip| ip == first).unwrap(), first);
        assert_eq!(a.grant(mac(1), None, |_| false), Ok(first));
        assert_eq!(b.grant(mac(1), None, |_| false), Ok(first), "of another switch too");
    }

    #[test]
    fn wishes_are_granted_if_they_can_be() {
        let mut leases = leases("10.5.0.0/29");
        let ip: Ipv4Addr = [10, 5, 0, 6].into();
        assert_eq!(leases.grant(mac(1), Some(ip), |_| false), Ok(ip));
        assert_eq!(leases.grant(mac(1), None, |_| false), Ok(ip));
        assert!(leases.grant(mac(2), Some(ip), |_| true).unwrap_err().contains("in use"));
        for wrong in [[10, 5, 0, 0], [10, 5, 0, 1], [10, 5, 0, 7], [10, 6, 0, 2]] {
            assert!(leases.grant(mac(2), Some(wrong.into()), |_| false).unwrap_err().contains("10.5.0.0/29"));
        }
        assert_eq!(leases.grant(mac(2), Some(ip), |_| false), Ok(ip), "from somebody who has gone");
        assert_ne!(leases.grant(mac(1), None, |other| other == ip), Ok(ip));
    }

    #[test]
    fn when_all_are_taken_those_who_have_gone_lose_theirs() {
        let mut leases = leases("10.5.0.0/29");
        let mut used: Vec<_> = (0..5).map(|i| leases.grant(mac(i), None, |_| false).unwrap()).collect();
        let gone = used.pop().unwrap();
        assert_eq!(leases.grant(mac(9), None, |ip| used.contains(&ip)), Ok(gone));
        used.push(gone);
        used.sort();
        used.dedup();
        assert_eq!(used.len(), 5, "all different");
        assert!(leases.grant(mac(10), None, |ip| used.contains(&ip)).unwrap_err().contains("larger subnet"));
    }
}
