//! The engine on `/dev/kvm`: guest code runs on the host's CPU in hardware virtualization. The only crate that knows KVM's
//! requests.
//!
//! The machine's interrupt controllers stay the only ones: KVM gets vectors one by one (`vcpu`), local timers are alarms
//! of the thread (`kick`). What KVM cannot execute, an instruction or a whole mode, other engines do on the vCPU's
//! state (`helper`).

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
