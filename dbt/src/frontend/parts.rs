//! A guest instruction taken apart, so that it can be put together again with other registers and another address.
//! Intel SDM volume 2, chapter 2.

use iced_x86::{Instruction, OpCodeOperandKind as Kind, OpKind, Register};

use super::code32;
use crate::emit::asm::{Asm, Mem};

/// Which fields of an instruction name general registers that can be replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fields {
    /// ModRM.reg.
    pub reg: Option<u8>,
    /// ModRM.rm, if it is a register.
    pub rm: Option<u8>,
    /// Low bits of the opcode.
    pub opcode: Option<u8>,
    /// VEX.vvvv.
    pub vvvv: Option<u8>,
}

impl Fields {
    /// Registers named, with repetitions.
    pub fn registers(&self) -> impl Iterator<Item = u8> {
        [self.reg, self.rm, self.opcode, self.vvvv].into_iter().flatten()
    }

    fn map(self, f: impl Fn(u8) -> u8) -> Self {
        let Self { reg, rm, opcode, vvvv } = self;
        Self { reg: reg.map(&f), rm: rm.map(&f), opcode: opcode.map(&f), vvvv: vvvv.map(&f) }
    }
}

/// An instruction's bytes by their meaning.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Legacy prefixes but for segment and address size.
    prefixes: [u8; 4],
    prefix_count: usize,
    rex: u8,
    has_rex: bool,
    /// Second and third byte of the three-byte form, if VEX-encoded.
    vex: Option<[u8; 2]>,
    opcode: [u8; 3],
    opcode_len: usize,
    modrm: Option<u8>,
    immediate: &'a [u8],
    /// Fields that name general registers.
    pub fields: Fields,
    /// An operand is AH, CH, DH or BH.
    pub high_byte: bool,
}

/// A prefix of 64-bit code.
fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

fn has_modrm(map: u8, opcode: u8) -> bool {
    match map {
        0 => match opcode {
            0x00..=0x3f => opcode & 7 < 4,
            0x63 | 0x69 | 0x6b | 0x80..=0x8f | 0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 | 0xd8..=0xdf => true,
            0xf6 | 0xf7 | 0xfe | 0xff => true,
            _ => false,
        },
        1 => !matches!(opcode, 0x05..=0x09 | 0x0b | 0x0e | 0x30..=0x37 | 0x77 | 0x80..=0x8f | 0xa0..=0xa2
            | 0xa8..=0xaa | 0xc8..=0xcf),
        _ => true,
    }
}

impl<'a> Parts<'a> {
    /// Takes apart the `bytes` of `insn`. `None` for what this cannot do.
    pub fn new(bytes: &'a [u8], insn: &Instruction) -> Option<Self> {
        let mut parts = Self {
            prefixes: [0; 4],
            prefix_count: 0,
            rex: 0,
            has_rex: false,
            vex: None,
            opcode: [0; 3],
            opcode_len: 0,
            modrm: None,
            immediate: &[],
            fields: Fields::default(),
            high_byte: false,
        };
        let mut rest = bytes.get(..insn.len())?;
        let code32 = code32::is(insn);
        loop {
            match *rest.first()? {
                0x66 | 0xf0 | 0xf2 | 0xf3 => {
                    *parts.prefixes.get_mut(parts.prefix_count)? = rest[0];
                    parts.prefix_count += 1;
                }
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 => {}
                // A REX prefix that is not the last one is void, and so would be anything taken for its opcode.
                0x40..=0x4f if !code32 && rest.get(1).is_some_and(|&next| is_prefix(next)) => {}
                _ => break,
            }
            rest = &rest[1..];
        }
        let map = parts.opcode(&mut rest, !code32)?;
        let last = parts.opcode[parts.opcode_len - 1];
        if has_modrm(map, last) {
            let modrm = *rest.first()?;
            parts.modrm = Some(modrm);
            rest = &rest[1..];
            if modrm >> 6 != 3 {
                let sib = modrm & 7 == 4;
                let base = if sib { rest.first()? & 7 } else { modrm & 7 };
                let displacement = match modrm >> 6 {
                    0 if base == 5 => 4,
                    0 => 0,
                    1 => 1,
                    _ => 4,
                };
                rest = rest.get(usize::from(sib) + displacement..)?;
            }
        }
        parts.immediate = rest;
        parts.find_fields(insn)?;
        if code32 {
            parts.widen(insn, map)?;
        }
        Some(parts)
    }

    /// An instruction of 32-bit code becomes one of 64-bit code that does the same.
    fn widen(&mut self, insn: &Instruction, map: u8) -> Option<()> {
        if let Some([second, third]) = &mut self.vex {
            // Bits that name registers beyond the eighth, or the size of a general one, may be anything there.
            let code = insn.op_code();
            if code.op_kinds().iter().any(|kind| matches!(kind, Kind::xmm_is4 | Kind::ymm_is4)) {
                return None;
            }
            *second |= 0xe0;
            *third |= 0x40;
            if code.is_wig32() {
                *third &= 0x7f;
            }
            return Some(());
        }
        let opcode = self.opcode[0];
        match opcode {
            _ if map != 0 => {}
            // INC and DEC of registers.
            0x40..=0x4f => {
                self.opcode[0] = 0xff;
                self.modrm = Some(0xc0 | opcode & 8);
                self.fields.rm = self.fields.opcode.take();
            }
            // The second encoding of operations of bytes and immediates.
            0x82 => self.opcode[0] = 0x80,
            // MOV between the accumulator and an address.
            0xa0..=0xa3 => {
                self.opcode[0] = [0x8a, 0x8b, 0x88, 0x89][usize::from(opcode & 3)];
                self.modrm = Some(5);
                self.immediate = &[];
            }
            _ => {}
        }
        Some(())
    }

    /// REX, if there may be one, or VEX, and the opcode: gives the opcode map.
    fn opcode(&mut self, rest: &mut &'a [u8], rex: bool) -> Option<u8> {
        let mut take = || {
            let (first, others) = rest.split_first()?;
            *rest = others;
            Some(*first)
        };
        let mut byte = take()?;
        if rex && byte & 0xf0 == 0x40 {
            (self.rex, self.has_rex) = (byte & 15, true);
            byte = take()?;
        }
        if byte == 0xc5 || byte == 0xc4 {
            let vex = if byte == 0xc5 {
                let second = take()?;
                [second & 0x80 | 0x61, second & 0x7f]
            } else {
                [take()?, take()?]
            };
            self.vex = Some(vex);
            self.opcode[0] = take()?;
            self.opcode_len = 1;
            return Some(vex[0] & 0x1f);
        }
        if byte == 0x62 {
            return None; // EVEX
        }
        let mut map = 0;
        let mut len = 0;
        if byte == 0x0f {
            self.opcode[0] = byte;
            len = 1;
            map = 1;
            byte = take()?;
            if byte == 0x38 || byte == 0x3a {
                self.opcode[1] = byte;
                len = 2;
                map = if byte == 0x38 { 2 } else { 3 };
                byte = take()?;
            }
        }
        self.opcode[len] = byte;
        self.opcode_len = len + 1;
        Some(map)
    }

    fn find_fields(&mut self, insn: &Instruction) -> Option<()> {
        let code = insn.op_code();
        for i in 0..insn.op_count() {
            if insn.op_kind(i) != OpKind::Register {
                continue;
            }
            let register = insn.op_register(i);
            if matches!(register, Register::AH | Register::BH | Register::CH | Register::DH) {
                self.high_byte = true;
                continue;
            }
            if !register.is_gpr() {
                continue;
            }
            let number = register.full_register().number() as u8;
            use Kind as K;
            match code.try_op_kind(i).ok()? {
                K::r8_reg
                | K::r16_reg
                | K::r16_reg_mem
                | K::r32_reg
                | K::r32_reg_mem
                | K::r64_reg
                | K::r64_reg_mem => {
                    self.fields.reg = Some(number);
                }
                K::r8_or_mem
                | K::r16_or_mem
                | K::r32_or_mem
                | K::r64_or_mem
                | K::r16_rm
                | K::r32_rm
                | K::r64_rm => {
                    self.fields.rm = Some(number);
                }
                K::r8_opcode | K::r16_opcode | K::r32_opcode | K::r64_opcode => {
                    self.fields.opcode = Some(number);
                }
                K::r32_vvvv | K::r64_vvvv => self.fields.vvvv = Some(number),
                K::al | K::cl | K::ax | K::eax | K::rax | K::dx => {}
                _ => return None,
            }
        }
        Some(())
    }

    /// True if it can be encoded with a memory operand in any registers.
    pub fn takes_memory(&self) -> bool {
        self.modrm.is_some()
    }

    /// Writes the instruction with registers replaced by `map` and, if it has one, the memory operand `mem`. `None` if
    /// that cannot be encoded; nothing is written then.
    pub fn encode(&self, asm: &mut Asm, map: impl Fn(u8) -> u8, mem: Option<Mem>) -> Option<()> {
        let fields = self.fields.map(map);
        let mut modrm = self.modrm;
        let (mut r, mut x, mut b) = match self.vex {
            Some([second, _]) => (!second >> 7 & 1, !second >> 6 & 1, !second >> 5 & 1),
            None => (self.rex >> 2 & 1, self.rex >> 1 & 1, self.rex & 1),
        };
        if let Some(reg) = fields.reg {
            r = reg >> 3;
            modrm = modrm.map(|m| m & 0xc7 | (reg & 7) << 3);
        }
        if let Some(rm) = fields.rm {
            b = rm >> 3;
            modrm = modrm.map(|m| m & 0xf8 | rm & 7);
        }
        let mut opcode = self.opcode;
        if let Some(number) = fields.opcode {
            b = number >> 3;
            opcode[self.opcode_len - 1] = opcode[self.opcode_len - 1] & 0xf8 | number & 7;
        }
        if let Some(mem) = mem {
            let Mem::At { base, index, .. } = mem else { return None };
            x = index.unwrap_or(0) >> 3;
            b = base.unwrap_or(0) >> 3;
        } else if modrm.is_some_and(|m| m >> 6 != 3) {
            return None;
        }
        let rex = self.rex & 8 | r << 2 | x << 1 | b;
        if self.vex.is_none() && self.high_byte && rex != 0 {
            return None;
        }
        asm.bytes(&self.prefixes[..self.prefix_count]);
        match self.vex {
            Some([second, third]) => {
                let third = match fields.vvvv {
                    Some(number) => third & 0x87 | (!number & 15) << 3,
                    None => third,
                };
                asm.bytes(&[0xc4, (!r & 1) << 7 | (!x & 1) << 6 | (!b & 1) << 5 | second & 0x1f, third]);
            }
            None if rex != 0 || self.has_rex => asm.bytes(&[0x40 | rex]),
            None => {}
        }
        asm.bytes(&opcode[..self.opcode_len]);
        if let Some(modrm) = modrm {
            match mem {
                Some(mem) => asm.operand(modrm >> 3 & 7, mem, self.immediate.len()),
                None => asm.bytes(&[modrm]),
            }
        }
        asm.bytes(self.immediate);
        Some(())
    }
}
