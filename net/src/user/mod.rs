//! A network of the guest's own, behind address translation (`--net user`): a router that hands out addresses and
//! answers for name servers, and sockets of the host's for all that goes further. Needs no privileges.
//!
//! The guest is 10.0.2.15 and fd67:6573:7468::/64, the router 10.0.2.2 and ::2 there, the name server 10.0.2.3 and
//! ::3.

mod arp;
pub(crate) mod checksum;
mod config;
mod context;
mod dhcp;
mod fragments;
mod icmp;
mod lan;
mod nat;
mod neighbours;
mod outlet;
mod packet;
mod ping;
mod resolver;
mod table;
mod tcp;
mod udp;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

pub use config::{Forward, Transport, UserConfig};
pub(crate) use lan::{ROUTER_MAC, Subnet};
pub use nat::{Nat, UserNet};

/// Both ends of a conversation as the guest sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    guest: SocketAddr,
    remote: SocketAddr,
}

/// What a descriptor is, as epoll tells it.
mod token {
    pub const BELL: u64 = 0;
    pub const TCP: u64 = 1;
    pub const TCP_PORT: u64 = 2;
    pub const UDP: u64 = 3;
    pub const UDP_PORT: u64 = 4;
    pub const PING: u64 = 5;

    pub fn tcp_port(index: usize) -> u64 {
        TCP_PORT << 60 | index as u64
    }

    pub fn udp_port(index: usize) -> u64 {
        UDP_PORT << 60 | index as u64
    }
}

/// What the guest is told of an error of the host's.
fn why(error: &io::Error) -> icmp::Why {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => icmp::Why::Port,
        io::ErrorKind::PermissionDenied => icmp::Why::Prohibited,
        _ => icmp::Why::Host,
    }
}

/// How many files this process may have open.
fn open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
}

/// Any address of a peer's kind.
fn any(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
mod tests;
