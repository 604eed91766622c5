//! Which operations of a block need not compute flags: those whose flags are overwritten before anything can read
//! them. A fault reads them too, since it saves RFLAGS.

use crate::op::{Op, Threaded};

/// What an operation does with the arithmetic flags.
#[derive(Clone, Copy)]
pub(crate) struct FlagUse {
    /// Reads some, or keeps some while it writes others.
    pub reads: bool,
    /// Writes all of them.
    pub writes: bool,
    /// May end before it is complete, with the flags as they were before.
    pub faults: bool,
    /// The same operation without flags.
    pub quiet: Option<Threaded>,
}

impl FlagUse {
    /// Anything may happen.
    pub const UNKNOWN: Self = Self { reads: true, writes: false, faults: true, quiet: None };
    /// Neither reads nor writes flags.
    pub const NEUTRAL: Self = Self { reads: false, writes: false, faults: false, quiet: None };
    /// Overwrites all flags.
    pub const WRITES: Self = Self { reads: false, writes: true, faults: false, quiet: None };

    /// The operation accesses memory.
    pub const fn faulting(self) -> Self {
        Self { faults: true, ..self }
    }

    /// There is a variant without flags.
    pub const fn or_quiet(self, quiet: Threaded) -> Self {
        Self { quiet: Some(quiet), ..self }
    }
}

/// Replaces operations whose flags are dead. `uses` goes with `ops`.
pub(crate) fn drop_dead_flags(ops: &mut [Op], uses: &[FlagUse]) {
    let mut live = true;
    for (op, flags) in ops.iter_mut().zip(uses).rev() {
        match flags.quiet {
            Some(quiet) if !live => {
                op.run = quiet;
                live = flags.faults;
            }
            _ => live = flags.faults || flags.reads || (live && !flags.writes),
        }
    }
}
