//! What concerns the whole share: INIT, STATFS, SYNCFS.

use rustix::fs::{Mode, OFlags, fstatvfs, openat, syncfs};
use rustix::io::Errno;
use zerocopy::FromZeros;

use super::{Answer, Arguments, Body, MAX_DATA, Share};
use crate::Cache;
use crate::wire::{InitIn, InitOut, MAJOR, MINOR, StatfsOut, feature};

/// Requests of one guest that nobody waits for, and how many of them are many.
const BACKGROUND: u16 = 64;
const CONGESTED: u16 = 48;
/// Bytes of a page of the guest's.
const PAGE: u32 = 4096;

impl Share {
    pub(super) fn init(&self, arguments: &mut Arguments<'_>) -> Answer {
        let init: InitIn = arguments.take()?;
        let mut answer = InitOut::new_zeroed();
        (answer.major, answer.minor) = (MAJOR, MINOR);
        if init.major > MAJOR {
            // It will ask again with ours.
            return Body::of(&answer);
        }
        if init.major < MAJOR || init.minor < MINOR {
            return Err(Errno::PROTO);
        }
        // Whatever was mounted before is not any more.
        self.reset();
        let cached = match self.options.cache {
            Cache::Auto => feature::AUTO_INVAL_DATA | feature::CACHE_SYMLINKS,
            Cache::None => feature::AUTO_INVAL_DATA,
            Cache::Always => feature::WRITEBACK_CACHE | feature::CACHE_SYMLINKS,
        };
        let wanted = feature::ASYNC_READ
            | feature::ATOMIC_O_TRUNC
            | feature::BIG_WRITES
            | feature::DO_READDIRPLUS
            | feature::READDIRPLUS_AUTO
            | feature::ASYNC_DIO
            | feature::PARALLEL_DIROPS
            | feature::MAX_PAGES
            | cached;
        answer.flags = init.flags & wanted;
        answer.max_readahead = init.max_readahead;
        (answer.max_background, answer.congestion_threshold) = (BACKGROUND, CONGESTED);
        answer.max_write = MAX_DATA;
        answer.max_pages = (MAX_DATA / PAGE) as u16;
        answer.time_granularity = 1;
        Body::of(&answer)
    }

    pub(super) fn statfs(&self) -> Answer {
        let stat = fstatvfs(&self.root)?;
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let mut answer = StatfsOut::new_zeroed();
        answer.blocks = stat.f_blocks;
        answer.free = stat.f_bfree;
        answer.available = stat.f_bavail;
        answer.files = stat.f_files;
        answer.files_free = stat.f_ffree;
        answer.block_size = small(stat.f_bsize);
        answer.fragment_size = small(stat.f_frsize);
        answer.name_max = small(stat.f_namemax);
        Body::of(&answer)
    }

    pub(super) fn sync(&self) -> Answer {
        let root =
            openat(&self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        syncfs(root)?;
        Ok(Body::Empty)
    }
}
