//! Streams of instructions in every mode: each opcode with a few operands, and what systems do.

use super::scenario::{HEADER, MODES};

/// Operands that reach memory through a register, an absolute address, and a register.
const MODRM: [u8; 3] = [0x03, 0x45, 0xc8];

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for mode in 0..MODES {
        for (i, code) in systems().iter().enumerate() {
            seeds.push(scenario(mode, i as u8, code));
        }
    }
    for (i, prefix) in prefixes().iter().enumerate() {
        for group in 0..16u8 {
            let mode = (i as u8).wrapping_mul(5).wrapping_add(group) % MODES;
            let code: Vec<u8> = (0..16).flat_map(|low| one(prefix, group << 4 | low)).collect();
            seeds.push(scenario(mode, group, &code));
        }
    }
    seeds
}

/// What stands before an opcode byte: maps, mandatory prefixes, VEX.
fn prefixes() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![
        vec![],
        vec![0x66],
        vec![0x48],
        vec![0x67],
        vec![0xf3],
        vec![0xf0],
        vec![0x0f],
        vec![0x66, 0x0f],
        vec![0xf2, 0x0f],
        vec![0xf3, 0x0f],
        vec![0x48, 0x0f],
        vec![0xf0, 0x0f],
    ];
    for map in [0x38, 0x3a] {
        all.push(vec![0x0f, map]);
        all.push(vec![0x66, 0x0f, map]);
        all.push(vec![0xf2, 0x0f, map]);
    }
    for map in 1..=3u8 {
        for low in [0x78, 0x79, 0x7d, 0xfa, 0xfb] {
            all.push(vec![0xc4, 0xe0 | map, low]);
        }
    }
    all
}

fn one(prefix: &[u8], opcode: u8) -> Vec<u8> {
    let mut out = prefix.to_vec();
    out.push(opcode);
    out.push(MODRM[usize::from(opcode) % 3]);
    out.extend([0x10, 0x01, 0x02]);
    out.extend([0x90; 3]);
    out
}

/// Registers that point at data, flags off, everything allowed.
fn scenario(mode: u8, variant: u8, code: &[u8]) -> Vec<u8> {
    let mut out = vec![mode, 3];
    let options: u32 = [0, 0, 2, 0x40, 0x80, 0x10, 0x8000, 0x800][usize::from(variant) % 8];
    out.extend(options.to_le_bytes());
    out.extend(0x20u32.to_le_bytes());
    out.extend([0, 0, 0, if variant & 1 == 0 { 3 } else { 0 }]);
    out.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    out.extend([17, 3, 20, 24, 8, 32, 40, 48, 1, 2, 0x7f, 0xff, 64, 90, 130, 176]);
    out.resize(HEADER - 11, 0);
    out.extend([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
    out.resize(HEADER, 0);
    out.extend(code);
    out
}

/// Sequences that bring a CPU somewhere.
fn systems() -> Vec<Vec<u8>> {
    let all: [&[u8]; 24] = [
        // A loop, calls, string instructions.
        b"\xb9\x05\x00\x00\x00\x49\x75\xfd\xe8\x00\x00\x00\x00\x58\xf3\xa4\xf3\xaa\xf2\xae\xf4",
        b"\xfc\xb9\xff\x00\x00\x00\xf3\xa5\xf3\xab\xf3\xa7\xf3\x6c\xf3\x6e\xfd\xf3\xa4",
        // Software interrupts, flags, I/O.
        b"\xcd\x80\xcc\xce\xf1\xcd\x0e\x9c\x9d\xfa\xfb\xe4\x60\xe6\x80\xec\xee\xed\xef",
        // Far transfers: to selectors of the GDT, gates and tasks.
        b"\xea\x00\x00\x01\x00\x10\x00\x9a\x00\x00\x01\x00\x60\x00\xcb\xcf",
        b"\x9a\x00\x00\x00\x00\x90\x00\xea\x00\x00\x00\x00\xa0\x00\xcf",
        b"\x0e\x68\x00\x00\x01\x00\xcb\x16\x54\x9c\x0e\x50\xcf\x48\xcf",
        // Control and debug registers.
        b"\x0f\x20\xc0\x0f\x22\xc0\x0f\x20\xd8\x0f\x22\xd8\x0f\x20\xe0\x0f\x22\xe0\x0f\x21\xf8\x0f\x23\xf8",
        b"\xb8\x11\x00\x01\x80\x0f\x22\xc0\xb8\xa0\x06\x00\x00\x0f\x22\xe0\x0f\x06\x0f\x01\xf0",
        // MSRs: EFER, then any.
        b"\xb9\x80\x00\x00\xc0\x0f\x32\x0f\x30\xb9\x10\x00\x00\x00\x0f\x32\x0f\x30\xb9\x1b\x00\x00\x00\x0f\x32",
        b"\xb9\x00\x01\x00\xc0\x0f\x30\xb9\x76\x01\x00\x00\x0f\x32\x0f\x30\x0f\x05\x0f\x34\x0f\x35\x0f\x07",
        // Tables.
        b"\x0f\x01\x03\x0f\x01\x0b\x0f\x01\x13\x0f\x01\x1b\x0f\x00\xc0\x0f\x00\xd0\x0f\x00\xd8\x0f\x00\xe0",
        b"\x0f\x02\xc3\x0f\x03\xc3\x0f\x00\xe8\x63\xc3\x8e\xd8\x8e\xd0\x8e\xc0\x07\x1f\x0f\xa1\x0f\xa9",
        b"\x62\x03\xc4\x03\xc5\x03\x0f\xb2\x03\x0f\xb4\x03\x0f\xb5\x03",
        // Paging.
        b"\x0f\x01\x3b\x66\x0f\x38\x82\x03\x0f\x09\x0f\x08\x0f\x01\xca\x0f\x01\xcb\x0f\x01\xf8",
        // x87 and its environments.
        b"\xdb\xe3\xd9\xe8\xd9\xeb\xd8\xc1\xd9\xfa\xdd\x33\xdd\x23\xd9\x33\xd9\x23\xdf\x33\xdf\x23\x9b\xd9\xf2",
        b"\x0f\xae\x03\x0f\xae\x0b\x0f\xae\x23\x0f\xae\x2b\x0f\xae\x1b\x0f\xae\x13\x0f\xc7\x23",
        b"\xb9\x00\x00\x00\x00\x0f\x01\xd0\x0f\x01\xd1\x0f\xae\x33\xc5\xf8\x77\xc5\xfc\x77",
        // Vectors.
        b"\x0f\x10\x03\x66\x0f\x6f\x0b\x0f\x58\xc1\x66\x0f\xfe\xca\x0f\x29\x03\x66\x0f\xe7\x03\x0f\x5e\xc0",
        b"\xc5\xfc\x10\x03\xc5\xfc\x58\xc8\xc4\xe2\x7d\x92\x04\x0b\xc4\xe2\x75\x8c\x03\xc5\xfc\x11\x03",
        b"\x66\x0f\xf7\xc1\x0f\xf7\xc1\x0f\x77\x0f\x6f\x03\x0f\x7f\x03\x0f\xc7\x0b\x48\x0f\xc7\x0b\xf0\x0f\xb1\x0b",
        // Code that writes code.
        b"\xc7\x05\x00\x00\x00\x00\x90\x90\x90\x90\xc6\x05\x01\x00\x00\x00\xf4\xe9\xf0\xff\xff\xff",
        b"\xbf\x10\x00\x01\x00\xb0\xf4\xaa\xb9\x20\x00\x00\x00\xf3\xaa\x90\x90\x90",
        // Frames, single step.
        b"\xc8\x10\x00\x03\xc9\xc8\x00\x00\x1f\xc9\x60\x61\x9c\x80\x4c\x24\x01\x01\x9d\x90\x90\x90",
        // Time, identity, random numbers.
        b"\x31\xc0\x0f\xa2\x0f\x31\x0f\x01\xf9\x0f\xc7\xf0\x0f\xc7\xf8\xf3\x0f\xc7\xf8\x0f\x33",
    ];
    all.iter().map(|code| code.to_vec()).collect()
}
