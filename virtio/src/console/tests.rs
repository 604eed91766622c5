use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::testing::{BUFFERS, Bench, DriverQueue, eventually};

/// The host's end, in the test's hands.
struct Far {
    state: Mutex<FarState>,
}

struct FarState {
    bell: Option<PortBell>,
    input: VecDeque<u8>,
    output: Vec<u8>,
    room: usize,
    /// How long it takes to take something.
    pace: Duration,
    peer: Peer,
    size: Option<ConsoleSize>,
    /// Its bytes say who sends them. What of those in the midst of which somebody is.
    greets: bool,
    unfinished: Vec<u8>,
}

impl Far {
    fn new(peer: Peer) -> Arc<Self> {
        let state = FarState {
            bell: None,
            input: VecDeque::new(),
            output: Vec::new(),
            room: usize::MAX,
            pace: Duration::ZERO,
            peer,
            size: None,
            greets: false,
            unfinished: Vec::new(),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn change(&self, change: impl FnOnce(&mut FarState)) {
        let mut state = self.state.lock();
        change(&mut state);
        state.bell.as_ref().unwrap().ring();
    }

    fn output(&self) -> Vec<u8> {
        self.state.lock().output.clone()
    }

    fn wait_output(&self, expected: &[u8]) {
        eventually(|| (self.state.lock().output.len() >= expected.len()).then_some(()));
        assert!(self.output() == expected);
    }
}

impl PortBackend for Far {
    fn connect(&self, bell: PortBell) {
        self.state.lock().bell = Some(bell);
    }

    fn read(&self, data: &mut [u8]) -> usize {
        let mut state = self.state.lock();
        let count = data.len().min(state.input.len());
        data.iter_mut().zip(state.input.drain(..count)).for_each(|(to, from)| *to = from);
        count
    }

    fn write(&self, data: &[u8]) -> usize {
        let pace = self.state.lock().pace;
        std::thread::sleep(pace);
        let mut state = self.state.lock();
        let count = data.len().min(state.room);
        state.room -= count;
        state.output.extend(&data[..count]);
        count
    }

    fn peer(&self) -> Peer {
        self.state.lock().peer
    }

    fn size(&self) -> Option<ConsoleSize> {
        self.state.lock().size
    }

    fn unfinished(&self) -> Vec<u8> {
        self.state.lock().unfinished.clone()
    }

    fn resumed(&self, unfinished: &[u8]) -> bool {
        let mut state = self.state.lock();
        state.input.extend(unfinished);
        state.greets
    }
}

struct Setup {
    terminal: Arc<Far>,
    port: Arc<Far>,
    bench: Bench,
}

/// Queues of the port with a name.
const INPUT: u16 = 4;
const OUTPUT: u16 = 5;
/// Where messages to the driver go, one per page, and where it puts its own.
const NEWS: u64 = BUFFERS;
const OWN: u64 = BUFFERS + 0x2_0000;
const DATA: u64 = BUFFERS + 0x4_0000;

fn console(terminal: &Arc<Far>, port: &Arc<Far>) -> Arc<Console> {
    let named: [(_, Arc<dyn PortBackend>); 1] = [("agent".to_owned(), port.clone())];
    Arc::new(Console::new(Some(terminal.clone()), named).unwrap())
}

/// A terminal and the port "agent", with all features but `without`.
fn setup(without: u64) -> Setup {
    let (terminal, port) = (Far::new(Peer::Somebody(1)), Far::new(Peer::Nobody));
    let bench = Bench::new(console(&terminal, &port), without);
    Setup { terminal, port, bench }
}

impl Setup {
    fn queue(&self, index: u16) -> &DriverQueue {
        &self.bench.queues[usize::from(index)]
    }

    /// The driver says something.
    fn say(&self, id: u32, event: u16, value: u16) {
        let queue = self.queue(3);
        queue.fill(OWN, &[&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat());
        queue.offer_chain(0, &[(OWN, 8, false)]);
        self.bench.notify(3);
        queue.wait_used();
    }

    /// Room for messages to the driver.
    fn make_room(&self) {
        (0..16).for_each(|i| self.queue(2).offer_chain(i, &[(NEWS + 0x1000 * u64::from(i), 64, true)]));
        self.bench.notify(2);
    }

    /// The next message to the driver: port, event, value, the rest. Its buffer is room again.
    fn news(&self) -> (u32, u16, u16, Vec<u8>) {
        let queue = self.queue(2);
        let (head, len) = queue.wait_used();
        let bytes = queue.bytes(NEWS + 0x1000 * u64::from(head), len as usize);
        queue.offer(head as u16);
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!(word(2), 0);
        (word(0).into(), word(4), word(6), bytes[8..].to_vec())
    }

    /// As far as a driver goes that uses the port.
    fn open(&self) {
        self.make_room();
        self.say(0, 0, 1);
        assert_eq!([self.news(), self.news()].map(|n| (n.0, n.1)), [(0, 1), (1, 1)]);
        self.say(1, 3, 1);
        assert_eq!(self.news(), (1, 7, 1, b"agent".to_vec()));
        self.say(1, 6, 1);
    }

    fn no_news(&self) {
        // Everything that was said is done when this is.
        self.say(99, 3, 1);
        self.say(99, 6, 1);
        assert_eq!(self.queue(2).used(), None);
    }
}

#[test]
fn a_driver_is_told_of_ports_in_order() {
    let s = setup(0);
    s.terminal.change(|far| far.size = Some(ConsoleSize { columns: 80, rows: 24 }));
    s.make_room();
    s.no_news();
    s.say(0, 0, 1);
    assert_eq!(s.news(), (0, 1, 1, vec![]));
    assert_eq!(s.news(), (1, 1, 1, vec![]));
    s.say(0, 3, 1);
    assert_eq!(s.news(), (0, 4, 1, vec![]), "it is a console");
    assert_eq!(s.news(), (0, 5, 1, vec![80, 0, 24, 0]));
    assert_eq!(s.news(), (0, 6, 1, vec![]));
    s.say(1, 3, 1);
    assert_eq!(s.news(), (1, 7, 1, b"agent".to_vec()));
    s.no_news();
    s.terminal.change(|far| far.size = Some(ConsoleSize { columns: 100, rows: 24 }));
    assert_eq!(s.news(), (0, 5, 1, vec![100, 0, 24, 0]));
    // A driver that could not set it up, and one that tries again.
    s.say(1, 3, 0);
    s.port.change(|far| far.peer = Peer::Somebody(1));
    s.no_news();
    s.say(1, 3, 1);
    assert_eq!([s.news(), s.news()].map(|n| (n.0, n.1, n.2)), [(1, 7, 1), (1, 6, 1)]);
}

#[test]
fn clients_that_come_and_go_are_told_each() {
    let s = setup(0);
    s.open();
    s.port.change(|far| far.peer = Peer::Somebody(1));
    assert_eq!(s.news(), (1, 6, 1, vec![]));
    s.port.change(|far| far.peer = Peer::Somebody(2));
    assert_eq!([s.news(), s.news()].map(|n| n.2), [0, 1], "the first one left in between");
    s.port.change(|far| far.peer = Peer::Nobody);
    assert_eq!(s.news(), (1, 6, 0, vec![]));
    s.port.change(|far| far.peer = Peer::Gone);
    assert_eq!(s.news(), (1, 2, 1, vec![]), "the port is removed");
    s.no_news();
    s.bench.frontend.reset();
    let mut s = s;
    s.bench.negotiate(0);
    s.make_room();
    s.say(0, 0, 1);
    assert_eq!(s.news(), (0, 1, 1, vec![]));
    s.no_news();
}

#[test]
fn bytes_go_both_ways() {
    let s = setup(0);
    s.open();
    s.port.change(|far| far.peer = Peer::Somebody(1));
    let sent: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let out = s.queue(OUTPUT);
    out.fill(DATA, &sent);
    out.offer_chain(0, &[(DATA, 150_000, false), (DATA + 150_000, 50_000, false)]);
    s.bench.notify(OUTPUT);
    assert_eq!(out.wait_used(), (0, 0));
    s.port.wait_output(&sent);
    let input = s.queue(INPUT);
    s.port.change(|far| far.input.extend(&sent[..10_000]));
    let mut got: Vec<u8> = Vec::new();
    while got.len() < 10_000 {
        input.offer_chain(0, &[(DATA, 1000, true), (DATA + 0x1000, 3000, true)]);
        s.bench.notify(INPUT);
        let (_, len) = input.wait_used();
        got.extend(
            [input.bytes(DATA, 1000), input.bytes(DATA + 0x1000, 3000)].concat()[..len as usize].iter(),
        );
    }
    assert!(got == sent[..10_000]);
    assert!(s.terminal.output().is_empty());
}

#[test]
fn a_host_that_takes_nothing_stops_the_queue() {
    let s = setup(0);
    s.open();
    s.port.change(|far| (far.peer, far.room) = (Peer::Somebody(1), 10));
    let out = s.queue(OUTPUT);
    out.fill(DATA, &[1; 64]);
    (0..4).for_each(|head| out.offer_chain(head, &[(DATA, 16, false)]));
    s.bench.notify(OUTPUT);
    s.port.wait_output(&[1; 10]);
    s.no_news_of_port();
    assert_eq!(out.used(), None);
    s.port.change(|far| far.room = 30);
    assert_eq!([out.wait_used(), out.wait_used()].map(|u| u.0), [0, 1]);
    s.port.wait_output(&[1; 40]);
    assert_eq!(out.used(), None);
    // A reset forgets the half of a chain; the driver offers what it likes.
    let mut s = s;
    s.bench.negotiate(0);
    s.open();
    s.port.change(|far| (far.room, far.output) = (usize::MAX, Vec::new()));
    let out = s.queue(OUTPUT);
    out.fill(DATA, &[2; 16]);
    out.offer_chain(0, &[(DATA, 16, false)]);
    s.bench.notify(OUTPUT);
    out.wait_used();
    assert_eq!(s.port.output(), [2; 16]);
}

impl Setup {
    /// What the port was told is done.
    fn no_news_of_port(&self) {
        assert_eq!(self.news(), (1, 6, 1, vec![]));
        self.no_news();
    }
}

#[test]
fn a_guest_that_does_not_read_stops_the_host() {
    let s = setup(0);
    s.make_room();
    s.say(0, 0, 1);
    s.say(1, 3, 1);
    let input = s.queue(INPUT);
    input.offer_chain(0, &[(DATA, 4, true)]);
    input.offer_chain(1, &[(DATA + 8, 4, true)]);
    s.bench.notify(INPUT);
    s.port.change(|far| far.input.extend(b"hello, world"));
    s.say(99, 6, 1);
    assert_eq!(input.used(), None, "nobody has opened it");
    s.say(1, 6, 1);
    assert_eq!([input.wait_used(), input.wait_used()], [(0, 4), (1, 4)]);
    assert_eq!([input.bytes(DATA, 4), input.bytes(DATA + 8, 4)].concat(), b"hello, w");
    s.say(99, 6, 1);
    assert_eq!(s.port.state.lock().input.len(), 4);
    s.say(1, 6, 0);
    input.offer_chain(0, &[(DATA, 4, true)]);
    s.bench.notify(INPUT);
    s.say(99, 6, 1);
    assert_eq!(input.used(), None, "it is closed");
}

#[test]
fn without_multiport_there_is_a_terminal_only() {
    let s = setup(bit::MULTIPORT);
    let (input, out) = (s.queue(0), s.queue(1));
    input.offer_chain(0, &[(DATA, 16, true)]);
    s.terminal.change(|far| far.input.extend(b"ls\n"));
    assert_eq!(input.wait_used(), (0, 3));
    assert_eq!(input.bytes(DATA, 3), b"ls\n");
    out.fill(DATA, b"files");
    out.offer_chain(0, &[(DATA, 5, false)]);
    s.bench.notify(1);
    assert_eq!(out.wait_used(), (0, 0));
    s.terminal.wait_output(b"files");
    // The size is in the configuration.
    let device = s.bench.frontend.device();
    let config = |len: usize| {
        let mut data = vec![0xee; len];
        device.read_config(0, &mut data);
        data
    };
    let (before, told) = (device.config_generation(), s.bench.interrupts.config.load(Ordering::SeqCst));
    assert_eq!(config(9), [0, 0, 0, 0, 2, 0, 0, 0, 0]);
    s.terminal.change(|far| far.size = Some(ConsoleSize { columns: 80, rows: 24 }));
    eventually(|| (s.bench.interrupts.config.load(Ordering::SeqCst) > told).then_some(()));
    assert_eq!(config(4), [80, 0, 24, 0]);
    assert_ne!(device.config_generation(), before);
    // Queues that are not in use then.
    s.queue(OUTPUT).offer_chain(0, &[(DATA, 5, false)]);
    s.queue(3).offer_chain(0, &[(DATA, 5, false)]);
    (2..9).for_each(|queue| s.bench.notify(queue));
    out.offer_chain(0, &[(DATA, 5, false)]);
    s.bench.notify(1);
    out.wait_used();
    assert_eq!((s.queue(OUTPUT).used(), s.port.output().len(), s.bench.needs_reset()), (None, 0, false));
}

#[test]
fn emergencies_need_no_driver() {
    let terminal = Far::new(Peer::Somebody(1));
    let console = Console::new(Some(terminal.clone()), []).unwrap();
    assert_eq!((console.features(), console.queues().len()), (bit::SIZE | bit::EMERG_WRITE, 2));
    for (offset, data) in [(8, &b"!\0\0\0"[..]), (8, b"?"), (9, b"x"), (0, b"y"), (u64::MAX, b"z"), (8, b"")]
    {
        console.write_config(offset, data);
    }
    assert_eq!(terminal.output(), b"!?");
    let named: [(_, Arc<dyn PortBackend>); 1] = [("a".to_owned(), Far::new(Peer::Nobody))];
    let console = Console::new(None, named).unwrap();
    console.write_config(8, b"!");
    assert_eq!((console.features(), console.queues().len()), (bit::MULTIPORT, 6));
}

#[test]
fn more_ports_than_there_can_be_are_left_out() {
    let port = || ("a".to_owned(), Far::new(Peer::Nobody) as Arc<dyn PortBackend>);
    let console = Console::new(None, (0..100).map(|_| port())).unwrap();
    assert_eq!(console.queues().len(), 2 + 2 * (Console::MAX_PORTS + 1));
}

#[test]
fn what_cannot_be_understood_needs_a_reset() {
    type Mistake = fn(&Setup);
    let mistakes: [(&str, Mistake); 5] = [
        ("a short message", |s| {
            s.queue(3).offer_chain(0, &[(OWN, 7, false)]);
            s.bench.notify(3);
        }),
        ("no room for a message", |s| {
            s.queue(2).offer_chain(0, &[(NEWS, 7, true)]);
            s.say(0, 0, 1);
        }),
        ("input where there is no RAM", |s| {
            s.open();
            s.port.change(|far| far.input.extend(b"x"));
            s.queue(INPUT).offer_chain(0, &[(1 << 40, 8, true)]);
            s.bench.notify(INPUT);
        }),
        ("output in a loop", |s| {
            s.queue(OUTPUT).describe(0, DATA, 8, crate::testing::NEXT, 0);
            s.queue(OUTPUT).offer(0);
            s.bench.notify(OUTPUT);
        }),
        ("more than the queue holds", |s| {
            s.queue(OUTPUT).ram.store_u16(s.queue(OUTPUT).layout.available + 2, 99).unwrap();
            s.bench.notify(OUTPUT);
        }),
    ];
    for (what, mistake) in mistakes {
        let mut s = setup(0);
        mistake(&s);
        let start = std::time::Instant::now();
        while !s.bench.needs_reset() {
            assert!(start.elapsed().as_secs() < 20, "{what}");
            std::thread::yield_now();
        }
        s.bench.negotiate(0);
        s.open();
    }
    // Odd, but no harm: buffers without room, output without bytes, messages of ports that are not there.
    let s = setup(0);
    s.open();
    s.port.change(|far| far.input.extend(b"x"));
    s.queue(INPUT).offer_chain(0, &[(DATA, 8, false)]);
    s.queue(INPUT).offer_chain(1, &[(DATA, 8, true)]);
    s.bench.notify(INPUT);
    assert_eq!([s.queue(INPUT).wait_used(), s.queue(INPUT).wait_used()], [(0, 0), (1, 1)]);
    s.queue(OUTPUT).offer_chain(0, &[(DATA, 8, true)]);
    s.bench.notify(OUTPUT);
    assert_eq!(s.queue(OUTPUT).wait_used(), (0, 0));
    for (id, event) in [(u32::MAX, 3), (2, 6), (1, 77), (1, u16::MAX)] {
        s.say(id, event, 1);
    }
    assert!(!s.bench.needs_reset());
}

#[test]
fn one_gigantic_chain_does_not_hold_a_reset_up() {
    let s = setup(0);
    s.open();
    let out = s.queue(OUTPUT);
    // 15 times all RAM, for a host that takes its time.
    let buffers = [(0, 4 << 20, false); 15];
    out.offer_chain(0, &buffers);
    s.port.change(|far| far.pace = Duration::from_millis(1));
    s.bench.notify(OUTPUT);
    eventually(|| (!s.port.state.lock().output.is_empty()).then_some(()));
    s.bench.frontend.reset();
    let taken = s.port.output().len();
    assert!(taken < 15 << 20, "{taken} bytes");
}

#[test]
fn state_is_kept_where_the_device_goes_on() {
    let s = setup(0);
    s.open();
    s.port.change(|far| (far.peer, far.room) = (Peer::Somebody(1), 3));
    assert_eq!(s.news(), (1, 6, 1, vec![]));
    let out = s.queue(OUTPUT);
    out.fill(DATA, b"abcdef");
    out.offer_chain(0, &[(DATA, 6, false)]);
    s.bench.notify(OUTPUT);
    s.port.wait_output(b"abc");
    let state = s.bench.frontend.save();
    let text = serde_json::to_string(&state).unwrap();
    let state: crate::FrontendState = serde_json::from_str(&text).unwrap();
    // In another process: the same RAM, other peers.
    let (terminal, port) = (Far::new(Peer::Somebody(1)), Far::new(Peer::Somebody(1)));
    s.bench.frontend.reset();
    let interrupts = s.bench.interrupts.clone();
    let other = crate::Frontend::new(console(&terminal, &port), s.bench.ram.clone(), interrupts);
    other.restore(&state, "x").unwrap();
    port.wait_output(b"def");
    assert_eq!(out.wait_used(), (0, 0));
    assert_eq!([s.news(), s.news()].map(|n| (n.0, n.1, n.2)), [(1, 6, 0), (1, 6, 1)], "it is another client");
    port.change(|far| far.input.extend(b"x"));
    s.queue(INPUT).offer_chain(0, &[(DATA, 4, true)]);
    other.device().notify(INPUT);
    assert_eq!(s.queue(INPUT).wait_used(), (0, 1), "it is still open");
    // Devices that it is not the state of.
    let small = Arc::new(Console::new(Some(Far::new(Peer::Nobody)), []).unwrap());
    let small = crate::Frontend::new(small, s.bench.ram.clone(), s.bench.interrupts.clone());
    assert!(small.restore(&state, "x").is_err());
    let nothing = crate::FrontendState { device: DeviceState::Nothing, ..state };
    assert!(other.restore(&nothing, "x").is_err());
}

#[test]
fn a_client_that_greets_goes_on_where_its_bytes_were_torn() {
    let s = setup(0);
    s.open();
    s.port.change(|far| (far.peer, far.unfinished) = (Peer::Somebody(1), b"rest".to_vec()));
    assert_eq!(s.news(), (1, 6, 1, vec![]));
    let state = s.bench.frontend.save();
    s.bench.frontend.reset();
    let (terminal, port) = (Far::new(Peer::Somebody(1)), Far::new(Peer::Somebody(1)));
    port.state.lock().greets = true;
    let interrupts = s.bench.interrupts.clone();
    let other = crate::Frontend::new(console(&terminal, &port), s.bench.ram.clone(), interrupts);
    other.restore(&state, "x").unwrap();
    s.queue(INPUT).offer_chain(0, &[(DATA, 16, true)]);
    other.device().notify(INPUT);
    assert_eq!(s.queue(INPUT).wait_used(), (0, 4));
    assert_eq!(s.queue(INPUT).bytes(DATA, 4), b"rest");
    assert_eq!(s.queue(2).used(), None, "the driver is told nothing");
}

#[test]
fn kicks_and_resets_at_every_moment_are_harmless() {
    let Setup { port, bench, .. } = setup(0);
    let bench = Arc::new(bench);
    let kicker = {
        let (bench, port) = (bench.clone(), port.clone());
        std::thread::spawn(move || {
            for i in 0..20_000u16 {
                bench.notify(i % 8);
                port.change(|far| {
                    far.peer = if i % 3 == 0 { Peer::Nobody } else { Peer::Somebody(i.into()) };
                    far.input.push_back(1);
                });
            }
        })
    };
    for round in 0..300u16 {
        bench.agree(if round % 7 == 0 { bit::MULTIPORT } else { 0 });
        bench.set_up(|index| index != round % 9);
        bench.queues[5].offer_chain(0, &[(DATA, 512, false)]);
        bench.queues[4].offer_chain(0, &[(DATA, 512, true)]);
        bench.queues[2].offer_chain(0, &[(NEWS, 64, true)]);
        bench.queues[3].fill(OWN, &[1, 0, 0, 0, (round % 8) as u8, 0, 1, 0]);
        bench.queues[3].offer_chain(0, &[(OWN, 8, false)]);
        bench.go();
    }
    kicker.join().unwrap();
    bench.frontend.set_status(0);
}
