//! What two machines cannot both have.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::{MachineSpec, NetSpec};

/// Makes a copy's definition one that can live beside the original: its sockets have the copy's name behind theirs, its cards
/// on switches other addresses, and what there is once, ports of the host's and files of captures, the original keeps.
pub fn make_distinct(spec: &mut MachineSpec, name: &str) {
    spec.ports.iter_mut().for_each(|port| port.path = beside(&port.path, name));
    if let Some(vsock) = &mut spec.vsock {
        vsock.path = beside(&vsock.path, name);
    }
    for net in &mut spec.nets {
        match net {
            // Its network is its own: the address disturbs nobody.
            NetSpec::User(config) => (config.forwards, config.capture) = (Vec::new(), None),
            NetSpec::Tap(config) => (config.mac, config.capture) = (None, None),
            NetSpec::Switch(config) => {
                let called = config.name.take().map(|_| name.to_owned());
                (config.name, config.mac, config.ip, config.capture) = (called, None, None, None);
            }
        }
    }
}

fn beside(path: &Path, name: &str) -> PathBuf {
    let mut text = OsString::from(path);
    text.push(".");
    text.push(name);
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortSpec, UserConfig};

    #[test]
    fn a_copy_takes_nothing_of_which_there_is_one() {
        let user = UserConfig { forwards: vec!["2222:22".parse().unwrap()], ..UserConfig::default() };
        let port = PortSpec { name: "a".to_owned(), path: "/run/a.sock".into() };
        let mut spec =
            MachineSpec { nets: vec![NetSpec::User(user)], ports: vec![port], ..MachineSpec::default() };
        make_distinct(&mut spec, "web-1");
        assert_eq!(spec.ports[0].path, Path::new("/run/a.sock.web-1"));
        assert_eq!(spec.nets, [NetSpec::User(UserConfig::default())]);
    }
}
