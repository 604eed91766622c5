use super::*;
use crate::protocol::{WINDOW, stream};

/// A guest that says what it is told to.
struct Liar(Arc<Host>);

const SOON: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);

impl Liar {
    /// One that has answered the greeting.
    fn new() -> Self {
        let liar = Self(Arc::default());
        liar.0.opened(true);
        liar.answer();
        assert!(liar.0.is_up());
        liar
    }

    fn answer(&self) {
        let mut data = [0; 4096];
        let count = self.0.read(&mut data);
        let mut decoder = Decoder::default();
        decoder.room()[..count].copy_from_slice(&data[..count]);
        decoder.filled(count);
        let Ok(Some(Item::Hello(hello))) = decoder.advance() else { panic!("no greeting") };
        let mut bytes = b"what was before".to_vec();
        put_hello(&mut bytes, hello.nonce);
        self.0.write(&bytes);
    }

    fn say(&self, kind: Kind, stream: u8, session: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        Frame { kind, stream, session, payload }.put(&mut bytes);
        self.0.write(&bytes);
    }

    fn start(&self) -> Session {
        self.0.start(&Start { argv: vec![b"x".to_vec()], ..Start::default() }, LONG).unwrap()
    }
}

#[test]
fn without_an_agent_nothing_is_waited_for_long() {
    let host = Arc::<Host>::default();
    assert!(matches!(host.request(&Request::Ping, SOON), Err(AgentError::Silent)));
    host.opened(true);
    // It is there, and says nothing, or nonsense.
    host.write(&[0; 100_000]);
    assert!(matches!(host.request(&Request::Ping, SOON), Err(AgentError::Silent)));
    let liar = Liar::new();
    assert!(matches!(liar.0.request(&Request::Ping, SOON), Err(AgentError::Late)));
    liar.0.opened(false);
    assert!(matches!(liar.0.request(&Request::Ping, SOON), Err(AgentError::Silent)));
}

#[test]
fn a_greeting_counts_if_it_answers_ours() {
    let host = Arc::<Host>::default();
    host.opened(true);
    let mut bytes = Vec::new();
    put_hello(&mut bytes, 0);
    host.write(&bytes);
    assert!(!host.is_up());
    Liar(host.clone()).answer();
    assert!(host.is_up());
    // One more than there should be: from the beginning.
    host.write(&bytes);
    assert!(!host.is_up());
    Liar(host.clone()).answer();
    assert!(host.is_up());
}

#[test]
fn sessions_get_what_is_theirs_and_no_more_than_they_allow() {
    let liar = Liar::new();
    let (a, b) = (liar.start(), liar.start());
    liar.say(Kind::Data, stream::OUTPUT, 2, b"two");
    liar.say(Kind::Data, stream::ERROR, 1, b"one");
    liar.say(Kind::Data, stream::OUTPUT, 3, b"nobody's");
    liar.say(Kind::Exit, 0, 2, &Exit::Signal(9).encode());
    liar.say(Kind::Data, stream::OUTPUT, 2, b"late");
    assert_eq!(b.next(None), Some(Event::Data(stream::OUTPUT, b"two".to_vec())));
    assert_eq!(b.next(None), Some(Event::Exit(Exit::Signal(9))));
    assert_eq!(b.next(None), None);
    assert_eq!(a.next(None), Some(Event::Data(stream::ERROR, b"one".to_vec())));
    let piece = vec![0; 1 << 16];
    for _ in 0..WINDOW >> 16 {
        liar.say(Kind::Data, stream::OUTPUT, 1, &piece);
    }
    liar.say(Kind::Data, stream::OUTPUT, 1, b"x");
    let mut len = 0;
    loop {
        match a.next(Some(Instant::now() + LONG)) {
            Some(Event::Data(_, data)) => len += data.len(),
            other => break assert_eq!(other, Some(Event::Lost)),
        }
    }
    assert_eq!(len, WINDOW as usize);
}

#[test]
fn small_lies_do_not_pile_up() {
    let liar = Liar::new();
    let session = liar.start();
    for _ in 0..100_000 {
        liar.say(Kind::Data, stream::OUTPUT, 1, b"a");
        liar.say(Kind::Data, stream::ERROR, 1, b"b");
        liar.say(Kind::Credit, stream::INPUT, 1, &[0; 4]);
        liar.say(Kind::End, stream::ERROR, 1, &[]);
    }
    liar.say(Kind::Exit, 0, 1, &Exit::Code(0).encode());
    let mut count = 0;
    while session.next(None).is_some() {
        count += 1;
    }
    assert!(count < 1000, "{count} events");
}

#[test]
fn nonsense_ends_sessions_and_another_greeting_follows() {
    for nonsense in [&[0u8; 12][..], b"\xff\x00guest", &[2, 9, 1, 1]] {
        let liar = Liar::new();
        let session = liar.start();
        let mut data = [0; 4096];
        while liar.0.read(&mut data) > 0 {}
        liar.0.write(nonsense);
        liar.0.write(&[0xee; 64]);
        assert_eq!(session.next(Some(Instant::now() + LONG)), Some(Event::Lost));
        liar.answer();
        assert!(liar.0.is_up());
    }
    // Messages that are none end one session alone.
    let liar = Liar::new();
    let (a, b) = (liar.start(), liar.start());
    liar.say(Kind::Exit, 0, 1, &[9]);
    assert_eq!(a.next(None), Some(Event::Lost));
    assert_eq!(b.next(Some(Instant::now() + SOON)), None);
}

#[test]
fn there_are_so_many_sessions() {
    let liar = Liar::new();
    let sessions: Vec<_> = (0..MAX_SESSIONS).map(|_| liar.start()).collect();
    let start = Start { argv: vec![b"x".to_vec()], ..Start::default() };
    assert!(matches!(liar.0.start(&start, LONG), Err(AgentError::Busy)));
    drop(sessions);
    liar.start();
    let long = Start { argv: vec![vec![b'a'; 300_000]], ..Start::default() };
    assert!(matches!(liar.0.start(&long, LONG), Err(AgentError::Long)));
}

#[test]
fn an_agent_that_is_in_the_midst_of_a_frame_is_greeted_behind_its_end() {
    for taken in [0, 1, 11, 12, 13, 5000, 7011, 7012] {
        let liar = Liar::new();
        let session = liar.start();
        let mut data = vec![0; 1 << 16];
        while liar.0.read(&mut data) > 0 {}
        session.send(&Frame { stream: stream::INPUT, ..Frame::new(Kind::Data, 0, &[7; 7000]) }).unwrap();
        session.send(&Frame { stream: stream::INPUT, ..Frame::new(Kind::Data, 0, &[8; 10]) }).unwrap();
        let mut decoder = Decoder::synced();
        let mut pass = |host: &Host, most: usize| {
            let count = host.read(&mut data[..most]);
            decoder.put(&data[..count]);
            let mut items = Vec::new();
            while let Some(item) = decoder.advance().unwrap() {
                items.push(match item {
                    Item::Frame(frame) => frame.payload.to_vec(),
                    Item::Hello(_) => b"hello".to_vec(),
                });
            }
            items
        };
        let whole = if taken == 7012 { vec![vec![7; 7000]] } else { vec![] };
        assert_eq!(pass(&liar.0, taken), whole, "{taken}");
        // In another process, and in one more, which comes before the guest has taken anything.
        let second = Liar(Arc::default());
        second.0.resumed(&liar.0.unfinished());
        let third = Liar(Arc::default());
        third.0.resumed(&second.0.unfinished());
        assert!(!third.0.is_up());
        let expected = if taken % 7012 == 0 { vec![] } else { vec![vec![7; 7000]] };
        assert_eq!(pass(&third.0, 1 << 16), [expected, vec![b"hello".to_vec()]].concat(), "{taken}");
    }
}
