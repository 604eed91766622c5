//! What is left of root's powers (capabilities(7)). Who is not root has none to lose.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Reading and writing files of others, which Landlock limits to those of the machine; giving them to their owners in a share;
/// low ports, and a TAP device's; better weights; more memory that stays.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::SYS_RESOURCE);

/// Gives all others up, for the calling thread and those that it makes; how many it had.
pub fn give_up() -> rustix::io::Result<u32> {
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    let lost = permitted & !KEPT;
    if !lost.is_empty() {
        let (effective, permitted) = (effective & KEPT, permitted & KEPT);
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })?;
    }
    Ok(lost.bits().count_ones())
}
