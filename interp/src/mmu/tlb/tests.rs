use super::*;

/// Where Linux maps all memory, and where it maps single pages.
const MEMORY: u64 = 0xffff_8880_0000_0000;
const VMALLOC: u64 = 0xffff_c900_0000_0000;

/// A TLB that has seen the first GiB of memory by pages of 2 MiB, the next by one of 1 GiB.
fn filled() -> Tlb {
    let mut tlb = Tlb::default();
    (0..512).for_each(|i| tlb.note_size(MEMORY + (i << 21), 1 << 21));
    tlb.note_size(MEMORY + (1 << 30), 1 << 30);
    tlb
}

#[test]
fn a_flush_of_a_large_page_drops_its_half_once() {
    for page in [MEMORY, MEMORY + (511 << 21), MEMORY + (2 << 30) - 0x1000] {
        let mut tlb = filled();
        tlb.flush_page(page);
        let flushes = tlb.take_flushes();
        assert!(flushes.upper && !flushes.lower);
        tlb.flush_page(page);
        let flushes = tlb.take_flushes();
        assert!(!flushes.upper && !flushes.lower);
        assert_eq!(flushes.pages(), [page]);
    }
}

#[test]
fn flushes_of_small_pages_rarely_drop_more() {
    let drop_all = |page| {
        let mut tlb = filled();
        tlb.flush_page(page);
        tlb.take_flushes().upper
    };
    let dropped = (0..256).filter(|i| drop_all(VMALLOC + (i << 22))).count();
    assert!(dropped < 32, "{dropped}");
}
