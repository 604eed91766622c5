//! The interpreter's loop: find a block, run its operations, look at what the world wants in between.

use std::sync::Arc;

use cpu::x86::{rflags, seg};
use cpu::{CpuFault, CpuIo, Signals, VcpuExit, VmConfig};

use crate::cache::Cache;
use crate::code::Code;
use crate::cpu::{CodeSize, Cpu};
use crate::decode::{Decoder, MAX_INSNS};
use crate::exec::string::SLICE;
use crate::op::{Op, Stop, op_flag, slot};

/// Instructions between two looks at local timers: some 10 us.
const POLL_INTERVAL: i64 = 4096;
/// Instructions between two returns to the loop: what bounds the stack, since an operation is called by the one before
/// it and not every such call is turned into a jump.
const CHAIN: i64 = 1024;
/// What the delivery of an exception counts for.
const FAULT_COST: i64 = 16;

/// A vCPU with its decoded code.
pub(crate) struct Runner {
    pub cpu: Cpu,
    cache: Cache,
    decoder: Decoder,
    /// Instructions completed since creation.
    pub retired: u64,
    /// Instructions until the next poll.
    countdown: i64,
    /// Operations of an instruction that is not cached.
    scratch: Code,
}

/// What stops the inner loop.
pub(crate) enum Leave {
    Exit(VcpuExit),
    Unimplemented,
}

impl Runner {
    /// `decoded`: bytes of decoded code that are kept at most.
    pub fn new(config: &VmConfig, index: u32, signals: Arc<Signals>, decoded: usize) -> Self {
        Self {
            cpu: Cpu::new(config, index, signals),
            cache: Cache::new(config.ram.clone(), decoded),
            decoder: Decoder::default(),
            retired: 0,
            countdown: POLL_INTERVAL,
            scratch: Code::default(),
        }
    }

    /// Runs at most `limit` instructions.
    pub fn run(&mut self, io: &dyn CpuIo, limit: u64) -> Result<VcpuExit, CpuFault> {
        self.session(io, limit, |run| run.until_exit())
    }

    /// Runs `body` with the machine in reach.
    pub fn session(
        &mut self,
        io: &dyn CpuIo,
        limit: u64,
        body: impl FnOnce(&mut Run) -> Leave,
    ) -> Result<VcpuExit, CpuFault> {
        let Self { cpu, cache, decoder, retired, countdown, scratch } = self;
        let end = retired.saturating_add(limit);
        if cpu.time_is_stale {
            cpu.publish_time();
        }
        let leave = cpu.attached(io, |cpu| {
            body(&mut Run { cpu, cache, decoder, retired, countdown, scratch, end, single: false })
        });
        match leave {
            Leave::Exit(exit) => Ok(exit),
            Leave::Unimplemented => Err(self.cpu.fault_report("instruction is not implemented")),
        }
    }
}

/// One stay in the loop.
pub(crate) struct Run<'a> {
    pub cpu: &'a mut Cpu,
    pub cache: &'a mut Cache,
    decoder: &'a mut Decoder,
    retired: &'a mut u64,
    pub countdown: &'a mut i64,
    scratch: &'a mut Code,
    end: u64,
    /// The next instruction runs alone.
    single: bool,
}

impl Run<'_> {
    fn until_exit(&mut self) -> Leave {
        loop {
            if let Some(exit) = self.boundary() {
                return Leave::Exit(exit);
            }
            let single = std::mem::take(&mut self.single) || self.cpu.needs_stepping();
            let outcome = if single { self.step() } else { self.blocks() };
            if let Err(stop) = outcome
                && let Some(leave) = self.stopped(stop)
            {
                return leave;
            }
        }
    }

    /// Ends of the loop that are no plain jump.
    pub fn stopped(&mut self, stop: Stop) -> Option<Leave> {
        match stop {
            Stop::Jump | Stop::Taken | Stop::Indirect | Stop::Leave | Stop::End => None,
            Stop::Halt => {
                self.cpu.events.halted = true;
                None
            }
            Stop::Again => {
                *self.countdown -= SLICE;
                None
            }
            Stop::Fault => {
                // A guest may fault for ever without completing an instruction: its timers still run.
                *self.countdown -= FAULT_COST;
                match self.cpu.deliver_exception() {
                    Err(Stop::Shutdown) => Some(Leave::Exit(VcpuExit::Shutdown)),
                    _ => None,
                }
            }
            Stop::Shutdown => Some(Leave::Exit(VcpuExit::Shutdown)),
            Stop::Unimplemented => Some(Leave::Unimplemented),
        }
    }

    /// Between blocks: limits, timers, interrupts, requests of the machine.
    #[inline(always)]
    pub fn boundary(&mut self) -> Option<VcpuExit> {
        if *self.countdown > 0
            && self.cpu.signals.load() == 0
            && !self.cpu.events.halted
            && *self.retired < self.end
        {
            self.cpu.events.interrupt_shadow = false;
            self.cpu.pass_rf();
            return None;
        }
        self.boundary_slow()
    }

    #[inline(never)]
    fn boundary_slow(&mut self) -> Option<VcpuExit> {
        let cpu = &mut *self.cpu;
        if *self.countdown <= 0 {
            *self.countdown = POLL_INTERVAL;
            cpu.io().poll();
        }
        if cpu.signals.load() & (Signals::POLL | Signals::SYNC) != 0
            && cpu.signals.clear(Signals::POLL | Signals::SYNC)
        {
            cpu.io().poll();
        }
        let signals = cpu.signals.load();
        if signals & Signals::EXIT != 0 {
            return Some(VcpuExit::Kicked);
        }
        if *self.retired >= self.end {
            return Some(VcpuExit::Limit);
        }
        // A shadow covers exactly one instruction, which is stepped.
        let shadow = cpu.events.interrupt_shadow;
        let delivered = if signals & Signals::NMI != 0 && !shadow && !cpu.events.nmi_blocked {
            cpu.signals.clear(Signals::NMI);
            cpu.events.halted = false;
            cpu.events.nmi_blocked = true;
            cpu.deliver_nmi()
        } else if signals & Signals::INTR != 0 && !shadow && cpu.eflags & rflags::IF != 0 {
            match cpu.io().take_interrupt() {
                Some(vector) => {
                    cpu.events.halted = false;
                    cpu.deliver_interrupt(vector)
                }
                None => Ok(()),
            }
        } else {
            Ok(())
        };
        if delivered == Err(Stop::Shutdown) {
            return Some(VcpuExit::Shutdown);
        }
        if cpu.events.halted {
            return Some(VcpuExit::Halt);
        }
        cpu.pass_rf();
        None
    }

    /// Runs blocks until something other than a near branch ends one, or the boundary wants attention.
    fn blocks(&mut self) -> Result<(), Stop> {
        let left = self.end - *self.retired;
        if left <= MAX_INSNS as u64 {
            return self.step(); // the limit may be within the next block
        }
        let budget = (left - MAX_INSNS as u64).min((*self.countdown).clamp(1, CHAIN) as u64) as i64;
        self.chain::<false>(budget)
    }

    /// Runs one block, or those of restless pages as long as one follows another.
    pub fn block(&mut self) -> Result<(), Stop> {
        self.chain::<true>(1)
    }

    /// Runs blocks until a budget of instructions is used up.
    fn chain<const SINGLE: bool>(&mut self, mut budget: i64) -> Result<(), Stop> {
        self.cpu.budget = budget;
        let outcome = self.until_budget::<SINGLE>(&mut budget);
        let used = budget - self.cpu.budget;
        *self.retired += used as u64;
        *self.countdown -= used;
        outcome
    }

    /// The hot loop: block after block. Most of the way from one to the next is in `Cpu::follow`.
    #[inline(always)]
    fn until_budget<const SINGLE: bool>(&mut self, budget: &mut i64) -> Result<(), Stop> {
        let flat = self.cpu.code_size == CodeSize::Bits64;
        let Some(mut block) = self.find()? else { return self.step() };
        if SINGLE && self.cache.is_copied(block) {
            // No link leads from such a block, so that the loop gets to see the next one.
            *budget = (*self.countdown).clamp(1, CHAIN);
            self.cpu.budget = *budget;
        }
        loop {
            self.cpu.regs[usize::from(slot::BLOCK)] = self.cpu.rip;
            let stop = self.cache.run(self.cpu, block);
            match stop {
                Stop::Taken => {}
                Stop::Indirect => self.cpu.budget -= i64::from(self.cache.block(self.cpu.block).insns),
                _ => {
                    let (done, outcome) = self.ended(stop);
                    self.cpu.budget -= done;
                    return outcome;
                }
            }
            if self.cpu.budget <= 0 || self.cpu.signals.load() != 0 {
                return Ok(());
            }
            if stop == Stop::Indirect {
                let Some(found) = self.find()? else { return Ok(()) };
                if SINGLE && !self.cache.is_copied(found) {
                    return Ok(());
                }
                block = found;
                continue;
            }
            let (from, exit, version) = (self.cpu.block, self.cpu.exit, self.cache.version());
            block = match self.cache.renew(exit) {
                Some(renewed) => renewed,
                None => {
                    let Some(found) = self.find()? else { return Ok(()) };
                    if SINGLE && !self.cache.is_copied(found) {
                        return Ok(());
                    }
                    if flat {
                        self.cache.link(exit, version, from, found);
                    }
                    found
                }
            };
        }
    }

    /// A block ended by something else than a near branch: how many of its instructions are complete, and what to
    /// do.
    #[inline(never)]
    fn ended(&mut self, stop: Stop) -> (i64, Result<(), Stop>) {
        let block = self.cache.block(self.cpu.block);
        // Operations without a length belong to the one behind them; fused ones are two instructions.
        let insns = |op: &Op| i64::from(op.len > 0) + i64::from(op.has(op_flag::FUSED));
        let before = || {
            let ops = self.cache.ops(self.cpu.block);
            ops.take_while(|op| op.off < self.cpu.stop_off).map(|op| insns(&op)).sum::<i64>()
        };
        if stop == Stop::Jump {
            let last = block.last == self.cpu.stop_off;
            return (if last { i64::from(block.insns) } else { before() + 1 }, Ok(()));
        }
        let done = before() + i64::from(matches!(stop, Stop::Leave | Stop::Halt));
        (done, self.left(self.cpu.regs[usize::from(slot::BLOCK)], stop))
    }

    /// RIP after a block was left by something else than a jump.
    fn left(&mut self, rip: u64, stop: Stop) -> Result<(), Stop> {
        let here = u64::from(self.cpu.stop_off);
        let offset = match stop {
            Stop::Leave | Stop::Halt => here + u64::from(self.cpu.stop_len),
            _ => here,
        };
        self.cpu.rip = self.cpu.truncate_ip(rip.wrapping_add(offset));
        Err(stop)
    }

    /// The block at RIP; `None` if the instruction there has to be stepped.
    #[inline(always)]
    fn find(&mut self) -> Result<Option<u32>, Stop> {
        let flat = self.cpu.code_size == CodeSize::Bits64;
        let lin = if flat {
            self.cpu.rip
        } else {
            self.cpu.segments[seg::CS].base.wrapping_add(self.cpu.rip) & 0xffff_ffff
        };
        let context = self.cpu.tlb.fetch_context(lin) | (u64::from(self.cpu.mode_key()) << 56);
        if let Some(id) = self.cache.by_jump(lin, context)
            && (flat || self.within_cs(id))
        {
            return Ok(Some(id));
        }
        self.find_slow(lin, context)
    }

    fn within_cs(&self, id: u32) -> bool {
        let bytes = u64::from(self.cache.block(id).bytes);
        self.cpu.rip + bytes - 1 <= u64::from(self.cpu.segments[seg::CS].limit)
    }

    #[inline(never)]
    fn find_slow(&mut self, lin: u64, context: u64) -> Result<Option<u32>, Stop> {
        let phys = match self.cache.phys_by_jump(lin, context) {
            Some(phys) => phys,
            None => self.cpu.fetch_address(lin)?,
        };
        let key = self.cpu.mode_key();
        let found = self.cache.find(phys, key).filter(|&id| self.second_page_is_same(id, lin));
        let id = match found {
            Some(id) => id,
            None => match self.decoder.block(self.cpu, &mut self.cache.restless, lin, phys)? {
                Some(decoded) => self.cache.insert(decoded, self.decoder.ops()),
                None => return Ok(None),
            },
        };
        if self.cpu.code_size != CodeSize::Bits64 && !self.within_cs(id) {
            return Ok(None);
        }
        self.cache.remember(lin, context, id);
        Ok(Some(id))
    }

    /// An instruction across two pages was decoded from the page that is mapped behind the first one now.
    fn second_page_is_same(&mut self, id: u32, lin: u64) -> bool {
        match self.cache.block(id).second() {
            None => true,
            Some(second) => {
                self.cpu.fetch_address((lin | 0xfff).wrapping_add(1)).is_ok_and(|phys| phys == second.phys)
            }
        }
    }

    /// Runs exactly one instruction, with everything that may surround one: code breakpoints, single step, data
    /// breakpoints, CS limit.
    pub fn step(&mut self) -> Result<(), Stop> {
        let trap = self.cpu.eflags & rflags::TF != 0;
        self.cpu.watch_hits = 0;
        self.cpu.events.interrupt_shadow = false;
        self.cpu.check_code_breakpoints()?;
        let rip = self.cpu.rip;
        let len = self.decoder.single(self.cpu, self.scratch)?;
        self.cpu.regs[usize::from(slot::BLOCK)] = rip;
        let stop = self.scratch.run_first(self.cpu);
        *self.countdown -= 1;
        match stop {
            Stop::End => self.cpu.rip = self.cpu.truncate_ip(rip.wrapping_add(len)),
            Stop::Jump | Stop::Taken | Stop::Indirect => {}
            Stop::Leave | Stop::Halt | Stop::Again => {
                let _ = self.left(rip, stop);
            }
            Stop::Fault | Stop::Unimplemented | Stop::Shutdown => return self.left(rip, stop),
        }
        *self.retired += u64::from(stop != Stop::Again || trap);
        self.cpu.after_step(trap)?;
        if matches!(stop, Stop::Halt | Stop::Again) { Err(stop) } else { Ok(()) }
    }
}

impl Cpu {
    /// An instruction is about to run. RF covers it against breakpoints; where there are none it is over at once, so that
    /// what follows a fault need not be stepped.
    #[inline(always)]
    pub fn pass_rf(&mut self) {
        if self.dr[5] & 0xff == 0 {
            self.eflags &= !rflags::RF;
        }
    }

    /// Instructions have to be run one at a time: TF, breakpoints or an interrupt shadow that ends after one.
    #[inline(always)]
    pub fn needs_stepping(&self) -> bool {
        self.eflags & rflags::TF != 0 || self.dr[5] & 0xff != 0 || self.events.interrupt_shadow
    }

    /// IP, EIP or RIP width.
    #[inline(always)]
    pub fn truncate_ip(&self, ip: u64) -> u64 {
        match self.code_size {
            CodeSize::Bits64 => ip,
            CodeSize::Bits32 | CodeSize::Bits16 => ip & 0xffff_ffff,
        }
    }

    /// What decoding depends on: code size, stack size.
    #[inline(always)]
    pub fn mode_key(&self) -> u8 {
        self.code_size as u8 | (u8::from(self.stack32()) << 2)
    }

    /// What to tell the user when the engine cannot go on.
    fn fault_report(&mut self, reason: &str) -> CpuFault {
        let base = if self.code_size == CodeSize::Bits64 { 0 } else { self.segments[seg::CS].base };
        let mut bytes = Vec::new();
        for i in 0..15 {
            match self.fetch_address(self.wrap_linear(base.wrapping_add(self.rip).wrapping_add(i))) {
                Ok(phys) => {
                    let mut byte = [0];
                    if self.ram.read(phys, &mut byte).is_ok() {
                        bytes.push(byte[0]);
                    }
                }
                Err(_) => break,
            }
        }
        CpuFault { reason: reason.to_owned(), rip: self.rip, bytes, mode: self.mode_name() }
    }
}
