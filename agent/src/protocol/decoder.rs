//! Bytes become frames, in whatever pieces they come.

use super::frame::{Frame, HEADER, HELLO, Hello, MAGIC, MAX_PAYLOAD, parse};

/// Least room for bytes that come.
pub const PIECE: usize = 64 << 10;

/// What the bytes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A greeting.
    Hello(Hello),
    /// A frame.
    Frame(Frame<'a>),
}

/// What was sent is no frame. All that follows is skipped, up to the next greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbage;

/// Takes bytes apart. Keeps a frame and a piece at most.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// What comes next is the beginning of a frame, or of a greeting.
    synced: bool,
}

impl Decoder {
    /// One that expects no greeting first.
    pub fn synced() -> Self {
        Self { synced: true, ..Self::default() }
    }

    /// Puts bytes there that have come already, as if they came now.
    pub fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let (now, rest) = bytes.split_at(room.len().min(bytes.len()));
            if let Some(room) = room.get_mut(..now.len()) {
                room.copy_from_slice(now);
            }
            bytes = rest;
            self.filled(now.len());
        }
    }

    /// Where bytes that come are to be put: [`PIECE`] at least. Then [`filled`](Self::filled) is to be called, and
    /// [`advance`](Self::advance) until it has no more.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.len() < self.end + PIECE {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let least = self.end + PIECE;
            if self.buffer.len() < least {
                self.buffer.resize(least.next_power_of_two().min(least.max(MAX_PAYLOAD + HEADER + PIECE)), 0);
            }
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes were put there.
    pub fn filled(&mut self, count: usize) {
        self.end = self.buffer.len().min(self.end.saturating_add(count));
    }

    /// Forgets what has come, and waits for a greeting.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The next item, if it is there as a whole.
    ///
    /// # Errors
    /// There is none: skips all to the next greeting.
    pub fn advance(&mut self) -> Result<Option<Item<'_>>, Garbage> {
        if !self.synced && !self.find_greeting() {
            return Ok(None);
        }
        let pending = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some(first) = pending.first() else { return Ok(None) };
        if *first == MAGIC[0] {
            let Some(bytes) = pending.first_chunk::<HELLO>() else {
                return if MAGIC.iter().zip(pending).all(|(a, b)| a == b) { Ok(None) } else { self.lose() };
            };
            let Some(hello) = Hello::parse(bytes) else { return self.lose() };
            self.start += HELLO;
            self.synced = true;
            return Ok(Some(Item::Hello(hello)));
        }
        let Some(header) = pending.first_chunk::<HEADER>() else { return Ok(None) };
        let Some((kind, stream, session, len)) = parse(header) else { return self.lose() };
        let from = self.start + HEADER;
        if self.end - from < len {
            return Ok(None);
        }
        self.start = from + len;
        let payload = self.buffer.get(from..from + len).unwrap_or_default();
        Ok(Some(Item::Frame(Frame { kind, stream, session, payload })))
    }

    fn lose(&mut self) -> Result<Option<Item<'_>>, Garbage> {
        self.synced = false;
        // Not the same place again.
        self.start += 1;
        Err(Garbage)
    }

    /// Skips all before a greeting; false if there is none as a whole.
    fn find_greeting(&mut self) -> bool {
        let pending = self.buffer.get(self.start..self.end).unwrap_or_default();
        let at = pending.windows(MAGIC.len()).position(|window| window == MAGIC);
        // What the end holds may be the beginning of one.
        self.start += at.unwrap_or((pending.len() + 1).saturating_sub(MAGIC.len()));
        at.is_some() && self.end - self.start >= HELLO
    }
}
