//! Which bytes of a sparse file an archive has.

use std::io::{self, Read};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{BLOCK, Piece, wrong};

/// Most pieces of a file.
const MAX_PIECES: usize = 1 << 20;
/// Most bytes of a number's line.
const MAX_LINE: usize = 24;

/// GNU's own format: four pieces in the header, more in blocks behind it. The file's size and its pieces.
pub fn of_header(header: &Header, input: &mut impl Read) -> io::Result<(u64, Vec<Piece>)> {
    let bad = |_| wrong("the map of a sparse file has no numbers");
    let gnu = header.as_gnu().ok_or_else(|| wrong("a sparse file without a map"))?;
    let mut pieces = Vec::new();
    let mut add = |list: &[GnuSparseHeader]| -> io::Result<()> {
        for piece in list.iter().filter(|piece| !piece.is_empty()) {
            pieces.push(Piece { at: piece.offset().map_err(bad)?, len: piece.length().map_err(bad)? });
        }
        if pieces.len() > MAX_PIECES { Err(wrong("a sparse file has too many pieces")) } else { Ok(()) }
    };
    add(&gnu.sparse)?;
    let mut more = gnu.is_extended();
    while more {
        let mut block = GnuExtSparseHeader::new();
        input.read_exact(block.as_mut_bytes())?;
        add(block.sparse())?;
        // A block that says nothing and that another one follows would go on for ever.
        more = block.is_extended() && block.sparse().iter().any(|piece| !piece.is_empty());
    }
    Ok((gnu.real_size().map_err(bad)?, pieces))
}

/// The pax format 1.0: before the data are lines that say how many pieces there are, then place and length of each.
pub fn of_data(mut next: impl FnMut() -> io::Result<[u8; BLOCK]>) -> io::Result<Vec<Piece>> {
    let mut text = Vec::new();
    let (mut seen, mut needed) = (0, 1);
    while seen < needed {
        let block = next()?;
        text.extend_from_slice(&block);
        seen += block.iter().filter(|&&byte| byte == b'\n').count();
        if needed == 1 && seen > 0 {
            needed +=
                2 * numbers(&text).next().transpose()?.unwrap_or_default().min(MAX_PIECES as u64) as usize;
        }
        if text.len() > MAX_LINE * needed + BLOCK {
            return Err(wrong("the map of a sparse file does not end"));
        }
    }
    let list: Vec<u64> = numbers(&text).take(needed).skip(1).collect::<io::Result<_>>()?;
    Ok(list.as_chunks().0.iter().map(|&[at, len]| Piece { at, len }).collect())
}

/// The numbers of whole lines.
fn numbers(text: &[u8]) -> impl Iterator<Item = io::Result<u64>> {
    text.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n")).map(|line| {
        let number = std::str::from_utf8(line).ok().and_then(|line| line.parse().ok());
        number.ok_or_else(|| wrong("the map of a sparse file has no numbers"))
    })
}

/// True if the pieces are in order, inside of the file, and are as many bytes as are stored.
pub fn check(len: u64, pieces: &[Piece], stored: u64) -> Result<(), &'static str> {
    let mut end = 0;
    let mut sum = 0u64;
    for piece in pieces {
        if piece.at < end {
            return Err("pieces that overlap");
        }
        end = piece.at.checked_add(piece.len).filter(|end| *end <= len).ok_or("pieces outside of it")?;
        sum = sum.saturating_add(piece.len);
    }
    if sum != stored || len > i64::MAX as u64 { Err("another size than its pieces") } else { Ok(()) }
}
