//! The machine's socket device: on the host, its ports are Unix sockets. A client connects to the device's own; a guest
//! that calls port N of the host reaches who listens at that path with `_N` behind it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, socket_with,
};
use serde::{Deserialize, Serialize};
use virtio::{Vsock, VsockHost};

use crate::listener::{SocketFile, listen_at};
use crate::{MachineError, MachineSpec};

/// Clients that wait.
const BACKLOG: i32 = 128;
/// Addresses below are the hypervisor's, this computer's and the host's.
const FIRST_CID: u32 = 3;
/// Longest path of a socket, with room for a port.
const MAX_PATH: usize = 107 - "_4294967295".len();

/// Sockets between the guest and the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockSpec {
    /// The guest's address, from 3 on.
    #[serde(default = "first")]
    pub cid: u32,
    /// Where clients of the host's connect.
    pub path: PathBuf,
}

fn first() -> u32 {
    FIRST_CID
}

impl Default for VsockSpec {
    fn default() -> Self {
        Self { cid: FIRST_CID, path: PathBuf::new() }
    }
}

/// Checks address and path.
pub fn validate(spec: Option<&VsockSpec>) -> Result<(), MachineError> {
    let Some(VsockSpec { cid, path }) = spec else { return Ok(()) };
    if !(FIRST_CID..u32::MAX).contains(cid) {
        return Err(MachineError::VsockCid(*cid));
    }
    if !(1..=MAX_PATH).contains(&path.as_os_str().len()) {
        return Err(MachineError::VsockPath { path: path.clone(), max: MAX_PATH });
    }
    Ok(())
}

/// The host's side.
pub struct VsockSocket {
    listener: OwnedFd,
    file: SocketFile,
    path: PathBuf,
}

impl VsockSocket {
    /// Removes the file: nobody else can come.
    pub fn close(&self) {
        self.file.remove();
    }
}

impl Drop for VsockSocket {
    fn drop(&mut self) {
        self.close();
    }
}

impl VsockHost for VsockSocket {
    fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn accept(&self) -> Result<OwnedFd, Errno> {
        accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    fn connect(&self, port: u32) -> Result<OwnedFd, Errno> {
        let path = [self.path.as_os_str().as_bytes(), format!("_{port}").as_bytes()].concat();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    }
}

/// A device and what it stands on.
pub struct Opened {
    pub socket: Arc<VsockSocket>,
    pub device: Arc<Vsock>,
}

/// Makes the socket and the device.
pub fn open(spec: &MachineSpec) -> Result<Option<Opened>, MachineError> {
    let Some(VsockSpec { cid, path }) = &spec.vsock else { return Ok(None) };
    let (listener, file) = listen_at(path, BACKLOG)?;
    let socket = Arc::new(VsockSocket { listener, file, path: path.clone() });
    let device = Vsock::new((*cid).into(), socket.clone()).map_err(MachineError::Thread)?;
    Ok(Some(Opened { socket, device: Arc::new(device) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_paths_that_cannot_be_are_refused() {
        let check = |cid, path: &str| {
            validate(Some(&VsockSpec { cid, path: path.into() })).map_err(|error| error.to_string())
        };
        validate(None).unwrap();
        check(3, "a").unwrap();
        check(u32::MAX - 1, &"a".repeat(96)).unwrap();
        for cid in [0, 2, u32::MAX] {
            assert!(check(cid, "a").unwrap_err().contains(&cid.to_string()));
        }
        for path in ["", &"a".repeat(97)] {
            assert!(check(3, path).unwrap_err().contains("96 bytes"), "{path}");
        }
        let spec: VsockSpec = toml::from_str("path = \"v.sock\"").unwrap();
        assert_eq!(spec, VsockSpec { cid: 3, path: "v.sock".into() });
        assert!(toml::from_str::<VsockSpec>("path = \"v\"\nport = 1").is_err());
    }
}
