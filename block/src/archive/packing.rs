//! Archives are packed or not; their first bytes say it.

use std::io::{self, BufRead, BufReader, Read};

/// Most memory that a packed archive may ask for: what `xz -9` does, four times.
const LIMIT_KIB: u32 = 256 << 10;

/// The archive itself, from what is gzip, xz, zstd or nothing of these.
///
/// # Errors
/// It cannot be read.
pub fn unpacked(input: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut input = BufReader::with_capacity(256 << 10, input);
    let start = input.fill_buf()?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, LIMIT_KIB))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(ruzstd::decoding::StreamingDecoder::new(input).map_err(io::Error::other)?)
        }
        _ => Box::new(input),
    })
}
