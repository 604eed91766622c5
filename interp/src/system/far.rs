//! Far JMP, CALL and RET, through call gates, task gates and task-state segments too.

use cpu::Segment;
use cpu::x86::{gpr, seg, seg_attr, vector};
use iced_x86::{Code, Mnemonic, OpKind};

use super::descriptor::{Descriptor, is_null, kind, null_stack, selector_code};
use super::interrupt::drop_inner_segments;
use super::stack::Stack;
use super::task::Cause;
use crate::cpu::{CodeSize, Cpu};
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop};

pub(super) fn lower(l: &mut Lowering) -> bool {
    use Code as C;
    let call = l.insn.mnemonic() == Mnemonic::Call;
    match l.insn.code() {
        C::Retfw | C::Retfw_imm16 => ret(l, 2),
        C::Retfd | C::Retfd_imm16 => ret(l, 4),
        C::Retfq | C::Retfq_imm16 => ret(l, 8),
        C::Jmp_ptr1616 | C::Call_ptr1616 | C::Jmp_ptr1632 | C::Call_ptr1632 => {
            let wide = l.insn.op0_kind() == OpKind::FarBranch32;
            let offset = if wide { l.insn.far_branch32() } else { u32::from(l.insn.far_branch16()) };
            l.op.imm = u64::from(l.insn.far_branch_selector()) << 32 | u64::from(offset);
            l.op.aux = if wide { 4 } else { 2 };
            l.end_with(if call { call_direct } else { jump_direct })
        }
        C::Jmp_m1616 | C::Call_m1616 => indirect(l, 2, call),
        C::Jmp_m1632 | C::Call_m1632 => indirect(l, 4, call),
        C::Jmp_m1664 | C::Call_m1664 => indirect(l, 8, call),
        _ => false,
    }
}

fn ret(l: &mut Lowering, size: u8) -> bool {
    l.op.aux = size;
    l.op.imm = if l.insn.op_count() > 0 { u64::from(l.insn.immediate16()) } else { 0 };
    l.end_with(far_return)
}

fn indirect(l: &mut Lowering, size: u8, call: bool) -> bool {
    l.op.aux = size;
    l.end_with(if call { call_indirect } else { jump_indirect })
}

/// A far pointer in memory: offset, then selector.
pub(super) fn load_pointer(cpu: &mut Cpu, op: &Op, size: u8) -> Result<(u16, u64), Stop> {
    let ea = cpu.effective(op);
    let bytes = usize::from(size);
    let lin = cpu.segmented(op.seg, ea, bytes + 2, false)?;
    let offset = match size {
        2 => u64::from(cpu.load::<u16>(lin, op.seg)?),
        4 => u64::from(cpu.load::<u32>(lin, op.seg)?),
        _ => cpu.load(lin, op.seg)?,
    };
    let selector = cpu.load(cpu.wrap_linear(lin.wrapping_add(bytes as u64)), op.seg)?;
    Ok((selector, offset))
}

fn jump_direct(cpu: &mut Cpu, op: &Op) -> Done {
    jump(cpu, op, (op.imm >> 32) as u16, op.imm & 0xffff_ffff)
}

fn jump_indirect(cpu: &mut Cpu, op: &Op) -> Done {
    let (selector, offset) = load_pointer(cpu, op, op.aux)?;
    jump(cpu, op, selector, offset)
}

fn call_direct(cpu: &mut Cpu, op: &Op) -> Done {
    call(cpu, op, (op.imm >> 32) as u16, op.imm & 0xffff_ffff)
}

fn call_indirect(cpu: &mut Cpu, op: &Op) -> Done {
    let (selector, offset) = load_pointer(cpu, op, op.aux)?;
    call(cpu, op, selector, offset)
}

/// Where a selector leads.
enum Target {
    /// A code segment, checked; CPL stays.
    Code(Segment),
    CallGate(Descriptor),
    /// The TSS selector.
    Task(u16),
}

impl Cpu {
    /// Resolves the selector of a far JMP or CALL in protected mode.
    fn far_target(&mut self, selector: u16) -> Result<Target, Stop> {
        if is_null(selector) {
            return Err(self.gp0());
        }
        let code = selector_code(selector, 0);
        let descriptor = self.descriptor(selector, vector::GP)?;
        let (cpl, rpl, dpl) = (self.cpl, selector as u8 & 3, descriptor.dpl());
        let Some(kind) = descriptor.system() else {
            let allowed = if descriptor.is_conforming() { dpl <= cpl } else { rpl <= cpl && dpl == cpl };
            if !descriptor.is_code() || !allowed {
                return Err(self.fault(vector::GP, code));
            }
            self.check_code(descriptor, selector, 0)?;
            self.mark_accessed(descriptor)?;
            return Ok(Target::Code(descriptor.segment(selector & !3 | u16::from(cpl))));
        };
        let long = self.long_mode();
        let known = match kind {
            kind::CALL32 => true,
            kind::CALL16 | kind::TASK_GATE | kind::TSS16 | kind::TSS32 => !long,
            _ => false,
        };
        if !known || dpl < cpl || dpl < rpl {
            return Err(self.fault(vector::GP, code));
        }
        if !descriptor.present() {
            return Err(self.fault(vector::NP, code));
        }
        Ok(match kind {
            kind::CALL16 | kind::CALL32 => Target::CallGate(descriptor),
            kind::TASK_GATE => Target::Task(descriptor.gate_selector()),
            _ => Target::Task(selector),
        })
    }

    /// Code segment and offset behind a call gate. `call`: a more privileged level is allowed.
    fn gate_target(
        &mut self,
        gate: Descriptor,
        selector: u16,
        call: bool,
    ) -> Result<(Descriptor, u16, u64), Stop> {
        let long = self.long_mode();
        let upper = if long { self.upper_half(gate, selector, 0)? } else { 0 };
        let wide = gate.system() == Some(kind::CALL32);
        let offset = if wide { gate.gate_offset() | upper } else { gate.gate_offset() & 0xffff };
        let target = gate.gate_selector();
        if is_null(target) {
            return Err(self.gp0());
        }
        let code = self.descriptor(target, vector::GP)?;
        let dpl = code.dpl();
        let allowed = dpl == self.cpl || (dpl < self.cpl && (call || code.is_conforming()));
        let wide_code = code.attr() & (seg_attr::L | seg_attr::DB) == seg_attr::L;
        if !code.is_code() || !allowed || (long && !wide_code) {
            return Err(self.fault(vector::GP, selector_code(target, 0)));
        }
        self.check_code(code, target, 0)?;
        Ok((code, target, offset))
    }
}

fn jump(cpu: &mut Cpu, op: &Op, selector: u16, offset: u64) -> Done {
    if cpu.real_segments() {
        let code = cpu.real_segment(seg::CS, selector);
        cpu.check_target(&code, offset, 0)?;
        cpu.rip = offset;
        let cpl = cpu.cpl;
        cpu.set_code(code, cpl);
        return Err(Stop::Jump);
    }
    match cpu.far_target(selector)? {
        Target::Code(code) => {
            cpu.check_target(&code, offset, 0)?;
            cpu.rip = offset;
            let cpl = cpu.cpl;
            cpu.set_code(code, cpl);
            Err(Stop::Jump)
        }
        Target::CallGate(gate) => {
            let (code, target, offset) = cpu.gate_target(gate, selector, false)?;
            let cpl = cpu.cpl;
            let segment = code.segment(target & !3 | u16::from(cpl));
            cpu.check_target(&segment, offset, 0)?;
            cpu.mark_accessed(code)?;
            cpu.rip = offset;
            cpu.set_code(segment, cpl);
            Err(Stop::Jump)
        }
        Target::Task(tss) => switch(cpu, op, tss, Cause::Jump),
    }
}

fn switch(cpu: &mut Cpu, op: &Op, tss: u16, cause: Cause) -> Done {
    let (next, flags) = (cpu.next_ip(op), cpu.rflags());
    let switched = cpu.task_switch(tss, cause, next, flags)?;
    Err(cpu.end_task_switch(switched))
}

fn call(cpu: &mut Cpu, op: &Op, selector: u16, offset: u64) -> Done {
    let next = cpu.next_ip(op);
    if cpu.real_segments() {
        let code = cpu.real_segment(seg::CS, selector);
        return call_code(cpu, code, offset, next, op.aux);
    }
    match cpu.far_target(selector)? {
        Target::Code(code) => call_code(cpu, code, offset, next, op.aux),
        Target::CallGate(gate) => call_gate(cpu, gate, selector, next),
        Target::Task(tss) => switch(cpu, op, tss, Cause::Call),
    }
}

/// Pushes CS and IP in words of `size` bytes and jumps; CPL stays.
fn call_code(cpu: &mut Cpu, code: Segment, offset: u64, next: u64, size: u8) -> Done {
    cpu.check_target(&code, offset, 0)?;
    let mut stack = Stack::current(cpu);
    stack.push_sized(cpu, size, u64::from(cpu.segments[seg::CS].selector))?;
    stack.push_sized(cpu, size, next)?;
    stack.commit(cpu);
    cpu.rip = offset;
    let cpl = cpu.cpl;
    cpu.set_code(code, cpl);
    Err(Stop::Jump)
}

fn call_gate(cpu: &mut Cpu, gate: Descriptor, selector: u16, next: u64) -> Done {
    let (code, target, offset) = cpu.gate_target(gate, selector, true)?;
    let long = cpu.long_mode();
    let size = match gate.system() {
        Some(kind::CALL16) => 2,
        _ if long => 8,
        _ => 4,
    };
    let inner = !code.is_conforming() && code.dpl() < cpu.cpl;
    let cpl = if inner { code.dpl() } else { cpu.cpl };
    let segment = code.segment(target & !3 | u16::from(cpl));
    cpu.check_target(&segment, offset, 0)?;
    cpu.mark_accessed(code)?;
    let (old_cpl, old_size, eflags) = (cpu.cpl, cpu.code_size, cpu.eflags);
    let frame = Frame { size, next, inner, cpl, words: if long { 0 } else { (gate.raw >> 32) as u8 & 0x1f } };
    match frame.build(cpu, long) {
        Ok((ss, stack)) => {
            if let Some(ss) = ss {
                cpu.segments[seg::SS] = ss;
            }
            stack.commit(cpu);
            cpu.rip = offset;
            cpu.eflags = eflags;
            cpu.set_code(segment, cpl);
            Err(Stop::Jump)
        }
        Err(stop) => {
            cpu.code_size = old_size;
            cpu.set_privilege(old_cpl, eflags);
            Err(stop)
        }
    }
}

/// What a call through a gate leaves on the stack.
struct Frame {
    size: u8,
    next: u64,
    inner: bool,
    cpl: u8,
    /// Parameters that move to the inner stack.
    words: u8,
}

impl Frame {
    /// Pushes the frame; CPL and code size may have changed when this returns.
    fn build(&self, cpu: &mut Cpu, long: bool) -> Result<(Option<Segment>, Stack), Stop> {
        let cs = u64::from(cpu.segments[seg::CS].selector);
        if !self.inner {
            let mut stack = if long { Stack::flat(cpu.regs[gpr::RSP]) } else { Stack::current(cpu) };
            stack.push_sized(cpu, self.size, cs)?;
            stack.push_sized(cpu, self.size, self.next)?;
            return Ok((None, stack));
        }
        let mut parameters = [0; 31];
        let mut outer = Stack::current(cpu);
        for parameter in parameters.iter_mut().take(usize::from(self.words)) {
            *parameter = outer.pop_sized(cpu, self.size)?;
        }
        let (ss, mut stack) = if long {
            let rsp = cpu.as_system(|cpu| cpu.tss64(4 + u64::from(self.cpl) * 8, 0))?;
            (null_stack(self.cpl), Stack::flat(rsp))
        } else {
            let (ss, sp) = cpu.inner_stack(self.cpl, 0)?;
            let mut stack = Stack::segmented(&ss, sp, false);
            stack.code = selector_code(ss.selector, 0);
            (ss, stack)
        };
        let eflags = cpu.eflags;
        cpu.set_privilege(self.cpl, eflags);
        if long {
            cpu.code_size = CodeSize::Bits64;
        }
        stack.push_sized(cpu, self.size, u64::from(cpu.segments[seg::SS].selector))?;
        stack.push_sized(cpu, self.size, cpu.regs[gpr::RSP])?;
        for &parameter in parameters[..usize::from(self.words)].iter().rev() {
            stack.push_sized(cpu, self.size, parameter)?;
        }
        stack.push_sized(cpu, self.size, cs)?;
        stack.push_sized(cpu, self.size, self.next)?;
        Ok((Some(ss), stack))
    }
}

fn far_return(cpu: &mut Cpu, op: &Op) -> Done {
    let size = op.aux;
    let mut stack = Stack::current(cpu);
    let ip = stack.pop_sized(cpu, size)?;
    let cs = stack.pop_sized(cpu, size)? as u16;
    if cpu.real_segments() {
        let code = cpu.real_segment(seg::CS, cs);
        cpu.check_target(&code, ip, 0)?;
        stack.skip(op.imm);
        stack.commit(cpu);
        cpu.rip = ip;
        let cpl = cpu.cpl;
        cpu.set_code(code, cpl);
        return Err(Stop::Jump);
    }
    if is_null(cs) {
        return Err(cpu.gp0());
    }
    let code = cpu.descriptor(cs, vector::GP)?;
    let rpl = cs as u8 & 3;
    let allowed = if code.is_conforming() { code.dpl() <= rpl } else { code.dpl() == rpl };
    if !code.is_code() || rpl < cpu.cpl || !allowed {
        return Err(cpu.fault(vector::GP, selector_code(cs, 0)));
    }
    cpu.check_code(code, cs, 0)?;
    let segment = code.segment(cs);
    stack.skip(op.imm);
    if rpl == cpu.cpl {
        cpu.check_target(&segment, ip, 0)?;
        cpu.mark_accessed(code)?;
        stack.commit(cpu);
        cpu.rip = ip;
        cpu.set_code(segment, rpl);
        return Err(Stop::Jump);
    }
    let sp = stack.pop_sized(cpu, size)?;
    let ss = stack.pop_sized(cpu, size)? as u16;
    let to64 = cpu.long_mode() && segment.attr & seg_attr::L != 0;
    let ss = if is_null(ss) {
        if !to64 || rpl == 3 || ss as u8 & 3 != rpl {
            return Err(cpu.gp0());
        }
        null_stack(rpl)
    } else {
        cpu.checked_stack(ss, rpl, vector::GP, 0)?
    };
    cpu.check_target(&segment, ip, 0)?;
    cpu.mark_accessed(code)?;
    let mut outer = if to64 { Stack::flat(sp) } else { Stack::segmented(&ss, sp, false) };
    outer.skip(op.imm);
    cpu.segments[seg::SS] = ss;
    outer.commit(cpu);
    cpu.rip = ip;
    cpu.set_code(segment, rpl);
    drop_inner_segments(cpu);
    cpu.check_alignment_mode();
    Err(Stop::Jump)
}
