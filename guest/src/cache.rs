//! The folder of built guests: `$XDG_CACHE_HOME/guesthouse/guests/NAME/{vmlinuz,initrd,manifest.json}`.
//!
//! A guest appears there whole or not at all: it is built in a folder beside, brought to the disk, and moved
//! into place by one rename, under a lock that other processes wait for.

mod seal;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::apt::{Apt, Package};
use crate::catalogue::hex;
use crate::cpio::Archive;
use crate::{GuestEntry, GuestError, PackageSource, deb, initramfs, programs};
use seal::Seal;

const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd";
const MANIFEST: &str = "manifest.json";

/// The user's guests.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// A guest that is ready to be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Kernel image, as shipped.
    pub kernel: PathBuf,
    /// Initramfs, uncompressed.
    pub initrd: PathBuf,
    /// What it was built from.
    pub manifest: Manifest,
}

impl Built {
    /// Its files, with their hashes.
    fn files(&self) -> impl Iterator<Item = (&Path, &str)> {
        let hashes = self.manifest.files.iter().map(|record| record.sha256.as_str());
        [self.kernel.as_path(), &self.initrd].into_iter().zip(hashes)
    }
}

/// What a built guest consists of; `manifest.json` beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name in the catalogue.
    pub guest: String,
    /// Changes when the catalogue's entry or this program's part of the guest does.
    pub key: String,
    /// The packages it came from.
    pub packages: Vec<PackageRecord>,
    /// Its kernel and its initramfs.
    pub files: [FileRecord; 2],
}

/// A package that went into a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRecord {
    /// Name of the package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the package file, hexadecimal.
    pub sha256: String,
}

/// A file of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Name in the guest's folder.
    pub name: String,
    /// Where it was in its package, or how it was made.
    pub origin: String,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// What a build is doing, for a progress line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Another process builds the same guest.
    Waiting,
    /// Package lists are fetched.
    Lists,
    /// A package is fetched: name and version.
    Download(String, String),
    /// A package is unpacked.
    Unpack(String),
    /// A whole system is installed.
    Install,
    /// The files are written.
    Write,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for another guesthouse that builds it"),
            Self::Lists => f.write_str("fetching package lists"),
            Self::Download(name, version) => write!(f, "fetching {name} {version}"),
            Self::Unpack(name) => write!(f, "unpacking {name}"),
            Self::Install => f.write_str("installing its packages, which takes a minute or more"),
            Self::Write => f.write_str("writing its files"),
        }
    }
}

/// A wish to stop building, from another thread.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// The build ends soon, with [`GuestError::Interrupted`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// True once [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Cache {
    /// The cache of the calling user (XDG base directory specification).
    pub fn of_user() -> Result<Self, GuestError> {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        Ok(Self { root: base.ok_or(GuestError::NoCache)?.join("guesthouse") })
    }

    /// A cache in the given folder, which is made when something is built.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The guest, if it is built, current and undamaged: its files are those that were read when they were last looked at
    /// ([`check`](Self::check)), or are read now.
    pub fn get(&self, entry: &GuestEntry) -> Option<Built> {
        self.find(entry, false)
    }

    /// The same with its files read as a whole, whatever is known of them.
    pub fn check(&self, entry: &GuestEntry) -> Option<Built> {
        self.find(entry, true)
    }

    fn find(&self, entry: &GuestEntry, whole: bool) -> Option<Built> {
        let folder = self.guests().join(&entry.name);
        let manifest: Manifest = serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()?;
        let built = Built { kernel: folder.join(KERNEL), initrd: folder.join(INITRD), manifest };
        if built.manifest.key != entry.key() {
            tracing::info!("guest {} is of another version of this program", entry.name);
            return None;
        }
        let seal = Seal::of(built.files()).ok()?;
        if !whole && seal.holds(&folder) {
            return Some(built);
        }
        for (path, hash) in built.files() {
            if sha256(&fs::read(path).ok()?) != hash {
                tracing::warn!("{} is damaged and will be built again", path.display());
                return None;
            }
        }
        seal.put(&folder);
        Some(built)
    }

    /// The guest, built now if need be.
    pub fn get_or_build(
        &self,
        entry: &GuestEntry,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Built, GuestError> {
        match self.get(entry) {
            Some(built) => Ok(built),
            None => self.build(entry, false, cancel, progress),
        }
    }

    /// Builds the guest; with `anew` also when it is there, for newer packages.
    pub fn build(
        &self,
        entry: &GuestEntry,
        anew: bool,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Built, GuestError> {
        let guests = self.guests();
        fs::create_dir_all(&guests).map_err(GuestError::io("make the folder", &guests))?;
        let _lock = lock(&guests.join(format!("{}.lock", entry.name)), &entry.name, cancel, progress)?;
        if let (false, Some(built)) = (anew, self.get(entry)) {
            return Ok(built); // another process was faster
        }
        let work = WorkFolder::new(guests.join(format!("{}.building", entry.name)))?;
        let parts = Parts::fetch(entry, &work.path, cancel, progress)?;
        progress(Step::Write);
        let image = work.path.join("image");
        fs::create_dir(&image).map_err(GuestError::io("make the folder", &image))?;
        let initrd = parts.archive.write();
        let record = |name: &str, origin: &str, data: &[u8]| FileRecord {
            name: name.to_owned(),
            origin: origin.to_owned(),
            sha256: sha256(data),
        };
        let manifest = Manifest {
            guest: entry.name.clone(),
            key: entry.key(),
            packages: parts.packages,
            files: [
                record(KERNEL, &parts.kernel_path, &parts.kernel),
                record(INITRD, "busybox, init, agent and programs in a newc archive", &initrd),
            ],
        };
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        for (name, data) in [(KERNEL, &parts.kernel), (INITRD, &initrd), (MANIFEST, &text)] {
            write_durably(&image.join(name), data)?;
        }
        if cancel.is_cancelled() {
            return Err(GuestError::Interrupted(entry.name.clone()));
        }
        let place = guests.join(&entry.name);
        if place.exists() {
            fs::remove_dir_all(&place).map_err(GuestError::io("remove the old guest", &place))?;
        }
        fs::rename(&image, &place).map_err(GuestError::io("move the guest into place", &place))?;
        sync_folder(&guests);
        Ok(Built { kernel: place.join(KERNEL), initrd: place.join(INITRD), manifest })
    }

    pub(crate) fn guests(&self) -> PathBuf {
        self.root.join("guests")
    }
}

/// What packages give.
struct Parts {
    kernel: Vec<u8>,
    kernel_path: String,
    /// The guest's files.
    archive: Archive,
    packages: Vec<PackageRecord>,
}

impl Parts {
    /// With the host's package lists, or, if these are missing or too old, with fresh ones.
    fn fetch(
        entry: &GuestEntry,
        work: &Path,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Self, GuestError> {
        let mut apt = Apt::new(&entry.name, work, cancel);
        match Self::fetch_with(&apt, entry, progress) {
            Err(GuestError::Package { package, fact }) => {
                tracing::info!("with the host's package lists, {package}: {fact}");
                progress(Step::Lists);
                let trouble = apt.update()?;
                Self::fetch_with(&apt, entry, progress).map_err(|e| match (e, trouble) {
                    (GuestError::Package { package, fact }, Some(trouble)) => {
                        GuestError::Package { package, fact: format!("{fact} ({trouble})") }
                    }
                    (e, _) => e,
                })
            }
            other => other,
        }
    }

    fn fetch_with(
        apt: &Apt<'_>,
        entry: &GuestEntry,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Self, GuestError> {
        let mut packages = Vec::new();
        let mut fetch = |package: &Package| -> Result<PathBuf, GuestError> {
            progress(Step::Download(package.name.clone(), package.version.clone()));
            let deb = apt.download(package)?;
            let data = fs::read(&deb).map_err(GuestError::io("read", &deb))?;
            if sha256(&data) != package.sha256 {
                return Err(GuestError::Deb { path: deb, fact: "its SHA-256 is not the listed one".into() });
            }
            progress(Step::Unpack(package.name.clone()));
            packages.push(package.record());
            Ok(deb)
        };
        let file = |deb: &Path, source: &PackageSource| -> Result<(String, Vec<u8>), GuestError> {
            deb::extract(deb, &source.files, &entry.name)?.ok_or_else(|| GuestError::Deb {
                path: deb.to_owned(),
                fact: format!("it has none of the files {}", source.files.join(", ")),
            })
        };
        let deb = fetch(&resolve(apt, &entry.kernel)?)?;
        let (kernel_path, kernel) = file(&deb, &entry.kernel)?;
        let wanted = entry.wanted_modules();
        let names: Vec<_> = wanted.iter().map(|module| module.name).collect();
        let modules = deb::modules(&deb, &names, &entry.name)?;
        let (_, busybox) = file(&fetch(&resolve(apt, &entry.busybox)?)?, &entry.busybox)?;
        let mut archive = initramfs::archive(busybox, entry.applet_names());
        initramfs::add_modules(&mut archive, &wanted, modules);
        if let Some(wanted) = &entry.programs {
            programs::add_links(&mut archive);
            for package in programs::resolve(apt, wanted)? {
                programs::unpack(&fetch(&package)?, &wanted.skip, &entry.name, &mut archive)?;
            }
        }
        Ok(Self { kernel, kernel_path, archive, packages })
    }
}

/// The package that holds the files.
fn resolve(apt: &Apt<'_>, source: &PackageSource) -> Result<Package, GuestError> {
    let show = |name: &str| {
        apt.show(name)?.ok_or_else(|| GuestError::Package {
            package: name.to_owned(),
            fact: "the package lists do not have it".into(),
        })
    };
    let package = show(&source.package)?;
    let Some(prefix) = &source.depends else { return Ok(package) };
    match package.depends.iter().find(|d| d.starts_with(prefix.as_str())) {
        Some(real) => show(real),
        None => Ok(package),
    }
}

/// A folder that goes away with its content.
pub(crate) struct WorkFolder {
    pub path: PathBuf,
}

impl WorkFolder {
    pub fn new(path: PathBuf) -> Result<Self, GuestError> {
        if path.exists() {
            // Left by a process that was killed; the lock says that it is gone.
            fs::remove_dir_all(&path).map_err(GuestError::io("remove the leftover folder", &path))?;
        }
        fs::create_dir(&path).map_err(GuestError::io("make the folder", &path))?;
        Ok(Self { path })
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path) {
            tracing::warn!("{} is left behind: {e}", self.path.display());
        }
    }
}

/// Takes the lock, which lasts as long as the file is open.
pub(crate) fn lock(
    path: &Path,
    guest: &str,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Step),
) -> Result<File, GuestError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(GuestError::io("open the lock", path))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(GuestError::io("lock", path)(e)),
            Err(TryLockError::WouldBlock) if cancel.is_cancelled() => {
                return Err(GuestError::Interrupted(guest.to_owned()));
            }
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    progress(Step::Waiting);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

pub(crate) fn write_durably(path: &Path, data: &[u8]) -> Result<(), GuestError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(data)?;
        file.sync_all()
    };
    write().map_err(GuestError::io("write", path))
}

/// Makes a rename last; a file system that cannot sync a folder does no harm.
pub(crate) fn sync_folder(path: &Path) {
    let _ = File::open(path).and_then(|f| f.sync_all());
}

fn sha256(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

#[cfg(test)]
mod tests;
