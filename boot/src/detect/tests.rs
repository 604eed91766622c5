use crate::testing::*;
use crate::{BootError, Protocol};

fn error(kernel: &[u8]) -> String {
    boot(&ram(8), kernel, &[], Protocol::Auto).unwrap_err().to_string()
}

#[test]
fn images_of_other_machines_are_named() {
    for (at, magic, isa) in [
        (0x38, &b"ARM\x64"[..], "arm64"),
        (0x30, b"RISCV\0\0\0", "riscv"),
        (0x24, &0x016f_2818u32.to_le_bytes(), "arm"),
    ] {
        let mut kernel = vec![0; 4096];
        kernel[at..at + magic.len()].copy_from_slice(magic);
        assert!(error(&kernel).starts_with(&format!("k is a kernel for {isa},")), "{}", error(&kernel));
    }
    let mut zboot = vec![0; 4096];
    zboot[..2].copy_from_slice(b"MZ");
    zboot[0x3c] = 0x80;
    zboot[0x80..0x86].copy_from_slice(b"PE\0\0\x64\xaa");
    assert!(error(&zboot).contains("arm64"));
}

#[test]
fn what_is_no_kernel_is_refused() {
    assert_eq!(error(b""), "k is empty: give a kernel image");
    assert!(error(b"root:x:0").starts_with("k is no kernel that can be booted here (it starts with 72 6f"));
    assert!(error(b"MZ").contains("truncated"));
}

#[test]
fn a_protocol_that_does_not_fit_is_refused() {
    let elf32 = elf(false, 0, 0x10_0000, &[0xf4; 8], &[]);
    let bzimage = BzImage::new(&lz4(&text())).data;
    for (kernel, protocol) in [
        (&elf32, Protocol::Linux),
        (&elf32, Protocol::Multiboot),
        (&elf32, Protocol::Pvh),
        (&bzimage, Protocol::Elf),
    ] {
        let error = boot(&ram(8), kernel, &[], protocol).unwrap_err();
        assert!(matches!(error, BootError::Unsupported { .. }), "{error}");
    }
}

#[test]
fn protocols_have_names() {
    for name in Protocol::NAMES {
        assert_eq!(name.parse::<Protocol>().unwrap().to_string(), name);
    }
    assert!("grub".parse::<Protocol>().unwrap_err().contains("auto, linux, pvh, multiboot, elf"));
}
