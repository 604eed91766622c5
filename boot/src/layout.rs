//! The guest-physical memory map of a PC, and where in it a loader may put things.
//!
//! ```text
//! 0x0000_0000  BIOS data area (only the EBDA pointer and the size of base memory are filled in)
//! 0x0000_1000  boot structures, lowest free first: page tables, GDT, boot_params, command line ...
//! 0x0009_fc00  EBDA, 1 KiB, reserved
//! 0x000e_0000  ACPI tables up to 0x0010_0000, reserved; the RSDP is where a BIOS scan finds it
//! 0x0010_0000  RAM: kernel, then initrd as high as the kernel can take it
//! 0xc000_0000  no RAM: IOAPIC 0xfec0_0000, local APICs 0xfee0_0000
//! 0x1_0000_0000 the rest of RAM
//! ```

use std::ops::Range;

use memory::GuestRam;

use crate::bytes::align_up;
use crate::{BootError, BootSpec};

/// Extended BIOS data area: from here to 0xa0000 base memory is reserved.
pub const EBDA: u64 = 0x9_fc00;
/// ACPI tables start here.
pub const ACPI_START: u64 = 0xe_0000;
/// Bytes for ACPI tables.
pub const ACPI_LEN: u64 = 0x1_f000;
/// A page for a VM Generation ID, behind the tables and as reserved as they are.
pub const GENERATION: u64 = ACPI_START + ACPI_LEN;
/// End of the low memory with its holes.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// Least address that loaders hand out: the interrupt table and the BIOS data area stay free.
const FIRST_FREE: u64 = 0x1000;
/// Most modules of a guest.
pub const MAX_MODULES: usize = 64;

/// What a region is, with the numbers of e820 and of PVH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RamKind {
    /// Free for the guest.
    Ram = 1,
    /// Not to be touched by the guest's allocator.
    Reserved = 2,
}

/// An entry of the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: RamKind,
}

/// What firmware would tell the guest of its memory (INT 15h, E820h), sorted by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMap(Vec<Region>);

impl MemoryMap {
    /// The map of a PC with this RAM.
    pub fn new(ram: &GuestRam) -> Self {
        const HOLES: [Range<u64>; 2] = [EBDA..0xa_0000, ACPI_START..HIGH_MEMORY];
        let mut map: Vec<_> = HOLES.map(|h| region(h.start, h.end, RamKind::Reserved)).into();
        for range in ram.ranges() {
            let end = range.start + range.len;
            let mut add = |from: u64, to: u64| {
                let (from, to) = (from.max(range.start), to.min(end));
                if from < to {
                    map.push(region(from, to, RamKind::Ram));
                }
            };
            add(0, EBDA);
            add(HIGH_MEMORY, u64::MAX);
        }
        map.sort_by_key(|r| r.start);
        Self(map)
    }

    /// The entries.
    pub fn regions(&self) -> &[Region] {
        &self.0
    }

    fn ram(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.0.iter().filter(|r| r.kind == RamKind::Ram).map(|r| r.start..r.start + r.len)
    }
}

fn region(start: u64, end: u64, kind: RamKind) -> Region {
    Region { start, len: end - start, kind }
}

/// Guest memory while a kernel is loaded: what is free, what is taken.
pub struct Space<'a> {
    /// Guest RAM.
    pub ram: &'a GuestRam,
    /// The memory map that the guest will see.
    pub map: MemoryMap,
    file: &'a str,
    taken: Vec<Range<u64>>,
}

impl<'a> Space<'a> {
    /// All RAM is free. Fills in the BIOS data area.
    pub fn new(ram: &'a GuestRam, spec: &BootSpec<'a>) -> Result<Self, BootError> {
        if ram.size() < 2 << 20 {
            let file = spec.kernel.name.to_owned();
            return Err(BootError::MemoryTooSmall { file, need: 2 << 20, have: ram.size() });
        }
        ram.write(0x40e, &((EBDA >> 4) as u16).to_le_bytes())?;
        ram.write(0x413, &((EBDA >> 10) as u16).to_le_bytes())?;
        ram.write(EBDA, &[1])?; // its size in KiB
        Ok(Self { ram, map: MemoryMap::new(ram), file: spec.kernel.name, taken: Vec::new() })
    }

    /// Takes a range that the kernel insists on.
    pub fn claim(&mut self, start: u64, len: u64) -> Result<(), BootError> {
        let end = start.checked_add(len);
        let placement = |end, fact| BootError::Placement { file: self.file.to_owned(), start, end, fact };
        let end = end.ok_or_else(|| placement(u64::MAX, "beyond all addresses"))?;
        if start < FIRST_FREE {
            return Err(placement(end, "where the BIOS data area is"));
        }
        if !self.map.ram().any(|r| r.start <= start && end <= r.end) {
            let low = self.map.ram().find(|r| r.start == HIGH_MEMORY);
            // Below the 32-bit hole more memory helps; elsewhere nothing does.
            if low.is_some_and(|r| r.start <= start && r.end < end) && end <= memory::LOW_RAM_END {
                return Err(self.too_small(end));
            }
            return Err(placement(end, "not RAM"));
        }
        if self.taken.iter().any(|t| t.start < end && start < t.end) {
            return Err(placement(end, "taken by another part of it"));
        }
        self.taken.push(start..end);
        Ok(())
    }

    /// Takes the lowest free range, below 1 MiB if there is room.
    pub fn low(&mut self, len: u64, align: u64) -> Result<u64, BootError> {
        let starts = self.map.ram().map(|r| r.start.max(FIRST_FREE));
        let found = starts
            .chain(self.taken.iter().map(|t| t.end))
            .filter_map(|s| align_up(s, align))
            .filter(|&s| self.is_free(s, len))
            .min();
        self.take(found, len)
    }

    /// Takes the highest free range that ends at or below `limit`, above 1 MiB.
    pub fn high(&mut self, len: u64, align: u64, limit: u64) -> Result<u64, BootError> {
        let ends = self.map.ram().map(|r| r.end.min(limit));
        let found = ends
            .chain(self.taken.iter().map(|t| t.start.min(limit)))
            .filter_map(|end| end.checked_sub(len).map(|s| s & !(align - 1)))
            .filter(|&s| s >= HIGH_MEMORY && self.is_free(s, len))
            .max();
        self.take(found, len)
    }

    fn take(&mut self, found: Option<u64>, len: u64) -> Result<u64, BootError> {
        let Some(start) = found else {
            let used: u64 = self.taken.iter().map(|t| t.end).max().unwrap_or(HIGH_MEMORY);
            return Err(self.too_small(used.max(HIGH_MEMORY).saturating_add(len)));
        };
        self.taken.push(start..start + len);
        Ok(start)
    }

    /// The error that says how much memory would do.
    pub fn too_small(&self, need: u64) -> BootError {
        // A guest that has enough by number has it in the wrong place: ask for visibly more.
        let have = self.ram.size();
        BootError::MemoryTooSmall { file: self.file.to_owned(), need: need.max(have + (1 << 20)), have }
    }

    fn is_free(&self, start: u64, len: u64) -> bool {
        let Some(end) = start.checked_add(len) else { return false };
        start >= FIRST_FREE
            && self.map.ram().any(|r| r.start <= start && end <= r.end)
            && !self.taken.iter().any(|t| t.start < end && start < t.end)
    }

    /// Writes bytes and fills up with zeroes to `len`.
    pub fn fill(&self, start: u64, data: &[u8], len: u64) -> Result<(), BootError> {
        // An empty range may be at the end of RAM, where no address is valid.
        if !data.is_empty() {
            self.ram.load(start, data)?;
        }
        let zeroes = [0; 4096];
        let mut at = start + data.len() as u64;
        let end = start + len;
        while at < end {
            let part = (end - at).min(zeroes.len() as u64);
            self.ram.write(at, &zeroes[..part as usize])?;
            at += part;
        }
        Ok(())
    }

    /// Puts bytes into the lowest free place.
    pub fn put_low(&mut self, data: &[u8], align: u64) -> Result<u64, BootError> {
        let at = self.low(data.len() as u64, align)?;
        self.ram.write(at, data)?;
        Ok(at)
    }

    /// Puts a string and its NUL into the lowest free place.
    pub fn put_string(&mut self, text: &str) -> Result<u64, BootError> {
        if text.contains('\0') {
            return Err(BootError::CommandLineNul);
        }
        let mut data = text.as_bytes().to_vec();
        data.push(0);
        self.put_low(&data, 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Image, Protocol};

    fn spec() -> BootSpec<'static> {
        let kernel = Image { name: "k", data: &[] };
        BootSpec { kernel, modules: &[], cmdline: "", protocol: Protocol::Auto, rsdp: 0 }
    }

    #[test]
    fn the_map_has_the_holes_of_a_pc() {
        let ram = GuestRam::new(memory::LOW_RAM_END + 0x20_0000).unwrap();
        let map = MemoryMap::new(&ram);
        let rows: Vec<_> = map.regions().iter().map(|r| (r.start, r.start + r.len, r.kind)).collect();
        assert_eq!(
            rows,
            [
                (0, 0x9_fc00, RamKind::Ram),
                (0x9_fc00, 0xa_0000, RamKind::Reserved),
                (0xe_0000, 0x10_0000, RamKind::Reserved),
                (0x10_0000, 0xc000_0000, RamKind::Ram),
                (0x1_0000_0000, 0x1_0020_0000, RamKind::Ram),
            ]
        );
    }

    #[test]
    fn places_do_not_overlap() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let mut space = Space::new(&ram, &spec()).unwrap();
        space.claim(0x10_0000, 0x10_0000).unwrap();
        assert!(matches!(space.claim(0x1f_ffff, 1), Err(BootError::Placement { .. })));
        assert_eq!(space.low(0x1000, 4096).unwrap(), 0x1000);
        assert_eq!(space.low(0x1000, 0x8000).unwrap(), 0x8000);
        assert_eq!(space.low(0x10, 16).unwrap(), 0x2000);
        // No room below 1 MiB: behind the claimed range.
        assert_eq!(space.low(0xa_0000, 4096).unwrap(), 0x20_0000);
        assert_eq!(space.high(0x1001, 4096, u64::MAX).unwrap(), (16 << 20) - 0x2000);
        assert_eq!(space.high(0x1000, 4096, 0x80_0000).unwrap(), 0x7f_f000);
    }

    #[test]
    fn what_is_missing_is_said() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let mut space = Space::new(&ram, &spec()).unwrap();
        let error = space.claim(0x100_0000, 0x200_0000).unwrap_err().to_string();
        assert_eq!(error, "k needs 48 MiB of guest memory, the guest has 16 MiB: give --memory 48M or more");
        assert!(matches!(space.claim(0xa_0000, 16), Err(BootError::Placement { .. })));
        assert!(matches!(space.claim(u64::MAX - 3, 16), Err(BootError::Placement { .. })));
    }
}
