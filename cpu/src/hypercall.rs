//! VMCALL and VMMCALL, as KVM's guests and ours use them; docs/hypercalls.md has our calls.

/// A call of the guest's kernel: registers as they were, their lower halves alone outside 64-bit mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hypercall {
    /// RAX.
    pub number: u64,
    /// RBX, RCX, RDX, RSI.
    pub arguments: [u64; 4],
}

impl Hypercall {
    /// The answer to code that is not the kernel's (CPL above 0): EPERM.
    pub const NOT_PERMITTED: i64 = -1;
    /// The answer to a number that nobody knows: KVM's own ENOSYS.
    pub const UNKNOWN: i64 = -1000;
}
