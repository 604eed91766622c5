//! Little-endian register data.

use crate::Action;

/// The value of up to eight bytes; further ones are dropped.
pub fn get(data: &[u8]) -> u64 {
    data.iter().take(8).rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Writes the low bytes of `value`; bytes beyond eight become zero.
pub fn put(data: &mut [u8], value: u64) {
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = value.checked_shr(8 * i as u32).unwrap_or(0) as u8;
    }
}

/// A wide read of an 8-bit part is a series of byte reads, as the chipset splits it.
pub(crate) fn read_each(offset: u64, data: &mut [u8], mut read: impl FnMut(u64) -> u8) {
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = read(offset.wrapping_add(i as u64));
    }
}

/// As [`read_each`], for writes.
pub(crate) fn write_each(offset: u64, data: &[u8], mut write: impl FnMut(u64, u8) -> Action) -> Action {
    let mut action = Action::None;
    for (i, &byte) in data.iter().enumerate() {
        action = action.or(write(offset.wrapping_add(i as u64), byte));
    }
    action
}
