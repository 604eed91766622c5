use std::ptr::null;

use super::*;

/// Room for sites, and tables.
fn parts() -> (Vec<u64>, Box<[Table; TABLES]>) {
    let none = Pair { neg_page: 0, host: 0 };
    (vec![0; 4096], vec![[none; SLOTS]; TABLES].into_boxed_slice().try_into().unwrap())
}

fn page(number: u64) -> Mapped {
    Mapped { host: ((number + 1) << 12) as *mut u8, info: null(), stays: true }
}

/// What a look-up in line finds, or one beside it.
fn found(tlb: &Tlb, table: usize, lin: u64) -> Option<u64> {
    [number(table, lin), victim(table, lin)]
        .into_iter()
        .map(|n| tlb.pair(n))
        .find(|pair| pair.neg_page == lin.wrapping_neg())
        .map(|pair| pair.host)
}

/// As emitted code does it for a page that was replaced.
fn exchange(tlb: &mut Tlb, table: usize, lin: u64) {
    let (first, second) = (number(table, lin), victim(table, lin));
    let (one, other) = (tlb.pair(first), tlb.pair(second));
    tlb.set(first, other);
    tlb.set(second, one);
}

/// Two pages that meet in an entry, the second one in the other half of the address space.
const HERE: u64 = 0x5000;
const THERE: u64 = 0xffff_8000_0000_5000;

fn with_both(check: impl Fn(&mut Tlb, &mut Sites, u32)) {
    for exchanged in [false, true] {
        let (mut room, mut tables) = parts();
        let mut sites = Sites::new(room.as_mut_ptr().cast(), room.len() * 8);
        let mut tlb = Tlb::new(&mut tables, &sites);
        tlb.fill(&mut sites, 1, HERE, page(1));
        let site = sites.add();
        tlb.promote(&mut sites, 1, HERE, site);
        tlb.fill(&mut sites, 1, THERE, page(2));
        if exchanged {
            exchange(&mut tlb, 1, HERE);
        }
        assert_eq!([HERE, THERE].map(|lin| found(&tlb, 1, lin)), [Some(2 << 12), Some(3 << 12)]);
        assert_eq!(named(&sites, site), HERE);
        check(&mut tlb, &mut sites, site);
    }
}

/// The page that a site names.
fn named(sites: &Sites, site: u32) -> u64 {
    // SAFETY: the site was added above, and the room outlives it.
    unsafe { (*sites.pairs.add(site as usize)).neg_page.wrapping_neg() }
}

#[test]
fn a_page_stays_where_another_replaces_it() {
    with_both(|tlb, sites, site| {
        tlb.fill(sites, 1, HERE + ((ENTRIES as u64) << 12), page(3));
        assert_eq!(found(tlb, 1, HERE + ((ENTRIES as u64) << 12)), Some(4 << 12));
        let left = [HERE, THERE].map(|lin| found(tlb, 1, lin));
        assert_eq!(left.iter().flatten().count(), 1);
        assert!(named(sites, site) != HERE || left[0].is_some(), "a site names what is gone");
    });
}

#[test]
fn what_is_flushed_goes_from_both_places() {
    with_both(|tlb, sites, site| {
        let mut flushes = Flushes::default();
        flushes.lower = true;
        tlb.flush(sites, &flushes);
        assert_eq!(found(tlb, 1, HERE), None);
        assert_ne!(named(sites, site), HERE);
    });
    with_both(|tlb, sites, _| {
        let mut flushes = Flushes::default();
        flushes.upper = true;
        tlb.flush(sites, &flushes);
        assert_eq!(found(tlb, 1, THERE), None);
    });
}

#[test]
fn a_protected_page_goes_from_both_places() {
    with_both(|tlb, sites, site| {
        tlb.protect(sites, (2 << 12) as *const u8);
        assert_eq!([HERE, THERE].map(|lin| found(tlb, 1, lin)), [None, Some(3 << 12)]);
        assert_ne!(named(sites, site), HERE);
    });
}

#[test]
fn a_page_of_the_upper_half_that_does_not_stay_goes_with_the_lower_half() {
    for stays in [true, false] {
        let (mut room, mut tables) = parts();
        let mut sites = Sites::new(room.as_mut_ptr().cast(), room.len() * 8);
        let mut tlb = Tlb::new(&mut tables, &sites);
        tlb.fill(&mut sites, 1, THERE, Mapped { stays, ..page(1) });
        let mut flushes = Flushes::default();
        flushes.lower = true;
        tlb.flush(&mut sites, &flushes);
        assert_eq!(found(&tlb, 1, THERE).is_some(), stays);
    }
}
