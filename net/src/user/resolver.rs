//! The host's name server: what /etc/resolv.conf says, as it changes.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use jail::{Access, Jail};

const FILE: &str = "/etc/resolv.conf";
/// How long an answer is taken for granted.
const FRESH: Duration = Duration::from_secs(1);

/// The name server that the host asks first.
#[derive(Debug, Default)]
pub struct Resolver {
    /// When it was looked up, and what was found.
    known: Option<(Instant, Option<SocketAddr>)>,
    fixed: bool,
}

impl Resolver {
    /// It may read its file, in the jail of its process.
    pub fn allow(jail: &mut Jail) {
        jail.allow(FILE, Access::Read);
        // Where it is a link, its target is replaced when the host moves.
        if let Ok(target) = Path::new(FILE).canonicalize()
            && !target.starts_with("/etc")
            && let Some(folder) = target.parent()
        {
            jail.allow(folder, Access::Read);
        }
    }

    /// One that asks whom a text in the form of resolv.conf says.
    #[cfg(test)]
    pub fn of(text: &str) -> Self {
        Self { known: Some((Instant::now(), parse(text))), fixed: true }
    }

    /// One that asks this server.
    #[cfg(test)]
    pub fn at(server: SocketAddr) -> Self {
        Self { known: Some((Instant::now(), Some(server))), fixed: true }
    }

    /// The server; None if the host has none.
    pub fn server(&mut self) -> Option<SocketAddr> {
        let now = Instant::now();
        if let Some((at, server)) = self.known
            && (self.fixed || now.saturating_duration_since(at) < FRESH)
        {
            return server;
        }
        let server = std::fs::read_to_string(FILE).ok().and_then(|text| parse(&text));
        self.known = Some((now, server));
        server
    }
}

/// The first name server. Addresses that need a zone are passed over.
fn parse(text: &str) -> Option<SocketAddr> {
    let words = text.lines().map(|line| line.split_whitespace());
    let mut servers = words.filter_map(|mut words| match (words.next(), words.next()) {
        (Some("nameserver"), Some(address)) => address.parse::<IpAddr>().ok(),
        _ => None,
    });
    servers.next().map(|ip| SocketAddr::new(ip, 53))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_server_counts() {
        let text = "# a comment\nsearch example\nnameserver fe80::1%eth0\nnameserver  192.0.2.1 # first\nnameserver 192.0.2.2\n";
        assert_eq!(parse(text), Some("192.0.2.1:53".parse().unwrap()));
        assert_eq!(parse("nameserver 2001:db8::1\n"), Some("[2001:db8::1]:53".parse().unwrap()));
        assert_eq!((parse(""), parse("nameserver\nnameserver x")), (None, None));
        assert_eq!(Resolver::of("").server(), None);
    }
}
