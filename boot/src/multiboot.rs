//! Multiboot 1 (Multiboot Specification 0.6.96): header, information structure, machine state.
//!
//! As with GRUB 2 the command line does not begin with the kernel's name. Not done: video modes (the
//! information says that there are none), drives, APM, the ELF section table, boot device.

use cpu::CpuState;
use cpu::x86::gpr;
use memory::GuestRam;

use crate::bytes::{slice, u32_at};
use crate::elf::{self, Elf};
use crate::layout::{EBDA, HIGH_MEMORY, Space};
use crate::{BootError, BootSpec, Protocol, initrd};

const HEADER_MAGIC: u32 = 0x1bad_b002;
const BOOT_MAGIC: u64 = 0x2bad_b002;
/// The header is in the first 8192 bytes, on 4 bytes.
const SEARCH: usize = 8192;
/// Requirements that a loader must know or refuse: page-aligned modules, memory information, video mode.
const KNOWN: u32 = 0b111;
const HAS_ADDRESSES: u32 = 1 << 16;

/// The multiboot header of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Where it is in the file.
    offset: usize,
    flags: u32,
    /// Where to load a file that is no ELF (the "a.out kludge"), or that prefers not to be taken for one.
    pub addresses: Option<Addresses>,
}

/// The address fields, physical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    header: u32,
    load: u32,
    load_end: u32,
    bss_end: u32,
    entry: u32,
}

impl Header {
    /// Looks for it.
    pub fn find(data: &[u8]) -> Option<Self> {
        let start = data.get(..data.len().min(SEARCH))?;
        (0..start.len()).step_by(4).find_map(|offset| {
            let field = |i: usize| u32_at(start, offset + 4 * i);
            let flags = field(1).filter(|_| field(0) == Some(HEADER_MAGIC))?;
            if HEADER_MAGIC.wrapping_add(flags).wrapping_add(field(2)?) != 0 {
                return None;
            }
            let addresses = if flags & HAS_ADDRESSES == 0 {
                None
            } else {
                Some(Addresses {
                    header: field(3)?,
                    load: field(4)?,
                    load_end: field(5)?,
                    bss_end: field(6)?,
                    entry: field(7)?,
                })
            };
            Some(Self { offset, flags, addresses })
        })
    }
}

/// Loads a kernel with a multiboot header.
pub fn load(ram: &GuestRam, spec: &BootSpec) -> Result<CpuState, BootError> {
    let unsupported = |fact: String| BootError::Unsupported {
        file: spec.kernel.name.to_owned(),
        protocol: Protocol::Multiboot,
        fact,
        remedy: "use --boot auto",
    };
    let header = Header::find(spec.kernel.data).ok_or_else(|| unsupported("it has no header".to_owned()))?;
    let unknown = header.flags & 0xffff & !KNOWN;
    if unknown != 0 {
        return Err(unsupported(format!("it requires unknown features {unknown:#x}")));
    }
    let mut space = Space::new(ram, spec)?;
    let entry = match header.addresses {
        Some(addresses) => place_flat(&mut space, spec, &header, addresses)?,
        None if elf::is_elf(spec.kernel.data) => {
            let elf = Elf::parse(spec.kernel)?;
            elf.place(&mut space)?;
            let entry = elf.physical_entry();
            u32::try_from(entry).map_err(|_| unsupported(format!("its entry {entry:#x} is beyond 4 GiB")))?
        }
        None => return Err(unsupported("it is no ELF file and says no addresses".to_owned())),
    };
    let mut state = crate::entry::protected(&mut space, entry)?;
    state.gpr[gpr::RAX] = BOOT_MAGIC;
    state.gpr[gpr::RBX] = information(&mut space, spec)?;
    Ok(state)
}

/// Loads by the header's address fields; returns the entry.
fn place_flat(space: &mut Space, spec: &BootSpec, header: &Header, a: Addresses) -> Result<u32, BootError> {
    let data = spec.kernel.data;
    let corrupt = |fact: &str| BootError::Corrupt {
        file: spec.kernel.name.to_owned(),
        fact: format!("its multiboot header {fact}"),
    };
    let before = a.header.checked_sub(a.load).ok_or_else(|| corrupt("lies below its load address"))?;
    let start = (header.offset as u64)
        .checked_sub(u64::from(before))
        .ok_or_else(|| corrupt("places the load address before the file"))?;
    let file_len = match a.load_end {
        0 => data.len() as u64 - start,
        end => u64::from(end.checked_sub(a.load).ok_or_else(|| corrupt("ends before it begins"))?),
    };
    let code = slice(data, start, file_len).ok_or_else(|| BootError::Truncated {
        file: spec.kernel.name.to_owned(),
        what: "kernel code",
        need: start + file_len,
        have: data.len() as u64,
    })?;
    let mem_len = match a.bss_end {
        0 => file_len,
        end => u64::from(end).saturating_sub(u64::from(a.load)).max(file_len),
    };
    if !(u64::from(a.load)..u64::from(a.load) + file_len).contains(&u64::from(a.entry)) {
        return Err(corrupt("has its entry outside the code"));
    }
    space.claim(u64::from(a.load), mem_len)?;
    space.fill(u64::from(a.load), code, mem_len)?;
    Ok(a.entry)
}

/// Offsets in the information structure; its flags say which fields hold.
mod info {
    pub const LEN: usize = 116;
    pub const FLAGS: usize = 0;
    pub const MEM_LOWER: usize = 4;
    pub const MEM_UPPER: usize = 8;
    pub const CMDLINE: usize = 16;
    pub const MODS_COUNT: usize = 20;
    pub const MODS_ADDR: usize = 24;
    pub const MMAP_LENGTH: usize = 44;
    pub const MMAP_ADDR: usize = 48;
    pub const LOADER_NAME: usize = 64;
    /// Memory sizes, command line, modules, memory map, loader name.
    pub const HOLDS: u64 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
}

fn information(space: &mut Space, spec: &BootSpec) -> Result<u64, BootError> {
    let modules = modules(space, spec)?;
    let map = memory_map(space);
    let upper = space.map.regions().iter().find(|r| r.start == HIGH_MEMORY).map_or(0, |r| r.len);
    let fields = [
        (info::FLAGS, info::HOLDS),
        (info::MEM_LOWER, EBDA >> 10),
        (info::MEM_UPPER, upper >> 10),
        (info::CMDLINE, space.put_string(spec.cmdline)?),
        (info::MODS_COUNT, (modules.len() / 16) as u64),
        (info::MODS_ADDR, if modules.is_empty() { 0 } else { space.put_low(&modules, 16)? }),
        (info::MMAP_LENGTH, map.len() as u64),
        (info::MMAP_ADDR, space.put_low(&map, 16)?),
        (info::LOADER_NAME, space.put_string("Guesthouse")?),
    ];
    let mut raw = [0; info::LEN];
    for (at, value) in fields {
        raw[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    }
    space.put_low(&raw, 16)
}

/// The module list. Modules are always page-aligned, whether or not the header asks for it.
fn modules(space: &mut Space, spec: &BootSpec) -> Result<Vec<u8>, BootError> {
    let mut list = Vec::new();
    for module in initrd::modules(spec)? {
        let data = module.image.data;
        let start = space.high(data.len() as u64, 4096, memory::LOW_RAM_END)?;
        space.ram.load(start, data)?;
        let args = space.put_string(module.args)?;
        for field in [start, start + data.len() as u64, args, 0] {
            list.extend((field as u32).to_le_bytes());
        }
    }
    Ok(list)
}

/// Rows of base, length and type, each after its own size without that field.
fn memory_map(space: &Space) -> Vec<u8> {
    let mut map = Vec::new();
    for region in space.map.regions() {
        map.extend(20u32.to_le_bytes());
        map.extend(region.start.to_le_bytes());
        map.extend(region.len.to_le_bytes());
        map.extend((region.kind as u32).to_le_bytes());
    }
    map
}

#[cfg(test)]
mod tests;
