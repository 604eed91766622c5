//! What goes into a case and what comes out: plain data, shared with the child process.

use cpu::XSAVE_LEN;

use crate::layout::MEMORY_LEN;

/// Memory values of a case at most.
pub const MAX_PATCHES: usize = 6;

/// The registers user code sees, in [`cpu::CpuState`]'s order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Regs {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    /// ES CS SS DS FS GS.
    pub selectors: [u16; 6],
    pub padding: [u16; 2],
}

/// Bytes of code at most.
pub const CODE_MAX: usize = 96;

/// Bytes put into memory before a case.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Patch {
    /// Linear address; bytes outside data and stack are dropped.
    pub addr: u64,
    /// Bytes used.
    pub len: u64,
    /// The bytes.
    pub bytes: [u8; 64],
}

/// A case: registers, vector state, code and memory values.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Input {
    /// Registers; RIP is where `code` is put.
    pub regs: Regs,
    /// x87, SSE and AVX state as a standard-form XSAVE image.
    pub fp: [u8; XSAVE_LEN],
    /// The instruction or instructions; bytes beyond the code pages are dropped.
    pub code: [u8; CODE_MAX],
    /// Bytes of `code` used.
    pub code_len: u32,
    /// Entries of `patches` used.
    pub patch_count: u32,
    /// Memory values.
    pub patches: [Patch; MAX_PATCHES],
}

/// State at the exception that ended a case: INT3 behind the instruction if that completed.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Outcome {
    /// Exception vector.
    pub vector: u64,
    /// Its error code, 0 without one.
    pub code: u64,
    /// CR2, for page faults.
    pub cr2: u64,
    /// Registers as pushed by the exception.
    pub regs: Regs,
    /// XSAVE image, as the CPU left it; see [`canonical`].
    pub fp: [u8; XSAVE_LEN],
    /// Data, constants and stack.
    pub memory: [u8; MEMORY_LEN],
}

impl Input {
    /// A case with everything zero but the reserved values.
    pub fn zeroed() -> Self {
        Self {
            regs: Regs { rflags: 0x202, ..Regs::default() },
            fp: [0; XSAVE_LEN],
            code: [0; CODE_MAX],
            code_len: 0,
            patch_count: 0,
            patches: [Patch { addr: 0, len: 0, bytes: [0; 64] }; MAX_PATCHES],
        }
    }

    /// The bytes of code.
    pub fn code(&self) -> &[u8] {
        &self.code[..(self.code_len as usize).min(CODE_MAX)]
    }

    /// The patches in use.
    pub fn patches(&self) -> &[Patch] {
        &self.patches[..(self.patch_count as usize).min(MAX_PATCHES)]
    }

    /// True for compatibility mode, false for 64-bit mode.
    pub fn compat(&self) -> bool {
        self.regs.selectors[cpu::x86::seg::CS] == crate::layout::selector::CODE32
    }
}

impl Outcome {
    /// Nothing happened.
    pub fn zeroed() -> Self {
        Self {
            vector: 0,
            code: 0,
            cr2: 0,
            regs: Regs::default(),
            fp: [0; XSAVE_LEN],
            memory: [0; MEMORY_LEN],
        }
    }
}

/// Brings an XSAVE image into the one form that equal states share: components in their initial state are filled
/// in, and what no instruction of a case determines is cleared: the last x87 instruction's address, operand and
/// opcode (AMD saves them only while an exception is pending, Intel always), MXCSR_MASK, reserved bytes, header.
pub fn canonical(fp: &mut [u8; XSAVE_LEN]) {
    let present = fp[512];
    if present & 1 == 0 {
        fp[0..24].fill(0);
        fp[32..160].fill(0);
        fp[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
    }
    if present & 2 == 0 {
        fp[160..416].fill(0);
    }
    if present & 4 == 0 {
        fp[576..].fill(0);
    }
    fp[5..24].fill(0);
    fp[28..32].fill(0);
    for st in 0..8 {
        fp[32 + st * 16 + 10..48 + st * 16].fill(0);
    }
    fp[416..576].fill(0);
}
