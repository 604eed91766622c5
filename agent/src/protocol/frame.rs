//! A frame: kind, stream, two bytes of zero, session, length of what follows; all numbers little-endian.

/// Most bytes behind a header.
pub const MAX_PAYLOAD: usize = 256 << 10;
/// Bytes of a header.
pub(super) const HEADER: usize = 12;
/// Of this protocol.
pub const VERSION: u32 = 1;
/// How a greeting begins. No frame begins so.
pub(super) const MAGIC: [u8; 16] = *b"\xff\x00guesthouse\r\n\x1a\xfe";
/// Bytes of a greeting.
pub const HELLO: usize = 32;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the guest: a program is to run, a [`Start`](super::Start).
    Start = 1,
    /// Both ways: bytes of a stream.
    Data = 2,
    /// Both ways: a stream has ended.
    End = 3,
    /// Both ways, against a stream's direction: so many bytes more may come, 4 bytes.
    Credit = 4,
    /// To the guest: a signal for the program, 4 bytes.
    Signal = 5,
    /// To the guest: the terminal's size, a [`Window`](super::Window).
    Resize = 6,
    /// To the guest: nobody is there any more for the session. It is not answered.
    Hangup = 7,
    /// To the guest: something that is no program, a [`Request`](super::Request).
    Request = 8,
    /// To the host: the session's last word, an [`Exit`](super::Exit).
    Exit = 9,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::*;
        [Start, Data, End, Credit, Signal, Resize, Hangup, Request, Exit]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Which stream it is about, if any.
    pub stream: u8,
    /// Which session it belongs to.
    pub session: u32,
    /// The rest, at most [`MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// A frame that is not about a stream.
    pub fn new(kind: Kind, session: u32, payload: &'a [u8]) -> Self {
        Self { kind, stream: 0, session, payload }
    }

    /// The header for a payload of `len` bytes.
    pub fn header(kind: Kind, stream: u8, session: u32, len: usize) -> [u8; HEADER] {
        let ([a, b, c, d], [e, f, g, h]) = (session.to_le_bytes(), (len as u32).to_le_bytes());
        [kind as u8, stream, 0, 0, a, b, c, d, e, f, g, h]
    }

    /// Appends it.
    pub fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&Self::header(self.kind, self.stream, self.session, self.payload.len()));
        to.extend_from_slice(self.payload);
    }

    /// The four bytes that credits and signals have.
    pub fn number(&self) -> Option<u32> {
        Some(u32::from_le_bytes(*self.payload.first_chunk()?))
    }
}

/// What a header says: all but the payload, and its length. None if it is no header.
pub(super) fn parse(header: &[u8; HEADER]) -> Option<(Kind, u8, u32, usize)> {
    let [kind, stream, 0, 0, a, b, c, d, e, f, g, h] = *header else { return None };
    let len = usize::try_from(u32::from_le_bytes([e, f, g, h])).ok().filter(|&len| len <= MAX_PAYLOAD)?;
    Some((Kind::from_byte(kind)?, stream, u32::from_le_bytes([a, b, c, d]), len))
}

/// The beginning of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The sender's [`VERSION`].
    pub version: u32,
    /// A number that no earlier connection had; the guest's is that of the host.
    pub nonce: u64,
}

impl Hello {
    /// Nothing if the beginning of a greeting was torn from its rest.
    pub(super) fn parse(bytes: &[u8; HELLO]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (version, rest) = rest.split_first_chunk()?;
        let (sum, rest) = rest.split_first_chunk()?;
        let nonce = u64::from_le_bytes(*rest.first_chunk()?);
        let hello = Self { version: u32::from_le_bytes(*version), nonce };
        (u32::from_le_bytes(*sum) == hello.sum()).then_some(hello)
    }

    fn sum(self) -> u32 {
        !(self.version ^ self.nonce as u32 ^ (self.nonce >> 32) as u32)
    }
}

/// Appends a greeting in our version.
pub fn put_hello(to: &mut Vec<u8>, nonce: u64) {
    let hello = Hello { version: VERSION, nonce };
    to.extend_from_slice(&MAGIC);
    to.extend_from_slice(&hello.version.to_le_bytes());
    to.extend_from_slice(&hello.sum().to_le_bytes());
    to.extend_from_slice(&hello.nonce.to_le_bytes());
}
