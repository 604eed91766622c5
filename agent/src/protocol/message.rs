//! What frames carry: numbers little-endian, texts behind their lengths.

use super::frame::MAX_PAYLOAD;

/// Most bytes of a message for people.
pub const MAX_TEXT: usize = 1024;

/// A message that is not what its frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl Window {
    /// As bytes.
    pub fn encode(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.rows.to_le_bytes(), self.columns.to_le_bytes());
        [a, b, c, d]
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are others.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let [a, b, c, d] = *bytes else { return Err(Malformed) };
        Ok(Self { rows: u16::from_le_bytes([a, b]), columns: u16::from_le_bytes([c, d]) })
    }
}

/// A program that is to run in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// The program and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=VALUE`, in addition to what every program gets.
    pub env: Vec<Vec<u8>>,
    /// Its folder; empty for the user's home.
    pub cwd: Vec<u8>,
    /// `USER[:GROUP]`, names or numbers; empty for the agent's own.
    pub user: Vec<u8>,
    /// It gets a terminal of this size instead of pipes.
    pub tty: Option<Window>,
    /// Somebody will send input.
    pub input: bool,
    /// The program is the agent's own that has this name.
    pub builtin: bool,
}

/// Bits of [`Start`].
mod flag {
    pub const TTY: u8 = 1;
    pub const INPUT: u8 = 2;
    pub const BUILTIN: u8 = 4;
}

impl Start {
    /// As bytes; none if they are too many for a frame.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let bit = |yes: bool, bit: u8| if yes { bit } else { 0 };
        let mut bytes = vec![
            bit(self.tty.is_some(), flag::TTY)
                | bit(self.input, flag::INPUT)
                | bit(self.builtin, flag::BUILTIN),
        ];
        bytes.extend(self.tty.unwrap_or(Window { rows: 0, columns: 0 }).encode());
        for text in [&self.user, &self.cwd] {
            put(&mut bytes, text);
        }
        for list in [&self.argv, &self.env] {
            bytes.extend((list.len() as u32).to_le_bytes());
            list.iter().for_each(|text| put(&mut bytes, text));
        }
        (bytes.len() <= MAX_PAYLOAD).then_some(bytes)
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are others, there is no program, or a text has a zero in it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let [flags, window @ ..] = take(&mut rest, 5)? else { return Err(Malformed) };
        let window = Window::decode(window)?;
        let has = |bit: u8| flags & bit != 0;
        let (user, cwd) = (text(&mut rest)?, text(&mut rest)?);
        let (argv, env) = (list(&mut rest)?, list(&mut rest)?);
        if !rest.is_empty() || argv.is_empty() {
            return Err(Malformed);
        }
        let tty = has(flag::TTY).then_some(window);
        Ok(Self { argv, env, cwd, user, tty, input: has(flag::INPUT), builtin: has(flag::BUILTIN) })
    }
}

fn put(to: &mut Vec<u8>, text: &[u8]) {
    to.extend((text.len() as u32).to_le_bytes());
    to.extend(text);
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(count).ok_or(Malformed)?;
    *rest = left;
    Ok(taken)
}

fn number(rest: &mut &[u8]) -> Result<usize, Malformed> {
    let bytes = take(rest, 4)?.first_chunk().ok_or(Malformed)?;
    usize::try_from(u32::from_le_bytes(*bytes)).map_err(|_| Malformed)
}

fn text(rest: &mut &[u8]) -> Result<Vec<u8>, Malformed> {
    let len = number(rest)?;
    let text = take(rest, len)?;
    // Whatever it is for, it ends in a zero there.
    if text.contains(&0) { Err(Malformed) } else { Ok(text.to_vec()) }
}

fn list(rest: &mut &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let count = number(rest)?;
    // Every text has a length, so a count that lies is found out before long.
    (0..count).map(|_| text(rest)).collect()
}

/// Something the agent does itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To say that it is there.
    Ping,
    /// The system's end, as an administrator would ask for it.
    PowerOff,
    /// The same, and another start.
    Reboot,
    /// Another name of the system.
    Hostname(Vec<u8>),
    /// Another time: nanoseconds since 1970.
    Time(u64),
    /// What its random numbers come from as well from now on: somebody else may have what they came from before.
    Random([u8; 32]),
    /// The network card that has the first address has the second one from now on: its device does, whose driver has read
    /// the other one when it began.
    Card([u8; 6], [u8; 6]),
}

impl Request {
    /// How many kinds there are: guests whose agent knows fewer are built again.
    pub const KINDS: u8 = 7;

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ping => vec![0],
            Self::PowerOff => vec![1],
            Self::Reboot => vec![2],
            Self::Hostname(name) => [&[3], &name[..]].concat(),
            Self::Time(time) => [&[4], &time.to_le_bytes()[..]].concat(),
            Self::Random(seed) => [&[5], &seed[..]].concat(),
            Self::Card(from, to) => [&[6], &from[..], to].concat(),
        }
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are others.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(match *bytes {
            [0] => Self::Ping,
            [1] => Self::PowerOff,
            [2] => Self::Reboot,
            // What Linux takes.
            [3, ref name @ ..] if (1..=64).contains(&name.len()) && !name.contains(&0) => {
                Self::Hostname(name.to_vec())
            }
            [4, a, b, c, d, e, f, g, h] => Self::Time(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            [5, ref seed @ ..] => Self::Random(seed.try_into().map_err(|_| Malformed)?),
            [6, a, b, c, d, e, f, ref to @ ..] => {
                Self::Card([a, b, c, d, e, f], to.try_into().map_err(|_| Malformed)?)
            }
            _ => return Err(Malformed),
        })
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The program ended with this status.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
    /// There was none: a status for whoever asked, and why. At most [`MAX_TEXT`] bytes.
    Failed(u8, String),
}

impl Exit {
    /// As a shell has it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Code(code) | Self::Failed(code, _) => *code,
            Self::Signal(signal) => 128 | signal & 0x7f,
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Code(code) => vec![0, *code],
            Self::Signal(signal) => vec![1, *signal],
            Self::Failed(code, text) => {
                [&[2, *code], text.as_bytes().get(..MAX_TEXT).unwrap_or(text.as_bytes())].concat()
            }
        }
    }

    /// From bytes. Of a text only what can be shown on a line is kept.
    ///
    /// # Errors
    /// They are others.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(match *bytes {
            [0, code] => Self::Code(code),
            [1, signal] => Self::Signal(signal),
            [2, code, ref text @ ..] if text.len() <= MAX_TEXT => {
                let text = String::from_utf8_lossy(text);
                Self::Failed(code, text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
            }
            _ => return Err(Malformed),
        })
    }
}
