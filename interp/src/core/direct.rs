//! What an engine needs that has the host's CPU execute code of CPL 3, in a process whose address space is the guest's.

use cpu::Signals;
use cpu::x86::{rflags, seg};

use super::Session;
use crate::mmu::Privilege;
pub use crate::mmu::{Access, Dropped};

/// What code at CPL 3 sees of these besides the arithmetic flags, and may change.
const FLAGS: u64 = rflags::DF | rflags::AC | rflags::ID;

/// A page as code at CPL 3 may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserPage {
    /// Guest-physical address of its first byte.
    pub phys: u64,
    /// It takes stores, and is marked as written.
    pub write: bool,
}

impl Session<'_, '_> {
    /// Selectors, flags and debug registers are those that the host's own processes have.
    pub fn is_plain(&self) -> bool {
        let cpu = self.cpu();
        let selector = |i: usize| cpu.segments[i].selector;
        let null = |i: usize| selector(i) == 0;
        let odd = rflags::TF | rflags::NT | rflags::IOPL | rflags::AC | rflags::IF;
        selector(seg::CS) == 0x33
            && selector(seg::SS) == 0x2b
            && [seg::DS, seg::ES, seg::FS, seg::GS].into_iter().all(null)
            && cpu.eflags & odd == rflags::IF
            && cpu.dr[5] & 0xff == 0
    }

    /// The address space in the lower half: another number whenever nothing that was known of it holds any more.
    pub fn space(&self) -> u64 {
        self.cpu().tlb.space()
    }

    /// From now on single pages that are dropped are told.
    pub fn watch_dropped(&mut self) {
        self.run.cpu.tlb.dropped.wanted = true;
    }

    /// What was dropped since this was asked last.
    pub fn dropped(&mut self) -> Option<&mut Dropped> {
        let dropped = &mut self.run.cpu.tlb.dropped;
        (dropped.lost || !dropped.pages.is_empty()).then_some(dropped)
    }

    /// The page of an address of the lower half, for an access at CPL 3. Sets accessed and dirty bits as that would; raises
    /// nothing.
    pub fn user_page(&mut self, lin: u64, access: Access) -> Option<UserPage> {
        let cpu = &mut *self.run.cpu;
        let translation = cpu.translate(lin, access, Privilege::User).ok()?;
        cpu.tlb.note_size(lin, translation.size);
        Some(UserPage { phys: translation.phys & !0xfff, write: translation.write })
    }

    /// There are signals that a [`boundary`](Self::boundary) would act on.
    pub fn is_signalled(&self) -> bool {
        self.cpu().signals.load() & self.attention() != 0
    }

    /// It is time to look at timers, and at who runs.
    pub fn is_polled(&self) -> bool {
        self.cpu().signals.load() & Signals::POLL != 0
    }

    /// RFLAGS as code at CPL 3 sees them.
    pub fn rflags(&self) -> u64 {
        self.flags() | self.cpu().eflags
    }

    /// Replaces what code at CPL 3 may change of them.
    pub fn set_user_flags(&mut self, flags: u64) {
        self.set_flags(flags & rflags::STATUS);
        let kept = self.cpu().eflags & !FLAGS;
        self.run.cpu.eflags = kept | flags & FLAGS;
    }

    /// Replaces the bases of FS and GS.
    pub fn set_user_bases(&mut self, fs: u64, gs: u64) {
        self.run.cpu.set_base(seg::FS, fs);
        self.run.cpu.set_base(seg::GS, gs);
    }

    /// x87 and vector state as an XSAVE image in the standard form.
    pub fn xsave(&mut self) -> Vec<u8> {
        self.run.cpu.host.reclaim_x87();
        self.run.cpu.host.to_xsave()
    }

    /// Takes one over.
    pub fn set_xsave(&mut self, image: &[u8]) {
        self.run.cpu.host.from_xsave(image);
    }
}
