use proptest::prelude::*;

use super::*;

fn decode(decoder: &mut Decoder, mut bytes: &[u8], piece: usize) -> Vec<String> {
    let mut items = Vec::new();
    while !bytes.is_empty() {
        let count = piece.min(bytes.len()).max(1);
        let room = decoder.room();
        assert!(room.len() >= PIECE);
        room[..count].copy_from_slice(&bytes[..count]);
        decoder.filled(count);
        bytes = &bytes[count..];
        loop {
            match decoder.advance() {
                Ok(Some(item)) => items.push(format!("{item:?}")),
                Ok(None) => break,
                Err(Garbage) => items.push("garbage".to_owned()),
            }
        }
    }
    items
}

fn frames() -> Vec<u8> {
    let mut bytes = Vec::new();
    put_hello(&mut bytes, 7);
    Frame { kind: Kind::Data, stream: stream::ERROR, session: 9, payload: b"abc" }.put(&mut bytes);
    Frame::new(Kind::Hangup, 9, &[]).put(&mut bytes);
    Frame::new(Kind::Data, 1, &vec![0xff; MAX_PAYLOAD]).put(&mut bytes);
    bytes
}

#[test]
fn frames_come_in_any_pieces() {
    let whole = decode(&mut Decoder::default(), &frames(), usize::MAX >> 1 & 0xffff);
    assert_eq!(whole.len(), 4);
    assert!(whole[0].contains("nonce: 7") && whole[2].contains("Hangup"), "{:?}", &whole[..3]);
    for piece in [1, 5, 13, 4096] {
        assert_eq!(decode(&mut Decoder::default(), &frames(), piece), whole);
    }
}

#[test]
fn a_greeting_is_found_behind_anything() {
    let old = Frame::new(Kind::Data, 1, &[0; 99]);
    let mut half = Vec::new();
    old.put(&mut half);
    half.truncate(50);
    // The beginning of a greeting that has no end, too.
    let mut torn = Vec::new();
    put_hello(&mut torn, 1);
    torn.truncate(20);
    for before in [&[][..], &[0xff], &half, &torn, b"\xff\xff\x00guesthous"] {
        let items = decode(&mut Decoder::default(), &[before, &frames()].concat(), 7);
        let expected = decode(&mut Decoder::default(), &frames(), 7);
        assert_eq!(items.get(items.len() - 4..), Some(&expected[..]), "{before:?}");
    }
}

#[test]
fn what_is_no_frame_is_skipped_to_the_next_greeting() {
    let mut bytes = Vec::new();
    Frame { kind: Kind::Data, stream: 0, session: 0, payload: &[] }.put(&mut bytes);
    bytes.extend([0; 12]);
    bytes.extend(frames());
    let items = decode(&mut Decoder::synced(), &bytes, 1000);
    assert_eq!(items.len(), 6);
    assert_eq!(items[1], "garbage");
    // A length beyond the limit is none.
    let mut long = Frame::header(Kind::Data, 0, 0, MAX_PAYLOAD + 1).to_vec();
    long.extend([0; 100]);
    assert_eq!(decode(&mut Decoder::synced(), &long, 1000), ["garbage"]);
}

#[test]
fn a_start_is_what_it_was() {
    let start = Start {
        argv: vec![b"sh".to_vec(), vec![], b"a b\n\xff".to_vec()],
        env: vec![b"A=1".to_vec()],
        cwd: b"/tmp".to_vec(),
        user: b"www:0".to_vec(),
        tty: Some(Window { rows: 24, columns: 80 }),
        input: true,
        builtin: false,
    };
    assert_eq!(Start::decode(&start.encode().unwrap()), Ok(start.clone()));
    let none = Start { argv: Vec::new(), ..start.clone() };
    assert_eq!(Start::decode(&none.encode().unwrap()), Err(Malformed));
    let zero = Start { argv: vec![vec![0]], ..start.clone() };
    assert_eq!(Start::decode(&zero.encode().unwrap()), Err(Malformed));
    assert_eq!(Start { argv: vec![vec![b'a'; MAX_PAYLOAD]], ..start }.encode(), None);
}

#[test]
fn an_exit_has_a_shells_status_and_a_text_of_one_line() {
    for (exit, status) in
        [(Exit::Code(7), 7), (Exit::Signal(9), 137), (Exit::Failed(127, "no \u{e9}".into()), 127)]
    {
        assert_eq!(exit.status(), status);
        assert_eq!(Exit::decode(&exit.encode()), Ok(exit));
    }
    let lies = Exit::decode(b"\x02\x7ea\x1b[2J\nb").unwrap();
    assert_eq!(lies, Exit::Failed(126, "a [2J b".into()));
    assert_eq!(Exit::decode(&[&[2, 0][..], &[b'a'; MAX_TEXT + 1]].concat()), Err(Malformed));
    let requests = [
        Request::Ping,
        Request::Reboot,
        Request::Hostname(b"a".to_vec()),
        Request::Time(u64::MAX),
        Request::Random([7; 32]),
        Request::Card([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]),
    ];
    for request in requests {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    // As many kinds are known as are said to be.
    let known = |kind: u8| (0..64).any(|len| Request::decode(&[vec![kind], vec![1; len]].concat()).is_ok());
    assert_eq!((0..=u8::MAX).filter(|&kind| known(kind)).count(), usize::from(Request::KINDS));
    assert!(Request::decode(&[5; 32]).is_err());
    assert!(Request::decode(&[6; 12]).is_err() && Request::decode(&[6; 14]).is_err());
    assert!(Request::decode(&Request::Hostname(vec![b'a'; 65]).encode()).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_in_any_pieces(bytes in prop::collection::vec(prop_oneof![0u8..10, Just(0u8), any::<u8>()], 0..200), piece in 1usize..50) {
        let greeted = [frames(), bytes.clone()].concat();
        prop_assert_eq!(decode(&mut Decoder::default(), &greeted, piece).len(), decode(&mut Decoder::default(), &greeted, 4000).len());
        let _ = (Start::decode(&bytes), Exit::decode(&bytes), Request::decode(&bytes));
    }
}
