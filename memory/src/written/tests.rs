//! Logs of real RAM, by the host's page tables.

use std::os::fd::AsRawFd;

use crate::{GuestRam, HIGH_RAM_START, LOW_RAM_END, MemoryError, PAGE_SIZE};

use super::WriteLog;

const LEN: u64 = 16 << 20;
const NONE: [u64; 0] = [];

/// The pages of a round, by number, each once.
fn round(log: &mut WriteLog<'_>) -> Vec<u64> {
    let mut pages = Vec::new();
    log.round(|addr, len| {
        pages.extend((addr..addr + len).step_by(PAGE_SIZE as usize).map(|at| at / PAGE_SIZE))
    })
    .unwrap();
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// RAM of each kind, in which pages 3 and 256 hold something.
fn all_kinds() -> [(&'static str, GuestRam); 5] {
    let file = tempfile::tempfile().unwrap();
    file.set_len(LEN).unwrap();
    let write = |ram: GuestRam| {
        ram.write(3 * PAGE_SIZE, &[7; PAGE_SIZE as usize]).unwrap();
        ram.write(256 * PAGE_SIZE, &[7; PAGE_SIZE as usize]).unwrap();
        ram
    };
    let frozen = |ram: GuestRam| {
        ram.freeze().unwrap();
        ram
    };
    [
        ("private", write(GuestRam::new(LEN).unwrap())),
        ("a file in memory", write(GuestRam::freezable(LEN).unwrap())),
        ("over a file", write(GuestRam::from_file(LEN, file).unwrap())),
        ("frozen", frozen(write(GuestRam::freezable(LEN).unwrap()))),
        ("written down", frozen(write(GuestRam::new(LEN).unwrap()))),
    ]
}

#[test]
fn each_round_has_what_was_written_since_the_one_before_and_nothing_else() {
    for (kind, ram) in all_kinds() {
        let mut log = ram.log_writes().unwrap();
        assert_eq!(round(&mut log), NONE, "{kind}: nothing was written yet");
        // Pages that are there, and pages that nobody has touched, are looked at.
        let mut bytes = [0; 5 * PAGE_SIZE as usize];
        for page in [0, 255, 1000] {
            ram.read(page * PAGE_SIZE, &mut bytes).unwrap();
        }
        ram.peek(2000 * PAGE_SIZE, &mut bytes).unwrap();
        assert_eq!(round(&mut log), NONE, "{kind}: reading is not writing");
        // Whoever writes RAM down does not take it for more than it is.
        let mut held = [false; 1024];
        ram.look(3000 * PAGE_SIZE, &mut held).unwrap();
        let first = held.iter().position(|held| *held);
        assert_eq!(first, None, "{kind}");
        // By the process, by atomics, and by the host's kernel as devices have it done.
        ram.write(3 * PAGE_SIZE + 4000, &[1; 200]).unwrap();
        ram.store_u32(1001 * PAGE_SIZE, 0).unwrap();
        let zeros = std::fs::File::open("/dev/zero").unwrap();
        let host = ram.host_range(2001 * PAGE_SIZE - 1, PAGE_SIZE).unwrap();
        // SAFETY: the range is RAM throughout.
        let read = unsafe { libc::read(zeros.as_raw_fd(), host.as_ptr().cast(), PAGE_SIZE as usize) };
        assert_eq!(read, PAGE_SIZE as isize);
        assert_eq!(round(&mut log), [3, 4, 1001, 2000, 2001], "{kind}");
        assert_eq!(round(&mut log), NONE, "{kind}");
        ram.write(3 * PAGE_SIZE, &[1]).unwrap();
        assert_eq!(round(&mut log), [3], "{kind}: it is written again");
        // More runs than are asked for together.
        let every_other: Vec<u64> = (0..LEN / PAGE_SIZE).step_by(2).collect();
        every_other.iter().for_each(|page| ram.store_u8(page * PAGE_SIZE, 1).unwrap());
        assert_eq!(round(&mut log), every_other, "{kind}");
        drop(log);
        ram.store_u8(0, 1).unwrap();
        assert_eq!(round(&mut ram.log_writes().unwrap()), NONE, "{kind}: another log begins with nothing");
    }
}

#[test]
fn writes_that_are_no_faults_stay_in_the_log() {
    for (kind, ram) in all_kinds() {
        let mut log = ram.log_writes().unwrap();
        ram.discard(3 * PAGE_SIZE, PAGE_SIZE).unwrap();
        ram.load(64 * PAGE_SIZE - 1, &[9; 2]).unwrap();
        ram.note_mapped(4095 * PAGE_SIZE);
        let found = round(&mut log);
        assert_eq!(found, [3, 63, 64, 4095], "{kind}");
        // A mapping that was replaced would not be in the log any more.
        ram.store_u8(3 * PAGE_SIZE + 1, 5).unwrap();
        ram.store_u8(5 * PAGE_SIZE, 5).unwrap();
        let found = round(&mut log);
        assert!(found.contains(&3) && found.contains(&5) && found.contains(&4095), "{kind}: {found:?}");
        assert_eq!([0u64, 1].map(|at| ram.load_u8(3 * PAGE_SIZE + at)), [Some(0), Some(5)], "{kind}");
        drop(log);
        assert_eq!(round(&mut ram.log_writes().unwrap()), NONE, "{kind}");
    }
}

/// What `note_mapped` is for: the host's page tables of this mapping know nothing of another one.
#[test]
fn another_mapping_of_the_file_is_not_seen_unless_it_is_noted() {
    let ram = GuestRam::freezable(LEN).unwrap();
    let mut log = ram.log_writes().unwrap();
    let file = ram.file().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&*file, &[1], 7 * PAGE_SIZE).unwrap();
    assert_eq!(round(&mut log), NONE);
    ram.note_mapped(7 * PAGE_SIZE + 8);
    assert_eq!([(); 2].map(|()| round(&mut log)), [[7], [7]], "as long as it may be written");
}

#[test]
fn both_ranges_of_ram_are_logged() {
    let ram = GuestRam::new(LOW_RAM_END + LEN).unwrap();
    let mut log = ram.log_writes().unwrap();
    let (low, high) = (LOW_RAM_END - PAGE_SIZE, HIGH_RAM_START);
    ram.store_u8(low, 1).unwrap();
    ram.store_u8(high + PAGE_SIZE, 1).unwrap();
    assert_eq!(round(&mut log), [low, high + PAGE_SIZE].map(|at| at / PAGE_SIZE));
    // Neighbours among all RAM, with the hole between them.
    ram.note_mapped(low);
    ram.note_mapped(high);
    assert_eq!(round(&mut log), [low, high].map(|at| at / PAGE_SIZE));
}

#[test]
fn there_is_one_log_and_ram_stays_where_it_is() {
    let ram = GuestRam::freezable(LEN).unwrap();
    let log = ram.log_writes().unwrap();
    assert!(matches!(ram.log_writes(), Err(MemoryError::Logged)));
    assert!(matches!(ram.freeze(), Err(MemoryError::Logged)));
    drop(log);
    ram.freeze().unwrap();
    ram.log_writes().unwrap();
}

#[test]
fn to_peek_takes_no_memory() {
    let ram = GuestRam::freezable(LEN).unwrap();
    ram.store_u8(LEN - 1, 7).unwrap();
    let mut bytes = vec![1; LEN as usize];
    ram.peek(0, &mut bytes).unwrap();
    assert!(bytes[..LEN as usize - 1].iter().all(|&byte| byte == 0) && bytes.ends_with(&[7]));
    assert_eq!(ram.resident(), PAGE_SIZE);
    assert!(ram.peek(LEN - 1, &mut [0; 2]).is_err());
}
