//! The blocks of a tar stream.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a block.
pub const BLOCK: usize = 512;
/// Bytes of data that one block can say.
const MAX_OCTAL: u64 = 0o77_777_777_777;

/// Types of entries.
pub mod kind {
    pub const FILE: u8 = b'0';
    pub const HARD: u8 = b'1';
    pub const LINK: u8 = b'2';
    pub const FOLDER: u8 = b'5';
    pub const PAX: u8 = b'x';
    pub const GLOBAL: u8 = b'g';
    pub const LONG_NAME: u8 = b'L';
    pub const LONG_LINK: u8 = b'K';
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A file of so many bytes, which follow.
    File(u64),
    /// A folder.
    Folder,
    /// A symbolic link to this.
    Link(Vec<u8>),
    /// Another name for this earlier entry.
    Hard(Vec<u8>),
    /// Something that is not packed or unpacked.
    Other,
}

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path, which may be anything.
    pub path: Vec<u8>,
    /// What it is.
    pub node: Node,
    /// Permissions, 12 bits.
    pub mode: u32,
    /// When it was changed last.
    pub modified: SystemTime,
}

impl Entry {
    /// Appends the blocks before the entry's data.
    pub fn put(&self, to: &mut Vec<u8>) {
        let (kind, size, target) = match &self.node {
            Node::File(size) => (kind::FILE, *size, &[][..]),
            Node::Folder | Node::Other => (kind::FOLDER, 0, &[][..]),
            Node::Link(target) => (kind::LINK, 0, &target[..]),
            Node::Hard(target) => (kind::HARD, 0, &target[..]),
        };
        let (seconds, nanoseconds) = timestamp(self.modified);
        let mut more = Vec::new();
        if nanoseconds != 0 || seconds < 0 {
            // A fraction counts upward, also before 1970.
            let (sign, whole, fraction) = match (seconds, nanoseconds) {
                (..0, 1..) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
                (..0, _) => ("-", seconds.unsigned_abs(), 0),
                _ => ("", seconds.unsigned_abs(), nanoseconds),
            };
            record(&mut more, "mtime", format!("{sign}{whole}.{fraction:09}").as_bytes());
        }
        if self.path.len() > 100 {
            record(&mut more, "path", &self.path);
        }
        if target.len() > 100 {
            record(&mut more, "linkpath", target);
        }
        if size > MAX_OCTAL {
            record(&mut more, "size", size.to_string().as_bytes());
        }
        if !more.is_empty() {
            header(to, b"pax", kind::PAX, more.len() as u64, &[], 0o644, 0);
            to.extend_from_slice(&more);
            pad(to, more.len() as u64);
        }
        header(to, &self.path, kind, size, target, self.mode, seconds.max(0) as u64);
    }
}

/// Appends what fills the last block behind so many bytes.
pub fn pad(to: &mut Vec<u8>, len: u64) {
    to.resize(to.len() + padding(len) as usize, 0);
}

/// Bytes that fill the last block.
pub fn padding(len: u64) -> u64 {
    len.wrapping_neg() % BLOCK as u64
}

/// A pax record: its own length, its name, its value.
fn record(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    let rest = name.len() + value.len() + 3;
    let mut len = rest;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    to.extend(format!("{len} {name}=").bytes());
    to.extend_from_slice(value);
    to.push(b'\n');
}

fn header(to: &mut Vec<u8>, path: &[u8], kind: u8, size: u64, target: &[u8], mode: u32, seconds: u64) {
    let mut block = [0u8; BLOCK];
    let mut set = |at: usize, bytes: &[u8]| {
        for (to, from) in block.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    set(0, path.get(..100).unwrap_or(path));
    set(100, format!("{:07o}", mode & 0o7777).as_bytes());
    set(108, b"0000000");
    set(116, b"0000000");
    set(124, format!("{:011o}", size.min(MAX_OCTAL)).as_bytes());
    set(136, format!("{:011o}", seconds.min(MAX_OCTAL)).as_bytes());
    set(148, b"        ");
    set(156, &[kind]);
    set(157, target.get(..100).unwrap_or(target));
    set(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
    to.extend_from_slice(&block);
}

/// Seconds since 1970 and nanoseconds after them.
fn timestamp(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => (-(before.as_secs() as i64), 0),
                nanoseconds => (-(before.as_secs() as i64) - 1, 1_000_000_000 - nanoseconds),
            }
        }
    }
}

/// A number of a header: octal, or binary if its first bit is set.
pub fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        let (high, low) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
        return high
            .iter()
            .all(|&byte| byte == 0)
            .then(|| u64::from_be_bytes(*low.first_chunk().unwrap_or(&[0; 8])));
    }
    let end = field.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(field.len());
    let start = field.iter().position(|&byte| byte != b' ').unwrap_or(0);
    let digits = std::str::from_utf8(field.get(start..end.max(start))?).ok()?;
    let digits = digits.split([' ', '\0']).next().unwrap_or_default();
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// A text of a header, which ends in a zero or with its field.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A time of a pax record: seconds with a fraction.
pub fn time(text: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?;
    let (sign, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanoseconds: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let since = Duration::new(whole.parse().ok()?, nanoseconds.parse().ok()?);
    if sign { UNIX_EPOCH.checked_sub(since) } else { UNIX_EPOCH.checked_add(since) }
}
