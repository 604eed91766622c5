//! HLT, PAUSE, NOP and its disguises, and the host's random numbers.
// UNSAFETY: RDRAND and RDSEED are reached through compiler intrinsics.
#![allow(unsafe_code)]

use std::arch::x86_64::{_rdrand64_step, _rdseed64_step};

use cpu::x86::Feature;
use iced_x86::Mnemonic;

use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::flags::Flags;
use crate::op::{Done, Op, Stop, threaded};

pub(super) fn lower(l: &mut Lowering) -> bool {
    use Mnemonic as M;
    match l.insn.mnemonic() {
        M::Hlt => l.end_with(hlt),
        M::Pause => l.end_with(pause),
        M::Rdrand | M::Rdseed => {
            let seed = l.insn.mnemonic() == M::Rdseed;
            if !l.cpu.model.has(if seed { Feature::RDSEED } else { Feature::RDRAND }) {
                return l.end_with(super::undefined);
            }
            l.dst(0);
            l.op.aux = l.size(0) as u8;
            l.run(if seed { rdseed } else { rdrand })
        }
        _ => l.thread(threaded(nop)),
    }
}

fn hlt(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_cpl0()?;
    // STI may stand in the same block: its shadow ends here.
    cpu.events.interrupt_shadow = false;
    Err(Stop::Halt)
}

/// A vCPU that has paused so often gives its host CPU away: what it waits for may be waiting for that.
const PAUSES: u32 = 64;

/// Ends the block, so that a spinning vCPU looks at its signals often.
fn pause(cpu: &mut Cpu, op: &Op) -> Done {
    std::hint::spin_loop();
    cpu.pauses = (cpu.pauses + 1) % PAUSES;
    if cpu.pauses == 0 {
        std::thread::yield_now();
    }
    cpu.rip = cpu.next_ip(op);
    Err(Stop::Jump)
}

pub(super) fn nop(_: &mut Cpu, _: &Op) -> Done {
    Ok(())
}

fn rdrand(cpu: &mut Cpu, op: &Op) -> Done {
    // SAFETY: lowered for models with the feature only, and a model's features are the host's.
    random(cpu, op, |value| unsafe { _rdrand64_step(value) })
}

fn rdseed(cpu: &mut Cpu, op: &Op) -> Done {
    // SAFETY: as above.
    random(cpu, op, |value| unsafe { _rdseed64_step(value) })
}

/// CF tells success; the other arithmetic flags are cleared.
fn random(cpu: &mut Cpu, op: &Op, step: impl FnOnce(&mut u64) -> i32) -> Done {
    let mut value = 0;
    let success = step(&mut value) != 0;
    let value = if success { value } else { 0 };
    match op.aux {
        2 => cpu.set_dst(op, value as u16),
        4 => cpu.set_dst(op, value as u32),
        _ => cpu.set_dst(op, value),
    }
    cpu.flags = Flags::from_bits(u64::from(success));
    Ok(())
}
