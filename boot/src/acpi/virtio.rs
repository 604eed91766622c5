//! Virtio devices behind memory-mapped registers, by the identifier that Linux's driver looks for.

use acpi_tables::aml::{Device, Interrupt, Memory32Fixed, Name, ResourceTemplate};

use super::bytes;

/// Devices one after the other, each with an interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Registers of the first device.
    pub base: u32,
    /// Bytes of each.
    pub len: u32,
    /// How many there are; the table names at most 256.
    pub count: u32,
    /// Device `n` has global system interrupt `first_gsi + n % lines`.
    pub first_gsi: u8,
    /// Number of lines; at least 1.
    pub lines: u8,
}

/// One after the other.
pub fn devices(all: &VirtioMmio) -> Vec<Vec<u8>> {
    (0..all.count.min(256)).map(|n| device(all, n as u8)).collect()
}

fn device(all: &VirtioMmio, n: u8) -> Vec<u8> {
    let base = all.base.wrapping_add(all.len.wrapping_mul(n.into()));
    let gsi = all.first_gsi.wrapping_add(n % all.lines.max(1));
    bytes(&Device::new(
        format!("VR{n:02X}").as_str().into(),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &n),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, base, all.len),
                    &Interrupt::new(true, false, false, true, gsi.into()),
                ]),
            ),
        ],
    ))
}
