//! Between the kernel's signal frame and a case.
// UNSAFETY: reads and writes the signal frame and the segment registers.
#![allow(unsafe_code)]

use std::arch::asm;

use cpu::XSAVE_LEN;
use cpu::x86::{rflags, seg};

use crate::input::Regs;

/// `gregs` indices in [`cpu::CpuState::gpr`]'s order.
const GPR: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];
/// FP_XSTATE_MAGIC1 of the kernel's sigcontext.h: the frame holds an XSAVE image.
const MAGIC: u32 = 0x4650_5853;
/// Bits of RFLAGS that sigreturn keeps from the handler instead of the frame.
const KEPT: u64 = rflags::NT | rflags::ID;

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;

/// arch_prctl without the C library, whose error path needs FS.
unsafe fn arch_prctl(what: u64, arg: u64) {
    // SAFETY: the system call clobbers RAX, RCX and R11; memory is written only at `arg` of a GET.
    unsafe {
        asm!("syscall", inlateout("rax") libc::SYS_arch_prctl as u64 => _, in("rdi") what, in("rsi") arg,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
}

/// Base addresses of FS and GS.
pub(super) fn bases() -> [u64; 2] {
    let mut bases = [0u64; 2];
    // SAFETY: each GET writes one of the two words.
    unsafe {
        arch_prctl(ARCH_GET_FS, &raw mut bases[0] as u64);
        arch_prctl(ARCH_GET_GS, &raw mut bases[1] as u64);
    }
    bases
}

/// Loads FS and GS: null selectors with a base, or selectors (which set the base).
pub(super) fn set_fs_gs(bases: [u64; 2], selectors: [u16; 2]) {
    // SAFETY: nothing in the child uses FS or GS until they are restored.
    unsafe {
        arch_prctl(ARCH_SET_FS, bases[0]);
        arch_prctl(ARCH_SET_GS, bases[1]);
        if selectors[0] != 0 {
            asm!("mov fs, {0:x}", in(reg) selectors[0], options(nomem, nostack, preserves_flags));
        }
        if selectors[1] != 0 {
            asm!("mov gs, {0:x}", in(reg) selectors[1], options(nomem, nostack, preserves_flags));
        }
    }
}

/// ES DS FS GS.
fn data_selectors() -> [u16; 4] {
    let (es, ds, fs, gs): (u16, u16, u16, u16);
    // SAFETY: reads selectors only.
    unsafe {
        asm!("mov {0:x}, es", "mov {1:x}, ds", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) es, out(reg) ds, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
    }
    [es, ds, fs, gs]
}

/// Loads DS and ES, which 64-bit code does not use.
pub(super) fn set_ds_es(ds: u16, es: u16) {
    // SAFETY: 64-bit code ignores both.
    unsafe {
        asm!("mov ds, {0:x}", "mov es, {1:x}", in(reg) ds, in(reg) es,
            options(nomem, nostack, preserves_flags));
    }
}

/// A signal frame.
pub(super) struct Frame<'a> {
    context: &'a mut libc::ucontext_t,
}

impl<'a> Frame<'a> {
    pub fn new(context: &'a mut libc::ucontext_t) -> Self {
        Self { context }
    }

    fn greg(&mut self, index: i32) -> &mut i64 {
        &mut self.context.uc_mcontext.gregs[index as usize]
    }

    /// The XSAVE image, if the frame has one.
    pub fn fp(&mut self) -> Option<&mut [u8; XSAVE_LEN]> {
        let pointer = self.context.uc_mcontext.fpregs.cast::<u8>();
        if pointer.is_null() {
            return None;
        }
        // SAFETY: the kernel points `fpregs` at least at a legacy image of 512 bytes; the magic number in its
        // software-reserved bytes says that a header and more follow, and how much.
        unsafe {
            let magic = pointer.add(464).cast::<u32>().read_unaligned();
            let size = pointer.add(480).cast::<u32>().read_unaligned();
            (magic == MAGIC && size as usize >= XSAVE_LEN).then(|| &mut *pointer.cast())
        }
    }

    /// Vector, error code, CR2.
    pub fn cause(&mut self) -> [u64; 3] {
        [libc::REG_TRAPNO, libc::REG_ERR, libc::REG_CR2].map(|i| *self.greg(i) as u64)
    }

    pub fn save(&mut self) -> Regs {
        let mut regs = Regs::default();
        for (to, from) in regs.gpr.iter_mut().zip(GPR) {
            *to = *self.greg(from) as u64;
        }
        regs.rip = *self.greg(libc::REG_RIP) as u64;
        regs.rflags = *self.greg(libc::REG_EFL) as u64;
        [regs.fs_base, regs.gs_base] = bases();
        let packed = *self.greg(libc::REG_CSGSFS) as u64;
        let [es, ds, fs, gs] = data_selectors();
        regs.selectors = [es, packed as u16, (packed >> 48) as u16, ds, fs, gs];
        regs
    }

    /// Puts a state in place. The result is what RFLAGS must have of [`KEPT`] when the handler returns.
    pub fn load(&mut self, regs: &Regs) -> u64 {
        for (from, to) in regs.gpr.iter().zip(GPR) {
            *self.greg(to) = *from as i64;
        }
        *self.greg(libc::REG_RIP) = regs.rip as i64;
        *self.greg(libc::REG_EFL) = regs.rflags as i64;
        let packed = u64::from(regs.selectors[seg::CS]) | (u64::from(regs.selectors[seg::SS]) << 48);
        *self.greg(libc::REG_CSGSFS) = packed as i64;
        set_ds_es(regs.selectors[seg::DS], regs.selectors[seg::ES]);
        set_fs_gs([regs.fs_base, regs.gs_base], [regs.selectors[seg::FS], regs.selectors[seg::GS]]);
        regs.rflags & KEPT
    }
}
