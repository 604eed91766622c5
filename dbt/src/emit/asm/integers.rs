//! Moves, arithmetic and comparisons of general registers.

use super::{Asm, Mem, Opcode, op, op32};

impl Asm {
    /// `mov to, from` (64-bit).
    pub fn mov(&mut self, to: u8, from: u8) {
        self.writes(to);
        let rex = 0x48 | (from >> 3) << 2 | to >> 3;
        self.bytes(&[rex, 0x89, 0xc0 | (from & 7) << 3 | to & 7]);
    }

    /// `mov to, from` (32-bit).
    pub fn mov32(&mut self, to: u8, from: u8) {
        self.writes(to);
        let rex = 0x40 | (from >> 3) << 2 | to >> 3;
        if rex != 0x40 {
            self.byte(rex);
        }
        self.bytes(&[0x89, 0xc0 | (from & 7) << 3 | to & 7]);
    }

    /// `mov to, [mem]` (64-bit).
    pub fn load(&mut self, to: u8, mem: Mem) {
        self.writes(to);
        self.memory(&op(&[0x8b]), to, mem, 0);
    }

    /// `mov to, [mem]` (32-bit).
    pub fn load32(&mut self, to: u8, mem: Mem) {
        self.writes(to);
        self.memory(&op32(&[0x8b]), to, mem, 0);
    }

    /// `mov [mem], from` (64-bit).
    pub fn store(&mut self, mem: Mem, from: u8) {
        self.memory(&op(&[0x89]), from, mem, 0);
    }

    /// `mov [mem], from` (32-bit).
    pub fn store32(&mut self, mem: Mem, from: u8) {
        self.memory(&op32(&[0x89]), from, mem, 0);
    }

    /// `mov word [mem], from`.
    pub fn store16(&mut self, mem: Mem, from: u8) {
        self.memory(&Opcode { prefix: Some(0x66), wide: false, bytes: &[0x89] }, from, mem, 0);
    }

    /// `mov qword [mem], value`, sign-extended.
    pub fn store_imm(&mut self, mem: Mem, value: i32) {
        self.memory(&op(&[0xc7]), 0, mem, 4);
        self.bytes(&value.to_le_bytes());
    }

    /// `mov dword [mem], value`.
    pub fn store_imm32(&mut self, mem: Mem, value: u32) {
        self.memory(&op32(&[0xc7]), 0, mem, 4);
        self.bytes(&value.to_le_bytes());
    }

    /// `mov to, value`, sign-extended.
    pub fn imm(&mut self, to: u8, value: i32) {
        if value >= 0 {
            return self.imm32(to, value as u32);
        }
        self.writes(to);
        self.bytes(&[0x48 | to >> 3, 0xc7, 0xc0 | to & 7]);
        self.bytes(&value.to_le_bytes());
    }

    /// `mov to, value` (32-bit).
    pub fn imm32(&mut self, to: u8, value: u32) {
        self.writes(to);
        if to > 7 {
            self.byte(0x41);
        }
        self.byte(0xb8 | to & 7);
        self.bytes(&value.to_le_bytes());
    }

    /// `lea to, [mem]` (64-bit).
    pub fn lea(&mut self, to: u8, mem: Mem) {
        self.writes(to);
        self.memory(&op(&[0x8d]), to, mem, 0);
    }

    /// `lea to, [mem]` (32-bit).
    pub fn lea32(&mut self, to: u8, mem: Mem) {
        self.writes(to);
        self.memory(&op32(&[0x8d]), to, mem, 0);
    }

    /// `add to, [mem]`: clobbers flags.
    pub fn add(&mut self, to: u8, mem: Mem) {
        self.writes(to);
        self.memory(&op(&[0x03]), to, mem, 0);
    }

    /// `sub to, [mem]`: clobbers flags.
    pub fn sub(&mut self, to: u8, mem: Mem) {
        self.writes(to);
        self.memory(&op(&[0x2b]), to, mem, 0);
    }

    /// `dec dword [mem]`.
    pub fn dec32(&mut self, mem: Mem) {
        self.memory(&op32(&[0xff]), 1, mem, 0);
    }

    /// `cmp reg, value`.
    pub fn cmp_imm(&mut self, reg: u8, value: i32) {
        self.bytes(&[0x48 | reg >> 3, 0x81, 0xf8 | reg & 7]);
        self.bytes(&value.to_le_bytes());
    }

    fn registers(&mut self, opcode: u8, reg: u8, rm: u8, wide: bool) {
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | rm >> 3;
        self.bytes(&[rex, opcode, 0xc0 | (reg & 7) << 3 | rm & 7]);
    }

    /// `mov to, from`.
    pub fn mov_size(&mut self, to: u8, from: u8, wide: bool) {
        if wide { self.mov(to, from) } else { self.mov32(to, from) }
    }

    /// `cmp a, [mem]`, 64-bit.
    pub fn cmp(&mut self, a: u8, mem: Mem) {
        self.memory(&op(&[0x3b]), a, mem, 0);
    }

    /// `mov to, from` of the lower 16 bits.
    pub fn mov16(&mut self, to: u8, from: u8) {
        self.writes(to);
        self.byte(0x66);
        self.registers(0x89, from, to, false);
    }

    /// `cmp a, b`.
    pub fn cmp_reg(&mut self, a: u8, b: u8, wide: bool) {
        self.registers(0x3b, a, b, wide);
    }

    /// `rorx to, from, count` (32-bit): keeps flags.
    pub fn rorx32(&mut self, to: u8, from: u8, count: u8) {
        self.writes(to);
        let (r, b) = (!(to >> 3) & 1, !(from >> 3) & 1);
        self.bytes(&[0xc4, r << 7 | 1 << 6 | b << 5 | 3, 0x7b, 0xf0, 0xc0 | (to & 7) << 3 | from & 7, count]);
    }

    /// `neg reg`.
    pub fn neg(&mut self, reg: u8) {
        self.writes(reg);
        self.registers(0xf7, 3, reg, true);
    }

    /// `not reg` (32-bit).
    pub fn not32(&mut self, reg: u8) {
        self.writes(reg);
        self.registers(0xf7, 2, reg, false);
    }

    /// ADD (0), AND (4) or SUB (5) of a sign-extended value.
    pub fn arithmetic_imm(&mut self, operation: u8, reg: u8, value: i32, wide: bool) {
        self.writes(reg);
        self.registers(0x81, operation, reg, wide);
        self.bytes(&value.to_le_bytes());
    }

    /// `sar reg, count`.
    pub fn sar(&mut self, reg: u8, count: u8, wide: bool) {
        self.writes(reg);
        self.registers(0xc1, 7, reg, wide);
        self.byte(count);
    }

    /// `shl reg, count`.
    pub fn shl(&mut self, reg: u8, count: u8) {
        self.writes(reg);
        self.registers(0xc1, 4, reg, true);
        self.byte(count);
    }

    /// `cmp reg, value`.
    pub fn cmp_imm_size(&mut self, reg: u8, value: i8, wide: bool) {
        self.registers(0x83, 7, reg, wide);
        self.byte(value as u8);
    }

    /// `and reg, value` (32-bit).
    pub fn and_imm32(&mut self, reg: u8, value: u32) {
        self.writes(reg);
        self.registers(0x81, 4, reg, false);
        self.bytes(&value.to_le_bytes());
    }

    /// `div reg` or `idiv reg`.
    pub fn divide(&mut self, reg: u8, signed: bool, wide: bool) {
        self.registers(0xf7, if signed { 7 } else { 6 }, reg, wide);
    }

    /// `lea to, [mem]`.
    pub fn lea_size(&mut self, to: u8, mem: Mem, wide: bool) {
        if wide { self.lea(to, mem) } else { self.lea32(to, mem) }
    }

    /// `or to, [mem]`: clobbers flags.
    pub fn or(&mut self, to: u8, mem: Mem) {
        self.writes(to);
        self.memory(&op(&[0x0b]), to, mem, 0);
    }

    /// `and to, [mem]` (32-bit).
    pub fn and32(&mut self, to: u8, mem: Mem) {
        self.writes(to);
        self.memory(&op32(&[0x23]), to, mem, 0);
    }

    /// `movzx to, word [mem]`.
    pub fn load_zx16(&mut self, to: u8, mem: Mem) {
        self.writes(to);
        self.memory(&op32(&[0x0f, 0xb7]), to, mem, 0);
    }

    /// `movzx to, byte [mem]`.
    pub fn load_zx8(&mut self, to: u8, mem: Mem) {
        self.writes(to);
        self.memory(&op32(&[0x0f, 0xb6]), to, mem, 0);
    }

    /// `mov byte [mem], value`.
    pub fn store_imm8(&mut self, mem: Mem, value: u8) {
        self.memory(&op32(&[0xc6]), 0, mem, 1);
        self.byte(value);
    }

    /// `cmp dword [mem], 0`.
    pub fn cmp32_zero(&mut self, mem: Mem) {
        self.memory(&op32(&[0x83]), 7, mem, 1);
        self.byte(0);
    }

    /// `test reg, reg`.
    pub fn test_reg(&mut self, reg: u8, wide: bool) {
        self.registers(0x85, reg, reg, wide);
    }

    /// `test byte [mem], value`.
    pub fn test_mem8(&mut self, mem: Mem, value: u8) {
        self.memory(&op32(&[0xf6]), 0, mem, 1);
        self.byte(value);
    }

    /// An instruction of a register and memory of `size` bytes; `opcode` is that for bytes, which the others' follows.
    pub fn sized(&mut self, opcode: u8, reg: u8, mem: Mem, size: u8) {
        self.writes(reg);
        let prefix = (size == 2).then_some(0x66);
        let bytes = [opcode | u8::from(size > 1)];
        self.memory(&Opcode { prefix, wide: size == 8, bytes: &bytes }, reg, mem, 0);
    }

    /// `test reg (low byte), value`.
    pub fn test8(&mut self, reg: u8, value: u8) {
        self.bytes(&[0x40 | reg >> 3, 0xf6, 0xc0 | reg & 7, value]);
    }

    /// `pext to, from, [mem]` for what is in the context or reached by RIP: keeps flags.
    pub fn pext_mem(&mut self, to: u8, from: u8, mem: Mem) {
        self.writes(to);
        let r = !(to >> 3) & 1;
        if let Mem::Gs(_) = mem {
            self.byte(0x65);
        }
        self.bytes(&[0xc4, r << 7 | 3 << 5 | 2, 0x80 | (!from & 15) << 3 | 2, 0xf5]);
        self.operand(to, mem, 0);
    }

    /// A prefetch of the `0f` group `opcode`, with its number there.
    pub fn prefetch(&mut self, (opcode, number): (u8, u8), mem: Mem) {
        self.memory(&op32(&[0x0f, opcode]), number, mem, 0);
    }
}
