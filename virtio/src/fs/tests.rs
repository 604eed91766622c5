use std::fs;
use std::sync::Arc;

use share::{Cache, Share, ShareOptions};
use tempfile::TempDir;

use super::*;
use crate::testing::{BUFFERS, Bench};

/// Where answers go.
const ANSWER: u64 = BUFFERS + 0x1_0000;
const LOOKUP: u32 = 1;
const OPEN: u32 = 14;
const READ: u32 = 15;
const FORGET: u32 = 2;
/// The queue of requests.
const REQUESTS: usize = 1;

fn bench() -> (TempDir, Bench) {
    let folder = tempfile::tempdir().unwrap();
    let options = ShareOptions {
        path: folder.path().to_owned(),
        read_only: false,
        cache: Cache::Auto,
        set_id: false,
        descriptors: 100,
    };
    let fs = Fs::new(Share::new(options).unwrap(), "my-tag").unwrap();
    (folder, Bench::new(Arc::new(fs), 0))
}

fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut request = (40 + body.len() as u32).to_le_bytes().to_vec();
    request.extend(opcode.to_le_bytes());
    request.extend(1u64.to_le_bytes());
    request.extend(node.to_le_bytes());
    request.extend([0; 16]);
    request.extend(body);
    request
}

fn word(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(data[at..at + 8].try_into().unwrap())
}

/// Sends a request in pieces of so many bytes; the answer.
fn ask(bench: &Bench, request: &[u8], piece: usize) -> Vec<u8> {
    let queue = &bench.queues[REQUESTS];
    queue.fill(BUFFERS, request);
    let mut chain: Vec<_> = request
        .chunks(piece)
        .scan(BUFFERS, |at, part| {
            let buffer = (*at, part.len() as u32, false);
            *at += part.len() as u64;
            Some(buffer)
        })
        .collect();
    // The header and what follows it, in three pieces.
    chain.extend([(ANSWER, 16, true), (ANSWER + 16, 100, true), (ANSWER + 116, 0x1000, true)]);
    queue.offer_chain(0, &chain);
    bench.notify(REQUESTS as u16);
    let (_, written) = queue.wait_used();
    let answer = queue.bytes(ANSWER, written as usize);
    assert_eq!(word(&answer, 0) as u32, written);
    answer
}

fn open(bench: &Bench, name: &[u8], flags: u32) -> u64 {
    let entry = ask(bench, &request(LOOKUP, 1, name), 1000);
    let opened = ask(bench, &request(OPEN, word(&entry, 16), &u64::from(flags).to_le_bytes()), 1000);
    assert_eq!(word(&opened, 0) >> 32, 0);
    word(&opened, 16)
}

fn transfer(opcode: u32, handle: u64, offset: u64, size: u32, data: &[u8]) -> Vec<u8> {
    let head = [handle.to_le_bytes(), offset.to_le_bytes(), u64::from(size).to_le_bytes()].concat();
    request(opcode, 0, &[head.as_slice(), &[0; 16], data].concat())
}

#[test]
fn the_tag_is_in_the_configuration() {
    let (_folder, bench) = bench();
    let mut config = [0xff; 44];
    bench.frontend.device().read_config(0, &mut config);
    assert_eq!(
        (&config[..7], &config[36..]),
        (b"my-tag\0".as_slice(), [1u8, 0, 0, 0, 0, 0, 0, 0].as_slice())
    );
}

#[test]
fn data_goes_between_pieces_of_memory_and_files() {
    let (folder, bench) = bench();
    let data: Vec<u8> = (0..300u32).map(|i| i as u8).collect();
    fs::write(folder.path().join("a"), &data).unwrap();
    let handle = open(&bench, b"a\0", 2);
    let answer = ask(&bench, &transfer(READ, handle, 10, 4000, &[]), 7);
    assert_eq!((answer.len(), &answer[16..]), (16 + 290, &data[10..]));
    // In pieces that begin and end anywhere.
    let answer = ask(&bench, &transfer(16, handle, 250, 300, &data), 33);
    assert_eq!(word(&answer, 16), 300);
    assert_eq!(fs::read(folder.path().join("a")).unwrap(), [&data[..250], &data].concat());
    // Less data than it says.
    let answer = ask(&bench, &transfer(16, handle, 0, 301, &data), 1000);
    assert_eq!((answer.len(), (word(&answer, 0) >> 32) as i32), (16, -22));
    assert!(!bench.needs_reset());
}

#[test]
fn what_has_no_answer_is_given_back() {
    let (_folder, bench) = bench();
    let queue = &bench.queues[0];
    queue.fill(BUFFERS, &request(FORGET, 5, &1u64.to_le_bytes()));
    queue.offer_chain(0, &[(BUFFERS, 48, false)]);
    bench.notify(0);
    assert_eq!(queue.wait_used(), (0, 0));
}

#[test]
fn a_chain_without_a_request_or_room_for_its_answer_needs_a_reset() {
    for chain in
        [vec![(BUFFERS, 4, false), (ANSWER, 100, true)], vec![(BUFFERS, 42, false), (ANSWER, 15, true)]]
    {
        let (_folder, bench) = bench();
        let queue = &bench.queues[REQUESTS];
        queue.fill(BUFFERS, &request(LOOKUP, 1, b"a\0"));
        queue.offer_chain(0, &chain);
        bench.notify(REQUESTS as u16);
        crate::testing::eventually(|| bench.needs_reset().then_some(()));
    }
}

#[test]
fn after_a_reset_nothing_is_open() {
    let (folder, mut bench) = bench();
    fs::write(folder.path().join("a"), "a").unwrap();
    let handle = open(&bench, b"a\0", 0);
    bench.negotiate(0);
    let answer = ask(&bench, &transfer(READ, handle, 0, 1, &[]), 1000);
    assert_eq!((word(&answer, 0) >> 32) as i32, -9);
}
