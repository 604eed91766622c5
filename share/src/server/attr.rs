//! SETATTR.

use rustix::fs::{AtFlags, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, ftruncate, utimensat};
use rustix::io::Errno;

use super::{Answer, Arguments, Share};
use crate::host::{self, bits};
use crate::wire::{InHeader, SetattrIn, set};

impl Share {
    pub(super) fn setattr(&self, header: &InHeader, arguments: &mut Arguments<'_>) -> Answer {
        self.writable()?;
        let wish: SetattrIn = arguments.take()?;
        let has = |bit: u32| wish.valid & bit != 0;
        let node = self.descriptor(header.node)?;
        // Giving it away takes set-id bits, so that the mode comes after it.
        if has(set::UID) || has(set::GID) {
            let uid = has(set::UID).then(|| self.identity.user_to_host(wish.uid).ok_or(Errno::PERM));
            let gid = has(set::GID).then(|| self.identity.group_to_host(wish.gid).ok_or(Errno::PERM));
            host::chown(&node, uid.transpose()?, gid.transpose()?)?;
        }
        if has(set::MODE) {
            self.check_set_id(wish.mode, || host::stat(&node).map(|stat| stat.stx_mode.into()))?;
            self.proc.chmod(&node, wish.mode)?;
        }
        if has(set::SIZE) {
            if i64::try_from(wish.size).is_err() {
                return Err(Errno::FBIG);
            }
            match has(set::FH).then(|| self.handle_of(wish.handle)) {
                Some(handle) => ftruncate(&handle?.file, wish.size)?,
                None => ftruncate(self.open_to_write(&node, OFlags::WRONLY)?, wish.size)?,
            }
        }
        if has(set::ATIME) || has(set::MTIME) {
            let time = |bit, now, seconds, nanos: u32| match (has(bit), has(now)) {
                (false, _) => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                (true, true) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
                (true, false) => Timespec { tv_sec: seconds, tv_nsec: nanos.min(999_999_999).into() },
            };
            let times = Timestamps {
                last_access: time(set::ATIME, set::ATIME_NOW, wish.atime, wish.atime_nanos),
                last_modification: time(set::MTIME, set::MTIME_NOW, wish.mtime, wish.mtime_nanos),
            };
            utimensat(&node, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        self.attr_out(&host::stat(&node)?)
    }

    /// Refuses a mode that would make a program run as its owner, unless `before` has the bit or the user allows it.
    pub(super) fn check_set_id(
        &self,
        mode: u32,
        before: impl FnOnce() -> Result<u32, Errno>,
    ) -> Result<(), Errno> {
        let wanted = mode & (bits::SET_UID | bits::SET_GID);
        if wanted == 0 || self.options.set_id {
            return Ok(());
        }
        let before = before()?;
        // On a folder it says whose its files are.
        let is_harmless = before & bits::FORMAT == bits::DIRECTORY || wanted & !before == 0;
        if is_harmless { Ok(()) } else { Err(Errno::PERM) }
    }
}
