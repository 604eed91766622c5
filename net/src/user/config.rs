//! What a user-mode network is to be.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Mac;

/// The definition of a user-mode network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserConfig {
    /// The address of the guest's card, if it is to be another than usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Ports of the host that lead into the guest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// The guest reaches the host's loopback at the router's address.
    pub loopback: bool,
    /// The guest reaches what is beyond its own network.
    pub outside: bool,
    /// File for all frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<PathBuf>,
}

impl Default for UserConfig {
    fn default() -> Self {
        Self { mac: None, forwards: Vec::new(), loopback: false, outside: true, capture: None }
    }
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host that leads to one of the guest's: `[tcp:|udp:][ADDRESS:]PORT:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Forward {
    /// TCP or UDP.
    pub transport: Transport,
    /// Where the host listens. Port 0 is one of the host's choice.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.transport.name(), self.host, self.guest)
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (transport, rest) = match text.split_once(':') {
                Some(("tcp", rest)) => (Transport::Tcp, rest),
                Some(("udp", rest)) => (Transport::Udp, rest),
                _ => (Transport::Tcp, text),
            };
            let (host, guest) = rest.rsplit_once(':')?;
            let guest = guest.parse().ok().filter(|&port| port != 0)?;
            let host = match host.parse() {
                Ok(port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
                Err(_) => host.parse().ok()?,
            };
            Some(Self { transport, host, guest })
        };
        parse().ok_or_else(|| {
            format!("{text:?} forwards nothing: give [tcp:|udp:][ADDRESS:]PORT:PORT, such as 2222:22")
        })
    }
}

impl TryFrom<String> for Forward {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Forward> for String {
    fn from(forward: Forward) -> Self {
        forward.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_listen_on_the_loopback_unless_told_otherwise() {
        for (text, whole) in [
            ("2222:22", "tcp:127.0.0.1:2222:22"),
            ("udp:5353:53", "udp:127.0.0.1:5353:53"),
            ("0.0.0.0:80:8080", "tcp:0.0.0.0:80:8080"),
            ("tcp:[::]:80:8080", "tcp:[::]:80:8080"),
            ("0:22", "tcp:127.0.0.1:0:22"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward.to_string(), whole);
            assert_eq!(whole.parse(), Ok(forward));
        }
        for wrong in ["", "22", "a:22", "22:0", "22:65536", "sctp:22:22", "host:22:22", ":22", "22:"] {
            let error = wrong.parse::<Forward>().unwrap_err();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
    }
}
