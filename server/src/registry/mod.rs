//! Where machines are found: a folder for each, as docs/adr/0005-living-with-machines.md lays them out. A machine's process
//! holds a lock on its folder; a lock that is free says that the process is gone, however it went.
//!
//! Whoever makes or removes something holds the registry's own lock meanwhile, so that no two do it at once; whoever
//! only looks needs none.

mod entry;
mod folder;
mod status;

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

use crate::ServerError;
pub use entry::Entry;
pub use folder::Folder;
pub use status::{State, Status, now};

/// Files of a machine's folder.
pub(crate) mod file {
    pub const LOCK: &str = "lock";
    pub const SPEC: &str = "spec.toml";
    pub const STATUS: &str = "status.json";
    pub const SOCKET: &str = "api.sock";
    pub const LOG: &str = "console.log";
    pub const OLD_LOG: &str = "console.log.1";
    pub const LAST_WORDS: &str = "last-words";
}

/// Longest name of a machine.
const MAX_NAME: usize = 63;

/// The folders of a user's machines.
#[derive(Debug, Clone)]
pub struct Registry {
    root: PathBuf,
}

/// Held while something is made or removed.
pub(crate) struct Guard(#[allow(dead_code, reason = "the lock is the file's")] File);

impl Registry {
    /// The user's: in `$XDG_RUNTIME_DIR/guesthouse`, else in /run/guesthouse for root and /tmp/guesthouse-UID for others.
    ///
    /// # Errors
    /// The folder cannot be made, or is not the user's alone.
    pub fn of_user() -> Result<Self, ServerError> {
        let runtime =
            std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let uid = geteuid();
        Self::at(match runtime {
            Some(folder) => folder.join("guesthouse"),
            None if uid.is_root() => "/run/guesthouse".into(),
            None => format!("/tmp/guesthouse-{}", uid.as_raw()).into(),
        })
    }

    /// The same in a folder of the caller's choice.
    ///
    /// # Errors
    /// As [`of_user`](Self::of_user).
    pub fn at(root: PathBuf) -> Result<Self, ServerError> {
        let refused = |path: &Path| {
            let path = path.to_owned();
            |source| ServerError::Folder { path, source }
        };
        match DirBuilder::new().mode(0o700).create(&root) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(refused(&root)(e)),
            _ => {}
        }
        let wrong = |what| Err(ServerError::NotOurs { path: root.clone(), what });
        let meta = root.symlink_metadata().map_err(refused(&root))?;
        if !meta.is_dir() {
            return wrong("no folder");
        }
        if meta.uid() != geteuid().as_raw() {
            return wrong("somebody else's");
        }
        if meta.mode() & 0o077 != 0 {
            fs::set_permissions(&root, Permissions::from_mode(0o700)).map_err(refused(&root))?;
        }
        for part in ["vms", "names"] {
            let path = root.join(part);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(refused(&path)(e)),
                _ => {}
            }
        }
        Ok(Self { root })
    }

    /// Every machine, oldest first. What a machine left that was to leave nothing is removed.
    ///
    /// # Errors
    /// The folders cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, ServerError> {
        let folder = self.vms();
        let refused = |source| ServerError::Folder { path: folder.clone(), source };
        let mut entries = Vec::new();
        for found in fs::read_dir(&folder).map_err(refused)? {
            let Ok(found) = found else { continue };
            // Not ours if it has no id's name; it may be gone by now.
            let Some(id) = found.file_name().to_str().filter(|id| is_id(id)).map(str::to_owned) else {
                continue;
            };
            entries.extend(self.look(&id)?);
        }
        entries.sort_by(|a, b| (a.status.created, &a.status.id).cmp(&(b.status.created, &b.status.id)));
        Ok(entries)
    }

    /// The machine with this id, this name, or an id that begins so.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn find(&self, text: &str) -> Result<Entry, ServerError> {
        if is_id(text)
            && let Some(entry) = self.look(text)?
        {
            return Ok(entry);
        }
        if is_name(text)
            && let Some(id) = self.named(text)
            && let Some(entry) = self.look(&id)?
        {
            return Ok(entry);
        }
        let prefix = !text.is_empty() && text.bytes().all(is_digit);
        let mut matching = if prefix { self.list()? } else { Vec::new() };
        matching.retain(|entry| entry.status.id.starts_with(text));
        match (matching.pop(), matching.is_empty()) {
            (Some(entry), true) => Ok(entry),
            (Some(_), false) => Err(ServerError::Ambiguous(text.to_owned())),
            (None, _) => Err(ServerError::Unknown(text.to_owned())),
        }
    }

    /// What is known of an id; nothing if the folder is gone, or should be and is now.
    fn look(&self, id: &str) -> Result<Option<Entry>, ServerError> {
        match Entry::read(self, id) {
            Some(entry) if entry.alive || entry.status.keep => return Ok(Some(entry)),
            _ if !self.vms().join(id).exists() => return Ok(None),
            _ => {}
        }
        // A new folder has no status yet while its maker has the lock.
        let guard = self.lock()?;
        match Entry::read(self, id) {
            Some(entry) if entry.alive || entry.status.keep => Ok(Some(entry)),
            // Somebody holds it who has said nothing about it.
            None if folder::is_held(&self.vms().join(id)) => Ok(None),
            _ => self.remove(id, &guard).map(|()| None),
        }
    }

    /// Who has this name.
    fn named(&self, name: &str) -> Option<String> {
        let target = fs::read_link(self.names().join(name)).ok()?;
        target.file_name()?.to_str().filter(|id| is_id(id)).map(str::to_owned)
    }

    /// Removes a machine's folder and name.
    fn remove(&self, id: &str, _: &Guard) -> Result<(), ServerError> {
        let path = self.vms().join(id);
        let gone = |result: io::Result<()>, path: PathBuf| match result {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ServerError::Folder { path, source })
            }
            _ => Ok(()),
        };
        // The name first: it must not lead to what is not there.
        for found in fs::read_dir(self.names()).into_iter().flatten().flatten() {
            let name = found.file_name();
            if name.to_str().and_then(|name| self.named(name)).is_some_and(|owner| owner == id) {
                gone(fs::remove_file(found.path()), found.path())?;
            }
        }
        gone(fs::remove_dir_all(&path), path)
    }

    fn lock(&self) -> Result<Guard, ServerError> {
        let refused = |source| ServerError::Folder { path: self.root.clone(), source };
        let file = File::open(&self.root).map_err(refused)?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Guard(file)),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(refused(errno.into())),
            }
        }
    }

    fn vms(&self) -> PathBuf {
        self.root.join("vms")
    }

    fn names(&self) -> PathBuf {
        self.root.join("names")
    }
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(is_digit)
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(plain)
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests;
