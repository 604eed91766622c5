//! Segments of 32-bit code that need no looking at. Intel SDM volume 3, 3.4.5.

use cpu::Segment;
use cpu::x86::{gpr, seg, seg_attr};

use crate::cpu::Cpu;

/// 32-bit code whose CS, SS, DS and ES are flat: base zero, no limit, data readable and writable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code32 {
    /// So is FS but for its base.
    pub fs: bool,
    /// So is GS.
    pub gs: bool,
}

impl Cpu {
    /// For code of that size: which of its segments are flat; `None` if one is not that has to be, or RSP has bits that code
    /// of that size cannot see.
    pub(super) fn code32(&self) -> Option<Code32> {
        let segment = |index: usize| &self.segments[index];
        let code = segment(seg::CS);
        let flat = |index: usize| segment(index).base == 0 && unlimited(segment(index));
        let stack = segment(seg::SS).attr & seg_attr::DB != 0;
        let all = self.protected() && code.base == 0 && code.limit == u32::MAX && stack;
        let all = all && self.regs[gpr::RSP] >> 32 == 0;
        (all && [seg::SS, seg::DS, seg::ES].into_iter().all(flat))
            .then(|| Code32 { fs: unlimited(segment(seg::FS)), gs: unlimited(segment(seg::GS)) })
    }
}

/// Loads and stores at any offset go through: writable data that does not expand down.
fn unlimited(segment: &Segment) -> bool {
    const LOOKED_AT: u32 = seg_attr::UNUSABLE | seg_attr::P | seg_attr::CODE | seg_attr::DC | seg_attr::RW;
    segment.limit == u32::MAX && segment.attr & LOOKED_AT == seg_attr::P | seg_attr::RW
}
