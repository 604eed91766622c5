//! The guest's x87 state in the registers of the host's own FPU, where an engine that runs x87 instructions natively
//! wants it. It stays there while other code of this program runs, which has no use for those registers, until the
//! interpreter has to look at it.
// UNSAFETY: loads and saves the host's x87 state.
#![allow(unsafe_code)]

use std::arch::asm;

use super::state::HostState;

/// The exceptions of FCW and FSW.
const EXCEPTIONS: u16 = 0x3f;

impl HostState {
    /// No x87 instruction can raise an exception: all are masked, and none is pending therefore. Nothing that runs
    /// while the state is lent changes that, so the image may be out of date.
    pub fn x87_is_quiet(&self) -> bool {
        self.fx[self.current & 1].fcw & EXCEPTIONS == EXCEPTIONS
    }

    /// Puts the state, which has to be quiet, into this thread's FPU.
    pub fn lend_x87(&mut self) {
        if self.lent {
            return;
        }
        let image = &raw const *self.x87();
        // SAFETY: the image is aligned and was written by FXSAVE or holds defined values; its MXCSR is the one that
        // code of this program runs with, and the vector registers are declared. Code compiled for x86-64 uses no x87
        // registers, so that nobody finds them changed; with all exceptions masked none can be raised either.
        unsafe {
            asm!("fxrstor64 [{}]", in(reg) image,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack, readonly, preserves_flags));
        }
        self.lent = true;
    }

    /// Takes the state back, if it is lent, and leaves the FPU as threads find it.
    #[inline(always)]
    pub fn reclaim_x87(&mut self) {
        if self.lent {
            self.save_lent();
        }
    }

    #[cold]
    fn save_lent(&mut self) {
        self.lent = false;
        let image = &raw mut *self.x87_mut();
        // SAFETY: the image is aligned and has the size of what is saved; an empty FPU in its initial state is what the
        // ABI expects.
        unsafe { asm!("fxsave64 [{}]", "fninit", in(reg) image, options(nostack, preserves_flags)) };
    }
}
