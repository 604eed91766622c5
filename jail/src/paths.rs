//! Which files the process may open from now on, by Landlock (Documentation/userspace-api/landlock.rst).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags};

/// Interfaces up to this one are used; hosts may have less. Later ones would forbid to call sockets by their paths.
const KNOWN: ABI = ABI::V7;

/// What may be done below a path, or with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Files are read, folders listed.
    Read,
    /// Files that are there are read and written.
    Write,
    /// A device is read, written, and asked by ioctls.
    Device,
    /// Files are made and written.
    Make,
    /// Files are made, read, written and removed.
    Files,
    /// Sockets are made and removed, nothing else.
    Sockets,
    /// Folders are listed, nothing else.
    List,
    /// Files are listed and removed, nothing else.
    Remove,
    /// Empty folders are removed, nothing else.
    RemoveFolders,
    /// Whatever there is to do but running programs.
    All,
}

impl Access {
    fn rights(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::WriteFile | AccessFs::Truncate;
        match self {
            Self::Read => read,
            Self::Write => write | AccessFs::ReadFile,
            Self::Device => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
            Self::Make => write | AccessFs::MakeReg,
            Self::Files => read | write | AccessFs::MakeReg | AccessFs::RemoveFile,
            Self::Sockets => AccessFs::MakeSock | AccessFs::RemoveFile,
            Self::List => AccessFs::ReadDir.into(),
            Self::Remove => AccessFs::ReadDir | AccessFs::RemoveFile,
            Self::RemoveFolders => AccessFs::RemoveDir.into(),
            Self::All => AccessFs::from_all(KNOWN) & !AccessFs::Execute,
        }
    }
}

/// Folders of the kernel's make their nodes anew when they were not used for a while, and rules are about nodes: these
/// descriptors keep them.
static KEPT: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// The files of a process, and whether it may use the host's network.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    rules: Vec<(PathBuf, Access)>,
    /// TCP, in both directions.
    pub tcp: bool,
}

impl Paths {
    pub fn allow(&mut self, path: &Path, access: Access) {
        self.rules.push((path.to_owned(), access));
    }

    /// Limits the calling thread and those that it makes; the version of the interface, or why there is no limit.
    pub fn enforce(&self) -> Result<u32, String> {
        let status = self.restrict().map_err(|e| e.to_string())?;
        match (status.ruleset, status.landlock) {
            (RulesetStatus::NotEnforced, _) => {
                Err("the kernel has no Landlock, or does not use it".to_owned())
            }
            (_, LandlockStatus::Available { effective_abi, kernel_abi }) => {
                Ok(kernel_abi.map_or(effective_abi as u32, i32::unsigned_abs))
            }
            (_, other) => Err(format!("{other:?}")),
        }
    }

    fn restrict(&self) -> Result<RestrictionStatus, RulesetError> {
        let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
        let mut rules = rules.handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::from_all(KNOWN))?;
        if !self.tcp {
            rules = rules.handle_access(AccessNet::from_all(KNOWN))?;
        }
        let mut rules = rules.create()?;
        let mut kept = KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (path, access) in &self.rules {
            // What is not there now was not going to be used, or whoever wants it will say that it is not there.
            let Ok(fd) = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
                continue;
            };
            rules = rules.add_rule(PathBeneath::new(&fd, access.rights()))?;
            if path.starts_with("/proc") || path.starts_with("/sys") {
                kept.push(fd);
            }
        }
        rules.restrict_self()
    }
}
