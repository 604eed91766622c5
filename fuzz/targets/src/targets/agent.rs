//! The guest agent's protocol: what a guest tells the host, what a host tells the guest, and trees from either.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::protocol::{Decoder, Exit, Frame, Item, Kind, Request, Start, WINDOW, Window, put_hello, stream};
use agent::tree::{Entry, Folder, Node, Reader, Rights, unpack};
use agent::{Event, Host, Session};

use crate::Target;
use crate::input::Input;

/// The host's end.
pub const HOST: Target = Target {
    name: "agent-host",
    about: "the host's end of the agent's port, fed by a guest that lies, with sessions and their clients",
    seeds: host_seeds,
    words: &["guesthouse\r\n"],
    run: host,
};

/// What both ends decode, the program in the guest with the same code.
pub const FRAMES: Target = Target {
    name: "agent-frames",
    about: "frames and messages of the agent's protocol, in any pieces",
    seeds: frames_seeds,
    words: &["guesthouse\r\n"],
    run: frames,
};

/// Trees, as either end unpacks them.
pub const TREE: Target = Target {
    name: "agent-tree",
    about: "tar streams, unpacked into a folder beside which nothing may appear",
    seeds: tree_seeds,
    words: &["../", "30 mtime=1234567890.123456789\n", "ustar\0"],
    run: tree,
};

/// Takes what there is of a session; the bytes of its streams have to be within its windows.
fn drain(session: &Session, granted: &mut [u64; 3]) -> bool {
    while let Some(event) = session.next(Some(Instant::now())) {
        match event {
            Event::Data(stream, data) => {
                let left = granted[usize::from(stream)].checked_sub(data.len() as u64);
                granted[usize::from(stream)] = left.unwrap_or_else(|| panic!("more than was granted"));
            }
            Event::Exit(Exit::Failed(_, text)) => assert!(!text.contains('\n'), "{text:?}"),
            Event::Lost => return false,
            _ => {}
        }
    }
    true
}

fn host(data: &[u8]) {
    let host = Arc::<Host>::default();
    let mut input = Input::new(data);
    let mut sessions = Vec::new();
    let mut out = vec![0; 4096];
    let mut nonce = 0;
    while !input.is_empty() {
        match input.u8() {
            0 => host.opened(input.u8() & 1 != 0),
            1 => host.write(input.take(64)),
            2 => {
                let mut bytes = Vec::new();
                put_hello(&mut bytes, nonce);
                host.write(&bytes);
            }
            3 => {
                let count = host.read(&mut out);
                let mut decoder = Decoder::default();
                decoder.put(out.get(..count).unwrap_or_default());
                if let Ok(Some(Item::Hello(hello))) = decoder.advance() {
                    nonce = hello.nonce;
                }
            }
            4 => {
                let start = Start { argv: vec![b"x".to_vec()], ..Start::default() };
                let session = host.start(&start, Duration::ZERO).ok();
                sessions.extend(session.map(|session| (session, [u64::from(WINDOW); 3])));
            }
            5 => drop(host.request(&Request::Ping, Duration::ZERO)),
            6 => {
                let index = usize::from(input.u8());
                if let Some((session, granted)) = sessions.get_mut(index) {
                    let (stream, number) = (input.u8() % 4, input.u32());
                    let payload = number.to_le_bytes();
                    let kind =
                        [Kind::Credit, Kind::Data, Kind::Signal, Kind::End][usize::from(input.u8() % 4)];
                    let sent = session.send(&Frame { kind, stream, session: 0, payload: &payload });
                    if sent.is_ok() && kind == Kind::Credit {
                        granted[usize::from(stream)] += u64::from(number);
                    }
                }
            }
            7 => drop(sessions.pop()),
            kind => {
                // A frame that is one, of a session that may be one.
                let [a, b, len, fill] = input.array();
                let payload = vec![fill; usize::from(len) << (kind & 8)];
                let kinds = [Kind::Data, Kind::Exit, Kind::Credit, Kind::End, Kind::Start, Kind::Hangup];
                let kind = kinds[usize::from(kind) % kinds.len()];
                let mut bytes = Vec::new();
                Frame { kind, stream: a % 4, session: b.into(), payload: &payload }.put(&mut bytes);
                host.write(&bytes);
            }
        }
        sessions.retain_mut(|(session, granted)| drain(session, granted));
    }
}

fn host_seeds() -> Vec<Vec<u8>> {
    let up = [0, 1, 3, 2];
    let talk = [&up[..], &[4, 8, 1, 1, 9, 65, 4, 8, 2, 2, 200, 66, 6, 0, 1, 5, 0, 0, 0, 0, 9, 0, 1, 2, 0, 7]]
        .concat();
    let lies = [&up[..], &[4, 4, 200, 1, 1, 255, 0, 200, 1, 1, 255, 0, 1, 0, 0, 0, 3, 2, 4]].concat();
    vec![talk, lies, [&up[..], &[5, 1, 9, 9, 9, 9, 9, 3, 2, 4, 0, 0]].concat()]
}

fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let piece = usize::from(input.u8()) + 1;
    let mut decoder = if input.u8() & 1 == 0 { Decoder::default() } else { Decoder::synced() };
    while !input.is_empty() {
        decoder.put(input.take(piece));
        loop {
            match decoder.advance() {
                Ok(Some(Item::Frame(frame))) => message(frame.payload),
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => break,
            }
        }
    }
    message(data);
}

/// What is a message is the same after it was written and read.
fn message(bytes: &[u8]) {
    if let Ok(start) = Start::decode(bytes) {
        let again = start.encode().map(|bytes| Start::decode(&bytes));
        assert!(again.is_none_or(|again| again == Ok(start)));
    }
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    let _ = (Exit::decode(bytes).map(|exit| exit.status()), Window::decode(bytes));
}

fn frames_seeds() -> Vec<Vec<u8>> {
    let start = Start {
        argv: vec![b"sh".to_vec(), b"-c".to_vec()],
        env: vec![b"A=b".to_vec()],
        tty: Some(Window { rows: 24, columns: 80 }),
        ..Start::default()
    };
    let mut bytes = vec![7, 0];
    put_hello(&mut bytes, 1);
    Frame::new(Kind::Start, 1, &start.encode().unwrap_or_default()).put(&mut bytes);
    Frame::new(Kind::Request, 2, &Request::Hostname(b"a".to_vec()).encode()).put(&mut bytes);
    Frame { kind: Kind::Data, stream: stream::OUTPUT, session: 1, payload: b"abc" }.put(&mut bytes);
    Frame::new(Kind::Exit, 1, &Exit::Failed(127, "no".to_owned()).encode()).put(&mut bytes);
    vec![bytes]
}

fn tree(data: &[u8]) {
    let mut reader = Reader::new(data);
    while let Ok(Some(_)) = reader.advance() {
        let _ = reader.data(&mut [0; 512]);
    }
    let root = std::env::temp_dir().join(format!("guesthouse-fuzz-{}", std::process::id()));
    let inside = root.join("a").join("b");
    let made =
        std::fs::create_dir_all(&inside).and_then(|()| Folder::at(inside.as_os_str().as_encoded_bytes()));
    if let Ok(folder) = made {
        // Sizes that nothing stands behind end the stream.
        let _ = unpack(folder, None, Rights::Plain, data.take(1 << 20), &mut |text| {
            assert!(!text.contains('\n'), "{text:?}");
        });
        let names = |path: &std::path::Path| {
            std::fs::read_dir(path).map(|list| list.flatten().count()).unwrap_or_default()
        };
        assert_eq!((names(&root), names(&root.join("a"))), (1, 1), "something left the destination");
    }
    open(&root);
    let _ = std::fs::remove_dir_all(&root);
}

/// Gives folders back the rights to be removed, where the fuzzer is not root.
fn open(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for child in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            open(&child.path());
        }
    }
}

fn tree_seeds() -> Vec<Vec<u8>> {
    let entries = [
        ("dir", Node::Folder),
        ("dir/file", Node::File(3)),
        ("dir/up", Node::Link(b"../../..".to_vec())),
        ("dir/up/out", Node::File(3)),
        ("../out", Node::File(3)),
        ("hard", Node::Hard(b"dir/file".to_vec())),
    ];
    let mut bytes = Vec::new();
    for (path, node) in entries {
        let modified = std::time::UNIX_EPOCH + Duration::new(1_234_567_890, 5);
        let len = if let Node::File(len) = node { len as usize } else { 0 };
        Entry { path: path.into(), node, mode: 0o755, modified }.put(&mut bytes);
        bytes.extend([b'x'; 512].into_iter().take(if len > 0 { 512 } else { 0 }));
    }
    bytes.extend([0; 1024]);
    vec![bytes]
}
