//! ELF executables of both classes (System V gABI, chapters 4 and 5): segments, entry, notes.

use cpu::CpuState;
use memory::GuestRam;

use crate::bytes::{align_up, slice, u16_at, u32_at, u64_at};
use crate::layout::Space;
use crate::{BootError, BootSpec, Image, entry};

const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// More program headers than any kernel has.
const MAX_SEGMENTS: u64 = 128;
/// More notes than any kernel has.
const MAX_NOTES: usize = 256;

/// A program header.
#[derive(Debug, Clone, Copy)]
struct Segment {
    kind: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    file_len: u64,
    mem_len: u64,
    align: u64,
}

/// An ELF executable whose segments are all inside the file.
#[derive(Debug)]
pub struct Elf<'a> {
    data: &'a [u8],
    /// ELFCLASS64.
    pub is_64: bool,
    entry: u64,
    segments: Vec<Segment>,
}

/// A note of a PT_NOTE segment.
pub struct Note<'a> {
    /// Owner, without the NUL.
    pub name: &'a [u8],
    /// Type, as the owner numbers them.
    pub kind: u32,
    /// Content.
    pub desc: &'a [u8],
}

/// True if the file has the ELF magic.
pub fn is_elf(data: &[u8]) -> bool {
    data.starts_with(b"\x7fELF")
}

/// Loads an ELF file for its own sake: protected mode for 32 bits, long mode for 64, entered at its entry
/// point without parameters.
pub fn load(ram: &GuestRam, spec: &BootSpec) -> Result<CpuState, BootError> {
    let elf = Elf::parse(spec.kernel)?;
    let mut space = Space::new(ram, spec)?;
    elf.place(&mut space)?;
    if elf.is_64 {
        entry::long(&mut space, elf.physical_entry())
    } else {
        entry::protected(&mut space, elf.physical_entry() as u32)
    }
}

impl<'a> Elf<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// Another ISA, a file that is no executable, or headers that point outside the file.
    pub fn parse(image: Image<'a>) -> Result<Self, BootError> {
        let data = image.data;
        let corrupt = |fact: &str| BootError::Corrupt { file: image.name.to_owned(), fact: fact.to_owned() };
        let truncated = |what, need| BootError::Truncated {
            file: image.name.to_owned(),
            what,
            need,
            have: data.len() as u64,
        };
        if data.len() < 52 {
            return Err(truncated("ELF header", 52));
        }
        let wrong = |isa: String| BootError::WrongIsa { file: image.name.to_owned(), isa };
        let is_64 = match data[4] {
            1 => false,
            2 => true,
            class => return Err(corrupt(&format!("its ELF class is {class}"))),
        };
        if data[5] != 1 {
            return Err(wrong("a big-endian machine".to_owned()));
        }
        let machine = u16_at(data, 18).unwrap_or(0);
        if machine != EM_386 && machine != EM_X86_64 {
            return Err(wrong(machine_name(machine)));
        }
        if u16_at(data, 16) == Some(1) {
            return Err(BootError::Unrecognized {
                file: image.name.to_owned(),
                what: "executable",
                start: "an ELF object file".to_owned(),
                remedy: "the linked kernel",
            });
        }
        let header = Self::header(data, is_64).ok_or_else(|| truncated("ELF header", 64))?;
        let (entry, table, entry_len, count) = header;
        let row = if is_64 { 56 } else { 32 };
        if count == 0 || count > MAX_SEGMENTS || entry_len < row {
            return Err(corrupt(&format!("it has {count} program headers of {entry_len} bytes")));
        }
        let table_len = count * entry_len;
        let end = table.checked_add(table_len).ok_or_else(|| corrupt("its program headers are nowhere"))?;
        let table = slice(data, table, table_len).ok_or_else(|| truncated("program header table", end))?;
        let rows = table.chunks_exact(entry_len as usize);
        let segments: Vec<_> = rows.filter_map(|r| Segment::parse(r, is_64)).collect();
        for s in segments.iter().filter(|s| s.kind == PT_LOAD || s.kind == PT_NOTE) {
            let end = s.offset.checked_add(s.file_len).ok_or_else(|| corrupt("a segment is nowhere"))?;
            if end > data.len() as u64 {
                return Err(truncated("segment", end));
            }
            if s.kind == PT_LOAD && s.mem_len < s.file_len {
                return Err(corrupt("a segment is shorter in memory than in the file"));
            }
        }
        if !segments.iter().any(|s| s.kind == PT_LOAD) {
            return Err(corrupt("it has no loadable segment"));
        }
        Ok(Self { data, is_64, entry, segments })
    }

    /// Entry, and offset, row length and row count of the program headers.
    fn header(data: &[u8], is_64: bool) -> Option<(u64, u64, u64, u64)> {
        let word = |at| u32_at(data, at).map(u64::from);
        let half = |at| u16_at(data, at).map(u64::from);
        Some(if is_64 {
            (u64_at(data, 24)?, u64_at(data, 32)?, half(54)?, half(56)?)
        } else {
            (word(24)?, word(28)?, half(42)?, half(44)?)
        })
    }

    /// Claims the segments' memory and copies them there, the rest of each zeroed.
    pub fn place(&self, space: &mut Space) -> Result<(), BootError> {
        let load = || self.segments.iter().filter(|s| s.kind == PT_LOAD && s.mem_len > 0);
        for s in load() {
            space.claim(s.paddr, s.mem_len)?;
        }
        for s in load() {
            let data = slice(self.data, s.offset, s.file_len).unwrap_or_default();
            space.fill(s.paddr, data, s.mem_len)?;
        }
        Ok(())
    }

    /// The entry point. Kernels linked high have a virtual address there, Linux has the physical one.
    pub fn physical_entry(&self) -> u64 {
        let inside =
            |s: &&Segment| s.kind == PT_LOAD && self.entry >= s.vaddr && self.entry - s.vaddr < s.mem_len;
        match self.segments.iter().find(inside) {
            Some(s) => s.paddr.wrapping_add(self.entry - s.vaddr),
            None => self.entry,
        }
    }

    /// All notes, as far as they are well-formed.
    pub fn notes(&self) -> impl Iterator<Item = Note<'a>> + '_ {
        let segments = self.segments.iter().filter(|s| s.kind == PT_NOTE);
        segments.flat_map(|s| {
            let mut rest = slice(self.data, s.offset, s.file_len).unwrap_or_default();
            let align = if s.align == 8 { 8 } else { 4 };
            std::iter::from_fn(move || {
                let (note, tail) = note(rest, align)?;
                rest = tail;
                Some(note)
            })
            .take(MAX_NOTES)
        })
    }
}

/// The first note of `data`, and what follows.
fn note(data: &[u8], align: u64) -> Option<(Note<'_>, &[u8])> {
    let (name_len, desc_len) = (u64::from(u32_at(data, 0)?), u64::from(u32_at(data, 4)?));
    let kind = u32_at(data, 8)?;
    let name = slice(data, 12, name_len)?;
    let desc_at = align_up(12 + name_len, align)?;
    let desc = slice(data, desc_at, desc_len)?;
    let next = usize::try_from(align_up(desc_at + desc_len, align)?).ok()?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    Some((Note { name, kind, desc }, data.get(next..).unwrap_or_default()))
}

impl Segment {
    fn parse(row: &[u8], is_64: bool) -> Option<Self> {
        let word = |at| u32_at(row, at).map(u64::from);
        let long = |at| u64_at(row, at);
        let kind = u32_at(row, 0)?;
        Some(if is_64 {
            Self {
                kind,
                offset: long(8)?,
                vaddr: long(16)?,
                paddr: long(24)?,
                file_len: long(32)?,
                mem_len: long(40)?,
                align: long(48)?,
            }
        } else {
            Self {
                kind,
                offset: word(4)?,
                vaddr: word(8)?,
                paddr: word(12)?,
                file_len: word(16)?,
                mem_len: word(20)?,
                align: word(28)?,
            }
        })
    }
}

fn machine_name(machine: u16) -> String {
    match machine {
        8 => "mips",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390",
        40 => "arm",
        43 => "sparc64",
        183 => "arm64",
        243 => "riscv",
        258 => "loongarch",
        other => return format!("ELF machine {other}"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests;
