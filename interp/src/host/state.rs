//! The vector and x87 registers of a vCPU, laid out so that stubs reach them by fixed offsets.

use super::xsave;

/// A YMM register; the low half is the XMM register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(32))]
pub(crate) struct Ymm {
    pub lo: u128,
    pub hi: u128,
}

/// FCW as FNINIT leaves it.
pub(crate) const FCW_INIT: u16 = 0x37f;
/// MXCSR after reset: all exceptions masked, round to nearest. It is also what the host's Rust code runs with.
pub(crate) const MXCSR_INIT: u32 = 0x1f80;
/// Bits of MXCSR that exist.
pub(crate) const MXCSR_MASK: u32 = 0xffff;

/// The x87 and MMX part of an FXSAVE image (Intel SDM volume 1, table 10-2). ST(i) is in stack order; MMX
/// register `n` is physical register `n`. The pointers of the last instruction are not kept here, since a host
/// may save its own: see [`Pointers`].
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct FxImage {
    pub fcw: u16,
    pub fsw: u16,
    /// One bit per physical register that is not empty.
    pub ftw: u8,
    _reserved: u8,
    _fop: u16,
    _fip: u64,
    _fdp: u64,
    _mxcsr: u32,
    _mxcsr_mask: u32,
    pub st: [[u8; 16]; 8],
    _xmm: [u8; 352],
}

const _: () = assert!(size_of::<FxImage>() == 512);

impl Default for FxImage {
    fn default() -> Self {
        Self {
            fcw: FCW_INIT,
            fsw: 0,
            ftw: 0,
            _reserved: 0,
            _fop: 0,
            _fip: 0,
            _fdp: 0,
            _mxcsr: MXCSR_INIT,
            _mxcsr_mask: 0,
            st: [[0; 16]; 8],
            _xmm: [0; 352],
        }
    }
}

impl FxImage {
    /// Physical number of ST(0).
    pub fn top(&self) -> usize {
        usize::from(self.fsw >> 11 & 7)
    }

    /// An unmasked exception waits for the next waiting instruction.
    pub fn pending(&self) -> bool {
        self.fsw & !self.fcw & 0x3f != 0
    }

    /// Recomputes the summary bits ES and B, as a CPU does when it loads or changes FSW or FCW.
    pub fn summarise(&mut self) {
        let summary = if self.pending() { 0x8080 } else { 0 };
        self.fsw = (self.fsw & 0x7f7f) | summary;
    }

    /// What every MMX instruction but EMMS does: the stack top is 0 and no register is empty.
    pub fn enter_mmx(&mut self) {
        let top = self.top();
        self.st.rotate_right(top);
        self.fsw &= !0x3800;
        self.ftw = 0xff;
    }
}

/// Where a saved state has FCS and FDS: in the part of the legacy area that is left to software.
const SELECTORS: usize = cpu::XSAVE_SELECTORS;

/// Where the last x87 instruction that was no control instruction was, and its operand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pointers {
    /// Low 11 bits of the opcode.
    pub opcode: u16,
    pub ip: u64,
    pub cs: u16,
    pub dp: u64,
    pub ds: u16,
}

/// Where stubs find memory operands that cannot be reached directly, and where they leave results for memory.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Scratch(pub [u8; 64]);

/// Vector and x87 state of a vCPU.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct HostState {
    /// Two images: stubs read the current one and write the other, which becomes current when the instruction
    /// has completed.
    pub fx: [FxImage; 2],
    pub ymm: [Ymm; 16],
    pub scratch: Scratch,
    /// RFLAGS into and out of a stub.
    pub flags: u64,
    /// MXCSR for the running stub, and what it left.
    pub mxcsr_in: u32,
    pub mxcsr_out: u32,
    /// What stubs restore.
    pub mxcsr_host: u32,
    pub mxcsr: u32,
    /// Index of the current image.
    pub current: usize,
    pub pointers: Pointers,
    /// The x87 state is in the registers of the host's FPU, and the current image is out of date (`lend`).
    pub lent: bool,
}

impl Default for HostState {
    fn default() -> Self {
        Self {
            fx: [FxImage::default(); 2],
            ymm: [Ymm::default(); 16],
            scratch: Scratch([0; 64]),
            flags: 0,
            mxcsr_in: MXCSR_INIT,
            mxcsr_out: 0,
            mxcsr_host: MXCSR_INIT,
            mxcsr: MXCSR_INIT,
            current: 0,
            pointers: Pointers::default(),
            lent: false,
        }
    }
}

impl HostState {
    /// The current x87 image.
    pub fn x87(&self) -> &FxImage {
        debug_assert!(!self.lent, "whoever looks at the x87 state reclaims it first");
        &self.fx[self.current & 1]
    }

    pub fn x87_mut(&mut self) -> &mut FxImage {
        debug_assert!(!self.lent, "whoever changes the x87 state reclaims it first");
        &mut self.fx[self.current & 1]
    }

    #[inline(always)]
    pub fn reg(&mut self, n: u8) -> &mut Ymm {
        &mut self.ymm[usize::from(n & 15)]
    }

    /// The x87 state that FNINIT gives; data registers stay.
    pub fn init_x87(&mut self) {
        let image = self.x87_mut();
        let top = image.top();
        image.st.rotate_right(top);
        (image.fcw, image.fsw, image.ftw) = (FCW_INIT, 0, 0);
        self.pointers = Pointers::default();
    }

    /// The state as an XSAVE image in the standard form.
    pub fn to_xsave(&self) -> Vec<u8> {
        let mut image = vec![0; cpu::XSAVE_LEN];
        self.write_legacy(&mut image[..512], true);
        // That form has no room for the selectors that go with the x87 pointers of 16- and 32-bit code.
        image[SELECTORS..SELECTORS + 2].copy_from_slice(&self.pointers.cs.to_le_bytes());
        image[SELECTORS + 2..SELECTORS + 4].copy_from_slice(&self.pointers.ds.to_le_bytes());
        let used = self.in_use();
        image[512..520].copy_from_slice(&used.to_le_bytes());
        self.write_avx(&mut image[576..]);
        image
    }

    /// Takes over an XSAVE image of `cpu::XSAVE_LEN` bytes.
    #[allow(clippy::wrong_self_convention)] // the counterpart of `to_xsave`
    pub fn from_xsave(&mut self, image: &[u8]) {
        let Some(image) = image.first_chunk::<{ cpu::XSAVE_LEN }>() else { return };
        *self = Self::default();
        let mut bits = [0; 8];
        bits.copy_from_slice(&image[512..520]);
        let present = u64::from_le_bytes(bits);
        let mut legacy = [0; 512];
        legacy.copy_from_slice(&image[..512]);
        self.mxcsr = xsave::mxcsr_of(&legacy) & MXCSR_MASK;
        if present & cpu::x86::xcr0::X87 != 0 {
            self.read_x87(&legacy, true);
            let selector = |at: usize| u16::from_le_bytes([legacy[at], legacy[at + 1]]);
            (self.pointers.cs, self.pointers.ds) = (selector(SELECTORS), selector(SELECTORS + 2));
        }
        if present & cpu::x86::xcr0::SSE != 0 {
            self.read_sse(&legacy, 16);
        }
        if present & cpu::x86::xcr0::AVX != 0 {
            self.read_avx(&image[576..]);
        }
    }
}
