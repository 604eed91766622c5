//! The engine's side: a guest in long mode, whose ring 3 sees what the child process sees.

use std::cell::Cell;
use std::sync::Arc;

use cpu::x86::{CpuModel, cr0, cr4, efer, seg, seg_attr};
use cpu::{
    Clock, CpuIo, CpuState, DescriptorTable, Engine, EngineError, Irqchip, Segment, Signals, Vcpu, VcpuExit,
    VmConfig,
};
use memory::{GuestRam, MemoryError};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use crate::input::{CODE_MAX, Input, Outcome};
use crate::layout::{CODE, CODE_LEN, DATA, INT3, MEMORY_LEN, PAGE, READ_ONLY, STACK, offset, selector};

/// Guest-physical layout: tables, then code and data as in the child's file.
pub(crate) mod phys {
    pub const PML4: u64 = 0x1000;
    pub const PDPT_LOW: u64 = 0x2000;
    pub const PD_LOW: u64 = 0x3000;
    pub const PT_CODE: u64 = 0x4000;
    pub const PT_DATA: u64 = 0x5000;
    pub const PDPT_HIGH: u64 = 0x6000;
    pub const PD_HIGH: u64 = 0x7000;
    pub const PT_HIGH: u64 = 0x8000;
    /// Four supervisor pages: GDT and TSS, IDT, handlers, stack.
    pub const SYSTEM: u64 = 0x9000;
    pub const CODE: u64 = 0x1_0000;
    pub const DATA: u64 = CODE + super::CODE_LEN;
    /// Bytes of all.
    pub const SIZE: u64 = 0x2_0000;
}

/// Linear address of the supervisor pages.
pub(crate) const SYSTEM: u64 = 0xffff_8000_0000_0000;
const GDT: u64 = SYSTEM;
pub(crate) const TSS: u64 = SYSTEM + 0x100;
const IDT: u64 = SYSTEM + PAGE;
/// One HLT per vector.
pub(crate) const HANDLERS: u64 = SYSTEM + 2 * PAGE;
pub(crate) const STACK_TOP: u64 = SYSTEM + 4 * PAGE;
pub(crate) const KERNEL_CODE: u16 = 0x10;
const TSS_SELECTOR: u16 = 0x40;
/// Instructions a case may take, many more than it needs: engines look at each one when a limit is near.
const LIMIT: u64 = 4096;
/// Polls of the timers that a case may take on an engine that counts no instructions: far more than any needs.
const PATIENCE: u32 = 4000;

/// The engine could not be set up.
#[derive(Debug, Error)]
pub enum GuestError {
    /// Guest RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Guest RAM is smaller than it was made.
    #[error("guest memory cannot be accessed: {0}")]
    Access(#[from] vm_memory::GuestMemoryError),
}

/// A case did not end with an exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The engine gave up.
    Fault(String),
    /// The engine left for another reason than HLT in a handler.
    Exit(String),
}

/// A vCPU with the memory of a case.
pub struct Guest {
    ram: Arc<GuestRam>,
    vcpu: Box<dyn Vcpu>,
    signals: Arc<Signals>,
    template: CpuState,
    pattern: Box<[u8; MEMORY_LEN]>,
    image: Box<[u8; MEMORY_LEN]>,
}

impl Guest {
    /// Sets an engine up with a CPU model.
    pub fn new(engine: &dyn Engine, model: CpuModel) -> Result<Self, GuestError> {
        let ram = if engine.shares_ram() { GuestRam::freezable } else { GuestRam::new };
        let ram = Arc::new(ram(phys::SIZE)?);
        tables(&ram)?;
        ram.write(phys::CODE, &[INT3; CODE_LEN as usize])?;
        let clock = Arc::new(Clock::new());
        let config = VmConfig {
            ram: ram.clone(),
            clock,
            model: Arc::new(model),
            vcpus: 1,
            irqchip: Irqchip::Userspace,
        };
        let signals = Arc::new(Signals::new());
        let vm = engine.create_vm(config)?;
        vm.enter_thread();
        let vcpu = vm.create_vcpu(0, signals.clone())?;
        let mut pattern = Box::new([0; MEMORY_LEN]);
        crate::layout::fill_pattern(&mut pattern);
        Ok(Self { ram, vcpu, signals, template: template(), image: pattern.clone(), pattern })
    }

    /// What the engine has counted.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.vcpu.counters()
    }

    /// Runs a case; `stepping` has the engine stop after every instruction.
    pub fn run(
        &mut self,
        input: &Input,
        stepping: bool,
        outcome: &mut Outcome,
    ) -> Result<Result<(), Trouble>, GuestError> {
        self.load(input)?;
        self.vcpu.set_state(&self.state(input))?;
        let ended = self.until_handler(stepping);
        self.erase_code(input)?;
        if let Err(trouble) = ended {
            return Ok(Err(trouble));
        }
        let state = self.vcpu.state();
        let mut memory = GuestAddress(phys::DATA);
        let map = self.ram.mmap();
        map.read_slice(&mut outcome.memory, memory)?;
        outcome.vector = state.rip.wrapping_sub(HANDLERS + 1);
        // The frame: error code for some vectors, RIP, CS, RFLAGS, RSP, SS.
        let with_code = matches!(outcome.vector, 8 | 10..=14 | 17 | 21);
        let words = 5 + u64::from(with_code);
        memory = GuestAddress(phys::SYSTEM + 4 * PAGE - words * 8);
        let mut frame = [0u8; 48];
        map.read_slice(&mut frame[..words as usize * 8], memory)?;
        let word = |i: u64| {
            let at = (i as usize) * 8;
            frame.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        let first = u64::from(with_code);
        outcome.code = if with_code { word(0) } else { 0 };
        outcome.cr2 = state.cr2;
        let regs = &mut outcome.regs;
        regs.gpr = state.gpr;
        regs.rip = word(first);
        regs.rflags = word(first + 2);
        regs.gpr[cpu::x86::gpr::RSP] = word(first + 3);
        regs.selectors = state.segments.map(|s| s.selector);
        regs.selectors[seg::CS] = word(first + 1) as u16;
        regs.selectors[seg::SS] = word(first + 4) as u16;
        regs.fs_base = state.segments[seg::FS].base;
        regs.gs_base = state.segments[seg::GS].base;
        let len = outcome.fp.len().min(state.xsave.len());
        outcome.fp[..len].copy_from_slice(&state.xsave[..len]);
        Ok(Ok(()))
    }

    fn until_handler(&mut self, stepping: bool) -> Result<(), Trouble> {
        let (limit, runs) = if stepping { (1, 64) } else { (LIMIT, 1) };
        let devices = NoDevices { signals: self.signals.clone(), polls: Cell::new(0) };
        for _ in 0..runs {
            match self.vcpu.run_limited(&devices, limit) {
                Ok(VcpuExit::Halt) => return Ok(()),
                Ok(VcpuExit::Limit) => {}
                Ok(exit) => {
                    self.signals.clear(Signals::EXIT);
                    return Err(Trouble::Exit(format!("{exit:?}")));
                }
                Err(fault) => return Err(Trouble::Fault(fault.to_string())),
            }
        }
        Err(Trouble::Exit(format!("no exception in {} instructions", limit * runs)))
    }

    fn load(&mut self, input: &Input) -> Result<(), GuestError> {
        let patched = |addr: u64, i: usize| offset(addr.wrapping_add(i as u64));
        for patch in input.patches() {
            for (i, byte) in patch.bytes.iter().take(patch.len as usize).enumerate() {
                if let Some(at) = patched(patch.addr, i) {
                    self.image[at] = *byte;
                }
            }
        }
        self.ram.mmap().write_slice(&self.image[..], GuestAddress(phys::DATA))?;
        for patch in input.patches() {
            for at in (0..patch.len as usize).filter_map(|i| patched(patch.addr, i)) {
                self.image[at] = self.pattern[at];
            }
        }
        self.write_code(input.regs.rip, input.code())
    }

    fn erase_code(&mut self, input: &Input) -> Result<(), GuestError> {
        self.write_code(input.regs.rip, &[INT3; CODE_MAX][..input.code().len()])
    }

    /// Through [`GuestRam::write`], which tells the engine that code has changed.
    fn write_code(&mut self, rip: u64, bytes: &[u8]) -> Result<(), GuestError> {
        let room = (CODE + CODE_LEN).saturating_sub(rip).min(bytes.len() as u64) as usize;
        Ok(self.ram.write(phys::CODE + rip.wrapping_sub(CODE), &bytes[..room])?)
    }

    fn state(&self, input: &Input) -> CpuState {
        let mut state = self.template.clone();
        let regs = &input.regs;
        state.gpr = regs.gpr;
        state.rip = regs.rip;
        state.rflags = regs.rflags;
        for (i, s) in state.segments.iter_mut().enumerate() {
            *s = segment(regs.selectors[i]);
        }
        for (i, base) in [(seg::FS, regs.fs_base), (seg::GS, regs.gs_base)] {
            state.segments[i].base = base;
        }
        state.xsave.copy_from_slice(&input.fp);
        state.xsave[512] = 7;
        state
    }
}

/// The hidden part of a user selector.
pub(crate) fn segment(selector: u16) -> Segment {
    let flat = |attr| Segment { selector, base: 0, limit: u32::MAX, attr };
    match selector {
        selector::CODE32 => flat(0xc0fb),
        selector::DATA => flat(0xc0f3),
        selector::CODE64 => flat(0xa0fb),
        _ => Segment { selector, base: 0, limit: 0, attr: seg_attr::UNUSABLE },
    }
}

/// Registers of the system; user code runs.
pub(crate) fn template() -> CpuState {
    let mut state = CpuState::reset();
    state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
    state.cr3 = phys::PML4;
    state.cr4 = cr4::PAE
        | cr4::PGE
        | cr4::OSFXSR
        | cr4::OSXMMEXCPT
        | cr4::OSXSAVE
        | cr4::FSGSBASE
        | cr4::SMEP
        | cr4::SMAP
        | cr4::UMIP;
    state.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    state.xcr0 = 7;
    state.gdtr = DescriptorTable { base: GDT, limit: 0x7f };
    state.idtr = DescriptorTable { base: IDT, limit: 0xfff };
    state.tr = Segment { selector: TSS_SELECTOR, base: TSS, limit: 0x67, attr: 0x8b };
    state.ldtr = Segment { selector: 0, base: 0, limit: 0, attr: seg_attr::UNUSABLE };
    state
}

/// Page tables, descriptors, and a HLT per exception.
pub(crate) fn tables(ram: &GuestRam) -> Result<(), MemoryError> {
    const TABLE: u64 = 0x67; // present, writable, user, accessed, dirty
    const NX: u64 = 1 << 63;
    let entry = |table: u64, index: u64, value: u64| ram.write(table + index * 8, &value.to_le_bytes());
    entry(phys::PML4, 0, phys::PDPT_LOW | TABLE)?;
    entry(phys::PML4, 256, phys::PDPT_HIGH | TABLE)?;
    entry(phys::PDPT_LOW, 0, phys::PD_LOW | TABLE)?;
    entry(phys::PD_LOW, CODE >> 21, phys::PT_CODE | TABLE)?;
    entry(phys::PD_LOW, DATA >> 21, phys::PT_DATA | TABLE)?;
    let index = |addr: u64| addr >> 12 & 0x1ff;
    for page in 0..CODE_LEN / PAGE {
        entry(phys::PT_CODE, index(CODE) + page, (phys::CODE + page * PAGE) | 0x65)?;
    }
    for (page, (addr, flags)) in
        [(DATA, 0x67), (DATA + PAGE, 0x67), (READ_ONLY, 0x65), (STACK, 0x67)].into_iter().enumerate()
    {
        entry(phys::PT_DATA, index(addr), (phys::DATA + page as u64 * PAGE) | flags | NX)?;
    }
    entry(phys::PDPT_HIGH, 0, phys::PD_HIGH | TABLE)?;
    entry(phys::PD_HIGH, 0, phys::PT_HIGH | TABLE)?;
    for page in 0..4 {
        entry(phys::PT_HIGH, page, (phys::SYSTEM + page * PAGE) | 0x163)?; // global, supervisor
    }
    // As Linux has it where user code can tell: 0x10 kernel code, 0x18 kernel data, 0x20 user code32, 0x28 user data, 0x30 user code64, 0x40 TSS,
    // 0x78 a read-only segment.
    let at = phys::SYSTEM;
    let tss = 0x0000_8b00_0000_0067 | (TSS & 0xff_ffff) << 16 | (TSS >> 24 & 0xff) << 56;
    let mut gdt = [0; 16];
    gdt[2] = 0x00af_9b00_0000_ffff;
    gdt[3] = 0x00cf_9300_0000_ffff;
    gdt[4] = 0x00cf_fb00_0000_ffff;
    gdt[5] = 0x00cf_f300_0000_ffff;
    gdt[6] = 0x00af_fb00_0000_ffff;
    gdt[8] = tss;
    gdt[9] = TSS >> 32;
    gdt[15] = 0x0040_f500_0000_0000; // the CPU's number in a limit
    for (i, value) in gdt.into_iter().enumerate() {
        entry(at, i as u64, value)?;
    }
    // RSP0, and an I/O bitmap beyond the limit: no port is allowed.
    ram.write(at + 0x100 + 4, &STACK_TOP.to_le_bytes())?;
    ram.write(at + 0x100 + 0x66, &0x68u16.to_le_bytes())?;
    for vector in 0..256u64 {
        let handler = HANDLERS + vector;
        // Interrupt gates; INT3, INTO and BOUND's may be called from ring 3, as under Linux.
        let dpl = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let low = (handler & 0xffff)
            | u64::from(KERNEL_CODE) << 16
            | (0x8e | dpl << 5) << 40
            | (handler >> 16 & 0xffff) << 48;
        entry(at + PAGE, vector * 2, low)?;
        entry(at + PAGE, vector * 2 + 1, handler >> 32)?;
    }
    ram.write(at + 2 * PAGE, &[0xf4; 256])
}

/// Nothing is on the bus; user code does not reach it. A case that does not end is ended.
struct NoDevices {
    signals: Arc<Signals>,
    polls: Cell<u32>,
}

impl CpuIo for NoDevices {
    fn poll(&self) {
        self.polls.set(self.polls.get() + 1);
        if self.polls.get() >= PATIENCE {
            self.signals.set(Signals::EXIT);
        }
    }
}
