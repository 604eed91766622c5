//! What makes, removes and moves names: MKDIR, MKNOD, SYMLINK, LINK, UNLINK, RMDIR, RENAME.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, Mode, RenameFlags, Statx, linkat, mkdirat, mknodat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::{Answer, Arguments, Body, Share};
use crate::host::{self, Key, Proc, bits};
use crate::identity::{Identity, Owner};
use crate::wire::{InHeader, LinkIn, MkdirIn, MknodIn, Rename2In, RenameIn};

impl Share {
    pub(super) fn mkdir(&self, header: &InHeader, arguments: &mut Arguments<'_>) -> Answer {
        self.writable()?;
        let MkdirIn { mode, .. } = arguments.take()?;
        let (folder, name) = (self.descriptor(header.node)?, arguments.name()?);
        mkdirat(&*folder, name, self.first_mode(header, mode))?;
        self.made(header, &folder, name, Some(mode & !bits::SET_GID))
    }

    pub(super) fn mknod(&self, header: &InHeader, arguments: &mut Arguments<'_>) -> Answer {
        self.writable()?;
        let MknodIn { mode, .. } = arguments.take()?;
        let kind = match mode & bits::FORMAT {
            0 | bits::REGULAR => FileType::RegularFile,
            bits::FIFO => FileType::Fifo,
            bits::SOCKET => FileType::Socket,
            // A device here would be one of the host's.
            _ => return Err(Errno::PERM),
        };
        self.check_set_id(mode, || Ok(bits::REGULAR))?;
        let (folder, name) = (self.descriptor(header.node)?, arguments.name()?);
        mknodat(&*folder, name, kind, self.first_mode(header, mode), 0)?;
        self.made(header, &folder, name, Some(mode))
    }

    pub(super) fn symlink(&self, header: &InHeader, arguments: &mut Arguments<'_>) -> Answer {
        self.writable()?;
        let (name, target) = (arguments.name()?, arguments.text()?);
        let folder = self.descriptor(header.node)?;
        symlinkat(target, &*folder, name)?;
        self.made(header, &folder, name, None)
    }

    pub(super) fn link(&self, header: &InHeader, arguments: &mut Arguments<'_>) -> Answer {
        self.writable()?;
        let LinkIn { node } = arguments.take()?;
        let (folder, name) = (self.descriptor(header.node)?, arguments.name()?);
        let from = self.descriptor(node)?;
        // The link that is followed is that of /proc, to the file itself.
        linkat(self.proc.folder(), Proc::name(&from), &*folder, name, AtFlags::SYMLINK_FOLLOW)?;
        let stat = host::stat_at(&folder, name)?;
        Body::of(&self.entry(header.node, name, &stat)?)
    }

    pub(super) fn remove(&self, header: &InHeader, arguments: &mut Arguments<'_>, folder: bool) -> Answer {
        self.writable()?;
        let name = arguments.name()?;
        let flags = if folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        unlinkat(&*self.descriptor(header.node)?, name, flags)?;
        Ok(Body::Empty)
    }

    pub(super) fn rename(&self, header: &InHeader, arguments: &mut Arguments<'_>, second: bool) -> Answer {
        self.writable()?;
        let (to, flags) = if second {
            let Rename2In { folder, flags, .. } = arguments.take()?;
            (folder, flags)
        } else {
            (arguments.take::<RenameIn>()?.folder, 0)
        };
        let allowed = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
        let flags = RenameFlags::from_bits(flags).filter(|f| allowed.contains(*f)).ok_or(Errno::INVAL)?;
        let (from, into) = (self.descriptor(header.node)?, self.descriptor(to)?);
        let (name, new) = (arguments.name()?, arguments.name()?);
        renameat_with(&*from, name, &*into, new, flags)?;
        let seen = |parent: u64, folder: &OwnedFd, name: &CStr| {
            if let Ok(stat) = host::stat_at(folder, name) {
                let is_folder = host::kind(&stat) == bits::DIRECTORY;
                self.nodes.lock().moved(Key::of(&stat), is_folder, parent, name);
            }
        };
        seen(to, &into, new);
        if flags.contains(RenameFlags::EXCHANGE) {
            seen(header.node, &from, name);
        }
        Ok(Body::Empty)
    }

    /// True if what the guest's user makes has to be given to him.
    fn is_given(&self, header: &InHeader) -> bool {
        self.identity == Identity::Same && (header.uid, header.gid) != (0, 0)
    }

    /// The mode that something is made with, before it is its owner's.
    pub(super) fn first_mode(&self, header: &InHeader, mode: u32) -> Mode {
        let mask =
            if self.is_given(header) { 0o700 } else { bits::PERMISSIONS & !(bits::SET_UID | bits::SET_GID) };
        Mode::from_raw_mode(mode & mask)
    }

    /// Gives what was made under a name to who asked for it, with the mode that he wants, and tells him of it. What
    /// cannot be given is removed.
    fn made(&self, header: &InHeader, folder: &OwnedFd, name: &CStr, mode: Option<u32>) -> Answer {
        let mut stat = host::stat_at(folder, name)?;
        if self.differs(header, &stat, mode) {
            let settled = host::hold(folder, name).and_then(|held| {
                if Key::of(&host::stat(&held)?) != Key::of(&stat) {
                    return Err(Errno::STALE);
                }
                self.settle(header, folder, &held, mode)
            });
            stat = settled.inspect_err(|_| {
                let flags =
                    if host::kind(&stat) == bits::DIRECTORY { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                let _ = unlinkat(folder, name, flags);
            })?;
        }
        Body::of(&self.entry(header.node, name, &stat)?)
    }

    /// True if what was made is not yet as it is to be.
    pub(super) fn differs(&self, header: &InHeader, stat: &Statx, mode: Option<u32>) -> bool {
        // The bit that a folder has from the one that it is in stays.
        let keep = if host::kind(stat) == bits::DIRECTORY { bits::SET_GID } else { 0 };
        let wrong = |mode: u32| (u32::from(stat.stx_mode) ^ mode) & bits::PERMISSIONS & !keep != 0;
        mode.is_some_and(wrong) || self.is_given(header) && host::owner(stat) != self.owner_of(header)
    }

    fn owner_of(&self, header: &InHeader) -> Owner {
        self.identity.of_new(Owner { uid: header.uid, gid: header.gid })
    }

    /// Gives what was made in a folder to who asked for it, then the mode.
    pub(super) fn settle(
        &self,
        header: &InHeader,
        folder: &OwnedFd,
        made: &OwnedFd,
        mode: Option<u32>,
    ) -> Result<Statx, Errno> {
        if self.is_given(header) {
            let owner = self.owner_of(header);
            // In a folder with this bit, files are its group's.
            let inherits = u32::from(host::stat(folder)?.stx_mode) & bits::SET_GID != 0;
            host::chown(made, Some(owner.uid), (!inherits).then_some(owner.gid))?;
        }
        let stat = host::stat(made)?;
        let Some(mode) = mode.filter(|_| host::kind(&stat) != bits::LINK) else { return Ok(stat) };
        let is_folder = host::kind(&stat) == bits::DIRECTORY;
        let keep = if is_folder { u32::from(stat.stx_mode) & bits::SET_GID } else { 0 };
        self.proc.chmod(made, mode & bits::PERMISSIONS | keep)?;
        host::stat(made)
    }
}
