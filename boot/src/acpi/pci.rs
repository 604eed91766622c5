//! The PCI bus: MCFG, the root bus in the DSDT with its windows and interrupts, and the reservation that makes
//! guests believe the MCFG.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Memory32Fixed, Name, Package, PackageBuilder,
    ResourceTemplate,
};
use acpi_tables::mcfg::MCFG;

use super::{OEM, OEM_TABLE, REVISION, bytes};

/// The root bus, number 0, as the tables describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciRoot {
    /// Memory-mapped configuration space.
    pub ecam: u32,
    /// Its bytes.
    pub ecam_len: u32,
    /// First and last address of the window below 4 GiB.
    pub low: (u32, u32),
    /// First and last address of the window above.
    pub high: (u64, u64),
    /// Interrupt pin A of slot `n` is global system interrupt `first_gsi + n % lines`.
    pub first_gsi: u8,
    /// Number of lines; at least 1.
    pub lines: u8,
}

pub fn mcfg(root: &PciRoot) -> impl Aml {
    let mut table = MCFG::new(OEM, OEM_TABLE, REVISION);
    table.add_ecam(root.ecam.into(), 0, 0, 0);
    table
}

pub fn root_bus(root: &PciRoot) -> Vec<u8> {
    let window = |min: u64, max: u64| {
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, min, max, None)
    };
    let (low_min, low_max) = root.low;
    let low =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, low_min, low_max, None::<u32>);
    bytes(&Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_SEG".into(), &0u8),
            &Name::new("_BBN".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0u16, 0u16),
                    &IO::new(0xcf8, 0xcf8, 1, 8),
                    &low,
                    &window(root.high.0, root.high.1),
                ]),
            ),
            &Name::new("_PRT".into(), &interrupts(root)),
        ],
    ))
}

/// Device address with any function, pin, no link device, global system interrupt (ACPI 6.5, 6.2.13).
fn interrupts(root: &PciRoot) -> PackageBuilder {
    const PIN_A: u8 = 0;
    let mut table = PackageBuilder::new();
    for slot in 1..32u8 {
        let address = u32::from(slot) << 16 | 0xffff;
        let gsi = root.first_gsi.wrapping_add(slot % root.lines.max(1));
        table.add_element(&Package::new(vec![&address, &PIN_A, &0u8, &gsi]));
    }
    table
}

/// A device that owns the configuration space, so that nothing else is put there.
pub fn reservation(root: &PciRoot) -> Vec<u8> {
    bytes(&Device::new(
        "ECAM".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Memory32Fixed::new(true, root.ecam, root.ecam_len)]),
            ),
        ],
    ))
}
