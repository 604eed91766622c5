//! 32-bit code: what blocks of it have that those of 64-bit code have not.

use super::draft::Draft;
use crate::layout::{DATA, PAGE};
use crate::rng::Rng;

/// How 32-bit code runs.
pub(crate) struct Code32 {
    pub paging: Paging,
    /// Limits of FS and GS.
    pub limits: [u32; 2],
}

/// What translates addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paging {
    /// The tables of long mode: compatibility mode.
    Long,
    /// Those of protected mode.
    Pae,
    TwoLevels,
}

impl Code32 {
    /// Any of the ways.
    pub fn any(rng: &mut Rng) -> Self {
        let paging = rng.pick(&[Paging::Long, Paging::Long, Paging::Pae, Paging::TwoLevels]);
        let limits = [0; 2].map(|_| if rng.percent(20) { rng.next() as u32 } else { u32::MAX });
        Self { paging, limits }
    }
}

/// Bases of FS and GS in 32-bit code, whose addresses go around 4 GiB.
pub(super) fn bases(draft: &mut Draft) {
    let mut any = || match draft.rng.below(3) {
        0 => 0,
        1 => DATA - draft.rng.below(PAGE),
        _ => draft.rng.next() & 0xffff_ffff,
    };
    (draft.regs.fs_base, draft.regs.gs_base) = (any(), any());
}
