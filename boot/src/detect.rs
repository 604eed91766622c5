//! Which kernel a file holds, by content, and which protocol boots it.

use crate::bytes::{array, u16_at, u32_at};
use crate::elf::Elf;
use crate::{BootError, BootSpec, Image, Protocol, elf, linux, multiboot, pvh};

/// What kernel a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A compressed Linux image with the setup header.
    BzImage,
    /// An ELF executable.
    Elf {
        /// 64-bit class.
        is_64: bool,
        /// Has the PVH entry note.
        pvh: bool,
        /// Has a multiboot header.
        multiboot: bool,
    },
    /// Another file with a multiboot header that says where to load it.
    MultibootFlat,
}

/// Recognises a kernel.
///
/// # Errors
/// An empty file, no kernel at all, or one for another ISA.
pub fn detect(image: Image) -> Result<Kind, BootError> {
    let data = image.data;
    if data.is_empty() {
        return Err(BootError::Empty { file: image.name.to_owned(), what: "a kernel image" });
    }
    if linux::is_bzimage(data) {
        return Ok(Kind::BzImage);
    }
    let header = multiboot::Header::find(data);
    if elf::is_elf(data) {
        let elf = Elf::parse(image)?;
        let pvh = pvh::entry(&elf).is_some();
        return Ok(Kind::Elf { is_64: elf.is_64, pvh, multiboot: header.is_some() });
    }
    if header.is_some_and(|h| h.addresses.is_some()) {
        return Ok(Kind::MultibootFlat);
    }
    if let Some(isa) = foreign(data) {
        return Err(BootError::WrongIsa { file: image.name.to_owned(), isa: isa.to_owned() });
    }
    if data.starts_with(b"MZ") && data.len() < linux::HEADER_END {
        let file = image.name.to_owned();
        let (need, have) = (linux::HEADER_END as u64, data.len() as u64);
        return Err(BootError::Truncated { file, what: "setup header", need, have });
    }
    Err(BootError::Unrecognized {
        file: image.name.to_owned(),
        what: "kernel that can be booted here",
        start: start(data),
        remedy: "a bzImage (vmlinuz), an ELF kernel or a multiboot kernel",
    })
}

/// The protocol for this kernel, or why the one asked for does not fit.
pub fn choose(spec: &BootSpec) -> Result<Protocol, BootError> {
    let kind = detect(spec.kernel)?;
    let refuse = |fact: &str, remedy| {
        let (file, fact) = (spec.kernel.name.to_owned(), fact.to_owned());
        Err(BootError::Unsupported { file, protocol: spec.protocol, fact, remedy })
    };
    use Protocol::{Auto, Elf, Linux, Multiboot, Pvh};
    match (spec.protocol, kind) {
        (Auto, Kind::BzImage) => Ok(Linux),
        (Auto, Kind::MultibootFlat | Kind::Elf { multiboot: true, .. }) => Ok(Multiboot),
        (Auto, Kind::Elf { pvh: true, .. }) => Ok(Pvh),
        // A superset of the bare ELF start: RSI names boot_params.
        (Auto, Kind::Elf { is_64: true, .. }) => Ok(Linux),
        (Auto, Kind::Elf { .. }) => Ok(Elf),
        (Linux, Kind::BzImage | Kind::Elf { is_64: true, .. }) => Ok(Linux),
        (Linux, _) => refuse("it is no bzImage and no 64-bit ELF file", "use --boot auto"),
        // Whether a bzImage has the note is seen when it is unpacked.
        (Pvh, Kind::BzImage | Kind::Elf { pvh: true, .. }) => Ok(Pvh),
        (Pvh, _) => refuse("it has no PVH entry note", "use --boot auto, or build it with CONFIG_PVH"),
        (Multiboot, Kind::MultibootFlat | Kind::Elf { multiboot: true, .. }) => Ok(Multiboot),
        (Multiboot, _) => refuse("it has no multiboot header in its first 8192 bytes", "use --boot auto"),
        (Elf, Kind::Elf { .. }) => Ok(Elf),
        (Elf, _) => refuse("it is no ELF file", "use --boot auto"),
    }
}

/// Images of other ISAs that have a magic of their own.
fn foreign(data: &[u8]) -> Option<&'static str> {
    // Linux: Documentation/arch/arm64/booting.rst, Documentation/arch/riscv/boot-image-header.rst.
    if array(data, 0x38) == Some(*b"ARM\x64") {
        return Some("arm64");
    }
    if array(data, 0x30) == Some(*b"RISCV\0\0\0") || array(data, 0x38) == Some(*b"RSC\x05") {
        return Some("riscv");
    }
    if array(data, 0x38) == Some(0x8182_23cd_u32.to_le_bytes()) {
        return Some("loongarch");
    }
    if u32_at(data, 0x24) == Some(0x016f_2818) {
        return Some("arm");
    }
    let pe = u32_at(data, 0x3c).filter(|_| data.starts_with(b"MZ"))? as usize;
    if array(data, pe)? != *b"PE\0\0" {
        return None;
    }
    match u16_at(data, pe.checked_add(4)?)? {
        0xaa64 => Some("arm64"),
        0x01c0 | 0x01c2 | 0x01c4 => Some("arm"),
        0x5032 | 0x5064 => Some("riscv"),
        0x6232 | 0x6264 => Some("loongarch"),
        _ => None,
    }
}

/// The first bytes, for error messages.
pub fn start(data: &[u8]) -> String {
    data.iter().take(8).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
