//! Where switches are: a folder each, in one that is its user's alone.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::process::geteuid;

use super::spec::SwitchSpec;

const LOCK: &str = "lock";
const SPEC: &str = "spec.json";
const SOCKET: &str = "port.sock";
const LOG: &str = "log";
/// Longest name.
const LONGEST: usize = 32;
/// Connections that wait to be looked at.
const BACKLOG: i32 = 64;

/// All switches of a user's.
#[derive(Debug, Clone)]
pub struct Home {
    path: PathBuf,
}

impl Home {
    /// The folder of this user's; it need not be there.
    pub fn of_user() -> Self {
        let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| Path::new(path).is_absolute());
        let base = match own {
            Some(path) => PathBuf::from(path).join("guesthouse"),
            None if geteuid().is_root() => PathBuf::from("/run/guesthouse"),
            None => PathBuf::from(format!("/tmp/guesthouse-{}", geteuid().as_raw())),
        };
        Self { path: base.join("nets") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a switch; it need not be there.
    ///
    /// # Errors
    /// The name cannot be one.
    pub fn folder(&self, name: &str) -> Result<Folder, String> {
        check_name(name)?;
        Ok(Folder { path: self.path.join(name), name: name.to_owned() })
    }

    /// All folders, by name. There are none where the folder is another user's.
    pub fn folders(&self) -> Vec<Folder> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        if self.check().is_err() {
            return Vec::new();
        }
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut folders: Vec<_> = names.filter_map(|name| self.folder(&name).ok()).collect();
        folders.sort_by(|a, b| a.name.cmp(&b.name));
        folders
    }

    /// Makes the folder for all, which nobody else may enter.
    fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        for path in [self.path.parent().unwrap_or(&self.path), &self.path] {
            let meta = fs::symlink_metadata(path)?;
            if !meta.is_dir() || meta.uid() != geteuid().as_raw() || meta.mode() & 0o077 != 0 {
                let why = format!("{} is not a folder of yours alone: remove it", path.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
        }
        Ok(())
    }
}

/// Says whether a switch may be called so.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !letters || !first || name.len() > LONGEST {
        return Err(format!(
            "{name:?} is no name of a switch: give letters, digits, hyphens, underscores and dots, {LONGEST} at most"
        ));
    }
    if ["user", "tap", "none"].contains(&name) {
        return Err(format!("{name} is a kind of network: call the switch something else"));
    }
    Ok(())
}

/// A switch's folder.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    name: String,
}

/// Keeps a switch's folder; it is free when this is dropped.
#[derive(Debug)]
pub struct Held {
    folder: Folder,
    _lock: File,
}

impl Folder {
    /// The switch's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the switch's process has to say.
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Makes the folder, or takes one that was left behind, and keeps it.
    ///
    /// # Errors
    /// The switch is there already; or the host refuses it.
    pub fn hold(&self) -> io::Result<Held> {
        let home = Home { path: self.path.parent().unwrap_or(&self.path).to_owned() };
        home.make()?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let lock = File::options().create(true).truncate(false).write(true).open(self.path.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        // Who held it before may have removed it in between.
        let (ours, there) = (lock.metadata()?, fs::metadata(self.path.join(LOCK)));
        if !there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Held { folder: self.clone(), _lock: lock })
    }

    /// Somebody holds it.
    pub fn is_held(&self) -> bool {
        let Ok(lock) = File::open(self.path.join(LOCK)) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// Removes what a switch left that was killed; does nothing if it is there.
    pub fn sweep(&self) {
        if self.path.join(LOCK).exists()
            && let Ok(held) = self.hold()
        {
            held.remove();
        }
    }

    /// The definition.
    ///
    /// # Errors
    /// It is not there, or not understood.
    pub fn spec(&self) -> io::Result<SwitchSpec> {
        Ok(serde_json::from_slice(&fs::read(self.path.join(SPEC))?)?)
    }

    /// Connects to the switch.
    ///
    /// # Errors
    /// It is not there.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        let socket = seqpacket(SocketFlags::CLOEXEC)?;
        let (_folder, address) = self.address()?;
        connect(&socket, &address)?;
        Ok(socket)
    }

    /// The socket's address by way of a descriptor of its folder: paths of sockets are short, those of folders need not
    /// be.
    fn address(&self) -> io::Result<(File, SocketAddrUnix)> {
        let folder = File::open(&self.path)?;
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))?;
        Ok((folder, address))
    }
}

impl Held {
    /// The folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Writes the definition, and makes the socket.
    ///
    /// # Errors
    /// The host refuses it.
    pub fn listen(&self, spec: &SwitchSpec) -> io::Result<OwnedFd> {
        let path = &self.folder.path;
        let beside = path.join("spec.new");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(spec)?)?;
        file.sync_all()?;
        fs::rename(beside, path.join(SPEC))?;
        match fs::remove_file(path.join(SOCKET)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let socket = seqpacket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        let (_folder, address) = self.folder.address()?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    }

    /// Removes the folder.
    pub fn remove(self) {
        // The lock goes last, with the folder: whoever takes it over in between makes all again.
        for name in [SOCKET, SPEC, LOG, LOCK] {
            let _ = fs::remove_file(self.folder.path.join(name));
        }
        let _ = fs::remove_dir(&self.folder.path);
    }
}

fn seqpacket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_of_files_and_of_nothing_else() {
        for good in ["lan", "a", "my-net_2.0"] {
            assert_eq!(check_name(good), Ok(()));
        }
        for wrong in ["", ".", "..", "a/b", "-a", "user", "tap", "none", "a b", "ä", "a\n", &"a".repeat(33)]
        {
            assert!(check_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn one_holds_a_folder_and_what_is_left_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let home = Home { path: root.path().join("guesthouse/nets") };
        let folder = home.folder("lan").unwrap();
        assert!(!folder.is_held() && folder.connect().is_err());
        let held = folder.hold().unwrap();
        assert!(folder.is_held() && folder.hold().is_err());
        let _listener = held.listen(&SwitchSpec::default()).unwrap();
        folder.connect().unwrap();
        assert_eq!(folder.spec().unwrap(), SwitchSpec::default());
        drop(held); // killed
        assert!(!folder.is_held());
        assert_eq!(home.folders().len(), 1);
        folder.sweep();
        assert!(!folder.path().exists());
        folder.hold().unwrap().remove();
        assert!(home.folders().is_empty());
    }

    #[test]
    fn a_folder_of_others_is_none() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let home = Home { path: root.path().join("guesthouse/nets") };
        fs::create_dir_all(&home.path).unwrap();
        fs::set_permissions(root.path().join("guesthouse"), fs::Permissions::from_mode(0o777)).unwrap();
        let error = home.folder("lan").unwrap().hold().unwrap_err().to_string();
        assert!(error.contains("yours alone"), "{error}");
    }
}
