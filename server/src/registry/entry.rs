//! A machine as others see it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use machine::MachineSpec;
use rustix::process::{Pid, Signal, kill_process};

use super::{Registry, State, Status, file, folder};
use crate::{Client, LogFiles, ServerError};

/// Longest file of a folder that is read whole.
const MAX_FILE: u64 = 1 << 20;
/// How long a look at a process that is about to end is good for.
const LOOK: Duration = Duration::from_millis(2);

/// A machine that is there or was.
#[derive(Debug, Clone)]
pub struct Entry {
    registry: Registry,
    path: PathBuf,
    /// What its folder says, and that it is dead if it died without a word.
    pub status: Status,
    /// Its process is there.
    pub alive: bool,
}

impl Entry {
    pub(super) fn read(registry: &Registry, id: &str) -> Option<Self> {
        let path = registry.vms().join(id);
        // In this order: who has written its end and gone has said the truth.
        let alive = folder::is_held(&path);
        let text = read_file(&path.join(file::STATUS)).ok()?;
        let mut status: Status = serde_json::from_slice(&text).ok()?;
        status.id = id.to_owned();
        if !alive && status.state != State::Exited {
            status.state = State::Dead;
            let words = read_file(&path.join(file::LAST_WORDS)).unwrap_or_default();
            let words = String::from_utf8_lossy(&words);
            status.outcome = words.lines().next().map(|line| line.trim().to_owned());
        }
        Some(Self { registry: registry.clone(), path, status, alive })
    }

    /// The name, or the id.
    pub fn label(&self) -> &str {
        self.status.name.as_deref().unwrap_or(&self.status.id)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was to be.
    ///
    /// # Errors
    /// The folder does not say it.
    pub fn spec(&self) -> Result<MachineSpec, ServerError> {
        let path = self.path.join(file::SPEC);
        let text = read_file(&path).and_then(|text| String::from_utf8(text).map_err(io::Error::other));
        let spec = text.and_then(|text| toml::from_str(&text).map_err(io::Error::other));
        spec.map_err(|source| ServerError::Folder { path, source })
    }

    /// What its console said, as far as it is kept.
    pub fn log(&self) -> LogFiles {
        LogFiles::open(&self.path)
    }

    /// Its control API.
    ///
    /// # Errors
    /// It is not running or does not answer.
    pub fn connect(&self) -> Result<Client, ServerError> {
        if !self.alive {
            return Err(ServerError::Ended(self.label().to_owned()));
        }
        Client::connect(&self.path, self.label()).map_err(|e| {
            // It may have ended since.
            if folder::is_held(&self.path) { e } else { ServerError::Ended(self.label().to_owned()) }
        })
    }

    /// Ends its process, which does not answer.
    ///
    /// # Errors
    /// It is not running, or the host refuses it.
    pub fn kill_process(&self) -> Result<(), ServerError> {
        let pid = Pid::from_raw(self.status.pid).filter(|_| folder::is_held(&self.path));
        let pid = pid.ok_or_else(|| ServerError::Ended(self.label().to_owned()))?;
        kill_process(pid, Signal::KILL).map_err(|errno| ServerError::Host(errno.into()))
    }

    /// Waits until its process is gone; false if it still is there after so long.
    pub fn wait_for_end(&self, patience: Duration) -> bool {
        // Once: the process removes the file, then the folder, and then it ends.
        let lock = File::open(self.path.join(file::LOCK)).ok();
        let is_there = || lock.as_ref().map_or_else(|| self.path.exists(), folder::is_locked);
        let start = Instant::now();
        while is_there() {
            if start.elapsed() >= patience {
                return false;
            }
            sleep(LOOK);
        }
        true
    }

    /// Forgets a machine that has ended.
    ///
    /// # Errors
    /// It is running, or the host refuses it.
    pub fn remove(&self) -> Result<(), ServerError> {
        let guard = self.registry.lock()?;
        if folder::is_held(&self.path) {
            return Err(ServerError::Running(self.label().to_owned()));
        }
        self.registry.remove(&self.status.id, &guard)
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(text)
}
