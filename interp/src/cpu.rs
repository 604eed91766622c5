//! The state of a vCPU as the interpreter keeps it: what every instruction touches first.
// UNSAFETY: the machine's callbacks are kept as a raw pointer while `run` is on the stack; so is the running code.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use cpu::x86::{CpuModel, Exception, cr0, cr4, efer, rflags, seg, seg_attr};
use cpu::{Clock, CpuIo, DescriptorTable, Msrs, PendingEvents, Segment, Signals};
use memory::{GuestRam, PageRef};

use crate::code::{Base, Exit};
use crate::flags::Flags;
use crate::host::HostState;
use crate::mmu::Tlb;
use crate::op::{Op, Stop, slot};

/// Width of code: what the CS descriptor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CodeSize {
    Bits16,
    Bits32,
    Bits64,
}

/// A virtual CPU.
pub(crate) struct Cpu {
    /// General registers, then the slots of [`slot`].
    pub regs: [u64; slot::COUNT],
    /// Arithmetic flags.
    pub flags: Flags,
    /// Instruction pointer, exact at block boundaries; inside a block RIP is the block's start (slot
    /// `BLOCK`) plus the operation's offset.
    pub rip: u64,
    /// Segment bases, with slot 6 zero. In 64-bit mode only FS and GS count.
    pub seg_base: [u64; 8],
    /// Translation look-aside buffer and the address-space tags in force.
    pub tlb: Box<Tlb>,
    /// RFLAGS but for the arithmetic flags (which are zero here); bit 1 set.
    pub eflags: u64,
    pub code_size: CodeSize,
    /// Current privilege level.
    pub cpl: u8,

    /// Vector and x87 state.
    pub host: Box<HostState>,
    pub segments: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub xcr0: u64,
    /// DR0-DR3, DR6, DR7.
    pub dr: [u64; 6],
    pub msrs: Msrs,
    pub events: PendingEvents,
    /// The guest's paravirtual clock is to be written before it runs.
    pub time_is_stale: bool,
    /// The exception that goes with [`Stop::Fault`].
    pub exception: Exception,
    /// The block that is running.
    pub block: u32,
    /// Instructions left until control goes back to the loop that runs blocks. The last block may go beyond.
    pub budget: i64,
    /// The code of the running block.
    pub base: Base,
    /// Goes with [`Stop::Taken`].
    pub exit: Exit,
    /// Offset and length of the operation that stopped the block.
    pub stop_off: u16,
    pub stop_len: u8,
    /// DR6 bits of data breakpoints hit by the running instruction.
    pub watch_hits: u64,
    /// Times that SYSCALL and exceptions have led from CPL 3 into the kernel.
    pub entries: u64,

    /// APIC id and index.
    pub index: u32,
    pub vcpus: u32,
    /// PAUSE instructions since the host CPU was last given away.
    pub pauses: u32,
    pub ram: Arc<GuestRam>,
    pub clock: Arc<Clock>,
    pub model: Arc<CpuModel>,
    pub signals: Arc<Signals>,
    /// Asked before a page's bytes count as code, by an engine that keeps pages for stores that do not look at marks.
    pub sealer: Option<Arc<Sealer>>,
    io: Option<NonNull<dyn CpuIo>>,
}

/// Makes every vCPU of the machine let go of the page at this host address, as one for stores that do not look.
pub type Sealer = dyn Fn(NonNull<u8>) + Send + Sync;

// SAFETY: `io` is `Some` only while `attach`'s caller runs on one thread, and `base` is set anew before code runs;
// everything else is Send.
unsafe impl Send for Cpu {}

impl Cpu {
    /// A vCPU in the power-on state.
    pub fn new(config: &cpu::VmConfig, index: u32, signals: Arc<Signals>) -> Self {
        let reset = cpu::CpuState::reset();
        let mut this = Self {
            regs: [0; slot::COUNT],
            flags: Flags::default(),
            rip: 0,
            seg_base: [0; 8],
            tlb: Box::default(),
            eflags: rflags::FIXED,
            code_size: CodeSize::Bits16,
            cpl: 0,
            host: Box::default(),
            segments: reset.segments,
            ldtr: reset.ldtr,
            tr: reset.tr,
            gdtr: reset.gdtr,
            idtr: reset.idtr,
            cr0: reset.cr0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            dr: reset.dr,
            msrs: reset.msrs.clone(),
            events: PendingEvents::default(),
            time_is_stale: false,
            exception: Exception::ud(),
            block: 0,
            budget: 0,
            base: Base::NONE,
            exit: Exit::NONE,
            stop_off: 0,
            stop_len: 0,
            watch_hits: 0,
            entries: 0,
            index,
            vcpus: config.vcpus,
            pauses: 0,
            ram: config.ram.clone(),
            clock: config.clock.clone(),
            model: config.model.clone(),
            signals,
            sealer: None,
            io: None,
        };
        this.load_state(&reset);
        this
    }

    /// Makes code of bytes of a page: from here on stores to them are noticed.
    pub fn claim(&self, page: &PageRef, offset: u16, len: u16) {
        let generation = page.info.generation();
        if page.info.mark_code(offset, len) && self.vcpus > 1 {
            self.ram.publish_code();
        }
        if let Some(seal) = &self.sealer
            && !page.info.is_sealed(generation)
        {
            seal(page.host);
            page.info.seal(generation);
        }
    }

    /// Runs `body` with the machine's callbacks reachable through [`io`](Self::io).
    pub fn attached<R>(&mut self, io: &dyn CpuIo, body: impl FnOnce(&mut Self) -> R) -> R {
        struct Detach<'a>(&'a mut Cpu);
        impl Drop for Detach<'_> {
            fn drop(&mut self) {
                self.0.io = None;
            }
        }
        let pointer = NonNull::from(io);
        // SAFETY: only the lifetime is erased; the guard takes the pointer away before `io` can end.
        self.io =
            Some(unsafe { std::mem::transmute::<NonNull<dyn CpuIo + '_>, NonNull<dyn CpuIo>>(pointer) });
        let guard = Detach(self);
        body(&mut *guard.0)
    }

    /// The machine's callbacks. The reference may outlive a borrow of `self` but not the running instruction.
    #[inline]
    pub fn io<'a>(&self) -> &'a dyn CpuIo {
        match self.io {
            // SAFETY: set by `attached`, whose argument is still borrowed while handlers run, and handlers
            // do not store the reference.
            Some(io) => unsafe { io.as_ref() },
            None => &NoIo,
        }
    }

    /// Records an exception to deliver; `Err(cpu.raise(..))` is how a handler faults.
    #[cold]
    pub fn raise(&mut self, exception: Exception) -> Stop {
        self.exception = exception;
        Stop::Fault
    }

    /// Notes where the block stopped.
    #[inline(always)]
    pub fn stopped(&mut self, op: &Op, stop: Stop) -> Stop {
        self.stop_off = op.off;
        self.stop_len = op.len;
        stop
    }

    /// RFLAGS as software sees it.
    pub fn rflags(&self) -> u64 {
        self.eflags | self.flags.bits()
    }

    /// Sets all of RFLAGS; bits that do not exist are dropped.
    pub fn set_rflags(&mut self, value: u64) {
        self.flags = Flags::from_bits(value);
        self.eflags = (value & rflags::ALL & !rflags::STATUS) | rflags::FIXED;
        self.tlb.set_ac(value & rflags::AC != 0);
    }

    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }
    pub fn paging(&self) -> bool {
        self.cr0 & cr0::PG != 0
    }
    pub fn v8086(&self) -> bool {
        self.eflags & rflags::VM != 0
    }
    /// IA-32e mode: 64-bit or compatibility.
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }
    pub fn iopl(&self) -> u8 {
        ((self.eflags & rflags::IOPL) >> rflags::IOPL_SHIFT) as u8
    }
    /// Real mode or v8086: segments are selector times 16.
    pub fn real_segments(&self) -> bool {
        !self.protected() || self.v8086()
    }

    /// Recomputes everything derived from CS, CPL, control registers and RFLAGS. To be called after any
    /// change of those.
    pub fn refresh(&mut self) {
        let cs = &self.segments[seg::CS];
        self.code_size = if self.long_mode() && cs.attr & seg_attr::L != 0 {
            CodeSize::Bits64
        } else if cs.attr & seg_attr::DB != 0 && !self.v8086() {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        };
        let flat = self.code_size == CodeSize::Bits64;
        for (i, s) in self.segments.iter().enumerate() {
            self.seg_base[i] = if flat && i < seg::FS { 0 } else { s.base };
        }
        let smap = self.cr4 & cr4::SMAP != 0;
        self.tlb.set_mode(self.cpl == 3, smap, self.eflags & rflags::AC != 0);
    }

    /// A name for the mode, for reports.
    pub fn mode_name(&self) -> &'static str {
        match (self.protected(), self.v8086(), self.long_mode(), self.code_size) {
            (false, ..) => "real",
            (_, true, ..) => "v8086",
            (_, _, true, CodeSize::Bits64) => "64-bit",
            (_, _, true, _) => "compatibility",
            (_, _, _, CodeSize::Bits32) => "32-bit protected",
            _ => "16-bit protected",
        }
    }
}

/// Outside `run` there is no machine: an open bus.
struct NoIo;

impl CpuIo for NoIo {}
