//! What a switch says of itself.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::spec::Range;
use super::vlan::Vlan;
use crate::Mac;

/// A switch and who is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its process.
    pub pid: u32,
    /// Its VLANs.
    pub vlans: Vec<VlanReport>,
    /// Its members.
    pub ports: Vec<PortReport>,
}

/// A VLAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanReport {
    /// Its number.
    pub id: Vlan,
    /// Its addresses, if the switch hands them out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Range>,
    /// The switch's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// It leads to the host's networks.
    pub uplink: bool,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// Its number.
    pub port: u16,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The process that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its card.
    pub mac: Mac,
    /// The VLAN of its frames without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// Those of frames with a tag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<Vlan>,
    /// Its addresses, as it was given them or uses them.
    pub addresses: Vec<(Vlan, IpAddr)>,
    /// Cards behind it, and how many seconds ago each was seen.
    pub cards: Vec<(Vlan, Mac, u64)>,
    /// Most bytes in a second, in each direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// It may use others' addresses.
    pub spoof: bool,
    /// What went through.
    pub counters: Counters,
}

/// Frames and bytes, as the member sends and receives them, and what was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Frames from the member.
    pub sent: u64,
    /// And their bytes.
    pub sent_bytes: u64,
    /// Frames to the member.
    pub received: u64,
    /// And their bytes.
    pub received_bytes: u64,
    /// Frames from the member that were no frames, or of a VLAN that is not its own.
    pub lost_vlan: u64,
    /// Frames from the member in another's name.
    pub lost_spoofed: u64,
    /// Frames from the member to everybody, of which there were too many.
    pub lost_floods: u64,
    /// Frames to the member for which it had no room.
    pub lost_full: u64,
}
