//! The file `state`: a magic number, a header, sections. All numbers are little-endian.
//!
//! ```text
//! 0   8  magic                          then for each section:
//! 8   4  version of the format          0   2  length of its kind
//! 12  4  length of the header           2   2  instance
//! 16  4  CRC-32C of bytes 8 to 16       4   4  version of its content
//!        and the header                 8   8  length of its content
//! 20     header, JSON                   16  4  CRC-32C of the bytes before, kind and content
//!                                       20     kind, content
//! ```

use super::SnapshotError;
use super::crc::crc32c;

/// The format's version: what cannot be read by programs of before counts it up.
pub const VERSION: u32 = 2;
/// The version of what has no compressed RAM, which older programs can read.
pub const PLAIN: u32 = 1;
const MAGIC: [u8; 8] = *b"GHSTATE\n";
/// Bytes before the header, and before a section's kind.
const HEAD: usize = 20;
/// Longest file, and most sections.
pub const MAX_FILE: u64 = 256 << 20;
const MAX_SECTIONS: usize = 4096;
/// Longest kind: it is in messages.
const MAX_KIND: u16 = 64;

/// A part's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Which kind of part.
    pub kind: String,
    /// Which of them.
    pub instance: u16,
    /// Version of the content.
    pub version: u32,
    /// The content.
    pub data: Vec<u8>,
}

/// The file, of a version that programs know.
pub fn encode(version: u32, header: &[u8], sections: &[Section]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend((header.len() as u32).to_le_bytes());
    let crc = crc32c(crc32c(0, &bytes[MAGIC.len()..]), header);
    bytes.extend(crc.to_le_bytes());
    bytes.extend(header);
    for Section { kind, instance, version, data } in sections {
        let start = bytes.len();
        bytes.extend((kind.len() as u16).to_le_bytes());
        bytes.extend(instance.to_le_bytes());
        bytes.extend(version.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        let crc = crc32c(crc32c(crc32c(0, &bytes[start..]), kind.as_bytes()), data);
        bytes.extend(crc.to_le_bytes());
        bytes.extend(kind.as_bytes());
        bytes.extend(data);
    }
    bytes
}

/// Header and sections of a file.
///
/// # Errors
/// It is something else, newer, or not what was written.
pub fn decode(bytes: &[u8]) -> Result<(Vec<u8>, Vec<Section>), SnapshotError> {
    let damaged = |what: &str| SnapshotError::Damaged(what.to_owned());
    let mut rest = bytes;
    if take(&mut rest, MAGIC.len()) != Some(&MAGIC) {
        return Err(SnapshotError::Foreign);
    }
    let head = take(&mut rest, HEAD - MAGIC.len()).ok_or_else(|| damaged("it ends in its header"))?;
    let mut fields = head;
    let version = u32::from_le_bytes(number(&mut fields));
    let len = u32::from_le_bytes(number(&mut fields));
    let crc = u32::from_le_bytes(number(&mut fields));
    // Nothing else is known of a later one, not even what the checksum is of.
    if !(PLAIN..=VERSION).contains(&version) {
        return Err(if version > VERSION { SnapshotError::Newer(version) } else { damaged("format 0") });
    }
    let header = take(&mut rest, len as usize).ok_or_else(|| damaged("it ends in its header"))?;
    if crc32c(crc32c(0, &head[..8]), header) != crc {
        return Err(damaged("its header is not what was written"));
    }
    let mut sections = Vec::new();
    while !rest.is_empty() {
        if sections.len() == MAX_SECTIONS {
            return Err(damaged("it has too many sections"));
        }
        sections.push(section(&mut rest)?);
    }
    Ok((header.to_vec(), sections))
}

fn section(rest: &mut &[u8]) -> Result<Section, SnapshotError> {
    let short = || SnapshotError::Damaged("it ends in a section".to_owned());
    let head = take(rest, HEAD).ok_or_else(short)?;
    let mut fields = head;
    let kind_len = u16::from_le_bytes(number(&mut fields));
    let instance = u16::from_le_bytes(number(&mut fields));
    let version = u32::from_le_bytes(number(&mut fields));
    let len = u64::from_le_bytes(number(&mut fields));
    let crc = u32::from_le_bytes(number(&mut fields));
    if kind_len > MAX_KIND {
        return Err(SnapshotError::Damaged("a section's kind is not what was written".to_owned()));
    }
    let kind = take(rest, kind_len.into()).ok_or_else(short)?;
    let data = usize::try_from(len).ok().and_then(|len| take(rest, len)).ok_or_else(short)?;
    let kind = String::from_utf8_lossy(kind).into_owned();
    if crc32c(crc32c(crc32c(0, &head[..16]), kind.as_bytes()), data) != crc {
        return Err(SnapshotError::Damaged(format!("section {kind:?} is not what was written")));
    }
    Ok(Section { kind, instance, version, data: data.to_vec() })
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

/// The next bytes of a head, which has enough.
fn number<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    take(rest, N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}
