//! Code that must not run on the host's CPU as it is: it would tell of the host, or end otherwise than it should.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};

/// Bytes after which a decoder that began in the middle of an instruction has found its way.
const LOST: usize = 48;
/// Bytes of prefixes at most.
const PREFIXES: usize = 14;
/// Instructions that a process can be made to stop before: the CPU's breakpoints.
pub const PLACES: usize = 4;

/// Where such instructions may begin in a page, if there are no more than the host's CPU has places to stop at: CPUID, XGETBV, LSL and RDPID
/// (which tell a program on what CPU it is), SYSENTER, and those that save and restore as many registers as the host has (XSAVE and
/// its kin); INT with 3 or 4, which the host's kernel does not tell from shorter instructions and from faults. What only looks
/// like one, in the middle of others, is none. RDTSC faults there. `next`: the first byte of the page behind it, if code
/// goes on there.
pub fn places(page: &[u8], next: Option<u8>) -> Option<Vec<u16>> {
    let at = |i: usize| page.get(i).copied();
    let suspect =
        |i: usize, first| at(i + 1).or(next).is_some_and(|second| is_suspect(first, second, at(i + 2)));
    let mut places = Vec::new();
    for i in page.iter().enumerate().filter(|&(i, &byte)| suspect(i, byte)).map(|(i, _)| i) {
        if i < LOST + PREFIXES || i + 2 >= page.len() || is_reached(page, i) {
            places.extend(beginnings(page, i)?);
            if places.len() > PLACES {
                return None;
            }
        }
    }
    Some(places)
}

/// True if such an instruction may have this as its second byte, at the beginning of a page.
pub fn may_end(byte: u8) -> bool {
    [0x0f, 0xcd].into_iter().any(|first| is_suspect(first, byte, None))
}

/// Bytes of such an instruction behind its prefixes, the third where it is known.
fn is_suspect(first: u8, second: u8, third: Option<u8>) -> bool {
    let memory = |byte: u8, fields: [u8; 3]| byte < 0xc0 && fields.contains(&(byte >> 3 & 7));
    match (first, second) {
        (0x0f, 0x03 | 0x34 | 0xa2) => true,
        (0x0f, 0x01) => third.is_none_or(|byte| byte == 0xd0),
        (0x0f, 0xae) => third.is_none_or(|byte| memory(byte, [4, 5, 6])),
        (0x0f, 0xc7) => third.is_none_or(|byte| byte >= 0xf8 || memory(byte, [3, 4, 5])),
        (0xcd, 3 | 4) => true,
        _ => false,
    }
}

/// Where an instruction with these bytes may begin: there, and at each prefix before. Nothing if that may be in the page before.
fn beginnings(page: &[u8], suspect: usize) -> Option<impl Iterator<Item = u16>> {
    let prefix =
        |byte: u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let prefixes = page[..suspect].iter().rev().take_while(|&&byte| prefix(byte)).count();
    (prefixes < suspect).then(|| (suspect - prefixes..=suspect).map(|place| place as u16))
}

/// True if a decoder that has found its way comes to such an instruction near `suspect`. Which of the bytes before are prefixes of it
/// that one does not know for sure.
fn is_reached(page: &[u8], suspect: usize) -> bool {
    let mut decoder = Decoder::new(64, page, DecoderOptions::NONE);
    let mut insn = Instruction::default();
    if decoder.set_position(suspect - LOST - PREFIXES).is_err() {
        return true;
    }
    while decoder.position() <= suspect {
        decoder.decode_out(&mut insn);
        let interrupt = insn.mnemonic() == Mnemonic::Int && matches!(insn.immediate8(), 3 | 4);
        if interrupt || REFUSED.contains(&insn.mnemonic()) {
            return true;
        }
    }
    false
}

const REFUSED: [Mnemonic; 17] = [
    Mnemonic::Cpuid,
    Mnemonic::Xgetbv,
    Mnemonic::Lsl,
    Mnemonic::Rdpid,
    Mnemonic::Sysenter,
    Mnemonic::Xsave,
    Mnemonic::Xsave64,
    Mnemonic::Xsavec,
    Mnemonic::Xsavec64,
    Mnemonic::Xsaveopt,
    Mnemonic::Xsaveopt64,
    Mnemonic::Xsaves,
    Mnemonic::Xsaves64,
    Mnemonic::Xrstor,
    Mnemonic::Xrstor64,
    Mnemonic::Xrstors,
    Mnemonic::Xrstors64,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn page(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut page = vec![0x90; 4096];
        let end = (at + bytes.len()).min(4096);
        page[at..end].copy_from_slice(&bytes[..end - at]);
        page
    }

    const TELLING: [&[u8]; 10] = [
        &[0x0f, 0xa2],
        &[0x0f, 0x01, 0xd0],
        &[0x0f, 0x03, 0xc0],
        &[0x0f, 0x34],
        &[0x0f, 0xae, 0x64, 0x24, 0x40],
        &[0x0f, 0xc7, 0x64, 0x24, 0x40],
        &[0x48, 0x0f, 0xae, 0x2b],
        &[0xf3, 0x0f, 0xc7, 0xf8],
        &[0xcd, 0x03],
        &[0xcd, 0x04],
    ];

    #[test]
    fn what_tells_of_the_host_is_found() {
        for insn in TELLING {
            for at in [1, 7, 64, 2000, 4090] {
                let places = places(&page(at, insn), Some(0x90)).unwrap();
                assert!(places.contains(&(at as u16)), "{insn:x?} at {at}: {places:?}");
            }
        }
        assert_eq!(places(&page(4095, &[0x0f]), Some(0xa2)), Some(vec![4095]), "goes on in the next page");
    }

    #[test]
    fn where_it_may_begin_is_every_prefix() {
        let found = |at, bytes: &[u8]| places(&page(at, bytes), None);
        assert_eq!(found(9, &[0x66, 0x48, 0x0f, 0xa2]), Some(vec![9, 10, 11]));
        assert_eq!(found(900, &[0x66, 0x48, 0x0f, 0xa2]), Some(vec![900, 901, 902]));
        assert_eq!(found(0, &[0x48, 0x0f, 0xa2]), None, "it may begin in the page before");
        assert_eq!(found(0, &[0x0f, 0xa2]), None);
    }

    #[test]
    fn there_are_no_more_than_can_be_stopped_at() {
        let calls = |count| places(&page(200, &[0x0f, 0xa2].repeat(count)), None);
        assert_eq!(calls(4), Some(vec![200, 202, 204, 206]));
        assert_eq!(calls(5), None);
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        let none = |at, bytes: &[u8]| places(&page(at, bytes), Some(0x90)) == Some(vec![]);
        assert!(none(0, &[]));
        assert_eq!(places(&page(4095, &[0x0f]), Some(0x1f)), Some(vec![]));
        // and al, 0x0f; add eax, edx
        assert!(none(64, &[0x24, 0x0f, 0x03, 0xc2]));
        // mov eax, 0x3cd; int 0x80
        assert!(none(64, &[0xb8, 0xcd, 0x03, 0x00, 0x00, 0xcd, 0x80]));
        // mov eax, 0x34a20f
        assert!(none(2000, &[0xb8, 0x0f, 0xa2, 0x34, 0x00]));
    }
}
