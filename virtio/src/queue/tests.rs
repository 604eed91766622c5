use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::feature::{EVENT_IDX, INDIRECT_DESC};
use crate::testing::*;

/// The mistake that a chain from descriptor 0 is.
fn mistake(features: u64, describe: impl FnOnce(&DriverQueue)) -> Option<&'static str> {
    let p = pair(8, features);
    describe(&p.driver);
    p.driver.offer(0);
    let popped = p.queue.pop();
    assert_eq!(popped.is_none(), p.link.is_broken());
    if popped.is_some() {
        return None;
    }
    assert_eq!(p.interrupts.config.load(std::sync::atomic::Ordering::SeqCst), 1, "the driver is told, once");
    p.driver.offer(0);
    assert!(p.queue.pop().is_none() && !p.queue.listen(), "nothing until it is reset");
    Some("broken")
}

#[test]
fn a_chain_goes_there_and_back() {
    let p = pair(8, 0);
    p.driver.offer_chain(2, &[(BUFFERS, 16, false), (BUFFERS + 16, 0, false), (BUFFERS + 32, 8, true)]);
    let chain = p.queue.pop().unwrap();
    assert_eq!(chain.head, 2);
    assert_eq!(chain.readable(), [Segment { addr: BUFFERS, len: 16 }]);
    assert_eq!(chain.writable(), [Segment { addr: BUFFERS + 32, len: 8 }]);
    assert_eq!(p.queue.pop(), None);
    assert_eq!(write_at(&p.driver.ram, chain.writable(), 2, &[1; 100]), 6);
    p.queue.push(2, 6);
    p.queue.signal();
    p.queue.signal();
    assert_eq!((p.driver.used(), p.driver.used()), (Some((2, 6)), None));
    assert_eq!(p.interrupts.take(), 1, "one interrupt for one buffer");
    assert_eq!(p.driver.bytes(BUFFERS + 32, 8), [0, 0, 1, 1, 1, 1, 1, 1]);
}

#[test]
fn indices_wrap_around() {
    let p = pair(4, EVENT_IDX);
    for i in 0..70_000u32 {
        let head = (i % 4) as u16;
        p.driver.offer_chain(head, &[(BUFFERS, 4, true)]);
        p.driver.set_used_event(i as u16);
        let chain = p.queue.pop().unwrap();
        p.queue.push(chain.head, i);
        p.queue.signal();
        assert_eq!((p.driver.used(), p.interrupts.take()), (Some((head.into(), i)), 1), "{i}");
    }
}

#[test]
fn interrupts_come_when_the_driver_wants_them() {
    let p = pair(8, EVENT_IDX);
    p.driver.set_used_event(2);
    for i in 0..4 {
        p.driver.offer_chain(i, &[(BUFFERS, 4, true)]);
        p.queue.pop().unwrap();
        p.queue.push(i, 0);
        p.queue.signal();
        assert_eq!(p.interrupts.take(), u32::from(i == 2), "{i}");
    }
    let p = pair(8, 0);
    p.driver.ram.store_u16(p.driver.layout.available, 1).unwrap();
    p.driver.offer_chain(0, &[(BUFFERS, 4, true)]);
    p.queue.pop().unwrap();
    p.queue.push(0, 0);
    p.queue.signal();
    assert_eq!(p.interrupts.take(), 0, "it wants none");
}

#[test]
fn notifications_are_asked_for_when_the_queue_is_empty() {
    let p = pair(8, EVENT_IDX);
    p.driver.offer_chain(0, &[(BUFFERS, 4, true)]);
    assert!(p.queue.listen(), "there is something already");
    p.queue.pop().unwrap();
    assert!(!p.queue.listen());
    assert_eq!(p.driver.available_event(), 1);
    let p = pair(8, 0);
    p.queue.mute();
    assert_eq!(p.driver.ram.load_u16(p.driver.layout.used), Some(1));
    assert!(!p.queue.listen());
    assert_eq!(p.driver.ram.load_u16(p.driver.layout.used), Some(0));
}

#[test]
fn chains_that_were_not_used_are_there_again() {
    let p = pair(8, 0);
    (0..3).for_each(|head| p.driver.offer_chain(head, &[(BUFFERS, 4, true)]));
    assert_eq!([(); 2].map(|()| p.queue.pop().unwrap().head), [0, 1]);
    p.queue.untake(1);
    assert_eq!([(); 2].map(|()| p.queue.pop().unwrap().head), [1, 2]);
    p.queue.untake(9);
    assert_eq!((p.queue.position().available, p.queue.pop().unwrap().head), (0, 0));
    p.queue.push_all(&[(0, 1), (2, 3)]);
    assert_eq!([p.driver.used(), p.driver.used(), p.driver.used()], [Some((0, 1)), Some((2, 3)), None]);
}

#[test]
fn a_table_of_descriptors_may_be_anywhere() {
    let p = pair(8, INDIRECT_DESC);
    for table in [BUFFERS, BUFFERS + 1] {
        p.driver.describe_at(table, BUFFERS + 0x1000, 1, NEXT, 2);
        p.driver.describe_at(table + 32, BUFFERS + 0x2000, 2, WRITE, 0);
        p.driver.describe(3, table, 48, INDIRECT, 0);
        p.driver.offer(3);
        let chain = p.queue.pop().unwrap();
        assert_eq!((chain.head, chain.readable().len(), chain.writable().len()), (3, 1, 1));
        p.queue.push(3, 0);
    }
}

#[test]
fn chains_that_are_none_break_the_queue() {
    let table = BUFFERS;
    assert!(mistake(0, |d| d.describe(0, BUFFERS, 1, NEXT, 0)).is_some(), "a loop");
    assert!(mistake(0, |d| d.describe(0, BUFFERS, 0, NEXT, 0)).is_some(), "a loop of nothing");
    assert!(mistake(0, |d| d.describe(0, BUFFERS, 1, NEXT, 8)).is_some(), "beyond the table");
    assert!(mistake(0, |d| d.describe(0, 4 << 20, 1, 0, 0)).is_some(), "behind RAM");
    assert!(mistake(0, |d| d.describe(0, (4 << 20) - 1, 2, 0, 0)).is_some(), "across its end");
    assert!(mistake(0, |d| d.describe(0, u64::MAX, u32::MAX, 0, 0)).is_some(), "around the end of addresses");
    let order = |d: &DriverQueue| {
        d.describe(0, BUFFERS, 1, NEXT | WRITE, 1);
        d.describe(1, BUFFERS, 1, 0, 0);
    };
    assert!(mistake(0, order).is_some(), "to be written, then read");
    assert!(mistake(0, |d| d.describe(0, table, 16, INDIRECT, 0)).is_some(), "not negotiated");
    for (len, flags) in [(0, 0), (8, 0), (17, 0), (9 * 16, 0), (16, NEXT)] {
        assert!(
            mistake(INDIRECT_DESC, |d| d.describe(0, table, len, INDIRECT | flags, 1)).is_some(),
            "{len}"
        );
    }
    let nested = |d: &DriverQueue| {
        d.describe(0, table, 16, INDIRECT, 0);
        d.describe_at(table, table, 16, INDIRECT, 0);
    };
    assert!(mistake(INDIRECT_DESC, nested).is_some(), "a table in a table");
    assert!(mistake(INDIRECT_DESC, |d| d.describe(0, 1 << 40, 16, INDIRECT, 0)).is_some(), "a table nowhere");
    let long = |d: &DriverQueue| {
        d.describe(0, BUFFERS, 1, NEXT, 1);
        d.describe(1, table, 8 * 16, INDIRECT, 0);
        (0..8).for_each(|i| d.describe_at(table + 16 * i, BUFFERS, 1, NEXT, i as u16 + 1));
        d.describe_at(table + 16 * 7, BUFFERS, 1, 0, 0);
    };
    assert!(mistake(INDIRECT_DESC, long).is_some(), "longer than the queue");
}

#[test]
fn more_than_a_queue_holds_breaks_it() {
    let p = pair(8, 0);
    p.driver.ram.store_u16(p.driver.layout.available + 2, 9).unwrap();
    assert!(p.queue.pop().is_none() && p.link.is_broken());
    // One chain again and again, never given back.
    let p = pair(8, 0);
    p.driver.describe(0, BUFFERS, 1, 0, 0);
    let mut taken = 0;
    for _ in 0..100 {
        p.driver.offer(0);
        taken += u32::from(p.queue.pop().is_some());
    }
    assert_eq!((taken, p.link.is_broken()), (8, true));
}

#[test]
fn rings_that_cannot_be_are_refused() {
    let p = pair(8, 0);
    let good = p.driver.layout;
    let make = |layout| {
        let new = Queue::new(p.driver.ram.clone(), p.link.clone(), 0, layout, 0, QueuePosition::default());
        new.err().map(|e| e.to_string())
    };
    assert_eq!(make(good), None);
    for size in [0, 3, 0xffff] {
        assert!(make(QueueLayout { size, ..good }).unwrap().contains("power of two"));
    }
    for addr in [8, 4 << 20, (4 << 20) - 16, u64::MAX - 15] {
        assert!(make(QueueLayout { descriptors: addr, ..good }).unwrap().contains("descriptor table"));
        let (odd, used) =
            (QueueLayout { available: addr + 1, ..good }, QueueLayout { used: addr + 2, ..good });
        assert!(make(odd).unwrap().contains("available ring") && make(used).unwrap().contains("used ring"));
    }
}

#[test]
fn slices_are_cut_across_buffers() {
    let all = [(0x1000, 4), (0x2000, 4), (0x3000, 4)].map(|(addr, len)| Segment { addr, len });
    let cut = |from, len| slice(&all, from, len).iter().map(|s| (s.addr, s.len)).collect::<Vec<_>>();
    assert_eq!(cut(0, u64::MAX).len(), 3);
    assert_eq!(cut(5, 5), [(0x2001, 3), (0x3000, 2)]);
    assert_eq!(cut(4, 4), [(0x2000, 4)]);
    assert_eq!((cut(12, 1), cut(u64::MAX, 1), cut(3, 0)), (vec![], vec![], vec![]));
}

proptest! {
    /// Whatever is in the rings: every buffer of a chain is RAM, and there are never more than the queue has.
    #[test]
    fn any_descriptors_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 128), flags in 0..8u16, index in 0..20u16) {
        let p = pair(8, INDIRECT_DESC);
        p.driver.fill(p.driver.layout.descriptors, &bytes);
        for i in 0..8 {
            // Sane in part, or all would be out of RAM.
            let at = p.driver.layout.descriptors + 16 * i;
            let addr = p.driver.ram.load_u64(at).unwrap();
            p.driver.ram.store_u64(at, (addr & 0x1f_ffff) | ((i % 3) * 0x1_0000)).unwrap();
            p.driver.ram.store_u32(at + 8, bytes[i as usize].into()).unwrap();
            p.driver.ram.store_u16(at + 12, flags & u16::from(bytes[2 * i as usize])).unwrap();
            p.driver.ram.store_u16(at + 14, u16::from(bytes[3 * i as usize]) % 10).unwrap();
        }
        p.driver.ram.store_u16(p.driver.layout.available + 2, index).unwrap();
        let mut taken = 0;
        while let Some(chain) = p.queue.pop() {
            taken += 1;
            prop_assert!(chain.readable().len() + chain.writable().len() <= 8);
            for s in chain.readable().iter().chain(chain.writable()) {
                prop_assert!(p.driver.ram.host_range(s.addr, s.len.into()).is_ok());
            }
        }
        prop_assert!(taken <= 8);
    }
}

#[test]
fn threads_share_a_queue() {
    let p = Arc::new(pair(8, EVENT_IDX));
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let p = p.clone();
            std::thread::spawn(move || {
                let mut served = 0;
                while served < 1000 && !p.link.is_broken() {
                    let Some(chain) = p.queue.pop() else {
                        std::thread::yield_now();
                        if p.driver.ram.load_u32(BUFFERS) == Some(1) {
                            break;
                        }
                        continue;
                    };
                    p.queue.push(chain.head, 1);
                    p.queue.signal();
                    served += 1;
                }
            })
        })
        .collect();
    (0..8).for_each(|head| p.driver.offer_chain(head, &[(BUFFERS + 64, 4, true)]));
    for _ in 0..1000 {
        let (head, _) = p.driver.wait_used();
        p.driver.offer(head as u16);
    }
    for _ in 0..8 {
        p.driver.wait_used();
    }
    p.driver.ram.store_u32(BUFFERS, 1).unwrap();
    workers.into_iter().for_each(|w| w.join().unwrap());
    assert!(!p.link.is_broken());
}
