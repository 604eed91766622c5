//! The interpreter's loop: find a block, run its operations, look at what the world wants in between.

use std::sync::Arc;

use cpu::x86::{rflags, seg};
use cpu::{CpuFault, CpuIo, Signals, VcpuExit, VmConfig};

use crate::cache::Cache;
use crate::cpu::{CodeSize, Cpu};
use crate::decode::Decoder;
use crate::op::{Op, Stop, slot};

/// Instructions between two looks at local timers: some 10 us.
const POLL_INTERVAL: i64 = 4096;

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
    scratch: Vec<Op>,
}

/// What stops the inner loop.
enum Leave {
    Exit(VcpuExit),
    Unimplemented,
}

impl Runner {
    pub fn new(config: &VmConfig, index: u32, signals: Arc<Signals>) -> Self {
        Self {
            cpu: Cpu::new(config, index, signals),
            cache: Cache::new(config.ram.clone()),
            decoder: Decoder::default(),
            retired: 0,
            countdown: POLL_INTERVAL,
            scratch: Vec::new(),
        }
    }

    /// Runs at most `limit` instructions.
    pub fn run(&mut self, io: &dyn CpuIo, limit: u64) -> Result<VcpuExit, CpuFault> {
        let Self { cpu, cache, decoder, retired, countdown, scratch } = self;
        let end = retired.saturating_add(limit);
        let leave = cpu.attached(io, |cpu| {
            let mut run = Run { cpu, cache, decoder, retired, countdown, scratch, end };
            run.until_exit()
        });
        match leave {
            Leave::Exit(exit) => Ok(exit),
            Leave::Unimplemented => Err(self.cpu.fault_report("instruction is not implemented")),
        }
    }
}

/// One stay in the loop.
struct Run<'a> {
    cpu: &'a mut Cpu,
    cache: &'a mut Cache,
    decoder: &'a mut Decoder,
    retired: &'a mut u64,
    countdown: &'a mut i64,
    scratch: &'a mut Vec<Op>,
    end: u64,
}

impl Run<'_> {
    fn until_exit(&mut self) -> Leave {
        loop {
            if let Some(exit) = self.boundary() {
                return Leave::Exit(exit);
            }
            let outcome = if self.cpu.needs_stepping() { self.step() } else { self.block() };
            if let Err(stop) = outcome
                && let Some(leave) = self.stopped(stop)
            {
                return leave;
            }
        }
    }

    /// Ends of the loop that are no plain jump.
    fn stopped(&mut self, stop: Stop) -> Option<Leave> {
        match stop {
            Stop::Jump | Stop::Leave => None,
            Stop::Halt => {
                self.cpu.events.halted = true;
                None
            }
            Stop::Fault => match self.cpu.deliver_exception() {
                Err(Stop::Shutdown) => Some(Leave::Exit(VcpuExit::Shutdown)),
                _ => None,
            },
            Stop::Shutdown => Some(Leave::Exit(VcpuExit::Shutdown)),
            Stop::Unimplemented => Some(Leave::Unimplemented),
        }
    }

    /// Between blocks: limits, timers, interrupts, requests of the machine.
    #[inline(always)]
    fn boundary(&mut self) -> Option<VcpuExit> {
        if *self.countdown > 0
            && self.cpu.signals.load() == 0
            && !self.cpu.events.halted
            && *self.retired < self.end
        {
            self.cpu.events.interrupt_shadow = false;
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
        let signals = cpu.signals.load();
        if signals & Signals::EXIT != 0 {
            return Some(VcpuExit::Kicked);
        }
        if *self.retired >= self.end {
            return Some(VcpuExit::Limit);
        }
        // A shadow covers exactly one instruction; a whole block is as good, since interrupts come between blocks.
        let shadow = std::mem::take(&mut cpu.events.interrupt_shadow);
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
            cpu.events.interrupt_shadow = shadow;
            return Some(VcpuExit::Halt);
        }
        None
    }

    /// Runs blocks until something other than a jump ends one, or the boundary wants attention.
    fn block(&mut self) -> Result<(), Stop> {
        let id = self.find()?;
        let Some(id) = id else { return self.step() };
        let (block, ops) = self.cache.block(id);
        let rip = self.cpu.rip;
        let insns = u64::from(block.insns);
        if insns > self.end - *self.retired {
            return self.step();
        }
        self.cpu.regs[usize::from(slot::BLOCK)] = rip;
        self.cpu.regs[usize::from(slot::BLOCK_PLUS_PAGE)] = rip.wrapping_add(4096);
        for (i, op) in ops.iter().enumerate() {
            if let Err(stop) = (op.run)(self.cpu, op) {
                if stop == Stop::Jump {
                    // A jump before the end is a repeated instruction that was interrupted.
                    let done = if i + 1 == ops.len() { insns } else { i as u64 };
                    *self.retired += done;
                    *self.countdown -= done as i64;
                    return Ok(());
                }
                let done = i as u64 + u64::from(stop != Stop::Fault);
                *self.retired += done;
                *self.countdown -= done as i64;
                return Self::left(self.cpu, rip, op, stop);
            }
        }
        // Every block ends with an operation that leaves it.
        Ok(())
    }

    /// RIP after a block was left at `op` by something else than a jump.
    fn left(cpu: &mut Cpu, rip: u64, op: &Op, stop: Stop) -> Result<(), Stop> {
        let offset = match stop {
            Stop::Fault | Stop::Unimplemented => u64::from(op.off),
            Stop::Jump | Stop::Shutdown => return Err(stop),
            Stop::Leave | Stop::Halt => op.next(),
        };
        cpu.rip = cpu.truncate_ip(rip.wrapping_add(offset));
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
        let bytes = u64::from(self.cache.block(id).0.bytes);
        self.cpu.rip + bytes - 1 <= u64::from(self.cpu.segments[seg::CS].limit)
    }

    #[inline(never)]
    fn find_slow(&mut self, lin: u64, context: u64) -> Result<Option<u32>, Stop> {
        let phys = self.cpu.fetch_address(lin)?;
        let key = self.cpu.mode_key();
        let found = self.cache.find(phys, key).filter(|&id| self.second_page_is_same(id, lin));
        let id = match found {
            Some(id) => id,
            None => match self.decoder.block(self.cpu, lin, phys)? {
                Some(decoded) => self.cache.insert(&decoded, self.decoder.ops()),
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
        match self.cache.block(id).0.second {
            None => true,
            Some(second) => {
                self.cpu.fetch_address((lin | 0xfff).wrapping_add(1)).is_ok_and(|phys| phys == second.phys)
            }
        }
    }

    /// Runs exactly one instruction, with everything that may surround one: code breakpoints, single step, data
    /// breakpoints, CS limit.
    fn step(&mut self) -> Result<(), Stop> {
        let trap = self.cpu.eflags & rflags::TF != 0;
        self.cpu.watch_hits = 0;
        self.cpu.check_code_breakpoints()?;
        let rip = self.cpu.rip;
        self.decoder.single(self.cpu, self.scratch)?;
        self.cpu.regs[usize::from(slot::BLOCK)] = rip;
        self.cpu.regs[usize::from(slot::BLOCK_PLUS_PAGE)] = rip.wrapping_add(4096);
        let Some(op) = self.scratch.first().copied() else { return Err(Stop::Unimplemented) };
        let outcome = (op.run)(self.cpu, &op);
        *self.countdown -= 1;
        match outcome {
            Ok(()) => self.cpu.rip = self.cpu.truncate_ip(rip.wrapping_add(op.next())),
            Err(stop) => {
                let _ = Self::left(self.cpu, rip, &op, stop);
            }
        }
        if matches!(outcome, Err(Stop::Fault | Stop::Unimplemented | Stop::Shutdown)) {
            return outcome;
        }
        *self.retired += 1;
        self.cpu.after_step(trap)?;
        match outcome {
            Err(Stop::Halt) => Err(Stop::Halt),
            _ => Ok(()),
        }
    }
}

impl Cpu {
    /// Instructions have to be run one at a time: TF, breakpoints, or RF that must be cleared after one.
    #[inline(always)]
    pub fn needs_stepping(&self) -> bool {
        self.eflags & (rflags::TF | rflags::RF) != 0 || self.dr[5] & 0xff != 0
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
