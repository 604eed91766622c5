//! Which pages had decoded code overwritten lately, for engines that would otherwise have to look at all of theirs.
//!
//! * Writers take turns. Under the lock, one puts the page into the slot of its number and *then* counts, so that a number
//!   that was counted has its page in the ring until the number [`KEPT`] later is written.
//! * Readers take no lock. They read the count, the slots up to there, and the count once more. A slot that holds a later
//!   page than the reader thinks was released by a writer who had seen all numbers before its own counted, so that the
//!   second look at the count shows it: with number `n` written and perhaps not yet counted, the count is `n` at least.
//! * A generation moves before its page is noted: who finds a page here finds the new generation.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::PageInfo;

/// Overwrites that are remembered.
const KEPT: u64 = 64;

static RING: Ring = Ring::new();

struct Ring {
    /// Overwrites so far, and one.
    count: AtomicU64,
    pages: [AtomicPtr<PageInfo>; KEPT as usize],
    writing: Mutex<()>,
}

impl Ring {
    const fn new() -> Self {
        Self {
            count: AtomicU64::new(1),
            pages: [const { AtomicPtr::new(null_mut()) }; KEPT as usize],
            writing: Mutex::new(()),
        }
    }

    fn slot(&self, number: u64) -> &AtomicPtr<PageInfo> {
        &self.pages[(number % KEPT) as usize]
    }

    fn note(&self, page: &PageInfo) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.count.load(Ordering::Relaxed);
        self.slot(number).store(std::ptr::from_ref(page).cast_mut(), Ordering::Release);
        self.count.store(number.wrapping_add(1), Ordering::SeqCst);
    }

    fn since(&self, seen: &mut u64, mut each: impl FnMut(*const PageInfo)) -> bool {
        let now = self.count.load(Ordering::Acquire);
        let from = std::mem::replace(seen, now);
        if now.wrapping_sub(from) > KEPT {
            return false;
        }
        (from..now).for_each(|number| each(self.slot(number).load(Ordering::Acquire)));
        self.count.load(Ordering::Acquire).wrapping_sub(from) < KEPT
    }
}

/// To be called when the generation of a page has moved.
pub(crate) fn note(page: &PageInfo) {
    RING.note(page);
}

/// A number, never zero, that changes whenever decoded code was overwritten, anywhere in the process: while it stands still,
/// no generation has moved.
#[inline(always)]
pub fn code_epoch() -> u64 {
    RING.count.load(Ordering::Acquire)
}

/// What one reader has not seen yet.
#[derive(Debug, Default)]
pub struct Overwrites {
    seen: u64,
}

impl Overwrites {
    /// Something was overwritten since [`take`](Self::take).
    #[inline(always)]
    pub fn any(&self) -> bool {
        self.seen != code_epoch()
    }

    /// Calls `each` with the pages overwritten since this was called last, some of them perhaps more than once, perhaps
    /// with others, of other machines too. False: not with all of them, and any generation may have moved.
    pub fn take(&mut self, each: impl FnMut(*const PageInfo)) -> bool {
        RING.since(&mut self.seen, each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(ring: &Ring, seen: &mut u64) -> Option<Vec<*const PageInfo>> {
        let mut pages = Vec::new();
        ring.since(seen, |page| pages.push(page)).then_some(pages)
    }

    #[test]
    fn a_reader_gets_the_pages_since_it_asked() {
        let (ring, a, b) = (Ring::new(), PageInfo::default(), PageInfo::default());
        let mut seen = 1;
        assert_eq!(taken(&ring, &mut seen), Some(vec![]));
        ring.note(&a);
        ring.note(&b);
        assert_eq!(taken(&ring, &mut seen), Some(vec![&raw const a, &raw const b]));
        ring.note(&a);
        assert_eq!(taken(&ring, &mut seen), Some(vec![&raw const a]));
        assert_eq!(taken(&ring, &mut seen), Some(vec![]));
    }

    #[test]
    fn a_reader_that_was_away_for_a_turn_is_told() {
        let (ring, page) = (Ring::new(), PageInfo::default());
        let mut seen = 1;
        (0..KEPT - 1).for_each(|_| ring.note(&page));
        assert_eq!(taken(&ring, &mut seen).map(|pages| pages.len() as u64), Some(KEPT - 1));
        // The last slot may be in use for the next number already.
        (0..KEPT).for_each(|_| ring.note(&page));
        assert_eq!(taken(&ring, &mut seen), None);
        (0..=KEPT).for_each(|_| ring.note(&page));
        assert_eq!(taken(&ring, &mut seen), None);
        assert_eq!(taken(&ring, &mut seen), Some(vec![]));
    }

    #[test]
    fn a_complete_answer_is_right_while_others_write() {
        const NOTES: u64 = 300_000;
        let ring = Ring::new();
        let pages: [PageInfo; 7] = Default::default();
        let page = |number: u64| &pages[(number % 7) as usize];
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=NOTES).for_each(|number| ring.note(page(number))));
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = 1;
                    while seen <= NOTES {
                        let from = seen;
                        if let Some(got) = taken(&ring, &mut seen) {
                            assert!(got.into_iter().eq((from..seen).map(|number| &raw const *page(number))));
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn writers_at_once_are_all_counted() {
        let ring = Ring::new();
        let pages: [PageInfo; 2] = Default::default();
        std::thread::scope(|scope| {
            for page in &pages {
                scope.spawn(|| (0..10_000).for_each(|_| ring.note(page)));
            }
        });
        assert_eq!(ring.count.load(Ordering::Relaxed), 20_001);
    }
}
