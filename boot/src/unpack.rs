//! The compressed formats that kernels and initrds come in, as readers over bytes.

use std::io::{self, Read, Write};

use crate::BootError;
use crate::bytes::{array, slice, u32_at};

/// A compressed format, recognised by its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Gzip,
    Xz,
    Zstd,
    Lzma,
    /// The legacy frame of the lz4 tool (`lz4 -l`), the only one that Linux reads.
    Lz4,
    /// Linux reads these two; they are recognised here, not unpacked.
    Bzip2,
    Lzo,
}

impl Format {
    /// By the first bytes.
    pub fn of(data: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Format); 7] = [
            (&[0x1f, 0x8b, 8], Format::Gzip),
            (b"\xfd7zXZ\0", Format::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Format::Zstd),
            (&[0x5d, 0, 0], Format::Lzma),
            (&[0x02, 0x21, 0x4c, 0x18], Format::Lz4),
            (b"BZh", Format::Bzip2),
            (&[0x89, b'L', b'Z', b'O'], Format::Lzo),
        ];
        MAGICS.iter().find(|(magic, _)| data.starts_with(magic)).map(|&(_, format)| format)
    }

    /// A reader of the unpacked bytes; `None` where unpacking is not offered.
    ///
    /// Memory is bounded: by the window of the format, and by `LIMIT_KIB` where a file names its window.
    fn reader<'a>(self, data: &'a [u8]) -> io::Result<Option<Box<dyn Read + 'a>>> {
        const LIMIT_KIB: u32 = 256 << 10;
        Ok(Some(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(data)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(data, false, LIMIT_KIB)),
            Self::Zstd => Box::new(ruzstd::decoding::StreamingDecoder::new(data).map_err(io::Error::other)?),
            Self::Lzma => Box::new(lzma_rust2::LzmaReader::new_mem_limit(data, LIMIT_KIB, None)?),
            Self::Lz4 => {
                Box::new(Lz4Legacy { rest: data.get(4..).unwrap_or_default(), block: Vec::new(), at: 0 })
            }
            Self::Bzip2 | Self::Lzo => return Ok(None),
        }))
    }
}

/// Unpacks the payload of a bzImage: the compressed file, then its unpacked length as 32 bits (with gzip
/// that is the format's own last field).
///
/// # Errors
/// An unknown format, damaged data, a length that is not true, or one above `max`.
pub fn payload(file: &str, data: &[u8], max: u64) -> Result<Vec<u8>, BootError> {
    let corrupt = |fact| BootError::Corrupt { file: file.to_owned(), fact };
    let (format, packed, len) =
        split(data).ok_or_else(|| corrupt("its payload has no known format".into()))?;
    let len = u64::from(len);
    if len > max {
        return Err(BootError::MemoryTooSmall { file: file.to_owned(), need: len, have: max });
    }
    let mut out = Vec::new();
    let reader = format.reader(packed).map_err(|e| corrupt(unpacking(&e)))?;
    let Some(reader) = reader else {
        return Err(corrupt(format!("its payload is packed with {format:?}, which is not unpacked here")));
    };
    // Read one byte more than promised, so that a wrong promise is seen.
    reader.take(len + 1).read_to_end(&mut out).map_err(|e| corrupt(unpacking(&e)))?;
    if out.len() as u64 != len {
        return Err(corrupt(format!("its payload unpacks to other than the promised {len} bytes")));
    }
    Ok(out)
}

/// Unpacks a bzImage's payload for the sake of the check only.
pub fn check(file: &str, what: &str, data: &[u8]) -> Result<(), BootError> {
    let corrupt = |fact| BootError::Corrupt { file: file.to_owned(), fact };
    let (format, packed, len) =
        split(data).ok_or_else(|| corrupt(format!("its {what} has no known format")))?;
    match drain(format, packed, u64::from(len)) {
        Ok(None) => Ok(()),
        Ok(Some(n)) if n == u64::from(len) => Ok(()),
        Ok(Some(_)) => Err(corrupt(format!("its {what} unpacks to other than the promised {len} bytes"))),
        Err(e) => Err(corrupt(unpacking(&e))),
    }
}

/// Unpacks to nowhere and counts, up to one byte beyond `max`; `None` where unpacking is not offered.
pub fn drain(format: Format, data: &[u8], max: u64) -> io::Result<Option<u64>> {
    let Some(reader) = format.reader(data)? else { return Ok(None) };
    io::copy(&mut reader.take(max.saturating_add(1)), &mut Sink).map(Some)
}

fn split(data: &[u8]) -> Option<(Format, &[u8], u32)> {
    let format = Format::of(data)?;
    let tail = data.len().checked_sub(4)?;
    let packed = if format == Format::Gzip { data } else { data.get(..tail)? };
    Some((format, packed, u32_at(data, tail)?))
}

fn unpacking(error: &io::Error) -> String {
    // One line, whatever the decoder has to say.
    format!("it does not unpack ({})", error.to_string().replace('\n', " "))
}

/// `io::sink` makes `io::copy` read in small pieces on some paths; this one takes what it gets.
struct Sink;

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Blocks of a 32-bit length and that many bytes, each unpacking to at most 8 MiB.
struct Lz4Legacy<'a> {
    rest: &'a [u8],
    block: Vec<u8>,
    at: usize,
}

impl Lz4Legacy<'_> {
    const BLOCK: usize = 8 << 20;
    const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

    fn next_block(&mut self) -> io::Result<()> {
        self.at = 0;
        self.block.clear();
        // Files may be concatenated; the next one's magic stands where a length would be.
        while array(self.rest, 0) == Some(Self::MAGIC) {
            self.rest = self.rest.get(4..).unwrap_or_default();
        }
        // Padding of less than a length field, or a zero length, ends the file.
        let Some(len) = u32_at(self.rest, 0).filter(|&len| len != 0) else {
            self.rest = &[];
            return Ok(());
        };
        let packed = slice(self.rest, 4, u64::from(len)).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.block.resize(Self::BLOCK, 0);
        let n = lz4_flex::block::decompress_into(packed, &mut self.block).map_err(io::Error::other)?;
        self.block.truncate(n);
        self.rest = self.rest.get(4 + packed.len()..).unwrap_or_default();
        Ok(())
    }
}

impl Read for Lz4Legacy<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() && !self.rest.is_empty() {
            self.next_block()?;
        }
        let left = self.block.get(self.at..).unwrap_or_default();
        let n = left.len().min(out.len());
        out[..n].copy_from_slice(&left[..n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
