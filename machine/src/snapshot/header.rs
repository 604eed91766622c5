//! What has to be known before there is a machine.

use serde::{Deserialize, Serialize};

use super::DiskMark;
use crate::{BoardKind, MachineSpec};

/// The header of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the program that made it.
    pub program: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// Which parts the machine has.
    pub board: BoardKind,
    /// The engine that ran it.
    pub engine: String,
    /// CPU model, and all features that the guest was given.
    pub cpu_model: String,
    /// See `cpu_model`.
    pub cpu_features: Vec<String>,
    /// Guest time: ticks, and how many there are in a second.
    pub tsc: u64,
    /// See `tsc`.
    pub tsc_hz: u64,
    /// Bytes of RAM.
    pub memory: u64,
    /// Sections that follow.
    pub sections: u32,
    /// The definition, with the files of guests and the addresses of cards in it.
    pub spec: MachineSpec,
    /// Disks, in the order of the definition.
    pub disks: Vec<DiskMark>,
}
