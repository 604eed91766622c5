//! Open files: CREATE, OPEN, READ, WRITE, FSYNC, FALLOCATE, LSEEK, COPY_FILE_RANGE, RELEASE.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, fdatasync, fsync, seek, unlinkat,
};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::{Answer, Arguments, Body, Data, MAX_DATA, Share};
use crate::Cache;
use crate::handles::Handle;
use crate::host::{self, bits};
use crate::wire::{
    CopyFileRangeIn, CreateIn, DATA_ONLY, FallocateIn, FsyncIn, InHeader, LseekIn, LseekOut, OpenIn, OpenOut,
    ReleaseIn, TransferIn, WRITE_HEAD, WriteOut, opened,
};

/// What of a guest's open flags is for the host.
const FLAGS: OFlags = OFlags::APPEND.union(OFlags::DSYNC).union(OFlags::SYNC);
/// Most bytes that are copied in one go: the answer should not take long.
const MAX_COPY: u64 = 1 << 24;
/// Where LSEEK looks: for data, for a hole.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

impl Share {
    /// The host's flags for the guest's; TRUNC is another matter.
    fn flags(&self, wish: u32) -> Result<OFlags, Errno> {
        let wish = OFlags::from_bits_retain(wish);
        let mut access = wish & OFlags::RWMODE;
        let mut more = wish & FLAGS;
        if self.options.cache == Cache::Always {
            // The guest reads what it writes a part of, and knows itself where the end is.
            more -= OFlags::APPEND;
            if access == OFlags::WRONLY {
                access = OFlags::RDWR;
            }
        }
        if access == OFlags::RWMODE {
            return Err(Errno::INVAL);
        }
        if access != OFlags::RDONLY || wish.contains(OFlags::TRUNC) {
            self.writable()?;
        }
        Ok(access | more)
    }

    /// Opens a file that is to be written. It is no program of its owner's any more then.
    pub(super) fn open_to_write(&self, node: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let file = self.proc.reopen(node, flags)?;
        let mode = u32::from(host::stat(&file)?.stx_mode);
        let runs_as_group = mode & bits::SET_GID != 0 && mode & 0o010 != 0;
        if !self.options.set_id && (mode & bits::SET_UID != 0 || runs_as_group) {
            self.proc.chmod(&file, mode & !(bits::SET_UID | bits::SET_GID))?;
        }
        Ok(file)
    }

    fn open_node(&self, node: u64, wish: u32) -> Result<OwnedFd, Errno> {
        let flags = self.flags(wish)?;
        let truncate = OFlags::from_bits_retain(wish) & OFlags::TRUNC;
        let held = self.descriptor(node)?;
        if host::kind(&host::stat(&held)?) != bits::REGULAR {
            return Err(Errno::OPNOTSUPP);
        }
        match flags & OFlags::RWMODE {
            OFlags::RDONLY if truncate.is_empty() => self.proc.reopen(&held, flags),
            _ => self.open_to_write(&held, flags | truncate),
        }
    }

    fn opened(&self, node: u64, file: OwnedFd) -> Result<OpenOut, Errno> {
        let file = Arc::new(file);
        let handle = self.handles.lock().add(file.clone(), false)?;
        self.nodes.lock().opened(node, &file);
        // Data that was read before is kept: attributes say when it is not to be believed any more.
        let flags = match self.options.cache {
            Cache::None => opened::DIRECT_IO,
            Cache::Auto | Cache::Always => opened::KEEP_CACHE,
        };
        Ok(OpenOut { handle, flags, padding: 0 })
    }

    pub(super) fn open(&self, header: &InHeader, arguments: &mut Arguments<'_>) -> Answer {
        let OpenIn { flags, .. } = arguments.take()?;
        self.handles.lock().check()?;
        Body::of(&self.opened(header.node, self.open_node(header.node, flags)?)?)
    }

    pub(super) fn create(&self, header: &InHeader, arguments: &mut Arguments<'_>) -> Answer {
        self.writable()?;
        let CreateIn { flags: wish, mode, .. } = arguments.take()?;
        let name = arguments.name()?;
        self.check_set_id(mode, || Ok(bits::REGULAR))?;
        self.handles.lock().check()?;
        let folder = self.descriptor(header.node)?;
        let first = self.first_mode(header, mode).as_raw_mode();
        let (file, stat) = match host::create(&folder, name, self.flags(wish)?, first) {
            Ok(file) => {
                let stat = host::stat(&file)?;
                let settled = match self.differs(header, &stat, Some(mode)) {
                    true => self.settle(header, &folder, &file, Some(mode)),
                    false => Ok(stat),
                };
                (Some(file), settled.inspect_err(|_| undo(&folder, name))?)
            }
            // Somebody else was faster, or a link leads nowhere.
            Err(Errno::EXIST) if !OFlags::from_bits_retain(wish).contains(OFlags::EXCL) => {
                (None, host::stat_at(&folder, name)?)
            }
            Err(error) => return Err(error),
        };
        let entry = self.entry(header.node, name, &stat)?;
        let opened = match file {
            Some(file) => self.opened(entry.node, file),
            None => self.open_node(entry.node, wish).and_then(|file| self.opened(entry.node, file)),
        };
        // An answer without an entry is one of which the guest need not forget anything.
        let opened = opened.inspect_err(|_| self.nodes.lock().forget(entry.node, 1))?;
        Ok(Body::Bytes([entry.as_bytes(), opened.as_bytes()].concat()))
    }

    /// An open file, no folder.
    fn file(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        let handle = self.handle_of(number)?;
        if handle.position.is_some() { Err(Errno::ISDIR) } else { Ok(handle) }
    }

    pub(super) fn read(&self, arguments: &mut Arguments<'_>, data: &dyn Data) -> Answer {
        let TransferIn { handle, offset, size, .. } = arguments.take()?;
        let file = self.file(handle)?;
        let len = size.min(MAX_DATA) as usize;
        let count = data.read(file.file.as_fd(), offset, len.min(data.room())).map_err(errno)?;
        Ok(Body::Placed(count))
    }

    pub(super) fn write(&self, arguments: &mut Arguments<'_>, data: &dyn Data) -> Answer {
        self.writable()?;
        let TransferIn { handle, offset, size, .. } = arguments.take()?;
        let file = self.file(handle)?;
        let len = size.min(MAX_DATA) as usize;
        let count = data.write(file.file.as_fd(), offset, WRITE_HEAD, len).map_err(errno)?;
        Body::of(&WriteOut { size: count as u32, padding: 0 })
    }

    pub(super) fn fsync(&self, arguments: &mut Arguments<'_>) -> Answer {
        let FsyncIn { handle, flags, .. } = arguments.take()?;
        let handle = self.handle_of(handle)?;
        if flags & DATA_ONLY != 0 {
            fdatasync(&handle.file)?
        } else {
            fsync(&handle.file)?
        };
        Ok(Body::Empty)
    }

    pub(super) fn fallocate(&self, arguments: &mut Arguments<'_>) -> Answer {
        self.writable()?;
        let FallocateIn { handle, offset, len, mode, .. } = arguments.take()?;
        let allowed = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        let mode =
            FallocateFlags::from_bits(mode).filter(|f| allowed.contains(*f)).ok_or(Errno::OPNOTSUPP)?;
        fallocate(&self.file(handle)?.file, mode, offset, len)?;
        Ok(Body::Empty)
    }

    pub(super) fn lseek(&self, arguments: &mut Arguments<'_>) -> Answer {
        if self.options.cache == Cache::Always {
            // Data may be in the guest's cache alone: the guest takes all of the file for data then.
            return Err(Errno::NOSYS);
        }
        let LseekIn { handle, offset, whence, .. } = arguments.take()?;
        let position = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        Body::of(&LseekOut { offset: seek(&self.file(handle)?.file, position)? })
    }

    pub(super) fn copy_file_range(&self, arguments: &mut Arguments<'_>) -> Answer {
        self.writable()?;
        let CopyFileRangeIn { from, from_offset, to, to_offset, len, flags, .. } = arguments.take()?;
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        let (from, to) = (self.file(from)?, self.file(to)?);
        let (mut from_offset, mut to_offset) = (from_offset, to_offset);
        let len = usize::try_from(len.min(MAX_COPY)).unwrap_or(0);
        let count = copy_file_range(&from.file, Some(&mut from_offset), &to.file, Some(&mut to_offset), len)?;
        Body::of(&WriteOut { size: count as u32, padding: 0 })
    }

    pub(super) fn release(&self, arguments: &mut Arguments<'_>) -> Answer {
        let ReleaseIn { handle, .. } = arguments.take()?;
        self.handles.lock().remove(handle)?;
        Ok(Body::Empty)
    }
}

/// What could not be finished is removed.
fn undo(folder: &OwnedFd, name: &CStr) {
    let _ = unlinkat(folder, name, AtFlags::empty());
}

fn errno(error: io::Error) -> Errno {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw_os_error(number),
        None if error.kind() == io::ErrorKind::UnexpectedEof => Errno::INVAL,
        None => Errno::IO,
    }
}
