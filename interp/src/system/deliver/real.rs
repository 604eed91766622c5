//! Delivery in real mode, through the interrupt vector table.

use cpu::x86::{rflags, seg, vector};

use super::Event;
use crate::cpu::Cpu;
use crate::op::Stop;
use crate::system::stack::Stack;

impl Cpu {
    pub(super) fn deliver_real(&mut self, event: &Event) -> Result<(), Stop> {
        let at = u32::from(event.vector) * 4;
        if at + 3 > u32::from(self.idtr.limit) {
            return Err(self.fault(vector::GP, event.idt_code()));
        }
        let entry: u32 = self.table(self.idtr.base.wrapping_add(u64::from(at)))?;
        let mut stack = Stack::current(self);
        let flags = self.rflags();
        stack.push(self, flags as u16)?;
        stack.push(self, self.segments[seg::CS].selector)?;
        stack.push(self, event.rip as u16)?;
        stack.commit(self);
        self.rip = u64::from(entry & 0xffff);
        let code = self.real_segment(seg::CS, (entry >> 16) as u16);
        self.eflags &= !(rflags::IF | rflags::TF | rflags::AC | rflags::RF);
        self.set_code(code, 0);
        Ok(())
    }
}
