//! VMCALL and VMMCALL, as KVM's guests and ours use them, and our port; docs/hypercalls.md has our calls.

/// A call of the guest's kernel: registers as they were, their lower halves alone outside 64-bit mode; or a block in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hypercall {
    /// RAX, or the block's first word.
    pub number: u64,
    /// RBX, RCX, RDX, RSI, or the next two words.
    pub arguments: [u64; 4],
}

impl Hypercall {
    /// Version of the page that describes ours: the second has the port.
    pub const VERSION: u32 = 2;
    /// Where the address of a block is written, 32 bits wide. A PC's coprocessor had 0xf0 to 0xff: kernels keep drivers from
    /// there, nothing else is at 0xf8, and OUT reaches it without DX.
    pub const PORT: u16 = 0xf8;
    /// The answer to code that is not the kernel's (CPL above 0): EPERM.
    pub const NOT_PERMITTED: i64 = -1;
    /// The answer to a number that nobody knows: KVM's own ENOSYS.
    pub const UNKNOWN: i64 = -1000;
}
