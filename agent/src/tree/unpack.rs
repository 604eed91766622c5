//! A tar stream becomes files below a folder, and nowhere else: no name in the stream is followed if it is a link, and
//! what is in the way of a file is replaced, never written through.

use std::fs::{FileTimes, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use super::at::Folder;
use super::format::{Entry, Node};
use super::{Complain, Reader, shown};

/// Bytes that are written together.
const PIECE: usize = 256 << 10;
/// Most folders in each other: each is open.
const MAX_DEPTH: usize = 256;

/// Which bits of a mode are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// All: whoever sent it could do as much without.
    All,
    /// Not those by which a program gets its owner's rights.
    Plain,
}

impl Rights {
    fn of(self, mode: u32) -> Permissions {
        let kept = if self == Self::All { 0o7777 } else { 0o1777 };
        Permissions::from_mode(mode & kept)
    }
}

/// Unpacks a stream into `folder`; `rename` is what the first component of every path becomes. Of what cannot be
/// unpacked, `complain` is told, and the rest goes on.
///
/// # Errors
/// The stream is none, or cannot be read.
pub fn unpack(
    folder: Folder,
    rename: Option<&[u8]>,
    rights: Rights,
    input: impl Read,
    complain: &mut Complain<'_>,
) -> io::Result<()> {
    let mut reader = Reader::new(input);
    let mut tree = Tree { root: folder, open: Vec::new(), rights, buffer: vec![0; PIECE] };
    while let Some(entry) = reader.advance()? {
        let made = match components(&entry.path, rename) {
            Some(path) => tree.make(&path, &entry, rename, &mut reader),
            None => Err(Trouble::Refused("a path that leads out of the destination")),
        };
        match made {
            Ok(()) => {}
            Err(Trouble::Stream(e)) => return Err(e),
            Err(Trouble::Entry(e)) => complain(format!("{}: {e}", shown(&entry.path))),
            Err(Trouble::Refused(why)) => complain(format!("{} is refused: {why}", shown(&entry.path))),
        }
    }
    tree.leave(0);
    Ok(())
}

enum Trouble {
    Stream(io::Error),
    Entry(io::Error),
    Refused(&'static str),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Entry(error)
    }
}

/// What a path leads through; none if it leads out.
fn components<'a>(path: &'a [u8], rename: Option<&'a [u8]>) -> Option<Vec<&'a [u8]>> {
    let mut parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
    let mut list = Vec::new();
    if let Some(name) = rename {
        if parts.next()? == b".." {
            return None;
        }
        list.push(name);
    }
    list.extend(parts.filter(|part| *part != b"."));
    (!list.contains(&&b".."[..])).then_some(list)
}

struct Tree {
    root: Folder,
    /// The folders on the way to the last entry, and what is to become of them when they are left.
    open: Vec<Open>,
    rights: Rights,
    buffer: Vec<u8>,
}

struct Open {
    name: Vec<u8>,
    folder: Folder,
    then: Option<(u32, SystemTime)>,
}

impl Tree {
    fn make(
        &mut self,
        path: &[&[u8]],
        entry: &Entry,
        rename: Option<&[u8]>,
        reader: &mut Reader<impl Read>,
    ) -> Result<(), Trouble> {
        // The destination itself.
        let Some((name, parents)) = path.split_last() else { return Ok(()) };
        let rights = self.rights;
        if entry.node == Node::Folder {
            self.enter(path)?;
            if let Some(open) = self.open.last_mut() {
                open.then = Some((entry.mode, entry.modified));
            }
            return Ok(());
        }
        self.enter(parents)?;
        let folder = self.open.last().map_or(&self.root, |open| &open.folder);
        match &entry.node {
            Node::File(_) => {
                let mut file = replace(folder, name, || folder.make_file(name))?;
                loop {
                    let count = reader.data(&mut self.buffer).map_err(Trouble::Stream)?;
                    match self.buffer.get(..count).unwrap_or_default() {
                        [] => break,
                        data => file.write_all(data)?,
                    }
                }
                file.set_permissions(rights.of(entry.mode))?;
                file.set_times(FileTimes::new().set_modified(entry.modified))?;
            }
            Node::Link(target) => {
                replace(folder, name, || folder.make_link(name, target))?;
                folder.set_modified(name, entry.modified)?;
            }
            Node::Hard(target) => {
                let Some(path) = components(target, rename) else {
                    return Err(Trouble::Refused("it is a link to something outside of the destination"));
                };
                let Some((other, parents)) = path.split_last() else { return Ok(()) };
                let mut from = None;
                for parent in parents {
                    from = Some(from.as_ref().unwrap_or(&self.root).folder(parent)?);
                }
                let from = from.as_ref().unwrap_or(&self.root);
                replace(folder, name, || folder.make_name(name, from, other))?;
            }
            Node::Other => return Err(Trouble::Refused("it is neither file, folder nor link")),
            Node::Folder => {}
        }
        Ok(())
    }

    /// Opens the folders of a path, those that are not there as new ones, and leaves those that are not on it.
    fn enter(&mut self, path: &[&[u8]]) -> Result<(), Trouble> {
        let same = self.open.iter().zip(path).take_while(|(open, name)| open.name == **name).count();
        self.leave(same);
        for name in path.iter().skip(same) {
            if self.open.len() >= MAX_DEPTH {
                return Err(Trouble::Refused("it is too deep"));
            }
            let parent = self.open.last().map_or(&self.root, |open| &open.folder);
            let mut then = None;
            let folder = match parent.folder(name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    parent.make_folder(name)?;
                    then = Some((0o755, SystemTime::now()));
                    parent.folder(name)?
                }
                Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                    return Err(Trouble::Refused("on its way is something that is no folder"));
                }
                other => other?,
            };
            self.open.push(Open { name: name.to_vec(), folder, then });
        }
        Ok(())
    }

    /// Leaves folders until so many are open. Their times are set now, when nothing more is put into them.
    fn leave(&mut self, depth: usize) {
        while self.open.len() > depth {
            let Some(Open { folder, then, .. }) = self.open.pop() else { return };
            if let Some((mode, modified)) = then {
                // Another owner's folder keeps what it has.
                let _ = folder.file().set_times(FileTimes::new().set_modified(modified));
                let _ = folder.file().set_permissions(self.rights.of(mode));
            }
        }
    }
}

/// Makes something in place of what has the name.
fn replace<T>(folder: &Folder, name: &[u8], make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match make() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            folder.remove(name)?;
            make()
        }
        other => other,
    }
}
