use cpu::x86::{cr0, efer, gpr, seg};

use crate::testing::*;
use crate::{BootError, Protocol};

fn kernel() -> BzImage {
    BzImage::new(&lz4(&text()))
}

#[test]
fn a_bzimage_starts_at_its_64_bit_entry() {
    let (ram, kernel) = (ram(16), kernel());
    let entry = boot(&ram, &kernel.data, &[], Protocol::Auto).unwrap();
    let state = entry.state;
    assert_eq!(entry.protocol, Protocol::Linux);
    assert_eq!(state.rip, 0x20_0200);
    assert_eq!(state.cr0 & (cr0::PE | cr0::PG), cr0::PE | cr0::PG);
    assert_eq!(state.efer, efer::LME | efer::LMA);
    assert_eq!(state.msrs.mtrr_def_type, 0x806, "MTRRs on, write-back");
    assert_eq!((state.segments[seg::CS].selector, state.segments[seg::SS].selector), (0x10, 0x18));
    assert_eq!(read(&ram, 0x20_0000, 0x400), vec![0x90; 0x400]);
}

#[test]
fn the_first_four_gigabytes_are_mapped_to_themselves() {
    let ram = ram(16);
    let state = boot(&ram, &kernel().data, &[], Protocol::Linux).unwrap().state;
    for addr in [0u64, 0x20_0200, 0xfee0_0000, 0xffff_f000] {
        let table = |at: u64, shift: u32| read_u64(&ram, (at & !0xfff) + (addr >> shift & 511) * 8);
        let entry = table(table(table(state.cr3, 39), 30), 21);
        assert_eq!(entry, (addr & !0x1f_ffff) | 0x83, "{addr:#x}");
    }
}

#[test]
fn the_gdt_holds_the_loaded_segments() {
    let ram = ram(16);
    let state = boot(&ram, &kernel().data, &[], Protocol::Linux).unwrap().state;
    assert_eq!(read_u64(&ram, state.gdtr.base + 0x10), 0x00af_9b00_0000_ffff);
    assert_eq!(read_u64(&ram, state.gdtr.base + 0x18), 0x00cf_9300_0000_ffff);
}

#[test]
fn boot_params_say_what_the_kernel_asks_for() {
    let ram = ram(16);
    let initrd = cpio(&[("init", b"#!")]);
    let modules = [("i", &initrd[..], ""), ("j", &initrd[..], "")];
    let mut kernel = kernel();
    kernel.set(0x268, &[0xee; 0x28]); // behind the header: none of the kernel's business
    kernel.seal();
    let state = boot(&ram, &kernel.data, &modules, Protocol::Auto).unwrap().state;
    let params = state.gpr[gpr::RSI];
    let (byte, word) = (|at| read(&ram, params + at, 1)[0], |at| read_u32(&ram, params + at));
    assert_eq!(byte(0x1ef), 0, "sentinel");
    assert_eq!(byte(0x210), 0xff, "type_of_loader");
    assert_eq!(word(0x202), u64::from(u32::from_le_bytes(*b"HdrS")));
    assert_eq!(word(0x214), 0x20_0000, "code32_start");
    assert_eq!(read_string(&ram, word(0x228)), "a=b c");
    assert_eq!(read_u64(&ram, params + 0x70), 0xe_0000, "rsdp");
    // Both archives, one after the other, at the top of RAM.
    let (start, len) = (word(0x218), word(0x21c));
    assert_eq!(len as usize, initrd.len() * 2);
    assert_eq!(start, ((16 << 20) - len) & !0xfff);
    assert_eq!(read(&ram, start, initrd.len() * 2), initrd.repeat(2));
    // Memory map: low RAM, EBDA, tables, high RAM.
    assert_eq!(byte(0x1e8), 4);
    assert_eq!(read_u64(&ram, params + 0x2d0 + 3 * 20), 0x10_0000);
    assert_eq!(read_u64(&ram, params + 0x2d0 + 3 * 20 + 8), 15 << 20);
    assert_eq!(word(0x2d0 + 3 * 20 + 16), 1);
    assert_eq!(read(&ram, params + 0x268, 0x28), [0; 0x28]);
}

#[test]
fn the_initrd_respects_the_kernels_limit() {
    let ram = ram(64);
    let mut kernel = kernel();
    kernel.set(0x22c, &0x00ff_ffffu32.to_le_bytes());
    kernel.seal();
    let initrd = cpio(&[]);
    let state = boot(&ram, &kernel.data, &[("i", &initrd, "")], Protocol::Auto).unwrap().state;
    let start = read_u32(&ram, state.gpr[gpr::RSI] + 0x218);
    assert_eq!(start, 0xff_f000);
}

#[test]
fn an_initrd_of_whole_pages_ends_with_ram() {
    let ram = ram(16);
    let initrd = cpio(&[("x", &[1; 4096 - 112 - 124])]);
    assert_eq!(initrd.len() % 4096, 0);
    let state = boot(&ram, &kernel().data, &[("i", &initrd, "")], Protocol::Auto).unwrap().state;
    let start = read_u32(&ram, state.gpr[gpr::RSI] + 0x218);
    assert_eq!(start + initrd.len() as u64, 16 << 20);
}

#[test]
fn too_little_memory_is_refused_with_what_is_needed() {
    let error = boot(&ram(4), &kernel().data, &[], Protocol::Auto).unwrap_err().to_string();
    assert_eq!(error, "k needs 5 MiB of guest memory, the guest has 4 MiB: give --memory 5M or more");
    let big = cpio(&[("big", &vec![1; 2 << 20])]);
    let error = boot(&ram(6), &kernel().data, &[("i", &big, "")], Protocol::Auto).unwrap_err();
    assert!(matches!(error, BootError::MemoryTooSmall { need: 7_340_033.., .. }), "{error}");
}

#[test]
fn damage_is_noticed() {
    let mut kernel = kernel();
    let at = kernel.data.len() - 40;
    kernel.data[at] ^= 1;
    let error = boot(&ram(16), &kernel.data, &[], Protocol::Auto).unwrap_err().to_string();
    assert_eq!(error, "k is corrupt: its checksum does not match: fetch it again");
    let whole = self::kernel().data;
    for len in [0x203, 0x250, 0x2a0, 0x400, 0x410, whole.len() - 1] {
        let error = boot(&ram(16), &whole[..len], &[], Protocol::Linux).unwrap_err();
        assert!(
            matches!(error, BootError::Truncated { .. } | BootError::Unrecognized { .. }),
            "{len:#x}: {error}"
        );
    }
}

#[test]
fn kernels_without_a_checksum_are_unpacked_instead() {
    let mut kernel = kernel();
    kernel.set(0x300, b"6.15.0");
    boot(&ram(16), &kernel.data, &[], Protocol::Auto).unwrap();
    kernel.data[0x400 + 0x400 + 8] = 0xff; // a literal run longer than the block
    let error = boot(&ram(16), &kernel.data, &[], Protocol::Auto).unwrap_err();
    assert!(error.to_string().starts_with("k is corrupt: it does not unpack ("), "{error}");
}

#[test]
fn a_signed_image_still_has_a_good_checksum() {
    let mut kernel = kernel();
    kernel.set(0x3c, &0x340u32.to_le_bytes());
    kernel.set(0x340, b"PE\0\0");
    kernel.set(0x340 + 24, &0x20bu16.to_le_bytes());
    kernel.seal();
    kernel.set(0x340 + 24 + 64, &[1, 2, 3, 4]);
    kernel.set(0x340 + 24 + 144, &[1, 2, 3, 4, 5, 6, 7, 8]);
    kernel.data.extend(b"signature");
    boot(&ram(16), &kernel.data, &[], Protocol::Auto).unwrap();
}

#[test]
fn kernels_without_the_64_bit_entry_are_refused() {
    for (at, value) in [(0x236, 0x7eu16), (0x206, 0x20b)] {
        let mut kernel = kernel();
        kernel.set(at, &value.to_le_bytes());
        kernel.seal();
        let error = boot(&ram(16), &kernel.data, &[], Protocol::Auto).unwrap_err();
        assert!(matches!(error, BootError::Unsupported { .. }), "{error}");
    }
}

#[test]
fn a_command_line_that_would_be_cut_off_is_refused() {
    let mut kernel = kernel();
    kernel.set(0x238, &4u32.to_le_bytes());
    kernel.seal();
    let error = boot(&ram(16), &kernel.data, &[], Protocol::Auto).unwrap_err().to_string();
    assert_eq!(error, "the command line has 5 bytes, k takes at most 4: shorten it");
}

#[test]
fn a_vmlinux_gets_boot_params_too() {
    let ram = ram(8);
    let kernel = elf(true, 0xffff_ffff_8000_0000, 0x10_0010, &[0xf4; 64], &[]);
    let entry = boot(&ram, &kernel, &[], Protocol::Auto).unwrap();
    assert_eq!((entry.protocol, entry.state.rip), (Protocol::Linux, 0x10_0010));
    let params = entry.state.gpr[gpr::RSI];
    assert_eq!(read_string(&ram, read_u32(&ram, params + 0x228)), "a=b c");
    assert_eq!(read(&ram, 0x10_0000, 65), [&[0xf4; 64][..], &[0]].concat());
}
