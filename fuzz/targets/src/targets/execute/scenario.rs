//! A guest made of bytes: a mode, options, registers, damage to its tables, and code.

use std::sync::Arc;

use cpu::x86::{cr0, cr4, efer, gpr, rflags, seg, seg_attr, xcr0};
use cpu::{CpuState, DescriptorTable, Segment, Signals};
use memory::GuestRam;

use super::RAM;
use super::tables::{self, CODE, DATA, Gates, Paging, STACK, selector};
use crate::input::Input;

/// Number of modes.
pub const MODES: u8 = 16;
/// Bytes before the code.
pub const HEADER: usize = 80;

/// What bytes say a guest is. The header has a fixed length, so that mutations do not move the code.
pub struct Scenario<'a> {
    mode: u8,
    pub model: u8,
    options: u32,
    control: u32,
    flags: u32,
    pub outside: [u8; 8],
    /// Choices of values for the general registers.
    registers: [u8; 16],
    /// Overwritten eight-byte units of the tables: where, and what.
    damage: [[u8; 4]; 4],
    /// Overwritten parts of the state: which, and what.
    wild: [[u8; 3]; 5],
    noise: u64,
    code: &'a [u8],
}

/// Bits of the options.
mod option {
    pub const NO_IDT: u32 = 1 << 0;
    pub const TRAP_GATES: u32 = 1 << 1;
    pub const TASK_GATES: u32 = 1 << 2;
    pub const NOISE_IDT: u32 = 1 << 3;
    pub const INTR: u32 = 1 << 4;
    pub const NMI: u32 = 1 << 5;
    pub const BREAKPOINTS: u32 = 1 << 6;
    pub const CROSSING: u32 = 1 << 7;
    pub const RAM_END: u32 = 1 << 8;
    pub const SHADOW: u32 = 1 << 9;
    pub const HALTED: u32 = 1 << 10;
    pub const SEGMENTS: u32 = 1 << 11;
    pub const DAMAGE: u32 = 1 << 12;
    pub const WILD: u32 = 1 << 13;
    pub const NO_CR4: u32 = 1 << 14;
    pub const LIMITS: u32 = 1 << 15;
    pub const DEVICE_CODE: u32 = 1 << 16;
}

/// A mode: how wide code is, who runs it, what translates.
struct Mode {
    bits: u8,
    ring: u16,
    paging: Paging,
    protected: bool,
    v8086: bool,
}

impl<'a> Scenario<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        let mut input = Input::new(data);
        Self {
            mode: input.u8() % MODES,
            model: input.u8(),
            options: input.u32(),
            control: input.u32(),
            flags: input.u32(),
            outside: input.array(),
            registers: input.array(),
            damage: [(); 4].map(|()| input.array()),
            wild: [(); 5].map(|()| input.array()),
            noise: input.u64(),
            code: {
                input.take(HEADER - 77);
                input.rest()
            },
        }
    }

    fn has(&self, option: u32) -> bool {
        self.options & option != 0
    }

    /// The state may be one that no CPU can be in.
    pub fn wild(&self) -> bool {
        self.has(option::WILD)
    }

    /// What is pending at the start.
    pub fn signals(&self) -> u32 {
        let pick = |option, signal| if self.has(option) { signal } else { 0 };
        pick(option::INTR, Signals::INTR) | pick(option::NMI, Signals::NMI)
    }

    /// Page tables are in use.
    pub fn paged(&self) -> bool {
        self.mode().paging != Paging::Off
    }

    fn mode(&self) -> Mode {
        let mode = |bits, ring, paging| Mode { bits, ring, paging, protected: true, v8086: false };
        match self.mode {
            0 => Mode { protected: false, ..mode(16, 0, Paging::Off) },
            1 => Mode { v8086: true, ..mode(16, 3, Paging::Off) },
            2 => Mode { v8086: true, ..mode(16, 3, Paging::Legacy) },
            3 => mode(16, 0, Paging::Off),
            4 => mode(16, 3, Paging::Legacy),
            5 => mode(32, 0, Paging::Off),
            6 => mode(32, 3, Paging::Off),
            7 => mode(32, 0, Paging::Legacy),
            8 => mode(32, 3, Paging::Legacy),
            9 => mode(32, 0, Paging::Pae),
            10 => mode(32, 3, Paging::Pae),
            11 => mode(32, 3, Paging::Long),
            12 => mode(16, 0, Paging::Long),
            13 => mode(64, 3, Paging::Long),
            _ => mode(64, 0, Paging::Long),
        }
    }

    /// Where the code starts.
    fn entry(&self) -> u64 {
        if self.has(option::RAM_END) && self.mode().bits != 16 {
            RAM - 1 - (self.noise & 0x1f)
        } else if self.has(option::DEVICE_CODE) && self.mode().bits != 16 {
            0xfee0_0000 | self.noise & 0xff0
        } else if self.has(option::CROSSING) {
            CODE + 0xfff - (self.noise & 0xf)
        } else {
            CODE
        }
    }

    /// RAM with tables and code in it.
    pub fn ram(&self) -> Arc<GuestRam> {
        let ram = match GuestRam::new(RAM) {
            Ok(ram) => ram,
            Err(error) => panic!("{error}"),
        };
        let mode = self.mode();
        let gates = if self.has(option::NOISE_IDT) {
            Gates::Noise(self.noise)
        } else if self.has(option::TASK_GATES) {
            Gates::Tasks
        } else if self.has(option::TRAP_GATES) {
            Gates::Traps
        } else {
            Gates::Interrupts
        };
        if mode.paging != Paging::Off {
            tables::paging(&ram, mode.paging);
        }
        if mode.protected {
            tables::descriptors(&ram, mode.paging == Paging::Long, self.noise);
            tables::interrupts(&ram, mode.paging == Paging::Long, gates);
        } else {
            tables::vectors(&ram);
        }
        for i in 0..64 {
            // Data are addresses of data: what is loaded can be loaded from.
            ram.store_u64(DATA + i * 8, self.value(i as u8));
        }
        let at = self.entry();
        let room = RAM.saturating_sub(at).min(self.code.len() as u64) as usize;
        let _ = ram.write(at, &self.code[..room]);
        if self.has(option::DAMAGE) {
            for [table, low, what, value] in self.damage {
                let at = tables::damageable(table) + (u64::from(low) << 3);
                let old = ram.load_u64(at).unwrap_or(0);
                let value = match what % 6 {
                    0 => old ^ 1 << (value & 63),
                    1 => tables::damageable(value) | 7,
                    2 => self.value(value),
                    3 => old ^ u64::from(value) << (what & 0x38),
                    4 => old | 0x80,
                    _ => self.noise.rotate_left(value.into()),
                };
                ram.store_u64(at, value);
            }
        }
        Arc::new(ram)
    }

    /// The state to start in.
    pub fn state(&self) -> CpuState {
        let mode = self.mode();
        let mut state = CpuState::reset();
        for (i, &choice) in self.registers.iter().enumerate() {
            state.gpr[i] = self.value(choice);
        }
        if self.registers[gpr::RSP] & 7 != 7 {
            state.gpr[gpr::RSP] = if mode.bits == 16 { 0x8000 } else { STACK } - u64::from(self.registers[4]);
        }
        state.rip = self.entry();
        state.rflags = u64::from(self.flags) & (rflags::STATUS | rflags::DF | rflags::IF | rflags::TF)
            | u64::from(self.flags >> 16 & 0x7) << 16 & (rflags::AC | rflags::RF)
            | rflags::FIXED;
        if self.flags & 0x8000_0000 != 0 {
            state.rflags |= rflags::NT;
        }
        state.rflags |= u64::from(self.flags >> 24 & 3) << rflags::IOPL_SHIFT;
        self.control(&mode, &mut state);
        self.segments(&mode, &mut state);
        state.msrs.lstar = tables::HANDLERS + 0x40;
        state.msrs.cstar = tables::HANDLERS + 0x40;
        state.msrs.star = u64::from(selector::CODE64) << 32 | u64::from(selector::DATA | 3) << 48;
        state.msrs.sysenter_cs = selector::CODE32.into();
        state.msrs.sysenter_eip = tables::HANDLERS;
        state.msrs.sysenter_esp = STACK;
        state.events.interrupt_shadow = self.has(option::SHADOW);
        state.events.mov_ss_shadow = self.has(option::SHADOW) && self.noise & 1 != 0;
        state.events.halted = self.has(option::HALTED);
        if self.has(option::BREAKPOINTS) {
            state.dr[..4].copy_from_slice(&[state.rip + 2, DATA, STACK - 8, self.value(self.registers[0])]);
            state.dr[5] |= (self.noise & 0xffff_0000) | 0xff;
        }
        if self.has(option::WILD) {
            for [what, how, value] in self.wild {
                self.overwrite(&mut state, what, how, value);
            }
        }
        state
    }

    fn control(&self, mode: &Mode, state: &mut CpuState) {
        const CR0: [u64; 7] = [cr0::WP, cr0::AM, cr0::TS, cr0::EM, cr0::MP, cr0::NE, cr0::CD];
        const CR4: [u64; 14] = [
            cr4::VME,
            cr4::PVI,
            cr4::TSD,
            cr4::DE,
            cr4::PSE,
            cr4::PGE,
            cr4::PCE,
            cr4::UMIP,
            cr4::FSGSBASE,
            cr4::OSXSAVE,
            cr4::SMEP,
            cr4::SMAP,
            cr4::OSFXSR,
            cr4::OSXMMEXCPT,
        ];
        let bits = |from: &[u64], shift: u32| {
            let on = |i: usize| self.control >> (i as u32 + shift) & 1 != 0;
            from.iter().enumerate().filter(|(i, _)| on(*i)).fold(0, |all, (_, bit)| all | bit)
        };
        state.cr0 = cr0::ET | bits(&CR0, 0);
        if !self.has(option::NO_CR4) {
            state.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | bits(&CR4, 8);
        }
        state.xcr0 = xcr0::X87 | if self.control >> 31 == 0 { xcr0::SSE | xcr0::AVX } else { 0 };
        state.cr3 = mode.paging.root();
        if mode.protected {
            state.cr0 |= cr0::PE;
        }
        if mode.paging != Paging::Off {
            state.cr0 |= cr0::PG;
        }
        if matches!(mode.paging, Paging::Pae | Paging::Long) {
            state.cr4 |= cr4::PAE;
        }
        state.efer = if self.control >> 29 & 1 == 0 { efer::SCE } else { 0 };
        if self.control >> 30 & 1 == 0 && mode.paging != Paging::Off {
            state.efer |= efer::NXE;
        }
        if mode.paging == Paging::Long {
            state.efer |= efer::LME | efer::LMA;
            if self.control >> 28 & 1 != 0 {
                state.cr4 |= cr4::PCIDE;
            }
        }
    }

    fn segments(&self, mode: &Mode, state: &mut CpuState) {
        state.gdtr = DescriptorTable { base: tables::GDT, limit: tables::GDT_LEN - 1 };
        let idt_len = if mode.protected { 0xfff } else { 0x3ff };
        state.idtr = DescriptorTable { base: tables::IDT, limit: idt_len };
        if !mode.protected {
            state.idtr.base = 0;
        }
        if self.has(option::NO_IDT) {
            state.idtr.limit = 0;
        }
        if !mode.protected || mode.v8086 {
            // Code and stack within the first megabyte, one 64 KiB segment each.
            let attr = if mode.v8086 { 0xf3 } else { 0x93 };
            let at = |base: u64| Segment { selector: (base >> 4) as u16, base, limit: 0xffff, attr };
            state.segments = [at(DATA), at(CODE), at(STACK - 0x8000), at(DATA), at(0), at(0xf_fff0)];
            state.rip -= CODE;
            if mode.v8086 {
                state.rflags |= rflags::VM;
            }
            if self.has(option::LIMITS) && !mode.v8086 {
                // "Unreal" mode.
                state.segments[seg::DS].limit = u32::MAX;
                state.segments[seg::CS].limit = self.noise as u32;
            }
        } else {
            let dpl = u32::from(mode.ring) << seg_attr::DPL_SHIFT;
            let wide = match mode.bits {
                64 => seg_attr::L,
                32 => seg_attr::DB,
                _ => 0,
            };
            let base = if mode.bits == 16 { CODE } else { 0 };
            let limit = if mode.bits == 16 { 0xffff } else { u32::MAX };
            let number = match mode.bits {
                64 => selector::CODE64,
                32 => selector::CODE32,
                _ => selector::CODE16,
            };
            let number = (number + if mode.ring == 3 { selector::USER } else { 0 }) | mode.ring;
            let code = Segment { selector: number, base, limit, attr: 0x9b | dpl | wide | seg_attr::G };
            let data = Segment {
                selector: (selector::DATA + if mode.ring == 3 { selector::USER } else { 0 }) | mode.ring,
                base: 0,
                limit: u32::MAX,
                attr: 0x93 | dpl | seg_attr::DB | seg_attr::G,
            };
            state.rip -= base;
            state.segments = [data, code, data, data, data, data];
            if mode.bits == 16 {
                state.segments[seg::SS] =
                    Segment { base: STACK - 0x8000, limit: 0xffff, attr: 0x93 | dpl, ..data };
            }
            if self.has(option::LIMITS) {
                state.segments[seg::CS].limit &= self.noise as u32 | 0xfff;
                state.segments[seg::DS].limit = self.noise as u32 & 0x7_ffff;
                state.segments[seg::ES].attr ^= seg_attr::DC;
                state.segments[seg::ES].limit = 0xfff;
            }
        }
        if self.has(option::SEGMENTS) {
            let noise = self.noise.to_le_bytes();
            state.segments[seg::DS].base = self.value(noise[0]) & 0xffff_ffff;
            state.segments[seg::FS].base = self.value(noise[1]);
            state.segments[seg::GS].base = self.value(noise[2]);
            state.segments[seg::ES].attr |= if noise[3] & 1 != 0 { seg_attr::UNUSABLE } else { 0 };
            state.segments[seg::SS].base ^= if mode.bits == 64 { 0 } else { u64::from(noise[4]) };
        }
        if mode.protected {
            state.tr = Segment { selector: selector::TSS, base: tables::TSS, limit: 0x20ff, attr: 0x8b };
            state.ldtr = Segment { selector: selector::LDT, base: tables::LDT, limit: 0xff, attr: 0x82 };
        }
    }

    /// Puts a value into some field of the state.
    fn overwrite(&self, state: &mut CpuState, what: u8, how: u8, value: u8) {
        let number = match how & 3 {
            0 => self.value(value),
            1 => 1 << (value & 63),
            2 => u64::from(value) << (how & 0x38),
            _ => self.noise.rotate_left(value.into()),
        };
        let xor = |field: &mut u64| if how & 0x80 != 0 { *field = number } else { *field ^= number };
        let xor32 =
            |field: &mut u32| if how & 0x80 != 0 { *field = number as u32 } else { *field ^= number as u32 };
        let segment = usize::from(value % 6);
        match what % 28 {
            0 => xor(&mut state.rip),
            1 => xor(&mut state.rflags),
            2 | 3 => xor32(&mut state.segments[segment].attr),
            4 => xor(&mut state.segments[segment].base),
            5 => xor32(&mut state.segments[segment].limit),
            6 => state.segments[segment].selector ^= number as u16,
            7 => xor32(&mut state.tr.attr),
            8 => xor(&mut state.tr.base),
            9 => xor32(&mut state.tr.limit),
            10 => xor(&mut state.ldtr.base),
            11 => xor32(&mut state.ldtr.attr),
            12 => xor(&mut state.gdtr.base),
            13 => state.gdtr.limit ^= number as u16,
            14 => xor(&mut state.idtr.base),
            15 => state.idtr.limit ^= number as u16,
            16 => xor(&mut state.cr0),
            17 => xor(&mut state.cr3),
            18 => xor(&mut state.cr4),
            19 => xor(&mut state.efer),
            20 => xor(&mut state.xcr0),
            21 => xor(&mut state.dr[segment]),
            22 => xor(&mut state.msrs.star),
            23 => xor(&mut state.msrs.lstar),
            24 => xor(&mut state.msrs.sysenter_eip),
            25 => xor(&mut state.msrs.tsc_adjust),
            26 => drop(state.xsave.get_mut(usize::from(how) * 4).map(|byte| *byte = value)),
            _ => state.xsave.truncate(usize::from(how) * 4),
        }
    }

    /// A value worth having in a register.
    fn value(&self, choice: u8) -> u64 {
        let low = u64::from(choice);
        match choice {
            0..=15 => low,
            16..=63 => DATA + (low << 3),
            64..=79 => DATA + 0x1000 - (low & 15),
            80..=95 => CODE + (low & 15) * 4,
            96..=103 => STACK + 0x1000 - (low & 7) * 4,
            104..=119 => tables::damageable(choice) + (low & 7) * 8,
            120..=127 => RAM - 1 - (low & 7),
            128..=135 => 0xfee0_0000 + (low & 7) * 0x40,
            136..=143 => 0xa_0000 - (low & 7),
            144..=151 => 0xffff_ffff - (low & 7),
            152..=159 => 0x7fff_ffff_ffff - (low & 7),
            160..=167 => 0xffff_8000_0000_0000 + (low & 7) - 3,
            168..=175 => u64::MAX - (low & 7),
            176..=191 => 1 << ((choice & 0xf) * 4),
            192..=207 => u64::from(selector::CODE64) + (low & 15) * 8,
            208..=215 => 0x7fff_ffff + (low & 7) - 3,
            216..=223 => 0x7fff_ffff_ffff_ffff + (low & 7) - 3,
            224..=231 => 0xfff0 + (low & 7) * 2,
            _ => self.noise.rotate_left(u32::from(choice)),
        }
    }
}
