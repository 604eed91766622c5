//! What a faster engine builds on: one vCPU's state and the interpreter's steps, a block or an instruction at a time.
//!
//! The engine runs guest code its own way as long as it can and hands everything else to a [`Session`]: system
//! instructions, devices, faults, interrupts, code that is not worth translating. State is kept in one place only, here,
//! but for the x87 registers, which the engine may borrow.

pub mod direct;
mod segments;
pub mod system;
pub mod x87;

use std::sync::Arc;

use cpu::x86::{cr0, cr4, rflags, xcr0};
use cpu::{CpuFault, CpuIo, CpuState, EngineError, Signals, VcpuExit, VmConfig};
use iced_x86::Instruction;
use memory::{GuestRam, PageInfo, PageRef};

use crate::code::Code;
pub use crate::cpu::Sealer;
use crate::cpu::{CodeSize, Cpu};
use crate::decode::{FlagUse, Lowering};
use crate::flags::Flags;
use crate::mmu::Access;
pub use crate::mmu::Flushes;
use crate::op::{Op, Stop, op_flag, slot};
use crate::run::{Leave, Run, Runner};
pub use segments::Code32;

/// Bytes of decoded code: what is executed more than a few times is the engine's.
const DECODED: usize = 4 << 20;

/// A vCPU between two sessions.
pub struct Core {
    runner: Runner,
}

/// One stay in [`cpu::Vcpu::run`].
pub struct Session<'a, 'b> {
    run: &'b mut Run<'a>,
}

/// Why a session is over.
pub enum End {
    /// An exit to the machine.
    Exit(VcpuExit),
    /// An instruction that no engine has.
    Unimplemented,
}

/// What translated code depends on beside the guest's bytes; one instance never runs under another mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode {
    /// CPL 3.
    pub user: bool,
    /// SMAP is on and suspended by EFLAGS.AC.
    pub user_pages: bool,
    /// Legacy-encoded vector instructions run, with all exceptions masked.
    pub sse: bool,
    /// VEX-encoded ones do.
    pub avx: bool,
    /// x87 and MMX instructions run, with all exceptions masked.
    pub x87: bool,
    /// SMAP is on.
    pub smap: bool,
    /// RDTSC is allowed at CPL 3.
    pub tsc: bool,
    /// RDFSBASE and its kin exist.
    pub bases: bool,
    /// 32-bit code, if it is not 64-bit code.
    pub code32: Option<Code32>,
}

/// An instruction in the interpreter's form.
pub struct Lowered {
    code: Code,
    offset: u64,
    /// Offset of the next instruction.
    next: u64,
    /// It ends a block: control goes elsewhere, or anything may have changed.
    pub ends: bool,
}

/// A page of RAM at a linear address.
#[derive(Clone, Copy)]
pub struct Mapped {
    /// First byte in this process.
    pub host: *mut u8,
    /// What is known of it.
    pub info: *const PageInfo,
    /// It stays there when another address space is loaded.
    pub stays: bool,
}

impl Core {
    /// A vCPU in the power-on state.
    pub fn new(config: &VmConfig, index: u32, signals: Arc<Signals>) -> Self {
        Self { runner: Runner::new(config, index, signals, DECODED) }
    }

    /// Has `sealer` asked before a page's bytes count as code: it makes every vCPU of the machine let go of the page as one
    /// for stores that do not look at [`PageInfo::has_code`].
    pub fn set_sealer(&mut self, sealer: Arc<Sealer>) {
        self.runner.cpu.sealer = Some(sealer);
    }

    /// Runs `body` with the machine's callbacks in reach.
    ///
    /// # Errors
    /// The guest came to an instruction that no engine has.
    pub fn session(
        &mut self,
        io: &dyn CpuIo,
        body: impl FnOnce(Session) -> End,
    ) -> Result<VcpuExit, CpuFault> {
        let outcome = self.runner.session(io, u64::MAX, |run| match body(Session { run }) {
            End::Exit(exit) => Leave::Exit(exit),
            End::Unimplemented => Leave::Unimplemented,
        });
        // The next session may be another thread's.
        self.runner.cpu.host.reclaim_x87();
        outcome
    }

    /// The architectural state.
    pub fn state(&self) -> CpuState {
        self.runner.cpu.save_state()
    }

    /// Replaces it.
    ///
    /// # Errors
    /// No CPU can be in that state.
    pub fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.runner.cpu.check_state(state)?;
        self.runner.cpu.load_state(state);
        Ok(())
    }
}

impl Session<'_, '_> {
    fn cpu(&self) -> &Cpu {
        self.run.cpu
    }

    /// General registers, in the order of their numbers.
    pub fn registers(&self) -> &[u64] {
        &self.run.cpu.regs[..16]
    }

    /// The same, to be changed.
    pub fn registers_mut(&mut self) -> &mut [u64] {
        &mut self.run.cpu.regs[..16]
    }

    /// Instruction pointer.
    pub fn rip(&self) -> u64 {
        self.cpu().rip
    }

    /// Goes on elsewhere.
    pub fn set_rip(&mut self, rip: u64) {
        self.run.cpu.rip = rip;
    }

    /// The six arithmetic flags at their places in RFLAGS.
    pub fn flags(&self) -> u64 {
        self.cpu().flags.bits()
    }

    /// Replaces them.
    pub fn set_flags(&mut self, bits: u64) {
        self.run.cpu.flags = Flags::from_bits(bits);
    }

    /// RFLAGS without them.
    pub fn system_flags(&self) -> u64 {
        self.cpu().eflags
    }

    /// Replaces IF, of code at CPL 0.
    pub fn set_interrupt_flag(&mut self, set: bool) {
        let flags = &mut self.run.cpu.eflags;
        *flags = *flags & !rflags::IF | if set { rflags::IF } else { 0 };
    }

    /// Selectors of ES, CS, SS, DS, FS, GS.
    pub fn selectors(&self) -> [u32; 6] {
        self.cpu().segments.map(|s| u32::from(s.selector))
    }

    /// Base of a segment, zero where the mode ignores it.
    pub fn segment_base(&self, segment: usize) -> u64 {
        self.cpu().seg_base[segment & 7]
    }

    /// YMM0-YMM15, 32 bytes each. Stays where it is for the life of the vCPU.
    pub fn vectors(&mut self) -> *mut u8 {
        self.run.cpu.host.ymm.as_mut_ptr().cast()
    }

    /// MXCSR.
    pub fn mxcsr(&self) -> u32 {
        self.cpu().host.mxcsr
    }

    /// Takes over the flags that translated code has raised in MXCSR.
    pub fn set_mxcsr(&mut self, mxcsr: u32) {
        self.run.cpu.host.mxcsr = mxcsr;
    }

    /// The guest's CPU model has the instruction.
    pub fn allows(&self, code: iced_x86::Code) -> bool {
        self.cpu().model.allows(code)
    }

    /// Guest RAM.
    pub fn ram(&self) -> Arc<GuestRam> {
        self.cpu().ram.clone()
    }

    /// vCPUs of the machine.
    pub fn vcpus(&self) -> u32 {
        self.cpu().vcpus
    }

    /// The mode in force; `None` where instructions have to be interpreted: outside 64-bit code and 32-bit code of flat
    /// segments, or one at a time.
    pub fn mode(&self) -> Option<Mode> {
        let cpu = self.cpu();
        if cpu.needs_stepping() {
            return None;
        }
        let code32 = match cpu.code_size {
            CodeSize::Bits64 => None,
            CodeSize::Bits32 => Some(cpu.code32()?),
            CodeSize::Bits16 => return None,
        };
        let user = cpu.cpl == 3;
        let ac = cpu.eflags & rflags::AC != 0;
        if user && ac && cpu.cr0 & cr0::AM != 0 {
            return None;
        }
        const MASKS: u32 = 0x1f80;
        let masked = cpu.host.mxcsr & MASKS == MASKS && cpu.cr0 & cr0::TS == 0;
        let sse = masked && cpu.cr0 & cr0::EM == 0 && cpu.cr4 & cr4::OSFXSR != 0;
        let state = xcr0::SSE | xcr0::AVX;
        let avx = masked && cpu.cr4 & cr4::OSXSAVE != 0 && cpu.xcr0 & state == state;
        let x87 = cpu.cr0 & (cr0::EM | cr0::TS | cr0::NE) == cr0::NE && cpu.host.x87_is_quiet();
        let tsc = cpu.cr4 & cr4::TSD == 0;
        let smap = cpu.cr4 & cr4::SMAP != 0;
        let bases = cpu.cr4 & cr4::FSGSBASE != 0;
        Some(Mode { user, user_pages: !user && smap && ac, sse, avx, x87, smap, tsc, bases, code32 })
    }

    /// Between two blocks: requests of the machine, timers, interrupts.
    #[inline]
    pub fn boundary(&mut self) -> Option<End> {
        self.run.boundary().map(End::Exit)
    }

    /// The signals that a [`boundary`](Self::boundary) would act on.
    #[inline]
    pub fn attention(&self) -> u32 {
        let cpu = self.cpu();
        let masked = if cpu.eflags & rflags::IF == 0 { Signals::INTR } else { 0 };
        let blocked = if cpu.events.nmi_blocked { Signals::NMI } else { 0 };
        !(masked | blocked)
    }

    /// True if the page that `phys` is in has its code overwritten so often that to translate it does not pay.
    pub fn is_restless(&mut self, phys: u64) -> bool {
        self.run.cache.restless.is(phys)
    }

    /// To be asked before code of a page in a generation is translated: true if it is restless by now.
    pub fn note_code(&mut self, phys: u64, generation: u32) -> bool {
        self.run.cache.restless.note(phys, generation)
    }

    /// Interprets one block, or several of restless pages, or one instruction where stepping is due.
    pub fn block(&mut self) -> Option<End> {
        let outcome = if self.cpu().needs_stepping() { self.run.step() } else { self.run.block() };
        self.settle(outcome)
    }

    /// Interprets exactly one instruction. `true`: it is complete, and control went to the next one.
    pub fn step(&mut self, len: u64) -> Result<bool, End> {
        let next = self.cpu().rip.wrapping_add(len);
        match self.run.step() {
            Ok(()) => Ok(self.cpu().rip == next),
            Err(stop) => self.settle(Err(stop)).map_or(Ok(false), Err),
        }
    }

    fn settle(&mut self, outcome: Result<(), Stop>) -> Option<End> {
        match self.run.stopped(outcome.err()?)? {
            Leave::Exit(exit) => Some(End::Exit(exit)),
            Leave::Unimplemented => Some(End::Unimplemented),
        }
    }

    /// Lowers an instruction that was decoded with `offset` as its address.
    pub fn lower(&mut self, insn: &Instruction, offset: u16) -> Lowered {
        let (mut op, mut flag_use) = (Op::template(offset, insn.len() as u8), FlagUse::UNKNOWN);
        let mut lowering = Lowering::new(self.run.cpu, insn, &mut op, &mut flag_use);
        crate::decode::lower(&mut lowering);
        let ends = lowering.ends;
        let mut code = Code::default();
        match crate::decode::prelude(&op) {
            Some(first) => code.push(&[first, op]),
            None => code.push(&[op]),
        };
        let ends = ends || op.has(op_flag::LINK);
        Lowered { code, offset: u64::from(op.off), next: op.next(), ends }
    }

    /// Executes an instruction whose page begins at linear address `page`. `true`: control goes to the next one, and
    /// nothing but registers, flags and memory has changed.
    pub fn execute(&mut self, insn: &Lowered, page: u64) -> Result<bool, End> {
        let cpu = &mut *self.run.cpu;
        cpu.regs[usize::from(slot::BLOCK)] = page;
        let stop = insn.code.run_first(cpu);
        match stop {
            Stop::End => {
                cpu.rip = cpu.truncate_ip(page.wrapping_add(insn.next));
                return Ok(!insn.ends);
            }
            Stop::Jump | Stop::Taken | Stop::Indirect => return Ok(false),
            Stop::Leave | Stop::Halt => cpu.rip = cpu.truncate_ip(page.wrapping_add(insn.next)),
            Stop::Again | Stop::Fault | Stop::Unimplemented | Stop::Shutdown => {
                cpu.rip = page.wrapping_add(insn.offset);
            }
        }
        self.settle(Err(stop)).map_or(Ok(false), Err)
    }

    /// Where code at a linear address is; `None` if it cannot be fetched.
    pub fn fetch(&mut self, lin: u64) -> Option<u64> {
        self.run.cpu.fetch_address(lin).ok()
    }

    /// The RAM page behind a linear address, if a load (or store) by the guest's current code may go there directly.
    /// Sets accessed and dirty bits as that access would; raises nothing.
    pub fn map(&mut self, lin: u64, write: bool) -> Option<Mapped> {
        for _ in 0..2 {
            if let Some(mapped) = self.mapped(lin, write) {
                return Some(mapped);
            }
            if !Cpu::canonical(lin) {
                return None;
            }
            let cpu = &mut *self.run.cpu;
            let access = if write { Access::Write } else { Access::Read };
            cpu.page(lin, access, cpu.privilege()).ok()?;
        }
        None
    }

    /// The same if that is known already: nothing is walked or changed.
    pub fn mapped(&self, lin: u64, write: bool) -> Option<Mapped> {
        let tlb = &self.cpu().tlb;
        let entry = if write { tlb.writable(lin, 1) } else { tlb.readable(lin, 1) }?;
        let host = entry.addend.wrapping_add((lin & !0xfff) as usize) as *mut u8;
        Some(Mapped { host, info: entry.info, stays: tlb.stays(lin) })
    }

    /// Makes code of bytes of a page: from here on stores to them are noticed.
    pub fn claim(&self, page: &PageRef, offset: u16, len: u16) {
        self.cpu().claim(page, offset, len);
    }

    /// What became invalid in the address space since this was asked last.
    #[inline]
    pub fn flushes(&mut self) -> Flushes {
        self.run.cpu.tlb.take_flushes()
    }
}
