//! The targets.

mod acpi;
mod agent;
mod archive;
mod balloon;
mod console;
mod control;
mod device;
mod disk;
mod execute;
mod guest;
mod hypercall;
mod image;
mod kernel;
mod machine;
mod net;
mod samples;
mod share;
mod snapshot;
mod state;
mod switch;
mod virtio;
mod vsock;

use crate::Target;

/// All targets.
pub const TARGETS: &[Target] = &[
    kernel::KERNEL,
    kernel::INITRD,
    acpi::ACPI,
    machine::SPEC,
    guest::CPIO,
    guest::PACKAGE,
    guest::CATALOGUE,
    guest::MANIFEST,
    guest::LINE,
    execute::EXECUTE,
    execute::STEP,
    execute::TRANSLATE,
    state::CPU_STATE,
    snapshot::STATE,
    device::BOARD,
    device::UART16550,
    device::I8042,
    device::ACPI_POWER,
    device::I8254,
    device::MC146818,
    device::I8259,
    device::IOAPIC,
    device::LAPIC,
    device::LEGACY,
    device::SAVED,
    hypercall::HYPERCALL,
    virtio::PCI,
    virtio::MMIO,
    console::CONSOLE,
    balloon::BALLOON,
    vsock::VSOCK,
    net::NAT,
    net::CARD,
    switch::SWITCH,
    image::QCOW2,
    archive::ARCHIVE,
    disk::SYSTEM,
    control::API,
    share::SHARE,
    agent::HOST,
    agent::FRAMES,
    agent::TREE,
];

/// A message for people is one line, whatever the input was.
fn one_line(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.is_empty(), "not one line: {text:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_every_target_has_seeds() {
        let names: std::collections::BTreeSet<_> = TARGETS.iter().map(|t| t.name).collect();
        assert_eq!(names.len(), TARGETS.len());
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            assert!(seeds.iter().all(|s| s.len() < 1 << 16), "{}", target.name);
        }
    }
}
