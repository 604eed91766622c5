//! Guest CPU state and the contract between a machine and the engines that run its vCPUs.
//!
//! Nothing here executes an instruction or performs I/O. [`CpuState`] is architectural and belongs to no
//! engine, so that a guest saved on one engine resumes on another.

mod apic;
mod chips;
mod clock;
mod doorbell;
mod engine;
mod hypercall;
mod io;
mod observe;
mod signals;
mod spin;
mod state;
pub mod usage;
pub mod x86;

pub use apic::{ApicState, Apics, Irqchip};
pub use chips::{Chips, ChipsState, I8259Chip, I8259Init, I8259State, IoapicState};
pub use clock::Clock;
pub use doorbell::Doorbell;
pub use engine::{Capabilities, CpuFault, Engine, EngineError, Vcpu, VcpuExit, Vm, VmConfig};
pub use hypercall::Hypercall;
pub use io::CpuIo;
pub use observe::{Observe, TraceFile};
pub use signals::{Bell, Signals};
pub use spin::Spin;
pub use state::{CpuState, DescriptorTable, Msrs, PendingEvents, Segment, XSAVE_LEN, XSAVE_SELECTORS};
