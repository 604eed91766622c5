//! Unix sockets that clients of the host's connect to.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::MachineError;

/// The file of a socket.
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: it might be another one's by now.
    file: (u64, u64),
}

impl SocketFile {
    /// Removes it, if it is still there.
    pub fn remove(&self) {
        if self.path.symlink_metadata().is_ok_and(|meta| (meta.dev(), meta.ino()) == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A socket that listens at `path`, where the socket of a program that has ended may lie. Only the user may connect.
///
/// # Errors
/// Something else is there, or the host refuses it.
pub fn listen_at(path: &Path, backlog: i32) -> Result<(OwnedFd, SocketFile), MachineError> {
    let refused = |source: io::Error| MachineError::PortSocket { path: path.to_owned(), source };
    let host = |errno: Errno| refused(errno.into());
    let address = SocketAddrUnix::new(path).map_err(host)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(host)?;
    // The file will have the mode of the socket.
    fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(host)?;
    if let Err(errno) = bind(&socket, &address) {
        if errno != Errno::ADDRINUSE {
            return Err(host(errno));
        }
        if !path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket()) {
            return Err(MachineError::PortFile(path.to_owned()));
        }
        // Whoever listens there does not notice a call of another type, which says that somebody does.
        let call = UnixDatagram::unbound().and_then(|caller| caller.connect(path));
        match call.err().map(|e| e.kind()) {
            Some(io::ErrorKind::ConnectionRefused) => std::fs::remove_file(path).map_err(refused)?,
            Some(io::ErrorKind::NotFound) => {}
            _ => return Err(MachineError::PortBusy(path.to_owned())),
        }
        bind(&socket, &address).map_err(host)?;
    }
    listen(&socket, backlog).map_err(host)?;
    let meta = path.symlink_metadata().map_err(refused)?;
    Ok((socket, SocketFile { path: path.to_owned(), file: (meta.dev(), meta.ino()) }))
}
