//! INT n, INT1, INT3, INTO, BOUND, and IRET in all modes.

use cpu::x86::{Exception, gpr, rflags, seg, seg_attr, vector};
use iced_x86::{Code, Mnemonic};

use super::debug::{KEEP_RF, NO_STEP_TRAP};
use super::deliver::{Entered, Event, Origin};
use super::descriptor::{is_null, null_segment, null_stack, selector_code};
use super::drain;
use super::stack::Stack;
use crate::cpu::{CodeSize, Cpu};
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop};

pub(super) fn lower(l: &mut Lowering) -> bool {
    match l.insn.mnemonic() {
        Mnemonic::Int => {
            l.imm(0);
            l.end_with(int)
        }
        Mnemonic::Int1 => l.end_with(int1),
        Mnemonic::Int3 => l.end_with(int3),
        Mnemonic::Into => l.end_with(into),
        Mnemonic::Bound => {
            l.src(0);
            l.run(if l.insn.code() == Code::Bound_r16_m1616 { bound16 } else { bound32 })
        }
        _ => {
            l.op.aux = match l.insn.code() {
                Code::Iretw => 2,
                Code::Iretd => 4,
                _ => 8,
            };
            l.end_with(iret)
        }
    }
}

fn int(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.v8086() && cpu.iopl() < 3 {
        return Err(cpu.gp0());
    }
    software(cpu, op, op.imm as u8, Origin::Software)
}

fn int3(cpu: &mut Cpu, op: &Op) -> Done {
    software(cpu, op, vector::BP, Origin::Software)
}

fn int1(cpu: &mut Cpu, op: &Op) -> Done {
    software(cpu, op, vector::DB, Origin::Exception)
}

fn into(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.flags.of() {
        return software(cpu, op, vector::OF, Origin::Software);
    }
    cpu.rip = cpu.next_ip(op);
    Err(Stop::Jump)
}

fn software(cpu: &mut Cpu, op: &Op, vector: u8, origin: Origin) -> Done {
    let event = Event { vector, code: None, origin, rip: cpu.next_ip(op), resume: false };
    match cpu.deliver(&event)? {
        Entered::Handler => {
            cpu.watch_hits |= NO_STEP_TRAP;
            Err(Stop::Jump)
        }
        Entered::FaultedTask => Err(cpu.deliver_exception().err().unwrap_or(Stop::Jump)),
    }
}

fn bound16(cpu: &mut Cpu, op: &Op) -> Done {
    let lin = cpu.linear(op, 4, false)?;
    let bounds: u32 = cpu.load(lin, op.seg)?;
    let index: u16 = cpu.src(op);
    let index = index as i16;
    if index < bounds as i16 || index > (bounds >> 16) as i16 {
        return Err(cpu.raise(Exception::new(vector::BR)));
    }
    Ok(())
}

fn bound32(cpu: &mut Cpu, op: &Op) -> Done {
    let lin = cpu.linear(op, 8, false)?;
    let bounds: u64 = cpu.load(lin, op.seg)?;
    let index: u32 = cpu.src(op);
    let index = index as i32;
    if index < bounds as i32 || index > (bounds >> 32) as i32 {
        return Err(cpu.raise(Exception::new(vector::BR)));
    }
    Ok(())
}

/// Flags that IRET takes from the frame at any privilege, apart from the arithmetic ones.
const ALWAYS: u64 = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT;
/// The same beyond the low 16 bits.
const ALWAYS_HIGH: u64 = rflags::RF | rflags::AC | rflags::ID;

fn iret(cpu: &mut Cpu, op: &Op) -> Done {
    drain(); // IRET serialises
    if !cpu.protected() {
        return iret_real(cpu, op);
    }
    if cpu.v8086() {
        if cpu.iopl() < 3 {
            return Err(cpu.gp0());
        }
        return iret_real(cpu, op);
    }
    if cpu.eflags & rflags::NT != 0 {
        if cpu.long_mode() {
            return Err(cpu.gp0());
        }
        let next = cpu.next_ip(op);
        let switched = cpu.task_return(next)?;
        cpu.events.nmi_blocked = false;
        return Err(cpu.end_task_switch(switched));
    }
    iret_protected(cpu, op.aux)
}

fn iret_real(cpu: &mut Cpu, op: &Op) -> Done {
    let size = op.aux;
    let mut stack = Stack::current(cpu);
    let ip = stack.pop_sized(cpu, size)?;
    let cs = stack.pop_sized(cpu, size)? as u16;
    let image = stack.pop_sized(cpu, size)?;
    let code = cpu.real_segment(seg::CS, cs);
    cpu.check_target(&code, ip, 0)?;
    stack.commit(cpu);
    let mut mask = ALWAYS | rflags::IF;
    mask |= if cpu.v8086() { 0 } else { rflags::IOPL };
    mask |= if size == 4 { ALWAYS_HIGH } else { 0 };
    cpu.rip = ip;
    let cpl = cpu.cpl;
    finish(cpu, image, mask);
    cpu.set_code(code, cpl);
    Err(Stop::Jump)
}

/// Sets the flags and unblocks NMIs.
#[inline]
fn finish(cpu: &mut Cpu, image: u64, mask: u64) {
    let old = cpu.rflags() & !rflags::RF;
    cpu.set_rflags(old & !mask | image & mask);
    cpu.events.nmi_blocked = false;
    cpu.watch_hits |= KEEP_RF;
}

fn iret_protected(cpu: &mut Cpu, size: u8) -> Done {
    let old_cpl = cpu.cpl;
    let mut stack = Stack::current(cpu);
    let ip = stack.pop_sized(cpu, size)?;
    let cs = stack.pop_sized(cpu, size)? as u16;
    let image = stack.pop_sized(cpu, size)?;
    if image & rflags::VM != 0 && old_cpl == 0 && size == 4 && !cpu.long_mode() {
        return iret_to_v8086(cpu, stack, ip, cs, image);
    }

    if is_null(cs) {
        return Err(cpu.gp0());
    }
    let code = cpu.descriptor(cs, vector::GP)?;
    let rpl = cs as u8 & 3;
    let privilege = if code.is_conforming() { code.dpl() <= rpl } else { code.dpl() == rpl };
    if !code.is_code() || rpl < old_cpl || !privilege {
        return Err(cpu.fault(vector::GP, selector_code(cs, 0)));
    }
    cpu.check_code(code, cs, 0)?;
    let segment = code.segment(cs);

    // 64-bit mode always has a stack pointer in the frame, others only on a return to an outer level.
    let outer = rpl > old_cpl;
    let mut new_ss = None;
    if outer || cpu.code_size == CodeSize::Bits64 {
        let sp = stack.pop_sized(cpu, size)?;
        let ss = stack.pop_sized(cpu, size)? as u16;
        let to64 = cpu.long_mode() && segment.attr & seg_attr::L != 0;
        let stack_segment = if is_null(ss) {
            if !to64 || rpl == 3 || ss as u8 & 3 != rpl {
                return Err(cpu.gp0());
            }
            null_stack(rpl)
        } else {
            cpu.checked_stack(ss, rpl, vector::GP, 0)?
        };
        new_ss = Some((stack_segment, sp, to64));
    }
    cpu.check_target(&segment, ip, 0)?;
    cpu.mark_accessed(code)?;

    match new_ss {
        None => stack.commit(cpu),
        Some((ss, sp, to64)) => {
            cpu.segments[seg::SS] = ss;
            cpu.regs[gpr::RSP] = if to64 {
                sp
            } else if ss.attr & seg_attr::DB != 0 {
                sp & 0xffff_ffff
            } else {
                cpu.regs[gpr::RSP] & !0xffff | sp & 0xffff
            };
        }
    }
    let mut mask = ALWAYS;
    mask |= if size > 2 { ALWAYS_HIGH } else { 0 };
    mask |= if old_cpl == 0 { rflags::IOPL } else { 0 };
    mask |= if old_cpl <= cpu.iopl() { rflags::IF } else { 0 };
    cpu.rip = if size == 2 { ip & 0xffff } else { ip };
    finish(cpu, image, mask);
    cpu.set_code(segment, rpl);
    if outer {
        drop_inner_segments(cpu);
        cpu.check_alignment_mode();
    }
    Err(Stop::Jump)
}

fn iret_to_v8086(cpu: &mut Cpu, mut stack: Stack, ip: u64, cs: u16, image: u64) -> Done {
    let mut words = [0; 6]; // ESP SS ES DS FS GS
    for word in &mut words {
        *word = u64::from(stack.pop::<u32>(cpu)?);
    }
    if ip > 0xffff {
        return Err(cpu.gp0());
    }
    cpu.regs[gpr::RSP] = words[0];
    cpu.rip = ip;
    finish(cpu, image, rflags::ALL & !(rflags::VIF | rflags::VIP));
    let selectors = [(seg::SS, 1), (seg::ES, 2), (seg::DS, 3), (seg::FS, 4), (seg::GS, 5)];
    for (index, word) in selectors {
        cpu.segments[index] = cpu.real_segment(index, words[word] as u16);
    }
    let code = cpu.real_segment(seg::CS, cs);
    cpu.set_code(code, 3);
    Err(Stop::Jump)
}

/// After a return to an outer level: data segment registers that it may not use become null.
pub(super) fn drop_inner_segments(cpu: &mut Cpu) {
    for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
        let attr = cpu.segments[index].attr;
        let conforming = attr & (seg_attr::CODE | seg_attr::DC) == seg_attr::CODE | seg_attr::DC;
        let dpl = (attr >> seg_attr::DPL_SHIFT) as u8 & 3;
        if attr & seg_attr::UNUSABLE == 0 && !conforming && dpl < cpu.cpl {
            cpu.set_segment(index, null_segment(0));
        }
    }
}
