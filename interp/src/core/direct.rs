//! What an engine needs that has the host's CPU execute code of CPL 3, in a process whose address space is the guest's.

use std::time::Duration;

use cpu::Signals;
use cpu::x86::{cr4, rflags, seg};

use super::{End, Session};
pub use crate::mmu::Access;
use crate::mmu::Privilege;

/// Pages that somebody has to be told of before long: all of them, or that there were more.
#[derive(Debug, Default)]
pub struct Told {
    /// Their addresses.
    pub pages: Vec<u64>,
    /// There were more, or others.
    pub lost: bool,
}

impl Told {
    const MOST: usize = 512;

    /// One more.
    pub fn note(&mut self, page: u64) {
        if self.pages.len() < Self::MOST {
            self.pages.push(page);
        } else {
            self.lost = true;
        }
    }

    /// Gives them to `each`, or calls it with `None` if any may have been.
    pub fn take(&mut self, mut each: impl FnMut(Option<u64>)) {
        if std::mem::take(&mut self.lost) {
            self.pages.clear();
            each(None);
        }
        self.pages.drain(..).for_each(|page| each(Some(page)));
    }
}

/// The selector of 64-bit code on Linux.
pub const CODE64: u16 = 0x33;
/// That of data.
pub const DATA: u16 = 0x2b;

/// What code at CPL 3 sees of these besides the arithmetic flags, and may change.
const FLAGS: u64 = rflags::TF | rflags::DF | rflags::NT | rflags::AC | rflags::ID;

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
        let flat = |i: usize| matches!(selector(i), 0 | DATA);
        let odd = rflags::TF | rflags::NT | rflags::IOPL | rflags::AC | rflags::IF;
        selector(seg::CS) == CODE64
            && selector(seg::SS) == DATA
            && [seg::DS, seg::ES].into_iter().all(flat)
            && [seg::FS, seg::GS].into_iter().all(|i| selector(i) == 0)
            && cpu.eflags & odd == rflags::IF
            && cpu.dr[5] & 0xff == 0
    }

    /// The address space in the lower half: another number whenever nothing that was known of it holds any more.
    pub fn space(&self) -> u64 {
        self.cpu().tlb.space()
    }

    /// The guest numbers its address spaces, so that one may be loaded again with all that is known of it.
    pub fn has_pcids(&self) -> bool {
        self.cpu().cr4 & cr4::PCIDE != 0
    }

    /// From now on single pages that are dropped are told.
    pub fn watch_dropped(&mut self) {
        self.run.cpu.tlb.dropped.get_or_insert_default();
    }

    /// What was dropped since somebody took it last.
    pub fn dropped(&mut self) -> Option<&mut Told> {
        self.run.cpu.tlb.dropped.as_mut()
    }

    /// The page of an address of the lower half, for an access at CPL 3. Sets accessed and dirty bits as that would; raises
    /// nothing.
    pub fn user_page(&mut self, lin: u64, access: Access) -> Option<UserPage> {
        let cpu = &mut *self.run.cpu;
        let translation = cpu.translate(lin, access, Privilege::User).ok()?;
        cpu.tlb.note_size(lin, translation.size);
        Some(UserPage { phys: translation.phys & !0xfff, write: translation.write })
    }

    /// Times that SYSCALL and exceptions were interpreted that lead from CPL 3 into the guest's kernel.
    pub fn entries(&self) -> u64 {
        self.cpu().entries
    }

    /// There are signals that a [`boundary`](Self::boundary) would act on.
    pub fn is_signalled(&self) -> bool {
        self.cpu().signals.load() & self.attention() != 0
    }

    /// It is time to look at timers, and at who runs.
    pub fn is_polled(&self) -> bool {
        self.cpu().signals.load() & Signals::POLL != 0
    }

    /// How long it is until a timer of this CPU's is due.
    pub fn until_deadline(&self) -> Option<Duration> {
        let cpu = self.cpu();
        let deadline = cpu.io().deadline()?;
        Some(Duration::from_nanos(cpu.clock.ns_until(deadline)))
    }

    /// RFLAGS as code at CPL 3 sees them.
    pub fn rflags(&self) -> u64 {
        self.flags() | self.cpu().eflags
    }

    /// Replaces what code at CPL 3 may change of them.
    pub fn set_user_flags(&mut self, flags: u64) {
        self.set_flags(flags & rflags::STATUS);
        let cpu = &mut *self.run.cpu;
        cpu.set_privilege(cpu.cpl, cpu.eflags & !FLAGS | flags & FLAGS);
        cpu.check_alignment_mode();
    }

    /// Loads those that the program has loaded elsewhere, from the guest's tables. One that has no such segment there is null.
    pub fn set_user_selectors(&mut self, selectors: [u16; 6]) {
        let cpu = &mut *self.run.cpu;
        for (i, selector) in selectors.into_iter().enumerate() {
            if cpu.segments[i].selector != selector {
                cpu.adopt_selector(i, selector);
            }
        }
    }

    /// An instruction has been executed elsewhere that began with TF set: its trap.
    pub fn single_stepped(&mut self) -> Option<End> {
        self.run.cpu.watch_hits = 0;
        let outcome = self.run.cpu.after_step(true);
        self.settle(outcome)
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
