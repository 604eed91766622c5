//! Kernels made up for the tests of this crate.

use memory::GuestRam;

use crate::{BootError, BootSpec, Entry, Image, Module, Protocol};

/// "guesthouse " 300 times.
pub fn text() -> Vec<u8> {
    b"guesthouse ".repeat(300)
}

pub fn ram(mib: u64) -> GuestRam {
    GuestRam::new(mib << 20).unwrap()
}

pub fn read(ram: &GuestRam, at: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    ram.read(at, &mut data).unwrap();
    data
}

pub fn read_u32(ram: &GuestRam, at: u64) -> u64 {
    u64::from(u32::from_le_bytes(read(ram, at, 4).try_into().unwrap()))
}

pub fn read_u64(ram: &GuestRam, at: u64) -> u64 {
    u64::from_le_bytes(read(ram, at, 8).try_into().unwrap())
}

pub fn read_string(ram: &GuestRam, at: u64) -> String {
    let data = read(ram, at, 256);
    String::from_utf8(data.split(|&b| b == 0).next().unwrap().to_vec()).unwrap()
}

/// Boots a kernel named "k".
pub fn boot(
    ram: &GuestRam,
    kernel: &[u8],
    modules: &[(&str, &[u8], &str)],
    protocol: Protocol,
) -> Result<Entry, BootError> {
    let modules: Vec<_> =
        modules.iter().map(|&(name, data, args)| Module { image: Image { name, data }, args }).collect();
    let kernel = Image { name: "k", data: kernel };
    crate::load(ram, &BootSpec { kernel, modules: &modules, cmdline: "a=b c", protocol, rsdp: 0xe_0000 })
}

/// A bzImage of protocol 2.15 whose preferred address is 2 MiB, needing 3 MiB there.
pub struct BzImage {
    pub data: Vec<u8>,
}

impl BzImage {
    pub fn new(payload: &[u8]) -> Self {
        let mut code = vec![0x90; 0x400];
        code.extend(payload);
        code.resize(code.len().next_multiple_of(16) + 16, 0);
        let mut data = vec![0; 0x400]; // boot sector and one sector of setup
        let mut image = {
            data[0..2].copy_from_slice(b"MZ");
            data.extend(&code);
            Self { data }
        };
        image.set(0x1f1, &[1]);
        image.set(0x1f4, &((code.len() / 16) as u32).to_le_bytes());
        image.set(0x1fe, &0xaa55u16.to_le_bytes());
        image.set(0x200, &[0xeb, 0x66]);
        image.set(0x202, b"HdrS");
        image.set(0x206, &0x20fu16.to_le_bytes());
        image.set(0x20e, &0x100u16.to_le_bytes());
        image.set(0x211, &[1]);
        image.set(0x22c, &0x7fff_ffffu32.to_le_bytes());
        image.set(0x234, &[1]);
        image.set(0x236, &0x7fu16.to_le_bytes());
        image.set(0x238, &2047u32.to_le_bytes());
        image.set(0x248, &0x400u32.to_le_bytes());
        image.set(0x24c, &(payload.len() as u32).to_le_bytes());
        image.set(0x258, &0x20_0000u64.to_le_bytes());
        image.set(0x260, &0x30_0000u32.to_le_bytes());
        image.set(0x300, b"6.12.9-test #1\0");
        image.seal();
        image
    }

    pub fn set(&mut self, at: usize, data: &[u8]) {
        self.data[at..at + data.len()].copy_from_slice(data);
    }

    /// Makes the checksum right again: the last four bytes are the CRC of all before, inverted.
    pub fn seal(&mut self) {
        let end = self.data.len() - 4;
        let mut crc = flate2::Crc::new();
        crc.update(&self.data[..end]);
        self.set(end, &(!crc.sum()).to_le_bytes());
    }
}

/// A legacy lz4 file of one block, with the unpacked length behind it.
pub fn lz4(data: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(data);
    let mut out = vec![2, 0x21, 0x4c, 0x18];
    out.extend((block.len() as u32).to_le_bytes());
    out.extend(block);
    out.extend((data.len() as u32).to_le_bytes());
    out
}

pub fn note(name: &str, kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in [name.len() as u32 + 1, desc.len() as u32, kind] {
        out.extend(field.to_le_bytes());
    }
    out.extend(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(desc);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// The note that makes a kernel bootable by PVH.
pub fn pvh_note(entry: u64) -> Vec<u8> {
    note("Xen", 18, &entry.to_le_bytes())
}

/// An ELF executable: code at 1 MiB (virtual: at `virt`) with as much again of zeroed memory, and notes.
pub fn elf(is_64: bool, virt: u64, entry: u64, code: &[u8], notes: &[u8]) -> Vec<u8> {
    const CODE_AT: u64 = 0x100;
    let notes_at = CODE_AT + code.len() as u64;
    let mut out = vec![0x7f, b'E', b'L', b'F', if is_64 { 2 } else { 1 }, 1, 1];
    out.resize(16, 0);
    out.extend(2u16.to_le_bytes());
    out.extend(if is_64 { 62u16 } else { 3 }.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    let word = |out: &mut Vec<u8>, value: u64| {
        let bytes = value.to_le_bytes();
        out.extend(&bytes[..if is_64 { 8 } else { 4 }]);
    };
    word(&mut out, entry);
    word(&mut out, if is_64 { 64 } else { 52 });
    word(&mut out, 0);
    out.extend(0u32.to_le_bytes());
    let (header, row) = if is_64 { (64u16, 56u16) } else { (52, 32) };
    for half in [header, row, 2, 0, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    let code_len = code.len() as u64;
    let load = [CODE_AT, virt, 0x10_0000, code_len, code_len * 2];
    let note = [notes_at, 0, 0, notes.len() as u64, notes.len() as u64];
    for (kind, fields) in [(1u32, load), (4, note)] {
        out.extend(kind.to_le_bytes());
        if is_64 {
            out.extend(7u32.to_le_bytes());
        }
        fields.iter().for_each(|&f| word(&mut out, f));
        if !is_64 {
            out.extend(7u32.to_le_bytes());
        }
        word(&mut out, 4);
    }
    out.resize(CODE_AT as usize, 0);
    out.extend(code);
    out.extend(notes);
    out
}

/// A newc archive of files.
pub fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for (name, data) in files.iter().chain(&[("TRAILER!!!", &[][..])]) {
        let (size, len) = (data.len(), name.len() + 1);
        out.extend(format!("070701{0:08x}{0:08x}{0:08x}{0:08x}{0:08x}{0:08x}", 0).bytes());
        out.extend(format!("{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{len:08x}{0:08x}", 0).bytes());
        out.extend(name.bytes().chain([0]));
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(*data);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// A multiboot header; with load, load end, bss end and entry for a flat file.
pub fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let sum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    [&[0x1bad_b002, flags, sum], addresses].concat().iter().flat_map(|f| f.to_le_bytes()).collect()
}
