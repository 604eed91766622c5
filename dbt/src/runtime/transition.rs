//! SYSCALL, SYSRET, STAC and CLAC that translated code has executed by itself: what it needs to know for that, and what the
//! interpreter's state has to learn afterwards.

use cpu::Signals;
use interp::core::Session;
use interp::core::system::Gate;

use super::context::{Context, from_rflags};

/// RFLAGS bits.
pub const IF: u32 = 1 << 9;
/// Always set.
const FIXED: u32 = 1 << 1;
const TF: u32 = 1 << 8;
const RF: u32 = 1 << 16;
pub const AC: u32 = 1 << 18;
/// The arithmetic flags.
pub const STATUS: u32 = 0x8d5;
/// The others that SYSRET may load without anything else to be done.
pub const PLAIN: u32 = 1 << 10 | 3 << 12 | 1 << 14 | 1 << 21;
/// What is attended to while IF is clear.
pub const MASKED: u8 = !(Signals::INTR as u8);

/// In [`Context::gate`].
pub const SYSCALL: u32 = 1;
pub const SYSRET: u32 = 2;

/// Before translated code is entered, unless nothing but an instruction that goes on behind itself was executed since.
pub fn load(context: &mut Context, s: &Session) {
    context.tsc_offset = s.tsc_offset();
    context.tsc_aux = s.tsc_aux();
    let gates = s.gates();
    let ours = &mut context.gates;
    let mask = gates.mask as u32;
    ours.target = gates.target;
    ours.inner = gates.inner.map(u32::from);
    ours.outer = gates.outer.map(u32::from);
    ours.kept = !mask & !(STATUS | IF | TF | RF) | FIXED;
    ours.kept_status = from_rflags(u64::from(!mask & STATUS)) as u32;
    // AC at CPL 0 is another mode than the one that SYSCALL leads to.
    ours.refused = if gates.enabled && mask & IF != 0 { AC & !mask } else { u32::MAX };
    ours.outer_flags = if gates.enabled { IF | TF | AC } else { 0 };
}

/// Translated code was left: the mode it has come to, if that is another than the one it was entered in. The interpreter
/// learns of segments, privilege and system flags.
#[inline]
pub fn take(context: &mut Context, s: &mut Session) -> Option<usize> {
    let mode = std::mem::take(&mut context.passed).checked_sub(1)?;
    match std::mem::take(&mut context.gate) {
        SYSCALL => s.passed(Gate::Syscall, context.system_flags),
        SYSRET => s.passed(Gate::Sysret, context.system_flags),
        _ => s.set_system_flags(context.system_flags),
    }
    Some(mode as usize)
}
