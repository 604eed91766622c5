//! KVM's steal time (Linux, Documentation/virt/kvm/x86/msr.rst, `MSR_KVM_STEAL_TIME`): 64 bytes of the guest's for each CPU, with
//! the nanoseconds in which it wanted to run and did not (0), a version (8) that is odd while they change, and `preempted` (16),
//! which is left alone: no engine learns in time that the host has taken its thread off a CPU.

use std::sync::atomic::{Ordering, fence};

use memory::GuestRam;

/// In MSR [`KVM_STEAL_TIME`](super::msr::KVM_STEAL_TIME): the guest wants to be told.
pub const ENABLED: u64 = 1;
/// There: the place is a multiple of 64.
pub const RESERVED: u64 = 0x3e;

const VERSION: u64 = 8;

/// Tells a guest with this in the MSR of so many nanoseconds more. A place that is no RAM gets nothing, as with KVM.
pub fn add(ram: &GuestRam, msr: u64, ns: u64) {
    let place = msr & !(ENABLED | RESERVED);
    let (Some(told), Some(version)) = (ram.load_u64(place), ram.load_u32(place | VERSION)) else { return };
    // What was there before the guest's first time may be anything.
    let odd = version.wrapping_add(1) | 1;
    let _ = ram.store_u32(place | VERSION, odd);
    fence(Ordering::SeqCst);
    let _ = ram.store_u64(place, told.wrapping_add(ns));
    let _ = ram.store_u32(place | VERSION, odd.wrapping_add(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_reads_a_sum_with_an_even_version() {
        let ram = GuestRam::new(8 << 12).unwrap();
        ram.store_u32(0x1048, 7).unwrap();
        add(&ram, 0x1041, 5);
        add(&ram, 0x1041, 1 << 40);
        assert_eq!((ram.load_u64(0x1040), ram.load_u32(0x1048)), (Some((1 << 40) + 5), Some(12)));
    }

    #[test]
    fn any_place_is_as_good() {
        let ram = GuestRam::new(2 << 12).unwrap();
        for msr in [0x1fc1, 0x2001, 0x3f_ffc1, u64::MAX] {
            add(&ram, msr, 9);
        }
        assert_eq!((ram.load_u64(0x1fc0), ram.load_u32(0x1fc8)), (Some(9), Some(2)));
    }
}
