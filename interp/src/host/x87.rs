//! x87 instructions: arithmetic, loads and stores by stub, control instructions in Rust.
// UNSAFETY: calls stubs.
#![allow(unsafe_code)]

use cpu::x86::{cr0, rflags, seg};
use iced_x86::{Code, Mnemonic};

use super::form::{self, OPERANDS};
use super::run::{call, form_of};
use super::{emit, environment};
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::flags::Flags;
use crate::op::{Done, Op};

/// Exceptions that keep a result from being stored to memory: all but inexact.
const NO_STORE: u16 = 0x1f;

/// Lowers an x87 instruction.
pub(super) fn lower(l: &mut Lowering) -> bool {
    use Mnemonic as M;
    match l.insn.mnemonic() {
        M::Wait => l.run(wait),
        M::Fninit => l.run(init),
        M::Fnclex => l.run(clear_exceptions),
        M::Fldcw => l.run(load_control),
        M::Fnstcw => l.run(store_control),
        M::Fnstsw if l.insn.code() == Code::Fnstsw_AX => l.run(store_status_ax),
        M::Fnstsw => l.run(store_status),
        M::Fnop => l.run(nop),
        // Of coprocessors long gone: no operation since the 387.
        M::Fneni | M::Fndisi | M::Fnsetpm => l.run(ignored),
        M::Fldenv | M::Fnstenv | M::Frstor | M::Fnsave => environment::lower(l),
        _ => {
            let Some(form) = form::form(l.insn) else { return false };
            let opcode = emit::x87_opcode(l.insn);
            (l.op.dst, l.op.src) = (opcode as u8, (opcode >> 8) as u8);
            l.op.imm = std::ptr::from_ref(form).expose_provenance() as u64;
            l.run(match form.memory.map(|m| m.store) {
                None => run::<0>,
                Some(false) => run::<1>,
                Some(true) => run::<2>,
            })
        }
    }
}

/// `MEMORY`: 0 none, 1 load, 2 store.
fn run<const MEMORY: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    let form = form_of(op);
    cpu.waiting_x87()?;
    let size = form.memory.map_or(0, |m| usize::from(m.size)).min(64);
    let mut lin = 0;
    let memory = match MEMORY {
        0 => std::ptr::null_mut(),
        1 => cpu.vector_source(op, size, 0)?.cast_mut(),
        _ => {
            lin = cpu.vector_target(op, size, 0)?;
            cpu.probe_target(lin, op.seg, size)?;
            cpu.host.scratch.0.as_mut_ptr()
        }
    };
    let host = &mut *cpu.host;
    let control = host.x87().fcw;
    let ignored = host.x87().pending();
    if ignored {
        // Not reported (CR0.NE is clear), so the host must not report it either.
        host.x87_mut().fcw |= 0x3f;
        host.x87_mut().summarise();
    }
    if form.flags {
        host.flags = cpu.flags.bits() | rflags::FIXED;
    }
    let current = host.current & 1;
    let before = host.fx[current].fsw;
    let [first, second] = &mut host.fx;
    let (from, to) = if current == 0 { (first, second) } else { (second, first) };
    let pointers: [*mut u8; OPERANDS] =
        [memory, (&raw mut *from).cast(), (&raw mut *to).cast(), std::ptr::null_mut()];
    // SAFETY: an x87 stub takes the memory operand and two images; the image to load has no pending exception.
    unsafe { call(cpu, form, &pointers) };
    let host = &mut *cpu.host;
    host.fx[current].fcw = control;
    host.fx[current].summarise();
    let after = &mut host.fx[current ^ 1];
    after.fcw = control;
    after.summarise();
    let new = after.fsw & !before & !control;
    let mut stored = Ok(());
    if MEMORY == 2 && (ignored || new & NO_STORE == 0) {
        let bytes = host.scratch.0;
        stored = cpu.write_operand(lin, op.seg, &bytes[..size])?.done();
    }
    cpu.host.current = current ^ 1;
    if form.flags {
        cpu.flags = Flags::from_bits(cpu.host.flags);
    }
    note_pointers::<MEMORY>(cpu, op);
    stored
}

/// Remembers the instruction and its operand for FNSTENV, FNSAVE and FXSAVE.
fn note_pointers<const MEMORY: u8>(cpu: &mut Cpu, op: &Op) {
    let mut pointers = cpu.host.pointers;
    pointers.opcode = u16::from(op.dst) | u16::from(op.src & 7) << 8;
    pointers.ip = cpu.this_ip(op);
    pointers.cs = cpu.segments[seg::CS].selector;
    if MEMORY != 0 {
        pointers.dp = cpu.effective(op);
        pointers.ds = cpu.segments.get(usize::from(op.seg)).map_or(0, |s| s.selector);
    }
    cpu.host.pointers = pointers;
}

fn wait(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.cr0 & cr0::MP != 0 {
        cpu.task_switched()?;
    }
    cpu.pending_x87()
}

fn nop(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.waiting_x87()
}

fn ignored(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87()
}

fn init(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87()?;
    cpu.host.init_x87();
    Ok(())
}

fn clear_exceptions(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87()?;
    cpu.host.x87_mut().fsw &= 0x7f00;
    Ok(())
}

fn load_control(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.waiting_x87()?;
    let value = cpu.load_op::<u16>(op)?;
    let image = cpu.host.x87_mut();
    image.fcw = control_word(value);
    image.summarise();
    Ok(())
}

/// Bit 6 is always one; the reserved bits are zero.
pub(super) fn control_word(value: u16) -> u16 {
    (value & 0x1f3f) | 0x40
}

fn store_control(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87()?;
    let value = cpu.host.x87().fcw;
    cpu.store_op(op, value)?.done()
}

fn store_status(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87()?;
    let value = cpu.host.x87().fsw;
    cpu.store_op(op, value)?.done()
}

fn store_status_ax(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87()?;
    let value = cpu.host.x87().fsw;
    cpu.set_gpr(0, value);
    Ok(())
}
