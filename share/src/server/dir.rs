//! Folders: OPENDIR, READDIR, READDIRPLUS.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, RawDir, SeekFrom, seek};
use rustix::io::Errno;
use zerocopy::{FromZeros, IntoBytes};

use super::{Answer, Arguments, Body, Data, Share};
use crate::host::{self, bits};
use crate::wire::{Dirent, EntryOut, InHeader, OpenOut, ROOT, TransferIn};

/// Bytes of entries that the host is asked for at once.
const CHUNK: usize = 1 << 15;
/// Most bytes of an answer.
const MAX_ANSWER: usize = 1 << 17;

impl Share {
    pub(super) fn open_folder(&self, header: &InHeader) -> Answer {
        self.handles.lock().check()?;
        let held = self.descriptor(header.node)?;
        let file = Arc::new(self.proc.reopen(&held, OFlags::RDONLY | OFlags::DIRECTORY)?);
        let handle = self.handles.lock().add(file.clone(), true)?;
        self.nodes.lock().opened(header.node, &file);
        Body::of(&OpenOut { handle, flags: 0, padding: 0 })
    }

    /// Entries from an offset on, which is the host's own; `plus`: with their attributes, as if each had been looked up.
    pub(super) fn read_folder(
        &self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
        data: &dyn Data,
        plus: bool,
    ) -> Answer {
        let TransferIn { handle, offset, size, .. } = arguments.take()?;
        let handle = self.handle_of(handle)?;
        let mut position = handle.position.as_ref().ok_or(Errno::NOTDIR)?.lock();
        if *position != offset {
            seek(&handle.file, SeekFrom::Start(offset))?;
        }
        let room = (size as usize).min(data.room()).min(MAX_ANSWER);
        let mut answer = Vec::with_capacity(room);
        let mut chunk = [MaybeUninit::uninit(); CHUNK];
        // An answer has room for fewer entries than the host would give.
        let share = if plus { 6 } else { 1 };
        let chunk = chunk.get_mut(..(room / share).clamp(1 << 9, CHUNK)).unwrap_or_default();
        let mut entries = RawDir::new(&handle.file, chunk);
        // Where the host is, unless all of the chunk was taken.
        *position = u64::MAX;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let dirent = Dirent {
                ino: self.shown_ino(header.node, entry.file_name(), entry.ino()),
                offset: entry.next_entry_cookie(),
                name_len: entry.file_name().count_bytes() as u32,
                kind: kind(entry.file_type()),
            };
            let head = size_of::<Dirent>() + if plus { size_of::<EntryOut>() } else { 0 };
            if answer.len() + (head + dirent.name_len as usize).next_multiple_of(8) > room {
                if answer.is_empty() {
                    return Err(Errno::INVAL);
                }
                return Ok(Body::Bytes(answer));
            }
            if plus {
                answer.extend(self.seen(header.node, &handle.file, entry.file_name()).as_bytes());
            }
            answer.extend(dirent.as_bytes());
            answer.extend(entry.file_name().to_bytes());
            answer.resize(answer.len().next_multiple_of(8), 0);
            if entries.is_buffer_empty() {
                *position = dirent.offset;
                break;
            }
        }
        Ok(Body::Bytes(answer))
    }

    /// The number that the guest sees: what is above the share does not concern it.
    fn shown_ino(&self, folder: u64, name: &CStr, ino: u64) -> u64 {
        if folder == ROOT && name == c".." { self.root_key.ino(&self.root_key) } else { ino }
    }

    /// What was seen under a name of an open folder; none for what is no longer there, or is no name.
    fn seen(&self, parent: u64, folder: &std::os::fd::OwnedFd, name: &CStr) -> EntryOut {
        let look = || self.entry(parent, name, &host::stat_at(folder, name)?);
        look().unwrap_or_else(|_: Errno| EntryOut::new_zeroed())
    }
}

/// A type as entries of folders have it: that of the mode's upper bits.
fn kind(kind: FileType) -> u32 {
    let mode = match kind {
        FileType::Unknown => 0,
        known => known.as_raw_mode(),
    };
    (mode & bits::FORMAT) >> 12
}
