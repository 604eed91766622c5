//! Takes a tar stream apart.

use std::io::{self, Read};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::MAX_PATH;
use super::format::{BLOCK, Entry, Node, kind, number, padding, text, time};

/// Most bytes of what belongs to an entry's header: two paths and some numbers.
const MAX_MORE: u64 = 4 * MAX_PATH as u64;

/// A stream, entry by entry.
pub struct Reader<R> {
    input: R,
    /// Data of the entry that nobody has read.
    left: u64,
    /// What fills its last block.
    padding: u64,
    ended: bool,
}

/// What comes before an entry and is about it.
#[derive(Default)]
struct More {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<SystemTime>,
}

fn wrong(fact: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is no tar stream: {fact}"))
}

impl<R: Read> Reader<R> {
    /// A stream from its beginning.
    pub fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, ended: false }
    }

    /// The next entry; what was not read of the last one's data is skipped. Nothing at the end, which has to be there.
    ///
    /// # Errors
    /// It is no tar stream, or it cannot be read.
    pub fn advance(&mut self) -> io::Result<Option<Entry>> {
        let mut more = More::default();
        while !self.ended {
            self.skip()?;
            let mut block = [0; BLOCK];
            self.input.read_exact(&mut block)?;
            if block == [0; BLOCK] {
                self.ended = true;
                // Whoever writes it is not to find a closed pipe.
                io::copy(&mut self.input, &mut io::sink())?;
                break;
            }
            let field = |from: usize, len: usize| block.get(from..from + len).unwrap_or_default();
            let blank = field(148, 8).len() as u32 * u32::from(b' ');
            let bytes = |part: &[u8]| part.iter().map(|&byte| u32::from(byte)).sum::<u32>();
            if number(field(148, 8)) != Some(u64::from(bytes(&block) - bytes(field(148, 8)) + blank)) {
                return Err(wrong("a header's checksum is another"));
            }
            let size = number(field(124, 12)).ok_or_else(|| wrong("a size is no number"))?;
            let kind = block[156];
            if matches!(kind, kind::PAX | kind::GLOBAL | kind::LONG_NAME | kind::LONG_LINK) {
                let data = self.short(size)?;
                match kind {
                    kind::PAX => more.records(&data)?,
                    kind::LONG_NAME => more.path = Some(text(&data).to_vec()),
                    kind::LONG_LINK => more.target = Some(text(&data).to_vec()),
                    _ => {}
                }
                continue;
            }
            return self.entry(&block, size, more).map(Some);
        }
        Ok(None)
    }

    fn entry(&mut self, block: &[u8; BLOCK], size: u64, more: More) -> io::Result<Entry> {
        let field = |from: usize, len: usize| block.get(from..from + len).unwrap_or_default();
        let path = more.path.unwrap_or_else(|| match (text(field(345, 155)), text(field(0, 100))) {
            (prefix @ [_, ..], name) if field(257, 6) == b"ustar\0" => [prefix, b"/", name].concat(),
            (_, name) => name.to_vec(),
        });
        let target = more.target.unwrap_or_else(|| text(field(157, 100)).to_vec());
        if path.len() > MAX_PATH || target.len() > MAX_PATH {
            return Err(wrong("a path is too long"));
        }
        let size = more.size.unwrap_or(size);
        let node = match block[156] {
            // An old archive's folders are files whose names say it.
            0 | kind::FILE | b'7' if !path.ends_with(b"/") => Node::File(size),
            0 | kind::FILE | kind::FOLDER => Node::Folder,
            kind::LINK => Node::Link(target),
            kind::HARD => Node::Hard(target),
            _ => Node::Other,
        };
        // Links and folders have no data, whatever they say of its size.
        (self.left, self.padding) = match node {
            Node::File(_) | Node::Other => (size, padding(size)),
            _ => (0, 0),
        };
        let seconds = number(field(136, 12)).unwrap_or(0);
        let modified = more.modified.or_else(|| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        let mode = number(field(100, 8)).unwrap_or(0) as u32 & 0o7777;
        Ok(Entry { path, node, mode, modified: modified.unwrap_or(UNIX_EPOCH) })
    }

    /// Fills `data` from the entry's; 0 at their end.
    ///
    /// # Errors
    /// The stream ends before, or it cannot be read.
    pub fn data(&mut self, data: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
        let Some(room) = data.get_mut(..most).filter(|room| !room.is_empty()) else { return Ok(0) };
        let count = loop {
            match self.input.read(room) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }

    fn skip(&mut self) -> io::Result<()> {
        let count = self.left.checked_add(self.padding).ok_or_else(|| wrong("a size is no size"))?;
        (self.left, self.padding) = (0, 0);
        if io::copy(&mut self.input.by_ref().take(count), &mut io::sink())? < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Data that belongs to a header.
    fn short(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_MORE {
            return Err(wrong("a header is too long"));
        }
        let mut data = vec![0; size as usize];
        self.input.read_exact(&mut data)?;
        self.padding = padding(size);
        Ok(data)
    }
}

impl More {
    /// Reads pax records: length, blank, name, `=`, value, newline.
    fn records(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let split = || {
                let blank = data.iter().position(|&byte| byte == b' ')?;
                let len: usize = std::str::from_utf8(data.get(..blank)?).ok()?.parse().ok()?;
                let (record, rest) = data.split_at_checked(len)?;
                let record = record.get(blank + 1..)?.strip_suffix(b"\n")?;
                let equals = record.iter().position(|&byte| byte == b'=')?;
                Some((record.get(..equals)?, record.get(equals + 1..)?, rest))
            };
            let (name, value, rest) = split().ok_or_else(|| wrong("a record is none"))?;
            match name {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"mtime" => self.modified = time(value),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(|| wrong("a size is no number"))?);
                }
                _ => {}
            }
            data = rest;
        }
        Ok(())
    }
}
