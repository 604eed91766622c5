//! The XSAVE image: KVM's has the host's size, ours that of the components that Guesthouse knows, at the same places.
// UNSAFETY: KVM writes as many bytes as it has announced.
#![allow(unsafe_code)]

use cpu::x86::xcr0;
use cpu::{XSAVE_LEN, XSAVE_SELECTORS};
use kvm_bindings::{Xsave, kvm_xsave};
use kvm_ioctls::{Cap, VcpuFd, VmFd};

use crate::error::{Failure, failed};

/// MXCSR, its value after a reset, and the registers XMM.
const MXCSR: usize = 24;
const MXCSR_INIT: u32 = 0x1f80;
const XMM: usize = 160;
/// XSTATE_BV in the header.
const PRESENT: usize = 512;
const KNOWN: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX;

/// An image of the size that this VM's KVM uses.
pub struct Image {
    buffer: Xsave,
    /// KVM_GET_XSAVE2 exists.
    sized: bool,
}

impl Image {
    /// An image for vCPUs of `vm`.
    pub fn new(vm: &VmFd) -> Result<Self, Failure> {
        let bytes = usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        let words = bytes.saturating_sub(size_of::<kvm_xsave>()).div_ceil(4);
        let buffer =
            Xsave::new(words).map_err(|_| Failure { call: "KVM_GET_XSAVE2", errno: libc::ENOMEM })?;
        Ok(Self { buffer, sized: bytes > 0 })
    }

    fn region(&mut self) -> &mut [u32; 1024] {
        // SAFETY: the length of the array behind the region is not touched.
        unsafe { &mut self.buffer.as_mut_fam_struct().xsave.region }
    }

    /// The components that Guesthouse knows.
    pub fn load(&mut self, fd: &VcpuFd) -> Result<Vec<u8>, Failure> {
        if self.sized {
            // SAFETY: the buffer has the size that KVM_CAP_XSAVE2 told.
            unsafe { fd.get_xsave2(&mut self.buffer) }.map_err(failed("KVM_GET_XSAVE2"))?;
        } else {
            let old = fd.get_xsave().map_err(failed("KVM_GET_XSAVE"))?;
            *self.region() = old.region;
        }
        let mut image: Vec<u8> = self.region().iter().flat_map(|word| word.to_le_bytes()).collect();
        image.truncate(XSAVE_LEN);
        let mut present = [0; 8];
        present.copy_from_slice(&image[PRESENT..PRESENT + 8]);
        let known = u64::from_le_bytes(present) & KNOWN;
        image[PRESENT..PRESENT + 64].fill(0);
        image[PRESENT..PRESENT + 8].copy_from_slice(&known.to_le_bytes());
        image[XSAVE_SELECTORS..PRESENT].fill(0); // KVM has its own use for what the CPU leaves to software
        Ok(image)
    }

    /// Gives KVM an image; components that it does not have are in their initial state.
    pub fn store(&mut self, fd: &VcpuFd, image: &[u8]) -> Result<(), Failure> {
        let words = image.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        let region = self.region();
        region.fill(0);
        for (place, word) in region.iter_mut().zip(words) {
            *place = word;
        }
        region[XSAVE_SELECTORS / 4..PRESENT / 4].fill(0);
        keep_mxcsr(region);
        // SAFETY: KVM reads at most as many bytes as KVM_CAP_XSAVE2 told, which the buffer has.
        unsafe { fd.set_xsave2(&self.buffer) }.map_err(failed("KVM_SET_XSAVE"))
    }
}

/// A CPU that restores the compacted form, as the host's kernel has it, takes MXCSR from there only if the registers XMM are
/// said to be there as well (Intel SDM volume 1, 13.12).
fn keep_mxcsr(region: &mut [u32; 1024]) {
    if region[MXCSR / 4] != MXCSR_INIT && region[PRESENT / 4] & xcr0::SSE as u32 == 0 {
        region[XMM / 4..XSAVE_SELECTORS / 4].fill(0);
        region[PRESENT / 4] |= xcr0::SSE as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_mxcsr_brings_the_registers_with_it() {
        let mut region = [0; 1024];
        region[MXCSR / 4] = MXCSR_INIT;
        region[XMM / 4] = 1;
        keep_mxcsr(&mut region);
        assert_eq!((region[PRESENT / 4], region[XMM / 4]), (0, 1));
        region[MXCSR / 4] = 0x7f80;
        keep_mxcsr(&mut region);
        assert_eq!((region[PRESENT / 4], region[XMM / 4]), (2, 0));
    }
}
