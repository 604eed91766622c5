//! Runs a form: passes the operands to its stub and makes what it did architectural.
// UNSAFETY: calls stubs with pointers to the guest's registers and memory.
#![allow(unsafe_code)]

use cpu::x86::rflags;

use super::form::{Form, Gate, Kind, OPERANDS};
use super::state::HostState;
use crate::cpu::Cpu;
use crate::decode::{Lowering, register};
use crate::flags::Flags;
use crate::op::{Done, Op, Stop, op_flag, threaded};

/// Exception flags of MXCSR; the masks are 7 bits higher.
const FLAGS: u32 = 0x3f;
const MASKS: u32 = FLAGS << 7;
const UNDERFLOW: u32 = 1 << 4;
/// Invalid operation, denormal operand, division by zero: found before anything is computed.
const BEFORE: u32 = 0x7;
/// Denormals are zero, rounding, flush to zero.
const CONTROL: u32 = 0xe040;
const FLUSH: u32 = 1 << 15;

/// What a form does beside its result.
const NOTHING: u8 = 0;
const FLOAT: u8 = 1;
/// Flags, perhaps exceptions too.
const STATUS: u8 = 2;

/// Picks the instance of `vector`.
macro_rules! by_effect {
    ($form:expr, $position:literal, $vex:literal) => {
        match ($form.flags, $form.float) {
            (false, false) => threaded(vector::<$position, $vex, NOTHING>),
            (false, true) => threaded(vector::<$position, $vex, FLOAT>),
            (true, _) => threaded(vector::<$position, $vex, STATUS>),
        }
    };
}

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
    if vectors_only && form.memory.is_none_or(|m| !m.store) {
        let position = form.kinds.iter().position(|k| *k == Kind::Memory).unwrap_or(0);
        return l.thread(match (position, form.gate == Gate::Avx) {
            (0, false) => by_effect!(form, 0, false),
            (0, true) => by_effect!(form, 0, true),
            (1, false) => by_effect!(form, 1, false),
            (1, true) => by_effect!(form, 1, true),
            (_, true) => by_effect!(form, 2, true),
            _ => return false,
        });
    }
    l.thread(match form.memory.map(|m| m.store) {
        None => threaded(run::<NONE>),
        Some(false) => threaded(run::<LOAD>),
        Some(true) => threaded(run::<STORE>),
    })
}

/// The commonest shape: vector registers, perhaps one of them a memory operand at `POSITION` (0: none). Without
/// such an operand, the registers are in `dst`, `src`, `aux` and `base` in the order of the operands.
fn vector<const POSITION: usize, const VEX: bool, const EFFECT: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    if VEX { cpu.avx() } else { cpu.sse() }?;
    let form = form_of(op);
    let memory = if POSITION == 0 {
        std::ptr::null_mut()
    } else {
        let (size, align) = form.memory.map_or((0, 0), |m| (usize::from(m.size), u64::from(m.align)));
        cpu.vector_source(op, size, align)?.cast_mut()
    };
    let file = cpu.host.ymm.as_mut_ptr();
    // SAFETY: the number is masked to be within the register file.
    let register = |n: u8| unsafe { file.add(usize::from(n & 15)) }.cast::<u8>();
    let (a, b, c) = (register(op.dst), register(op.src), register(op.aux));
    let pointers = match POSITION {
        0 => [a, b, c, register(op.base)],
        1 => [a, memory, b, c],
        _ => [a, b, memory, c],
    };
    let float = EFFECT == FLOAT || (EFFECT == STATUS && form.float);
    if EFFECT == STATUS {
        cpu.host.flags = cpu.flags.bits() | rflags::FIXED;
    }
    let saved = if float { before_float(cpu, &pointers) } else { None };
    // SAFETY: `pointers` has what the form's stub expects: registers, and readable memory of the form's size.
    unsafe { call(cpu, form, &pointers) };
    if float {
        if let Some(saved) = saved {
            raise_unmasked(cpu, form, &pointers, &saved)?;
        }
        cpu.host.mxcsr |= cpu.host.mxcsr_out & FLAGS;
    }
    if EFFECT == STATUS {
        cpu.flags = Flags::from_bits(cpu.host.flags);
    }
    Ok(())
}

const NONE: u8 = 0;
const LOAD: u8 = 1;
const STORE: u8 = 2;

/// The form of an operation.
#[inline(always)]
pub(super) fn form_of(op: &Op) -> &'static Form {
    let pointer = std::ptr::with_exposed_provenance::<Form>(op.imm as usize);
    // SAFETY: handlers of this module and of `x87` are installed only together with the address of a leaked form.
    unsafe { &*pointer }
}

fn run<const MEMORY: u8>(cpu: &mut Cpu, op: &Op) -> Done {
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
            if form.float {
                cpu.probe_target(lin, op.seg, size)?;
            }
            cpu.host.scratch.0.as_mut_ptr()
        }
    };
    let pointers = operands(cpu, op, form, memory);
    if form.flags {
        cpu.host.flags = cpu.flags.bits() | rflags::FIXED;
    }
    let saved = if form.float { before_float(cpu, &pointers) } else { None };
    // SAFETY: `pointers` has what the form's stub expects: guest registers of the operand's kind (at least as
    // large), and a memory operand of the form's size that is readable and, for stores, the scratch buffer.
    unsafe { call(cpu, form, &pointers) };
    if let Some(saved) = saved {
        raise_unmasked(cpu, form, &pointers, &saved)?;
    }
    let mut stored = Ok(());
    if MEMORY == STORE {
        let bytes = cpu.host.scratch.0;
        stored = cpu.write_operand(lin, op.seg, &bytes[..size.min(64)])?.done();
    }
    if form.float {
        cpu.host.mxcsr |= cpu.host.mxcsr_out & FLAGS;
    }
    if form.flags {
        cpu.flags = Flags::from_bits(cpu.host.flags);
    }
    if form.mmx {
        finish_mmx(cpu, op, form);
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
fn operands(cpu: &mut Cpu, op: &Op, form: &Form, memory: *mut u8) -> [*mut u8; OPERANDS] {
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

/// The first operand as it was, if an exception is unmasked and may undo the instruction.
struct Saved {
    bytes: [u8; 32],
    len: usize,
}

#[inline(always)]
fn before_float(cpu: &mut Cpu, pointers: &[*mut u8; OPERANDS]) -> Option<Saved> {
    let mxcsr = cpu.host.mxcsr;
    cpu.host.mxcsr_in = (mxcsr & CONTROL) | MASKS;
    if mxcsr & MASKS == MASKS { None } else { Some(before_unmasked(cpu, pointers[0])) }
}

/// Masked underflow is reported only for inexact results, unmasked underflow for all tiny ones. Flushing reports
/// all, and changes no others.
#[cold]
fn before_unmasked(cpu: &mut Cpu, first: *mut u8) -> Saved {
    if cpu.host.mxcsr & (UNDERFLOW << 7) == 0 {
        cpu.host.mxcsr_in |= FLUSH;
    }
    save(cpu, first)
}

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

/// VCVTPS2PH does not flush to zero, so exact tiny results, which only an unmasked underflow reports, have to be seen.
fn any_tiny_half(results: &[u8]) -> bool {
    let tiny = |half: u16| half & 0x7c00 == 0 && half & 0x03ff != 0;
    results.chunks_exact(2).any(|half| tiny(u16::from_le_bytes([half[0], half[1]])))
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
    if form.halves != 0 && cpu.host.mxcsr & (UNDERFLOW << 7) == 0 {
        // SAFETY: the first operand has that many bytes, and the stub has written them.
        let results = unsafe { std::slice::from_raw_parts(pointers[0], usize::from(form.halves)) };
        raised |= if any_tiny_half(results) { UNDERFLOW } else { 0 };
    }
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
