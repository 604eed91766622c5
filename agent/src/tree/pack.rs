//! A file or a folder with all that is in it becomes a tar stream.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::format::{BLOCK, Entry, Node, pad, padding};
use super::{Complain, MAX_PATH, shown};

/// Bytes that are written together.
const PIECE: usize = 256 << 10;
/// Of `open`: no link, and nothing that waits for another end.
const NOFOLLOW_NONBLOCK: i32 = 0o400000 | 0o4000;

/// Packs what is at `path` under `name`. Of what cannot be read, `complain` is told, and it is left out.
///
/// # Errors
/// There is nothing at `path`, or `output` takes no more.
pub fn pack(path: &Path, name: &[u8], output: impl Write, complain: &mut Complain<'_>) -> io::Result<()> {
    let mut packer = Packer { output, buffer: Vec::with_capacity(PIECE + 16 * BLOCK), complain };
    // Where the user points to is followed, even if it is a link and he said so by a slash.
    let meta = path.symlink_metadata()?;
    let meta = if path.as_os_str().as_bytes().ends_with(b"/") { path.metadata()? } else { meta };
    // Folders that are open: their path, their name in the stream, and what is left in them.
    let mut open = Vec::new();
    open.extend(packer.add(path, name.to_vec(), &meta)?);
    while let Some(Folder { path, name, children }) = open.last_mut() {
        let Some(child) = children.pop() else {
            open.pop();
            continue;
        };
        let path = path.join(OsStr::from_bytes(&child));
        let name = [&name[..], b"/", &child].concat();
        match path.symlink_metadata() {
            _ if name.len() > MAX_PATH => (packer.complain)(format!("{} is too long a path", shown(&name))),
            Ok(meta) => open.extend(packer.add(&path, name, &meta)?),
            Err(e) => (packer.complain)(format!("{}: {e}", path.display())),
        }
    }
    packer.buffer.resize(packer.buffer.len() + 2 * BLOCK, 0);
    packer.flush()
}

/// A folder that has been added, and what in it has not.
struct Folder {
    path: PathBuf,
    name: Vec<u8>,
    children: Vec<Vec<u8>>,
}

struct Packer<'a, W> {
    output: W,
    buffer: Vec<u8>,
    complain: &'a mut Complain<'a>,
}

impl<W: Write> Packer<'_, W> {
    /// Adds what is there; of a folder, what there is in it to go on with.
    fn add(&mut self, path: &Path, name: Vec<u8>, meta: &Metadata) -> io::Result<Option<Folder>> {
        let kind = meta.file_type();
        let entry = |node| Entry {
            path: name.clone(),
            node,
            mode: meta.mode() & 0o7777,
            modified: meta.modified().unwrap_or(UNIX_EPOCH),
        };
        if kind.is_dir() {
            let mut children: Vec<_> = match fs::read_dir(path) {
                Ok(list) => list.flatten().map(|child| child.file_name().into_vec()).collect(),
                Err(e) => {
                    (self.complain)(format!("{}: {e}", path.display()));
                    return Ok(None);
                }
            };
            children.sort_unstable_by(|a, b| b.cmp(a));
            entry(Node::Folder).put(&mut self.buffer);
            self.flush_if_full()?;
            return Ok(Some(Folder { path: path.to_owned(), name, children }));
        }
        if kind.is_symlink() {
            match fs::read_link(path) {
                Ok(target) => entry(Node::Link(target.into_os_string().into_vec())).put(&mut self.buffer),
                Err(e) => (self.complain)(format!("{}: {e}", path.display())),
            }
            return self.flush_if_full().map(|()| None);
        }
        if !kind.is_file() {
            (self.complain)(format!("{} is neither file, folder nor link: left out", path.display()));
            return Ok(None);
        }
        let opened = File::options().read(true).custom_flags(NOFOLLOW_NONBLOCK).open(path);
        match opened.and_then(|file| Ok((file.metadata()?, file))) {
            Ok((now, file)) if now.is_file() => {
                let size = now.len();
                entry(Node::File(size)).put(&mut self.buffer);
                self.data(path, file, size)?;
            }
            Ok(_) => (self.complain)(format!("{} is no file any more: left out", path.display())),
            Err(e) => (self.complain)(format!("{}: {e}", path.display())),
        }
        Ok(None)
    }

    /// Adds so many bytes of the file, of which some may be gone by now.
    fn data(&mut self, path: &Path, mut file: File, size: u64) -> io::Result<()> {
        let mut left = size;
        let mut whole = true;
        while left > 0 {
            self.flush_if_full()?;
            let start = self.buffer.len();
            let most = left.min((PIECE + 8 * BLOCK).saturating_sub(start).max(BLOCK) as u64) as usize;
            self.buffer.resize(start + most, 0);
            let room = self.buffer.get_mut(start..).unwrap_or_default();
            let count = match file.read(room) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                Ok(count @ 1..) => count,
                other if whole => {
                    whole = false;
                    let why = other.map_or_else(|e| e.to_string(), |_| "it has become shorter".to_owned());
                    (self.complain)(format!("{}: {why}: filled with zeros", path.display()));
                    most
                }
                _ => most,
            };
            self.buffer.truncate(start + count);
            left -= count as u64;
        }
        pad(&mut self.buffer, size);
        debug_assert!(padding(size) < BLOCK as u64);
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> io::Result<()> {
        if self.buffer.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}
