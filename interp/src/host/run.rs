//! Runs a form: passes the operands to its stub and makes what it did architectural.
// UNSAFETY: calls stubs with pointers to the guest's registers and memory.
#![allow(unsafe_code)]

use cpu::x86::rflags;

use super::form::{Form, Kind, OPERANDS};
use super::state::HostState;
use crate::cpu::Cpu;
use crate::decode::{Lowering, register};
use crate::flags::Flags;
use crate::op::{Done, Op, Stop, op_flag};

/// Exception flags of MXCSR; the masks are 7 bits higher.
const FLAGS: u32 = 0x3f;
const MASKS: u32 = FLAGS << 7;
const UNDERFLOW: u32 = 1 << 4;
/// Invalid operation, denormal operand, division by zero: found before anything is computed.
const BEFORE: u32 = 0x7;
/// Denormals are zero, rounding, flush to zero.
const CONTROL: u32 = 0xe040;
const FLUSH: u32 = 1 << 15;

/// Fills the operation of an instruction whose form is `form`.
pub(super) fn lower(l: &mut Lowering, form: &'static Form) -> bool {
    let mut numbers = [0u8; OPERANDS];
    let mut next = 0;
    for n in 0..l.insn.op_count().min(OPERANDS as u32) {
        if form.kinds[n as usize] == Kind::Memory || form.kinds[n as usize] == Kind::None {
            continue;
        }
        let reg = l.insn.op_register(n);
        numbers[next] = if reg.is_gpr() {
            let (slot, high) = register(reg);
            l.op.flags |= if high { op_flag::HIGH_SRC } else { 0 };
            slot
        } else {
            reg.number() as u8
        };
        next += 1;
    }
    (l.op.dst, l.op.src, l.op.aux) = (numbers[0], numbers[1], numbers[2]);
    if form.memory.is_none() {
        l.op.base = numbers[3];
    }
    l.op.imm = std::ptr::from_ref(form).expose_provenance() as u64;
    let vectors_only = form.kinds.iter().all(|k| matches!(k, Kind::Vector | Kind::Memory | Kind::None));
    let plain = vectors_only && !form.flags && !form.float;
    l.run(match (form.memory.map(|m| m.store), plain, form.float && !form.flags && vectors_only) {
        (None, true, _) => run::<NONE, PLAIN>,
        (None, _, true) => run::<NONE, FLOAT>,
        (None, ..) => run::<NONE, ANY>,
        (Some(false), true, _) => run::<LOAD, PLAIN>,
        (Some(false), _, true) => run::<LOAD, FLOAT>,
        (Some(false), ..) => run::<LOAD, ANY>,
        (Some(true), ..) => run::<STORE, ANY>,
    })
}

const NONE: u8 = 0;
const LOAD: u8 = 1;
const STORE: u8 = 2;

/// Vector operands only, no flags, no exceptions.
const PLAIN: u8 = 0;
/// The same with exceptions.
const FLOAT: u8 = 1;
const ANY: u8 = 2;

/// The form of an operation.
#[inline(always)]
pub(super) fn form_of(op: &Op) -> &'static Form {
    let pointer = std::ptr::with_exposed_provenance::<Form>(op.imm as usize);
    // SAFETY: handlers of this module and of `x87` are installed only together with the address of a leaked form.
    unsafe { &*pointer }
}

fn run<const MEMORY: u8, const WHAT: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    let form = form_of(op);
    cpu.gate(form.gate)?;
    let size = form.memory.map_or(0, |m| usize::from(m.size));
    let align = form.memory.map_or(0, |m| u64::from(m.align));
    let mut lin = 0;
    let memory = match MEMORY {
        NONE => std::ptr::null_mut(),
        LOAD => cpu.vector_source(op, size, align)?.cast_mut(),
        _ => {
            lin = cpu.vector_target(op, size, align)?;
            cpu.host.scratch.0.as_mut_ptr()
        }
    };
    let pointers = operands::<WHAT>(cpu, op, form, memory);
    if WHAT == ANY && form.flags {
        cpu.host.flags = cpu.flags.bits() | rflags::FIXED;
    }
    let float = WHAT == FLOAT || (WHAT == ANY && form.float);
    let unmasked = float && cpu.host.mxcsr & MASKS != MASKS;
    let before = if float { before_float(cpu, &pointers, unmasked) } else { Saved::default() };
    // SAFETY: `pointers` has what the form's stub expects: guest registers of the operand's kind (at least as
    // large), and a memory operand of the form's size that is readable and, for stores, the scratch buffer.
    unsafe { call(cpu, form, &pointers) };
    if float {
        after_float(cpu, form, &pointers, unmasked, &before)?;
    }
    let mut stored = Ok(());
    if MEMORY == STORE {
        let bytes = cpu.host.scratch.0;
        stored = cpu.write_operand(lin, op.seg, &bytes[..size.min(64)])?.done();
    }
    if float {
        cpu.host.mxcsr |= cpu.host.mxcsr_out & FLAGS;
    }
    if WHAT == ANY {
        if form.flags {
            cpu.flags = Flags::from_bits(cpu.host.flags);
        }
        if form.mmx {
            finish_mmx(cpu, op, form);
        }
    }
    stored
}

/// # Safety
/// `pointers` are what `form` describes.
#[inline(always)]
pub(super) unsafe fn call(cpu: &mut Cpu, form: &Form, pointers: &[*mut u8; OPERANDS]) {
    let [a, b, c, d] = *pointers;
    let regs = cpu.regs.as_mut_ptr();
    let host: *mut HostState = &mut *cpu.host;
    // SAFETY: the stub reads and writes operands, `host` and the first three of `regs` only, and restores
    // MXCSR, the x87 state and callee-saved registers.
    unsafe { (form.stub)(a, b, c, d, host, regs) };
}

/// A pointer per operand.
#[inline(always)]
fn operands<const WHAT: u8>(cpu: &mut Cpu, op: &Op, form: &Form, memory: *mut u8) -> [*mut u8; OPERANDS] {
    let numbers = [op.dst, op.src, op.aux, op.base];
    let mut next = 0;
    let mut pointers = [std::ptr::null_mut(); OPERANDS];
    for (pointer, kind) in pointers.iter_mut().zip(form.kinds) {
        let number = usize::from(numbers[next & 3]);
        *pointer = match kind {
            Kind::None => continue,
            Kind::Memory => {
                *pointer = memory;
                continue;
            }
            Kind::Vector => (&raw mut cpu.host.ymm[number & 15]).cast(),
            _ if WHAT != ANY => continue,
            Kind::Mmx => {
                let image = cpu.host.x87_mut();
                let top = image.top();
                (&raw mut image.st[number.wrapping_sub(top) & 7]).cast()
            }
            Kind::Gpr(size) => {
                let register = (&raw mut cpu.regs[number & 31]).cast::<u8>();
                let high = size == 1 && op.has(op_flag::HIGH_SRC);
                // SAFETY: the second byte of a register.
                if high { unsafe { register.add(1) } } else { register }
            }
        };
        next += 1;
    }
    pointers
}

/// The first operand as it was, in case an unmasked exception undoes the instruction.
#[derive(Default)]
struct Saved {
    bytes: [u8; 32],
    len: usize,
}

#[inline(always)]
fn before_float(cpu: &mut Cpu, pointers: &[*mut u8; OPERANDS], unmasked: bool) -> Saved {
    let host = &mut *cpu.host;
    host.mxcsr_in = (host.mxcsr & CONTROL) | MASKS;
    if !unmasked {
        return Saved::default();
    }
    // Masked underflow is reported only for inexact results, unmasked underflow for all tiny ones. Flushing
    // reports all, and changes no others.
    if host.mxcsr & (UNDERFLOW << 7) == 0 {
        host.mxcsr_in |= FLUSH;
    }
    save(cpu, pointers[0])
}

#[cold]
fn save(cpu: &mut Cpu, first: *mut u8) -> Saved {
    let mut saved = Saved { bytes: [0; 32], len: 32 };
    let within = |start: *const u8, len: usize| {
        let offset = (first as usize).wrapping_sub(start as usize);
        if offset < len { 32.min(len - offset) } else { 0 }
    };
    // Guest memory and the scratch buffer need no saving.
    saved.len = within(cpu.host.ymm.as_ptr().cast(), size_of_val(&cpu.host.ymm))
        .max(within(cpu.host.fx.as_ptr().cast(), size_of_val(&cpu.host.fx)).min(8))
        .max(within(cpu.regs.as_ptr().cast(), size_of_val(&cpu.regs)).min(8));
    // SAFETY: `first` was found to have `len` bytes in one of the register files.
    unsafe { first.copy_to_nonoverlapping(saved.bytes.as_mut_ptr(), saved.len) };
    saved
}

#[inline(always)]
fn after_float(
    cpu: &mut Cpu,
    form: &Form,
    pointers: &[*mut u8; OPERANDS],
    unmasked: bool,
    saved: &Saved,
) -> Result<(), Stop> {
    if unmasked { raise_unmasked(cpu, form, pointers, saved) } else { Ok(()) }
}

/// With an unmasked exception the instruction did nothing but set flags: those of the exceptions found before
/// computing if one of them is unmasked, else all (Intel SDM volume 1, 11.5.3).
#[cold]
fn raise_unmasked(
    cpu: &mut Cpu,
    form: &Form,
    pointers: &[*mut u8; OPERANDS],
    saved: &Saved,
) -> Result<(), Stop> {
    let mut raised = cpu.host.mxcsr_out & FLAGS;
    let unmasked = raised & !(cpu.host.mxcsr >> 7);
    if unmasked == 0 {
        return Ok(());
    }
    let undo = || {
        // SAFETY: `save` took these bytes from the operand, which is in a register file of `cpu`.
        unsafe { pointers[0].copy_from_nonoverlapping(saved.bytes.as_ptr(), saved.len) };
    };
    undo();
    if unmasked & BEFORE != 0 {
        raised &= BEFORE;
    } else if unmasked & UNDERFLOW != 0 {
        // Flushing has lost bits: whether the result is inexact is found without it.
        cpu.host.mxcsr_in &= !FLUSH;
        // SAFETY: as the first time.
        unsafe { call(cpu, form, pointers) };
        undo();
        raised = cpu.host.mxcsr_out & FLAGS | UNDERFLOW;
    }
    cpu.host.mxcsr |= raised;
    if form.mmx {
        cpu.host.x87_mut().enter_mmx();
    }
    Err(cpu.simd_exception())
}

/// MMX instructions leave the x87 state as MMX state: a written register's exponent is all ones.
fn finish_mmx(cpu: &mut Cpu, op: &Op, form: &Form) {
    let image = cpu.host.x87_mut();
    let top = image.top();
    if form.writes_mmx {
        image.st[usize::from(op.dst).wrapping_sub(top) & 7][8..10].fill(0xff);
    }
    image.enter_mmx();
}
