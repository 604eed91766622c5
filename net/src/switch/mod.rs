//! A switch that machines join by a Unix socket (`guesthouse net`): learning, with VLANs, addresses and names for its
//! members, and a way out through the address translation of [`UserNet`](crate::UserNet).
//!
//! # Parts
//! [`fabric`] decides where a frame goes and knows no descriptor; [`process`] is the loop around it with sockets and
//! clocks; [`client`] is a machine's end; [`home`] is where switches are found.
//!
//! # Trust
//! Members are hostile guests. A member is what it joined as: frames from another Ethernet address, of an IP address that
//! is not its own, with a tag on a port that has none, or in the place of a router are dropped. What a member neither
//! reads nor sends costs the others nothing: its queue is bounded, its floods are limited, its tables have quotas.

mod bucket;
mod client;
mod dhcp;
mod dns;
mod fabric;
mod frame;
mod guard;
mod hello;
mod home;
mod jail;
mod leases;
mod macs;
mod owners;
mod process;
mod report;
mod services;
mod spec;
#[cfg(test)]
mod testing;
mod uplink;
mod vlan;

pub use client::{SwitchConfig, SwitchNet};
pub use hello::{Answer, Request, ask, attach, check_host_name};
pub use home::{Folder, Held, Home, check_name};
pub use process::Switch;
pub use report::{Counters, PortReport, Report, VlanReport};
pub use spec::{Range, SwitchSpec, VlanSpec};
pub use vlan::Vlan;

/// Number of a member; [`SERVICES`] is the switch itself.
type PortId = u16;
/// The switch's own port in every VLAN that has addresses.
const SERVICES: PortId = u16::MAX;
/// Most members at a time.
const MAX_PORTS: usize = 256;
