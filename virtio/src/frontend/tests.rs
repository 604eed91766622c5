use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::testing::{Bench, Interrupts, ram};

/// Counts what it is told.
#[derive(Default)]
struct Probe {
    started: AtomicU32,
    stopped: AtomicU32,
    session: Mutex<Option<Arc<Session>>>,
}

impl VirtioDevice for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn kind(&self) -> u16 {
        1
    }

    fn pci_class(&self) -> u32 {
        0
    }

    fn features(&self) -> u64 {
        1 << 3
    }

    fn queues(&self) -> &[u16] {
        &[16, 64]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn start(&self, session: Arc<Session>) {
        self.started.fetch_add(1, Ordering::SeqCst);
        assert!(self.session.lock().replace(session).is_none(), "started twice");
    }

    fn stop(&self) {
        self.stopped.fetch_add(1, Ordering::SeqCst);
        assert!(self.session.lock().take().is_some(), "stopped twice");
    }

    fn notify(&self, _queue: u16) {}
}

fn frontend() -> (Arc<Probe>, Frontend, Arc<Interrupts>) {
    let (probe, interrupts) = (Arc::new(Probe::default()), Arc::new(Interrupts::default()));
    (probe.clone(), Frontend::new(probe, ram(), interrupts.clone()), interrupts)
}

#[test]
fn features_have_to_be_offered_and_modern() {
    for (features, agreed) in [
        (feature::VERSION_1, true),
        (feature::VERSION_1 | 1 << 3 | feature::EVENT_IDX, true),
        (1 << 3, false),
        (feature::VERSION_1 | 1 << 4, false),
        (u64::MAX, false),
    ] {
        let (probe, f, _) = frontend();
        f.accept(0, features as u32);
        f.accept(1, (features >> 32) as u32);
        f.accept(2, u32::MAX);
        f.set_status(11);
        assert_eq!(f.status() & status::FEATURES_OK != 0, agreed, "{features:#x}");
        f.set_status(15);
        assert_eq!(probe.started.load(Ordering::SeqCst), u32::from(agreed));
        if agreed {
            f.accept(0, 0);
            assert_eq!(f.accepted(), features, "too late");
        }
    }
}

#[test]
fn the_driver_resets_and_starts_again_at_any_moment() {
    let (probe, _, _) = frontend();
    let mut bench = Bench::new(probe.clone(), 0);
    for round in 1..5 {
        assert_eq!(probe.started.load(Ordering::SeqCst), round);
        let session = probe.session.lock().clone().unwrap();
        assert!(session.queues.iter().all(Option::is_some) && session.features & 1 << 3 != 0);
        bench.frontend.set_status(0xf);
        assert_eq!(probe.started.load(Ordering::SeqCst), round, "once is enough");
        assert!(bench.frontend.set_status(0));
        assert!(bench.frontend.set_status(0), "of nothing, too");
        assert_eq!((bench.frontend.status(), bench.frontend.queue(0).enabled), (0, false));
        assert_eq!(probe.stopped.load(Ordering::SeqCst), round);
        bench.negotiate(0);
    }
}

#[test]
fn queues_are_set_up_before_they_are_enabled() {
    let (_, f, _) = frontend();
    for size in [0, 3, 32, 0xffff] {
        f.set_queue(0, |q| q.layout.size = size);
        assert_eq!(f.queue(0).layout.size, 16, "{size}");
    }
    f.set_queue(0, |q| q.layout.size = 8);
    f.set_queue(0, |q| q.enabled = true);
    f.set_queue(0, |q| q.layout.size = 4);
    assert_eq!(f.queue(0).layout.size, 8);
    f.set_queue(7, |q| q.enabled = true);
    assert_eq!((f.queue(7), f.queue_count()), (QueueSetup::default(), 2));
}

#[test]
fn rings_outside_ram_mean_a_reset() {
    let (probe, f, interrupts) = frontend();
    f.accept(1, 1);
    f.set_queue(0, |q| q.layout.descriptors = 1 << 40);
    f.set_queue(0, |q| q.enabled = true);
    f.set_status(15);
    assert_eq!(f.status(), 15 | status::NEEDS_RESET);
    assert_eq!(interrupts.config.load(Ordering::SeqCst), 1);
    assert!(probe.session.lock().as_ref().unwrap().queues[0].is_none());
    f.set_status(0);
    assert_eq!(f.status(), 0);
    f.set_status(status::NEEDS_RESET);
    assert_eq!(f.status(), 0, "that one is the device's");
}

#[test]
fn a_saved_state_goes_on_where_it_was() {
    let (probe, _, _) = frontend();
    let bench = Bench::new(probe.clone(), 0);
    bench.queues[1].offer_chain(0, &[(0x1000, 4, true)]);
    let session = probe.session.lock().clone().unwrap();
    let queue = session.queues[1].clone().unwrap();
    let chain = queue.pop().unwrap();
    queue.push(chain.head, 4);
    let state = bench.frontend.save();
    assert_eq!(state.positions[1], QueuePosition { available: 1, used: 1 });
    let text = serde_json::to_string(&state).unwrap();
    let state: FrontendState = serde_json::from_str(&text).unwrap();
    bench.frontend.restore(&state, "x").unwrap();
    assert_eq!(bench.frontend.save(), state);
    let (_, other, _) = frontend();
    assert!(!bench.needs_reset());
    other.restore(&FrontendState { status: 0x4f, ..state.clone() }, "x").unwrap();
    assert_eq!(other.status(), 0x4f, "broken it was, broken it is");
    for wrong in [
        FrontendState { features: u64::MAX, ..state.clone() },
        FrontendState { status: status::DRIVER_OK, ..state.clone() },
        FrontendState { queues: Vec::new(), ..state.clone() },
        FrontendState { positions: Vec::new(), ..state.clone() },
        FrontendState { queues: vec![QueueSetup::default(); 2], ..state.clone() },
    ] {
        assert!(other.restore(&wrong, "x").is_err(), "{wrong:?}");
    }
}
