//! Why the guest was left, and what is done about it.

use cpu::x86::{msr, steal};
use cpu::{CpuFault, CpuIo, VcpuExit};
use kvm_bindings::{
    KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IOAPIC_EOI,
    KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SET_TPR, KVM_EXIT_SHUTDOWN, KVM_EXIT_X86_RDMSR,
    KVM_EXIT_X86_WRMSR, KVM_INTERNAL_ERROR_EMULATION,
};

use super::{KvmVcpu, Next, Outcome};
use crate::helper::Stretch;
use crate::kick::Inside;
use crate::{modes, raw, state};

impl KvmVcpu {
    /// Enters the guest and looks at why it was left.
    #[inline]
    pub(super) fn enter(&mut self, io: &dyn CpuIo, inside: &Inside) -> Outcome {
        let priority = self.fd.get_kvm_run().cr8;
        self.incomplete = false;
        let failed = self.fd.run().err();
        let run = self.fd.get_kvm_run();
        self.ready = run.ready_for_interrupt_injection != 0;
        let (reason, cr8) = (run.exit_reason, run.cr8);
        // The machine knows what the guest did until here before it learns of the exit.
        if cr8 != priority && !self.shared.has_apics() {
            io.set_task_priority(cr8 as u8);
        }
        if self.alarm.is_due() {
            io.poll();
            self.look_at_apic(io, inside);
        }
        match failed.map(|errno| errno.errno()) {
            None => self.exit(io, inside, reason),
            Some(libc::EINTR | libc::EAGAIN) => {
                self.counters.kicks += 1;
                // It may have been the alarm, a little early.
                self.alarm.forget();
                self.look_at_apic(io, inside);
                Ok(Next::Enter)
            }
            Some(errno) => {
                let error = std::io::Error::from_raw_os_error(errno);
                Err(self.fault(format!("kvm does not run the guest: {error}")))
            }
        }
    }

    #[inline]
    fn exit(&mut self, io: &dyn CpuIo, inside: &Inside, reason: u32) -> Outcome {
        match reason {
            KVM_EXIT_IO => self.ports(io),
            KVM_EXIT_MMIO => self.mmio(io, inside),
            KVM_EXIT_X86_RDMSR => {
                self.counters.msrs += 1;
                self.incomplete = true;
                let access = raw::msr(&mut self.fd);
                let value = match access.index {
                    msr::KVM_STEAL_TIME => Some(self.kept.msrs.kvm_steal_time),
                    number => io.apic_msr_read(number),
                };
                access.error = u8::from(value.is_none());
                access.data = value.unwrap_or(0);
            }
            KVM_EXIT_X86_WRMSR => self.write_msr(io, inside)?,
            KVM_EXIT_HLT => {
                self.counters.halts += 1;
                self.kept.events.halted = true;
            }
            KVM_EXIT_IRQ_WINDOW_OPEN => self.counters.windows += 1,
            KVM_EXIT_IOAPIC_EOI => io.end_of_interrupt(raw::ended_interrupt(&mut self.fd)),
            KVM_EXIT_INTR | KVM_EXIT_SET_TPR => {}
            KVM_EXIT_SHUTDOWN => return self.shut_down(),
            KVM_EXIT_INTERNAL_ERROR => return self.internal_error(io, inside),
            other => return Err(self.fault(format!("kvm left the guest for a reason unknown here, {other}"))),
        }
        Ok(Next::Enter)
    }

    #[inline]
    fn mmio(&mut self, io: &dyn CpuIo, inside: &Inside) {
        self.counters.mmio += 1;
        self.incomplete = true;
        let (addr, data, write) = raw::mmio(&mut self.fd);
        in_parts(addr, data.len(), |addr, part| match data.get_mut(part) {
            Some(data) if write => io.mmio_write(addr, data),
            Some(data) => io.mmio_read(addr, data),
            None => {}
        });
        if write {
            self.look_at_apic(io, inside);
        }
    }

    fn write_msr(&mut self, io: &dyn CpuIo, inside: &Inside) -> Result<(), CpuFault> {
        self.counters.msrs += 1;
        self.incomplete = true;
        let access = raw::msr(&mut self.fd);
        let adjust = match access.index {
            msr::TSC => Some(access.data.wrapping_sub(self.shared.config.clock.tsc())),
            msr::TSC_ADJUST => Some(access.data),
            msr::KVM_STEAL_TIME => {
                access.error = u8::from(access.data & steal::RESERVED != 0);
                if access.error == 0 {
                    self.kept.msrs.kvm_steal_time = access.data;
                    io.set_steal_time(access.data);
                }
                None
            }
            number => {
                let (value, taken) = (access.data, io.apic_msr_write(number, access.data));
                access.error = u8::from(!taken);
                if taken && number == msr::APIC_BASE {
                    // CPUID has a bit that follows it.
                    state::try_msr(&self.fd, number, value).map_err(|e| self.fault(e.to_string()))?;
                }
                None
            }
        };
        if let Some(adjust) = adjust {
            raw::msr(&mut self.fd).error = 0;
            self.kept.msrs.tsc_adjust = adjust;
            io.set_tsc_adjust(adjust);
            let done = self.store_tsc_adjust().and_then(|()| self.follow_clock());
            done.map_err(|e| self.fault(e.to_string()))?;
        }
        self.look_at_apic(io, inside);
        Ok(())
    }

    /// IN or OUT, or several of a string.
    #[inline]
    fn ports(&mut self, io: &dyn CpuIo) {
        self.counters.ports += 1;
        self.incomplete = true;
        raw::port_elements(&mut self.fd, |port, write, data| {
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
        if self.shared.has_apics() {
            return Err(self.fault(super::NO_STRETCH.to_owned()));
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
        if reason != KVM_INTERNAL_ERROR_EMULATION {
            return Err(self.fault(format!("kvm gave up (internal error {reason}): take --engine dbt")));
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
