//! Small files of every kind that the loaders read.

/// A field of the ELF class's word size.
fn word(out: &mut Vec<u8>, is_64: bool, value: u64) {
    out.extend_from_slice(&value.to_le_bytes()[..if is_64 { 8 } else { 4 }]);
}

/// An ELF executable: `code` at 1 MiB, linked at `virt`, entered there; and notes.
pub fn elf(is_64: bool, virt: u64, code: &[u8], notes: &[u8]) -> Vec<u8> {
    const AT: usize = 0x100;
    let mut out = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(is_64), 1, 1];
    out.resize(16, 0);
    for half in [2, if is_64 { 62u16 } else { 3 }, 1, 0] {
        out.extend(half.to_le_bytes());
    }
    let (header, row) = if is_64 { (64u16, 56u16) } else { (52, 32) };
    for value in [virt, header.into(), 0] {
        word(&mut out, is_64, value);
    }
    out.extend(0u32.to_le_bytes());
    for half in [header, row, 2, 0, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    let (code_len, notes_len) = (code.len() as u64, notes.len() as u64);
    let rows = [
        (1u32, [AT as u64, virt, 0x10_0000, code_len, code_len * 2]),
        (4, [AT as u64 + code_len, 0, 0, notes_len, notes_len]),
    ];
    for (kind, fields) in rows {
        out.extend(kind.to_le_bytes());
        if is_64 {
            out.extend(7u32.to_le_bytes());
        }
        fields.iter().for_each(|&f| word(&mut out, is_64, f));
        if !is_64 {
            out.extend(7u32.to_le_bytes());
        }
        word(&mut out, is_64, 4);
    }
    out.resize(AT, 0);
    out.extend(code);
    out.extend(notes);
    out
}

/// The note that names the PVH entry.
pub fn pvh_note() -> Vec<u8> {
    let fields = [4u32, 8, 18].map(u32::to_le_bytes).concat();
    [&fields[..], b"Xen\0", &0x10_0000u64.to_le_bytes()].concat()
}

/// A multiboot header, with the addresses of a flat file if `flat`; and some code.
pub fn multiboot(flat: bool) -> Vec<u8> {
    let flags = if flat { 0x1_0003u32 } else { 3 };
    let mut fields = vec![0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)];
    if flat {
        fields.extend([0x10_0000, 0x10_0000, 0, 0x10_1000, 0x10_0020]);
    }
    let mut out: Vec<u8> = fields.iter().flat_map(|f| f.to_le_bytes()).collect();
    out.resize(128, 0xf4);
    out
}

/// A bzImage of protocol 2.15 around a packed vmlinux; `release` is the kernel's version.
pub fn bzimage(payload: &[u8], release: &[u8]) -> Vec<u8> {
    let mut code = vec![0x90; 0x210];
    code.extend(payload);
    code.resize(code.len().next_multiple_of(16) + 16, 0);
    let mut out = vec![0; 0x400];
    let mut set = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, b"MZ");
    set(0x1f1, &[1]);
    set(0x1f4, &((code.len() / 16) as u32).to_le_bytes());
    set(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    set(0x202, b"HdrS\x0f\x02");
    set(0x20e, &0x100u16.to_le_bytes());
    set(0x211, &[1]);
    set(0x22c, &0x7fff_ffffu32.to_le_bytes());
    set(0x234, &[1, 0, 0x7f, 0]);
    set(0x238, &2047u32.to_le_bytes());
    set(0x248, &0x210u32.to_le_bytes());
    set(0x24c, &(payload.len() as u32).to_le_bytes());
    set(0x258, &0x20_0000u64.to_le_bytes());
    set(0x260, &0x30_0000u32.to_le_bytes());
    set(0x300, release);
    out.extend(code);
    seal(&mut out);
    out
}

/// Makes a bzImage's checksum right again: the CRC of all before, inverted, at the end of its code.
pub fn seal(image: &mut [u8]) {
    let len = |image: &[u8]| {
        let sectors = usize::from(*image.get(0x1f1)?);
        let paragraphs = u32::from_le_bytes(image.get(0x1f4..0x1f8)?.try_into().ok()?);
        Some((sectors + 1) * 512 + (paragraphs as usize).checked_mul(16)?)
    };
    let Some(end) = len(image).and_then(|end| end.checked_sub(4)).filter(|end| end + 4 <= image.len()) else {
        return;
    };
    let mut crc = flate2::Crc::new();
    crc.update(&image[..end]);
    image[end..end + 4].copy_from_slice(&(!crc.sum()).to_le_bytes());
}

/// A gzip file; its last field is the unpacked length, as in a kernel's payload.
pub fn gzip(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to memory does not fail.
    let _ = encoder.write_all(data);
    encoder.finish().unwrap_or_default()
}

/// A legacy lz4 file of one block of literals. At least 15 bytes.
pub fn lz4(data: &[u8]) -> Vec<u8> {
    let mut block = vec![0xf0];
    let mut more = data.len().saturating_sub(15);
    while more >= 255 {
        block.push(255);
        more -= 255;
    }
    block.push(more as u8);
    block.extend(data);
    let mut out = vec![2, 0x21, 0x4c, 0x18];
    out.extend((block.len() as u32).to_le_bytes());
    out.extend(block);
    out
}

/// A zstd frame of one raw block. At most 255 bytes.
pub fn zstd(data: &[u8]) -> Vec<u8> {
    let header = (data.len() as u32) << 3 | 1;
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, data.len() as u8];
    out.extend(&header.to_le_bytes()[..3]);
    out.extend(data);
    out
}

/// An empty xz stream.
pub fn xz() -> Vec<u8> {
    b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46\0\0\0\0\x1c\xdf\x44\x21\x1f\xb6\xf3\x7d\x01\0\0\0\0\x04YZ".to_vec()
}

/// The head of an lzma file: properties, a dictionary of 64 KiB, length unknown, an empty range coder.
pub fn lzma() -> Vec<u8> {
    let mut out = vec![0x5d, 0, 0, 1, 0];
    out.extend([0xff; 8]);
    out.extend([0, 0x83, 0xff, 0xfb, 0xff, 0xff, 0xc0, 0, 0, 0]);
    out
}

/// A kernel's payload: the unpacked length follows the packed file.
pub fn payload(packed: Vec<u8>, len: usize) -> Vec<u8> {
    [packed, (len as u32).to_le_bytes().to_vec()].concat()
}

/// A newc archive.
pub fn cpio() -> Vec<u8> {
    let mut archive = ::guest::cpio::Archive::new();
    archive
        .add("init", 0o755, ::guest::cpio::Node::File(b"#!/bin/sh\n".to_vec()))
        .add("dev/console", 0o600, ::guest::cpio::Node::CharDevice(5, 1))
        .add("bin/sh", 0o777, ::guest::cpio::Node::Link(b"busybox".to_vec()));
    archive.write()
}

/// A tar archive of one member.
pub fn tar(name: &str, data: &[u8], kind: u8) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = header.to_vec();
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_samples_unpack() {
        use std::io::Read;
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&gzip(b"text")[..]).read_to_end(&mut text).unwrap();
        assert_eq!(text, b"text");
    }
}
