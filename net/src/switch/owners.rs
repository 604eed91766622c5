//! Whose an IP address is: the switch's, a member's that was given it, or whoever's who used it first (RFC 6620).

use std::collections::HashMap;
use std::net::IpAddr;

use super::{PortId, Vlan};
use crate::Mac;

/// Most addresses that a port may come by itself.
const MOST_CLAIMED: usize = 16;

struct Owner {
    port: PortId,
    mac: Mac,
}

/// All addresses.
#[derive(Default)]
pub struct Owners {
    owners: HashMap<(Vlan, IpAddr), Owner>,
    claimed: HashMap<PortId, usize>,
}

impl Owners {
    /// Gives an address to a port.
    pub fn give(&mut self, vlan: Vlan, ip: IpAddr, port: PortId, mac: Mac) {
        self.owners.insert((vlan, ip), Owner { port, mac });
    }

    /// Who has an address.
    pub fn find(&self, vlan: Vlan, ip: IpAddr) -> Option<(PortId, Mac)> {
        self.owners.get(&(vlan, ip)).map(|owner| (owner.port, owner.mac))
    }

    /// The address is a port's, or nobody's until now; false if it is another's.
    pub fn claim(&mut self, vlan: Vlan, ip: IpAddr, port: PortId, mac: Mac) -> bool {
        if let Some(owner) = self.owners.get_mut(&(vlan, ip)) {
            if owner.port == port {
                owner.mac = mac;
            }
            return owner.port == port;
        }
        let count = self.claimed.entry(port).or_default();
        if *count >= MOST_CLAIMED {
            return false;
        }
        *count += 1;
        self.give(vlan, ip, port, mac);
        true
    }

    /// A port's addresses.
    pub fn of_port(&self, port: PortId) -> Vec<(Vlan, IpAddr)> {
        let own = self.owners.iter().filter(|(_, owner)| owner.port == port);
        let mut all: Vec<_> = own.map(|(&key, _)| key).collect();
        all.sort();
        all
    }

    /// A port's are free.
    pub fn forget(&mut self, port: PortId) {
        self.owners.retain(|_, owner| owner.port != port);
        self.claimed.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_first_keeps_it_until_he_goes() {
        let (mut owners, vlan) = (Owners::default(), Vlan::DEFAULT);
        let ip: IpAddr = "fe80::1".parse().unwrap();
        let (a, b) = (Mac([2; 6]), Mac([4; 6]));
        assert!(
            owners.claim(vlan, ip, 1, a) && owners.claim(vlan, ip, 1, a) && !owners.claim(vlan, ip, 2, b)
        );
        assert!(owners.claim(2.try_into().unwrap(), ip, 2, b), "another VLAN");
        owners.forget(1);
        assert!(owners.claim(vlan, ip, 2, b));
        assert_eq!(owners.find(vlan, ip), Some((2, b)));
    }

    #[test]
    fn nobody_takes_them_all() {
        let mut owners = Owners::default();
        let taken = (0..1000u16).filter(|i| {
            let ip = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, *i]);
            owners.claim(Vlan::DEFAULT, ip, 1, Mac([2; 6]))
        });
        assert_eq!(taken.count(), MOST_CLAIMED);
    }
}
