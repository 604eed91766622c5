use std::sync::Arc;

use super::*;
use crate::feature;
use crate::testing::{BUFFERS, Bench, eventually};

const PAGES: u64 = 0x20_0000;

fn bench(without: u64) -> (Arc<Balloon>, Bench) {
    let balloon = Arc::new(Balloon::new().unwrap());
    let bench = Bench::new(balloon.clone(), without);
    bench.ram.write(PAGES, &[1; 0x10_0000]).unwrap();
    (balloon, bench)
}

fn config(balloon: &Balloon, at: u64) -> u32 {
    let mut word = [0; 4];
    balloon.read_config(at, &mut word);
    u32::from_le_bytes(word)
}

#[test]
fn pages_that_are_given_up_are_zero_and_others_stay() {
    let (balloon, bench) = bench(0);
    // A run upwards, one downwards, one alone, and what is no RAM.
    let numbers = [0x200u32, 0x201, 0x202, 0x210, 0x20f, 0x220, 0x400, u32::MAX, 0xc_0000];
    let list: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    bench.queues[0].fill(BUFFERS, &list);
    bench.queues[0].offer_chain(0, &[(BUFFERS, 6, false), (BUFFERS + 6, list.len() as u32 - 6, false)]);
    bench.notify(0);
    assert_eq!(bench.queues[0].wait_used(), (0, 0));
    for page in 0x200..0x300u64 {
        let zero = numbers.contains(&(page as u32));
        assert_eq!(bench.ram.load_u8(page * PAGE_SIZE + 5), Some(u8::from(!zero)), "{page:#x}");
    }
    assert_eq!(balloon.returned(), (6 * PAGE_SIZE, 0));
    bench.queues[1].offer_chain(0, &[(BUFFERS, 4, false)]);
    bench.notify(1);
    assert_eq!(bench.queues[1].wait_used(), (0, 0));
    assert!(!bench.needs_reset());
}

#[test]
fn the_driver_hears_of_the_target_and_says_how_far_it_is() {
    let (balloon, bench) = bench(0);
    let before = balloon.config_generation();
    balloon.set_target((3 << 20) + 1);
    assert_eq!(config(&balloon, 0), 768);
    assert_eq!(bench.interrupts.config.load(Ordering::SeqCst), 1);
    assert_ne!(balloon.config_generation(), before);
    balloon.set_target(3 << 20);
    assert_eq!(bench.interrupts.config.load(Ordering::SeqCst), 1, "no news");
    balloon.write_config(4, &700u32.to_le_bytes());
    assert_eq!((balloon.size(), config(&balloon, 4)), (700 * PAGE_SIZE, 700));
    balloon.write_config(0, &[0; 4]);
    balloon.write_config(4, &[1]);
    assert_eq!((balloon.target(), balloon.size()), (3 << 20, 700 * PAGE_SIZE), "not the driver's to change");
    balloon.set_target(u64::MAX);
    assert_eq!(config(&balloon, 0), u32::MAX);
    bench.frontend.reset();
    assert_eq!((balloon.size(), config(&balloon, 0)), (0, u32::MAX), "the user's wish stays");
}

#[test]
fn free_pages_are_given_back_by_either_number_of_their_queue() {
    for (queue, without) in [(4, 0), (3, 0), (2, bit::STATS_VQ)] {
        let (balloon, bench) = bench(without);
        let ranges = [(PAGES, 0x8000, true), (PAGES + 0x1_0800, 0x1800, true)];
        bench.queues[queue].offer_chain(0, &ranges);
        bench.notify(queue as u16);
        assert_eq!(bench.queues[queue].wait_used(), (0, 0));
        let at = |offset| bench.ram.load_u8(PAGES + offset);
        assert_eq!([0, 0x7fff, 0x8000, 0x1_0fff, 0x1_1000].map(at), [0, 0, 1, 1, 0].map(Some));
        assert_eq!(balloon.returned().1, 0x9800);
    }
}

#[test]
fn pages_whose_content_the_driver_cares_for_stay() {
    let (balloon, bench) = bench(0);
    balloon.write_config(12, &0xaau32.to_le_bytes());
    bench.queues[4].offer_chain(0, &[(PAGES, 0x8000, true)]);
    bench.notify(4);
    assert_eq!(bench.queues[4].wait_used(), (0, 0));
    assert_eq!(bench.ram.load_u8(PAGES), Some(1));
}

#[test]
fn the_driver_is_asked_for_statistics() {
    let (balloon, mut bench) = bench(0);
    let none = Duration::ZERO;
    assert_eq!(balloon.statistics(none), None);
    let put = |bench: &Bench, free: u64| {
        let mut data = vec![4, 0];
        data.extend(free.to_le_bytes());
        data.extend([0xff; 10]);
        bench.queues[2].fill(BUFFERS, &data);
        bench.queues[2].offer_chain(0, &[(BUFFERS, 20, false)]);
        bench.notify(2);
    };
    put(&bench, 5);
    // The question above is open still: the first buffer is taken as its answer, and asked for again.
    let answer = std::thread::scope(|scope| {
        let asker = scope.spawn(|| eventually(|| balloon.statistics(none).filter(|s| s.free == Some(7))));
        bench.queues[2].wait_used();
        put(&bench, 7);
        asker.join().unwrap()
    });
    assert_eq!(answer, BalloonStatistics { free: Some(7), ..BalloonStatistics::default() });
    let json = serde_json::to_string(&answer).unwrap();
    assert_eq!(json, r#"{"free":7}"#);
    // A saved device has not taken the buffer.
    eventually(|| {
        let saved = bench.frontend.save();
        (saved.positions[2].available == saved.positions[2].used).then_some(())
    });
    bench.negotiate(feature::EVENT_IDX);
    assert_eq!(balloon.statistics(none), None, "another driver");
}

#[test]
fn a_driver_that_exaggerates_does_no_harm() {
    let (balloon, bench) = bench(0);
    bench.queues[0].fill(BUFFERS, &[0xff; 0x1000]);
    for queue in 0..5 {
        let huge =
            [(0, 4 << 20, false), (0, 4 << 20, false), (BUFFERS, 1, false), (BUFFERS + 0x1000, 0, false)];
        bench.queues[queue].offer_chain(0, &huge);
        bench.notify(queue as u16);
        if queue != 2 {
            assert_eq!(bench.queues[queue].wait_used(), (0, 0));
        }
    }
    let _ = balloon.statistics(Duration::ZERO);
    bench.queues[3].offer_chain(0, &[(0x10_0000, 0, true), (0x20_0000, 0x10_0000, true)]);
    bench.notify(3);
    bench.queues[3].wait_used();
    assert!(!bench.needs_reset());
}
