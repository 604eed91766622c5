//! MOV, PUSH and POP of segment registers, and LDS, LES, LSS, LFS, LGS.

use cpu::x86::seg;
use iced_x86::{Code, Mnemonic};

use super::far::load_pointer;
use super::stack::Stack;
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop};

/// MOV with a segment register.
pub(super) fn lower_mov(l: &mut Lowering) -> bool {
    if l.insn.op0_register().is_segment_register() {
        l.op.imm = l.insn.op0_register().number() as u64;
        l.source16(1);
        return if l.op.imm == seg::SS as u64 { l.end_with(mov_ss) } else { l.run(mov_to) };
    }
    l.op.imm = l.insn.op1_register().number() as u64;
    l.selector_target(0);
    l.run(mov_from)
}

/// PUSH and POP of a segment register.
pub(super) fn lower_stack(l: &mut Lowering) -> bool {
    use Code as C;
    l.op.imm = l.insn.op0_register().number() as u64;
    l.op.aux = match l.insn.code() {
        C::Pushw_ES | C::Pushw_CS | C::Pushw_SS | C::Pushw_DS | C::Pushw_FS | C::Pushw_GS => 2,
        C::Popw_ES | C::Popw_CS | C::Popw_SS | C::Popw_DS | C::Popw_FS | C::Popw_GS => 2,
        C::Pushq_FS | C::Pushq_GS | C::Popq_FS | C::Popq_GS => 8,
        _ => 4,
    };
    if l.insn.mnemonic() == Mnemonic::Push {
        l.run(push)
    } else if l.op.imm == seg::SS as u64 {
        l.end_with(pop_ss)
    } else {
        l.run(pop)
    }
}

/// LDS and its kin.
pub(super) fn lower_pointer(l: &mut Lowering) -> bool {
    l.dst(0);
    l.op.aux = l.size(0) as u8;
    l.op.imm = match l.insn.mnemonic() {
        Mnemonic::Les => seg::ES,
        Mnemonic::Lds => seg::DS,
        Mnemonic::Lss => seg::SS,
        Mnemonic::Lfs => seg::FS,
        _ => seg::GS,
    } as u64;
    if l.op.imm == seg::SS as u64 { l.end_with(lss) } else { l.run(pointer) }
}

/// The segment register that `op` names.
fn register(op: &Op) -> usize {
    (op.imm as usize).min(seg::GS)
}

fn mov_to(cpu: &mut Cpu, op: &Op) -> Done {
    let selector = cpu.load_source16(op)?;
    cpu.load_segment(register(op), selector)
}

fn mov_from(cpu: &mut Cpu, op: &Op) -> Done {
    let selector = cpu.segments[register(op)].selector;
    cpu.store_selector(op, u64::from(selector))
}

fn mov_ss(cpu: &mut Cpu, op: &Op) -> Done {
    mov_to(cpu, op)?;
    shadow(cpu, op)
}

fn pop_ss(cpu: &mut Cpu, op: &Op) -> Done {
    pop(cpu, op)?;
    shadow(cpu, op)
}

fn lss(cpu: &mut Cpu, op: &Op) -> Done {
    pointer(cpu, op)?;
    cpu.rip = cpu.next_ip(op);
    Err(Stop::Jump)
}

/// Interrupts and debug traps wait for the instruction behind, which loads the stack pointer.
fn shadow(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.events.interrupt_shadow = true;
    cpu.events.mov_ss_shadow = cpu.debugging();
    cpu.rip = cpu.next_ip(op);
    Err(Stop::Jump)
}

fn push(cpu: &mut Cpu, op: &Op) -> Done {
    let selector = cpu.segments[register(op)].selector;
    let mut stack = Stack::current(cpu);
    match op.aux {
        // With a 32-bit operand the upper half of the slot is left as it is.
        4 => {
            stack.skip(2u64.wrapping_neg());
            stack.push(cpu, selector)?;
        }
        size => stack.push_sized(cpu, size, u64::from(selector))?,
    }
    stack.commit(cpu);
    stack.stored.done()
}

fn pop(cpu: &mut Cpu, op: &Op) -> Done {
    let mut stack = Stack::current(cpu);
    // The whole slot is read: what lies on a page that is not there faults.
    let selector = stack.pop_sized(cpu, op.aux)?;
    cpu.load_segment(register(op), selector as u16)?;
    stack.commit(cpu);
    Ok(())
}

fn pointer(cpu: &mut Cpu, op: &Op) -> Done {
    let (selector, offset) = load_pointer(cpu, op, op.aux)?;
    cpu.load_segment(register(op), selector)?;
    match op.aux {
        2 => cpu.set_dst(op, offset as u16),
        4 => cpu.set_dst(op, offset as u32),
        _ => cpu.set_dst(op, offset),
    }
    Ok(())
}
