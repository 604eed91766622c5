//! The cases, one file per subject.

mod apic_base;
mod external;
mod ipi;
mod timers;
mod x2apic;
mod xapic;

use super::BoardCase;

/// All of them.
pub(super) fn all() -> Vec<BoardCase> {
    [xapic::CASES, ipi::CASES, apic_base::CASES, x2apic::CASES, external::CASES, timers::CASES].concat()
}
