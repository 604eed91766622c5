//! Near branches: JMP Jcc CALL RET LOOP JCXZ. All but a Jcc that is not taken leave their block.

use cpu::x86::{Exception, gpr, seg};
use iced_x86::{Mnemonic, OpKind};

use super::condition::{by_condition, encoding, pick_condition};
use crate::code::{At, pass};
use crate::cpu::{CodeSize, Cpu};
use crate::decode::Lowering;
use crate::mmu::Int;
use crate::mmu::access::with_top;
use crate::op::{Done, Op, Stop, op_flag, slot, threaded};

impl Cpu {
    /// Jumps within CS. In 64-bit mode the target must be canonical, elsewhere within the limit.
    #[inline(always)]
    pub fn jump(&mut self, target: u64) -> Stop {
        if self.code_size == CodeSize::Bits64 {
            if !Self::canonical(target) {
                return self.raise(Exception::gp(0));
            }
        } else if target > u64::from(self.segments[seg::CS].limit) {
            return self.raise(Exception::gp(0));
        }
        self.rip = target;
        Stop::Jump
    }

    /// [`jump`](Self::jump) of an indirect near branch, which changes nothing else.
    #[inline(always)]
    fn jump_indirect(&mut self, target: u64) -> Stop {
        match self.jump(target) {
            Stop::Jump => Stop::Indirect,
            stop => stop,
        }
    }

    /// Leaves the block by a direct branch in 64-bit mode, to `offset` from the block's start. Such targets leave the
    /// canonical range only from its very edge, where the fetch faults.
    #[inline(always)]
    pub fn take_64(&mut self, offset: u64, op: At) -> Stop {
        self.follow(self.regs[usize::from(slot::BLOCK)].wrapping_add(offset), op)
    }

    /// The relative target of a branch: `imm` counts from the block's start, `aux` is the operand size.
    #[inline(always)]
    fn target(&self, op: &Op) -> u64 {
        let target = self.regs[usize::from(slot::BLOCK)].wrapping_add(op.imm);
        match op.aux {
            8 => target,
            4 => target & 0xffff_ffff,
            _ => target & 0xffff,
        }
    }
}

fn jmp_64(cpu: &mut Cpu, op: At) -> Stop {
    cpu.take_64(op.imm, op)
}

/// A branch that is not taken goes on in its block.
fn jcc_64<const C: u8>(cpu: &mut Cpu, op: At) -> Stop {
    if cpu.flags.condition(C) { cpu.take_64(op.imm, op) } else { pass(cpu, op) }
}

fn jmp(cpu: &mut Cpu, op: &Op) -> Done {
    let target = cpu.target(op);
    Err(cpu.jump(target))
}

fn jcc<const C: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    branch_if(cpu, op, cpu.flags.condition(C))
}

fn branch_if(cpu: &mut Cpu, op: &Op, taken: bool) -> Done {
    if taken {
        let target = cpu.target(op);
        return Err(cpu.jump(target));
    }
    cpu.rip = cpu.next_ip(op);
    Err(Stop::Jump)
}

/// Indirect targets of `T`: a register or memory.
fn jmp_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = cpu.src::<T>(op).zx();
    Err(cpu.jump_indirect(target))
}

fn jmp_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = cpu.load_op::<T>(op)?.zx();
    Err(cpu.jump_indirect(target))
}

/// Pushes the return address and jumps; nothing changes if either faults, and the target is looked at first.
#[inline(always)]
fn call_to<T: Int>(cpu: &mut Cpu, op: &Op, target: u64) -> Done {
    let stop = cpu.jump_indirect(target);
    if stop != Stop::Fault {
        // A return address that overwrites code: the jump leaves the block anyway.
        let _ = cpu.push(T::of(cpu.next_ip(op)))?;
    }
    Err(stop)
}

fn call<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = cpu.target(op);
    call_to::<T>(cpu, op, target)
}

fn call_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = cpu.src::<T>(op).zx();
    call_to::<T>(cpu, op, target)
}

fn call_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = cpu.load_op::<T>(op)?.zx();
    call_to::<T>(cpu, op, target)
}

/// `imm` bytes of parameters are released.
fn ret<T: Int>(cpu: &mut Cpu, op: At) -> Stop {
    with_top(cpu, op, |cpu, op, target: T| {
        let stop = cpu.jump_indirect(target.zx());
        if stop == Stop::Indirect {
            cpu.release(T::SIZE as u64 + op.imm);
        }
        cpu.stopped(&op, stop)
    })
}

/// LOOP (`COND` 2), LOOPE (1), LOOPNE (0): the counter has the address size, `addr_shift`.
fn loop_while<const COND: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    let old = cpu.regs[gpr::RCX];
    match op.addr_shift {
        0 => cpu.set_gpr(gpr::RCX, old.wrapping_sub(1)),
        32 => cpu.set_gpr(gpr::RCX, (old as u32).wrapping_sub(1)),
        _ => cpu.set_gpr(gpr::RCX, (old as u16).wrapping_sub(1)),
    }
    let more = cpu.regs[gpr::RCX] << op.addr_shift != 0;
    let done = branch_if(cpu, op, more && (COND == 2 || cpu.flags.zf() == (COND == 1)));
    if done == Err(Stop::Fault) {
        cpu.regs[gpr::RCX] = old;
    }
    done
}

fn jcxz(cpu: &mut Cpu, op: &Op) -> Done {
    branch_if(cpu, op, cpu.regs[gpr::RCX] << op.addr_shift == 0)
}

macro_rules! by_width {
    ($width:expr, $handler:ident) => {
        match $width {
            2 => threaded($handler::<u16>),
            4 => threaded($handler::<u32>),
            _ => threaded($handler::<u64>),
        }
    };
}

pub(crate) fn lower(l: &mut Lowering) -> bool {
    let kind = if l.insn.op_count() > 0 { l.insn.op_kind(0) } else { OpKind::Immediate16 };
    match kind {
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => relative(l, kind),
        OpKind::FarBranch16 | OpKind::FarBranch32 => false,
        OpKind::Register | OpKind::Memory => indirect(l, kind == OpKind::Memory),
        _ => near_return(l),
    }
}

fn relative(l: &mut Lowering, kind: OpKind) -> bool {
    let width = match kind {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        _ => 8,
    };
    l.op.imm = l.insn.near_branch_target();
    l.op.aux = width;
    let mnemonic = l.insn.mnemonic();
    if let Some(condition) = encoding(l.insn.condition_code()).filter(|_| l.insn.is_jcc_short_or_near()) {
        if width != 8 {
            return l.end_threaded(by_condition!(condition, jcc));
        }
        l.op.flags |= op_flag::LINK;
        return l.thread(pick_condition!(condition, jcc_64));
    }
    let count = |l: &mut Lowering| {
        use iced_x86::Code as C;
        l.op.addr_shift = match l.insn.code() {
            C::Loop_rel8_64_RCX
            | C::Loope_rel8_64_RCX
            | C::Loopne_rel8_64_RCX
            | C::Jrcxz_rel8_64
            | C::Loop_rel8_16_RCX
            | C::Loope_rel8_16_RCX
            | C::Loopne_rel8_16_RCX
            | C::Jrcxz_rel8_16 => 0,
            C::Loop_rel8_16_CX
            | C::Loop_rel8_32_CX
            | C::Loope_rel8_16_CX
            | C::Loope_rel8_32_CX
            | C::Loopne_rel8_16_CX
            | C::Loopne_rel8_32_CX
            | C::Jcxz_rel8_16
            | C::Jcxz_rel8_32 => 48,
            _ => 32,
        };
    };
    match mnemonic {
        Mnemonic::Jmp if width == 8 => {
            l.op.flags |= op_flag::LINK;
            l.end_threaded(jmp_64)
        }
        Mnemonic::Jmp => l.end_with(jmp),
        Mnemonic::Call => l.end_threaded(by_width!(width, call)),
        Mnemonic::Loop => {
            count(l);
            l.end_with(loop_while::<2>)
        }
        Mnemonic::Loope => {
            count(l);
            l.end_with(loop_while::<1>)
        }
        Mnemonic::Loopne => {
            count(l);
            l.end_with(loop_while::<0>)
        }
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => {
            count(l);
            l.end_with(jcxz)
        }
        _ => false,
    }
}

fn indirect(l: &mut Lowering, memory: bool) -> bool {
    if l.insn.is_jmp_far_indirect() || l.insn.is_call_far_indirect() {
        return false;
    }
    let width = l.size(0);
    if !memory {
        l.src(0);
    }
    let call = l.insn.mnemonic() == Mnemonic::Call;
    let run = match (call, memory) {
        (false, false) => by_width!(width, jmp_r),
        (false, true) => by_width!(width, jmp_m),
        (true, false) => by_width!(width, call_r),
        (true, true) => by_width!(width, call_m),
    };
    l.end_threaded(run)
}

fn near_return(l: &mut Lowering) -> bool {
    use iced_x86::Code as C;
    let width = match l.insn.code() {
        C::Retnw | C::Retnw_imm16 => 2,
        C::Retnd | C::Retnd_imm16 => 4,
        C::Retnq | C::Retnq_imm16 => 8,
        _ => return false,
    };
    l.op.imm = if l.insn.op_count() > 0 { l.insn.immediate(0) } else { 0 };
    l.end_threaded(match width {
        2 => ret::<u16>,
        4 => ret::<u32>,
        _ => ret::<u64>,
    })
}
