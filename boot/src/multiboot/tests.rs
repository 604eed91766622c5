use cpu::x86::{cr0, gpr};

use crate::testing::*;
use crate::{BootError, Protocol};

/// A flat kernel: 8 bytes of something, the header, code; loaded at 1 MiB.
fn flat(addresses: [u32; 5]) -> Vec<u8> {
    let mut data = vec![0x11; 8];
    data.extend(multiboot_header(0x1_0003, &addresses));
    data.resize(0x100, 0xf4);
    data
}

#[test]
fn an_elf_kernel_gets_its_modules_and_strings() {
    for is_64 in [false, true] {
        let ram = ram(8);
        let mut code = multiboot_header(3, &[]);
        code.resize(64, 0xf4);
        let kernel = elf(is_64, 0xc010_0000, 0xc010_0010, &code, &[]);
        let modules = [("m", &b"module one"[..], "first arg"), ("n", b"two", "")];
        let entry = boot(&ram, &kernel, &modules, Protocol::Auto).unwrap();
        let state = entry.state;
        assert_eq!((entry.protocol, state.rip), (Protocol::Multiboot, 0x10_0010));
        assert_eq!(state.cr0, cr0::PE | cr0::ET);
        assert_eq!(state.gpr[gpr::RAX], 0x2bad_b002);
        let info = state.gpr[gpr::RBX];
        let field = |at| read_u32(&ram, info + at);
        assert_eq!(field(0), 0b10_0100_1101);
        assert_eq!((field(4), field(8)), (639, 7 << 10));
        assert_eq!(read_string(&ram, field(16)), "a=b c");
        assert_eq!(field(20), 2);
        let module = field(24);
        let (start, end) = (read_u32(&ram, module), read_u32(&ram, module + 4));
        assert_eq!(start % 4096, 0);
        assert_eq!(read(&ram, start, (end - start) as usize), b"module one");
        assert_eq!(read_string(&ram, read_u32(&ram, module + 8)), "first arg");
        assert_eq!(read_string(&ram, field(64)), "Guesthouse");
        let (len, map) = (field(44), field(48));
        assert_eq!(len, 4 * 24);
        assert_eq!(read_u32(&ram, map + 24), 20);
        assert_eq!(read_u64(&ram, map + 24 + 4), 0x9_fc00);
        assert_eq!(read_u32(&ram, map + 24 + 20), 2);
    }
}

#[test]
fn a_flat_kernel_is_loaded_by_its_addresses() {
    let ram = ram(8);
    ram.write(0x10_0100, &[0xee; 0x20]).unwrap();
    let kernel = flat([0x10_0004, 0x10_0000, 0x10_00fc, 0x10_0110, 0x10_0040]);
    let state = boot(&ram, &kernel, &[], Protocol::Auto).unwrap().state;
    assert_eq!(state.rip, 0x10_0040);
    // The header is 8 bytes into the file but 4 into the image: loading begins at byte 4.
    assert_eq!(read(&ram, 0x10_0000, 0xfc), kernel[4..]);
    assert_eq!(read(&ram, 0x10_00fc, 0x15), [&[0; 0x14][..], &[0xee]].concat());
}

#[test]
fn a_flat_kernel_without_ends_is_the_whole_file() {
    let ram = ram(8);
    let kernel = flat([0x10_0008, 0x10_0000, 0, 0, 0x10_00ff]);
    boot(&ram, &kernel, &[], Protocol::Multiboot).unwrap();
    assert_eq!(read(&ram, 0x10_0000, 0x100), kernel);
}

#[test]
fn addresses_that_contradict_are_refused() {
    for addresses in [
        [0x10_0000, 0x10_0004, 0, 0, 0x10_0004], // header below the load address
        [0x10_0100, 0x10_0000, 0, 0, 0x10_0004], // load address before the file
        [0x10_0008, 0x10_0000, 0xf_ffff, 0, 0x10_0004], // end before the start
        [0x10_0008, 0x10_0000, 0x20_0000, 0, 0x10_0004], // more than the file has
        [0x10_0008, 0x10_0000, 0, 0, 0x20_0000], // entry elsewhere
        [0x10_0008, 0x10_0000, 0, u32::MAX, 0x10_0004], // bss without RAM
        [0x8, 0, 0, 0, 4],                       // on top of the interrupt table
    ] {
        let error = boot(&ram(8), &flat(addresses), &[], Protocol::Auto).unwrap_err();
        assert!(!matches!(error, BootError::Unrecognized { .. }), "{error}");
    }
}

#[test]
fn unknown_requirements_are_refused() {
    let mut kernel = multiboot_header(8, &[]);
    kernel.resize(64, 0xf4);
    let kernel = elf(false, 0, 0x10_0000, &kernel, &[]);
    let error = boot(&ram(8), &kernel, &[], Protocol::Auto).unwrap_err();
    assert!(error.to_string().contains("requires unknown features 0x8"), "{error}");
}

#[test]
fn a_header_beyond_the_first_8192_bytes_is_none() {
    let mut code = vec![0; 8192];
    code.extend(multiboot_header(0, &[]));
    let kernel = elf(false, 0x10_0000, 0x10_0000, &code, &[]);
    assert_eq!(boot(&ram(8), &kernel, &[], Protocol::Auto).unwrap().protocol, Protocol::Elf);
}
