//! Why the guest was left, and what is done about it.

use cpu::x86::msr;
use cpu::{CpuIo, VcpuExit};
use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
use kvm_ioctls::VcpuExit as Exit;

use super::{KvmVcpu, Next, Outcome};
use crate::helper::Stretch;
use crate::kick::Inside;
use crate::{modes, raw};

/// What to do that needs more of the vCPU than the exit borrows.
enum Then {
    Nothing,
    /// The local APIC may have been written to.
    LookAtApic,
    /// The last port access, or a string of them.
    Ports {
        port: u16,
        write: bool,
    },
    /// The guest set IA32_TSC_ADJUST.
    Adjust(u64),
    Halt,
    Shutdown,
    /// KVM could not go on, for this reason of its own.
    InternalError,
    /// The task priority is in the shared page.
    Priority,
    Unknown(String),
}

impl KvmVcpu {
    /// Enters the guest and looks at why it was left.
    #[inline]
    pub(super) fn enter(&mut self, io: &dyn CpuIo, inside: &Inside) -> Outcome {
        let priority = self.fd.get_kvm_run().cr8;
        self.incomplete = false;
        let counters = &mut self.counters;
        let then = match self.fd.run() {
            Ok(Exit::IoOut(port, _)) => Then::Ports { port, write: true },
            Ok(Exit::IoIn(port, _)) => Then::Ports { port, write: false },
            Ok(Exit::MmioRead(addr, data)) => {
                counters.mmio += 1;
                in_parts(addr, data.len(), |addr, part| {
                    if let Some(data) = data.get_mut(part) {
                        io.mmio_read(addr, data);
                    }
                });
                self.incomplete = true;
                Then::Nothing
            }
            Ok(Exit::MmioWrite(addr, data)) => {
                counters.mmio += 1;
                in_parts(addr, data.len(), |addr, part| {
                    if let Some(data) = data.get(part) {
                        io.mmio_write(addr, data);
                    }
                });
                self.incomplete = true;
                Then::LookAtApic
            }
            Ok(Exit::X86Rdmsr(exit)) => {
                counters.msrs += 1;
                let value = io.apic_msr_read(exit.index);
                *exit.error = u8::from(value.is_none());
                *exit.data = value.unwrap_or(0);
                self.incomplete = true;
                Then::Nothing
            }
            Ok(Exit::X86Wrmsr(exit)) => {
                counters.msrs += 1;
                self.incomplete = true;
                let clock = &self.shared.config.clock;
                match exit.index {
                    msr::TSC => Then::Adjust(exit.data.wrapping_sub(clock.tsc())),
                    msr::TSC_ADJUST => Then::Adjust(exit.data),
                    number => {
                        *exit.error = u8::from(!io.apic_msr_write(number, exit.data));
                        Then::LookAtApic
                    }
                }
            }
            Ok(Exit::Hlt) => Then::Halt,
            Ok(Exit::IrqWindowOpen) => {
                counters.windows += 1;
                Then::Nothing
            }
            Ok(Exit::Intr) => Then::Nothing,
            Ok(Exit::SetTpr) => Then::Priority,
            Ok(Exit::Shutdown) => Then::Shutdown,
            Ok(Exit::InternalError) => Then::InternalError,
            Ok(other) => Then::Unknown(format!("{other:x?}")),
            Err(errno) if errno.errno() == libc::EINTR || errno.errno() == libc::EAGAIN => {
                counters.kicks += 1;
                // It may have been the alarm, a little early.
                self.alarm.forget();
                Then::LookAtApic
            }
            Err(errno) => Then::Unknown(errno.to_string()),
        };
        let run = self.fd.get_kvm_run();
        self.ready = run.ready_for_interrupt_injection != 0;
        if run.cr8 != priority {
            let now = run.cr8 as u8;
            io.set_task_priority(now);
        }
        match then {
            Then::Nothing | Then::Priority => {}
            Then::LookAtApic => self.look_at_apic(io, inside),
            Then::Ports { port, write } => self.ports(io, port, write),
            Then::Adjust(adjust) => {
                self.kept.msrs.tsc_adjust = adjust;
                io.set_tsc_adjust(adjust);
                let done = self.store_tsc_adjust().and_then(|()| self.follow_clock());
                done.map_err(|e| self.fault(e.to_string()))?;
                self.look_at_apic(io, inside);
            }
            Then::Halt => {
                self.counters.halts += 1;
                self.kept.events.halted = true;
            }
            Then::Shutdown => return self.shut_down(),
            Then::InternalError => return self.internal_error(io, inside),
            Then::Unknown(what) => {
                return Err(self.fault(format!("kvm left the guest for an unknown reason: {what}")));
            }
        }
        Ok(Next::Enter)
    }

    /// IN or OUT, or several of a string.
    #[inline]
    fn ports(&mut self, io: &dyn CpuIo, port: u16, write: bool) {
        self.counters.ports += 1;
        self.incomplete = true;
        raw::port_elements(&mut self.fd, |data| {
            if write {
                io.port_write(port, data);
            } else {
                io.port_read(port, data);
            }
        });
    }

    /// A triple fault, or a mode that KVM does not have: another engine finds out.
    fn shut_down(&mut self) -> Outcome {
        let state = self.taken().map_err(|e| self.fault(e.to_string()))?;
        if !modes::doubt(&state, || self.shared.modes()) {
            return Ok(Next::Leave(VcpuExit::Shutdown));
        }
        let stretch = Stretch::new(&self.shared, self.index, self.signals.clone(), &state);
        self.stretch = Some(stretch.map_err(|e| self.fault(e.to_string()))?);
        self.counters.stretches += 1;
        // The machine looks around, and comes back to it.
        Ok(Next::Leave(VcpuExit::Kicked))
    }

    /// KVM has no way to execute the instruction: the stepper has.
    fn internal_error(&mut self, io: &dyn CpuIo, inside: &Inside) -> Outcome {
        let reason = raw::internal_error(&mut self.fd);
        if reason != Some(KVM_INTERNAL_ERROR_EMULATION) {
            return Err(self.fault(format!("kvm gave up (internal error {reason:?}): take --engine dbt")));
        }
        self.counters.emulated += 1;
        let next = self.step(io, None)?;
        self.look_at_apic(io, inside);
        Ok(next)
    }
}

/// Calls `access` for runs of 8, 4, 2 and 1 bytes; instructions across two pages give others.
#[inline]
fn in_parts(addr: u64, len: usize, mut access: impl FnMut(u64, std::ops::Range<usize>)) {
    let mut at = 0;
    while at < len {
        let part = 1 << (len - at).min(8).ilog2();
        access(addr.wrapping_add(at as u64), at..at + part);
        at += part;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_lengths_are_taken_apart() {
        let mut seen = Vec::new();
        in_parts(0x1001, 7, |addr, part| seen.push((addr, part.len())));
        assert_eq!(seen, [(0x1001, 4), (0x1005, 2), (0x1007, 1)]);
        seen.clear();
        in_parts(u64::MAX, 2, |addr, part| seen.push((addr, part.len())));
        assert_eq!(seen, [(u64::MAX, 2)]);
    }
}
