//! Hostile files: whatever the bytes, loading ends with a state or a one-line error.

use proptest::prelude::*;

use crate::testing::*;
use crate::{BootError, Protocol};

fn kernels() -> Vec<Vec<u8>> {
    let mut multiboot = multiboot_header(0x1_0003, &[0x10_0000, 0x10_0000, 0, 0x10_1000, 0x10_0020]);
    multiboot.resize(128, 0xf4);
    let vmlinux =
        elf(true, 0, 0x10_0000, &[0xf4; 64], &[note("Linux", 1, &[]), pvh_note(0x10_0000)].concat());
    let mut late = BzImage::new(&lz4(&vmlinux));
    late.set(0x300, b"6.16");
    vec![
        late.data,
        BzImage::new(&lz4(&vmlinux)).data,
        elf(false, 0xc000_0000, 0xc000_0000, &multiboot, &[]),
        vmlinux,
        multiboot,
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    (0..Protocol::NAMES.len()).prop_map(|i| Protocol::NAMES[i].parse().unwrap())
}

fn one_line(result: Result<crate::Entry, BootError>) -> Result<(), TestCaseError> {
    if let Err(error) = result {
        prop_assert!(!error.to_string().contains('\n'), "{error}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn damaged_kernels_never_panic(
        which in 0..5usize,
        // Most damage to where the headers are.
        damage in prop::collection::vec((prop_oneof![0..0x2a0usize, 0..0x900usize], any::<u8>()), 0..6),
        wide in prop::option::of((0..0x2a0usize, prop::sample::select(vec![0u64, 1, u64::MAX, 1 << 63, 0xffff_f000]))),
        cut in prop::option::of(0..0x900usize),
        protocol in protocol(),
    ) {
        let mut kernel = kernels().swap_remove(which);
        for (at, value) in damage {
            if let Some(byte) = kernel.get_mut(at) {
                *byte = value;
            }
        }
        if let Some((at, value)) = wide
            && let Some(field) = kernel.get_mut(at..at + 8)
        {
            field.copy_from_slice(&value.to_le_bytes());
        }
        kernel.truncate(cut.unwrap_or(usize::MAX));
        one_line(boot(&ram(6), &kernel, &[], protocol))?;
    }

    #[test]
    fn damaged_initrds_never_panic(
        packed in any::<bool>(),
        damage in prop::collection::vec((0..300usize, any::<u8>()), 0..4),
        cut in prop::option::of(0..300usize),
    ) {
        let mut initrd = cpio(&[("init", b"#!"), ("dir/file", &[7; 40])]);
        if packed {
            initrd = lz4(&initrd);
        }
        for (at, value) in damage {
            if let Some(byte) = initrd.get_mut(at) {
                *byte = value;
            }
        }
        initrd.truncate(cut.unwrap_or(usize::MAX));
        let kernel = kernels().swap_remove(1);
        one_line(boot(&ram(6), &kernel, &[("i", &initrd, "")], Protocol::Auto))?;
    }

    #[test]
    fn noise_is_no_kernel(data in prop::collection::vec(any::<u8>(), 0..2000), protocol in protocol()) {
        prop_assert!(boot(&ram(2), &data, &[], protocol).is_err());
    }
}

#[test]
fn kernels_that_are_whole_boot() {
    for kernel in kernels() {
        boot(&ram(6), &kernel, &[], Protocol::Auto).unwrap();
    }
}

#[test]
fn too_many_modules_are_refused() {
    let initrd = cpio(&[]);
    let many = vec![("i", &initrd[..], ""); 65];
    let error = boot(&ram(6), &kernels()[0], &many, Protocol::Auto).unwrap_err().to_string();
    assert_eq!(error, "65 modules are more than the 64 a guest can be given: give fewer");
    let error = boot(&ram(6), &kernels()[0], &[("i", b"", "")], Protocol::Auto).unwrap_err().to_string();
    assert_eq!(error, "i is empty: give an initrd");
}
