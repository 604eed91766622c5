//! The PVH boot protocol (Xen, docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h): an
//! ELF note names a 32-bit entry point, EBX points to `hvm_start_info` version 1.
//!
//! A bzImage is unpacked on the host and the vmlinux inside is booted.

use cpu::CpuState;
use cpu::x86::gpr;
use memory::GuestRam;

use crate::bytes::array;
use crate::elf::Elf;
use crate::layout::Space;
use crate::linux::{self, Header};
use crate::{BootError, BootSpec, Image, Protocol, initrd, unpack};

/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;
const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;

/// The entry point that the note names.
pub fn entry(elf: &Elf) -> Option<u32> {
    let note = elf.notes().find(|n| n.name == b"Xen" && n.kind == PHYS32_ENTRY)?;
    match note.desc.len() {
        8 => array(note.desc, 0).and_then(|b| u32::try_from(u64::from_le_bytes(b)).ok()),
        _ => array(note.desc, 0).map(u32::from_le_bytes),
    }
}

/// Loads an ELF file with the note, or the one inside a bzImage.
pub fn load(ram: &GuestRam, spec: &BootSpec) -> Result<CpuState, BootError> {
    if !linux::is_bzimage(spec.kernel.data) {
        let elf = Elf::parse(spec.kernel)?;
        let linux = elf.notes().any(|n| n.name == b"Linux");
        return start(ram, spec, &elf, linux);
    }
    let header = Header::parse(spec)?;
    linux::check_cmdline(spec, header.cmdline_max)?;
    let vmlinux = unpack::payload(spec.kernel.name, header.payload(spec)?, ram.size())?;
    let elf = Elf::parse(Image { name: spec.kernel.name, data: &vmlinux })?;
    start(ram, spec, &elf, true)
}

fn start(ram: &GuestRam, spec: &BootSpec, elf: &Elf, linux: bool) -> Result<CpuState, BootError> {
    let entry = entry(elf).ok_or_else(|| BootError::Unsupported {
        file: spec.kernel.name.to_owned(),
        protocol: Protocol::Pvh,
        fact: "it has no PVH entry note".to_owned(),
        remedy: "use --boot auto, or build it with CONFIG_PVH",
    })?;
    let mut space = Space::new(ram, spec)?;
    elf.place(&mut space)?;
    let mut state = crate::entry::protected(&mut space, entry)?;

    let modules = modules(&mut space, spec, linux)?;
    let map = memory_map(&space);
    let map_at = space.put_low(&map, 16)?;
    let mut info = Vec::new();
    info.extend(MAGIC.to_le_bytes());
    info.extend(VERSION.to_le_bytes());
    info.extend(0u32.to_le_bytes()); // flags
    info.extend(((modules.len() / 32) as u32).to_le_bytes());
    let modules_at = if modules.is_empty() { 0 } else { space.put_low(&modules, 16)? };
    info.extend(modules_at.to_le_bytes());
    info.extend(space.put_string(spec.cmdline)?.to_le_bytes());
    info.extend(spec.rsdp.to_le_bytes());
    info.extend(map_at.to_le_bytes());
    info.extend(((map.len() / 24) as u32).to_le_bytes());
    info.extend(0u32.to_le_bytes()); // reserved
    state.gpr[gpr::RBX] = space.put_low(&info, 16)?;
    Ok(state)
}

/// The module list: Linux takes the first entry as its initrd, so there all files become one.
fn modules(space: &mut Space, spec: &BootSpec, linux: bool) -> Result<Vec<u8>, BootError> {
    let mut list = Vec::new();
    let mut entry = |start: u64, len: u64, args: u64| {
        for field in [start, len, args, 0] {
            list.extend(field.to_le_bytes());
        }
    };
    if linux {
        if let Some((start, len)) = initrd::place(space, spec, linux::INITRD_LIMIT)? {
            entry(start, len, 0);
        }
        return Ok(list);
    }
    for module in initrd::modules(spec)? {
        let data = module.image.data;
        let start = space.high(data.len() as u64, 4096, memory::LOW_RAM_END)?;
        space.ram.load(start, data)?;
        let args = if module.args.is_empty() { 0 } else { space.put_string(module.args)? };
        entry(start, data.len() as u64, args);
    }
    Ok(list)
}

fn memory_map(space: &Space) -> Vec<u8> {
    let rows =
        space.map.regions().iter().flat_map(|r| {
            [r.start.to_le_bytes(), r.len.to_le_bytes(), u64::from(r.kind as u32).to_le_bytes()]
        });
    rows.flatten().collect()
}

#[cfg(test)]
mod tests;
