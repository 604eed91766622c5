//! Requests and their answers.

mod attr;
mod change;
mod dir;
mod file;
mod lookup;
mod session;

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::handles::{Handle, Handles};
use crate::host::{self, Key, Proc};
use crate::identity::Identity;
use crate::nodes::{Nodes, Way};
use crate::wire::{InHeader, OutHeader, op};
use crate::{ShareError, ShareOptions};

/// Most bytes of a request that anybody looks at, file data aside.
pub const MAX_REQUEST: usize = 1 << 16;
/// Most bytes of file data in a request or an answer.
pub const MAX_DATA: u32 = 1 << 20;
/// Descriptors that are neither a node's nor an open file's.
const RESERVED: usize = 16;

/// Where a request's file data is.
pub trait Data {
    /// Bytes of room behind the answer's header.
    fn room(&self) -> usize;

    /// Puts up to `len` bytes of the file from `offset` on behind the answer's header; the number of bytes.
    ///
    /// # Errors
    /// What the host says.
    fn read(&self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize>;

    /// Writes `len` bytes of the request from byte `skip` on to the file; the number of bytes.
    ///
    /// # Errors
    /// What the host says; `UnexpectedEof` if the request has less.
    fn write(&self, file: BorrowedFd<'_>, offset: u64, skip: u64, len: usize) -> io::Result<usize>;
}

/// A folder that is shared with a guest, and what that guest has of it.
pub struct Share {
    options: ShareOptions,
    identity: Identity,
    proc: Proc,
    root: Arc<OwnedFd>,
    root_key: Key,
    nodes: Mutex<Nodes>,
    handles: Mutex<Handles>,
}

/// What follows an answer's header.
enum Body {
    /// Nothing.
    Empty,
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes, which are there already.
    Placed(usize),
    /// There is no answer.
    Silence,
}

type Answer = Result<Body, Errno>;

impl Body {
    fn of(message: &(impl IntoBytes + Immutable)) -> Answer {
        Ok(Self::Bytes(message.as_bytes().to_vec()))
    }
}

/// What follows a request's header.
struct Arguments<'a>(&'a [u8]);

impl<'a> Arguments<'a> {
    fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, Errno> {
        let (message, rest) = T::read_from_prefix(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = rest;
        Ok(message)
    }

    /// A string with its end.
    fn text(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = self.0.get(text.count_bytes() + 1..).unwrap_or_default();
        Ok(text)
    }

    /// A name of one file.
    fn name(&mut self) -> Result<&'a CStr, Errno> {
        host::check_name(self.text()?)
    }
}

impl Share {
    /// Shares a folder with the rights of this process.
    ///
    /// # Errors
    /// The folder cannot be opened, or the host lacks what it needs.
    pub fn new(options: ShareOptions) -> Result<Self, ShareError> {
        Self::with_identity(options, Identity::of_process())
    }

    pub(crate) fn with_identity(options: ShareOptions, identity: Identity) -> Result<Self, ShareError> {
        let root = Arc::new(host::open_root(&options.path)?);
        let proc = Proc::open()?;
        let look = |source: Errno| ShareError::Open { path: options.path.clone(), source: source.into() };
        let root_key = Key::of(&host::stat(&root).map_err(look)?);
        let half = options.descriptors.saturating_sub(RESERVED) / 2;
        let nodes = Mutex::new(Nodes::new(root.clone(), root_key, half));
        let handles = Mutex::new(Handles::new(half));
        Ok(Self { options, identity, proc, root, root_key, nodes, handles })
    }

    /// The guest begins anew: it knows the root alone, and nothing is open.
    pub fn reset(&self) {
        let half = self.options.descriptors.saturating_sub(RESERVED) / 2;
        *self.nodes.lock() = Nodes::new(self.root.clone(), self.root_key, half);
        self.handles.lock().clear();
    }

    /// The guest knows more than the root.
    pub fn is_used(&self) -> bool {
        !self.nodes.lock().is_empty() || !self.handles.lock().is_empty()
    }

    /// Carries out a request, of which `request` is the beginning: all of it, or [`MAX_REQUEST`] bytes. The answer's
    /// header and what is to be put behind it; None if there is no answer. The header counts what [`Data::read`] has put
    /// there.
    pub fn handle(&self, request: &[u8], data: &dyn Data) -> Option<Vec<u8>> {
        let (header, rest) = InHeader::read_from_prefix(request).ok()?;
        let answer = self.answer(&header, Arguments(rest), data);
        tracing::trace!(op = header.opcode, node = header.node, error = ?answer.as_ref().err(), "share");
        let (error, body, placed) = match answer {
            Ok(Body::Silence) => return None,
            Ok(Body::Empty) => (0, Vec::new(), 0),
            Ok(Body::Bytes(bytes)) if bytes.len() <= data.room() => (0, bytes, 0),
            Ok(Body::Bytes(_)) => (-Errno::INVAL.raw_os_error(), Vec::new(), 0),
            Ok(Body::Placed(count)) => (0, Vec::new(), count),
            Err(error) => (-error.raw_os_error(), Vec::new(), 0),
        };
        let len = (size_of::<OutHeader>() + body.len() + placed) as u32;
        let header = OutHeader { len, error, unique: header.unique };
        Some([header.as_bytes(), &body].concat())
    }

    fn answer(&self, header: &InHeader, mut arguments: Arguments<'_>, data: &dyn Data) -> Answer {
        let arguments = &mut arguments;
        match header.opcode {
            op::INIT => self.init(arguments),
            op::DESTROY => {
                self.reset();
                Ok(Body::Empty)
            }
            op::STATFS => self.statfs(),
            op::SYNCFS => self.sync(),
            op::LOOKUP => self.lookup(header, arguments),
            op::FORGET => self.forget(header, arguments),
            op::BATCH_FORGET => self.forget_many(arguments),
            op::INTERRUPT => Ok(Body::Silence),
            op::GETATTR => self.getattr(header),
            op::SETATTR => self.setattr(header, arguments),
            op::READLINK => self.readlink(header),
            op::SYMLINK => self.symlink(header, arguments),
            op::MKNOD => self.mknod(header, arguments),
            op::MKDIR => self.mkdir(header, arguments),
            op::UNLINK => self.remove(header, arguments, false),
            op::RMDIR => self.remove(header, arguments, true),
            op::RENAME => self.rename(header, arguments, false),
            op::RENAME2 => self.rename(header, arguments, true),
            op::LINK => self.link(header, arguments),
            op::CREATE => self.create(header, arguments),
            op::OPEN => self.open(header, arguments),
            op::READ => self.read(arguments, data),
            op::WRITE => self.write(arguments, data),
            op::FSYNC | op::FSYNCDIR => self.fsync(arguments),
            op::FALLOCATE => self.fallocate(arguments),
            op::LSEEK => self.lseek(arguments),
            op::COPY_FILE_RANGE => self.copy_file_range(arguments),
            op::OPENDIR => self.open_folder(header),
            op::READDIR => self.read_folder(header, arguments, data, false),
            op::READDIRPLUS => self.read_folder(header, arguments, data, true),
            op::RELEASE | op::RELEASEDIR => self.release(arguments),
            _ => Err(Errno::NOSYS),
        }
    }

    /// A descriptor of a node, maybe one that can do nothing else.
    fn descriptor(&self, node: u64) -> Result<Arc<OwnedFd>, Errno> {
        let way = self.nodes.lock().way(node)?;
        let (mut at, mut steps) = match way {
            Way::Held(held) => return Ok(held),
            Way::Names(from, steps) => (from, steps),
        };
        while let Some(step) = steps.pop() {
            let held = host::hold(&at, &step.name).map_err(gone)?;
            if Key::of(&host::stat(&held)?) != step.key {
                return Err(Errno::STALE);
            }
            at = Arc::new(held);
            self.nodes.lock().hold(step.node, at.clone());
        }
        Ok(at)
    }

    fn handle_of(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        self.handles.lock().get(number)
    }

    /// Refuses what would change something, if nothing may.
    fn writable(&self) -> Result<(), Errno> {
        if self.options.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }
}

/// What a name that was there not long ago is now.
fn gone(error: Errno) -> Errno {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Errno::STALE,
        other => other,
    }
}

#[cfg(test)]
mod tests;
