//! Delivery in protected and v8086 mode: interrupt, trap and task gates of 16 and 32 bits.

use cpu::Segment;
use cpu::x86::{gpr, rflags, seg, vector};

use super::{Entered, Event, Origin};
use crate::cpu::Cpu;
use crate::op::Stop;
use crate::system::descriptor::{Descriptor, is_null, kind, null_segment, selector_code};
use crate::system::stack::Stack;
use crate::system::task::{Cause, Switched};

/// Where the handler is and how it is entered.
struct Entry {
    code: Segment,
    cpl: u8,
    offset: u64,
    /// Bytes per word of the frame.
    size: u8,
    /// Interrupt gate: IF is cleared.
    masks: bool,
}

impl Cpu {
    pub(super) fn deliver_protected(&mut self, event: &Event) -> Result<Entered, Stop> {
        let at = u32::from(event.vector) * 8;
        if at + 7 > u32::from(self.idtr.limit) {
            return Err(self.fault(vector::GP, event.idt_code()));
        }
        let addr = self.idtr.base.wrapping_add(u64::from(at));
        let gate = Descriptor { raw: self.as_system(|cpu| cpu.table(addr))?, addr };
        let kind = gate.system();
        let known =
            [kind::TASK_GATE, kind::INT16, kind::TRAP16, kind::INT32, kind::TRAP32].map(Some).contains(&kind);
        if !known || (event.origin == Origin::Software && gate.dpl() < self.cpl) {
            return Err(self.fault(vector::GP, event.idt_code()));
        }
        if !gate.present() {
            return Err(self.fault(vector::NP, event.idt_code()));
        }
        if kind == Some(kind::TASK_GATE) {
            let cause = Cause::Event { code: event.code, ext: event.ext() };
            let saved = self.saved_flags(event);
            return Ok(match self.task_switch(gate.gate_selector(), cause, event.rip, saved)? {
                Switched::Runs => Entered::Handler,
                Switched::Faulted => Entered::FaultedTask,
            });
        }
        let wide = matches!(kind, Some(kind::INT32 | kind::TRAP32));
        let masks = matches!(kind, Some(kind::INT16 | kind::INT32));
        let entry = self.handler(&gate, event.ext(), wide, masks)?;
        let (cpl, eflags) = (self.cpl, self.eflags);
        let outcome = self.enter_handler(event, &entry);
        if outcome.is_err() {
            self.set_privilege(cpl, eflags);
        }
        outcome.map(|()| Entered::Handler)
    }

    /// Checks the gate's code segment.
    fn handler(&mut self, gate: &Descriptor, ext: u32, wide: bool, masks: bool) -> Result<Entry, Stop> {
        let selector = gate.gate_selector();
        if is_null(selector) {
            return Err(self.fault(vector::GP, ext));
        }
        let code = self.as_system(|cpu| cpu.system_descriptor(selector, vector::GP, ext))?;
        if !code.is_code() || code.dpl() > self.cpl {
            return Err(self.fault(vector::GP, selector_code(selector, ext)));
        }
        self.check_code(code, selector, ext)?;
        let cpl = if code.is_conforming() { self.cpl } else { code.dpl() };
        if self.v8086() && cpl != 0 {
            return Err(self.fault(vector::GP, selector_code(selector, ext)));
        }
        self.mark_accessed(code)?;
        let offset = if wide { gate.gate_offset() } else { gate.gate_offset() & 0xffff };
        let code = code.segment(selector & !3 | u16::from(cpl));
        self.check_target(&code, offset, ext)?;
        Ok(Entry { code, cpl, offset, size: if wide { 4 } else { 2 }, masks })
    }

    fn enter_handler(&mut self, event: &Event, entry: &Entry) -> Result<(), Stop> {
        let (ext, size, eflags) = (event.ext(), entry.size, self.eflags);
        let saved_flags = self.saved_flags(event);
        let v8086 = self.v8086();
        let old = self.segments;
        let inner = entry.cpl < self.cpl;
        let mut stack;
        let mut new_stack = None;
        if inner {
            let (ss, sp) = self.inner_stack(entry.cpl, ext)?;
            stack = Stack::segmented(&ss, sp, false);
            stack.code = selector_code(ss.selector, ext);
            new_stack = Some(ss);
            self.set_privilege(entry.cpl, eflags);
            if v8086 {
                for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
                    stack.push_sized(self, size, u64::from(old[index].selector))?;
                }
            }
            stack.push_sized(self, size, u64::from(old[seg::SS].selector))?;
            stack.push_sized(self, size, self.regs[gpr::RSP])?;
        } else {
            stack = Stack::current(self);
            stack.code = ext;
        }
        stack.push_sized(self, size, saved_flags)?;
        stack.push_sized(self, size, u64::from(old[seg::CS].selector))?;
        stack.push_sized(self, size, event.rip)?;
        if let Some(code) = event.code {
            stack.push_sized(self, size, u64::from(code))?;
        }

        if let Some(ss) = new_stack {
            self.segments[seg::SS] = ss;
        }
        stack.commit(self);
        self.rip = entry.offset;
        let masked = rflags::TF | rflags::NT | rflags::RF | rflags::VM;
        self.eflags = eflags & !(masked | if entry.masks { rflags::IF } else { 0 });
        if v8086 {
            for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
                self.segments[index] = null_segment(0);
            }
        }
        self.set_code(entry.code, entry.cpl);
        Ok(())
    }

    /// Stack segment and pointer for a more privileged level, from the TSS.
    pub(in crate::system) fn inner_stack(&mut self, cpl: u8, ext: u32) -> Result<(Segment, u64), Stop> {
        let wide = self.tr.attr & 0xf == kind::TSS32_BUSY;
        let offset = u64::from(cpl) * if wide { 8 } else { 4 } + if wide { 4 } else { 2 };
        let last = offset + if wide { 5 } else { 3 };
        if last > u64::from(self.tr.limit) {
            return Err(self.fault(vector::TS, selector_code(self.tr.selector, ext)));
        }
        let at = self.tr.base.wrapping_add(offset);
        let (sp, selector) = self.as_system(|cpu| -> Result<(u64, u16), Stop> {
            Ok(if wide {
                (u64::from(cpu.table::<u32>(at)?), cpu.table::<u16>(at.wrapping_add(4))?)
            } else {
                (u64::from(cpu.table::<u16>(at)?), cpu.table::<u16>(at.wrapping_add(2))?)
            })
        })?;
        if is_null(selector) {
            return Err(self.fault(vector::TS, ext));
        }
        Ok((self.checked_stack(selector, cpl, vector::TS, ext)?, sp))
    }
}
