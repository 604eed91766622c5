//! What a machine's folder says of it.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being made, or waits to be started again.
    #[default]
    Starting,
    /// The guest runs.
    Running,
    /// The guest stands still until it is resumed.
    Paused,
    /// It has ended; `exit_status` says how.
    Exited,
    /// Its process was ended from outside before it could say anything.
    Dead,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited => "exited",
            Self::Dead => "dead",
        })
    }
}

/// A machine as its folder describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Status {
    /// 12 hexadecimal digits.
    pub id: String,
    /// The name, if it has one.
    pub name: Option<String>,
    /// What it runs: a guest's name, or the file of a kernel or a disk.
    pub guest: String,
    /// The engine that runs the guest's code.
    pub engine: String,
    /// Its process.
    pub pid: i32,
    /// What it is doing.
    pub state: State,
    /// Once it has exited: as `guesthouse run` would have exited.
    pub exit_status: Option<u8>,
    /// Once it has exited: how, in a line. If it is dead: its last words, if it had any.
    pub outcome: Option<String>,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
    /// When the guest was started last.
    pub started: Option<u64>,
    /// When it exited.
    pub finished: Option<u64>,
    /// How often it was started again after a failure.
    pub restarts: u32,
    /// The folder stays after the end, until it is removed.
    pub keep: bool,
    /// Its CPUs.
    pub cpus: u32,
    /// Guest RAM in bytes.
    pub memory: u64,
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
