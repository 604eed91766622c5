//! One request: from a chain to an operation of the image, and from its result to a status byte (5.2.6).
// UNSAFETY: the image's buffers are guest RAM, by pointers.
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::block::{Buffers, Operation, Request, SECTOR};
use memory::GuestRam;

use super::{Disk, FLUSH, MAX_RANGE, MAX_SEGMENT, MAX_SEGMENTS};
use crate::queue::{read_at, slice, total, write_at};
use crate::worker::Ticket;
use crate::{Chain, Queue, QueueError, Segment};

/// Type, reserved, sector.
const HEADER: u64 = 16;
/// Sector, number of sectors, flags.
const RANGE: u64 = 16;
/// Types.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH_CACHE: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
/// Flag of write-zeroes.
const UNMAP: u32 = 1;

/// Result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    Error = 1,
    Unsupported = 2,
}

/// What follows from a request's header.
enum Plan {
    /// Nothing to wait for; so many bytes were written.
    Done(Status, u64),
    /// The image has to do something.
    Start(Operation),
}

/// Starts the request that is in `chain`. It is given back, and the ticket dropped, when it is done.
///
/// # Errors
/// A chain that has no room for header and status: there is no way to answer it.
pub fn start(
    disk: &Arc<Disk>,
    features: u64,
    queue: &Arc<Queue>,
    chain: Chain,
    ticket: Ticket,
) -> Result<(), QueueError> {
    let ram = queue.ram();
    let mut header = [0; HEADER as usize];
    if !read_at(ram, chain.readable(), 0, &mut header) {
        return Err(QueueError::Short("a header"));
    }
    let room = total(chain.writable()).checked_sub(1).ok_or(QueueError::Short("a status byte"))?;
    let [kind, _, low, high] = [0, 4, 8, 12].map(|at| word(&header, at));
    let sector = u64::from(low) | u64::from(high) << 32;
    let out = || slice(chain.readable(), HEADER, u64::MAX);
    let plan = match kind {
        IN => read(disk, ram, sector, slice(chain.writable(), 0, room)),
        OUT => write(disk, ram, sector, out(), features & FLUSH == 0),
        FLUSH_CACHE if disk.backend.is_read_only() => Plan::Done(Status::Ok, 0),
        FLUSH_CACHE => Plan::Start(Operation::Flush),
        GET_ID => Plan::Done(Status::Ok, write_at(ram, &slice(chain.writable(), 0, room), 0, &disk.serial)),
        DISCARD | WRITE_ZEROES => range(disk, ram, kind, &out()),
        _ => Plan::Done(Status::Unsupported, 0),
    };
    let queue = queue.clone();
    match plan {
        Plan::Done(status, written) => finish(&queue, &chain, room, status, written),
        Plan::Start(operation) => {
            // Not the disk: a request that outlived it would end the image on the image's own thread.
            let warned = disk.warned.clone();
            let done = Box::new(move |result: io::Result<()>| {
                let ticket = ticket;
                let status = match result {
                    Ok(()) => Status::Ok,
                    Err(error) => {
                        report(&warned, kind, sector, &error);
                        Status::Error
                    }
                };
                let written = if kind == IN { room } else { 0 };
                finish(&queue, &chain, room, status, written);
                drop(ticket);
            });
            disk.backend.submit(Request { operation, done });
        }
    }
    Ok(())
}

/// The host's errors are the guest's to deal with; the user hears of the first of a disk.
fn report(warned: &AtomicBool, kind: u32, sector: u64, error: &io::Error) {
    if warned.swap(true, Ordering::Relaxed) {
        tracing::debug!("a disk request of type {kind} at sector {sector} failed: {error}");
    } else {
        tracing::warn!(
            "a disk request of type {kind} at sector {sector} failed ({error}): the guest is told; see more with --log debug"
        );
    }
}

/// Gives the chain back: `written` bytes of data, and the status in its last byte.
fn finish(queue: &Queue, chain: &Chain, room: u64, status: Status, written: u64) {
    let ram = queue.ram();
    for part in slice(chain.writable(), 0, written) {
        ram.note_stores(part.addr, part.len.into());
    }
    write_at(ram, chain.writable(), room, &[status as u8]);
    queue.push(chain.head, written.saturating_add(1).try_into().unwrap_or(u32::MAX));
    queue.signal();
}

/// True if the bytes are whole sectors of the disk.
fn is_inside(disk: &Disk, sector: u64, len: u64) -> bool {
    let end = sector.checked_mul(SECTOR).and_then(|start| start.checked_add(len));
    len.is_multiple_of(SECTOR) && end.is_some_and(|end| end <= disk.backend.len())
}

fn read(disk: &Disk, ram: &Arc<GuestRam>, sector: u64, to: Vec<Segment>) -> Plan {
    match buffers(ram, &to).filter(|b| is_inside(disk, sector, b.len())) {
        Some(to) => Plan::Start(Operation::Read { offset: sector * SECTOR, to }),
        None => Plan::Done(Status::Error, 0),
    }
}

fn write(disk: &Disk, ram: &Arc<GuestRam>, sector: u64, from: Vec<Segment>, durable: bool) -> Plan {
    let from = buffers(ram, &from).filter(|b| is_inside(disk, sector, b.len()));
    match from.filter(|_| !disk.backend.is_read_only()) {
        Some(from) => Plan::Start(Operation::Write { offset: sector * SECTOR, from, durable }),
        None => Plan::Done(Status::Error, 0),
    }
}

/// Discard and write-zeroes.
fn range(disk: &Disk, ram: &GuestRam, kind: u32, data: &[Segment]) -> Plan {
    let mut range = [0; RANGE as usize];
    if disk.backend.is_read_only() {
        return Plan::Done(Status::Error, 0);
    }
    if total(data) != RANGE || !read_at(ram, data, 0, &mut range) {
        return Plan::Done(Status::Unsupported, 0);
    }
    let [low, high, sectors, flags] = [0, 4, 8, 12].map(|at| word(&range, at));
    let allowed = if kind == WRITE_ZEROES { UNMAP } else { 0 };
    if flags & !allowed != 0 {
        return Plan::Done(Status::Unsupported, 0);
    }
    let (sector, len) = (u64::from(low) | u64::from(high) << 32, u64::from(sectors) * SECTOR);
    if sectors > MAX_RANGE || !is_inside(disk, sector, len) {
        return Plan::Done(Status::Error, 0);
    }
    let offset = sector * SECTOR;
    match (kind, len) {
        (_, 0) => Plan::Done(Status::Ok, 0),
        (DISCARD, _) => Plan::Start(Operation::Discard { offset, len }),
        _ => Plan::Start(Operation::WriteZeroes { offset, len, unmap: flags & UNMAP != 0 }),
    }
}

/// Guest RAM as an image takes it; None if it is more than a request may have.
fn buffers(ram: &Arc<GuestRam>, segments: &[Segment]) -> Option<Buffers> {
    if total(segments) > u64::from(MAX_SEGMENT) * u64::from(MAX_SEGMENTS) {
        return None;
    }
    let pieces: Option<Vec<_>> =
        segments.iter().map(|s| Some((ram.host_range(s.addr, s.len.into()).ok()?, s.len as usize))).collect();
    // SAFETY: `host_range` checked each piece to be guest RAM, which `ram` keeps mapped and nobody has Rust
    // references to.
    Some(unsafe { Buffers::new(pieces?, ram.clone()) })
}

fn word(data: &[u8], at: usize) -> u32 {
    data.iter().skip(at).take(4).rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}
