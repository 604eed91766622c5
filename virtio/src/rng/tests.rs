use std::sync::Arc;

use super::*;
use crate::testing::{BUFFERS, Bench};

#[test]
fn buffers_are_filled_with_what_is_different_each_time() {
    let bench = Bench::new(Arc::new(Rng::new().unwrap()), 0);
    let queue = &bench.queues[0];
    let mut seen = Vec::new();
    for i in 0..20 {
        queue.offer_chain(2 * (i % 8), &[(BUFFERS, 20, true), (BUFFERS + 0x1000, 12, true)]);
        bench.notify(0);
        assert_eq!(queue.wait_used(), (u32::from(2 * (i % 8)), 32));
        seen.push([queue.bytes(BUFFERS, 20), queue.bytes(BUFFERS + 0x1000, 12)].concat());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 20);
}

#[test]
fn a_huge_buffer_is_filled_in_part_and_none_at_all_is_given_back() {
    let bench = Bench::new(Arc::new(Rng::new().unwrap()), 0);
    let queue = &bench.queues[0];
    queue.offer_chain(0, &[(BUFFERS, 1 << 20, true)]);
    queue.offer_chain(1, &[(BUFFERS, 8, false)]);
    bench.notify(0);
    assert_eq!(queue.wait_used(), (0, 1 << 16));
    assert_eq!(queue.wait_used(), (1, 0));
    assert!(!bench.needs_reset());
}

#[test]
fn whoever_makes_the_event_readable_has_notified_the_device() {
    let device = Arc::new(Rng::new().unwrap());
    let bench = Bench::new(device.clone(), 0);
    let queue = &bench.queues[0];
    for i in 0..40 {
        // It sleeps, or is on its way.
        if i % 4 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        queue.offer_chain(i % 8, &[(BUFFERS, 20, true)]);
        // The first is rung before there is an event.
        match i % 3 {
            0 => bench.notify(0),
            _ => drop(rustix::io::write(device.event().unwrap(), &1u64.to_ne_bytes()).unwrap()),
        }
        assert_eq!(queue.wait_used(), (u32::from(i % 8), 20));
    }
}
