//! Folders by descriptor: what is done in one is done there and not where a link leads to.
// UNSAFETY: the standard library has no calls relative to a folder, and the program in the guest has no other library.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: c_long,
}

// SAFETY: as `fcntl.h`, `sys/stat.h` and `unistd.h` of the C library declare them on 64-bit Linux.
unsafe extern "C" {
    fn openat(folder: c_int, name: *const c_char, flags: c_int, mode: c_uint) -> c_int;
    fn mkdirat(folder: c_int, name: *const c_char, mode: c_uint) -> c_int;
    fn symlinkat(target: *const c_char, folder: c_int, name: *const c_char) -> c_int;
    fn linkat(from: c_int, name: *const c_char, to: c_int, name: *const c_char, flags: c_int) -> c_int;
    fn unlinkat(folder: c_int, name: *const c_char, flags: c_int) -> c_int;
    fn utimensat(folder: c_int, name: *const c_char, times: *const Timespec, flags: c_int) -> c_int;
}

/// Flags of `fcntl.h` on x86-64.
mod flag {
    use std::ffi::c_int;
    pub const WRONLY: c_int = 0o1;
    pub const CREAT: c_int = 0o100;
    pub const EXCL: c_int = 0o200;
    pub const DIRECTORY: c_int = 0o200000;
    pub const NOFOLLOW: c_int = 0o400000;
    pub const CLOEXEC: c_int = 0o2000000;
    pub const AT_FDCWD: c_int = -100;
    pub const AT_SYMLINK_NOFOLLOW: c_int = 0x100;
}

/// An open folder. Names are single components; none of them is followed if it is a link.
#[derive(Debug)]
pub struct Folder(File);

fn word(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn done(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn open(folder: c_int, name: &CStr, flags: c_int, mode: u32) -> io::Result<File> {
    // SAFETY: `name` ends in a zero and lives until the call returns.
    let fd = unsafe { openat(folder, name.as_ptr(), flags | flag::CLOEXEC, mode) };
    done(fd)?;
    // SAFETY: the call gave it to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

impl Folder {
    /// The folder at a path, which may lead over links.
    ///
    /// # Errors
    /// The system's.
    pub fn at(path: &[u8]) -> io::Result<Self> {
        open(flag::AT_FDCWD, &word(path)?, flag::DIRECTORY, 0).map(Self)
    }

    fn fd(&self) -> c_int {
        self.0.as_raw_fd()
    }

    /// What the standard library can do with it.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// A folder in it.
    pub fn folder(&self, name: &[u8]) -> io::Result<Self> {
        open(self.fd(), &word(name)?, flag::DIRECTORY | flag::NOFOLLOW, 0).map(Self)
    }

    /// Makes a folder that only its owner may enter.
    pub fn make_folder(&self, name: &[u8]) -> io::Result<()> {
        let name = word(name)?;
        // SAFETY: `name` ends in a zero and lives until the call returns.
        done(unsafe { mkdirat(self.fd(), name.as_ptr(), 0o700) })
    }

    /// Makes a file that is not there, for its owner alone.
    pub fn make_file(&self, name: &[u8]) -> io::Result<File> {
        let flags = flag::WRONLY | flag::CREAT | flag::EXCL | flag::NOFOLLOW;
        open(self.fd(), &word(name)?, flags, 0o600)
    }

    /// Makes a symbolic link that is not there.
    pub fn make_link(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        let (name, target) = (word(name)?, word(target)?);
        // SAFETY: both end in a zero and live until the call returns.
        done(unsafe { symlinkat(target.as_ptr(), self.fd(), name.as_ptr()) })
    }

    /// Gives what is called `other` in `folder` a name here.
    pub fn make_name(&self, name: &[u8], folder: &Folder, other: &[u8]) -> io::Result<()> {
        let (name, other) = (word(name)?, word(other)?);
        // SAFETY: both end in a zero and live until the call returns.
        done(unsafe { linkat(folder.fd(), other.as_ptr(), self.fd(), name.as_ptr(), 0) })
    }

    /// Removes what is no folder.
    pub fn remove(&self, name: &[u8]) -> io::Result<()> {
        let name = word(name)?;
        // SAFETY: `name` ends in a zero and lives until the call returns.
        done(unsafe { unlinkat(self.fd(), name.as_ptr(), 0) })
    }

    /// Sets when a link was changed last.
    pub fn set_modified(&self, name: &[u8], time: SystemTime) -> io::Result<()> {
        let name = word(name)?;
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = || Timespec {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: c_long::from(since.subsec_nanos() as i32),
        };
        let times = [time(), time()];
        // SAFETY: `name` ends in a zero, there are two times, and all live until the call returns.
        done(unsafe { utimensat(self.fd(), name.as_ptr(), times.as_ptr(), flag::AT_SYMLINK_NOFOLLOW) })
    }
}
