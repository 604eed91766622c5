//! One engine's side of a comparison: its own RAM, a vCPU, and how a block ended there.

use std::cell::Cell;
use std::sync::Arc;

use cpu::x86::{CpuModel, cr4, efer, rflags, seg, seg_attr};
use cpu::{Clock, CpuIo, CpuState, Engine, Irqchip, Segment, Signals, Vcpu, VcpuExit, VmConfig};
use memory::{GuestRam, MemoryError};

use super::code32;
use crate::generate::Block;
use crate::guest::{self, GuestError, HANDLERS, KERNEL_CODE, STACK_TOP, phys};
use crate::layout::{ALIAS, CODE, CODE_LEN, DEVICE, INT3, MEMORY_LEN, PAGE, offset};

/// Instructions of a block at most, where the engine counts them. What takes longer is not compared.
pub(super) const LIMIT: u64 = 6000;
/// Polls of the timers that a block may take on an engine that does not.
const PATIENCE: u32 = 4000;
/// Behind all RAM.
pub(super) const NO_RAM: u64 = 0x4000_0000;

/// See the module.
pub(super) struct World {
    ram: Arc<GuestRam>,
    vcpu: Box<dyn Vcpu>,
    signals: Arc<Signals>,
    /// RAM between two blocks.
    /// The host's CPU may execute code as it is.
    pub native: bool,
    pristine: Vec<u8>,
    /// RAM after the last block.
    pub after: Vec<u8>,
}

/// How a block ended; [`World::after`] is the rest.
pub(super) struct End {
    /// The exit, or what the engine had to say.
    pub exit: String,
    /// It ran into the limit.
    pub endless: bool,
    /// Registers, those of the handler if there was an exception.
    pub state: CpuState,
    /// The exception, by the handler that halted, and its frame.
    pub vector: u64,
    pub frame: Frame,
    /// A digest of everything written to devices.
    pub written: u64,
}

/// Where the frame of every exception is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    /// Bytes of a word.
    word: usize,
}

impl Frame {
    /// Guest-physical place of RFLAGS, behind which are the stack's pointer and segment.
    fn place(self) -> usize {
        (phys::SYSTEM + 4 * PAGE) as usize - 3 * self.word
    }

    fn at(self, memory: &[u8], place: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..self.word].copy_from_slice(&memory[place..place + self.word]);
        u64::from_le_bytes(bytes)
    }

    /// RFLAGS of a frame in `memory`.
    pub fn flags(self, memory: &[u8]) -> u64 {
        self.at(memory, self.place())
    }

    /// RIP.
    pub fn rip(self, memory: &[u8]) -> u64 {
        self.at(memory, self.place() - 2 * self.word)
    }

    /// Takes RFLAGS over from the other memory.
    pub fn set_flags(self, memory: &mut [u8], from: &[u8]) {
        let place = self.place()..self.place() + self.word;
        memory[place.clone()].copy_from_slice(&from[place]);
    }
}

impl World {
    pub fn new(engine: &dyn Engine, model: &CpuModel, code32: bool) -> Result<Self, GuestError> {
        let ram = if engine.shares_ram() { GuestRam::freezable } else { GuestRam::new };
        let ram = Arc::new(ram(phys::SIZE)?);
        guest::tables(&ram)?;
        tables(&ram)?;
        if code32 {
            code32::tables(&ram)?;
        }
        ram.write(phys::CODE, &[INT3; CODE_LEN as usize])?;
        let mut image = [0; MEMORY_LEN];
        crate::layout::fill_pattern(&mut image);
        ram.write(phys::DATA, &image)?;
        let mut pristine = vec![0; phys::SIZE as usize];
        ram.read(0, &mut pristine)?;
        let clock = Arc::new(Clock::new());
        let config = VmConfig {
            ram: ram.clone(),
            clock,
            model: Arc::new(model.clone()),
            vcpus: 1,
            irqchip: Irqchip::Userspace,
        };
        let signals = Arc::new(Signals::new());
        let vm = engine.create_vm(config)?;
        vm.enter_thread();
        let vcpu = vm.create_vcpu(0, signals.clone())?;
        let native = engine.shares_ram();
        Ok(Self { ram, vcpu, signals, native, after: pristine.clone(), pristine })
    }

    /// What the engine has counted.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.vcpu.counters()
    }

    /// Runs a block to its end.
    pub fn run(&mut self, block: &Block) -> Result<End, GuestError> {
        let code = phys::CODE + (block.regs.rip - CODE);
        self.ram.write(code, &block.code)?;
        for patch in &block.patches {
            for (i, byte) in patch.bytes.iter().take(patch.len as usize).enumerate() {
                if let Some(at) = offset(patch.addr.wrapping_add(i as u64)) {
                    self.ram.write(phys::DATA + at as u64, &[*byte])?;
                }
            }
        }
        self.vcpu.set_state(&state(block))?;
        let devices = Devices { signals: self.signals.clone(), polls: Cell::new(0), written: Cell::new(0) };
        let exit = self.vcpu.run_limited(&devices, LIMIT);
        self.signals.clear(u32::MAX);
        let endless = matches!(exit, Ok(VcpuExit::Limit));
        let exit = match exit {
            Ok(exit) => format!("{exit:?}"),
            Err(fault) => fault.to_string(),
        };
        self.ram.read(0, &mut self.after)?;
        let state = self.vcpu.state();
        let long = state.efer & efer::LMA != 0;
        let handlers = if long { HANDLERS } else { code32::HANDLERS };
        let frame = Frame { word: if long { 8 } else { 4 } };
        let vector = state.rip.wrapping_sub(handlers + 1);
        Ok(End { exit, endless, state, vector, frame, written: devices.written.get() })
    }

    /// Brings RAM back to what it was before the block.
    pub fn reset(&mut self) -> Result<(), GuestError> {
        let pages = self.pristine.chunks(PAGE as usize).zip(self.after.chunks(PAGE as usize));
        for (number, (old, _)) in pages.enumerate().filter(|(_, (old, new))| old != new) {
            self.ram.write(number as u64 * PAGE, old)?;
        }
        Ok(())
    }
}

/// What blocks have beside the pages of single instructions: code that can be written, under two addresses, a page
/// that is no RAM, and a stack of their own for exceptions, so that these are delivered whatever RSP is.
fn tables(ram: &GuestRam) -> Result<(), MemoryError> {
    let entry = |table: u64, addr: u64, value: u64| {
        ram.write(table + (addr >> 12 & 0x1ff) * 8, &(value | 0x67).to_le_bytes())
    };
    for page in (0..CODE_LEN).step_by(PAGE as usize) {
        entry(phys::PT_CODE, CODE + page, phys::CODE + page)?;
        entry(phys::PT_CODE, ALIAS + page, phys::CODE + page)?;
    }
    entry(phys::PT_DATA, DEVICE, NO_RAM)?;
    ram.write(phys::SYSTEM + 0x100 + 0x24, &STACK_TOP.to_le_bytes())?;
    for vector in 0..256 {
        ram.write(phys::SYSTEM + PAGE + vector * 16 + 4, &[1])?;
    }
    Ok(())
}

fn state(block: &Block) -> CpuState {
    let mut state = guest::template();
    let regs = &block.regs;
    state.gpr = regs.gpr;
    state.rip = regs.rip;
    state.rflags = regs.rflags;
    for (s, &selector) in state.segments.iter_mut().zip(&regs.selectors) {
        *s = guest::segment(selector);
    }
    for (i, base) in [(seg::FS, regs.fs_base), (seg::GS, regs.gs_base)] {
        state.segments[i].base = base;
    }
    if block.kernel {
        state.cr4 &= !(cr4::SMEP | if block.smap { 0 } else { cr4::SMAP });
        let segment = |selector, attr| Segment { selector, base: 0, limit: u32::MAX, attr };
        state.segments[seg::CS] = segment(KERNEL_CODE, 0xa09b);
        state.segments[seg::SS] = segment(KERNEL_CODE + 8, 0xc093);
    }
    if let Some(code32) = &block.code32 {
        code32::enter(&mut state, code32, block.kernel);
    }
    debug_assert!(state.rflags & rflags::TF == 0 && state.segments[seg::CS].attr & seg_attr::UNUSABLE == 0);
    state.xsave.copy_from_slice(&block.fp);
    state.xsave[512] = 7;
    state
}

/// What is read depends on the address alone.
struct Devices {
    signals: Arc<Signals>,
    polls: Cell<u32>,
    written: Cell<u64>,
}

impl Devices {
    fn stir(&self, address: u64, data: &[u8]) {
        let word = data.iter().fold(address, |word, &byte| word << 8 | u64::from(byte));
        self.written.set((self.written.get() ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
    }
}

impl CpuIo for Devices {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(port as u8);
    }
    fn port_write(&self, port: u16, data: &[u8]) {
        self.stir(port.into(), data);
    }
    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        data.fill((addr >> 3) as u8);
    }
    fn mmio_write(&self, addr: u64, data: &[u8]) {
        self.stir(addr, data);
    }
    fn poll(&self) {
        self.polls.set(self.polls.get() + 1);
        if self.polls.get() >= PATIENCE {
            self.signals.set(Signals::EXIT);
        }
    }
}
