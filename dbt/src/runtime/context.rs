//! What translated code reaches through the GS base: the guest's registers while it is outside translated code, and
//! what code needs of the engine.

// UNSAFETY: a context is mapped, zeroed, without a copy on the stack.
#![allow(unsafe_code)]

use std::mem::offset_of;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::cache::tlb::{TABLES, Table};

/// Modes that have translations at the same time; each has a jump table and a return stack of its own.
pub const MODES: usize = 8;
/// Entries of a jump table.
pub const JUMPS: usize = 1 << 15;
/// Bits of a target that choose its entry: functions begin at multiples of 16, the cases of a switch anywhere.
pub const JUMP_MASK: u32 = 0xfffe;

/// Beside the argument of an indirect branch of 64-bit code: flags are put aside, and stay there until somebody wants them.
pub const ASIDE: u32 = 1 << 31;

/// Why translated code was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Left {
    /// Go on at the linear address in `r10`.
    Lookup = 0,
    /// A direct branch whose target is not linked: `argument` is the link.
    Link = 1,
    /// `argument` is an instruction to be executed by the interpreter.
    Operation = 2,
    /// An access has missed the tables, or a pair wants to be filled: `argument` is its site, `r9` the pair, `r10` the linear
    /// address.
    Access = 3,
    /// The vCPU has signals: `argument` is the link by which to go on.
    Signalled = 4,
    /// The second page of an instruction is another than it was: `argument` is a link to the instruction itself.
    Stale = 5,
    /// Called: the guest's x87 state is wanted in the host's registers; `argument` is a link to the instruction itself.
    X87 = 6,
    /// An access has missed the tables: `argument` is its site, `r10` the linear address.
    Miss = 7,
    /// The bytes of the stack that follow are not in its window: `argument` is the segment.
    Straddle = 8,
    /// A call has used up the return stack, with signals pending.
    Exhausted = 9,
}

impl Left {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// From what a stub has written.
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Lookup,
            1 => Self::Link,
            2 => Self::Operation,
            3 => Self::Access,
            5 => Self::Stale,
            6 => Self::X87,
            7 => Self::Miss,
            8 => Self::Straddle,
            9 => Self::Exhausted,
            _ => Self::Signalled,
        }
    }
}

/// See the module. Guest registers 9, 10 and 11 live here always. Inside translated code host register 11 is RSP plus
/// [`stack_addend`](Self::stack_addend).
#[repr(C, align(64))]
pub struct Context {
    /// General registers.
    pub regs: [u64; 16],
    /// Host R9 and R10 at the last exit, and for the next entry.
    pub r9: u64,
    pub r10: u64,
    /// RFLAGS but for the arithmetic flags and IF.
    pub system_flags: u64,
    /// IF.
    pub interrupts: u64,
    /// Selectors of the segment registers.
    pub selectors: [u32; 6],
    /// A value that an instruction in several steps comes back to.
    pub called: u64,
    /// What its return address has replaced on the stack.
    pub overwritten: u64,
    /// AX as `lahf; seto al` gives it.
    pub flags: u64,
    /// Bases of FS and GS.
    pub fs_base: u64,
    pub gs_base: u64,
    /// Minus the host address of the stack's window: a page of the guest's that may be loaded from and stored to. Host
    /// addresses there are those of the guest plus `stack_addend`, whose negative is `stack_neg`.
    pub stack_window: u64,
    pub stack_addend: u64,
    pub stack_neg: u64,
    /// The bits of an address that are not the offset in its page; the same and those of an offset in a word.
    pub page_mask: u64,
    pub word_mask: u64,
    /// Flags put aside, as `lahf; seto al` gives them.
    pub parked: u64,
    /// The call that [`Left::Exhausted`] is about.
    pub exhausted: u64,
    /// The signals' word.
    pub signals: *const u32,
    /// The signals that matter now.
    pub attention: u64,
    /// Vector registers.
    pub vectors: *mut u8,
    /// Look-ups until a site is filled.
    pub ticks: u64,
    /// Where to enter translated code.
    pub target: u64,
    /// Stack pointer of the return stack of the mode in force.
    pub returns: u64,
    /// Stack pointer of the engine.
    pub stack: u64,
    /// A [`Left`], and the argument that goes with it; of an indirect branch its operation and [`ASIDE`].
    pub left: u32,
    pub argument: u32,
    pub mxcsr: u32,
    pub host_mxcsr: u32,
    /// First-level TLB.
    pub tables: [Table; TABLES],
    /// Targets of indirect branches, by mode.
    pub jumps: [[u64; JUMPS]; MODES],
    /// The guest's x87 state is not in the host's registers.
    pub x87_away: u32,
    /// Number, from 1, of the last x87 instruction since they were asked for; see `emit::x87`.
    pub x87_note: u32,
    /// The last memory operand since then: number of its segment, from 1, and below its offset.
    pub x87_segment: u32,
    /// A control word on its way.
    pub x87_word: u32,
    pub x87_operand: u64,
    /// PAUSE instructions until one is left to the interpreter.
    pub pauses: u32,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// What the guest's TSC is ahead of the host's.
    pub tsc_offset: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u32,
    /// What SYSCALL and SYSRET load, and when.
    pub gates: Gates,
    /// Number, from 1, of the mode that translated code has come to by itself.
    pub passed: u32,
    /// The last of SYSCALL and SYSRET on the way there.
    pub gate: u32,
    /// Times that SYSCALL has led into the guest's kernel.
    pub entries: u64,
    /// As the guest sees them.
    pub cr2: u64,
    pub cr3: u64,
    /// Stack pointers of the return stacks, but for that of the mode in force.
    pub stacks: [u64; MODES],
    /// What `stack_window` is where there is no window.
    pub no_window: u64,
    /// `word_mask` for a word of 32 bits.
    pub word32_mask: u64,
}

/// SYSCALL and SYSRET as code of ours does them.
#[repr(C)]
pub struct Gates {
    /// Where SYSCALL goes.
    pub target: u64,
    /// CS and SS.
    pub inner: [u32; 2],
    pub outer: [u32; 2],
    /// System flags that SYSCALL keeps, and arithmetic ones, as `lahf; seto al` gives them.
    pub kept: u32,
    pub kept_status: u32,
    /// System flags with any of which SYSCALL is the interpreter's.
    pub refused: u32,
    /// Of these flags SYSRET may find IF set and no other, or is the interpreter's.
    pub outer_flags: u32,
}

/// A context in pages of its own: what is never used of its tables is never there. (An allocator that is asked for zeros so
/// aligned writes them.)
pub struct Mapped(NonNull<Context>);

// SAFETY: owns its context, as a box does.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Empty.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn new() -> Result<Self, Errno> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping, wherever the kernel likes.
        let place = unsafe { mmap_anonymous(ptr::null_mut(), size_of::<Context>(), access, flags)? };
        const { assert!(align_of::<Context>() <= 4096) };
        let mut this = Self(NonNull::new(place.cast()).ok_or(Errno::NOMEM)?);
        this.page_mask = !0xfff;
        this.word_mask = !0xff8;
        this.word32_mask = !0xffc;
        Ok(this)
    }
}

impl Deref for Mapped {
    type Target = Context;

    fn deref(&self) -> &Context {
        // SAFETY: large enough and aligned to a page; integers and null pointers, for all of which zero is valid. Whoever has the
        // mapping has the context.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for Mapped {
    fn deref_mut(&mut self) -> &mut Context {
        // SAFETY: as above.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody has a reference any more. The kernel cannot refuse it.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), size_of::<Context>()) };
    }
}

/// Offsets in [`Context`].
#[allow(missing_docs)]
pub mod field {
    use super::{Context, JUMPS, Table, offset_of};
    pub const fn reg(n: u8) -> u32 {
        offset_of!(Context, regs) as u32 + n as u32 * 8
    }
    pub const R9: u32 = offset_of!(Context, r9) as u32;
    pub const R10: u32 = offset_of!(Context, r10) as u32;
    pub const SYSTEM_FLAGS: u32 = offset_of!(Context, system_flags) as u32;
    pub const INTERRUPTS: u32 = offset_of!(Context, interrupts) as u32;
    pub const SELECTORS: u32 = offset_of!(Context, selectors) as u32;
    pub const CALLED: u32 = offset_of!(Context, called) as u32;
    pub const OVERWRITTEN: u32 = offset_of!(Context, overwritten) as u32;
    pub const FLAGS: u32 = offset_of!(Context, flags) as u32;
    pub const FS_BASE: u32 = offset_of!(Context, fs_base) as u32;
    pub const GS_BASE: u32 = offset_of!(Context, gs_base) as u32;
    pub const STACK_WINDOW: u32 = offset_of!(Context, stack_window) as u32;
    pub const PAGE_MASK: u32 = offset_of!(Context, page_mask) as u32;
    pub const WORD_MASK: u32 = offset_of!(Context, word_mask) as u32;
    pub const WORD32_MASK: u32 = offset_of!(Context, word32_mask) as u32;
    pub const ENTRIES: u32 = offset_of!(Context, entries) as u32;
    pub const KERNEL_GS_BASE: u32 = offset_of!(Context, kernel_gs_base) as u32;
    pub const TSC_OFFSET: u32 = offset_of!(Context, tsc_offset) as u32;
    pub const TSC_AUX: u32 = offset_of!(Context, tsc_aux) as u32;
    pub const GATE_TARGET: u32 = offset_of!(Context, gates.target) as u32;
    pub const GATE_INNER: u32 = offset_of!(Context, gates.inner) as u32;
    pub const GATE_OUTER: u32 = offset_of!(Context, gates.outer) as u32;
    pub const GATE_KEPT: u32 = offset_of!(Context, gates.kept) as u32;
    pub const GATE_KEPT_STATUS: u32 = offset_of!(Context, gates.kept_status) as u32;
    pub const GATE_REFUSED: u32 = offset_of!(Context, gates.refused) as u32;
    pub const GATE_OUTER_FLAGS: u32 = offset_of!(Context, gates.outer_flags) as u32;
    pub const GATE: u32 = offset_of!(Context, gate) as u32;
    pub const CR2: u32 = offset_of!(Context, cr2) as u32;
    pub const CR3: u32 = offset_of!(Context, cr3) as u32;
    pub const PASSED: u32 = offset_of!(Context, passed) as u32;
    pub const fn stack_of(mode: usize) -> u32 {
        (offset_of!(Context, stacks) + mode * 8) as u32
    }
    pub const NO_WINDOW: u32 = offset_of!(Context, no_window) as u32;
    pub const STACK_ADDEND: u32 = offset_of!(Context, stack_addend) as u32;
    pub const STACK_NEG: u32 = offset_of!(Context, stack_neg) as u32;
    pub const PARKED: u32 = offset_of!(Context, parked) as u32;
    pub const SIGNALS: u32 = offset_of!(Context, signals) as u32;
    pub const ATTENTION: u32 = offset_of!(Context, attention) as u32;
    pub const fn table(table: usize) -> u32 {
        (offset_of!(Context, tables) + table * size_of::<Table>()) as u32
    }
    pub const VECTORS: u32 = offset_of!(Context, vectors) as u32;
    pub const TICKS: u32 = offset_of!(Context, ticks) as u32;
    pub const TARGET: u32 = offset_of!(Context, target) as u32;
    pub const RETURNS: u32 = offset_of!(Context, returns) as u32;
    pub const STACK: u32 = offset_of!(Context, stack) as u32;
    pub const LEFT: u32 = offset_of!(Context, left) as u32;
    pub const ARGUMENT: u32 = offset_of!(Context, argument) as u32;
    /// Its last byte, which has nothing but [`ASIDE`](super::ASIDE).
    pub const ARGUMENT_TOP: u32 = ARGUMENT + 3;
    pub const MXCSR: u32 = offset_of!(Context, mxcsr) as u32;
    pub const HOST_MXCSR: u32 = offset_of!(Context, host_mxcsr) as u32;
    pub const X87_AWAY: u32 = offset_of!(Context, x87_away) as u32;
    pub const X87_NOTE: u32 = offset_of!(Context, x87_note) as u32;
    pub const X87_SEGMENT: u32 = offset_of!(Context, x87_segment) as u32;
    pub const X87_WORD: u32 = offset_of!(Context, x87_word) as u32;
    pub const X87_OPERAND: u32 = offset_of!(Context, x87_operand) as u32;
    pub const PAUSES: u32 = offset_of!(Context, pauses) as u32;
    pub const fn jumps(mode: usize) -> u32 {
        (offset_of!(Context, jumps) + mode * JUMPS * 8) as u32
    }
}

/// RFLAGS bits of what `lahf; seto al` gave.
pub fn to_rflags(ax: u64) -> u64 {
    (ax >> 8 & 0xd5) | (ax & 1) << 11
}

/// The reverse.
pub fn from_rflags(flags: u64) -> u64 {
    (flags & 0xd5) << 8 | flags >> 11 & 1
}
