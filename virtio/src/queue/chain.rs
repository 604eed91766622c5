//! A chain of descriptors as the buffers it names, all of them RAM (2.7.5).

use memory::GuestRam;

use super::QueueError;

/// A buffer: RAM throughout, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
}

/// Buffers that the driver made available together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name when it is given back.
    pub head: u16,
    segments: Vec<Segment>,
    readable: usize,
}

/// A descriptor table.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub addr: u64,
    pub size: u16,
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: u64 = 16;

struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Table {
    fn read(&self, ram: &GuestRam, index: u16) -> Result<Descriptor, QueueError> {
        if index >= self.size {
            return Err(QueueError::Index(index));
        }
        let at = self.addr.wrapping_add(DESCRIPTOR * u64::from(index));
        let [addr, rest] = match (ram.load_u64(at), ram.load_u64(at.wrapping_add(8))) {
            (Some(addr), Some(rest)) => [addr, rest],
            // Tables of a driver's own need no alignment.
            _ => {
                let mut data = [0; 16];
                let wrong = |_| QueueError::Indirect { addr: self.addr, len: u32::from(self.size) * 16 };
                ram.read(at, &mut data).map_err(wrong)?;
                let [low, high] = [0, 8].map(|i| data.iter().skip(i).take(8));
                [low, high].map(|bytes| bytes.rev().fold(0, |value, &b| value << 8 | u64::from(b)))
            }
        };
        Ok(Descriptor { addr, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 })
    }
}

impl Chain {
    /// Follows the chain from `head`. `indirect`: tables were negotiated.
    pub(super) fn walk(ram: &GuestRam, table: Table, head: u16, indirect: bool) -> Result<Self, QueueError> {
        let (size, mut table, mut may_indirect) = (table.size, table, indirect);
        let (mut index, mut left) = (head, size);
        let mut chain = Self { head, segments: Vec::with_capacity(4), readable: 0 };
        loop {
            let Descriptor { addr, len, flags, next } = table.read(ram, index)?;
            if flags & INDIRECT != 0 {
                let entries = len / DESCRIPTOR as u32;
                let fits = (1..=u32::from(size)).contains(&entries) && len.is_multiple_of(DESCRIPTOR as u32);
                if !may_indirect || flags & NEXT != 0 || !fits {
                    return Err(QueueError::Indirect { addr, len });
                }
                // The table's descriptors count, the one that names it does not.
                (table, index, may_indirect) = (Table { addr, size: entries as u16 }, 0, false);
                continue;
            }
            left = left.checked_sub(1).ok_or(QueueError::Long)?;
            let writable = flags & WRITE != 0;
            if !writable && chain.readable != chain.segments.len() {
                return Err(QueueError::Order);
            }
            // An empty buffer is allowed nowhere and harms nobody.
            if len != 0 {
                ram.host_range(addr, len.into()).map_err(|_| QueueError::Buffer { addr, len })?;
                chain.segments.push(Segment { addr, len });
                chain.readable += usize::from(!writable);
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = next;
        }
    }

    /// Buffers that the device reads.
    pub fn readable(&self) -> &[Segment] {
        &self.segments[..self.readable]
    }

    /// Buffers that the device writes.
    pub fn writable(&self) -> &[Segment] {
        &self.segments[self.readable..]
    }
}

/// Bytes of buffers.
pub(crate) fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.len)).sum()
}

/// The buffers that hold bytes `from` to `from + len`, as far as there are any.
pub(crate) fn slice(segments: &[Segment], from: u64, len: u64) -> Vec<Segment> {
    let (mut skip, mut left) = (from, len);
    let mut parts = Vec::with_capacity(segments.len());
    for segment in segments {
        let skipped = skip.min(segment.len.into());
        skip -= skipped;
        let taken = (u64::from(segment.len) - skipped).min(left);
        left -= taken;
        if taken != 0 {
            parts.push(Segment { addr: segment.addr + skipped, len: taken as u32 });
        }
    }
    parts
}

/// Copies out of buffers; false if they hold less from there on.
pub(crate) fn read_at(ram: &GuestRam, segments: &[Segment], from: u64, data: &mut [u8]) -> bool {
    let mut rest = data;
    for part in slice(segments, from, rest.len() as u64) {
        let (now, later) = rest.split_at_mut(part.len as usize);
        if ram.read(part.addr, now).is_err() {
            return false;
        }
        rest = later;
    }
    rest.is_empty()
}

/// Copies into buffers, as much as they hold from there on; the number of bytes.
pub(crate) fn write_at(ram: &GuestRam, segments: &[Segment], from: u64, data: &[u8]) -> u64 {
    let mut rest = data;
    for part in slice(segments, from, rest.len() as u64) {
        let (now, later) = rest.split_at(part.len as usize);
        if ram.write(part.addr, now).is_err() {
            break;
        }
        rest = later;
    }
    (data.len() - rest.len()) as u64
}

/// Writes one thing behind the other into buffers.
pub(crate) struct Writer<'a, I> {
    ram: &'a GuestRam,
    segments: I,
    current: Segment,
}

impl<'a, I: Iterator<Item = &'a Segment>> Writer<'a, I> {
    /// Begins with the first buffer.
    pub fn new(ram: &'a GuestRam, segments: I) -> Self {
        Self { ram, segments, current: Segment { addr: 0, len: 0 } }
    }

    /// Writes as much as there is room for.
    pub fn write(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.current.len == 0 {
                let Some(&next) = self.segments.next() else { return };
                self.current = next;
            }
            let count = data.len().min(self.current.len as usize);
            let (now, later) = data.split_at(count);
            // The buffers were checked to be RAM, which stays where it is.
            let _ = self.ram.write(self.current.addr, now);
            self.current.addr += count as u64;
            self.current.len -= count as u32;
            data = later;
        }
    }
}
