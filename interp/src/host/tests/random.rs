//! Whatever the bytes are: an instruction completes, faults or is not implemented, and the process goes on.

use cpu::x86::{cr0, efer, seg, seg_attr};

use super::generate::Random;
use super::guest::{DATA, Guest};

const ROUNDS: u64 = 60_000;

/// Bytes that begin like an instruction of this module.
fn bytes(random: &mut Random) -> [u8; 15] {
    let mut bytes = [0; 15];
    bytes.iter_mut().for_each(|b| *b = random.next() as u8);
    let prefixes = [0x66, 0xf2, 0xf3, 0x48, 0x44, 0x67];
    let mut at = 0;
    while at < 3 && random.below(2) == 0 {
        bytes[at] = prefixes[random.below(6) as usize];
        at += 1;
    }
    let start: &[u8] = match random.below(8) {
        0 => &[0x0f],
        1 => &[0x0f, 0x38],
        2 => &[0x0f, 0x3a],
        3 => &[0xc5],
        4 | 5 => &[0xc4],
        6 => &[0x0f, 0xae],
        _ => {
            bytes[at] = 0xd8 | random.next() as u8 & 7;
            return bytes;
        }
    };
    bytes[at..at + start.len()].copy_from_slice(start);
    if start == [0xc4] {
        bytes[at + 1] = (bytes[at + 1] & 0xe0) | (1 + random.below(3) as u8);
    }
    bytes
}

fn run(seed: u64, prepare: impl Fn(&mut Guest)) {
    let mut random = Random::new(seed);
    let mut guest = Guest::new();
    for round in 0..ROUNDS {
        if round % 64 == 0 {
            guest = Guest::new();
            prepare(&mut guest);
            guest.cpu.host.mxcsr = random.next() as u32 & 0xffff;
            let image = guest.cpu.host.x87_mut();
            image.fcw = (random.next() as u16 & 0x1f3f) | 0x40;
            image.fsw = random.next() as u16;
            image.ftw = random.next() as u8;
            image.summarise();
        }
        for n in 0..16 {
            guest.cpu.regs[n] = match random.below(4) {
                0 => random.next() >> random.below(64),
                _ => DATA + random.below(0x1000),
            };
        }
        let bytes = bytes(&mut random);
        let _ = guest.run(&bytes);
    }
}

#[test]
fn in_64_bit_mode() {
    run(11, |_| {});
}

#[test]
fn with_exceptions_ignored() {
    run(12, |guest| guest.cpu.cr0 &= !cr0::NE);
}

#[test]
fn in_protected_mode() {
    run(13, |guest| {
        let mut state = Guest::state();
        state.efer &= !(efer::LMA | efer::LME);
        state.cr0 &= !cr0::PG;
        let cs = &mut state.segments[seg::CS];
        cs.attr = (cs.attr & !seg_attr::L) | seg_attr::DB;
        guest.cpu.load_state(&state);
    });
}

#[test]
fn in_16_bit_protected_mode() {
    run(14, |guest| {
        let mut state = Guest::state();
        state.efer &= !(efer::LMA | efer::LME);
        state.cr0 &= !cr0::PG;
        state.segments[seg::CS].attr &= !seg_attr::L;
        guest.cpu.load_state(&state);
    });
}
