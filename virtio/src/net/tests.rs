use std::sync::atomic::{AtomicU32, Ordering};

use ::net::{Abilities, Frame, GuestPort, Offload, Put, Segmentation};
use parking_lot::Mutex;

use super::*;
use crate::testing::{BUFFERS, Bench};

/// The other end, in the test's hands.
#[derive(Default)]
struct Far {
    port: Mutex<Option<Arc<dyn GuestPort>>>,
    woken: AtomicU32,
    resets: AtomicU32,
}

impl NetBackend for Far {
    fn connect(&self, port: Arc<dyn GuestPort>) -> io::Result<()> {
        *self.port.lock() = Some(port);
        Ok(())
    }

    fn wake(&self) {
        self.woken.fetch_add(1, Ordering::SeqCst);
    }

    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}

struct Setup {
    far: Arc<Far>,
    port: Arc<dyn GuestPort>,
    bench: Bench,
}

const MAC: Mac = Mac([2, 3, 4, 5, 6, 7]);

fn setup(pairs: u16, without: u64) -> Setup {
    let far = Arc::new(Far::default());
    let net = Net::new(far.clone(), MAC, pairs).unwrap();
    let port = far.port.lock().clone().unwrap();
    Setup { far, port, bench: Bench::new(Arc::new(net), without) }
}

fn header(offload: &Offload, buffers: u16) -> Vec<u8> {
    offload.encode(buffers).to_vec()
}

const LARGE: Offload =
    Offload { checksum: Some((34, 16)), segments: Some((Segmentation::Tcp4, 1460)), headers: 54 };

#[test]
fn frames_are_taken_with_what_is_left_to_do() {
    let s = setup(1, 0);
    let queue = &s.bench.queues[1];
    let mut frame = Frame::default();
    assert!(!s.port.take(&mut frame));
    queue.fill(BUFFERS, &[header(&LARGE, 0), b"abcdef".to_vec()].concat());
    queue.offer_chain(0, &[(BUFFERS, 12, false), (BUFFERS + 12, 4, false), (BUFFERS + 16, 2, false)]);
    s.bench.notify(1);
    assert_eq!(s.far.woken.load(Ordering::SeqCst), 2, "at the start and by the notification");
    assert!(s.port.take(&mut frame));
    assert_eq!((&frame.bytes[..], frame.offload, frame.queue), (b"abcdef".as_slice(), LARGE, 0));
    assert_eq!(queue.used(), Some((0, 0)));
    assert!(!s.port.take(&mut frame));
}

#[test]
fn frames_that_are_too_long_or_not_understood_are_lost() {
    let s = setup(1, 0);
    let queue = &s.bench.queues[1];
    queue.fill(BUFFERS, &[0; 12]);
    queue.offer_chain(0, &[(BUFFERS, 0x2_0000, false)]);
    let mut datagrams = header(&LARGE, 0);
    datagrams[1] = 3;
    queue.fill(BUFFERS + 0x4_0000, &datagrams);
    queue.offer_chain(1, &[(BUFFERS + 0x4_0000, 60, false)]);
    queue.offer_chain(2, &[(BUFFERS, 12, false), (BUFFERS + 0x100, 3, false)]);
    let mut frame = Frame::default();
    assert!(s.port.take(&mut frame) && frame.bytes.len() == 3);
    assert_eq!([queue.used(), queue.used(), queue.used()].map(|u| u.unwrap().0), [0, 1, 2]);
    queue.offer_chain(3, &[(BUFFERS, 11, false)]);
    assert!(!s.port.take(&mut frame) && s.bench.needs_reset());
}

#[test]
fn a_frame_is_spread_over_buffers_and_appears_at_once() {
    let s = setup(1, 0);
    let queue = &s.bench.queues[0];
    let data: Vec<u8> = (0..100).collect();
    for head in 0..3 {
        queue.offer_chain(head, &[(BUFFERS + 0x1000 * u64::from(head), 40, true)]);
    }
    assert_eq!(s.port.put(0, &LARGE, &[&data[..60], &data[60..]]), Put::Done);
    s.port.finish();
    assert_eq!(
        [queue.used(), queue.used(), queue.used(), queue.used()],
        [Some((0, 40)), Some((1, 40)), Some((2, 32)), None]
    );
    let all: Vec<u8> = (0..3).flat_map(|i| queue.bytes(BUFFERS + 0x1000 * i, 40)).collect();
    assert_eq!(all[..12], LARGE.encode(3));
    assert!(all[12..112] == data[..]);
}

#[test]
fn what_has_no_room_waits_and_what_never_will_is_lost() {
    let s = setup(1, 0);
    let queue = &s.bench.queues[0];
    queue.offer_chain(0, &[(BUFFERS, 40, true)]);
    assert_eq!(s.port.put(0, &Offload::default(), &[&[1; 60]]), Put::Full);
    assert_eq!(queue.available_event(), 1, "the driver notifies of the next buffer");
    assert_eq!(queue.used(), None);
    queue.offer_chain(1, &[(BUFFERS + 0x1000, 40, true)]);
    assert_eq!(s.port.put(0, &Offload::default(), &[&[1; 60]]), Put::Done);
    assert_eq!([queue.used(), queue.used()], [Some((0, 40)), Some((1, 32))]);

    let s = setup(1, bit::MRG_RXBUF);
    let queue = &s.bench.queues[0];
    queue.offer_chain(0, &[(BUFFERS, 20, true), (BUFFERS + 0x100, 20, true)]);
    assert_eq!(s.port.put(0, &Offload::default(), &[&[1; 60]]), Put::Done, "lost");
    assert_eq!(queue.used(), None);
    assert_eq!(s.port.put(0, &Offload::default(), &[&[1; 28]]), Put::Done);
    assert_eq!(queue.used(), Some((0, 40)));
    s.bench.frontend.set_status(0);
    assert_eq!(s.port.put(0, &Offload::default(), &[&[1; 28]]), Put::Gone);
    assert_eq!(s.far.resets.load(Ordering::SeqCst), 2, "at power-on and now");
}

#[test]
fn what_the_guest_takes_is_what_it_agreed_to() {
    let all = Abilities { checksum: true, tcp4: true, tcp6: true };
    assert_eq!(setup(1, 0).port.abilities(), all);
    assert_eq!(setup(1, bit::GUEST_TSO6).port.abilities(), Abilities { tcp6: false, ..all });
    assert_eq!(setup(1, bit::GUEST_CSUM).port.abilities(), Abilities::default());
}

/// Sends a command; the answer.
fn command(bench: &Bench, control: u16, command: &[u8]) -> u8 {
    let queue = &bench.queues[usize::from(control)];
    queue.fill(BUFFERS, command);
    queue.fill(BUFFERS + 0x100, &[0xee]);
    queue.offer_chain(0, &[(BUFFERS, command.len() as u32, false), (BUFFERS + 0x100, 1, true)]);
    bench.notify(control);
    assert_eq!(queue.used(), Some((0, 1)));
    queue.bytes(BUFFERS + 0x100, 1)[0]
}

#[test]
fn pairs_of_queues_are_used_as_the_driver_says() {
    let s = setup(3, 0);
    let mut config = [0; 10];
    s.bench.frontend.device().read_config(0, &mut config);
    assert_eq!(config, [2, 3, 4, 5, 6, 7, 1, 0, 3, 0]);
    let send = |pair: u16| {
        let queue = &s.bench.queues[usize::from(2 * pair + 1)];
        queue.fill(BUFFERS + 0x1000, &[0; 12]);
        queue.offer_chain(0, &[(BUFFERS + 0x1000, 12, false), (BUFFERS, 4, false)]);
        let mut frame = Frame::default();
        s.port.take(&mut frame).then_some(frame.queue)
    };
    assert_eq!(send(2), None);
    for wrong in [[4, 0, 0, 0], [4, 0, 4, 0], [4, 1, 2, 0], [0, 0, 1, 0]] {
        assert_eq!(command(&s.bench, 6, &wrong), 1, "{wrong:?}");
    }
    assert_eq!(command(&s.bench, 6, &[4, 0]), 1);
    assert_eq!(command(&s.bench, 6, &[4, 0, 3, 0]), 0);
    let mut frame = Frame::default();
    assert!(s.port.take(&mut frame) && frame.queue == 2);
    assert_eq!(send(1), Some(1));
    s.bench.queues[4].offer_chain(0, &[(BUFFERS, 40, true)]);
    assert_eq!(s.port.put(2, &Offload::default(), &[b"x"]), Put::Done);
    assert_eq!(s.bench.queues[4].used(), Some((0, 13)));
}

#[test]
fn without_several_pairs_the_control_queue_is_the_third() {
    let s = setup(3, bit::MQ);
    assert_eq!(command(&s.bench, 2, &[4, 0, 1, 0]), 0);
    assert_eq!(command(&s.bench, 2, &[4, 0, 2, 0]), 1);
}

#[test]
fn the_driver_is_told_whether_the_cable_is_plugged_in() {
    let s = setup(1, 0);
    let status = || {
        let mut status = [0; 2];
        s.bench.frontend.device().read_config(6, &mut status);
        status
    };
    let told = || s.bench.interrupts.config.load(Ordering::SeqCst);
    let before = told();
    s.port.link(true);
    assert_eq!((status(), told()), ([1, 0], before), "as it was");
    s.port.link(false);
    assert_eq!((status(), told()), ([0, 0], before + 1));
    s.port.link(true);
    assert_eq!((status(), told()), ([1, 0], before + 2));
}

#[test]
fn kicks_and_resets_at_every_moment_are_harmless() {
    let s = setup(2, 0);
    let (port, bench) = (s.port.clone(), Arc::new(s.bench));
    let stop = Arc::new(AtomicU32::new(0));
    let ended = stop.clone();
    let backend = std::thread::spawn(move || {
        let mut frame = Frame::default();
        while ended.load(Ordering::SeqCst) == 0 {
            port.take(&mut frame);
            port.put(frame.queue, &Offload::default(), &[&[7; 2000]]);
            port.finish();
        }
    });
    for round in 0..300u16 {
        bench.agree(0);
        bench.set_up(|index| index != round % 5);
        for (index, queue) in bench.queues.iter().enumerate() {
            queue.offer_chain(0, &[(BUFFERS, 1024, index % 2 == 0)]);
            queue.offer_chain(1, &[(BUFFERS, 1024, index % 2 == 0)]);
        }
        bench.go();
        (0..8).for_each(|queue| bench.notify(queue));
    }
    bench.frontend.set_status(0);
    let before = bench.queues[0].bytes(BUFFERS, 1024);
    bench.queues[0].fill(BUFFERS, &[1; 1024]);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert!(before.len() == 1024 && bench.queues[0].bytes(BUFFERS, 1024) == [1; 1024]);
    stop.store(1, Ordering::SeqCst);
    backend.join().unwrap();
}

#[test]
fn a_card_knows_which_address_its_driver_has_read() {
    let card = |last| Net::new(Arc::new(Far::default()), Mac([2, 3, 4, 5, 6, last]), 2).unwrap();
    let (first, other) = (card(7), card(8));
    assert_eq!(first.mistaken(), None);
    first.read_config(6, &mut [0; 2]);
    assert_eq!(
        first.save(),
        DeviceState::Net(NetState { pairs: 1, known: None }),
        "its status is no address"
    );
    let mut address = [0; 6];
    first.read_config(0, &mut address);
    assert_eq!((Mac(address), first.mistaken()), (MAC, None));
    // Whoever goes on with what it was has another address until a driver reads that, and is reset in between or not.
    other.check(&first.save(), "net").unwrap();
    other.restore(&first.save());
    other.reset();
    assert_eq!(other.mistaken(), Some((MAC, Mac([2, 3, 4, 5, 6, 8]))));
    let third = card(9);
    third.restore(&other.save());
    assert_eq!(third.mistaken(), Some((MAC, Mac([2, 3, 4, 5, 6, 9]))));
    other.read_config(5, &mut [0]);
    assert_eq!(other.mistaken(), None);
}

#[test]
fn a_saved_card_is_understood_as_it_is_and_as_it_was() {
    for state in [NetState { pairs: 2, known: Some(MAC) }, NetState { pairs: 2, known: None }] {
        let saved = serde_json::to_string(&DeviceState::Net(state)).unwrap();
        assert_eq!(serde_json::from_str::<DeviceState>(&saved).unwrap(), DeviceState::Net(state));
    }
    let before: DeviceState = serde_json::from_str(r#"{"Net":2}"#).unwrap();
    assert_eq!(before, DeviceState::Net(NetState { pairs: 2, known: None }));
}
