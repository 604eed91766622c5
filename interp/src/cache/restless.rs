//! Pages whose code is overwritten again and again. To mark what was decoded, to notice stores to it and to decode it anew
//! costs more there than it saves: such code is compared with a copy before each use instead, and nobody translates it.

/// Pages remembered; a power of two.
const PAGES: usize = 1024;
/// Overwrites after which a page is restless.
const OFTEN: u8 = 4;
/// Blocks that were found unchanged one after the other until the page is at rest: about as many as are interpreted in the
/// time that it takes to translate a few of them.
const PATIENCE: u16 = 1024;

#[derive(Clone, Copy)]
struct Page {
    phys: u64,
    generation: u32,
    /// Generations in which code was decoded, up to [`OFTEN`].
    count: u8,
    unchanged: u16,
}

/// See the module. Each slot is of one page at a time.
pub(crate) struct Restless {
    pages: Box<[Page; PAGES]>,
}

impl Default for Restless {
    fn default() -> Self {
        Self { pages: Box::new([Page { phys: u64::MAX, generation: 0, count: 0, unchanged: 0 }; PAGES]) }
    }
}

impl Restless {
    #[inline(always)]
    fn slot(&mut self, phys: u64) -> (&mut Page, u64) {
        (&mut self.pages[(phys >> 12) as usize % PAGES], phys & !0xfff)
    }

    /// Code of the page that `phys` is in is about to be decoded in a generation: true if the page is restless.
    pub fn note(&mut self, phys: u64, generation: u32) -> bool {
        let (slot, phys) = self.slot(phys);
        if slot.phys != phys {
            // Others come by less often than a restless page is overwritten.
            slot.count = slot.count.saturating_sub(1);
            if slot.count > 0 {
                return false;
            }
            *slot = Page { phys, generation, count: 0, unchanged: 0 };
        } else if slot.generation != generation {
            slot.generation = generation;
            slot.unchanged = 0;
            slot.count = OFTEN.min(slot.count + 1);
        }
        slot.count == OFTEN
    }

    /// True if the page that `phys` is in is restless.
    #[inline(always)]
    pub fn is(&mut self, phys: u64) -> bool {
        let (slot, phys) = self.slot(phys);
        slot.phys == phys && slot.count == OFTEN
    }

    /// A block of the page was found unchanged: true if the page is restless still.
    #[inline(always)]
    pub fn unchanged(&mut self, phys: u64) -> bool {
        let (slot, phys) = self.slot(phys);
        if slot.phys != phys || slot.count != OFTEN {
            return false;
        }
        slot.unchanged += 1;
        if slot.unchanged == PATIENCE {
            slot.count = 0;
        }
        slot.count == OFTEN
    }

    /// A block of the page is new, or other than it was.
    pub fn changed(&mut self, phys: u64) {
        self.slot(phys).0.unchanged = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restless(phys: u64) -> Restless {
        let mut pages = Restless::default();
        for generation in 0..u32::from(OFTEN) {
            assert!(!pages.note(phys, generation));
            assert!(!pages.note(phys + 8, generation), "the same generation counts once");
        }
        assert!(pages.note(phys, u32::from(OFTEN)));
        pages
    }

    #[test]
    fn a_page_is_restless_until_its_code_stays() {
        let mut pages = restless(0x5000);
        assert!(pages.is(0x5fff) && !pages.is(0x6000));
        for _ in 1..PATIENCE {
            assert!(pages.unchanged(0x5123));
        }
        pages.changed(0x5000);
        for _ in 1..PATIENCE {
            assert!(pages.unchanged(0x5123));
        }
        assert!(!pages.unchanged(0x5000));
        assert!(!pages.is(0x5000));
        assert!(!pages.note(0x5000, 100), "it takes as many overwrites as at first");
    }

    #[test]
    fn a_restless_page_keeps_its_slot_for_a_while() {
        let (mine, other) = (0x5000, 0x5000 + (PAGES as u64) * 4096);
        let mut pages = restless(mine);
        assert!(!pages.note(other, 0));
        assert!(!pages.is(mine) && !pages.is(other));
        assert!(pages.note(mine, 77));
        (0..OFTEN).for_each(|_| assert!(!pages.note(other, 0)));
        assert!(!pages.note(mine, 78));
    }
}
