//! Boards and their life: a [`MachineSpec`] becomes a running [`Machine`].
//!
//! One host thread runs each vCPU, one more serves the deadlines of the parts. They meet in `control` when
//! the machine is paused, reset or stopped; nothing else synchronises them.

mod apics;
mod balloon;
mod board;
mod cgroup;
mod console;
mod control;
mod disks;
mod doorbells;
pub mod engine;
mod error;
mod files;
mod generation;
mod governor;
mod host;
mod hypercalls;
mod jail;
mod limits;
mod listener;
mod machine;
mod meter;
mod moving;
mod nets;
mod pc;
mod report;
mod shares;
mod size;
pub mod snapshot;
mod spec;
mod stolen;
mod vcpu;
mod vsock;

pub use balloon::BalloonReport;
pub use board::BoardKind;
pub use console::{ConsoleKind, PortSpec};
pub use control::Outcome;
pub use cpu::usage::cpu_time;
pub use disks::is_bootable;
pub use error::MachineError;
pub use generation::VmGenId;
pub use hypercalls::{ChannelState, Hypercalls};
pub use limits::{DeviceName, Limits, RateSpec};
pub use machine::Machine;
pub use meter::{Counters, DiskStats, FrameStats, IoStats, NetStats};
pub use pc::{Backends, Pc};
pub use report::Report;
pub use shares::ShareSpec;
pub use size::Size;
pub use snapshot::{Snapshot, SnapshotError};
pub use spec::{DiskSpec, MAX_CPUS, MachineSpec, ModuleSpec, NetSpec};
pub use vsock::VsockSpec;

pub use block::Format;
pub use boot::Protocol;
pub use cpu::{CpuState, Irqchip};
pub use device::{CharBackend, NullBackend};
pub use engine::EngineKind;
pub use net::{Forward, Mac, TapConfig, UserConfig};
pub use share::Cache;
pub use virtio::{BalloonStatistics, ConsoleSize, Peer, PortBackend, PortBell};

#[cfg(test)]
mod tests;
