//! ACPI tables of boards as the machine may describe them, and of ones it never would.

use boot::acpi::{Board, Generation, PciRoot, VirtioMmio, install};
use memory::GuestRam;

use super::one_line;
use crate::Target;
use crate::input::Input;

/// A board's description.
pub const ACPI: Target = Target {
    name: "acpi",
    about: "ACPI tables for any board: odd numbers of CPUs, any port, little memory",
    seeds: || {
        [1u32, 2, 64, 255, 256, 4096, 4097, u32::MAX]
            .map(|cpus| {
                let mut seed = vec![2, 1];
                seed.extend(cpus.to_le_bytes());
                seed.extend([0, 0, 0xe0, 0xfe, 0, 0, 0xc0, 0xfe, 0, 6, 9, 5, 0xf9, 0x0c, 6, 0x0f]);
                seed
            })
            .to_vec()
    },
    words: &[],
    run,
};

const SERIAL: &[(u16, u8)] = &[(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0xffff, 255)];

/// First and last address of a window, which is not empty and not all there is: the board knows better.
fn window<T>(a: u64, b: u64, max: u64, convert: fn(u64) -> T) -> (T, T) {
    let clip = |address: u64| convert(address.min(max - 1));
    (clip(a.min(b)), clip(a.max(b)))
}

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (mib, serial, cpus) = (input.u8() % 4, input.u8(), input.u32());
    let (lapic, ioapic, pm_base) = (input.u32(), input.u32(), input.u16());
    let (sci, s5_type, reset) = (input.u8(), input.u8(), (input.u16(), input.u8()));
    let flags = input.u8();
    let pci = PciRoot {
        ecam: input.u32(),
        ecam_len: input.u32(),
        low: window(input.u32().into(), input.u32().into(), u32::MAX.into(), |address| address as u32),
        high: window(input.u64(), input.u64(), u64::MAX, |address| address),
        first_gsi: input.u8(),
        lines: input.u8(),
    };
    let virtio = VirtioMmio {
        base: input.u32(),
        len: input.u32(),
        count: input.u32(),
        first_gsi: input.u8(),
        lines: input.u8(),
    };
    let board = Board {
        cpus,
        lapic,
        ioapic,
        pm_base,
        pm_timer_32bit: flags & 1 != 0,
        power_button: flags & 2 != 0,
        sci,
        s5_type,
        reset,
        serial: &SERIAL[..usize::from(serial) % (SERIAL.len() + 1)],
        i8042: flags & 4 != 0,
        pci: (flags & 8 != 0).then_some(pci),
        virtio: (flags & 16 != 0).then_some(virtio),
        generation: (flags & 64 != 0).then_some(Generation { address: u64::from(sci) << 40, gsi: s5_type }),
        legacy: flags & 32 != 0,
    };
    let size = if mib == 0 { 0x9_0000 } else { u64::from(mib) << 20 };
    let Ok(ram) = GuestRam::new(size) else { return };
    match install(&ram, &board) {
        Err(error) => one_line(&error),
        Ok(rsdp) => {
            let mut table = [0; 36];
            assert!(ram.read(rsdp, &mut table).is_ok(), "the RSDP is not in RAM");
            let sum = table.iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
            assert_eq!((&table[..8], sum), (&b"RSD PTR "[..], 0));
        }
    }
}
