//! The memory format of FXSAVE and XSAVE (Intel SDM volume 1, 10.5.1 and 13.4).

use cpu::x86::xcr0;

use super::state::{FxImage, HostState, MXCSR_INIT, MXCSR_MASK, Pointers};
use super::x87::control_word;

/// Bytes of the legacy area and the header.
pub(super) const LEGACY: usize = 512;
pub(super) const HEADER: usize = 64;
/// The upper halves of the YMM registers follow, in the standard and in the compacted format.
pub(super) const AVX: usize = LEGACY + HEADER;
/// MXCSR and its mask.
pub(super) const MXCSR: std::ops::Range<usize> = 24..32;
/// The XMM registers.
pub(super) const XMM: usize = 160;

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..].first_chunk().copied().unwrap_or([0; N])
}

/// MXCSR of an image.
pub(super) fn mxcsr_of(image: &[u8; LEGACY]) -> u32 {
    u32::from_le_bytes(array(image, MXCSR.start))
}

impl HostState {
    /// Components that are not in their initial state (XINUSE).
    pub(super) fn in_use(&self) -> u64 {
        let image = self.x87();
        let initial = FxImage::default();
        let x87 = (image.fcw, image.fsw, image.ftw) != (initial.fcw, 0, 0)
            || image.st.iter().flatten().any(|b| *b != 0)
            || self.pointers != Pointers::default();
        let sse = self.ymm.iter().any(|r| r.lo != 0);
        let avx = self.ymm.iter().any(|r| r.hi != 0);
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        bit(x87, xcr0::X87) | bit(sse, xcr0::SSE) | bit(avx, xcr0::AVX)
    }

    /// Writes the legacy area: x87, MXCSR and all XMM registers. `wide`: pointers of 64 bits (REX.W).
    pub(super) fn write_legacy(&self, to: &mut [u8], wide: bool) {
        let image = self.x87();
        let p = &self.pointers;
        to[0..2].copy_from_slice(&image.fcw.to_le_bytes());
        to[2..4].copy_from_slice(&image.fsw.to_le_bytes());
        to[4] = image.ftw;
        to[6..8].copy_from_slice(&p.opcode.to_le_bytes());
        let narrow = |offset: u64, selector: u16| (offset & 0xffff_ffff) | u64::from(selector) << 32;
        let (ip, dp) = if wide { (p.ip, p.dp) } else { (narrow(p.ip, p.cs), narrow(p.dp, p.ds)) };
        to[8..16].copy_from_slice(&ip.to_le_bytes());
        to[16..24].copy_from_slice(&dp.to_le_bytes());
        to[24..28].copy_from_slice(&self.mxcsr.to_le_bytes());
        to[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
        for (slot, st) in to[32..XMM].chunks_exact_mut(16).zip(&image.st) {
            slot[..10].copy_from_slice(&st[..10]);
            slot[10..].fill(0);
        }
        for (slot, register) in to[XMM..].chunks_exact_mut(16).zip(&self.ymm) {
            slot.copy_from_slice(&register.lo.to_le_bytes());
        }
    }

    /// Writes the upper halves of the YMM registers.
    pub(super) fn write_avx(&self, to: &mut [u8]) {
        for (slot, register) in to.chunks_exact_mut(16).zip(&self.ymm) {
            slot.copy_from_slice(&register.hi.to_le_bytes());
        }
    }

    /// Loads the x87 part of a legacy area.
    pub(super) fn read_x87(&mut self, from: &[u8; LEGACY], wide: bool) {
        let (ip, dp) = (u64::from_le_bytes(array(from, 8)), u64::from_le_bytes(array(from, 16)));
        let opcode = u16::from_le_bytes(array(from, 6)) & 0x7ff;
        self.pointers = if wide {
            Pointers { opcode, ip, cs: 0, dp, ds: 0 }
        } else {
            let (cs, ds) = ((ip >> 32) as u16, (dp >> 32) as u16);
            Pointers { opcode, ip: ip & 0xffff_ffff, cs, dp: dp & 0xffff_ffff, ds }
        };
        let image = self.x87_mut();
        image.fcw = control_word(u16::from_le_bytes(array(from, 0)));
        image.fsw = u16::from_le_bytes(array(from, 2));
        image.ftw = from[4];
        image.summarise();
        for (st, slot) in image.st.iter_mut().zip(from[32..XMM].chunks_exact(16)) {
            *st = [0; 16];
            st[..10].copy_from_slice(&slot[..10]);
        }
    }

    /// Loads the first `count` XMM registers of a legacy area.
    pub(super) fn read_sse(&mut self, from: &[u8; LEGACY], count: usize) {
        for (register, slot) in self.ymm.iter_mut().zip(from[XMM..].chunks_exact(16)).take(count) {
            register.lo = u128::from_le_bytes(array(slot, 0));
        }
    }

    /// Loads upper halves of YMM registers, as many as are there.
    pub(super) fn read_avx(&mut self, from: &[u8]) {
        for (register, slot) in self.ymm.iter_mut().zip(from.chunks_exact(16)) {
            register.hi = u128::from_le_bytes(array(slot, 0));
        }
    }

    /// Puts components into their initial state; `count` registers of SSE and AVX.
    pub(super) fn init(&mut self, components: u64, count: usize) {
        if components & xcr0::X87 != 0 {
            *self.x87_mut() = FxImage::default();
            self.pointers = Pointers::default();
        }
        for register in self.ymm.iter_mut().take(count) {
            if components & xcr0::SSE != 0 {
                register.lo = 0;
            }
            if components & xcr0::AVX != 0 {
                register.hi = 0;
            }
        }
    }

    /// Components that XSAVEC writes because of MXCSR alone.
    pub(super) fn mxcsr_in_use(&self) -> u64 {
        if self.mxcsr != MXCSR_INIT { xcr0::SSE } else { 0 }
    }
}
