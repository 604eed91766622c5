use cpu::x86::{cr0, gpr, seg};

use crate::testing::*;
use crate::{BootError, Protocol};

fn vmlinux() -> Vec<u8> {
    let notes = [note("Linux", 0x100, &[]), pvh_note(0x10_0020)].concat();
    elf(true, 0xffff_ffff_8100_0000, 0x10_0000, &[0xf4; 64], &notes)
}

#[test]
fn the_note_names_the_entry() {
    let ram = ram(8);
    let initrd = cpio(&[("init", b"x")]);
    let entry = boot(&ram, &vmlinux(), &[("i", &initrd, "")], Protocol::Auto).unwrap();
    let state = entry.state;
    assert_eq!((entry.protocol, state.rip), (Protocol::Pvh, 0x10_0020));
    assert_eq!(state.cr0, cr0::PE | cr0::ET);
    assert_eq!(state.segments[seg::CS].attr, 0xc09b);
    let info = state.gpr[gpr::RBX];
    assert_eq!(read_u32(&ram, info), 0x336e_c578);
    assert_eq!(read_u32(&ram, info + 4), 1);
    assert_eq!(read_string(&ram, read_u64(&ram, info + 24)), "a=b c");
    assert_eq!(read_u64(&ram, info + 32), 0xe_0000);
    let module = read_u64(&ram, info + 16);
    assert_eq!(read_u32(&ram, info + 12), 1);
    let (start, len) = (read_u64(&ram, module), read_u64(&ram, module + 8));
    assert_eq!(read(&ram, start, len as usize), initrd);
    let map = read_u64(&ram, info + 40);
    assert_eq!(read_u32(&ram, info + 48), 4);
    assert_eq!(read_u64(&ram, map + 8), 0x9_fc00);
    assert_eq!(read_u32(&ram, map + 24 + 16), 2);
}

#[test]
fn a_kernel_that_is_not_linux_gets_every_module_with_its_arguments() {
    let ram = ram(8);
    let kernel = elf(false, 0x10_0000, 0x10_0000, &[0xf4; 64], &note("Xen", 18, &0x10_0004u32.to_le_bytes()));
    let state =
        boot(&ram, &kernel, &[("a", b"one", "x y"), ("b", b"two", "")], Protocol::Auto).unwrap().state;
    assert_eq!(state.rip, 0x10_0004);
    let info = state.gpr[gpr::RBX];
    assert_eq!(read_u32(&ram, info + 12), 2);
    let list = read_u64(&ram, info + 16);
    assert_eq!(read(&ram, read_u64(&ram, list), 3), b"one");
    assert_eq!(read_string(&ram, read_u64(&ram, list + 16)), "x y");
    assert_eq!(read(&ram, read_u64(&ram, list + 32), 3), b"two");
    assert_eq!(read_u64(&ram, list + 48), 0);
}

#[test]
fn the_vmlinux_inside_a_bzimage_is_booted() {
    let ram = ram(8);
    let kernel = BzImage::new(&lz4(&vmlinux()));
    let entry = boot(&ram, &kernel.data, &[], Protocol::Pvh).unwrap();
    assert_eq!((entry.protocol, entry.state.rip), (Protocol::Pvh, 0x10_0020));
    assert_eq!(read(&ram, 0x10_0000, 64), [0xf4; 64]);
}

#[test]
fn kernels_without_the_note_are_refused() {
    let plain = elf(true, 0, 0x10_0000, &[0xf4; 64], &[]);
    for kernel in [BzImage::new(&lz4(&plain)).data, plain] {
        let error = boot(&ram(8), &kernel, &[], Protocol::Pvh).unwrap_err().to_string();
        assert_eq!(
            error,
            "k cannot be booted by the pvh protocol: it has no PVH entry note: use --boot auto, or build it with CONFIG_PVH"
        );
    }
}

#[test]
fn a_payload_that_is_no_kernel_is_refused() {
    let error = boot(&ram(8), &BzImage::new(b"none").data, &[], Protocol::Pvh).unwrap_err();
    assert!(matches!(error, BootError::Corrupt { .. }), "{error}");
    let mut bomb = lz4(&text());
    let at = bomb.len() - 4;
    bomb[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = boot(&ram(8), &BzImage::new(&bomb).data, &[], Protocol::Pvh).unwrap_err();
    assert!(matches!(error, BootError::MemoryTooSmall { .. }), "{error}");
}
