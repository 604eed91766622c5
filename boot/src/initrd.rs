//! Initrds and modules: checked, then put where the kernel reads them.

use crate::bytes::{align_up, array, slice};
use crate::layout::{MAX_MODULES, Space};
use crate::unpack::{self, Format};
use crate::{BootError, BootSpec, Image};

/// Loads all modules back to back, page-aligned, ending at or below `limit`: start and length, or `None`
/// without modules. Archives after the first begin on 4 bytes, where the kernel looks for them.
pub fn place(space: &mut Space, spec: &BootSpec, limit: u64) -> Result<Option<(u64, u64)>, BootError> {
    let mut len = 0;
    for module in modules(spec)? {
        check(module.image, space.ram.size())?;
        len = aligned(len) + module.image.data.len() as u64;
    }
    if len == 0 {
        return Ok(None);
    }
    let start = space.high(len, 4096, limit)?;
    let mut at = start;
    for module in spec.modules {
        let data = module.image.data;
        space.ram.load(at, data)?;
        let end = at + data.len() as u64;
        at = aligned(end).min(start + len);
        space.fill(end, &[], at - end)?;
    }
    Ok(Some((start, len)))
}

/// The modules, none of them empty.
pub fn modules<'a>(spec: &BootSpec<'a>) -> Result<&'a [crate::Module<'a>], BootError> {
    if spec.modules.len() > MAX_MODULES {
        return Err(BootError::TooManyModules(spec.modules.len()));
    }
    match spec.modules.iter().find(|m| m.image.data.is_empty()) {
        Some(m) => Err(BootError::Empty { file: m.image.name.to_owned(), what: "an initrd" }),
        None => Ok(spec.modules),
    }
}

fn aligned(at: u64) -> u64 {
    align_up(at, 4).unwrap_or(at)
}

/// Checks that Linux can use the file: cpio archives and compressed ones in any order (Linux,
/// Documentation/driver-api/early-userspace/buffer-format.rst), or a file system image. What is unpacked
/// must fit into guest RAM.
pub fn check(image: Image, ram: u64) -> Result<(), BootError> {
    let mut rest = image.data;
    if is_file_system(rest) {
        return Ok(());
    }
    let mut seen = false;
    loop {
        while let Some(tail) = rest.strip_prefix(&[0]) {
            rest = tail;
        }
        if rest.is_empty() && seen {
            return Ok(());
        }
        if let Some(format) = Format::of(rest) {
            return check_packed(image, format, rest, ram);
        }
        if !rest.starts_with(b"07070") {
            return Err(unrecognized(image, rest, seen));
        }
        rest = skip_cpio(image, rest)?;
        seen = true;
    }
}

fn unrecognized(image: Image, rest: &[u8], seen: bool) -> BootError {
    let file = image.name.to_owned();
    if seen {
        let at = image.data.len() - rest.len();
        return BootError::Corrupt { file, fact: format!("no archive continues at byte {at}") };
    }
    BootError::Unrecognized {
        file,
        what: "initrd",
        start: crate::detect::start(image.data),
        remedy: "a cpio archive (newc), plain or compressed",
    }
}

/// A compressed archive reaches to the end of the file.
fn check_packed(image: Image, format: Format, data: &[u8], ram: u64) -> Result<(), BootError> {
    let file = image.name.to_owned();
    match unpack::drain(format, data, ram) {
        Ok(Some(0)) => Err(BootError::Corrupt { file, fact: "it unpacks to nothing".to_owned() }),
        Ok(Some(n)) if n > ram => Err(BootError::MemoryTooSmall { file, need: n + (64 << 20), have: ram }),
        Ok(_) => Ok(()),
        Err(e) => {
            let text = e.to_string().replace('\n', " ");
            Err(BootError::Corrupt { file, fact: format!("it does not unpack ({text})") })
        }
    }
}

/// Walks one newc archive to its trailer; returns what follows.
fn skip_cpio<'a>(image: Image<'a>, archive: &'a [u8]) -> Result<&'a [u8], BootError> {
    let base = image.data.len() - archive.len();
    let corrupt = |at: u64, fact: &str| BootError::Corrupt {
        file: image.name.to_owned(),
        fact: format!("{fact} at byte {}", base as u64 + at),
    };
    let truncated = |need: u64| BootError::Truncated {
        file: image.name.to_owned(),
        what: "archive",
        need: base as u64 + need,
        have: image.data.len() as u64,
    };
    let mut at = 0u64;
    loop {
        let header = slice(archive, at, 110).ok_or_else(|| truncated(at + 110))?;
        if !header.starts_with(b"070701") && !header.starts_with(b"070702") {
            return Err(corrupt(at, "there is no archive member where one should be"));
        }
        let (size, name_len) = field(header, 54)
            .zip(field(header, 94))
            .ok_or_else(|| corrupt(at, "an archive member's header is no number"))?;
        let name = slice(archive, at + 110, name_len).ok_or_else(|| truncated(at + 110 + name_len))?;
        let data = aligned(at + 110 + name_len);
        if name == b"TRAILER!!!\0" {
            let end = usize::try_from(data).unwrap_or(usize::MAX);
            return Ok(archive.get(end..).unwrap_or_default());
        }
        if data + size > archive.len() as u64 {
            return Err(truncated(data + size));
        }
        at = aligned(data + size);
    }
}

/// Eight hexadecimal digits.
fn field(header: &[u8], at: usize) -> Option<u64> {
    let digits: [u8; 8] = array(header, at)?;
    u64::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
}

/// Images that a kernel with RAM disks mounts as they are.
fn is_file_system(data: &[u8]) -> bool {
    data.starts_with(b"hsqs")
        || data.starts_with(b"-rom1fs-")
        || array(data, 0) == Some(0x28cd_3d45u32.to_le_bytes())
        || array(data, 1080) == Some([0x53, 0xef])
}

#[cfg(test)]
mod tests;
