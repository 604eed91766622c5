//! Guest virtual memory: the look-aside buffer, the page walk, and loads and stores through both.

pub(crate) mod access;
mod host;
mod slow;
mod tlb;
mod walk;

pub(crate) use access::{Int, Stored};
pub use tlb::Flushes;
pub(crate) use tlb::Tlb;

/// What an access is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// On whose behalf an access is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// CPL 3.
    User,
    /// CPL 0-2, explicit: SMAP applies unless EFLAGS.AC is set.
    Supervisor,
    /// Descriptor tables, TSS: supervisor whatever the CPL is, SMAP applies always.
    System,
}
