use cpu::x86::{cr0, gpr};

use crate::testing::*;
use crate::{BootError, Protocol};

#[test]
fn virtual_entries_become_physical_ones() {
    let ram = ram(4);
    let kernel = elf(false, 0xc000_0000, 0xc000_0004, &[0xf4; 8], &[]);
    let entry = boot(&ram, &kernel, &[], Protocol::Auto).unwrap();
    assert_eq!((entry.protocol, entry.state.rip), (Protocol::Elf, 0x10_0004));
    assert_eq!(entry.state.cr0, cr0::PE | cr0::ET);
    let kernel = elf(true, 0x10_0000, 0x10_0001, &[0xf4; 8], &[]);
    let state = boot(&ram, &kernel, &[], Protocol::Elf).unwrap().state;
    assert_eq!((state.rip, state.gpr[gpr::RSI]), (0x10_0001, 0));
    assert_ne!(state.cr0 & cr0::PG, 0);
}

#[test]
fn old_memory_behind_a_segment_is_cleared() {
    let ram = ram(4);
    ram.write(0x10_0000, &[0xff; 32]).unwrap();
    boot(&ram, &elf(false, 0x10_0000, 0x10_0000, &[0xf4; 8], &[]), &[], Protocol::Auto).unwrap();
    assert_eq!(read(&ram, 0x10_0000, 17), [&[0xf4; 8][..], &[0; 8], &[0xff]].concat());
}

#[test]
fn kernels_for_other_machines_are_refused() {
    let mut kernel = elf(true, 0, 0x10_0000, &[0; 8], &[]);
    kernel[18] = 183;
    let error = boot(&ram(4), &kernel, &[], Protocol::Auto).unwrap_err().to_string();
    assert_eq!(error, "k is a kernel for arm64, this machine is x86-64: give a kernel built for x86-64");
    kernel[5] = 2;
    let error = boot(&ram(4), &kernel, &[], Protocol::Auto).unwrap_err();
    assert!(matches!(error, BootError::WrongIsa { .. }), "{error}");
}

#[test]
fn headers_that_point_outside_are_refused() {
    let good = elf(true, 0, 0x10_0000, &[0; 8], &[]);
    for len in 0..good.len() {
        assert!(boot(&ram(4), &good[..len], &[], Protocol::Auto).is_err(), "{len}");
    }
    for (at, value) in [
        (56, 0xffff_u64), // as many program headers as can be
        (56, 0),
        (32, u64::MAX - 8),      // program headers
        (64 + 8, u64::MAX - 2),  // segment offset
        (64 + 24, u64::MAX - 2), // physical address
        (64 + 24, 0),
        (64 + 32, 1 << 40), // length in the file
        (64 + 40, 1 << 40), // length in memory
        (64 + 40, 1),
    ] {
        let mut bad = good.clone();
        let len = if at == 56 { 2 } else { 8 };
        bad[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        let error = boot(&ram(4), &bad, &[], Protocol::Auto).unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}
