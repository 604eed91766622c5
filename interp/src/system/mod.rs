//! Privileged and mode-dependent instructions, and the delivery of exceptions and interrupts.

use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop};

/// Lowers a system instruction; false if it is none.
pub(crate) fn lower(_: &mut Lowering) -> bool {
    false
}

/// No engine executes this.
pub(crate) fn unimplemented(_: &mut Cpu, _: &Op) -> Done {
    Err(Stop::Unimplemented)
}

/// #UD.
pub(crate) fn undefined(cpu: &mut Cpu, _: &Op) -> Done {
    Err(cpu.raise(cpu::x86::Exception::ud()))
}

/// More than 15 bytes: #GP(0).
pub(crate) fn overlong(cpu: &mut Cpu, _: &Op) -> Done {
    Err(cpu.raise(cpu::x86::Exception::gp(0)))
}

/// The end of a block that does not branch: execution goes on at offset `end`.
pub(crate) fn next_block(end: usize) -> Op {
    let mut op = Op::template(end as u16, 0);
    op.run = fall_through;
    op
}

fn fall_through(cpu: &mut Cpu, op: &Op) -> Done {
    let next = cpu.regs[usize::from(crate::op::slot::BLOCK)].wrapping_add(op.next());
    cpu.rip = cpu.truncate_ip(next);
    Err(Stop::Jump)
}

impl Cpu {
    /// Delivers `self.exception` at `self.rip`: double and triple faults included.
    pub fn deliver_exception(&mut self) -> Result<(), Stop> {
        Err(Stop::Shutdown)
    }
    /// Delivers an external interrupt.
    pub fn deliver_interrupt(&mut self, _vector: u8) -> Result<(), Stop> {
        Err(Stop::Shutdown)
    }
    /// Delivers a non-maskable interrupt.
    pub fn deliver_nmi(&mut self) -> Result<(), Stop> {
        Err(Stop::Shutdown)
    }
    /// Raises #DB if an instruction breakpoint is at RIP (unless RF).
    pub fn check_code_breakpoints(&mut self) -> Result<(), Stop> {
        Ok(())
    }
    /// After a stepped instruction: single-step and data-breakpoint traps (delivered at the new RIP), RF is cleared.
    /// `single_step`: TF was set when the instruction began.
    pub fn after_step(&mut self, _single_step: bool) -> Result<(), Stop> {
        Ok(())
    }
    /// Stack addresses have 32 bits (SS.B); in 64-bit mode they have 64 and this is irrelevant.
    pub fn stack32(&self) -> bool {
        self.segments[cpu::x86::seg::SS].attr & cpu::x86::seg_attr::DB != 0
    }
    /// IN and OUT are allowed for `size` bytes at `port` (IOPL, TSS bitmap), else #GP(0).
    pub fn check_io(&mut self, _port: u16, _size: u16) -> Result<(), Stop> {
        Ok(())
    }
}
