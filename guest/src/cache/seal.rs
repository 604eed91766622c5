//! What a guest's files looked like when they were last read as a whole: `seal.json` beside them. Files that still look so are
//! taken for the same, as version control takes them: whoever changes one moves its change time, which no program sets.
//! Only a disk that forgets by itself goes unnoticed, until the next whole check.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Name of the file.
const SEAL: &str = "seal.json";
/// A file that was changed within this time may be changed again without a new change time: those are as coarse as a tick of
/// the host's kernel, on some file systems as a second or two.
const FRESH: Duration = Duration::from_secs(2);

/// Files as the file system sees them.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// SHA-256 of each, as the manifest has it.
    hashes: Vec<String>,
    looks: Vec<Look>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// It can be told from every later one.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(self.changed.0.try_into().unwrap_or(u64::MAX));
        changed.saturating_add(FRESH) < now
    }
}

impl Seal {
    /// The files as they look now; each with its hash.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn of<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> io::Result<Self> {
        let mut seal = Self { hashes: Vec::new(), looks: Vec::new() };
        for (path, hash) in files {
            seal.looks.push(Look::of(&fs::metadata(path)?));
            seal.hashes.push(hash.to_owned());
        }
        Ok(seal)
    }

    /// The files in the folder looked so when they were last read.
    pub fn holds(&self, folder: &Path) -> bool {
        let written = fs::read(folder.join(SEAL)).ok();
        let written: Option<Self> = written.and_then(|text| serde_json::from_slice(&text).ok());
        written.is_some_and(|written| written == *self)
    }

    /// They can be told from all that will be in their places.
    pub fn is_settled(&self) -> bool {
        self.looks.iter().all(Look::is_settled)
    }

    /// They were read, and they still look so: the next one need not read them. A folder that cannot be written to has no seal.
    pub fn put(self, folder: &Path) {
        if !self.is_settled() {
            return;
        }
        let text = serde_json::to_vec(&self).unwrap_or_default();
        // Several may do this at once.
        let beside = folder.join(format!(".{SEAL}.{}", std::process::id()));
        let _ = fs::remove_file(&beside);
        if let Err(e) = super::write_durably(&beside, &text).and_then(|()| {
            fs::rename(&beside, folder.join(SEAL))
                .map_err(crate::GuestError::io("move the seal into place", &beside))
        }) {
            tracing::debug!("the guest's files will be read again: {e}");
        }
    }
}
