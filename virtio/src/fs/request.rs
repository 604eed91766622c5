//! One request: its bytes out of a chain, file data between RAM and file without a copy, the answer into the chain.
// UNSAFETY: file data is guest RAM, by pointers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use memory::GuestRam;
use share::{Data, MAX_REQUEST, Share};

use crate::queue::{read_at, slice, total, write_at};
use crate::{Chain, QueueError, Segment};

/// Bytes of an answer's header, behind which data goes.
const HEADER: u64 = 16;
/// Most pieces of one system call (IOV_MAX).
const MAX_PIECES: usize = 1024;

/// Carries out what is in a chain; the bytes that were written to it.
///
/// # Errors
/// A chain that has no request, or no room for an answer that there is.
pub fn carry_out(share: &Share, ram: &GuestRam, chain: &Chain) -> Result<u32, QueueError> {
    // What is behind the head of a WRITE stays where it is.
    let len = total(chain.readable()).min(MAX_REQUEST as u64) as usize;
    let len = if opcode(ram, chain)? == WRITE { len.min(WRITE_HEAD) } else { len };
    let mut request = vec![0; len];
    if !read_at(ram, chain.readable(), 0, &mut request) {
        return Err(QueueError::Short("a request"));
    }
    let memory = Memory { ram, chain };
    let Some(answer) = share.handle(&request, &memory) else { return Ok(0) };
    let mut written = answer.len() as u64;
    if write_at(ram, chain.writable(), 0, &answer) < written {
        return Err(QueueError::Short("room for an answer"));
    }
    // With file data that is there already the length is more than what was written now.
    if let Some(&[a, b, c, d]) = answer.first_chunk::<4>() {
        written = written.max(u32::from_le_bytes([a, b, c, d]).into());
    }
    Ok(written.try_into().unwrap_or(u32::MAX))
}

/// WRITE, and what of it is not data.
const WRITE: u32 = 16;
const WRITE_HEAD: usize = 80;

fn opcode(ram: &GuestRam, chain: &Chain) -> Result<u32, QueueError> {
    let mut head = [0; 8];
    if !read_at(ram, chain.readable(), 0, &mut head) {
        return Err(QueueError::Short("a header"));
    }
    let [.., a, b, c, d] = head;
    Ok(u32::from_le_bytes([a, b, c, d]))
}

/// A chain as the place of file data.
struct Memory<'a> {
    ram: &'a GuestRam,
    chain: &'a Chain,
}

impl Memory<'_> {
    fn pieces(&self, segments: &[Segment]) -> io::Result<Vec<libc::iovec>> {
        let piece = |segment: &Segment| {
            let base = self.ram.host_range(segment.addr, segment.len.into()).map_err(io::Error::other)?;
            Ok(libc::iovec { iov_base: base.as_ptr().cast(), iov_len: segment.len as usize })
        };
        segments.iter().take(MAX_PIECES).map(piece).collect()
    }
}

impl Data for Memory<'_> {
    fn room(&self) -> usize {
        total(self.chain.writable()).saturating_sub(HEADER).try_into().unwrap_or(usize::MAX)
    }

    fn read(&self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let to = slice(self.chain.writable(), HEADER, len as u64);
        let pieces = self.pieces(&to)?;
        // SAFETY: `host_range` checked each piece to be guest RAM, which `ram` keeps mapped and nobody has Rust references
        // to; the kernel only copies.
        let count = retry(offset, |at| unsafe {
            libc::preadv(file.as_raw_fd(), pieces.as_ptr(), pieces.len() as i32, at)
        })?;
        for part in slice(&to, 0, count as u64) {
            self.ram.note_stores(part.addr, part.len.into());
        }
        Ok(count)
    }

    fn write(&self, file: BorrowedFd<'_>, offset: u64, skip: u64, len: usize) -> io::Result<usize> {
        let from = slice(self.chain.readable(), skip, len as u64);
        if total(&from) < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let pieces = self.pieces(&from)?;
        // SAFETY: as in `read`.
        retry(offset, |at| unsafe {
            libc::pwritev(file.as_raw_fd(), pieces.as_ptr(), pieces.len() as i32, at)
        })
    }
}

/// Makes a system call again that a signal has interrupted.
fn retry(offset: u64, mut call: impl FnMut(libc::off_t) -> isize) -> io::Result<usize> {
    let at = offset.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    loop {
        match usize::try_from(call(at)) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
