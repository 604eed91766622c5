//! VM Generation ID: where it is, and the device that tells of its changes (ACPI 6.5, 5.6.9, Generic Event Device).

use acpi_tables::aml::{Device, Interrupt, Method, Name, Notify, Package, Path, ResourceTemplate};

use super::bytes;

/// The identifier as the tables describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// 16 bytes of RAM that the memory map reserves.
    pub address: u64,
    /// An edge on this global system interrupt tells of a change.
    pub gsi: u8,
}

/// A change of what the device stands for, by its specification.
const CHANGED: u8 = 0x80;

pub fn devices(generation: &Generation) -> Vec<u8> {
    let (low, high) = (generation.address as u32, (generation.address >> 32) as u32);
    let mut out = bytes(&Device::new(
        "VGID".into(),
        vec![
            &Name::new("_HID".into(), &"GSTH0001"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &high])),
        ],
    ));
    let interrupt = Interrupt::new(true, true, false, false, generation.gsi.into());
    out.extend(bytes(&Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt])),
            &Method::new("_EVT".into(), 1, true, vec![&Notify::new(&Path::new("\\_SB_.VGID"), &CHANGED)]),
        ],
    )));
    out
}
