//! The engine on `/dev/kvm`: guest code runs on the host's CPU in hardware virtualization. The only crate that knows KVM's
//! requests.
//!
//! Either all interrupt controllers are the machine's: KVM gets vectors one by one (`vcpu`), local timers are alarms of the
//! thread (`kick`). Or local APICs are KVM's as long as the machine runs (`apics`, `vcpu/split.rs`), and the other
//! controllers with them if that is asked for (`chips`). What KVM cannot execute, an instruction or a whole mode, other engines do
//! on the vCPU's state (`helper`).

mod apics;
mod chips;
mod cpuid;
mod engine;
mod error;
mod helper;
mod kick;
mod modes;
mod probe;
mod raw;
mod state;
mod vcpu;

pub use engine::{Helpers, Kvm};
pub use probe::Speed;
