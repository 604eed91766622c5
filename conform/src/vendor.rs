//! What CPUs of Intel do otherwise than those of AMD in faults. The engines do as AMD's where the manuals leave it open, and
//! with the masks of gathers as Intel's. Seen on Intel family 6 model 207 and AMD family 25. Each is allowed on the host
//! on which it is seen, and there only.

use std::arch::x86_64::__cpuid;
use std::sync::LazyLock;

use cpu::x86::{gpr, vector};
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

use crate::generate::Case;
use crate::input::Outcome;
use crate::layout::{PAGE, offset};

static INTEL: LazyLock<bool> = LazyLock::new(|| __cpuid(0).ebx == u32::from_le_bytes(*b"Genu"));

/// The host's CPU is one of Intel's.
pub(crate) fn intel() -> bool {
    *INTEL
}

/// Arithmetic flags that are open after a fault: those of a repeated comparison, which has made some comparisons. Intel
/// restores what was before the instruction (SDM volume 2, REP), AMD keeps those of the last one, and so do the engines.
pub(crate) fn flags(case: &Case, insn: &Instruction, host: &Outcome) -> u64 {
    let compares = matches!(
        insn.mnemonic(),
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq | M::Scasb | M::Scasw | M::Scasd | M::Scasq
    );
    let made = (case.input.regs.gpr[gpr::RCX] ^ host.regs.gpr[gpr::RCX]) as u32 != 0;
    let open = intel() && faulted(host) && repeated(insn) && compares && made;
    if open { crate::dead::ALL } else { 0 }
}

/// Stores of ten bytes write eight of them first, and a fault of the others comes too late.
pub(crate) fn stores_in_parts(insn: &Instruction) -> bool {
    intel() && matches!(insn.mnemonic(), M::Fstp | M::Fbstp) && insn.memory_size().size() == 10
}

/// Gives the engine's outcome what the host's vendor decides, where it is as that vendor has it. Both images are in
/// canonical form.
pub(crate) fn settle(case: &Case, insn: &Instruction, host: &Outcome, engine: &mut Outcome) {
    if insn.is_vsib() && faulted(host) && faulted(engine) {
        gather(insn, host, engine);
    }
    if !intel() {
        return;
    }
    let both = faulted(host) && faulted(engine);
    match insn.mnemonic() {
        _ if case.input.compat() && insn.is_stack_instruction() => stack_wraps(host, engine),
        M::Call if both => return_address(insn, host, engine),
        M::Movd | M::Movq | M::Movntq if both && insn.op1_register().is_mm() => mmx_top(host, engine),
        M::Vcvtps2ph if both => engine.fp[24] |= host.fp[24] & 0x3f,
        M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq => same_page(host, engine),
        M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp => x87_store(insn, host, engine),
        M::Bound => bounds(host, engine),
        _ if insn.is_string_instruction() && repeated(insn) && !case.input.compat() => {
            narrow_registers(insn, host, engine);
        }
        _ => {}
    }
}

fn faulted(outcome: &Outcome) -> bool {
    outcome.vector != u64::from(vector::BP)
}

fn page_fault(outcome: &Outcome) -> bool {
    outcome.vector == u64::from(vector::PF)
}

fn repeated(insn: &Instruction) -> bool {
    insn.has_rep_prefix() || insn.has_repne_prefix()
}

/// CALL writes the return address before it finds the target to be non-canonical; RSP stays.
fn return_address(insn: &Instruction, host: &Outcome, engine: &mut Outcome) {
    let bytes = insn.next_ip().to_le_bytes();
    let slot = host.regs.gpr[gpr::RSP].wrapping_sub(8);
    let at: Option<Vec<usize>> = (0..8).map(|i| offset(slot.wrapping_add(i))).collect();
    if let Some(at) = at
        && at.iter().zip(bytes).all(|(&at, byte)| host.memory[at] == byte)
    {
        at.iter().zip(bytes).for_each(|(&at, byte)| engine.memory[at] = byte);
    }
}

/// A store of an MMX register sets TOP to 0 even if it faults, and does nothing else: what is ST(i) changes.
fn mmx_top(host: &Outcome, engine: &mut Outcome) {
    const TOP: u8 = 0x38;
    if host.fp[3] & TOP != 0 {
        return;
    }
    let top = usize::from(engine.fp[3] & TOP) / 8;
    engine.fp[32..160].rotate_right(top * 16);
    engine.fp[3] &= !TOP;
}

/// Which byte of several that cannot be written on a page CR2 tells of.
fn same_page(host: &Outcome, engine: &mut Outcome) {
    if page_fault(host) && page_fault(engine) && host.cr2 / PAGE == engine.cr2 / PAGE {
        engine.cr2 = host.cr2;
    }
}

/// An unmasked exception of the value comes before a fault of the address: nothing is stored, and the next x87 instruction
/// reports it.
fn x87_store(insn: &Instruction, host: &Outcome, engine: &mut Outcome) {
    const SUMMARY: u8 = 0x80;
    let address = [vector::PF, vector::GP, vector::SS].map(u64::from).contains(&engine.vector);
    let done = host.regs.rip != insn.ip() && engine.regs.rip == insn.ip();
    if done && address && host.fp[2] & !engine.fp[2] & SUMMARY != 0 {
        (engine.vector, engine.code, engine.cr2) = (host.vector, host.code, host.cr2);
        (engine.regs.rip, engine.regs.rflags) = (host.regs.rip, host.regs.rflags);
        engine.fp[2..4].copy_from_slice(&host.fp[2..4]);
    }
}

/// The lower bound is compared before the upper one is loaded.
fn bounds(host: &Outcome, engine: &mut Outcome) {
    if host.vector == u64::from(vector::BR) && page_fault(engine) {
        (engine.vector, engine.code) = (host.vector, host.code);
    }
}

/// An operand on the stack that goes around 4 GiB need not be beyond the limit (SDM volume 3, 5.3): its page is looked for,
/// or its alignment.
fn stack_wraps(host: &Outcome, engine: &mut Outcome) {
    let end = u64::from(u32::MAX);
    let found =
        page_fault(host) && (end - 7..=end).contains(&host.cr2) || host.vector == u64::from(vector::AC);
    if found && engine.vector == u64::from(vector::SS) {
        (engine.vector, engine.code, engine.cr2) = (host.vector, host.code, host.cr2);
    }
}

/// With addresses of 32 bits a repeated string instruction that does nothing, or faults at its first element, clears the
/// upper halves of registers that it uses.
fn narrow_registers(insn: &Instruction, host: &Outcome, engine: &mut Outcome) {
    let narrow = |i| matches!(insn.op_kind(i), OpKind::MemorySegESI | OpKind::MemoryESEDI);
    if !(0..insn.op_count()).any(narrow) {
        return;
    }
    for register in [gpr::RCX, gpr::RSI, gpr::RDI] {
        let (host, engine) = (host.regs.gpr[register], &mut engine.regs.gpr[register]);
        if host == *engine & 0xffff_ffff {
            *engine = host;
        }
    }
}

/// Intel makes the masks of all elements ones or zeros first (SDM volume 2, VGATHERDPS, operation), AMD leaves those as
/// they are whose element is still to be loaded. What lies beyond the elements is open.
fn gather(insn: &Instruction, host: &Outcome, engine: &mut Outcome) {
    let (index_size, size) = match insn.mnemonic() {
        M::Vpgatherdd | M::Vgatherdps => (4, 4),
        M::Vpgatherdq | M::Vgatherdpd => (4, 8),
        M::Vpgatherqd | M::Vgatherqps => (8, 4),
        _ => (8, 8),
    };
    let (target, mask) = (insn.op0_register(), insn.op2_register());
    let count = (target.size() / size).min(insn.memory_index().size() / index_size);
    for byte in count * size..32 {
        for register in [target, mask] {
            engine.fp[place(register, byte)] = host.fp[place(register, byte)];
        }
    }
    if intel() {
        return;
    }
    for element in 0..count {
        let sign = place(mask, element * size + size - 1);
        if (host.fp[sign] ^ engine.fp[sign]) & 0x80 == 0 {
            for byte in element * size..(element + 1) * size {
                engine.fp[place(mask, byte)] = host.fp[place(mask, byte)];
            }
        }
    }
}

/// Where an XSAVE image has a byte of a vector register.
fn place(register: Register, byte: usize) -> usize {
    let half = register.number() * 16;
    if byte < 16 { 160 + half + byte } else { 576 + half + byte - 16 }
}
