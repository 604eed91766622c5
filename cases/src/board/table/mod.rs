//! The cases, one file per subject.

mod ipi;
mod xapic;

use super::BoardCase;

/// All of them.
pub(super) fn all() -> Vec<BoardCase> {
    [xapic::CASES, ipi::CASES].concat()
}
