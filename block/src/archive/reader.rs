//! Takes an archive apart, member by member.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::sparse;
use super::{BLOCK, Kind, MAX_PATH, Member, Meta, Piece, Special, shown, wrong};

/// Most bytes of what belongs to a member's header: paths, and attributes of 64 KiB each.
const MAX_MORE: u64 = 1 << 20;
/// Bytes that are copied at once.
const CHUNK: usize = 64 << 10;

/// An archive that is read from its beginning to its end.
pub struct Reader<R> {
    input: R,
    /// Stored bytes of the member that nobody has read.
    left: u64,
    /// What fills its last block.
    padding: u64,
    ended: bool,
}

/// What comes before a member and is about it.
#[derive(Default)]
struct More {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<u64>,
    attributes: Vec<(String, Vec<u8>)>,
    /// Size of a sparse file, whose map comes first in its data.
    sparse: Option<u64>,
}

impl<R: Read> Reader<R> {
    /// An archive from its beginning.
    pub fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, ended: false }
    }

    /// The next member; what was not read of the last one's bytes is skipped. Nothing at the end, which has to be there.
    ///
    /// # Errors
    /// It is no archive, or it cannot be read.
    pub fn advance(&mut self) -> io::Result<Option<Member>> {
        let mut more = More::default();
        while !self.ended {
            self.skip()?;
            let mut block = [0; BLOCK];
            self.input.read_exact(&mut block)?;
            if block == [0; BLOCK] {
                self.ended = true;
                break;
            }
            let header = Header::from_byte_slice(&block);
            let (head, tail) = (block.get(..148).unwrap_or_default(), block.get(156..).unwrap_or_default());
            let sum = |part: &[u8]| part.iter().map(|&byte| u32::from(byte)).sum::<u32>();
            if header.cksum().ok() != Some(sum(head) + sum(tail) + 8 * u32::from(b' ')) {
                return Err(wrong("a header's checksum is another"));
            }
            let size = header.entry_size().map_err(|_| wrong("a size is no number"))?;
            match header.entry_type() {
                EntryType::XHeader => more.records(&self.short(size)?)?,
                EntryType::GNULongName => more.path = Some(until_zero(&self.short(size)?)),
                EntryType::GNULongLink => more.target = Some(until_zero(&self.short(size)?)),
                // What holds for all members, and the archive's name.
                EntryType::XGlobalHeader => drop(self.short(size)?),
                kind if kind.as_byte() == b'V' => self.expect(size),
                _ => return self.member(header, size, more).map(Some),
            }
        }
        Ok(None)
    }

    fn member(&mut self, header: &Header, size: u64, more: More) -> io::Result<Member> {
        let path = more.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let target = more.target.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let target = target.unwrap_or_default();
        if path.len() > MAX_PATH || target.len() > MAX_PATH {
            return Err(wrong("a path is too long"));
        }
        let bad = |what: &str| wrong(format!("{} has {what}", shown(&path)));
        let size = more.size.unwrap_or(size);
        let device =
            || -> Option<(u32, u32)> { Some((header.device_major().ok()??, header.device_minor().ok()??)) };
        let device = || device().ok_or_else(|| bad("no numbers of a device"));
        let mut stored = 0;
        let kind = match header.entry_type() {
            // An old archive's folders are files whose names say it.
            EntryType::Regular | EntryType::Continuous if !path.ends_with(b"/") => {
                stored = size;
                Kind::File(size, vec![Piece { at: 0, len: size }])
            }
            EntryType::Regular | EntryType::Continuous | EntryType::Directory => Kind::Folder,
            EntryType::GNUSparse => {
                stored = size;
                let (len, pieces) = sparse::of_header(header, &mut self.input)?;
                Kind::File(len, pieces)
            }
            EntryType::Symlink => Kind::Link(target),
            EntryType::Link => Kind::Hard(target),
            EntryType::Char => {
                device().map(|(major, minor)| Kind::Special(Special::Character(major, minor)))?
            }
            EntryType::Block => device().map(|(major, minor)| Kind::Special(Special::Block(major, minor)))?,
            EntryType::Fifo => Kind::Special(Special::Fifo),
            other => return Err(bad(&format!("the unknown type {:?}", char::from(other.as_byte())))),
        };
        self.expect(stored);
        let kind = match (kind, more.sparse) {
            (Kind::File(..), Some(len)) => Kind::File(len, sparse::of_data(|| self.block())?),
            (kind, _) => kind,
        };
        if let Kind::File(len, pieces) = &kind {
            sparse::check(*len, pieces, self.left).map_err(&bad)?;
        }
        let owner = |more: Option<u64>, own: io::Result<u64>| {
            u32::try_from(more.map_or(own, Ok).unwrap_or(u64::MAX))
                .map_err(|_| bad("an owner that is no number"))
        };
        let meta = Meta {
            mode: header.mode().map_err(|_| bad("permissions that are none"))? & 0o7777,
            uid: owner(more.uid, header.uid())?,
            gid: owner(more.gid, header.gid())?,
            modified: more.modified.or(header.mtime().ok()).unwrap_or(0),
            attributes: more.attributes,
        };
        Ok(Member { path, kind, meta })
    }

    /// The next block of the member's data.
    fn block(&mut self) -> io::Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        self.left = self
            .left
            .checked_sub(BLOCK as u64)
            .ok_or_else(|| wrong("the map of a sparse file does not end"))?;
        self.input.read_exact(&mut block)?;
        Ok(block)
    }

    /// Hands the bytes of the file that was just told of to `write`, with their place in it.
    ///
    /// # Errors
    /// The archive ends before, cannot be read, or what `write` says.
    pub fn copy(
        &mut self,
        pieces: &[Piece],
        write: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        for piece in pieces {
            let mut done = 0;
            while done < piece.len {
                let most = (piece.len - done).min(CHUNK as u64).min(self.left) as usize;
                let room = buffer.get_mut(..most).unwrap_or_default();
                if room.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.input.read_exact(room)?;
                write(piece.at.saturating_add(done), room)?;
                done += most as u64;
                self.left -= most as u64;
            }
        }
        Ok(())
    }

    fn expect(&mut self, stored: u64) {
        self.left = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
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
        self.expect(size);
        self.left = 0;
        Ok(data)
    }
}

fn until_zero(text: &[u8]) -> Vec<u8> {
    text.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}

impl More {
    /// Reads pax records: length, blank, name, `=`, value, newline. A value may have any bytes.
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
            let name = std::str::from_utf8(name).map_err(|_| wrong("a record's name is none"))?;
            self.record(name, value)?;
            data = rest;
        }
        Ok(())
    }

    fn record(&mut self, name: &str, value: &[u8]) -> io::Result<()> {
        let number = || {
            let text = std::str::from_utf8(value).ok()?;
            // Of a time, its fraction is left out, and what was before 1970 is taken for its beginning.
            let whole = text.split('.').next()?;
            if whole.starts_with('-') { Some(0) } else { whole.parse::<u64>().ok() }
        };
        let number = || number().ok_or_else(|| wrong(format!("{name} is no number")));
        match name {
            "path" | "GNU.sparse.name" => self.path = Some(value.to_vec()),
            "linkpath" => self.target = Some(value.to_vec()),
            "size" => self.size = Some(number()?),
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "mtime" => self.modified = Some(number()?),
            "GNU.sparse.realsize" => self.sparse = Some(number()?),
            "GNU.sparse.major" if number()? == 1 => {}
            "GNU.sparse.minor" if number()? == 0 => {}
            _ if name.starts_with("GNU.sparse.") => {
                return Err(wrong("its sparse files are of an old kind (pack it with --sparse-version=1.0)"));
            }
            _ => {
                let kept = |name: &&str| {
                    ["user.", "trusted.", "security."].iter().any(|space| name.starts_with(space))
                };
                if let Some(name) = name.strip_prefix("SCHILY.xattr.").filter(kept) {
                    self.attributes.push((name.to_owned(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}
