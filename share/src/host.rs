//! What the host's kernel is asked: one name in an open directory, or an open file itself.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, ResolveFlags, Statx, StatxFlags, Uid, chmodat, chownat, openat, openat2,
    statx,
};
use rustix::io::Errno;

use crate::ShareError;
use crate::identity::Owner;

/// Nothing outside of the directory, no link, no magic.
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Longest name.
const NAME_MAX: usize = 255;

/// What makes a file itself: an inode's number is used again, but not with the same time of birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    device: (u32, u32),
    ino: u64,
    birth: (i64, u32),
}

impl Key {
    /// Of what was looked at.
    pub fn of(stat: &Statx) -> Self {
        Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            birth: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
        }
    }

    /// The number for the guest, for which all of the share is one device.
    pub fn ino(&self, root: &Self) -> u64 {
        if self.device == root.device {
            return self.ino;
        }
        // Of another file system that is mounted there: numbers may be those of this one.
        let device = u64::from(self.device.0) << 20 ^ u64::from(self.device.1);
        self.ino ^ device.wrapping_mul(0x9e37_79b9_7f4a_7c15) << 32
    }
}

/// A name that is one: of a file in the directory that it is looked for in.
pub fn check_name(name: &CStr) -> Result<&CStr, Errno> {
    match name.to_bytes() {
        b"" => Err(Errno::NOENT),
        b"." | b".." => Err(Errno::INVAL),
        bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
        bytes if bytes.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
        _ => Ok(name),
    }
}

/// The way to open again what is open.
pub struct Proc(OwnedFd);

impl Proc {
    /// That of this process.
    pub fn open() -> Result<Self, ShareError> {
        let folder = rustix::fs::open("/proc/self/fd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        folder.map(Self).map_err(|e| ShareError::Proc(e.into()))
    }

    /// The directory in which [`name`](Self::name)s are.
    pub fn folder(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0)
    }

    /// What a descriptor is called there.
    pub fn name(fd: &OwnedFd) -> String {
        fd.as_raw_fd().to_string()
    }

    /// Opens a regular file or directory for real. What else there is could block or be a device.
    pub fn reopen(&self, fd: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let stat = stat(fd)?;
        match kind(&stat) {
            bits::REGULAR | bits::DIRECTORY => {}
            bits::LINK => return Err(Errno::LOOP),
            _ => return Err(Errno::OPNOTSUPP),
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        openat(&self.0, Self::name(fd), flags, Mode::empty())
    }

    /// Changes the mode of what is no link.
    pub fn chmod(&self, fd: &OwnedFd, mode: u32) -> Result<(), Errno> {
        if kind(&stat(fd)?) == bits::LINK {
            return Err(Errno::OPNOTSUPP);
        }
        chmodat(&self.0, Self::name(fd), Mode::from_raw_mode(mode & bits::PERMISSIONS), AtFlags::empty())
    }
}

/// Bits of a mode.
pub mod bits {
    pub const FORMAT: u32 = 0o170000;
    pub const SOCKET: u32 = 0o140000;
    pub const LINK: u32 = 0o120000;
    pub const REGULAR: u32 = 0o100000;
    pub const DIRECTORY: u32 = 0o040000;
    pub const FIFO: u32 = 0o010000;
    pub const PERMISSIONS: u32 = 0o7777;
    pub const SET_UID: u32 = 0o4000;
    pub const SET_GID: u32 = 0o2000;
}

/// The type of what was looked at.
pub fn kind(stat: &Statx) -> u32 {
    u32::from(stat.stx_mode) & bits::FORMAT
}

/// Opens the shared folder itself, following links: the user named it.
pub fn open_root(path: &Path) -> Result<OwnedFd, ShareError> {
    let fail = |source: Errno| ShareError::Open { path: path.to_owned(), source: source.into() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
    match openat2(&root, ".", flags, Mode::empty(), RESOLVE) {
        Err(Errno::NOSYS) => Err(ShareError::Kernel(Errno::NOSYS.into())),
        other => other.map_err(fail),
    }
}

/// Looks at an open file.
pub fn stat(fd: &OwnedFd) -> Result<Statx, Errno> {
    statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT, mask())
}

/// Looks at a name in a directory.
pub fn stat_at(folder: &OwnedFd, name: &CStr) -> Result<Statx, Errno> {
    statx(folder, check_name(name)?, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, mask())
}

fn mask() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME
}

/// Holds what a name is, whatever it is, without opening it for anything.
pub fn hold(folder: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    openat2(folder, check_name(name)?, PATH, Mode::empty(), RESOLVE)
}

/// Makes a regular file and opens it; there must be nothing of that name.
pub fn create(folder: &OwnedFd, name: &CStr, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    let mode = Mode::from_raw_mode(mode & bits::PERMISSIONS);
    openat2(folder, check_name(name)?, flags | OFlags::NONBLOCK, mode, RESOLVE)
}

/// Gives a file to somebody, or only to a user or a group.
pub fn chown(fd: &OwnedFd, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    if [uid, gid].contains(&Some(u32::MAX)) {
        return Err(Errno::INVAL);
    }
    chownat(fd, c"", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::EMPTY_PATH)
}

/// Who owns what was looked at.
pub fn owner(stat: &Statx) -> Owner {
    Owner { uid: stat.stx_uid, gid: stat.stx_gid }
}
