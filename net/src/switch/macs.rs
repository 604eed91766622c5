//! Where Ethernet addresses were seen (IEEE 802.1D, 7.9): who sends from an address is who gets what is sent to it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{PortId, Vlan};
use crate::Mac;

/// How long an address is remembered that sends nothing.
const AGE: Duration = Duration::from_secs(300);
/// Most addresses, in all and of one port: a port that invents addresses pushes out nobody's but its own.
const MOST: usize = 8192;
const MOST_OF_PORT: usize = 64;

struct Entry {
    port: PortId,
    seen: Instant,
    /// The port joined with this address: it is nobody else's.
    fixed: bool,
}

/// The table.
#[derive(Default)]
pub struct Macs {
    entries: HashMap<(Vlan, Mac), Entry>,
    counts: HashMap<PortId, usize>,
}

impl Macs {
    /// An address that a port has joined with.
    pub fn fix(&mut self, vlan: Vlan, mac: Mac, port: PortId, now: Instant) {
        self.remove(vlan, mac);
        self.insert(vlan, mac, Entry { port, seen: now, fixed: true });
    }

    /// `port` sends from an address. False if it is fixed to another.
    pub fn learn(&mut self, vlan: Vlan, mac: Mac, port: PortId, now: Instant) -> bool {
        match self.entries.get_mut(&(vlan, mac)) {
            Some(entry) if entry.port == port => {
                entry.seen = now;
                return true;
            }
            Some(entry) if entry.fixed => return false,
            Some(_) => self.remove(vlan, mac),
            None => {}
        }
        if self.entries.len() >= MOST || self.of(port) >= MOST_OF_PORT {
            self.expire(now);
        }
        // Who is not remembered is still reached, as everybody unknown is.
        if self.entries.len() < MOST && self.of(port) < MOST_OF_PORT {
            self.insert(vlan, mac, Entry { port, seen: now, fixed: false });
        }
        true
    }

    /// Who has an address.
    pub fn find(&self, vlan: Vlan, mac: Mac, now: Instant) -> Option<PortId> {
        let entry = self.entries.get(&(vlan, mac))?;
        (entry.fixed || now.saturating_duration_since(entry.seen) < AGE).then_some(entry.port)
    }

    /// A port's addresses, with the seconds since they were seen.
    pub fn of_port(&self, port: PortId, now: Instant) -> Vec<(Vlan, Mac, u64)> {
        let own = self.entries.iter().filter(|(_, entry)| entry.port == port);
        let mut all: Vec<_> = own
            .map(|(&(vlan, mac), entry)| (vlan, mac, now.saturating_duration_since(entry.seen).as_secs()))
            .collect();
        all.sort_by_key(|(vlan, mac, _)| (*vlan, mac.0));
        all
    }

    /// Forgets a port's.
    pub fn forget(&mut self, port: PortId) {
        self.entries.retain(|_, entry| entry.port != port);
        self.counts.remove(&port);
    }

    fn of(&self, port: PortId) -> usize {
        self.counts.get(&port).copied().unwrap_or(0)
    }

    fn insert(&mut self, vlan: Vlan, mac: Mac, entry: Entry) {
        *self.counts.entry(entry.port).or_default() += 1;
        self.entries.insert((vlan, mac), entry);
    }

    fn remove(&mut self, vlan: Vlan, mac: Mac) {
        if let Some(entry) = self.entries.remove(&(vlan, mac))
            && let Some(count) = self.counts.get_mut(&entry.port)
        {
            *count = count.saturating_sub(1);
        }
    }

    fn expire(&mut self, now: Instant) {
        let old = |entry: &Entry| !entry.fixed && now.saturating_duration_since(entry.seen) >= AGE;
        let gone: Vec<_> = self.entries.iter().filter(|(_, e)| old(e)).map(|(&key, _)| key).collect();
        gone.into_iter().for_each(|(vlan, mac)| self.remove(vlan, mac));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Vlan = Vlan::DEFAULT;

    fn mac(i: u16) -> Mac {
        let [a, b] = i.to_be_bytes();
        Mac([2, 0, 0, 0, a, b])
    }

    #[test]
    fn addresses_are_learned_per_vlan_move_and_grow_old() {
        let (mut macs, start) = (Macs::default(), Instant::now());
        let two: Vlan = 2.try_into().unwrap();
        assert!(macs.learn(ONE, mac(1), 7, start));
        assert_eq!((macs.find(ONE, mac(1), start), macs.find(two, mac(1), start)), (Some(7), None));
        assert!(macs.learn(ONE, mac(1), 8, start));
        assert_eq!(macs.find(ONE, mac(1), start + Duration::from_secs(299)), Some(8));
        assert_eq!(macs.find(ONE, mac(1), start + AGE), None);
        assert_eq!((macs.of(7), macs.of(8)), (0, 1));
        macs.forget(8);
        assert_eq!(macs.find(ONE, mac(1), start), None);
    }

    #[test]
    fn an_address_that_somebody_joined_with_is_nobody_else_s() {
        let (mut macs, now) = (Macs::default(), Instant::now());
        macs.fix(ONE, mac(1), 7, now);
        assert!(!macs.learn(ONE, mac(1), 8, now));
        assert_eq!(macs.find(ONE, mac(1), now + AGE * 2), Some(7));
    }

    #[test]
    fn a_port_that_invents_addresses_harms_itself() {
        let (mut macs, now) = (Macs::default(), Instant::now());
        macs.learn(ONE, mac(60_000), 1, now);
        for i in 0..20_000 {
            macs.learn(ONE, mac(i), 2, now);
        }
        assert_eq!((macs.entries.len(), macs.of(2)), (1 + MOST_OF_PORT, MOST_OF_PORT));
        assert_eq!(macs.find(ONE, mac(60_000), now), Some(1));
        // Later there is room again.
        macs.learn(ONE, mac(30_000), 2, now + AGE);
        assert_eq!(macs.of(2), 1);
    }
}
