//! The machine's virtio console: the user's terminal, if it is there and not at the serial port, and ports with names,
//! which are Unix sockets on the host.

mod agent;
mod socket;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ::agent::Host;
use serde::{Deserialize, Serialize};
use virtio::{Console, PortBackend, VirtioDevice};

use crate::{MachineError, MachineSpec};
pub use socket::SocketPort;

/// Longest name of a port.
const MAX_NAME: usize = 64;

/// Where the user's terminal is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleKind {
    /// The serial port.
    #[default]
    Serial,
    /// A virtio console, `hvc0` in Linux, which knows the terminal's size. The serial port has no input then.
    Virtio,
}

impl ConsoleKind {
    /// All of them, for help texts.
    pub const NAMES: [&'static str; 2] = ["serial", "virtio"];
}

impl fmt::Display for ConsoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Serial => "serial",
            Self::Virtio => "virtio",
        })
    }
}

impl FromStr for ConsoleKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Serial, Self::Virtio]
            .into_iter()
            .find(|k| k.to_string() == name)
            .ok_or_else(|| format!("no console {name:?}: take one of {}", Self::NAMES.join(", ")))
    }
}

/// A port of a machine: a stream of bytes between the guest and whoever connects to a socket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortSpec {
    /// What the guest calls it: `/dev/virtio-ports/NAME` in Linux.
    pub name: String,
    /// The socket.
    pub path: PathBuf,
}

/// Checks the names of ports.
pub fn validate(ports: &[PortSpec]) -> Result<(), MachineError> {
    // One is the agent's.
    if ports.len() >= Console::MAX_PORTS {
        return Err(MachineError::Ports(ports.len()));
    }
    for (index, PortSpec { name, path }) in ports.iter().enumerate() {
        // A name becomes a file's.
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(plain) || name.starts_with('.') {
            return Err(MachineError::PortName(name.clone()));
        }
        let same = |other: &&PortSpec| other.name == *name || other.path == *path;
        if name == ::agent::protocol::PORT {
            return Err(MachineError::SamePort { name: name.clone(), other: "the agent's".to_owned() });
        }
        if let Some(other) = ports.iter().take(index).find(same) {
            return Err(MachineError::SamePort { name: name.clone(), other: other.name.clone() });
        }
    }
    Ok(())
}

/// Makes the sockets.
pub fn open(ports: &[PortSpec]) -> Result<Vec<Arc<SocketPort>>, MachineError> {
    ports.iter().map(|port| Ok(Arc::new(SocketPort::new(&port.path)?))).collect()
}

/// Makes the devices: one for the ports, of which the last is the agent's, and one for the terminal, whose size all
/// drivers understand if it is alone.
pub fn devices(
    spec: &MachineSpec,
    terminal: Arc<dyn PortBackend>,
    ports: &[Arc<SocketPort>],
    agent: &Arc<Host>,
) -> Result<Vec<Arc<dyn VirtioDevice>>, MachineError> {
    let mut devices: Vec<Arc<dyn VirtioDevice>> = Vec::new();
    let backends = ports.iter().map(|port| port.clone() as Arc<dyn PortBackend>);
    let named = spec.ports.iter().map(|port| port.name.clone()).zip(backends);
    let named = named.chain([agent::port(agent)]);
    devices.push(Arc::new(Console::new(None, named).map_err(MachineError::Thread)?));
    if spec.console == ConsoleKind::Virtio {
        devices.push(Arc::new(Console::new(Some(terminal), []).map_err(MachineError::Thread)?));
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ports_are_names_of_files_and_distinct() {
        let port = |name: &str, path: &str| PortSpec { name: name.to_owned(), path: path.into() };
        validate(&[port("org.guest_agent.0", "a"), port("b-2", "b")]).unwrap();
        for name in ["", ".", "..", ".a", "a/b", "a b", "a\n", "\u{e9}", &"a".repeat(65)] {
            let error = validate(&[port(name, "a")]).unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")) && !error.contains('\n'), "{error}");
        }
        for other in [port("a", "y"), port("b", "x")] {
            assert!(matches!(validate(&[port("a", "x"), other]), Err(MachineError::SamePort { .. })));
        }
        let many: Vec<_> = (0..29).map(|i| port(&i.to_string(), &i.to_string())).collect();
        validate(&many[..28]).unwrap();
        assert!(validate(&many).unwrap_err().to_string().contains("29 ports"));
    }
}
