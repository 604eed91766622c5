//! A small assembler for the host instructions that surround the guest's own: address computation, checks, exits.
//!
//! Code goes to two sections, hot and cold, which are laid out apart; references between them, to data and
//! to other code are resolved when the final address is known.

/// Host registers by their numbers.
#[allow(missing_docs)]
pub mod reg {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RSP: u8 = 4;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
    /// Scratch: second half of a checked address.
    pub const R9: u8 = 9;
    /// Scratch: linear address, then offset in its page.
    pub const R10: u8 = 10;
    /// The guest's RSP plus the addend of the stack's window.
    pub const R11: u8 = 11;
}

/// A memory operand.
#[derive(Debug, Clone, Copy)]
pub enum Mem {
    /// `[base + index * 2^scale + disp]`, both optional.
    At { base: Option<u8>, index: Option<u8>, scale: u8, disp: i32 },
    /// A field of the context.
    Gs(u32),
    /// A field of the context at an offset in a register.
    GsAt(u8, u32),
    /// An absolute address within reach of the code.
    Data(u64),
}

/// `[base + disp]`.
pub fn at(base: u8, disp: i32) -> Mem {
    Mem::At { base: Some(base), index: None, scale: 0, disp }
}

/// `[base + index]`.
pub fn sum(base: u8, index: u8) -> Mem {
    Mem::At { base: Some(base), index: Some(index), scale: 0, disp: 0 }
}

/// Conditions of conditional jumps.
#[allow(missing_docs)]
pub mod cond {
    pub const ABOVE: u8 = 7;
    pub const SIGN: u8 = 8;
    pub const EQUAL: u8 = 4;
    pub const NOT_EQUAL: u8 = 5;
    pub const ABOVE_OR_EQUAL: u8 = 3;
    pub const BELOW_OR_EQUAL: u8 = 6;
}

/// A section of the code being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What runs usually.
    Hot,
    /// What runs rarely.
    Cold,
}

/// A place in the code being made.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    section: Section,
    offset: usize,
}

/// Where a reference leads.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Into the code being made.
    Here(Place),
    /// To an address that is fixed.
    Fixed(u64),
}

/// A relative reference, four bytes at `at`, counted from `end`.
#[derive(Debug, Clone, Copy)]
struct Fixup {
    at: Place,
    /// Bytes of the instruction behind the field.
    tail: usize,
    target: Target,
}

/// A jump whose target is not known yet.
#[must_use]
#[derive(Debug, Clone, Copy)]
pub struct Forward(usize);

/// A jump of one byte's reach whose target is not known yet.
#[must_use]
#[derive(Debug, Clone, Copy)]
pub struct Short(Place);

/// Code being made.
#[derive(Debug)]
pub struct Asm {
    hot: Vec<u8>,
    cold: Vec<u8>,
    section: Section,
    fixups: Vec<Fixup>,
    /// Registers written, by bits, but for what is emitted as bytes.
    pub written: u16,
}

impl Default for Asm {
    fn default() -> Self {
        Self {
            hot: Vec::with_capacity(4096),
            cold: Vec::with_capacity(4096),
            section: Section::Hot,
            fixups: Vec::new(),
            written: 0,
        }
    }
}

/// Operand size and opcode of a host instruction.
struct Opcode<'a> {
    prefix: Option<u8>,
    wide: bool,
    bytes: &'a [u8],
}

fn op(bytes: &[u8]) -> Opcode<'_> {
    Opcode { prefix: None, wide: true, bytes }
}

fn op32(bytes: &[u8]) -> Opcode<'_> {
    Opcode { prefix: None, wide: false, bytes }
}

impl Asm {
    /// Forgets all code.
    pub fn clear(&mut self) {
        self.hot.clear();
        self.cold.clear();
        self.fixups.clear();
        self.section = Section::Hot;
        self.written = 0;
    }

    fn writes(&mut self, reg: u8) {
        self.written |= 1 << reg;
    }

    /// Bytes of the hot and the cold section so far.
    pub fn lengths(&self) -> [usize; 2] {
        [self.hot.len(), self.cold.len()]
    }

    /// Where the next instruction goes.
    pub fn here(&self) -> Place {
        let offset = match self.section {
            Section::Hot => self.hot.len(),
            Section::Cold => self.cold.len(),
        };
        Place { section: self.section, offset }
    }

    /// Address of a place, if the sections begin at `bases`.
    pub fn address(&self, place: Place, [hot, cold]: [u64; 2]) -> u64 {
        place.offset as u64
            + match place.section {
                Section::Hot => hot,
                Section::Cold => cold,
            }
    }

    /// Goes on in another section.
    pub fn switch(&mut self, section: Section) {
        self.section = section;
    }

    /// The section in force.
    pub fn section(&self) -> Section {
        self.section
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self.section {
            Section::Hot => &mut self.hot,
            Section::Cold => &mut self.cold,
        }
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out().extend_from_slice(bytes);
    }

    fn byte(&mut self, byte: u8) {
        self.out().push(byte);
    }

    /// Resolves all references for sections that begin at `bases`, and gives hot and cold section.
    pub fn finish(&mut self, bases: [u64; 2]) -> [&[u8]; 2] {
        for i in 0..self.fixups.len() {
            let fixup = self.fixups[i];
            let at = self.address(fixup.at, bases);
            let target = match fixup.target {
                Target::Here(place) => self.address(place, bases),
                Target::Fixed(address) => address,
            };
            let end = at.wrapping_add((4 + fixup.tail) as u64);
            let relative = (target.wrapping_sub(end) as i64 as i32).to_le_bytes();
            let section = match fixup.at.section {
                Section::Hot => &mut self.hot,
                Section::Cold => &mut self.cold,
            };
            section[fixup.at.offset..fixup.at.offset + 4].copy_from_slice(&relative);
        }
        [&self.hot, &self.cold]
    }

    fn reference(&mut self, tail: usize, target: Target) -> usize {
        let at = self.here();
        self.fixups.push(Fixup { at, tail, target });
        self.bytes(&[0; 4]);
        self.fixups.len() - 1
    }

    /// ModRM, SIB and displacement for `reg` field and memory operand, with everything before it.
    fn memory(&mut self, opcode: &Opcode, reg: u8, mem: Mem, tail: usize) {
        if let Mem::Gs(_) | Mem::GsAt(..) = mem {
            self.byte(0x65);
        }
        if let Some(prefix) = opcode.prefix {
            self.byte(prefix);
        }
        let (base, index) = match mem {
            Mem::At { base, index, .. } => (base.unwrap_or(0), index.unwrap_or(0)),
            Mem::GsAt(base, _) => (base, 0),
            _ => (0, 0),
        };
        let rex = 0x40 | u8::from(opcode.wide) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if rex != 0x40 {
            self.byte(rex);
        }
        self.bytes(opcode.bytes);
        self.operand(reg, mem, tail);
    }

    /// ModRM, SIB and displacement alone.
    pub fn operand(&mut self, reg: u8, mem: Mem, tail: usize) {
        let field = (reg & 7) << 3;
        match mem {
            Mem::Gs(disp) => {
                self.bytes(&[field | 4, 0x25]);
                self.bytes(&disp.to_le_bytes());
            }
            Mem::GsAt(base, disp) => {
                self.byte(0x80 | field | base & 7);
                self.bytes(&disp.to_le_bytes());
            }
            Mem::Data(address) => {
                self.byte(field | 5);
                self.reference(tail, Target::Fixed(address));
            }
            Mem::At { base: None, index, scale, disp } => {
                let index = index.map_or(4, |i| i & 7);
                self.bytes(&[field | 4, scale << 6 | index << 3 | 5]);
                self.bytes(&disp.to_le_bytes());
            }
            Mem::At { base: Some(base), index, scale, disp } => {
                let (mode, len) = match disp {
                    0 if base & 7 != 5 => (0x00, 0),
                    -128..=127 => (0x40, 1),
                    _ => (0x80, 4),
                };
                match index {
                    None if base & 7 != 4 => self.byte(mode | field | base & 7),
                    _ => {
                        let index = index.map_or(4, |i| i & 7);
                        self.bytes(&[mode | field | 4, scale << 6 | index << 3 | base & 7]);
                    }
                }
                self.bytes(&disp.to_le_bytes()[..len]);
            }
        }
    }

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
        self.writes(to);
        if value >= 0 {
            if to > 7 {
                self.byte(0x41);
            }
            self.byte(0xb8 | to & 7);
        } else {
            self.bytes(&[0x48 | to >> 3, 0xc7, 0xc0 | to & 7]);
        }
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
        self.writes(to);
        self.registers(0x89, from, to, wide);
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
