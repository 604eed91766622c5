//! Guest RAM as its users see it.

use super::*;

#[test]
fn ram_above_three_gigabytes_continues_at_four() {
    let ram = GuestRam::new(LOW_RAM_END + 0x10_0000).unwrap();
    let ranges: Vec<_> = ram.ranges().collect();
    assert_eq!(ranges[1], RamRange { start: HIGH_RAM_START, len: 0x10_0000 });
    assert!(ram.page(LOW_RAM_END).is_none());
    assert!(ram.page(HIGH_RAM_START + 0xf_ffff).is_some());
    assert!(ram.page(HIGH_RAM_START + 0x10_0000).is_none());
}

#[test]
fn ranges_are_checked_at_both_ends() {
    let ram = GuestRam::new(0x2000).unwrap();
    assert!(ram.write(0x1ffc, &[1, 2, 3, 4]).is_ok());
    assert!(ram.write(0x1ffd, &[1, 2, 3, 4]).is_err());
    assert!(ram.write(u64::MAX, &[1, 2]).is_err());
    assert_eq!(ram.load_u32(0x1ffc), Some(0x0403_0201));
    assert_eq!(ram.load_u32(0x1ffd), None);
    assert_eq!(ram.load_u64(0x2000), None);
}

#[test]
fn copies_of_any_length_are_exact() {
    let ram = GuestRam::new(0x4000).unwrap();
    let data: Vec<u8> = (0..5000).map(|i| (i % 251) as u8 + 1).collect();
    for len in (0..70).chain([255, 4095, 5000]) {
        let at = 0x1ffd - len as u64 % 7;
        ram.write(0x1000, &[0; 0x3000]).unwrap();
        ram.write(at, &data[..len]).unwrap();
        let mut back = vec![0xff; len + 2];
        ram.read(at - 1, &mut back).unwrap();
        assert!(back[0] == 0 && back[1..=len] == data[..len] && back[len + 1] == 0, "{len}");
    }
}

#[test]
fn what_was_touched_is_resident() {
    let ram = GuestRam::new(200 << 20).unwrap();
    assert_eq!(ram.resident(), 0);
    ram.write(150 << 20, &[1; 3 << 20]).unwrap();
    let resident = ram.resident();
    assert!((3 << 20..=8 << 20).contains(&resident), "{resident}"); // the host may give whole huge pages
}

#[test]
fn what_is_discarded_reads_as_zero_holds_no_code_and_takes_no_memory() {
    const LEN: u64 = 64 << 20;
    let ram = GuestRam::new(LEN).unwrap();
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * PAGE_SIZE
    };
    ram.write(0, &vec![1; LEN as usize]).unwrap();
    let before = resident();
    let info = ram.page(0x2000).unwrap().info;
    info.mark_code(0, 8);
    ram.discard(0x1001, LEN - 0x1002).unwrap();
    assert!(resident() + LEN * 9 / 10 < before, "{} of {before}", resident());
    assert_eq!([0x1fff, 0x2000, LEN - 0x1001, LEN - 0x1000].map(|a| ram.load_u8(a)), [1, 0, 0, 1].map(Some));
    assert_eq!(info.generation(), 1);
    ram.write(0x2000, &[7]).unwrap();
    assert_eq!(ram.load_u8(0x2000), Some(7));
    for (addr, len) in [(0, LEN + 1), (LEN, 1), (u64::MAX, 2), (LEN - 1, u64::MAX)] {
        assert!(ram.discard(addr, len).is_err(), "{addr:#x} {len:#x}");
    }
    ram.discard(0x1001, 0x1ffe).unwrap();
    assert_eq!(ram.load_u8(0x2000), Some(7), "no whole page");
}

#[test]
fn a_files_content_is_there_until_it_is_written_or_discarded() {
    const LEN: u64 = 16 << 20;
    let file = tempfile::tempfile().unwrap();
    file.set_len(LEN).unwrap();
    for at in [0x3000, 0x10_0000, 0x10_1000] {
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 0x1000], at).unwrap();
    }
    let ram = GuestRam::from_file(LEN, file.try_clone().unwrap()).unwrap();
    let others = [GuestRam::new(LEN).unwrap(), GuestRam::freezable(LEN).unwrap()];
    for other in &others {
        for at in [0x3000, 0x10_0000, 0x10_1000] {
            other.write(at, &[7; 0x1000]).unwrap();
        }
        other.freeze().unwrap();
    }
    for ram in [ram].into_iter().chain(others) {
        ram.write(0x5000, &[9]).unwrap();
        ram.write(0x3000, &[9]).unwrap();
        let mut pages = [false; 16];
        ram.look(0, &mut pages).unwrap();
        let there: Vec<usize> = (0..16).filter(|&page| pages[page]).collect();
        assert_eq!(there, [3, 5]);
        ram.look(0x10_0000, &mut pages).unwrap();
        assert_eq!(pages[..3], [true, true, false]);
        ram.discard(0x10_0000, 0x1000).unwrap();
        assert_eq!([0x3000, 0x3001, 0x10_0000, 0x10_1000].map(|at| ram.load_u8(at)), [9, 7, 0, 7].map(Some));
        assert!(ram.look(LEN - 0x1000, &mut pages).is_err());
    }
    assert!(matches!(GuestRam::from_file(LEN + 0x1000, file), Err(MemoryError::ShortFile { .. })));
}

#[test]
fn a_size_that_is_no_page_multiple_is_refused() {
    assert!(matches!(GuestRam::new(4097), Err(MemoryError::BadSize(4097))));
    assert!(matches!(GuestRam::new(0), Err(MemoryError::BadSize(0))));
}

#[test]
fn writes_invalidate_decoded_code() {
    let ram = GuestRam::new(0x3000).unwrap();
    let info = ram.page(0x1000).unwrap().info;
    info.mark_code(0, 32);
    ram.write(0xff0, &[0; 0x20]).unwrap();
    assert_eq!(info.generation(), 1);
}

#[test]
fn writes_through_host_pointers_invalidate_code_of_every_page() {
    let ram = GuestRam::new(0x4000).unwrap();
    let last = ram.page(0x3000).unwrap().info;
    last.mark_code(0, 8);
    assert!(ram.host_range(0xff0, 0x3010).is_ok() && ram.host_range(0xff0, 0x3011).is_err());
    ram.note_stores(0xff0, 0x2010);
    assert_eq!(last.generation(), 0, "ends before it");
    ram.note_stores(0xff0, u64::MAX);
    assert_eq!(last.generation(), 1);
    ram.note_stores(u64::MAX, 2);
}

/// What others find in what was frozen.
fn copy(layers: &Layers, size: u64) -> GuestRam {
    let files = layers.files().iter().map(|file| file.try_clone().unwrap()).collect();
    GuestRam::from_layers(size, Layers::new(size, files, layers.runs()).unwrap()).unwrap()
}

#[test]
fn what_was_frozen_stays_as_it_was_whoever_writes() {
    const LEN: u64 = 16 << 20;
    const PLACES: [u64; 6] = [0x1000, 0x2000, 0x3000, 0x10_0000, 0x20_0000, LEN - 0x1000];
    for ram in [GuestRam::freezable(LEN).unwrap(), GuestRam::new(LEN).unwrap()] {
        let seen = |ram: &GuestRam| PLACES.map(|at| ram.load_u8(at).unwrap());
        ram.load(0x1000, &[1; 0x2000]).unwrap();
        ram.write(0x10_0000, &[1]).unwrap();
        ram.write(0x20_0000, &[1]).unwrap();
        let first = ram.freeze().unwrap();
        // Written, thrown away, written again, and untouched.
        ram.write(0x2000, &[2]).unwrap();
        ram.discard(0x10_0000, 0x1000).unwrap();
        ram.discard(0x20_0000, 0x1000).unwrap();
        ram.write(0x20_0000, &[2]).unwrap();
        ram.write(LEN - 0x1000, &[2]).unwrap();
        let second = ram.freeze().unwrap();
        assert_eq!(second.files().len(), 2);
        ram.load(0x3000, &[3; 0x1000]).unwrap();
        ram.write(0x2000, &[3]).unwrap();
        let third = ram.freeze().unwrap();
        let unchanged = ram.freeze().unwrap();
        assert_eq!(unchanged.files().len(), third.files().len());
        for (layers, expected) in [
            (&first, [1, 1, 0, 1, 1, 0]),
            (&second, [1, 2, 0, 0, 2, 2]),
            (&third, [1, 3, 3, 0, 2, 2]),
            (&unchanged, [1, 3, 3, 0, 2, 2]),
        ] {
            let copy = copy(layers, LEN);
            assert_eq!(seen(&copy), expected);
            copy.write(0x1000, &[9; 0x2000]).unwrap();
            copy.discard(0x20_0000, 0x1000).unwrap();
            // What is near to pages that were written may have been written down with them.
            let [mut pages, mut far] = [[false; 4]; 2];
            copy.look(0, &mut pages).unwrap();
            copy.look(0x18_0000, &mut far).unwrap();
            assert_eq!((&pages[1..3], far), (&[true; 2][..], [false; 4]));
            // A copy's own copies.
            assert_eq!(seen(&self::copy(&copy.freeze().unwrap(), LEN)), seen(&copy));
        }
        assert_eq!(seen(&ram), [1, 3, 3, 0, 2, 2]);
        for file in third.files() {
            use std::os::unix::fs::FileExt;
            assert!(file.write_at(&[0], 0).is_err() && file.set_len(0).is_err(), "sealed");
        }
    }
}

#[test]
fn many_layers_become_one_again() {
    const LEN: u64 = 4 << 20;
    let ram = GuestRam::freezable(LEN).unwrap();
    ram.write(0, &[7; 0x3000]).unwrap();
    let mut most = 0;
    for round in 0..40u64 {
        ram.write(0x10_0000 + round * 0x8000, &[round as u8 + 1]).unwrap();
        ram.discard(0x2000, 0x1000).unwrap();
        let layers = ram.freeze().unwrap();
        most = most.max(layers.files().len());
        let copy = copy(&layers, LEN);
        for before in 0..=round {
            assert_eq!(copy.load_u8(0x10_0000 + before * 0x8000), Some(before as u8 + 1), "{round}");
        }
        assert_eq!([0, 0x1fff, 0x2000].map(|at| copy.load_u8(at).unwrap()), [7, 7, 0]);
    }
    assert!((10..20).contains(&most), "{most}");
}

#[test]
fn runs_do_not_leave_slivers_of_those_before_them() {
    const LEN: u64 = 16 << 20;
    let ram = GuestRam::freezable(LEN).unwrap();
    (0..LEN / PAGE_SIZE).for_each(|page| ram.write(page * PAGE_SIZE, &[1]).unwrap());
    ram.freeze().unwrap();
    let mut expected = vec![1; (LEN / PAGE_SIZE) as usize];
    // Places that are written again and again, a bit further each time, and others far away from all.
    for round in 2..12u8 {
        for place in [100, 1100, 2100, 3100] {
            for page in (place..place + 40).skip(usize::from(round)) {
                ram.write(page as u64 * PAGE_SIZE, &[round]).unwrap();
                expected[page] = round;
            }
        }
        let far = 300 + 70 * usize::from(round);
        ram.write(far as u64 * PAGE_SIZE, &[round]).unwrap();
        expected[far] = round;
        let layers = ram.freeze().unwrap();
        // Two for each place, and two for each of the others, at most; and the rest.
        let most = 2 * (4 + usize::from(round) - 1) + 1;
        assert!(layers.runs().len() <= most, "{} runs in round {round}", layers.runs().len());
        let copy = copy(&layers, LEN);
        let found: Vec<u8> =
            (0..LEN / PAGE_SIZE).map(|page| copy.load_u8(page * PAGE_SIZE).unwrap()).collect();
        assert_eq!(found, expected);
    }
}

/// On hosts that have put two of them aside.
#[test]
fn huge_pages_are_the_machines_to_its_end() {
    const PAGE: u64 = 2 << 20;
    let most = GuestRam::huge(1 << 40, PAGE).err().unwrap().to_string();
    assert!(
        most.contains("pages of 2 MiB, and guest memory takes 524288 (") && most.contains("kB/nr_hugepages"),
        "{most}"
    );
    let Ok(ram) = GuestRam::huge(2 * PAGE, PAGE) else {
        return eprintln!("no huge pages here: echo 2 >{}/nr_hugepages", huge::folder(PAGE));
    };
    let looked = |at: u64| {
        let mut pages = [false; 2];
        ram.look(at, &mut pages).unwrap();
        pages[0]
    };
    assert_eq!((ram.resident(), looked(0), looked(PAGE)), (0, false, false));
    ram.load(PAGE - 1, &[7, 8]).unwrap();
    ram.write(PAGE + 0x1000, &[9]).unwrap();
    assert_eq!((ram.resident(), looked(0), looked(PAGE)), (2 * PAGE, true, true));
    assert!(ram.discard(0, 2 * PAGE).is_err() && ram.freeze().is_err());
    assert_eq!([PAGE - 1, PAGE, PAGE + 0x1000].map(|at| ram.load_u8(at).unwrap()), [7, 8, 9]);
}
