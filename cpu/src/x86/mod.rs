//! Constants of the architecture, under the manual's names.

mod bits;
mod exception;
mod model;
pub mod msr;
pub mod pvclock;
pub mod steal;

pub use bits::{cr0, cr4, efer, rflags, seg_attr, xcr0};
pub use exception::{Exception, vector};
pub use model::{APIC_TIMER_HZ, CpuModel, CpuidEnv, CpuidResult, Feature, ModelError, PHYS_BITS};

/// Indices of the segment registers in [`CpuState::segments`](crate::CpuState::segments).
#[allow(missing_docs)]
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// Indices of the general registers in [`CpuState::gpr`](crate::CpuState::gpr).
#[allow(missing_docs)]
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
}
