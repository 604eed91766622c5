//! Locks on image files, so that two machines never write one disk: `flock`, which ends with the process that
//! holds it.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{major, minor};

use crate::BlockError;

/// How an image is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read; others may read too.
    Shared,
    /// Written; nobody else may use it.
    Exclusive,
}

/// A process that is being started has a copy of its parent's files for a moment, and one that ends may take one.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(10);

/// Locks `file`, which was opened from `path`, for as long as it is open.
///
/// # Errors
/// Another process holds a lock that excludes this one.
pub fn lock(file: &File, path: &Path, access: Access) -> Result<(), BlockError> {
    let attempt = || match access {
        Access::Shared => file.try_lock_shared(),
        Access::Exclusive => file.try_lock(),
    };
    let mut locked = attempt();
    for _ in 0..ATTEMPTS {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(PAUSE);
        locked = attempt();
    }
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(BlockError::Locked { path: path.to_owned(), pid: holder(file) }),
        Err(TryLockError::Error(error)) => {
            tracing::warn!(
                "{} cannot be locked ({error}): see to it that nobody else uses it",
                path.display()
            );
            Ok(())
        }
    }
}

/// The process that holds a lock on the file, by /proc/locks.
fn holder(file: &File) -> Option<i32> {
    let metadata = file.metadata().ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let name = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    parse(&std::fs::read_to_string("/proc/locks").ok()?, &name)
}

/// Lines such as `1: FLOCK  ADVISORY  WRITE 4711 fe:01:12345 0 EOF`.
fn parse(locks: &str, name: &str) -> Option<i32> {
    locks.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let &[_, "FLOCK", _, _, pid, file, ..] = words.as_slice() else { return None };
        pid.parse().ok().filter(|_| file == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RawImage;

    #[test]
    fn a_second_writer_is_told_who_the_first_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = RawImage::open(file.path(), false).unwrap();
        let error = RawImage::open(file.path(), false).unwrap_err();
        let BlockError::Locked { pid, .. } = &error else { panic!("{error}") };
        assert!(pid.is_none_or(|pid| pid == std::process::id() as i32), "{error}");
        assert!(RawImage::open(file.path(), true).is_err(), "a reader would see half of what is written");
        drop(first);
        let _readers = [(); 2].map(|()| RawImage::open(file.path(), true).unwrap());
        assert!(RawImage::open(file.path(), false).is_err());
    }

    #[test]
    fn the_holder_is_found_among_the_locks() {
        let locks =
            "1: POSIX  ADVISORY  WRITE 12 fe:01:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 fe:01:77 0 EOF\n";
        assert_eq!(parse(locks, "fe:01:77"), Some(4711));
        assert_eq!(parse(locks, "fe:01:7"), None);
        assert_eq!(parse("x\n\n1: FLOCK\n", "fe:01:77"), None);
    }
}
