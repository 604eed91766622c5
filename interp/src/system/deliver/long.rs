//! Delivery in IA-32e mode: 16-byte gates, stacks from the TSS, a frame of eight-byte words.

use cpu::x86::{gpr, rflags, seg, seg_attr, vector};

use super::{Event, Origin};
use crate::cpu::{CodeSize, Cpu};
use crate::op::Stop;
use crate::system::descriptor::{is_null, kind, null_stack, selector_code};
use crate::system::stack::Stack;

impl Cpu {
    pub(super) fn deliver_long(&mut self, event: &Event) -> Result<(), Stop> {
        let (cpl, eflags, size) = (self.cpl, self.eflags, self.code_size);
        let saved_flags = self.saved_flags(event);
        // From here on as the handler will: tables and the new stack are accessed by supervisor code.
        self.set_privilege(0, eflags & !rflags::AC);
        self.code_size = CodeSize::Bits64;
        let outcome = self.enter_long(event, cpl, eflags, saved_flags);
        if outcome.is_err() {
            self.code_size = size;
            self.set_privilege(cpl, eflags);
        }
        outcome
    }

    fn enter_long(&mut self, event: &Event, cpl: u8, eflags: u64, saved_flags: u64) -> Result<(), Stop> {
        let at = u32::from(event.vector) * 16;
        if at + 15 > u32::from(self.idtr.limit) {
            return Err(self.fault(vector::GP, event.idt_code()));
        }
        let at = self.idtr.base.wrapping_add(u64::from(at));
        let low: u64 = self.table(at)?;
        let high: u64 = self.table(at.wrapping_add(8))?;
        let gate = (low >> 40) as u32 & 0x1f;
        if gate != kind::INT32 && gate != kind::TRAP32 {
            return Err(self.fault(vector::GP, event.idt_code()));
        }
        if event.origin == Origin::Software && ((low >> 45) as u8 & 3) < cpl {
            return Err(self.fault(vector::GP, event.idt_code()));
        }
        if low >> 47 & 1 == 0 {
            return Err(self.fault(vector::NP, event.idt_code()));
        }

        let ext = event.ext();
        let selector = (low >> 16) as u16;
        if is_null(selector) {
            return Err(self.fault(vector::GP, ext));
        }
        let code = self.system_descriptor(selector, vector::GP, ext)?;
        let wide = code.attr() & (seg_attr::L | seg_attr::DB) == seg_attr::L;
        if !code.is_code() || code.dpl() > cpl || (code.present() && !wide) {
            return Err(self.fault(vector::GP, selector_code(selector, ext)));
        }
        if !code.present() {
            return Err(self.fault(vector::NP, selector_code(selector, ext)));
        }
        let target = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        if !Self::canonical(target) {
            return Err(self.fault(vector::GP, ext));
        }
        self.mark_accessed(code)?;

        let new_cpl = if code.is_conforming() { cpl } else { code.dpl() };
        let ist = low >> 32 & 7;
        let rsp = if ist != 0 {
            self.tss64(0x1c + ist * 8, ext)?
        } else if new_cpl < cpl {
            self.tss64(4 + u64::from(new_cpl) * 8, ext)?
        } else {
            self.regs[gpr::RSP]
        };
        if new_cpl != 0 {
            self.set_privilege(new_cpl, eflags);
        }
        let mut stack = Stack::flat(rsp & !0xf);
        stack.push(self, u64::from(self.segments[seg::SS].selector))?;
        stack.push(self, self.regs[gpr::RSP])?;
        stack.push(self, saved_flags)?;
        stack.push(self, u64::from(self.segments[seg::CS].selector))?;
        stack.push(self, event.rip)?;
        if let Some(code) = event.code {
            stack.push(self, u64::from(code))?;
        }

        self.regs[gpr::RSP] = stack.sp;
        self.rip = target;
        let masked = rflags::TF | rflags::NT | rflags::RF | rflags::VM;
        self.eflags = eflags & !(masked | if gate == kind::INT32 { rflags::IF } else { 0 });
        if new_cpl != cpl {
            self.segments[seg::SS] = null_stack(new_cpl);
        }
        self.set_code(code.segment(selector & !3 | u16::from(new_cpl)), new_cpl);
        Ok(())
    }

    /// A stack pointer in the 64-bit TSS; within [`as_system`](Self::as_system).
    #[inline]
    pub(in crate::system) fn tss64(&mut self, offset: u64, ext: u32) -> Result<u64, Stop> {
        if offset + 7 > u64::from(self.tr.limit) {
            return Err(self.fault(vector::TS, selector_code(self.tr.selector, ext)));
        }
        let rsp: u64 = self.table(self.tr.base.wrapping_add(offset))?;
        if !Self::canonical(rsp) {
            return Err(self.fault(vector::SS, ext));
        }
        Ok(rsp)
    }
}
