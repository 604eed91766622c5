//! Exception handlers that write down what they were called with, and halt.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use memory::GuestRam;

use crate::guest::{Guest, Mode};
use crate::layout::{RECORD, STUBS, sel};

/// What the handlers wrote down of the last event.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Record {
    /// How many there were.
    pub count: u64,
    pub vector: u64,
    pub code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    /// Valid if the frame has it: long mode, or from another privilege level.
    pub rsp: u64,
    pub ss: u64,
}

const COUNT: u64 = RECORD + 0x40;

impl Record {
    pub fn read(ram: &GuestRam) -> Self {
        let word = |i: u64| ram.load_u64(RECORD + i * 8).unwrap_or(0);
        Self {
            count: ram.load_u64(COUNT).unwrap_or(0),
            vector: word(0),
            code: word(1),
            rip: word(2),
            cs: word(3),
            rflags: word(4),
            rsp: word(5),
            ss: word(6),
        }
    }
}

fn has_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

/// A stub per vector and the common part; every gate leads to its stub.
pub(crate) fn install(guest: &mut Guest) -> Result<(), IcedError> {
    match guest.mode() {
        Mode::Real => install_real(guest),
        Mode::Long => install_long(guest),
        _ => install_protected(guest),
    }
}

/// Bytes per stub.
const STUB: u64 = 16;
const COMMON: u64 = STUBS + STUB * 256;

/// Writes the stub of a vector and gives its address. Real mode has no error codes.
fn stub(guest: &mut Guest, bits: u32, vector: u8) -> Result<u64, IcedError> {
    let at = STUBS + u64::from(vector) * STUB;
    guest.code_at(at, bits, |a| {
        if bits == 16 || !has_code(vector) {
            a.push(0)?;
        }
        a.push(i32::from(vector))?;
        a.jmp(COMMON)
    })?;
    Ok(at)
}

fn install_long(guest: &mut Guest) -> Result<(), IcedError> {
    for vector in 0..=255 {
        let at = stub(guest, 64, vector)?;
        guest.idt(vector, sel::CODE64, at, 0x8e, 0);
    }
    guest.code_at(COMMON, 64, |a| {
        for word in 0..7 {
            a.pop(qword_ptr(RECORD + word * 8))?;
        }
        a.inc(dword_ptr(COUNT))?;
        a.hlt()
    })
}

fn install_protected(guest: &mut Guest) -> Result<(), IcedError> {
    for vector in 0..=255 {
        let at = stub(guest, 32, vector)?;
        guest.idt(vector, sel::CODE32, at, 0x8e, 0);
    }
    guest.code_at(COMMON, 32, |a| {
        // SS is good here, DS may be null. The last two are the caller's stack only if the level changed.
        for word in 0..7 {
            a.pop(dword_ptr(RECORD + word * 8).ss())?;
        }
        a.inc(dword_ptr(COUNT).ss())?;
        a.hlt()
    })
}

fn install_real(guest: &mut Guest) -> Result<(), IcedError> {
    for vector in 0..=255 {
        let at = stub(guest, 16, vector)?;
        guest.write_u32(u64::from(vector) * 4, at as u32);
    }
    guest.code_at(COMMON, 16, |a| {
        for word in 0..5 {
            a.pop(word_ptr(RECORD + word * 8).cs())?;
        }
        a.inc(word_ptr(COUNT).cs())?;
        a.hlt()
    })
}
