//! DSDT: the devices that cannot be enumerated, and the power-off sleep state.

use acpi_tables::Aml;
use acpi_tables::aml::{Device, EISAName, IO, Name, Package, ResourceTemplate, Scope};
use acpi_tables::sdt::Sdt;

use super::{Board, OEM, OEM_TABLE, REVISION, bytes, generation, pci, virtio};

pub fn build(board: &Board) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, REVISION);
    let mut devices = vec![device("RTC_", "PNP0B00", 0, &[(0x70, 2)], Some(8))];
    if board.legacy {
        devices.push(device("TMR_", "PNP0100", 0, &[(0x40, 4)], Some(0)));
        devices.push(device("PIC_", "PNP0000", 0, &[(0x20, 2), (0xa0, 2), (0x4d0, 2)], Some(2)));
    }
    for (i, &(port, irq)) in board.serial.iter().enumerate().take(4) {
        let name = format!("COM{}", i + 1);
        devices.push(device(&name, "PNP0501", i as u8, &[(port, 8)], Some(irq)));
    }
    if board.i8042 {
        devices.push(device("KBD_", "PNP0303", 0, &[(0x60, 1), (0x64, 1)], Some(1)));
    }
    if let Some(root) = &board.pci {
        devices.push(pci::root_bus(root));
        devices.push(pci::reservation(root));
    }
    devices.extend(board.virtio.iter().flat_map(virtio::devices));
    devices.extend(board.generation.iter().map(generation::devices));
    let mut content = bytes(&s5(board.s5_type));
    content.extend(Scope::raw("_SB_".into(), devices.concat()));
    table.append_slice(&content);
    table.as_slice().to_vec()
}

/// `\_S5`: the SLP_TYP values of PM1a and PM1b for power-off.
fn s5(kind: u8) -> impl Aml {
    Name::new("_S5_".into(), &Package::new(vec![&kind, &kind, &0u8, &0u8]))
}

fn device(name: &str, id: &str, uid: u8, ports: &[(u16, u8)], irq: Option<u8>) -> Vec<u8> {
    let ports: Vec<_> = ports.iter().map(|&(first, len)| IO::new(first, first, 1, len)).collect();
    let irq = irq.map(Irq);
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|p| p as &dyn Aml).collect();
    resources.extend(irq.iter().map(|i| i as &dyn Aml));
    bytes(&Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new(id)),
            &Name::new("_UID".into(), &uid),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
        ],
    ))
}

/// An ISA interrupt: IRQ descriptor without flags, which means edge, active high (ACPI 6.5, 6.4.2.1).
struct Irq(u8);

impl Aml for Irq {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.byte(0x22);
        sink.word(1 << (self.0 & 15));
    }
}
