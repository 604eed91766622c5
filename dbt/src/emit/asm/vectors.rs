//! Vectors and MXCSR.

use super::{Asm, Mem, op32};

impl Asm {
    /// A VEX-encoded 256-bit unaligned move between YMM register and memory.
    pub fn ymm(&mut self, register: u8, mem: Mem, store: bool) {
        self.vex(0x7c, if store { 0x11 } else { 0x10 }, register, mem);
    }

    /// A VEX-encoded 128-bit unaligned load, which clears the upper half.
    pub fn load_vector(&mut self, register: u8, mem: Mem) {
        self.vex(0x78, 0x10, register, mem);
    }

    /// VPOR of memory to XMM0.
    pub fn or_vector(&mut self, mem: Mem) {
        self.vex(0x79, 0xeb, 0, mem);
    }

    /// VPTEST of XMM0 with itself.
    pub fn test_vector(&mut self) {
        self.bytes(&[0xc4, 0xe2, 0x79, 0x17, 0xc0]);
    }

    /// VZEROUPPER.
    pub fn clear_uppers(&mut self) {
        self.bytes(&[0xc5, 0xf8, 0x77]);
    }

    /// With the last byte of the VEX prefix.
    fn vex(&mut self, last: u8, opcode: u8, register: u8, mem: Mem) {
        let base = if let Mem::At { base: Some(base), .. } = mem { base } else { 0 };
        let r = !(register >> 3) & 1;
        let b = !(base >> 3) & 1;
        self.bytes(&[0xc4, r << 7 | 1 << 6 | b << 5 | 1, last, opcode]);
        self.operand(register, mem, 0);
    }

    /// A 128-bit unaligned move between XMM register and memory.
    pub fn xmm(&mut self, register: u8, mem: Mem, store: bool) {
        let opcode: &[u8] = if store { &[0x0f, 0x11] } else { &[0x0f, 0x10] };
        self.memory(&op32(opcode), register, mem, 0);
    }

    /// STMXCSR or LDMXCSR.
    pub fn mxcsr(&mut self, mem: Mem, store: bool) {
        self.memory(&op32(&[0x0f, 0xae]), if store { 3 } else { 2 }, mem, 0);
    }
}
