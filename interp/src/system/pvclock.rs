//! KVM's paravirtual clock: the MSRs by which guests ask for it, and what is written for them. A place that is no RAM gets
//! nothing, as with KVM.

use std::sync::atomic::{Ordering, fence};
use std::time::SystemTime;

use cpu::x86::pvclock;

use crate::cpu::Cpu;

const ENABLED: u64 = 1;

impl Cpu {
    /// The guest wants its clock at a place; or no more.
    pub(super) fn set_system_time(&mut self, value: u64) -> bool {
        self.msrs.kvm_system_time = value;
        self.publish_time();
        true
    }

    /// The guest wants to know when its clock began.
    pub(super) fn set_wall_clock(&mut self, place: u64) -> bool {
        self.msrs.kvm_wall_clock = place;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.put_versioned(place, &pvclock::wall_clock(&self.clock, now));
        true
    }

    /// Writes the clock where the guest wants it.
    pub fn publish_time(&mut self) {
        self.time_is_stale = false;
        if self.msrs.kvm_system_time & ENABLED != 0 {
            let time = pvclock::time(&self.clock, self.msrs.tsc_adjust);
            self.put_versioned(self.msrs.kvm_system_time & !ENABLED, &time);
        }
    }

    /// A version that is odd while the rest changes, then even and another one than before.
    fn put_versioned(&self, place: u64, rest: &[u8]) {
        let Some(behind) = place.checked_add(4) else { return };
        let Some(version) = self.ram.load_u32(place) else { return };
        let odd = version.wrapping_add(1) | 1;
        if self.ram.store_u32(place, odd).is_none() {
            return;
        }
        fence(Ordering::SeqCst);
        // What reaches beyond RAM stays unwritten, and its version odd: nobody reads it.
        if self.ram.write(behind, rest).is_ok() {
            self.ram.store_u32(place, odd.wrapping_add(1));
        }
    }
}
