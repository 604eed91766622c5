//! What a switch is to be.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Vlan;
use crate::UserConfig;

/// The definition of a switch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwitchSpec {
    /// Its VLANs. Without VLAN 1 members have to say which one they want.
    pub vlans: Vec<VlanSpec>,
    /// Members reach nothing but each other.
    pub no_uplink: bool,
    /// Members reach the host's loopback at the switch's address.
    pub loopback: bool,
    /// File for all frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<PathBuf>,
}

/// A VLAN of a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VlanSpec {
    /// Its number.
    pub id: Vlan,
    /// Its addresses, which the switch hands out; without, members have what they agree on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Range>,
}

impl FromStr for VlanSpec {
    type Err = String;

    /// `ID` or `ID=SUBNET`.
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.split_once('=') {
            Some((id, subnet)) => Self { id: id.parse()?, subnet: Some(subnet.parse()?) },
            None => Self { id: text.parse()?, subnet: None },
        })
    }
}

/// Most VLANs, each of which may have a thread for its way out.
const MOST_VLANS: usize = 64;

impl SwitchSpec {
    /// What the ways out of its subnets may reach.
    pub(crate) fn uplink(&self) -> UserConfig {
        UserConfig { outside: !self.no_uplink, loopback: self.loopback, ..UserConfig::default() }
    }

    /// Checks what can be checked alone.
    ///
    /// # Errors
    /// A VLAN twice, none or too many; subnets that overlap.
    pub fn validate(&self) -> Result<(), String> {
        if self.vlans.is_empty() || self.vlans.len() > MOST_VLANS {
            return Err(format!("a switch has 1 to {MOST_VLANS} VLANs and not {}", self.vlans.len()));
        }
        for (i, vlan) in self.vlans.iter().enumerate() {
            for other in self.vlans.iter().skip(i + 1) {
                if vlan.id == other.id {
                    return Err(format!("VLAN {} is named twice: give it one subnet", vlan.id));
                }
                if let (Some(a), Some(b)) = (vlan.subnet, other.subnet)
                    && a.overlaps(b)
                {
                    return Err(format!("subnets {a} and {b} overlap: choose others"));
                }
            }
        }
        Ok(())
    }
}

/// A subnet of IPv4 addresses, `10.5.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range {
    base: Ipv4Addr,
    prefix_len: u8,
}

impl Range {
    /// Bits of the network.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// The switch's address.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) | 1)
    }

    /// The network mask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX << (32 - u32::from(self.prefix_len)))
    }

    /// The address that is everybody's.
    pub fn broadcast(&self) -> Ipv4Addr {
        self.base | !self.mask()
    }

    /// The first address of members', and how many there are.
    pub(super) fn members(&self) -> (Ipv4Addr, u32) {
        let all = 1u32 << (32 - u32::from(self.prefix_len));
        (Ipv4Addr::from(u32::from(self.base).wrapping_add(2)), all.saturating_sub(3))
    }

    /// One that a member may have.
    pub fn is_member(&self, ip: Ipv4Addr) -> bool {
        ip & self.mask() == self.base && ip > self.gateway() && ip != self.broadcast()
    }

    /// They have addresses in common.
    pub fn overlaps(self, other: Self) -> bool {
        let mask = self.mask() & other.mask();
        self.base & mask == other.base & mask
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_len)
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (base, len) = text.split_once('/')?;
            let (base, prefix_len) = (base.parse::<Ipv4Addr>().ok()?, len.parse().ok()?);
            let range = Self { base, prefix_len };
            let first = base.octets()[0];
            let usable = first != 0 && first != 127 && first < 224;
            ((8..=29).contains(&prefix_len) && usable && base & range.mask() == base).then_some(range)
        };
        parse().ok_or_else(|| {
            format!("{text:?} is no subnet: give its first address and 8 to 29 bits, such as 10.5.0.0/24")
        })
    }
}

impl TryFrom<String> for Range {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_a_first_address_and_bits() {
        let range: Range = "10.5.0.0/24".parse().unwrap();
        assert_eq!((range.gateway(), range.broadcast()), ([10, 5, 0, 1].into(), [10, 5, 0, 255].into()));
        assert_eq!(range.members(), ([10, 5, 0, 2].into(), 253));
        for wrong in [
            "",
            "10.5.0.0",
            "10.5.0.1/24",
            "10.5.0.0/30",
            "10.0.0.0/7",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "0.0.0.0/8",
            "x/24",
            "fd00::/64",
        ] {
            assert!(wrong.parse::<Range>().unwrap_err().contains("10.5.0.0/24"), "{wrong}");
        }
    }

    #[test]
    fn vlans_are_distinct() {
        let spec = |vlans: &[&str]| SwitchSpec {
            vlans: vlans.iter().map(|v| v.parse().unwrap()).collect(),
            ..SwitchSpec::default()
        };
        assert_eq!(spec(&["1=10.5.0.0/24", "2", "3=10.5.1.0/24"]).validate(), Ok(()));
        assert!(spec(&["1", "1"]).validate().unwrap_err().contains("twice"));
        assert!(spec(&["1=10.0.0.0/8", "2=10.5.1.0/24"]).validate().unwrap_err().contains("overlap"));
        assert!(spec(&[]).validate().is_err());
        assert!("0".parse::<VlanSpec>().is_err() && "1=x".parse::<VlanSpec>().is_err());
    }
}
