use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::AtomicU32;

use rustix::net::{SocketFlags, accept_with};
use tempfile::TempDir;

use super::packet::{HEADER, HOST, Header, STREAM, op, shut};
use super::*;
use crate::testing::{BUFFERS, Bench, eventually};

const CID: u64 = 77;
/// Where packets of the driver's lie; its buffers for the device's are in front of them.
const PACKETS: u64 = BUFFERS + 0x20_0000;
const ROOM: u32 = 4096;

/// The host's side: sockets in a folder.
struct Sockets {
    folder: TempDir,
    listener: UnixListener,
}

impl VsockHost for Sockets {
    fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn accept(&self) -> Result<OwnedFd, Errno> {
        accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    fn connect(&self, port: u32) -> Result<OwnedFd, Errno> {
        let stream = UnixStream::connect(self.folder.path().join(port.to_string()));
        stream.map(OwnedFd::from).map_err(|_| Errno::CONNREFUSED)
    }
}

/// A guest's driver with a device, and the programs on the host.
struct Rig {
    bench: Bench,
    host: Arc<Sockets>,
    sent: AtomicU32,
}

impl Rig {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let host = Arc::new(Sockets { folder, listener });
        let bench = Bench::new(Arc::new(Vsock::new(CID, host.clone()).unwrap()), 0);
        let rig = Self { bench, host, sent: AtomicU32::new(0) };
        (0..8).for_each(|slot| rig.offer(slot));
        rig.bench.notify(0);
        rig
    }

    /// Room for a packet, in two descriptors as Linux has them.
    fn offer(&self, slot: u16) {
        let at = BUFFERS + u64::from(slot) * 0x2000;
        self.bench.queues[0].offer_chain(2 * slot, &[(at, HEADER as u32, true), (at + 0x1000, ROOM, true)]);
    }

    /// The next packet from the device.
    fn receive(&self) -> (Header, Vec<u8>) {
        let queue = &self.bench.queues[0];
        let (head, len) = queue.wait_used();
        let at = BUFFERS + u64::from(head / 2) * 0x2000;
        let header = Header::decode(&queue.bytes(at, HEADER).try_into().unwrap());
        assert_eq!(len, HEADER as u32 + header.len);
        assert_eq!((header.src_cid, header.dst_cid, header.kind), (HOST, CID, STREAM));
        let data = queue.bytes(at + 0x1000, header.len as usize);
        self.offer((head / 2) as u16);
        self.bench.notify(0);
        (header, data)
    }

    fn expect(&self, operation: u16) -> Header {
        let (header, _) = self.receive();
        assert_eq!(header.op, operation, "{header:?}");
        header
    }

    /// Nothing more comes from the device.
    fn quiet(&self) {
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(self.bench.queues[0].used(), None);
    }

    fn send(&self, header: Header, data: &[u8]) {
        let queue = &self.bench.queues[1];
        let slot = (self.sent.fetch_add(1, Ordering::SeqCst) % 8) as u16;
        let header = Header { len: data.len() as u32, ..header };
        queue.fill(PACKETS, &header.encode());
        queue.fill(PACKETS + 0x100, data);
        let payload = (PACKETS + 0x100, data.len() as u32, false);
        queue.offer_chain(2 * slot, &[(PACKETS, HEADER as u32, false), payload]);
        self.bench.notify(1);
        queue.wait_used();
    }

    /// A program on the host listens.
    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.host.folder.path().join(port.to_string())).unwrap()
    }

    /// A client of the host's says this.
    fn client(&self, greeting: &str) -> UnixStream {
        let mut client = UnixStream::connect(self.host.folder.path().join("socket")).unwrap();
        client.write_all(greeting.as_bytes()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }

    /// A connection that a client has made: its stream, and packets of the guest's for it.
    fn connected(&self) -> (UnixStream, Header) {
        let mut client = self.client("CONNECT 5\n");
        let request = self.expect(op::REQUEST);
        assert_eq!(request.dst_port, 5);
        let answer = guest(request.dst_port, request.src_port);
        self.send(Header { op: op::RESPONSE, ..answer }, &[]);
        let line = format!("OK {}\n", request.src_port);
        assert_eq!(read(&mut client, line.len()), line.as_bytes());
        (client, answer)
    }
}

/// A packet of the guest's, which has a megabyte of room.
fn guest(src_port: u32, dst_port: u32) -> Header {
    let ends = Header { src_cid: CID, dst_cid: HOST, src_port, dst_port, kind: STREAM, ..Header::default() };
    Header { buf_alloc: 1 << 20, ..ends }
}

fn read(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    stream.read_exact(&mut data).unwrap();
    data
}

#[test]
fn headers_are_written_as_they_are_read() {
    let bytes: [u8; HEADER] = std::array::from_fn(|i| i as u8 + 1);
    let header = Header::decode(&bytes);
    assert_eq!((header.src_cid, header.dst_port, header.op), (0x0807_0605_0403_0201, 0x1817_1615, 0x201f));
    assert_eq!(header.encode(), bytes);
}

#[test]
fn a_client_calls_the_guest() {
    let rig = Rig::new();
    let (mut client, guest) = rig.connected();
    rig.send(Header { op: op::RW, ..guest }, b"hello");
    assert_eq!(read(&mut client, 5), b"hello");
    client.write_all(&[7; 6000]).unwrap();
    let mut data = Vec::new();
    while data.len() < 6000 {
        let (header, part) = rig.receive();
        assert_eq!((header.op, header.fwd_cnt), (op::RW, 5));
        data.extend(part);
    }
    assert_eq!(data, [7; 6000]);
    // Half of it ends, then the other.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.expect(op::SHUTDOWN).flags, shut::SEND);
    rig.send(Header { op: op::RW, ..guest }, b"more");
    rig.send(Header { op: op::SHUTDOWN, flags: shut::BOTH, ..guest }, &[]);
    rig.expect(op::RST);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"more");
    rig.quiet();
}

#[test]
fn what_a_client_sends_behind_its_greeting_is_the_guests() {
    let rig = Rig::new();
    let client = rig.client("CONNECT 5\nGET /");
    let request = rig.expect(op::REQUEST);
    rig.quiet();
    rig.send(Header { op: op::RESPONSE, ..guest(5, request.src_port) }, &[]);
    assert_eq!(rig.receive().1, b"GET /");
    drop(client);
    assert_eq!(rig.expect(op::SHUTDOWN).flags, shut::BOTH);
    rig.send(Header { op: op::RST, ..guest(5, request.src_port) }, &[]);
    rig.quiet();
}

#[test]
fn the_guest_calls_the_host() {
    let rig = Rig::new();
    let listener = rig.listen(9);
    rig.send(Header { op: op::REQUEST, ..guest(1000, 9) }, &[]);
    let response = rig.expect(op::RESPONSE);
    assert_eq!((response.src_port, response.dst_port), (9, 1000));
    let (mut stream, _) = listener.accept().unwrap();
    rig.send(Header { op: op::RW, ..guest(1000, 9) }, b"ping");
    assert_eq!(read(&mut stream, 4), b"ping");
    rig.send(Header { op: op::SHUTDOWN, flags: shut::SEND, ..guest(1000, 9) }, &[]);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    stream.write_all(b"pong").unwrap();
    assert_eq!(rig.receive().1, b"pong");
    drop(stream);
    rig.expect(op::SHUTDOWN);
    rig.send(Header { op: op::REQUEST, ..guest(1000, 8) }, &[]);
    assert_eq!(rig.expect(op::RST).src_port, 8);
}

#[test]
fn clients_that_say_something_else_are_sent_away() {
    let rig = Rig::new();
    let long = "CONNECT 00000000000000000000000000005\n";
    for greeting in
        ["GET / HTTP/1.1\n", "CONNECT\n", "CONNECT x\n", "CONNECT +5\n", "CONNECT 4294967296\n", "\n", long]
    {
        let mut client = rig.client(greeting);
        let end = client.read(&mut [0; 9]);
        assert!(
            matches!(end, Ok(0)) || end.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset),
            "{greeting}"
        );
    }
    // One that says nothing and one that the guest does not want.
    let silent = rig.client("CONN");
    let mut unwanted = rig.client("CONNECT 6\n");
    let request = rig.expect(op::REQUEST);
    rig.send(Header { op: op::RST, ..guest(6, request.src_port) }, &[]);
    assert_eq!(unwanted.read(&mut [0]).unwrap(), 0);
    drop(silent);
    rig.quiet();
}

#[test]
fn nobody_sends_more_than_the_other_has_room_for() {
    let rig = Rig::new();
    let (mut client, guest) = rig.connected();
    rig.send(Header { op: op::CREDIT_UPDATE, buf_alloc: 10, ..guest }, &[]);
    client.write_all(&[1; 25]).unwrap();
    assert_eq!(rig.receive().1.len(), 10);
    rig.expect(op::CREDIT_REQUEST);
    rig.quiet();
    // Nonsense: it has taken what it was never sent.
    rig.send(Header { op: op::CREDIT_UPDATE, buf_alloc: 10, fwd_cnt: 4_000_000, ..guest }, &[]);
    rig.quiet();
    rig.send(Header { op: op::CREDIT_UPDATE, buf_alloc: 10, fwd_cnt: 4, ..guest }, &[]);
    assert_eq!(rig.receive().1.len(), 4);
    // The other way, with a host that does not read.
    let guest = Header { fwd_cnt: 14, ..guest };
    rig.expect(op::CREDIT_REQUEST);
    rig.send(Header { op: op::CREDIT_UPDATE, ..guest }, &[]);
    assert_eq!(rig.receive().1.len(), 11);
    rig.send(Header { op: op::CREDIT_REQUEST, ..guest }, &[]);
    let update = rig.expect(op::CREDIT_UPDATE);
    let mut sent = 0;
    let room = |news: &Header, sent: u32| news.buf_alloc - (sent - news.fwd_cnt);
    let mut news = update;
    while room(&news, sent) > 0 {
        let len = room(&news, sent).min(32 << 10);
        rig.send(Header { op: op::RW, ..guest }, &vec![(sent >> 12) as u8; len as usize]);
        sent += len;
        while let Some((head, _)) = rig.bench.queues[0].used() {
            let at = BUFFERS + u64::from(head / 2) * 0x2000;
            news = Header::decode(&rig.bench.queues[0].bytes(at, HEADER).try_into().unwrap());
            rig.offer((head / 2) as u16);
            rig.bench.notify(0);
        }
    }
    assert!(sent >= 256 << 10, "{sent}");
    // All of it arrives when somebody reads, and then there is room again.
    let data = read(&mut client, sent as usize);
    assert!(data.iter().enumerate().all(|(i, &byte)| byte == ((i >> 12) & !7) as u8));
    let update = rig.expect(op::CREDIT_UPDATE);
    assert!(room(&update, sent) >= 128 << 10, "{update:?}");
    // More than there is room for ends the connection.
    for _ in 0..3 {
        rig.send(Header { op: op::RW, ..guest }, &vec![0; 200 << 10]);
    }
    eventually(|| rig.bench.queues[0].used().map(|_| ()));
    assert!(client.read_to_end(&mut Vec::new()).is_ok());
}

#[test]
fn packets_that_belong_to_nothing_are_refused() {
    let rig = Rig::new();
    for operation in [op::RESPONSE, op::RW, op::SHUTDOWN, op::CREDIT_REQUEST, 0, 99] {
        rig.send(Header { op: operation, ..guest(1, 2) }, b"x");
        let refusal = rig.expect(op::RST);
        assert_eq!((refusal.src_port, refusal.dst_port), (2, 1));
    }
    rig.send(Header { op: op::RST, ..guest(1, 2) }, &[]);
    rig.quiet();
    // With nobody to take them, refusals do not pile up: the guest is not listened to until it has room.
    let queue = &rig.bench.queues[1];
    queue.fill(PACKETS, &Header { op: op::RW, ..guest(1, 2) }.encode());
    let send = |round: u16| {
        queue.offer_chain(round % 8, &[(PACKETS, HEADER as u32, false)]);
        rig.bench.notify(1);
    };
    for round in 0..8 + 256 {
        send(round);
        queue.wait_used();
    }
    send(0);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(queue.used(), None);
    rig.expect(op::RST);
    queue.wait_used();
    assert!(!rig.bench.needs_reset());
}

#[test]
fn short_chains_need_a_reset() {
    let rig = Rig::new();
    rig.bench.queues[1].offer_chain(0, &[(PACKETS, 10, false)]);
    rig.bench.notify(1);
    eventually(|| rig.bench.needs_reset().then_some(()));
}

#[test]
fn connections_are_bounded_and_gone_with_the_driver() {
    let mut rig = Rig::new();
    let connect = |_| {
        let mut client = UnixStream::connect(rig.host.folder.path().join("socket")).unwrap();
        // One too many may be closed before it has said anything.
        let _ = client.write_all(b"CONN");
        client
    };
    let clients: Vec<_> = (0..hub::MOST + 20).map(connect).collect();
    let closed = |mut client: &UnixStream| {
        client.set_nonblocking(true).unwrap();
        client.read(&mut [0]).is_ok_and(|count| count == 0) || client.write(b"E").is_err()
    };
    eventually(|| (clients.iter().filter(|client| closed(client)).count() >= 20).then_some(()));
    rig.bench.frontend.reset();
    eventually(|| clients.iter().all(closed).then_some(()));
    rig.bench.negotiate(0);
    (0..8).for_each(|slot| rig.offer(slot));
    rig.connected();
}

#[test]
fn a_restored_driver_hears_that_its_connections_are_gone() {
    let rig = Rig::new();
    let (mut client, _) = rig.connected();
    rig.bench.queues[2].offer_chain(0, &[(BUFFERS + 0x10_0000, 4, true)]);
    let state = rig.bench.frontend.save();
    rig.bench.queues[2].fill(BUFFERS + 0x10_0000, &[0xff; 4]);
    rig.bench.frontend.restore(&state, "test").unwrap();
    assert_eq!(rig.bench.queues[2].wait_used(), (0, 4));
    assert_eq!(rig.bench.queues[2].bytes(BUFFERS + 0x10_0000, 4), [0; 4]);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}
