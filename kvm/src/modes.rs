//! Which modes this host's KVM runs. Real ones run all; some that are emulators in truth know no 32-bit paging, and a guest
//! that turns it on there gets a fault that no CPU raises.

use cpu::CpuState;
use cpu::x86::{cr0, efer};

/// What is left to KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modes {
    /// Everything.
    All,
    /// Everything but 32-bit paging. For tests: code that turns it on is KVM's, and gets the wrong fault.
    Unpaged,
    /// 64-bit mode and its compatibility mode only.
    Long,
}

/// Code in `state` is another engine's; `modes` is asked only if that depends on it.
pub fn refuse(state: &CpuState, modes: impl FnOnce() -> Modes) -> bool {
    if state.efer & efer::LMA != 0 {
        return false;
    }
    match modes() {
        Modes::All => false,
        Modes::Unpaged => state.cr0 & cr0::PG != 0,
        Modes::Long => true,
    }
}

/// That KVM shut the guest down in `state` may be KVM's fault.
pub fn doubt(state: &CpuState, modes: impl FnOnce() -> Modes) -> bool {
    state.efer & efer::LMA == 0 && modes() != Modes::All
}
