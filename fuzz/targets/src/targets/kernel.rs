//! The kernel loaders: any bytes as a kernel, with any command line and modules, by every protocol.

use boot::{BootSpec, Image, Module, Protocol};
use memory::GuestRam;

use super::{execute, one_line, samples};
use crate::Target;
use crate::input::Input;

/// A kernel and what goes with it.
pub const KERNEL: Target = Target {
    name: "kernel",
    about: "a kernel image by every boot protocol, with a command line and modules",
    seeds: kernel_seeds,
    words: &[],
    run: kernel,
};

/// An initrd, given to a kernel that is fine.
pub const INITRD: Target = Target {
    name: "initrd",
    about: "an initrd of archives, packed or not",
    seeds: initrd_seeds,
    words: &["070701", "070702", "TRAILER!!!\0", "00000000", "ffffffff", "00001000"],
    run: initrd,
};

const PROTOCOLS: [Protocol; 5] =
    [Protocol::Auto, Protocol::Linux, Protocol::Pvh, Protocol::Multiboot, Protocol::Elf];

/// Input: protocol; bit 7 of it: repair the checksum; RAM in MiB; modules; lengths of command line and module.
fn kernel(data: &[u8]) {
    let mut input = Input::new(data);
    let (choice, mib, modules) = (input.u8(), input.u8(), input.u8());
    let (cmdline_len, module_len) = (input.u16(), input.u16());
    let cmdline = String::from_utf8_lossy(input.take(cmdline_len.into())).into_owned();
    let module = input.take(module_len.into());
    let mut kernel = input.rest().to_vec();
    if choice & 0x80 != 0 {
        samples::seal(&mut kernel);
    }
    let image = Image { name: "module", data: module };
    let modules = vec![Module { image, args: &cmdline }; usize::from(modules % 80)];
    load(u64::from(mib % 32) + 1, &kernel, &modules, &cmdline, PROTOCOLS[usize::from(choice & 7) % 5]);
}

fn initrd(data: &[u8]) {
    let kernel = samples::elf(true, 0x10_0000, &[0xf4; 16], &[]);
    let module = Module { image: Image { name: "initrd", data }, args: "" };
    load(8, &kernel, &[module], "", Protocol::Linux);
}

/// Loads, and starts what loads.
fn load(mib: u64, kernel: &[u8], modules: &[Module], cmdline: &str, protocol: Protocol) {
    let Ok(ram) = GuestRam::new(mib << 20) else { return };
    let ram = std::sync::Arc::new(ram);
    let spec = BootSpec {
        kernel: Image { name: "kernel", data: kernel },
        modules,
        cmdline,
        protocol,
        rsdp: boot::ACPI_START,
    };
    match boot::load(&ram, &spec) {
        Err(error) => one_line(&error),
        Ok(entry) => execute::start(&ram, &entry.state),
    }
}

fn kernel_seeds() -> Vec<Vec<u8>> {
    let vmlinux = samples::elf(true, 0x10_0000, &[0xf4; 64], &samples::pvh_note());
    let small = samples::elf(true, 0, &[0xf4; 16], &samples::pvh_note());
    let kernels = [
        samples::bzimage(&samples::gzip(&vmlinux), b"6.1.0 \0"),
        samples::bzimage(&samples::gzip(&vmlinux), b"6.16.0 \0"),
        samples::bzimage(&samples::payload(samples::lz4(&vmlinux), vmlinux.len()), b"6.16.0 \0"),
        samples::bzimage(&samples::payload(samples::zstd(&small[..255]), 255), b"6.16.0 \0"),
        samples::bzimage(&samples::payload(samples::xz(), 0), b"6.16.0 \0"),
        samples::bzimage(&samples::payload(samples::lzma(), 0), b"6.16.0 \0"),
        vmlinux,
        samples::elf(true, 0xffff_ffff_8100_0000, &[0xf4; 64], &[]),
        samples::elf(false, 0xc010_0000, &samples::multiboot(false), &samples::pvh_note()),
        samples::multiboot(true),
    ];
    let mut seeds = Vec::new();
    for (i, kernel) in kernels.iter().enumerate() {
        for protocol in [0, 1 + (i % 4) as u8, 0x82] {
            let cmdline = b"console=ttyS0 a=\"b c\"";
            let module = samples::cpio();
            let mut seed = vec![protocol, 7, (i % 3) as u8];
            seed.extend((cmdline.len() as u16).to_le_bytes());
            seed.extend((module.len() as u16).to_le_bytes());
            seed.extend(cmdline);
            seed.extend(module);
            seed.extend(kernel);
            seeds.push(seed);
        }
    }
    seeds
}

fn initrd_seeds() -> Vec<Vec<u8>> {
    let cpio = samples::cpio();
    let mut file_system = vec![0; 2048];
    file_system[1080..1082].copy_from_slice(&[0x53, 0xef]);
    vec![
        cpio.clone(),
        [cpio.clone(), vec![0; 512], samples::gzip(&cpio)].concat(),
        samples::gzip(&cpio),
        samples::lz4(&cpio),
        samples::zstd(&cpio[..255]),
        samples::xz(),
        samples::lzma(),
        file_system,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_real_kernels() {
        let loads = |data: &[u8], protocol| {
            let ram = GuestRam::new(8 << 20).unwrap();
            let kernel = Image { name: "k", data };
            boot::load(&ram, &BootSpec { kernel, modules: &[], cmdline: "", protocol, rsdp: 0 })
        };
        let vmlinux = samples::elf(true, 0x10_0000, &[0xf4; 64], &samples::pvh_note());
        for kernel in [
            samples::bzimage(&samples::gzip(&vmlinux), b"6.1.0 \0"),
            samples::bzimage(&samples::payload(samples::lz4(&vmlinux), vmlinux.len()), b"6.16.0 \0"),
            samples::bzimage(&samples::payload(samples::zstd(&vmlinux[..255]), 255), b"6.16.0 \0"),
            samples::multiboot(true),
            samples::elf(false, 0xc010_0000, &samples::multiboot(false), &[]),
        ] {
            loads(&kernel, Protocol::Auto).unwrap();
        }
        for packed in [samples::gzip(&vmlinux), samples::payload(samples::lz4(&vmlinux), vmlinux.len())] {
            loads(&samples::bzimage(&packed, b"6.1 \0"), Protocol::Pvh).unwrap();
        }
    }

    #[test]
    fn seeds_are_real_initrds() {
        let kernel = samples::elf(true, 0x10_0000, &[0xf4; 16], &[]);
        for (i, data) in initrd_seeds().iter().enumerate().filter(|(i, _)| [0, 1, 2, 3, 4, 7].contains(i)) {
            let ram = GuestRam::new(8 << 20).unwrap();
            let modules = [Module { image: Image { name: "i", data }, args: "" }];
            let spec = BootSpec {
                kernel: Image { name: "k", data: &kernel },
                modules: &modules,
                cmdline: "",
                protocol: Protocol::Linux,
                rsdp: 0,
            };
            boot::load(&ram, &spec).unwrap_or_else(|e| panic!("{i}: {e}"));
        }
    }
}
