//! Reads the guest's code.
// UNSAFETY: copies it out of RAM.
#![allow(unsafe_code)]

use std::ops::Range;

use interp::core::Session;

use super::{ATTEMPTS, LONGEST, PAGE, Translator};

impl Translator {
    /// Reads and decodes a block, and marks its bytes as code.
    pub(super) fn read(
        &mut self,
        s: &mut Session,
        page: u32,
        offset: u16,
        bytes: &mut Vec<u8>,
    ) -> Option<()> {
        let mode = self.modes[usize::from(self.pages.get(page).mode)];
        self.block.code32 = mode.code32.is_some();
        let ram = s.ram();
        let memory = ram.page(self.pages.get(page).phys)?;
        let word = |i: usize| {
            // SAFETY: the page is mapped for the life of the RAM. Other vCPUs may write to it meanwhile, hence the
            // volatile read; a change is found out below.
            unsafe { memory.host.as_ptr().cast::<u64>().add(i).read_volatile() }
        };
        for _ in 0..ATTEMPTS {
            bytes.clear();
            (0..PAGE / 8).for_each(|i| bytes.extend_from_slice(&word(i).to_le_bytes()));
            let known = self.pages.get(page);
            self.block.decode(bytes, usize::from(offset), |at| known.block(at).is_some());
            self.second = None;
            if self.block.insns.is_empty() {
                self.read_crossing(s, page, offset, bytes)?;
            }
            // What was looked at beside the block counts as its code: other flags may matter when that changes.
            let own = usize::from(offset)..self.block.end.max(usize::from(offset) + 1);
            let ranges = || std::iter::once(&own).chain(&self.block.seen).filter(|r| r.start < PAGE);
            let place = |r: &Range<usize>| (r.start as u16, (r.end.min(PAGE) - r.start) as u16);
            for (at, len) in ranges().map(place) {
                s.claim(&memory, at, len);
            }
            let same = |r: &Range<usize>| {
                let mut words = r.start / 8..r.end.min(PAGE).div_ceil(8);
                let (at, len) = place(r);
                words.all(|i| bytes[i * 8..i * 8 + 8] == word(i).to_le_bytes())
                    && memory.info.is_marked(at, len)
            };
            if ranges().all(same) {
                return self.pages.is_current(page).then_some(());
            }
        }
        None
    }

    /// The same for the one instruction at the end of a page that goes on in the next. Its second part counts as code from
    /// now on; that it was not rewritten meanwhile is found out when it is compared with the page's state.
    pub(super) fn read_crossing(
        &mut self,
        s: &mut Session,
        page: u32,
        offset: u16,
        bytes: &mut Vec<u8>,
    ) -> Option<()> {
        let lin = self.pages.lin(page).wrapping_add(PAGE as u64);
        // 32-bit code does not go on at 4 GiB.
        if PAGE - usize::from(offset) >= LONGEST || self.block.code32 && lin >> 32 != 0 {
            return None;
        }
        let phys = s.fetch(lin)?;
        let ram = s.ram();
        let next = ram.page(phys)?;
        s.claim(&next, 0, LONGEST as u16);
        let mode = self.pages.get(page).mode;
        let second = self.pages.map(lin, phys, mode, next.info)?;
        for i in 0..LONGEST {
            // SAFETY: the first bytes of a page of RAM; volatile as in `read`.
            bytes.push(unsafe { next.host.as_ptr().add(i).read_volatile() });
        }
        self.block.decode_crossing(bytes, usize::from(offset));
        self.second = Some(second);
        self.pages.pin(second);
        (self.pages.is_current(second) && next.info.is_marked(0, LONGEST as u16)).then_some(())
    }
}
