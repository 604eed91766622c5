use std::sync::atomic::{AtomicU32, Ordering};

use ::block::{Operation, Pool, RawImage, Request};
use memory::GuestRam;
use parking_lot::Mutex;

use super::*;
use crate::testing::{BUFFERS, Bench, DriverQueue, eventually};

const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;

fn header(ram: &GuestRam, kind: u32, sector: u64) {
    ram.write(HEADER, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()).unwrap();
    ram.write(STATUS, &[0xee]).unwrap();
}

/// Sends one request by queue 0 with `data` at [`DATA`], which the device writes or reads; its status, and the
/// bytes that were written.
fn request(bench: &Bench, kind: u32, sector: u64, data: &[(u64, u32)], write: bool) -> (u8, u32) {
    header(&bench.ram, kind, sector);
    let middle = data.iter().map(|&(addr, len)| (addr, len, write));
    let chain: Vec<_> = [(HEADER, 16, false)].into_iter().chain(middle).chain([(STATUS, 1, true)]).collect();
    bench.queues[0].offer_chain(0, &chain);
    bench.notify(0);
    let (head, written) = bench.queues[0].wait_used();
    assert_eq!(head, 0);
    (bench.ram.load_u8(STATUS).unwrap(), written)
}

struct Disk {
    file: tempfile::NamedTempFile,
    bench: Bench,
}

impl Disk {
    fn content(&self) -> Vec<u8> {
        std::fs::read(self.file.path()).unwrap()
    }
}

/// A disk of 64 sectors; each byte says its sector.
fn disk(read_only: bool) -> Disk {
    let file = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..64u8).flat_map(|sector| [sector; 512]).collect();
    std::fs::write(file.path(), content).unwrap();
    let image = Pool::new(RawImage::open(file.path(), read_only).unwrap()).unwrap();
    let options = BlkOptions { serial: "a serial number that is too long".into(), queues: 4 };
    let blk = Blk::new(Arc::new(image), &options).unwrap();
    Disk { file, bench: Bench::new(Arc::new(blk), 0) }
}

#[test]
fn sectors_are_read_and_written() {
    let d = disk(false);
    assert_eq!(request(&d.bench, 0, 3, &[(DATA, 512), (DATA + 0x800, 1024)], true), (0, 1537));
    assert!(d.bench.queues[0].bytes(DATA, 512) == [3; 512]);
    assert!(d.bench.queues[0].bytes(DATA + 0x800 + 512, 512) == [5; 512]);
    d.bench.ram.write(DATA, &[0x77; 1024]).unwrap();
    assert_eq!(request(&d.bench, 1, 62, &[(DATA, 100), (DATA + 100, 924)], false), (0, 1));
    assert!(d.content()[62 * 512..] == [0x77; 1024]);
    assert_eq!(request(&d.bench, 4, 0, &[], false), (0, 1));
}

#[test]
fn reading_into_code_is_noticed() {
    let d = disk(false);
    let page = d.bench.ram.page(DATA + 0x1000).unwrap();
    page.info.mark_code(0, 8);
    assert_eq!(request(&d.bench, 0, 0, &[(DATA, 0x2000)], true).0, 0);
    assert_eq!(page.info.generation(), 1);
}

#[test]
fn the_configuration_tells_the_disk() {
    let d = disk(true);
    let device = d.bench.frontend.device();
    let field = |at, len: usize| {
        let mut data = [0; 8];
        device.read_config(at, &mut data[..len]);
        u64::from_le_bytes(data)
    };
    assert_eq!((field(0, 8), field(20, 4), field(34, 2)), (64, 512, 4));
    assert_eq!(field(u64::MAX, 8), 0);
    assert_eq!(device.features() & (READ_ONLY | DISCARD), READ_ONLY);
    assert_eq!(request(&d.bench, 8, 0, &[(DATA, 20)], true), (0, 21));
    assert_eq!(d.bench.queues[0].bytes(DATA, 20), b"a serial number that");
}

#[test]
fn ranges_are_zeroed_and_discarded() {
    let d = disk(false);
    let range = |sector: u64, sectors: u32, flags: u32| {
        let data = [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
        d.bench.ram.write(DATA, &data).unwrap();
    };
    range(8, 8, 0);
    assert_eq!(request(&d.bench, 13, 0, &[(DATA, 16)], false), (0, 1));
    range(16, 8, 1);
    assert_eq!(request(&d.bench, 13, 0, &[(DATA, 16)], false), (0, 1));
    range(24, 8, 0);
    assert_eq!(request(&d.bench, 11, 0, &[(DATA, 16)], false), (0, 1));
    let content = d.content();
    assert!(content[8 * 512..24 * 512].iter().all(|&b| b == 0));
    assert_eq!((content[8 * 512 - 1], content[32 * 512], content.len()), (7, 32, 64 * 512));
    for (kind, sector, sectors, flags, status) in [
        (11, 0, 8, 1, 2),
        (13, 0, 8, 2, 2),
        (13, 60, 5, 0, 1),
        (11, u64::MAX, 1, 0, 1),
        (11, 0, u32::MAX, 0, 1),
        (11, 64, 0, 0, 0),
    ] {
        range(sector, sectors, flags);
        assert_eq!(request(&d.bench, kind, 0, &[(DATA, 16)], false).0, status, "{kind} {sector} {sectors}");
    }
    assert_eq!(request(&d.bench, 11, 0, &[(DATA, 32)], false).0, 2, "two ranges");
    assert!(d.content() == content);
}

#[test]
fn what_the_disk_does_not_have_is_an_error_of_the_request() {
    let d = disk(false);
    for (kind, sector, len, status) in [
        (0, 64, 512, 1),
        (0, 63, 1024, 1),
        (0, 0, 100, 1),
        (1, 64, 512, 1),
        (0, u64::MAX, 512, 1),
        (0, u64::MAX / 512, 512, 1),
        (0, 64, 0, 0),
        (99, 0, 512, 2),
        (2, 0, 512, 2),
    ] {
        assert_eq!(request(&d.bench, kind, sector, &[(DATA, len)], kind != 1).0, status, "{kind} {sector}");
    }
    assert!(!d.bench.needs_reset());
    d.file.as_file().set_len(512).unwrap();
    assert_eq!(request(&d.bench, 0, 8, &[(DATA, 512)], true).0, 1, "the host's error");
    let d = disk(true);
    let before = d.content();
    for kind in [1, 11, 13] {
        assert_eq!(request(&d.bench, kind, 0, &[(DATA, 512)], false).0, 1);
    }
    assert_eq!(request(&d.bench, 4, 0, &[], false).0, 0);
    assert!(d.content() == before);
}

#[test]
fn a_request_that_cannot_be_answered_needs_a_reset() {
    for chain in [&[(HEADER, 15, false), (STATUS, 1, true)][..], &[(HEADER, 16, false)], &[(STATUS, 1, true)]]
    {
        let mut d = disk(false);
        header(&d.bench.ram, 0, 0);
        d.bench.queues[0].offer_chain(0, chain);
        d.bench.notify(0);
        eventually(|| d.bench.needs_reset().then_some(()));
        d.bench.negotiate(0);
        assert_eq!(request(&d.bench, 0, 1, &[(DATA, 512)], true).0, 0);
    }
}

/// Answers when it is told to.
#[derive(Default)]
struct Slow {
    waiting: Arc<Mutex<Vec<Request>>>,
    flushes: AtomicU32,
    durable: AtomicU32,
}

impl BlockBackend for Slow {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn submit(&self, request: Request) {
        match &request.operation {
            Operation::Flush => drop(self.flushes.fetch_add(1, Ordering::SeqCst)),
            Operation::Write { durable: true, .. } => drop(self.durable.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
        self.waiting.lock().push(request);
    }
}

fn slow(without: u64) -> (Arc<Slow>, Bench) {
    let slow = Arc::new(Slow::default());
    let options = BlkOptions { queues: 2, ..BlkOptions::default() };
    (slow.clone(), Bench::new(Arc::new(Blk::new(slow, &options).unwrap()), without))
}

fn offer(queue: &DriverQueue, head: u16) {
    let at = u64::from(head) * 0x100;
    queue.offer_chain(head, &[(HEADER, 16, false), (DATA + at * 8, 512, false), (STATUS + at, 1, true)]);
}

#[test]
fn many_requests_are_in_flight_and_end_in_any_order() {
    let (slow, bench) = slow(0);
    header(&bench.ram, 1, 0);
    for (queue, heads) in bench.queues.iter().zip([[0, 3, 6], [0, 3, 6]]) {
        heads.iter().for_each(|&head| offer(queue, head));
    }
    bench.notify(0);
    bench.notify(1);
    eventually(|| (slow.waiting.lock().len() == 6).then_some(()));
    assert_eq!(bench.queues[0].used(), None);
    let mut requests: Vec<_> = slow.waiting.lock().drain(..).collect();
    while let Some(request) = requests.pop() {
        (request.done)(Ok(()));
    }
    for queue in &bench.queues {
        assert_eq!([(); 3].map(|()| queue.used().unwrap().0), [6, 3, 0]);
    }
}

#[test]
fn a_reset_waits_for_what_is_in_flight() {
    let (slow, mut bench) = slow(0);
    header(&bench.ram, 1, 0);
    offer(&bench.queues[0], 0);
    bench.notify(0);
    eventually(|| (slow.waiting.lock().len() == 1).then_some(()));
    let waiting = slow.waiting.clone();
    let answered = Arc::new(AtomicU32::new(0));
    let told = answered.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        told.store(1, Ordering::SeqCst);
        let request = waiting.lock().pop().unwrap();
        (request.done)(Err(io::ErrorKind::Other.into()));
    });
    bench.frontend.set_status(0);
    assert_eq!(answered.load(Ordering::SeqCst), 1);
    thread.join().unwrap();
    // Notifications of a device without a driver, then one that works again.
    (0..70).for_each(|queue| bench.notify(queue));
    bench.negotiate(0);
    header(&bench.ram, 1, 0);
    offer(&bench.queues[1], 0);
    bench.notify(1);
    let request = eventually(|| slow.waiting.lock().pop());
    (request.done)(Ok(()));
    assert_eq!(bench.queues[1].wait_used(), (0, 1));
}

#[test]
fn writes_are_durable_for_drivers_that_do_not_flush() {
    for (without, durable) in [(0, 0), (FLUSH, 1)] {
        let (slow, bench) = slow(without);
        header(&bench.ram, 1, 0);
        offer(&bench.queues[0], 0);
        bench.notify(0);
        let request = eventually(|| slow.waiting.lock().pop());
        (request.done)(Ok(()));
        assert_eq!(slow.durable.load(Ordering::SeqCst), durable);
    }
}

#[test]
fn kicks_and_resets_at_every_moment_are_harmless() {
    let d = disk(false);
    let bench = Arc::new(d.bench);
    let kicker = {
        let bench = bench.clone();
        std::thread::spawn(move || {
            for i in 0..20_000u16 {
                bench.notify(i % 6);
            }
        })
    };
    header(&bench.ram, 0, 0);
    for round in 0..300u16 {
        bench.agree(0);
        bench.set_up(|index| index != round % 5);
        // As the last round left them: the device begins at zero and finds all of it anew.
        bench.queues[0].offer_chain(0, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
        bench.go();
    }
    kicker.join().unwrap();
    bench.frontend.set_status(0);
}
