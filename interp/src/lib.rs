//! The x86-64 interpreter: the reference semantics of every other engine.
//!
//! Guest instructions are decoded once (`decode`) into pre-resolved operations, kept per physical page (`cache`)
//! and run by a loop of calls (`run`). Integer instructions are in `exec`, one file per family; privileged
//! ones in `system`; vector and x87 instructions are executed by the host CPU on the guest's registers (`host`).
//! Guest memory is reached through a software TLB (`mmu`).

mod cache;
mod code;
pub mod core;
mod cpu;
mod decode;
mod engine;
mod exec;
mod flags;
mod host;
mod mmu;
mod op;
mod run;
mod state;
mod system;

pub use engine::Interp;
pub use host::refusal;
