//! The cases, one file per subject.

mod apic_base;
mod external;
mod ipi;
mod memory;
mod reset;
mod startup;
mod state;
mod steal;
mod timers;
mod translation;
mod x2apic;
mod xapic;

use super::BoardCase;

/// All of them.
pub(super) fn all() -> Vec<BoardCase> {
    [
        xapic::CASES,
        ipi::CASES,
        apic_base::CASES,
        x2apic::CASES,
        external::CASES,
        timers::CASES,
        startup::CASES,
        memory::CASES,
        translation::CASES,
        reset::CASES,
        state::CASES,
        steal::CASES,
    ]
    .concat()
}
