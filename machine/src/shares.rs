//! The machine's shared folders.

use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use share::{Cache, Share, ShareOptions};
use virtio::{Fs, VirtioDevice};

use crate::MachineError;

/// Most descriptors of all shares together, and those that the rest of the process keeps at least.
const MOST_DESCRIPTORS: u64 = 1 << 15;
const OTHERS: u64 = 256;
/// Most shares.
const MAX_SHARES: usize = 16;

/// A folder of the host's that the guest may mount.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShareSpec {
    /// The folder.
    pub path: PathBuf,
    /// What the guest calls it: `mount -t virtiofs TAG /mnt` in Linux.
    pub tag: String,
    /// The guest cannot change it.
    pub readonly: bool,
    /// How long the guest may believe what it has seen.
    pub cache: Cache,
    /// The guest may make programs in it that run as their owners.
    pub suid: bool,
}

/// Checks the tags.
pub fn validate(shares: &[ShareSpec]) -> Result<(), MachineError> {
    if shares.len() > MAX_SHARES {
        return Err(MachineError::Shares { count: shares.len(), max: MAX_SHARES });
    }
    for (index, ShareSpec { tag, .. }) in shares.iter().enumerate() {
        // A tag becomes a folder's name, and a word in scripts.
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !(1..=Fs::MAX_TAG).contains(&tag.len()) || !tag.chars().all(plain) || tag.starts_with(['.', '-']) {
            return Err(MachineError::ShareTag(tag.clone()));
        }
        if shares.iter().take(index).any(|other| other.tag == *tag) {
            return Err(MachineError::SameTag(tag.clone()));
        }
    }
    Ok(())
}

/// Opens the folders and makes the devices.
pub fn open(shares: &[ShareSpec]) -> Result<Vec<Arc<dyn VirtioDevice>>, MachineError> {
    let mut devices: Vec<Arc<dyn VirtioDevice>> = Vec::new();
    if shares.is_empty() {
        return Ok(devices);
    }
    let descriptors = descriptors() / shares.len();
    for spec in shares {
        let options = ShareOptions {
            path: spec.path.clone(),
            read_only: spec.readonly,
            cache: spec.cache,
            set_id: spec.suid,
            descriptors,
        };
        let fs = Fs::new(Share::new(options)?, &spec.tag).map_err(MachineError::Thread)?;
        devices.push(Arc::new(fs));
    }
    Ok(devices)
}

/// How many descriptors shares may hold, after the process was given as many as it may have.
fn descriptors() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If that is refused, what there was remains.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    limit.saturating_sub(OTHERS).clamp(OTHERS, MOST_DESCRIPTORS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_words_and_distinct() {
        let share = |tag: &str| ShareSpec { tag: tag.to_owned(), path: ".".into(), ..ShareSpec::default() };
        validate(&[share("src"), share("my-folder_2.0")]).unwrap();
        for tag in ["", ".", "..", "-a", "a/b", "a b", "a\n", "\u{e9}", &"a".repeat(37)] {
            let error = validate(&[share(tag)]).unwrap_err().to_string();
            assert!(error.contains(&format!("{tag:?}")) && !error.contains('\n'), "{error}");
        }
        assert!(matches!(validate(&[share("a"), share("a")]), Err(MachineError::SameTag(_))));
        let many: Vec<_> = (0..17).map(|i| share(&i.to_string())).collect();
        assert!(validate(&many).unwrap_err().to_string().contains("17 shares"));
    }
}
