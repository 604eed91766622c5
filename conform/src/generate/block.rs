//! Blocks: a few dozen instructions with loops, calls, indirect branches and stores to their own code. They are for the
//! comparison of two engines, so that nothing has to be bounded by the host.

use cpu::XSAVE_LEN;
use cpu::x86::{CpuModel, gpr, rflags};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic as M, OpKind, Register};

use super::code32::{Code32, Paging, bases};
use super::draft::Draft;
use super::sequence::written;
use super::{Generator, decode};
use crate::forms::{Form, forms};
use crate::input::{Patch, Regs};
use crate::layout::{ALIAS, CODE, CODE_LEN, DEVICE, INT3, PAGE, STACK, offset};
use crate::rng::Rng;
use crate::undefined::from_iced;

/// Instructions of a block at most, without those that its shape needs.
const MOST: u64 = 24;
/// Code of a block at most.
const ROOM: usize = 700;

/// A case for two engines.
pub(crate) struct Block {
    /// Registers at the start.
    pub regs: Regs,
    /// Vector state.
    pub fp: [u8; XSAVE_LEN],
    /// The code, at RIP.
    pub code: Vec<u8>,
    /// Memory values.
    pub patches: Vec<Patch>,
    /// It runs at CPL 0.
    pub kernel: bool,
    /// At CPL 0, SMAP is on and suspended.
    pub smap: bool,
    /// It is 32-bit code.
    pub code32: Option<Code32>,
    /// Where instructions begin, and the flags that are undefined there.
    starts: Vec<(u64, u64)>,
    /// Bytes of the code that it means to change.
    places: Vec<usize>,
}

impl Block {
    /// Bits of its code.
    pub fn bitness(&self) -> u32 {
        self.form().bitness()
    }

    fn form(&self) -> Form {
        Form::sequence(self.code32.is_some())
    }

    /// True if `code`, what became of the block's own, is as intended.
    pub fn is_intended(&self, code: &[u8]) -> bool {
        let mut changed = self.code.iter().zip(code).enumerate().filter(|(_, (old, new))| old != new);
        changed.all(|(at, _)| self.places.contains(&at))
    }

    /// Flags that are undefined before the instruction at `ip`.
    pub fn undefined(&self, ip: u64) -> u64 {
        self.starts.iter().find(|s| s.0 == ip).map_or(0, |s| s.1)
    }

    /// The instructions, as they are at the start.
    pub fn listing(&self) -> Vec<Instruction> {
        let form = self.form();
        let at = |&(ip, _): &(u64, u64)| {
            let code = self.code.get((ip - self.regs.rip) as usize..)?;
            Some(decode(form, code, ip))
        };
        self.starts.iter().filter_map(at).collect()
    }
}

/// Forms that blocks are made of beside those of sequences: of 64-bit and of 32-bit code.
pub(super) fn plain(model: &CpuModel) -> [Vec<Code>; 2] {
    let fits = |f: &Form| f.code.op_code().is_instruction() && f.code.flow_control() == FlowControl::Next;
    let all: Vec<Form> = forms(model).into_iter().filter(fits).collect();
    [false, true].map(|compat| all.iter().filter(|f| f.compat == compat).map(|f| f.code).collect())
}

/// A repeated string instruction, or a shift by CL.
fn counted(insn: &Instruction) -> bool {
    let last = insn.op_count().wrapping_sub(1);
    insn.is_string_instruction() && (insn.has_rep_prefix() || insn.has_repne_prefix())
        || insn.op_count() > 0
            && insn.op_kind(last) == OpKind::Register
            && insn.op_register(last) == Register::CL
}

impl Generator {
    /// Block `index` of the run with `seed`.
    pub(crate) fn block(&self, seed: u64, index: u64, code32: bool) -> Block {
        let mut rng = Rng::from_parts(&[seed, index, 0x626c_6f63_6b73 + u64::from(code32)]);
        let code32 = code32.then(|| Code32::any(&mut rng));
        // Without long mode no exception at CPL 0 has a stack of its own.
        let kernel = code32.as_ref().is_none_or(|c| c.paging == Paging::Long) && rng.percent(30);
        let smap = kernel && rng.percent(30);
        let mut draft = Draft::new(Form::sequence(code32.is_some()), &mut rng);
        if code32.is_some() {
            bases(&mut draft);
        }
        draft.regs.rip = match draft.rng.below(100) {
            0..=19 => CODE + PAGE - 1 - draft.rng.below(160),
            20..=23 => CODE + CODE_LEN - 1 - draft.rng.below(60),
            _ => CODE + 256 + draft.rng.below(PAGE),
        };
        if draft.rng.percent(90) {
            draft.regs.rflags &= !rflags::AC;
            let stack = STACK + PAGE / 2 + draft.rng.below(64) * 8;
            let edge = code32.is_some() && draft.rng.percent(5);
            let stack = if edge { draft.rng.between(-16, 16) * 4 } else { stack as i64 };
            draft.fix(gpr::RSP, stack as u64);
        }
        draft.reserved = 2 * ROOM as u64;
        let kept = (0..4).fold(1 << gpr::RSP, |kept, _| kept | 1 << draft.rng.below(16));
        let calm = draft.rng.percent(80);
        let mut maker = Maker {
            generator: self,
            draft,
            code: Vec::new(),
            starts: Vec::new(),
            places: Vec::new(),
            undefined: 0,
            kept,
            kernel,
            calm,
            code32: code32.is_some(),
            functions: Vec::new(),
        };
        let count = 2 + maker.draft.rng.below(MOST - 1);
        for _ in 0..count {
            maker.part();
        }
        maker.fence();
        maker.raw(&[INT3]);
        maker.functions();
        let Maker { mut draft, mut code, starts, places, .. } = maker;
        code.truncate((CODE + CODE_LEN - draft.regs.rip) as usize);
        if smap {
            draft.regs.rflags |= rflags::AC;
        }
        if code32.as_ref().is_some_and(|c| c.paging == Paging::Long) && draft.rng.percent(20) {
            let others = (0..16).filter(|&i| i != gpr::RSP);
            others.for_each(|i| draft.regs.gpr[i] |= draft.rng.next() << 32);
        }
        let Draft { regs, fp, patches, .. } = draft;
        Block { regs, fp, code, patches, kernel, smap, code32, starts, places }
    }
}

/// A block in the making.
struct Maker<'a, 'b> {
    generator: &'a Generator,
    draft: Draft<'b>,
    code: Vec<u8>,
    starts: Vec<(u64, u64)>,
    places: Vec<usize>,
    /// Flags undefined here.
    undefined: u64,
    /// Registers that are mostly left alone: pointers and counters.
    kept: u16,
    kernel: bool,
    /// Faults are avoided.
    calm: bool,
    code32: bool,
    /// Places of four-byte references to functions still to be made.
    functions: Vec<Reference>,
}

/// A four-byte reference at the end of its instruction.
#[derive(Clone, Copy)]
struct Reference {
    field: usize,
    /// It is the address itself.
    absolute: bool,
}

impl Maker<'_, '_> {
    fn here(&self) -> u64 {
        self.draft.regs.rip + self.code.len() as u64
    }

    fn full(&self) -> bool {
        self.code.len() > ROOM
    }

    /// An instruction that leaves no flag undefined, as it is.
    fn raw(&mut self, bytes: &[u8]) {
        self.starts.push((self.here(), self.undefined));
        self.code.extend_from_slice(bytes);
    }

    /// Defines all flags, if any is undefined.
    fn fence(&mut self) {
        if self.undefined != 0 {
            let registers = 0xc0 | self.draft.rng.next() as u8 & 0x3f;
            self.raw(&[0x48, 0x39, registers][usize::from(self.code32)..]); // cmp
            self.undefined = 0;
        }
    }

    fn part(&mut self) {
        if self.full() {
            return;
        }
        match self.draft.rng.below(100) {
            0..=5 => self.skip(),
            6..=11 => self.repeat(),
            12..=15 => self.call(),
            16..=18 => self.indirect(),
            19..=22 => self.modify(),
            23..=24 => self.device(),
            25..=26 => self.end(),
            27..=28 => self.inside(),
            _ => self.any(),
        }
    }

    /// A random instruction.
    fn any(&mut self) {
        for _ in 0..12 {
            let before = self.draft.snapshot();
            let generator = self.generator;
            let rng = &mut *self.draft.rng;
            let code = if rng.percent(75) {
                generator.pool.pick(rng, self.code32, false)
            } else {
                rng.pick(&generator.plain[usize::from(self.code32)])
            };
            let at = self.here();
            if let Some((insn, bytes)) = generator.next(&mut self.draft, code, at, self.undefined)
                && self.suits(&insn)
            {
                self.raw(&bytes);
                let defined = insn.rflags_written() | insn.rflags_cleared() | insn.rflags_set();
                // With a count of zero, which is not known, these change no flag.
                if !counted(&insn) {
                    self.undefined &= !from_iced(defined);
                }
                self.undefined |= from_iced(insn.rflags_undefined());
                self.draft.written |= written(&insn);
                return;
            }
            self.draft.restore(before);
        }
    }

    fn suits(&mut self, insn: &Instruction) -> bool {
        let system = insn.is_privileged() && !matches!(insn.mnemonic(), M::Cli | M::Sti);
        if system && (self.kernel || self.calm) {
            return false;
        }
        if matches!(insn.code(), Code::Shld_rm16_r16_CL | Code::Shrd_rm16_r16_CL) {
            return false; // undefined beyond 16
        }
        let memory = (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory);
        let missing = memory && self.draft.target.is_none_or(|at| offset(at).is_none());
        if self.calm && missing && self.draft.rng.percent(85) {
            return false;
        }
        written(insn) & self.kept & !(1 << gpr::RSP) == 0
            || insn.is_string_instruction()
            || self.draft.rng.percent(15)
    }

    /// A conditional branch over a few instructions.
    fn skip(&mut self) {
        self.fence();
        let condition = self.draft.rng.below(16) as u8;
        let near = self.draft.rng.percent(30);
        if near {
            self.raw(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
        } else if condition == 0 && self.draft.rng.percent(50) {
            self.raw(&[0xe3, 0]); // jrcxz
        } else {
            self.raw(&[0x70 | condition, 0]);
        }
        let from = self.code.len();
        for _ in 0..1 + self.draft.rng.below(4) {
            self.any();
        }
        self.fence();
        let distance = self.code.len() - from;
        if near {
            self.code[from - 4..from].copy_from_slice(&(distance as u32).to_le_bytes());
        } else {
            // Too far: to the instruction behind the branch.
            self.code[from - 1] = i8::try_from(distance).unwrap_or(0) as u8;
        }
    }

    /// A loop with a counter.
    fn repeat(&mut self) {
        let counter = self.draft.rng.below(8) as u8;
        if counter == 4 {
            return;
        }
        let (kept, count) = (self.kept, 1 + self.draft.rng.below(20) as u8);
        self.kept |= 1 << counter;
        self.draft.written |= 1 << counter;
        self.raw(&[0xb8 | counter, count, 0, 0, 0]); // mov r32, imm32
        self.fence();
        let top = self.code.len();
        for _ in 0..1 + self.draft.rng.below(4) {
            if self.draft.rng.percent(20) { self.modify() } else { self.any() }
        }
        self.fence();
        let end = match self.draft.rng.below(3) {
            0 if counter == 1 => &[0xe2][..],            // loop
            1 => &[0x83, 0xe8 | counter, 1, 0x77],       // sub r32, 1; ja
            _ if self.code32 => &[0x48 | counter, 0x75], // dec r32; jnz
            _ => &[0xff, 0xc8 | counter, 0x75],          // dec r32; jnz
        };
        let (last, first) = end.split_last().map_or((0xe2, &[][..]), |(last, first)| (*last, first));
        if !first.is_empty() {
            self.raw(first);
        }
        let distance = top as i64 - (self.code.len() as i64 + 2);
        if let Ok(distance) = i8::try_from(distance) {
            self.raw(&[last, distance as u8]);
        }
        self.kept = kept;
    }

    /// A call of a function behind the block.
    fn call(&mut self) {
        self.fence();
        self.raw(&[0xe8, 0, 0, 0, 0]);
        self.functions.push(Reference { field: self.code.len() - 4, absolute: false });
    }

    /// The same, or a jump to what follows, by way of a register or the stack.
    fn indirect(&mut self) {
        self.fence();
        let register = self.draft.rng.below(if self.code32 { 8 } else { 16 }) as u8;
        if register == 4 {
            return;
        }
        self.draft.written |= 1 << register;
        let (high, low) = (register >> 3, register & 7);
        if self.code32 {
            self.raw(&[0xb8 | low, 0, 0, 0, 0]); // mov register, x
        } else {
            self.raw(&[0x48 | high << 2, 0x8d, low << 3 | 5, 0, 0, 0, 0]); // lea register, [rip + x]
        }
        let reference = Reference { field: self.code.len() - 4, absolute: self.code32 };
        let rex = usize::from(self.code32);
        let call = self.draft.rng.percent(60);
        if call {
            self.functions.push(reference);
            return self.raw(&[0x40 | high, 0xff, 0xd0 | low][rex..]);
        }
        if self.draft.rng.percent(50) {
            self.raw(&[0x40 | high, 0xff, 0xe0 | low][rex..]);
        } else {
            self.raw(&[0x40 | high, 0x50 | low][rex..]); // push
            self.raw(&[0xc3]);
        }
        self.refer(reference);
    }

    /// Lets a reference lead to here.
    fn refer(&mut self, Reference { field, absolute }: Reference) {
        let distance = (self.code.len() - field - 4) as u32;
        let value = if absolute { self.here() as u32 } else { distance };
        self.code[field..field + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn functions(&mut self) {
        for reference in std::mem::take(&mut self.functions) {
            if self.full() {
                return;
            }
            self.refer(reference);
            for _ in 0..1 + self.draft.rng.below(4) {
                self.any();
            }
            self.fence();
            if self.draft.rng.percent(80) {
                self.raw(&[0xc3]);
            } else {
                let drop = self.draft.rng.below(3) as u8 * if self.code32 { 4 } else { 8 };
                self.raw(&[0xc2, drop, 0]);
            }
        }
    }

    /// A store to an instruction nearby, by its own address or by another of the same page.
    fn modify(&mut self) {
        let value = self.draft.rng.next() as u32;
        // What replaces another has the same use for flags: an engine may take flags for dead by the code ahead, and
        // has lost them when a store changes that code.
        let sets: [[u8; 3]; 2] = [[0x90, 0x98, 0x99], [0xf8, 0xf9, 0xf9]]; // nop, cwde, cdq; clc, stc
        let one = self.draft.rng.pick(&sets);
        let (wide, alias) = (self.draft.rng.percent(60), self.draft.rng.percent(40));
        let byte = self.draft.rng.pick(&one);
        self.raw(match (wide, alias) {
            (true, false) => &[0xc7, 0x05, 0, 0, 0, 0, 0, 0, 0, 0], // mov dword [rip + x], imm32
            (true, true) => &[0xc7, 0x04, 0x25, 0, 0, 0, 0, 0, 0, 0, 0],
            (false, false) => &[0xc6, 0x05, 0, 0, 0, 0, 0],
            (false, true) => &[0xc6, 0x04, 0x25, 0, 0, 0, 0, 0],
        });
        let end = self.code.len();
        let field = end - if wide { 8 } else { 5 };
        if wide {
            self.code[end - 4..end].copy_from_slice(&value.to_le_bytes());
        } else {
            self.code[end - 1] = byte;
        }
        for _ in 0..self.draft.rng.below(3) {
            self.any();
        }
        let register = self.draft.rng.pick(&[0u8, 1, 2, 3, 5, 6, 7]);
        let place = if wide {
            self.draft.written |= 1 << register;
            self.raw(&[0xb8 | register, 1, 2, 3, 4]);
            self.code.len() - 4
        } else {
            // Neither the old nor the new one may read an undefined flag.
            self.fence();
            let byte = self.draft.rng.pick(&one);
            self.raw(&[byte]);
            self.draft.written |= 1 << gpr::RAX | 1 << gpr::RDX;
            self.code.len() - 1
        };
        self.places.extend(place..place + if wide { 4 } else { 1 });
        let value = if alias {
            ALIAS.wrapping_add(self.draft.regs.rip - CODE + place as u64) as u32
        } else if self.code32 {
            self.draft.regs.rip as u32 + place as u32
        } else {
            (place - end) as u32
        };
        self.code[field..field + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// A branch into the middle of an instruction, which perhaps is executed as a whole too.
    fn inside(&mut self) {
        self.fence();
        let condition = self.draft.rng.below(16) as u8;
        if self.code32 {
            let hidden: [&[u8]; 3] = [
                &[0xff, 0xc0, 0x90, 0x40], // inc eax; nop; inc eax
                &[0x83, 0xd0, 0x7f, 0x90], // adc eax, 127; nop
                &[0x0f, 0x94, 0xc0, 0x90], // sete al; nop
            ];
            let hidden = self.draft.rng.pick(&hidden);
            self.draft.written |= 1 | 1 << 1;
            self.raw(&[0x70 | condition, 2]);
            return self.raw(&[&[0x81, 0xc1], hidden].concat()); // add ecx, imm32
        }
        let hidden: [&[u8]; 3] = [
            &[0xff, 0xc0, 0x83, 0xc1, 1, 0x90, 0x90, 0x90], // inc eax; add ecx, 1
            &[0x48, 0x83, 0xd0, 0x7f, 0xb1, 0xff, 0x48, 0x90], // adc rax, 127; mov cl, 255; nop
            &[0x0f, 0x94, 0xc0, 0x41, 0x89, 0xc1, 0xeb, 0x00], // sete al; mov r9d, eax; jmp
        ];
        let hidden = self.draft.rng.pick(&hidden);
        self.draft.written |= 1 | 1 << 1 | 1 << 9;
        self.raw(&[0x70 | condition, 2]);
        self.raw(&[&[0x48, 0xb8], hidden].concat()); // mov rax, imm64
    }

    /// An access of what is no RAM; in 32-bit code perhaps one at the ends of the address space instead.
    fn device(&mut self) {
        let forms: [&[u8]; 5] = [
            &[0x8b, 0x04, 0x25],       // mov eax, [x]
            &[0x48, 0x89, 0x0c, 0x25], // mov [x], rcx
            &[0x44, 0x8a, 0x0c, 0x25], // mov r9b, [x]
            &[0x01, 0x14, 0x25],       // add [x], edx
            &[0xff, 0x34, 0x25],       // push [x]
        ];
        let form = self.draft.rng.pick(&forms);
        let rex = usize::from(self.code32 && form[0] & 0xf0 == 0x40);
        let form = &form[rex..];
        let at = if self.code32 && self.draft.rng.percent(60) {
            let distance = self.draft.rng.below(PAGE / 2) as i32;
            if self.draft.rng.percent(50) { distance } else { -distance }
        } else {
            (DEVICE + self.draft.rng.below(PAGE / 8) * 8) as i32
        };
        self.raw(&[form, &at.to_le_bytes()].concat());
        self.draft.written |= 1 | 1 << 9;
    }

    /// A branch, probably out of the block.
    fn end(&mut self) {
        if self.draft.rng.percent(70) {
            return self.any();
        }
        self.fence();
        let before = self.draft.snapshot();
        let code = self.generator.pool.pick(self.draft.rng, self.code32, true);
        let at = self.here();
        let block = self.draft.regs.rip..at + 2 * ROOM as u64;
        match self.generator.next(&mut self.draft, code, at, 0) {
            Some((insn, bytes)) if !block.contains(&insn.near_branch_target()) => self.raw(&bytes),
            _ => self.draft.restore(before),
        }
    }
}
