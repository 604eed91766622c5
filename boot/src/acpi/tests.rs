use super::*;
use crate::bytes::{array, u32_at, u64_at};

const BOARD: Board = Board {
    cpus: 2,
    lapic: 0xfee0_0000,
    ioapic: 0xfec0_0000,
    pm_base: 0x600,
    pm_timer_32bit: false,
    power_button: true,
    sci: 9,
    s5_type: 5,
    reset: (0xcf9, 6),
    serial: &[(0x3f8, 4)],
    i8042: true,
    pci: Some(PciRoot {
        ecam: 0xe000_0000,
        ecam_len: 1 << 20,
        low: (0xc000_0000, 0xdfff_ffff),
        high: (1 << 44, (1 << 45) - 1),
        first_gsi: 16,
        lines: 8,
    }),
    virtio: None,
    generation: Some(Generation { address: GENERATION, gsi: 10 }),
    legacy: true,
};

fn at(area: &[u8], address: u64) -> &[u8] {
    &area[(address - ACPI_START) as usize..]
}

/// A table by signature, found as a guest does: RSDP, XSDT, FADT.
fn table<'a>(area: &'a [u8], signature: &[u8; 4]) -> &'a [u8] {
    let sized = |table: &'a [u8]| &table[..u32_at(table, 4).unwrap() as usize];
    let xsdt = sized(at(area, u64_at(area, 24).unwrap()));
    let mut all: Vec<_> =
        xsdt[36..].chunks(8).map(|p| sized(at(area, u64::from_le_bytes(p.try_into().unwrap())))).collect();
    let fadt = *all.iter().find(|t| t.starts_with(b"FACP")).unwrap();
    all.push(sized(at(area, u64::from(u32_at(fadt, 40).unwrap()))));
    all.push(sized(at(area, u64::from(u32_at(fadt, 36).unwrap()))));
    all.push(xsdt);
    all.into_iter().find(|t| t.starts_with(signature)).unwrap()
}

fn sum(data: &[u8]) -> u8 {
    data.iter().fold(0, |sum, b| sum.wrapping_add(*b))
}

#[test]
fn every_table_is_found_and_sums_to_zero() {
    let area = build(&BOARD);
    assert_eq!(&area[..8], b"RSD PTR ");
    assert_eq!((sum(&area[..20]), sum(&area[..36]), area[15]), (0, 0, 2));
    for signature in [b"XSDT", b"FACP", b"APIC", b"DSDT"] {
        assert_eq!(sum(table(&area, signature)), 0, "{signature:?}");
    }
    let facs = table(&area, b"FACS");
    assert_eq!((facs.len(), facs.as_ptr().addr().wrapping_sub(area.as_ptr().addr()) % 64), (64, 0));
}

#[test]
fn the_fadt_says_where_the_registers_are() {
    let area = build(&BOARD);
    let fadt = table(&area, b"FACP");
    assert_eq!(u32_at(fadt, 56), Some(0x600));
    assert_eq!(u32_at(fadt, 64), Some(0x604));
    assert_eq!(u32_at(fadt, 76), Some(0x608));
    assert_eq!(array(fadt, 46), Some(9u16.to_le_bytes()));
    assert_eq!(u32_at(fadt, 48), Some(0), "no SMI port: ACPI mode is on");
    // Not hardware-reduced; a fixed power button, a reset register, a 24-bit timer.
    assert_eq!(u32_at(fadt, 112).unwrap() & (1 << 20 | 1 << 10 | 1 << 8 | 1 << 4), 1 << 10);
    assert_eq!(array(fadt, 116), Some([1, 8, 0, 1]));
    assert_eq!((u64_at(fadt, 120), fadt[128]), (Some(0xcf9), 6));
    assert_eq!(fadt[109] & 2, 2, "8042");
}

/// Type and content of the MADT's structures.
fn structures(madt: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &madt[44..];
    let mut out = Vec::new();
    while !rest.is_empty() {
        out.push((rest[0], rest[2..usize::from(rest[1])].to_vec()));
        rest = &rest[usize::from(rest[1])..];
    }
    out
}

#[test]
fn the_madt_lists_every_cpu() {
    let area = build(&BOARD);
    let all = structures(table(&area, b"APIC"));
    let kinds: Vec<_> = all.iter().map(|s| s.0).collect();
    assert_eq!(kinds, [0, 0, 1, 2, 2, 4]);
    assert_eq!(all[1].1, [1, 1, 1, 0, 0, 0]);
    assert_eq!(all[3].1, [0, 0, 2, 0, 0, 0, 0, 0], "the timer is on input 2");
    assert_eq!(all[4].1, [0, 9, 9, 0, 0, 0, 13, 0], "the SCI is level-triggered, active high");
    let area = build(&Board { cpus: 300, ..BOARD });
    let all = structures(table(&area, b"APIC"));
    assert_eq!(all.iter().filter(|s| s.0 == 0).count(), 255);
    let x2apic: Vec<_> = all.iter().filter(|s| s.0 == 9).collect();
    assert_eq!(x2apic.len(), 45);
    assert_eq!(x2apic[0].1, [0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 255, 0, 0, 0]);
}

/// AML bytes as the specification's grammar has them, written out by hand.
#[test]
fn the_dsdt_names_the_power_off_state_and_the_serial_port() {
    let area = build(&BOARD);
    let aml = &table(&area, b"DSDT")[36..];
    let find = |part: &[u8]| aml.windows(part.len()).any(|w| w == part);
    assert!(find(b"\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00"), "package of four");
    assert!(find(b"\x08_HID\x0c\x41\xd0\x05\x01"), "PNP0501");
    assert!(find(b"\x47\x01\xf8\x03\xf8\x03\x01\x08\x22\x10\x00\x79"), "ports and IRQ 4");
    assert!(find(b"\x08_HID\x0c\x41\xd0\x03\x03"), "PNP0303");
    let without = build(&Board { i8042: false, serial: &[], ..BOARD });
    let aml = &table(&without, b"DSDT")[36..];
    assert!(!aml.windows(4).any(|w| w == b"COM1" || w == b"KBD_"));
}

#[test]
fn the_bus_is_where_the_mcfg_and_the_dsdt_say() {
    let area = build(&BOARD);
    let mcfg = table(&area, b"MCFG");
    assert_eq!((mcfg.len(), sum(mcfg)), (60, 0));
    assert_eq!(u64_at(mcfg, 44), Some(0xe000_0000));
    assert_eq!(mcfg[52..56], [0, 0, 0, 0], "segment 0, bus 0 alone");
    let aml = &table(&area, b"DSDT")[36..];
    let find = |part: &[u8]| aml.windows(part.len()).any(|w| w == part);
    assert!(find(b"\x08_HID\x0c\x41\xd0\x0a\x08"), "PNP0A08");
    assert!(find(b"\x88\x0d\x00\x02\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00"), "one bus, 0");
    assert!(find(b"\x00\x00\x00\xc0\xff\xff\xff\xdf\x00\x00\x00\x00\x00\x00\x00\x20"), "low window");
    // Slot 3, pin A, no link device, interrupt 19; slot 9 shares 17 with slot 1.
    assert!(find(b"\x12\x0b\x04\x0c\xff\xff\x03\x00\x00\x00\x0a\x13"), "slot 3");
    assert!(find(b"\x12\x0b\x04\x0c\xff\xff\x09\x00\x00\x00\x0a\x11"), "slot 9");
    assert!(find(b"\x86\x09\x00\x01\x00\x00\x00\xe0\x00\x00\x10\x00"), "the memory is reserved");
    let without = build(&Board { pci: None, ..BOARD });
    assert!(!without.windows(4).any(|w| w == b"MCFG" || w == b"PCI0"));
}

#[test]
fn a_board_without_legacy_parts_has_virtio_devices_by_themselves() {
    let virtio = VirtioMmio { base: 0xd000_0000, len: 0x1000, count: 10, first_gsi: 16, lines: 8 };
    let area = build(&Board { pci: None, virtio: Some(virtio), legacy: false, ..BOARD });
    let aml = &table(&area, b"DSDT")[36..];
    let find = |part: &[u8]| aml.windows(part.len()).any(|w| w == part);
    assert!(find(b"RTC_") && !find(b"PIC_") && find(b"VR09") && !find(b"VR0A"));
    assert!(find(b"\x08_HID\x0dLNRO0005\x00"));
    let ninth = b"\x86\x09\x00\x01\x00\x90\x00\xd0\x00\x10\x00\x00\x89\x06\x00\x09\x01\x11\x00\x00\x00";
    assert!(find(ninth), "registers at 0xd0009000, a shared level on 17");
    assert_eq!(table(&area, b"FACP")[109] & 0b10_0011, 0b00_0010, "an 8042 and a clock");
    let madt = table(&area, b"APIC");
    assert_eq!(u32_at(madt, 40), Some(0), "no 8259");
    assert_eq!(structures(madt).iter().filter(|s| s.0 == 2).count(), 1);
}

#[test]
fn the_generation_is_where_the_dsdt_says() {
    let area = build(&BOARD);
    let aml = &table(&area, b"DSDT")[36..];
    let find = |part: &[u8]| aml.windows(part.len()).any(|w| w == part);
    assert!(find(b"\x08_CID\x0dVM_Gen_Counter\x00"));
    assert!(find(b"\x08ADDR\x12\x08\x02\x0c\x00\xf0\x0f\x00\x00"), "0xff000 and 0");
    assert!(find(b"\x89\x06\x00\x03\x01\x0a\x00\x00\x00"), "a rising edge on 10");
    assert!(find(b"_EVT\x09\x86\x5c\x2e_SB_VGID\x0a\x80"), "Notify (\\_SB.VGID, 0x80)");
    let map = crate::layout::MemoryMap::new(&memory::GuestRam::new(16 << 20).unwrap());
    let reserved = |r: &&crate::layout::Region| r.start <= GENERATION && GENERATION + 4096 <= r.start + r.len;
    let kind = map.regions().iter().find(reserved).map(|r| r.kind);
    assert_eq!(kind, Some(crate::layout::RamKind::Reserved));
}

#[test]
fn tables_that_do_not_fit_are_refused() {
    let ram = memory::GuestRam::new(2 << 20).unwrap();
    assert_eq!(install(&ram, &BOARD).unwrap(), ACPI_START);
    assert!(install(&ram, &Board { cpus: 10_000, ..BOARD }).is_err());
    assert!(install(&ram, &Board { cpus: u32::MAX, ..BOARD }).is_err());
    let small = memory::GuestRam::new(0xe_0000).unwrap();
    assert!(install(&small, &BOARD).is_err());
}
