//! The pre-resolved form of a guest instruction and how executing one ends.
// UNSAFETY: an instance of a zero-sized function type is made from nothing.
#![allow(unsafe_code)]

use crate::code::{At, next};
use crate::cpu::Cpu;

/// Executes one operation. It either completes and returns `Ok`, or leaves the architectural state as it was
/// before the instruction and returns [`Stop::Fault`], or ends the block in another way.
pub(crate) type Handler = fn(&mut Cpu, &Op) -> Done;

/// Executes an operation and goes on with what is behind it.
pub(crate) type Threaded = fn(&mut Cpu, At) -> Stop;

/// Makes a threaded operation of a handler.
pub(crate) fn threaded<H: Fn(&mut Cpu, &Op) -> Done + Copy>(_: H) -> Threaded {
    const { assert!(size_of::<H>() == 0, "a function item or a closure that captures nothing") };
    fn run<H: Fn(&mut Cpu, &Op) -> Done + Copy>(cpu: &mut Cpu, op: At) -> Stop {
        // SAFETY: `H` has no bytes, so that a dangling pointer is good enough to read one, and is `Copy`; `threaded`
        // was given an instance, so it is inhabited: one instance is as good as another.
        let handler = unsafe { std::ptr::NonNull::<H>::dangling().read() };
        match handler(cpu, &op) {
            Ok(()) => next(cpu, op),
            Err(stop) => cpu.stopped(&op, stop),
        }
    }
    run::<H>
}

/// Runs a handler that is known by address only.
pub(crate) fn plain(cpu: &mut Cpu, op: At) -> Stop {
    match (op.plain)(cpu, &op) {
        Ok(()) => next(cpu, op),
        Err(stop) => cpu.stopped(&op, stop),
    }
}

/// The outcome of an operation.
pub(crate) type Done = Result<(), Stop>;

/// Why a block is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stop {
    /// Execution goes on at the target of a direct branch, or behind the block; `cpu.rip` is set, nothing but registers
    /// and memory has changed. `cpu.exit` says which operation has the link to there.
    Taken = 0,
    /// The same for an indirect branch.
    Indirect,
    /// The instruction is complete and has set `cpu.rip`; anything may have changed.
    Jump,
    /// A repeated instruction has done some of its work and is to go on; RIP is that of this instruction.
    Again,
    /// All operations given are complete.
    End,
    /// The instruction is complete; the block must be left since its code may have changed.
    Leave,
    /// `cpu.exception` is to be delivered; RIP is that of this instruction.
    Fault,
    /// HLT is complete.
    Halt,
    /// No engine of this project executes the instruction.
    Unimplemented,
    /// Triple fault.
    Shutdown,
}

/// Register slots of [`Cpu::regs`] beyond the sixteen general registers.
pub(crate) mod slot {
    /// Always zero: no base, no index.
    pub(crate) const ZERO: u8 = 16;
    /// RIP of the first instruction of the running block.
    pub(crate) const BLOCK: u8 = 17;
    /// A page beyond [`BLOCK`], for displacements that would overflow an `i32`.
    pub(crate) const BLOCK_PLUS_PAGE: u8 = 18;
    /// Number of slots; a power of two so that masking an index proves it in bounds.
    pub(crate) const COUNT: usize = 32;
}

/// The flat segment slot of [`Cpu::seg_base`]: base zero.
pub(crate) const SEG_FLAT: u8 = 6;

/// Bits of [`Op::flags`].
pub(crate) mod op_flag {
    /// The destination is AH, CH, DH or BH of slot `dst`.
    pub(crate) const HIGH_DST: u8 = 1 << 0;
    /// The source is AH, CH, DH or BH of slot `src`.
    pub(crate) const HIGH_SRC: u8 = 1 << 1;
    /// LOCK prefix (or XCHG with memory).
    pub(crate) const LOCK: u8 = 1 << 2;
    /// REP or REPE.
    pub(crate) const REP: u8 = 1 << 3;
    /// REPNE.
    pub(crate) const REPNE: u8 = 1 << 4;
    /// The operation is two instructions: a comparison and its branch.
    pub(crate) const FUSED: u8 = 1 << 5;
    /// Stack addresses are 32-bit (SS.B) outside 64-bit mode.
    pub(crate) const STACK32: u8 = 1 << 6;
    /// A link lies behind the operation; `aux` has the block's instructions up to here.
    pub(crate) const LINK: u8 = 1 << 7;
}

/// One instruction (or a fused pair), ready to run: 40 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Op {
    /// What to do.
    pub run: Threaded,
    /// The handler, if `run` is [`plain`].
    pub plain: Handler,
    /// Immediate, branch target relative to the block, or index into a side table.
    pub imm: u64,
    /// Displacement of the memory operand.
    pub disp: i32,
    /// Destination register slot.
    pub dst: u8,
    /// Source register slot.
    pub src: u8,
    /// Base register slot of the memory operand.
    pub base: u8,
    /// Index register slot of the memory operand.
    pub index: u8,
    /// log2 of the index scale.
    pub scale: u8,
    /// Segment slot: 0-5, or [`SEG_FLAT`].
    pub seg: u8,
    /// Left and right shift that truncates an effective address: 0, 32 or 48.
    pub addr_shift: u8,
    /// See [`op_flag`].
    pub flags: u8,
    /// Offset of the instruction from the block's first byte.
    pub off: u16,
    /// Instruction length in bytes.
    pub len: u8,
    /// Free for the family: operand size, condition, shift count.
    pub aux: u8,
}

const _: () = assert!(size_of::<Op>() == 40);

impl Op {
    /// Offset of the next instruction from the block's first byte.
    #[inline(always)]
    pub fn next(&self) -> u64 {
        u64::from(self.off) + u64::from(self.len)
    }

    #[inline(always)]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
