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
}

mod branches;
mod integers;
mod vectors;
