//! The cases, one file per subject.

mod bits;
mod call_gates;
mod calls;
mod code32;
mod control;
mod debug;
mod faults;
mod frames;
mod halfway;
mod hypervisor;
mod interrupts;
mod large;
mod modes;
mod neighbours;
mod paging;
mod privilege;
mod real;
mod rewrites;
mod segments;
mod spaces;
mod strings;
mod syscall;
mod tasks;
mod transitions;
mod v8086;
mod x87;

use crate::Case;

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    [
        faults::CASES,
        bits::CASES,
        frames::CASES,
        halfway::CASES,
        calls::CASES,
        code32::CASES,
        interrupts::CASES,
        privilege::CASES,
        hypervisor::CASES,
        strings::CASES,
        syscall::CASES,
        control::CASES,
        segments::CASES,
        call_gates::CASES,
        tasks::CASES,
        transitions::CASES,
        debug::CASES,
        paging::CASES,
        spaces::CASES,
        large::CASES,
        rewrites::CASES,
        modes::CASES,
        neighbours::CASES,
        real::CASES,
        v8086::CASES,
        x87::CASES,
    ]
    .concat()
}
