//! Names and attributes: LOOKUP, FORGET, GETATTR, READLINK.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{Statx, readlinkat};
use rustix::io::Errno;
use zerocopy::FromZeros;

use super::{Answer, Arguments, Body, Share, gone};
use crate::Cache;
use crate::host::{self, Key, bits};
use crate::nodes::Way;
use crate::wire::{Attr, AttrOut, BatchForgetIn, EntryOut, ForgetIn, ForgetOne, InHeader};

impl Share {
    /// Seconds for which the guest may believe what it is told.
    fn valid(&self) -> u64 {
        match self.options.cache {
            Cache::Auto => 1,
            Cache::None => 0,
            Cache::Always => 24 * 60 * 60,
        }
    }

    pub(super) fn attributes(&self, stat: &Statx) -> Attr {
        let owner = self.identity.to_guest(host::owner(stat));
        let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
        Attr {
            ino: Key::of(stat).ino(&self.root_key),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: stat.stx_atime.tv_sec,
            mtime: stat.stx_mtime.tv_sec,
            ctime: stat.stx_ctime.tv_sec,
            atime_nanos: stat.stx_atime.tv_nsec,
            mtime_nanos: stat.stx_mtime.tv_nsec,
            ctime_nanos: stat.stx_ctime.tv_nsec,
            mode: stat.stx_mode.into(),
            nlink: stat.stx_nlink,
            uid: owner.uid,
            gid: owner.gid,
            rdev: minor & 0xff | major << 8 | (minor & !0xff) << 12,
            blksize: stat.stx_blksize,
            flags: 0,
        }
    }

    /// The guest is told of what was seen under a name.
    pub(super) fn entry(&self, parent: u64, name: &CStr, stat: &Statx) -> Result<EntryOut, Errno> {
        let folder = host::kind(stat) == bits::DIRECTORY;
        let node = self.nodes.lock().enter(Key::of(stat), folder, parent, name)?;
        let valid = self.valid();
        Ok(EntryOut {
            node,
            generation: 0,
            entry_valid: valid,
            attr_valid: valid,
            entry_valid_nanos: 0,
            attr_valid_nanos: 0,
            attr: self.attributes(stat),
        })
    }

    pub(super) fn lookup(&self, header: &InHeader, arguments: &mut Arguments<'_>) -> Answer {
        let name = arguments.name()?;
        let folder = self.descriptor(header.node)?;
        match host::stat_at(&folder, name) {
            Ok(stat) => Body::of(&self.entry(header.node, name, &stat)?),
            // That there is nothing can be believed for a while as well.
            Err(Errno::NOENT) if self.valid() != 0 => {
                let mut nothing = EntryOut::new_zeroed();
                nothing.entry_valid = self.valid();
                Body::of(&nothing)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn forget(&self, header: &InHeader, arguments: &mut Arguments<'_>) -> Answer {
        // There is no answer that could say that it went wrong.
        if let Ok(ForgetIn { lookups }) = arguments.take() {
            self.nodes.lock().forget(header.node, lookups);
        }
        Ok(Body::Silence)
    }

    pub(super) fn forget_many(&self, arguments: &mut Arguments<'_>) -> Answer {
        let count = arguments.take::<BatchForgetIn>().map_or(0, |batch| batch.count);
        let mut nodes = self.nodes.lock();
        // It ends with what was sent.
        for _ in 0..count {
            let Ok(ForgetOne { node, lookups }) = arguments.take() else { break };
            nodes.forget(node, lookups);
        }
        Ok(Body::Silence)
    }

    /// Looks at a node, by its name if that is enough.
    pub(super) fn look(&self, node: u64) -> Result<Statx, Errno> {
        let way = self.nodes.lock().way(node)?;
        match way {
            Way::Held(held) => host::stat(&held),
            Way::Names(folder, steps) if steps.len() == 1 => match steps.first() {
                Some(step) => look_at(&folder, &step.name, &step.key),
                None => Err(Errno::STALE),
            },
            Way::Names(..) => host::stat(&*self.descriptor(node)?),
        }
    }

    pub(super) fn getattr(&self, header: &InHeader) -> Answer {
        let stat = self.look(header.node)?;
        self.attr_out(&stat)
    }

    pub(super) fn attr_out(&self, stat: &Statx) -> Answer {
        let attr = self.attributes(stat);
        Body::of(&AttrOut { attr_valid: self.valid(), attr_valid_nanos: 0, dummy: 0, attr })
    }

    pub(super) fn readlink(&self, header: &InHeader) -> Answer {
        let link = self.descriptor(header.node)?;
        Ok(Body::Bytes(readlinkat(&link, c"", Vec::new())?.as_bytes().to_vec()))
    }
}

fn look_at(folder: &OwnedFd, name: &CStr, key: &Key) -> Result<Statx, Errno> {
    let stat = host::stat_at(folder, name).map_err(gone)?;
    if Key::of(&stat) == *key { Ok(stat) } else { Err(Errno::STALE) }
}
