//! Jumps, calls, the return stack, and flags in RAX.

use super::reg::{R9, RCX};
use super::{Asm, Forward, Mem, Place, Short, Target, op32};

impl Asm {
    /// `jmp`, four bytes of reach.
    pub fn jmp(&mut self, target: Target) -> Forward {
        self.byte(0xe9);
        Forward(self.reference(0, target))
    }

    /// `jmp [mem]`.
    pub fn jmp_mem(&mut self, mem: Mem) {
        self.memory(&op32(&[0xff]), 4, mem, 0);
    }

    /// `jmp gs:[index * 8 + disp]`.
    pub fn jmp_table(&mut self, index: u8, disp: u32) {
        self.byte(0x65);
        self.memory(
            &op32(&[0xff]),
            4,
            Mem::At { base: None, index: Some(index), scale: 3, disp: disp as i32 },
            0,
        );
    }

    /// `call gs:[index * 8 + disp]`.
    pub fn call_table(&mut self, index: u8, disp: u32) {
        self.byte(0x65);
        let mem = Mem::At { base: None, index: Some(index), scale: 3, disp: disp as i32 };
        self.memory(&op32(&[0xff]), 2, mem, 0);
    }

    /// Lets a jump lead to a fixed address.
    pub fn aim(&mut self, jump: Forward, address: u64) {
        self.fixups[jump.0].target = Target::Fixed(address);
    }

    /// `call`.
    pub fn call(&mut self, target: Target) -> Forward {
        self.byte(0xe8);
        Forward(self.reference(0, target))
    }

    /// `call` of something that takes the four bytes behind the call.
    pub fn call_with(&mut self, address: u64, argument: u32) {
        let _ = self.call(Target::Fixed(address));
        self.bytes(&argument.to_le_bytes());
    }

    /// `call` of something that looks at a number behind the call, which is an instruction that does nothing but to flags: who
    /// comes back comes to where the host expects it.
    pub fn call_noting(&mut self, address: u64, number: u32) {
        let _ = self.call(Target::Fixed(address));
        self.byte(0xa9); // test eax, imm32
        self.bytes(&number.to_le_bytes());
    }

    /// `jcc`, four bytes of reach.
    pub fn jcc(&mut self, condition: u8, target: Target) -> Forward {
        self.bytes(&[0x0f, 0x80 | condition]);
        Forward(self.reference(0, target))
    }

    /// `jrcxz` to a place that [`bind_short`](Self::bind_short) names.
    pub fn jrcxz(&mut self) -> Short {
        self.bytes(&[0xe3, 0]);
        Short(self.here())
    }

    /// A jump that is taken unless RCX is zero, after which RCX is R9, where it was put aside, on either way. Keeps flags.
    pub fn jump_unless_zero(&mut self, target: Target) -> Forward {
        let zero = self.jrcxz();
        self.mov(RCX, R9);
        let jump = self.jmp(target);
        self.bind_short(zero);
        self.mov(RCX, R9);
        jump
    }

    /// Makes a short jump lead to here.
    pub fn bind_short(&mut self, jump: Short) {
        let here = self.here().offset;
        let distance = here - jump.0.offset;
        debug_assert!(jump.0.section == self.section && distance < 128);
        self.out()[jump.0.offset - 1] = distance as u8;
    }

    /// Makes a jump lead to here.
    pub fn bind(&mut self, jump: Forward) {
        let here = self.here();
        self.fixups[jump.0].target = Target::Here(here);
    }

    /// The place of a jump's four bytes.
    pub fn field(&self, jump: Forward) -> Place {
        self.fixups[jump.0].at
    }

    /// `push reg`.
    pub fn push(&mut self, reg: u8) {
        if reg > 7 {
            self.byte(0x41);
        }
        self.byte(0x50 | reg & 7);
    }

    /// `pop reg`.
    pub fn pop(&mut self, reg: u8) {
        self.writes(reg);
        if reg > 7 {
            self.byte(0x41);
        }
        self.byte(0x58 | reg & 7);
    }

    /// AX gets the flags: SF, ZF, AF, PF, CF in AH, OF in AL.
    pub fn save_flags(&mut self) {
        self.bytes(&[0x9f, 0x0f, 0x90, 0xc0]); // lahf; seto al
    }

    /// The flags as [`save_flags`](Self::save_flags) left them in AX.
    pub fn restore_flags(&mut self) {
        self.bytes(&[0x04, 0x7f, 0x9e]); // add al, 127; sahf
    }
}
