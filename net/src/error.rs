//! Why there is no network.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

/// Errors of networks; each message is one line: fact, object, remedy.
#[derive(Debug, Error)]
pub enum NetError {
    /// The host refuses a port that is to be forwarded.
    #[error("{protocol} port {address} cannot be forwarded ({source}): choose another port of the host")]
    Forward {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// Where it was to listen.
        address: SocketAddr,
        /// What the host said.
        source: io::Error,
    },
    /// The host refuses a TAP device.
    #[error(
        "tap device {device} cannot be used ({source}): make it with ip tuntap add dev {device} mode tap user USER"
    )]
    Tap {
        /// Its name.
        device: String,
        /// What the host said.
        source: io::Error,
    },
    /// There is no such switch.
    #[error("there is no switch {0}: make it with guesthouse net create {0}")]
    NoSwitch(String),
    /// A switch does not take the machine.
    #[error("switch {name}: {why}")]
    Switch {
        /// Its name.
        name: String,
        /// What it said: fact, object, remedy.
        why: String,
    },
    /// The capture cannot be written.
    #[error("capture file {} cannot be written ({source}): check the path and its permissions", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The host gives no descriptors or threads.
    #[error("the host refuses what a network needs ({0}): raise its limits of open files and tasks")]
    Host(#[from] io::Error),
}
