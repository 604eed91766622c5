//! PUSHF, POPF, CLI, STI, CLAC and STAC (Intel SDM volume 2; no virtual-8086 mode extensions).

use cpu::x86::{cr0, rflags};
use iced_x86::{Code, Mnemonic};

use super::stack::Stack;
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop, threaded};

pub(super) fn lower(l: &mut Lowering) -> bool {
    match l.insn.mnemonic() {
        Mnemonic::Cli => return l.thread(threaded(cli)),
        Mnemonic::Sti => return l.thread(threaded(sti)),
        Mnemonic::Clac => return l.thread(threaded(clac)),
        Mnemonic::Stac => return l.thread(threaded(stac)),
        _ => {}
    }
    match l.insn.code() {
        Code::Pushfw => l.thread(threaded(pushf::<2>)),
        Code::Pushfd => l.thread(threaded(pushf::<4>)),
        Code::Pushfq => l.thread(threaded(pushf::<8>)),
        Code::Popfw => l.thread(threaded(popf::<2>)),
        Code::Popfd => l.thread(threaded(popf::<4>)),
        _ => l.thread(threaded(popf::<8>)),
    }
}

fn pushf<const SIZE: u8>(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.v8086() && cpu.iopl() < 3 {
        return Err(cpu.gp0());
    }
    let image = cpu.rflags() & !(rflags::RF | rflags::VM);
    let mut stack = Stack::current(cpu);
    stack.push_sized(cpu, SIZE, image)?;
    stack.commit(cpu);
    stack.stored.done()
}

fn popf<const SIZE: u8>(cpu: &mut Cpu, _: &Op) -> Done {
    let iopl = cpu.iopl();
    if cpu.v8086() && iopl < 3 {
        return Err(cpu.gp0());
    }
    let mut stack = Stack::current(cpu);
    let image = stack.pop_sized(cpu, SIZE)?;
    stack.commit(cpu);
    let mut mask = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT;
    mask |= if SIZE > 2 { rflags::AC | rflags::ID } else { 0 };
    mask |= if cpu.cpl <= iopl { rflags::IF } else { 0 };
    mask |= if cpu.cpl == 0 { rflags::IOPL } else { 0 };
    let old = cpu.eflags;
    cpu.set_rflags(cpu.rflags() & !(mask | rflags::RF) | image & mask);
    let set = cpu.eflags & !old;
    if set & rflags::AC != 0 {
        cpu.check_alignment_mode();
    }
    cpu.look_outside(set & (rflags::IF | rflags::TF))
}

impl Cpu {
    /// After `set` flags came on: leaves the block where that makes a difference now. An interrupt that comes
    /// later is seen at the end of the block.
    #[inline(always)]
    fn look_outside(&self, set: u64) -> Done {
        let now = set & rflags::TF != 0 || (set & rflags::IF != 0 && self.signals.load() != 0);
        if now { Err(Stop::Leave) } else { Ok(()) }
    }

    /// CLI and STI are allowed: CPL at most IOPL; in v8086 mode IOPL 3.
    fn require_iopl(&mut self) -> Result<(), Stop> {
        if self.cpl > self.iopl() { Err(self.gp0()) } else { Ok(()) }
    }

    /// To be called when CPL or RFLAGS.AC changed: with alignment checks on every access has to be looked at, so
    /// none may go past them through the TLB.
    #[inline]
    pub fn check_alignment_mode(&mut self) {
        if self.eflags & rflags::AC != 0 && self.cpl == 3 && self.cr0 & cr0::AM != 0 {
            self.tlb.flush_all();
        }
    }
}

fn cli(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_iopl()?;
    cpu.eflags &= !rflags::IF;
    Ok(())
}

fn sti(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_iopl()?;
    if cpu.eflags & rflags::IF != 0 {
        return Ok(());
    }
    cpu.eflags |= rflags::IF;
    cpu.events.interrupt_shadow = true;
    cpu.look_outside(rflags::IF)
}

fn clac(cpu: &mut Cpu, _: &Op) -> Done {
    set_ac(cpu, false)
}

fn stac(cpu: &mut Cpu, _: &Op) -> Done {
    set_ac(cpu, true)
}

fn set_ac(cpu: &mut Cpu, ac: bool) -> Done {
    if cpu.cpl != 0 {
        return Err(cpu.ud());
    }
    cpu.eflags = cpu.eflags & !rflags::AC | if ac { rflags::AC } else { 0 };
    cpu.tlb.set_ac(ac);
    Ok(())
}
