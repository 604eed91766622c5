//! What an engine asks of the machine while it runs a vCPU.

use crate::Hypercall;

/// The outside world of one vCPU. An engine calls it from the vCPU's thread in mid-instruction; port and
/// memory-mapped accesses are 1, 2, 4 or 8 bytes (ports: at most 4) and little-endian. Accesses that no
/// device claims read as all ones and are dropped when written. A device effect on the machine (reset,
/// power-off) reaches the engine as [`Signals::EXIT`](crate::Signals::EXIT).
///
/// What is not implemented is not there: no device, no local APIC. Who stands in front of another world forwards everything.
pub trait CpuIo {
    /// IN.
    fn port_read(&self, port: u16, data: &mut [u8]) {
        let _ = port;
        data.fill(0xff);
    }
    /// OUT.
    fn port_write(&self, port: u16, data: &[u8]) {
        let _ = (port, data);
    }
    /// Load from an address that is not RAM.
    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        let _ = addr;
        data.fill(0xff);
    }
    /// Store to an address that is not RAM.
    fn mmio_write(&self, addr: u64, data: &[u8]) {
        let _ = (addr, data);
    }

    /// The CPU accepts an external interrupt: the vector of the highest-priority one, now in service.
    /// `None` if it went away meanwhile.
    fn take_interrupt(&self) -> Option<u8> {
        None
    }
    /// CR8: task priority, 0 to 15.
    fn task_priority(&self) -> u8 {
        0
    }
    /// MOV to CR8.
    fn set_task_priority(&self, priority: u8) {
        let _ = priority;
    }
    /// RDMSR of a local APIC register (IA32_APIC_BASE 0x1b, IA32_TSC_DEADLINE 0x6e0, x2APIC 0x800-0x8ff);
    /// `None` raises #GP.
    fn apic_msr_read(&self, msr: u32) -> Option<u64> {
        let _ = msr;
        None
    }
    /// WRMSR of a local APIC register; false raises #GP.
    fn apic_msr_write(&self, msr: u32, value: u64) -> bool {
        let _ = (msr, value);
        false
    }

    /// A local APIC of the engine's has finished an interrupt that the I/O APIC sent as level-triggered.
    fn end_of_interrupt(&self, vector: u8) {
        let _ = vector;
    }

    /// IA32_TSC_ADJUST is now this: the guest wrote it, or the TSC itself. The local APIC compares deadlines
    /// with the TSC that the guest sees.
    fn set_tsc_adjust(&self, adjust: u64) {
        let _ = adjust;
    }

    /// MSR [`KVM_STEAL_TIME`](crate::x86::msr::KVM_STEAL_TIME) is now this, without reserved bits: the machine, which knows what
    /// time the CPU loses, writes it there.
    fn set_steal_time(&self, msr: u64) {
        let _ = msr;
    }

    /// When the machine's clock reads this, [`poll`](Self::poll) wants to be called; `None` while no local timer runs.
    /// It may change whenever the guest writes to a device or to a local APIC's register, and by `poll`. For engines that do
    /// not call `poll` every few microseconds.
    fn deadline(&self) -> Option<u64> {
        None
    }

    /// A hypercall at CPL 0: the answer for RAX, negative for an error.
    fn hypercall(&self, call: &Hypercall) -> i64 {
        let _ = call;
        Hypercall::UNKNOWN
    }

    /// Called every few microseconds of guest execution: local timers that are due fire now.
    fn poll(&self) {}
}
