//! Privileged and mode-dependent instructions, and the delivery of exceptions and interrupts.

mod cache;
mod control;
mod cpuid;
mod debug;
mod deliver;
mod descriptor;
mod far;
mod flags;
mod halt;
mod hypercall;
mod interrupt;
mod io;
mod msr;
mod operand;
mod pvclock;
mod segment;
mod stack;
mod syscall;
pub use syscall::Gate;
mod tables;
mod task;
mod time;
mod xcr;

use std::sync::atomic::{Ordering, fence};

use iced_x86::{Mnemonic, Register};

use crate::code::At;
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop, op_flag};

/// Lowers a system instruction; false if it is none. One that the CPU model lacks is undefined.
pub(crate) fn lower(l: &mut Lowering) -> bool {
    let taken = lower_by_name(l);
    if taken && !l.cpu.model.allows(l.insn.code()) {
        return l.end_with(undefined);
    }
    taken
}

fn lower_by_name(l: &mut Lowering) -> bool {
    use Mnemonic as M;
    match l.insn.mnemonic() {
        M::Mov => lower_mov(l),
        M::Push | M::Pop if l.insn.op0_register().is_segment_register() => segment::lower_stack(l),
        M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs => segment::lower_pointer(l),
        M::Jmp | M::Call | M::Retf => far::lower(l),
        M::Int | M::Int1 | M::Int3 | M::Into | M::Bound | M::Iret | M::Iretd | M::Iretq => {
            interrupt::lower(l)
        }
        M::Pushf | M::Pushfd | M::Pushfq | M::Popf | M::Popfd | M::Popfq => flags::lower(l),
        M::Cli | M::Sti | M::Clac | M::Stac => flags::lower(l),
        M::Syscall | M::Sysret | M::Sysretq | M::Sysenter | M::Sysexit | M::Sysexitq | M::Swapgs => {
            syscall::lower(l)
        }
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => syscall::lower(l),
        M::Lmsw | M::Smsw | M::Clts => control::lower(l),
        M::Lgdt | M::Sgdt | M::Lidt | M::Sidt | M::Lldt | M::Sldt | M::Ltr | M::Str => tables::lower(l),
        M::Lar | M::Lsl | M::Verr | M::Verw | M::Arpl => tables::lower(l),
        M::Rdmsr | M::Wrmsr => msr::lower(l),
        M::Cpuid => l.run(cpuid::cpuid),
        M::Vmcall | M::Vmmcall => l.end_with(hypercall::hypercall),
        M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Rdpid => time::lower(l),
        M::In | M::Out => io::lower(l),
        M::Xgetbv | M::Xsetbv => xcr::lower(l),
        M::Invlpg | M::Invpcid | M::Invd | M::Wbinvd | M::Wbnoinvd => cache::lower(l),
        M::Clflush | M::Clflushopt | M::Clwb | M::Cldemote | M::Serialize => cache::lower(l),
        M::Lfence | M::Mfence | M::Sfence => cache::lower(l),
        M::Prefetch
        | M::Prefetchw
        | M::Prefetchwt1
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchit0
        | M::Prefetchit1 => cache::lower(l),
        M::Hlt | M::Pause | M::Nop | M::Reservednop | M::Rdrand | M::Rdseed => halt::lower(l),
        // NOPs of CPUs without control-flow enforcement.
        M::Endbr32 | M::Endbr64 | M::Rdsspd | M::Rdsspq => halt::lower(l),
        M::Ud0 | M::Ud1 | M::Ud2 | M::Monitor | M::Mwait | M::Rsm | M::Getsec => l.end_with(undefined),
        _ => false,
    }
}

/// MOV with a segment, control or debug register.
fn lower_mov(l: &mut Lowering) -> bool {
    let is = |test: fn(Register) -> bool| test(l.insn.op0_register()) || test(l.insn.op1_register());
    if is(Register::is_segment_register) {
        segment::lower_mov(l)
    } else if is(Register::is_cr) {
        control::lower_mov(l)
    } else if is(Register::is_dr) {
        debug::lower(l)
    } else {
        false
    }
}

/// Drains the stores, as a serialising instruction does (Intel SDM volume 3, 9.3): loads behind it do not overtake
/// them.
fn drain() {
    fence(Ordering::SeqCst);
}

/// The end of a serialising instruction, and of its block.
fn serialised(cpu: &mut Cpu, op: &Op) -> Done {
    drain();
    cpu.rip = cpu.next_ip(op);
    Err(Stop::Jump)
}

/// No engine executes this.
pub(crate) fn unimplemented(_: &mut Cpu, _: &Op) -> Done {
    Err(Stop::Unimplemented)
}

/// #UD.
pub(crate) fn undefined(cpu: &mut Cpu, _: &Op) -> Done {
    Err(cpu.ud())
}

/// More than 15 bytes: #GP(0).
pub(crate) fn overlong(cpu: &mut Cpu, _: &Op) -> Done {
    Err(cpu.gp0())
}

/// The end of a block that does not branch: execution goes on at offset `end`.
pub(crate) fn next_block(end: usize, insns: usize) -> Op {
    Op { run: fall_through, flags: op_flag::LINK, aux: insns as u8, ..Op::template(end as u16, 0) }
}

fn fall_through(cpu: &mut Cpu, op: At) -> Stop {
    let target = cpu.next_ip(&op);
    cpu.follow(target, op)
}

impl Cpu {
    /// Stack addresses have 32 bits (SS.B); in 64-bit mode they have 64 and this is irrelevant.
    pub fn stack32(&self) -> bool {
        self.segments[cpu::x86::seg::SS].attr & cpu::x86::seg_attr::DB != 0
    }
}
