//! The folder of a machine, in the hands of the machine's process.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use jail::{Access, Jail};
use machine::MachineSpec;
use rustix::fs::{FlockOperation, flock};
use rustix::rand::{GetRandomFlags, getrandom};

use super::{Entry, Registry, State, Status, file, is_name, now};
use crate::ServerError;

/// A machine's folder; the machine counts as alive as long as this lives.
#[derive(Debug)]
pub struct Folder {
    registry: Registry,
    id: String,
    path: PathBuf,
    _lock: File,
}

impl Registry {
    /// A folder for a new machine. `keep`: it stays after the machine's end.
    ///
    /// # Errors
    /// The name is not possible or taken, or the host refuses the folder.
    pub fn create(&self, name: Option<&str>, keep: bool) -> Result<(Folder, Status), ServerError> {
        if let Some(name) = name.filter(|name| !is_name(name)) {
            return Err(ServerError::Name(name.to_owned()));
        }
        let guard = self.lock()?;
        if let Some((name, id)) = name.and_then(|name| Some((name, self.named(name)?))) {
            match Entry::read(self, &id) {
                Some(entry) if entry.alive || entry.status.keep => {
                    let verb = if entry.alive { "stop" } else { "rm" };
                    let remedy = format!("guesthouse {verb} {name}, or give another name");
                    return Err(ServerError::Taken { name: name.to_owned(), id, remedy });
                }
                _ => self.remove(&id, &guard)?,
            }
        }
        let id = new_id()?;
        let path = self.vms().join(&id);
        let refused = |source| ServerError::Folder { path: path.clone(), source };
        DirBuilder::new().mode(0o700).create(&path).map_err(refused)?;
        let made = || -> io::Result<File> {
            let lock = File::create(path.join(file::LOCK))?;
            flock(&lock, FlockOperation::LockExclusive)?;
            if let Some(name) = name {
                let link = self.names().join(name);
                match symlink(Path::new("../vms").join(&id), &link) {
                    // It leads nowhere: who has a name was asked above.
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                        fs::remove_file(&link)?;
                        symlink(Path::new("../vms").join(&id), &link)?;
                    }
                    other => other?,
                }
            }
            Ok(lock)
        };
        let lock = match made() {
            Ok(lock) => lock,
            Err(source) => {
                let _ = self.remove(&id, &guard);
                return Err(refused(source));
            }
        };
        let status = Status {
            id: id.clone(),
            name: name.map(str::to_owned),
            pid: std::process::id() as i32,
            state: State::Starting,
            created: now(),
            keep,
            ..Status::default()
        };
        let folder = Folder { registry: self.clone(), id, path, _lock: lock };
        folder.write_status(&status)?;
        Ok((folder, status))
    }
}

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file of the folder: whoever looks finds it whole or not at all. It is not brought to the disk: what the folder is
    /// about is a process, which does not outlive the host.
    ///
    /// # Errors
    /// The host refuses it.
    pub fn write(&self, name: &str, data: &[u8]) -> Result<PathBuf, ServerError> {
        let path = self.path.join(name);
        let beside = self.path.join(format!(".{name}"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&beside)?;
            file.write_all(data)?;
            fs::rename(&beside, &path)
        };
        write().map_err(|source| ServerError::Folder { path: path.clone(), source })?;
        Ok(path)
    }

    /// Says what the machine is doing.
    ///
    /// # Errors
    /// The host refuses it.
    pub fn write_status(&self, status: &Status) -> Result<(), ServerError> {
        let text = serde_json::to_vec_pretty(status).unwrap_or_default();
        self.write(file::STATUS, &text).map(drop)
    }

    /// Says what the machine was to be.
    ///
    /// # Errors
    /// The host refuses it.
    pub fn write_spec(&self, spec: &MachineSpec) -> Result<(), ServerError> {
        let refused = |e: toml::ser::Error| ServerError::Folder {
            path: self.path.join(file::SPEC),
            source: io::Error::other(e),
        };
        let text = toml::to_string(spec).map_err(refused)?;
        self.write(file::SPEC, text.as_bytes()).map(drop)
    }

    /// A file for what a process in the background says when it ends in the midst of its work.
    ///
    /// # Errors
    /// The host refuses it.
    pub fn last_words(&self) -> io::Result<File> {
        File::create(self.path.join(file::LAST_WORDS))
    }

    /// What its process needs of it and of the folders around it.
    pub fn allow(&self, jail: &mut Jail) {
        jail.allow(&self.path, Access::All).allow(&self.registry.root, Access::List);
        jail.allow(self.registry.vms(), Access::RemoveFolders).allow(self.registry.names(), Access::Remove);
    }

    /// Leaves nothing behind.
    ///
    /// # Errors
    /// The host refuses it.
    pub fn remove(&self) -> Result<(), ServerError> {
        let guard = self.registry.lock()?;
        self.registry.remove(&self.id, &guard)
    }
}

/// True if a process has this folder.
pub fn is_held(folder: &Path) -> bool {
    File::open(folder.join(file::LOCK)).is_ok_and(|lock| is_locked(&lock))
}

/// The same, by a lock that was opened before.
pub fn is_locked(lock: &File) -> bool {
    // Shared, so that those who look do not take each other for the machine.
    let locked = flock(lock, FlockOperation::NonBlockingLockShared);
    let _ = flock(lock, FlockOperation::Unlock);
    matches!(locked, Err(rustix::io::Errno::WOULDBLOCK))
}

fn new_id() -> Result<String, ServerError> {
    let mut bytes = [0; 6];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|errno| ServerError::Host(errno.into()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
