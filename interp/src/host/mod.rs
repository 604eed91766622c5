//! Vector, x87 and bit-manipulation instructions, executed by the host CPU on the guest's registers.

use crate::decode::Lowering;

/// Vector and x87 state of a vCPU.
#[derive(Default)]
pub(crate) struct HostState {}

impl HostState {
    /// The state as an XSAVE image in the standard form.
    pub fn to_xsave(&self) -> Vec<u8> {
        vec![0; cpu::XSAVE_LEN]
    }
    /// Takes over an XSAVE image.
    pub fn from_xsave(&mut self, _image: &[u8]) {}
}

/// Lowers an instruction for the host CPU; false if the host or the guest's CPU model lacks it.
pub(crate) fn lower(_: &mut Lowering) -> bool {
    false
}
